//! What is read of the log, and of the files that were the log before it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::LINE_MAX;
use super::super::compare::{Comparison, Ending};
use super::super::find::Found;
use super::super::output::{Output, inode_of, open_to_read};
use super::super::{ahead, beside};
use super::{Completion, since};

/// Octets that are read at once.
const READ_OCTETS: usize = 64 * 1024;

impl Completion<'_> {
    /// Reads what there is of the log, and leaves whole lines at its end.
    pub(super) fn compare(
        &mut self,
        found: &Found,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<()> {
        let Output::File(log) = &self.output else {
            return Ok(());
        };
        let (path, id) = (log.path.clone(), log.id);
        let file = match open_to_read(&path) {
            // Nothing is searched for in a log that we may only write.
            Err(error) if is_refused(&error) && comparison.events() == 0 => None,
            file => Some(file?),
        };
        let from = match found {
            Found::Same { offset, .. } => Some(*offset),
            Found::Renamed { path: old, offset, .. } => {
                self.compare_renamed(found, old, *offset, &path, comparison)?;
                // What comes later than the old file begins with the new one.
                Some(0)
            }
            Found::Short { path: Some(old), .. } | Found::Changed { path: Some(old), .. } => {
                self.compare_ends(old, &path, comparison)?;
                for between in beside::between(old, &path) {
                    self.read(&open_to_read(&between)?, None, comparison)?;
                }
                None
            }
            Found::Short { .. } | Found::Changed { .. } | Found::Gone | Found::Unknown => {
                if let Some(file) = &file {
                    self.compare_before(&path, &path, file, comparison)?;
                }
                None
            }
            Found::Elsewhere => None,
        };
        let Some(file) = file else { return Ok(()) };
        let renamed = || io::Error::other("it was renamed just now");
        if inode_of(&file)? != id {
            return Err(renamed());
        }
        match found {
            Found::Same { offset, .. } => {
                self.take_lost(&file, &path, *offset, comparison)?;
                comparison.ahead.watch(Some(&line_ahead_of(found, &file, *offset)));
            }
            Found::Renamed { .. } => {}
            _ => comparison.ahead.watch(None),
        }
        let own = comparison.own();
        let at = match self.read(&file, from, comparison)? {
            Ending::Whole => return Ok(()),
            Ending::Half(at) => Some(at),
            Ending::Strange => None,
        };
        let proven = found.is_proven() || comparison.own() > own || comparison.is_half_own();
        if let Some(at) = at.filter(|_| proven) {
            let file = OpenOptions::new().write(true).open(&path);
            match file.and_then(|file| {
                if inode_of(&file)? == id { self.cut(&file, at) } else { Err(renamed()) }
            }) {
                // The file is append-only.
                Err(error) if is_refused(&error) => {}
                cut => return cut,
            }
        }
        self.write(b"\n")
    }

    /// Reads the file that the cursor names, from its place on, and those that were the log after
    /// it. Half a line at their ends stays: they may be somebody else's by now.
    fn compare_renamed(
        &mut self,
        found: &Found,
        old: &Path,
        offset: u64,
        log: &Path,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<()> {
        let file = open_to_read(old)?;
        self.take_lost(&file, old, offset, comparison)?;
        let after = line_ahead_of(found, &file, offset);
        comparison.ahead.watch(Some(&after));
        self.read(&file, Some(offset), comparison)?;
        let counted = line_before(&file, offset);
        for between in beside::between(old, log) {
            let between = open_to_read(&between)?;
            let is_since = since::is_since(&between, &counted, old, log)?;
            comparison.ahead.watch(is_since.then_some(&after));
            self.read(&between, is_since.then_some(0), comparison)?;
        }
        comparison.ahead.watch(Some(&after));
        Ok(())
    }

    /// Reads the end of a file that was the log, and of those before it.
    fn compare_ends(
        &mut self,
        old: &Path,
        log: &Path,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<()> {
        let file = open_to_read(old)?;
        self.compare_before(old, log, &file, comparison)?;
        self.read(&file, None, comparison)?;
        Ok(())
    }

    /// Reads the ends of files that were the log before `first`, the latest first, as long as all
    /// of the one behind is looked at, and events are searched for still.
    fn compare_before(
        &mut self,
        first: &Path,
        log: &Path,
        file: &File,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<()> {
        if comparison.events() == 0 || beginning_of_ours(file, comparison)? > 0 {
            return Ok(());
        }
        for path in beside::before(first, log) {
            let file = open_to_read(&path)?;
            self.read(&file, None, comparison)?;
            if comparison.missing().next().is_none() || beginning_of_ours(&file, comparison)? > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes the lines before an offset, which the cursor counts, that the journal has lost.
    fn take_lost(
        &mut self,
        file: &File,
        path: &Path,
        offset: u64,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<()> {
        let (Some(journal), Output::File(log)) = (&self.journal, &self.output) else {
            return Ok(());
        };
        let earlier = beside::all_before(path, &log.path);
        let lines = journal.lost_lines(file, offset, &earlier, &self.counted)?.unwrap_or_default();
        comparison.ahead.watch(Some(""));
        let before = comparison.ahead.lines();
        lines.iter().for_each(|line| comparison.ahead.take(line));
        self.lost += comparison.ahead.lines() - before;
        Ok(())
    }

    /// Reads from an offset where a line begins; without one, the end of the file, which may have
    /// lines before ours.
    fn read(
        &mut self,
        file: &File,
        from: Option<u64>,
        comparison: &mut Comparison<'_>,
    ) -> io::Result<Ending> {
        let (strangers, ahead) = (comparison.strangers(), comparison.ahead.lines());
        let mut offset = match from {
            Some(offset) => {
                comparison.begin(offset);
                offset
            }
            None => {
                let offset = beginning_of_ours(file, comparison)?;
                if offset == 0 {
                    comparison.begin(0)
                } else {
                    comparison.begin_inside(offset)
                }
                offset
            }
        };
        let mut octets = vec![0; READ_OCTETS];
        loop {
            match file.read_at(&mut octets, offset) {
                Ok(0) => break,
                Ok(length) => {
                    comparison.feed(&octets[..length]);
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if from.is_some() {
            self.done.strangers += comparison.strangers() - strangers;
            self.done.ahead += comparison.ahead.lines() - ahead;
        }
        Ok(comparison.end())
    }

    fn cut(&mut self, file: &File, at: u64) -> io::Result<()> {
        let octets = file.metadata()?.len().saturating_sub(at);
        file.set_len(at)?;
        self.done.cut += octets;
        Ok(())
    }
}

/// Whether the rights of a file are too narrow for us.
fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// The line that lines of ours are later than, behind an offset where the cursor is. Where that
/// surely is the place that it counted to, all that stand behind it are, whatever the clock said
/// when they were written.
fn line_ahead_of(found: &Found, file: &File, offset: u64) -> String {
    match found {
        Found::Same { proven: true, .. } | Found::Renamed { proven: true, .. } => String::new(),
        _ => line_before(file, offset),
    }
}

/// The last whole line before an offset where a line begins; empty where there is none.
fn line_before(file: &File, offset: u64) -> String {
    let length = offset.min(LINE_MAX as u64);
    let mut octets = vec![0; length as usize];
    if file.read_exact_at(&mut octets, offset - length).is_err() {
        return String::new();
    }
    let text = octets.strip_suffix(b"\n").unwrap_or_default();
    let line = text.rsplit(|&octet| octet == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(line).into_owned()
}

/// The offset from which on there are all lines that are searched for. Mostly they stand together
/// at the end. Where the log is ahead of the journal they do not: then this is a line that is
/// earlier than they are.
fn beginning_of_ours(file: &File, comparison: &Comparison<'_>) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut lookback = (comparison.events() as u64 + 1).saturating_mul(LINE_MAX as u64);
    let Some(earliest) = comparison.earliest() else {
        return Ok(length.saturating_sub(lookback));
    };
    loop {
        let offset = length.saturating_sub(lookback);
        let mut octets = [0; 2 * LINE_MAX];
        let read = file.read_at(&mut octets, offset)?;
        let mut lines = octets[..read].split(|&octet| octet == b'\n').skip(1);
        let line = String::from_utf8_lossy(lines.next().unwrap_or_default());
        if offset == 0 || ahead::is_before(&line, &earliest) {
            return Ok(offset);
        }
        lookback = lookback.saturating_mul(2);
    }
}
