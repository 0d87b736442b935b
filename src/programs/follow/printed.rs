//! Lines on standard output, as the log has them or as JSON.
//!
//! What is written at once is whole lines, no more than a pipe takes in one piece: so a reader
//! never finds half a line there, and this waits for a reader only where a signal can end it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{KeptCursor, PATIENCE, unreadable};
use crate::disk::eventlog::{FollowCursor, FollowStep, Follower, Lost};
use crate::handoff::change::LogFormat;
use crate::handoff::line::LineWriter;
use crate::handoff::logged::LineReader;
use crate::kernel::signals::EndSignal;
use crate::kernel::stderr::{say, warn};
use crate::programs::exit::ExitError;
use crate::programs::options::FollowOptions;

/// What a pipe takes in one piece, or not at all (PIPE_BUF).
pub const GROUP_OCTETS: usize = 4096;

/// Why it ends.
enum Ended {
    /// A signal came, or the reader has gone.
    Well,
    Badly(ExitError),
}

impl From<ExitError> for Ended {
    fn from(error: ExitError) -> Self {
        Ended::Badly(error)
    }
}

pub(super) fn run(
    options: &FollowOptions,
    log: &Path,
    mut follower: Follower,
    kept: Option<KeptCursor>,
    stop: &EndSignal,
) -> Result<(), ExitError> {
    let stdout = io::stdout();
    let mut printer = Printer {
        stdout: stdout.as_fd(),
        stop,
        kept,
        json: options.json.then(JsonLines::default),
        group: Vec::with_capacity(2 * GROUP_OCTETS),
        behind: None,
    };
    let ended = loop {
        match printer.go_on(&mut follower, log, options.no_wait) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(Ended::Well) => break Ok(()),
            Err(Ended::Badly(error)) => break Err(error),
        }
    };
    if let Some(json) = &printer.json
        && json.others > 0
    {
        say(format_args!("{} lines of the log are no events, and left out", json.others));
    }
    ended.and(printer.kept.as_mut().map_or(Ok(()), KeptCursor::sync))
}

struct Printer<'a> {
    stdout: BorrowedFd<'a>,
    stop: &'a EndSignal,
    kept: Option<KeptCursor>,
    /// None: as the log has them.
    json: Option<JsonLines>,
    /// Whole lines that are not written yet,
    group: Vec<u8>,
    /// and the place behind the last of them.
    behind: Option<FollowCursor>,
}

#[derive(Default)]
struct JsonLines {
    reader: LineReader,
    writer: LineWriter,
    text: String,
    /// Lines that are none of ours.
    others: u64,
}

impl Printer<'_> {
    /// Whether there may be more.
    fn go_on(&mut self, follower: &mut Follower, log: &Path, no_wait: bool) -> Result<bool, Ended> {
        match follower.read().map_err(|error| unreadable(log, &error))? {
            FollowStep::Lines => self.print(follower)?,
            FollowStep::Lost(lost) => {
                warn(format_args!("the event log {}: {lost}", log.display()));
                self.print_lost(lost, follower.cursor())?;
            }
            FollowStep::Nothing if no_wait => return Ok(false),
            FollowStep::Nothing => {
                if let Some(kept) = &mut self.kept {
                    kept.sync()?;
                }
                let also = [(self.stop.as_fd(), PollFlags::IN), (self.stdout, PollFlags::empty())];
                let ready = follower.wait(&also, PATIENCE).map_err(ExitError::failed)?;
                return Ok(!ready);
            }
        }
        Ok(true)
    }

    fn print(&mut self, follower: &Follower) -> Result<(), Ended> {
        for line in follower.lines() {
            let before = self.group.len();
            let is_text = match &mut self.json {
                None => {
                    self.group.extend_from_slice(line.octets);
                    true
                }
                Some(json) => {
                    json.append(&mut self.group, line.octets, || follower.cursor_after(&line))
                }
            };
            if is_text {
                self.group.push(b'\n');
            }
            if self.group.len() > GROUP_OCTETS && before > 0 {
                let last = self.group.split_off(before);
                self.write()?;
                self.group.extend(last);
            }
            self.behind = self.kept.as_ref().map(|_| follower.cursor_after(&line));
        }
        self.write()
    }

    fn print_lost(&mut self, lost: Lost, cursor: FollowCursor) -> Result<(), Ended> {
        if self.json.is_some() {
            let (at, why) = (lost.at().rfc3339(), lost.why());
            let text =
                format!(r#"{{"at":"{at}","event":"Lost","why":"{why}","cursor":"{cursor}"}}"#);
            self.group.extend(text.bytes());
            self.group.push(b'\n');
        }
        self.write()
    }

    /// Writes the group, and keeps the place behind it.
    fn write(&mut self) -> Result<(), Ended> {
        let mut done = 0;
        while done < self.group.len() {
            self.wait_for_reader()?;
            let end = self.group.len().min(done + GROUP_OCTETS);
            match rustix::io::write(self.stdout, &self.group[done..end]) {
                Ok(written) => done += written,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE) => return Err(Ended::Well),
                Err(error) => {
                    return Err(Ended::Badly(ExitError::failed(format_args!(
                        "standard output cannot be written: {error}; give it a file with room"
                    ))));
                }
            }
        }
        self.group.clear();
        if let (Some(kept), Some(behind)) = (&mut self.kept, self.behind.take()) {
            kept.keep(behind)?;
        }
        Ok(())
    }

    fn wait_for_reader(&self) -> Result<(), Ended> {
        let mut polled = [
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.stdout, PollFlags::OUT),
        ];
        loop {
            match poll(&mut polled, None) {
                Ok(_) if !polled[0].revents().is_empty() => return Err(Ended::Well),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Ended::Badly(ExitError::failed(error))),
            }
        }
    }
}

impl JsonLines {
    /// Whether the line is an event.
    fn append(
        &mut self,
        out: &mut Vec<u8>,
        line: &[u8],
        cursor: impl FnOnce() -> FollowCursor,
    ) -> bool {
        let Some(logged) = self.reader.read(line) else {
            self.others += 1;
            return false;
        };
        self.text.clear();
        self.writer.append_again(&mut self.text, &logged, LogFormat::Json);
        out.extend_from_slice(self.text.strip_suffix('}').unwrap_or_default().as_bytes());
        // To write to memory cannot fail.
        let _ = io::Write::write_fmt(out, format_args!(",\"cursor\":\"{}\"}}", cursor()));
        true
    }
}
