//! The files that the event log consists of, in the order of time, each known by its first line.
//!
//! They are the log's file and those of former days (`days`), and also what logrotate may have made
//! of it: `events.log.1`, `events.log.2.gz`. A part that is there twice (compressed and not, or
//! copied and not yet truncated) counts once.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use flate2::bufread::MultiGzDecoder;

use super::cursor::{HEAD_OCTETS, Head};
use crate::disk::eventlog::days::{COMPRESSED, Former};
use crate::disk::eventlog::output::open_to_read;
use crate::disk::eventlog::past::{OPEN_INTERVAL, OPEN_TRIES};
use crate::disk::eventlog::place::Inode;
use crate::disk::fs::{Disk, RealDisk, parent};

/// A file that is a part of the log.
#[derive(Debug)]
pub(super) struct LogPart {
    pub(super) path: PathBuf,
    pub(super) inode: Inode,
    pub(super) is_compressed: bool,
    /// Whether it has the log's name.
    pub(super) is_live: bool,
    /// None: it has no whole line.
    pub(super) head: Option<Head>,
    /// Why it cannot be opened, or its beginning cannot be read.
    pub(super) broken: Option<io::Error>,
}

impl LogPart {
    /// Why it cannot be read, with its path.
    pub(super) fn trouble(&self) -> Option<io::Error> {
        let error = self.broken.as_ref()?;
        let path = self.path.display();
        Some(io::Error::new(error.kind(), format!("{path}: {error}")))
    }

    /// Opens it; as [`ErrorKind::NotFound`] where another file has its name by now.
    pub(super) fn open(&self) -> io::Result<File> {
        let file = open_to_read(&self.path)?;
        match Inode::of(&file.metadata()?) == self.inode {
            true => Ok(file),
            false => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// Where a part is in time, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    OfDay(Former),
    /// `events.log.1`
    Numbered(u32),
    Live,
}

/// Lists them.
#[derive(Debug)]
pub(super) struct LogParts {
    pub(super) log: PathBuf,
    /// Of files that are not the log now: by device, inode and birth, with the length that it had.
    heads: HashMap<(u64, u64, u64), (u64, Option<Head>)>,
}

impl LogParts {
    pub(super) fn new(log: &Path) -> Self {
        Self { log: log.to_owned(), heads: HashMap::new() }
    }

    /// The file that has the log's name now, with its inode and its length. None: there is none.
    pub(super) fn live(&self) -> io::Result<Option<(Inode, u64)>> {
        match fs::metadata(&self.log) {
            Ok(metadata) if metadata.is_file() => Ok(Some((Inode::of(&metadata), metadata.len()))),
            Ok(_) => Err(io::Error::other("it is no file: only a file can be followed")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the log's file is: a link is followed, so that the others are found beside its target.
    pub(super) fn place(&self) -> PathBuf {
        self.log.canonicalize().unwrap_or_else(|_| self.log.clone())
    }

    /// All of them, in the order of time; the log's file is the last one.
    pub(super) fn list(&mut self) -> io::Result<Vec<LogPart>> {
        for _ in 1..OPEN_TRIES {
            if let Some(parts) = self.list_once()? {
                return Ok(parts);
            }
            // The server begins another file, or compresses one, just now.
            thread::sleep(OPEN_INTERVAL);
        }
        self.list_once()?.ok_or_else(|| io::Error::other("its files change all the time"))
    }

    /// None: they have changed meanwhile.
    fn list_once(&mut self) -> io::Result<Option<Vec<LogPart>>> {
        let (log, live) = (self.place(), self.live()?);
        let (folder, name) = (parent(&log), log.file_name().unwrap_or_default());
        let names = RealDisk.list(folder)?;
        let mut listed: Vec<_> = names.iter().filter_map(|n| Some((order(name, n)?, n))).collect();
        listed.sort_by_key(|(_, name)| name.len());
        let mut parts = Vec::with_capacity(listed.len());
        for (order, name) in listed {
            match self.part(folder.join(name), order) {
                Ok(part) => parts.push((order, part)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let seen = parts.iter().find(|(order, _)| *order == Order::Live);
        if seen.map(|(_, part)| part.inode) != live.map(|(inode, _)| inode) {
            return Ok(None);
        }
        let inodes: Vec<_> = parts.iter().map(|(_, part)| part.inode).collect();
        self.heads
            .retain(|&(device, inode, born), _| inodes.contains(&Inode { device, inode, born }));
        Ok(Some(in_order(once_each(parts))))
    }

    fn part(&mut self, path: PathBuf, order: Order) -> io::Result<LogPart> {
        let is_live = order == Order::Live;
        let is_compressed = path.as_os_str().as_bytes().ends_with(COMPRESSED.as_bytes());
        let nobody = Inode { device: 0, inode: 0, born: 0 };
        let inode = fs::metadata(&path).map_or(nobody, |metadata| Inode::of(&metadata));
        let mut part = LogPart { path, inode, is_compressed, is_live, head: None, broken: None };
        let opened = open_to_read(&part.path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
            // Who does not come to it does not mind.
            Err(error) => {
                part.broken = Some(error);
                return Ok(part);
            }
            Ok(opened) => opened,
        };
        let (inode, length) = (Inode::of(&metadata), metadata.len());
        part.inode = inode;
        let key = (inode.device, inode.inode, inode.born);
        if let Some((known, head)) = self.heads.get(&key)
            && *known == length
            && !is_live
        {
            part.head = *head;
            return Ok(part);
        }
        match head(file, is_compressed) {
            Ok(head) => {
                part.head = head;
                // The log itself may be truncated, and have other content of this length.
                if !is_live {
                    self.heads.insert(key, (length, head));
                }
            }
            Err(error) => part.broken = Some(error),
        }
        Ok(part)
    }
}

fn order(log: &OsStr, name: &OsStr) -> Option<Order> {
    if log == name {
        return Some(Order::Live);
    }
    if let Some(former) = Former::parse(log, name) {
        return Some(Order::OfDay(former));
    }
    let rest = name.as_bytes().strip_prefix(log.as_bytes())?.strip_prefix(b".")?;
    let rest = std::str::from_utf8(rest).ok()?;
    let digits = rest.strip_suffix(COMPRESSED).unwrap_or(rest);
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(Order::Numbered(number))
}

/// Reads what a file begins with.
fn head(file: File, is_compressed: bool) -> io::Result<Option<Head>> {
    let mut octets = Vec::with_capacity(HEAD_OCTETS);
    let read = match is_compressed {
        true => MultiGzDecoder::new(BufReader::with_capacity(HEAD_OCTETS, file))
            .take(HEAD_OCTETS as u64)
            .read_to_end(&mut octets),
        false => file.take(HEAD_OCTETS as u64).read_to_end(&mut octets),
    };
    // What there is of a file that is being written may be enough.
    match (Head::of(&octets), read) {
        (None, Err(error)) => Err(error),
        (head, _) => Ok(head),
    }
}

/// Of those that begin with the same line, the log's file, or one that is not compressed. Gives
/// those without a line only where they have the log's name or cannot be read.
fn once_each(parts: Vec<(Order, LogPart)>) -> Vec<(Order, LogPart)> {
    let rank = |part: &LogPart| (part.is_live, !part.is_compressed);
    let mut best: HashMap<u64, (bool, bool)> = HashMap::new();
    for part in parts.iter().map(|(_, part)| part) {
        if let Some(head) = part.head {
            let best = best.entry(head.hash).or_default();
            *best = rank(part).max(*best);
        }
    }
    let is_wanted = |part: &LogPart| match part.head {
        // The first of the best.
        Some(head) => {
            let wanted = best.get(&head.hash) == Some(&rank(part));
            wanted && best.remove(&head.hash).is_some()
        }
        None => part.is_live || part.broken.is_some(),
    };
    let mut is_wanted = is_wanted;
    parts.into_iter().filter(|(_, part)| is_wanted(part)).collect()
}

/// Files of days by their names; the numbered ones among them by their first lines.
fn in_order(parts: Vec<(Order, LogPart)>) -> Vec<LogPart> {
    let (mut days, mut numbered, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut live = None;
    for (order, part) in parts {
        match order {
            Order::OfDay(former) => days.push((former, part)),
            Order::Numbered(number) => numbered.push((number, part)),
            Order::Live => live = Some(part),
        }
    }
    days.sort_by_key(|(former, _)| *former);
    numbered.sort_by_key(|(number, _)| *number);
    let at = |part: &LogPart| part.head.map(|head| head.at);
    for (_, day) in days {
        // The oldest one has the highest number.
        while let Some((_, older)) = numbered.last()
            && at(older) < at(&day)
        {
            all.extend(numbered.pop().map(|(_, part)| part));
        }
        all.push(day);
    }
    all.extend(numbered.into_iter().rev().map(|(_, part)| part));
    all.extend(live);
    all
}
