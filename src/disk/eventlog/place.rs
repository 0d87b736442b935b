//! A position in a log file, and how the file is known again.
//!
//! A file that was removed leaves its inode's number to the next file that is made. So two more
//! things identify a log: when its inode was made, where the file system says so, and the octets
//! before the position.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// The most octets before a position that a [`Tail`] checks.
pub const TAIL_MAX: usize = 256;

/// A position in a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The file, whatever its name.
    pub file: Inode,
    /// Octets before this position.
    pub offset: u64,
    /// Whether those octets were synced: if they are missing, somebody removed them.
    pub synced: bool,
    /// The last of those octets.
    pub tail: Tail,
}

/// What identifies a file when it is renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The device that the file is on.
    pub device: u64,
    /// The number of the inode on that device.
    pub inode: u64,
    /// When the inode was made, in nanoseconds since 1970; 0 where nobody knows.
    pub born: u64,
}

/// The octets before a position, as a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// How many are checked, up to `TAIL_MAX`; none where they are not known.
    pub octets: u16,
    /// Their CRC32C.
    pub crc: u32,
}

/// Whether a file is the one that a position is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It is another file.
    Other,
    /// It has the same inode, and what it has before the position cannot be told, or compared.
    Likely,
    /// It is this file, with the octets before the position, or shorter.
    Same,
    /// It is this file, and others stand where those octets were.
    Changed,
}

impl Inode {
    pub(super) fn of(metadata: &Metadata) -> Inode {
        let age = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let born = age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(0));
        Inode { device: metadata.dev(), inode: metadata.ino(), born }
    }
}

impl Tail {
    /// Of the octets that end where the position is.
    pub(super) fn of(octets: &[u8]) -> Tail {
        let last = &octets[octets.len().saturating_sub(TAIL_MAX)..];
        // At most TAIL_MAX.
        Tail { octets: last.len() as u16, crc: crc32c::crc32c(last) }
    }

    fn matches(self, file: &File, offset: u64) -> io::Result<bool> {
        let mut octets = [0; TAIL_MAX];
        let Some(octets) = octets.get_mut(..usize::from(self.octets)) else {
            return Ok(false);
        };
        let Some(from) = offset.checked_sub(u64::from(self.octets)) else {
            return Ok(false);
        };
        file.read_exact_at(octets, from)?;
        Ok(crc32c::crc32c(octets) == self.crc)
    }
}

impl LogPosition {
    /// Compares a regular file with the one that this position is in. `open` opens it to be read.
    pub(super) fn likeness(
        &self,
        metadata: &Metadata,
        open: impl FnOnce() -> io::Result<File>,
    ) -> Likeness {
        let there = Inode::of(metadata);
        if !metadata.is_file() || (there.device, there.inode) != (self.file.device, self.file.inode)
        {
            return Likeness::Other;
        }
        let born = there.born != 0 && self.file.born != 0;
        if born && there.born != self.file.born {
            return Likeness::Other;
        }
        if metadata.len() < self.offset {
            // Only the time says that it is the file, and not another one that is shorter.
            return match born {
                true => Likeness::Same,
                false if self.tail.octets == 0 => Likeness::Likely,
                false => Likeness::Other,
            };
        }
        if self.tail.octets == 0 {
            return if born { Likeness::Same } else { Likeness::Likely };
        }
        match open().and_then(|file| self.tail.matches(&file, self.offset)) {
            Ok(true) => Likeness::Same,
            Ok(false) if born => Likeness::Changed,
            Ok(false) => Likeness::Other,
            Err(_) => Likeness::Likely,
        }
    }
}

/// A place between two lines of the event log, which is found again whatever its file is called by
/// then, and compressed or not: the file is known by its first octets, which have the time of its
/// first line to the microsecond, and the place by the octets before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlace {
    /// The first octets of the file.
    pub(super) head: Tail,
    /// Octets of the file before the place, as they are when it is not compressed.
    pub(super) offset: u64,
    /// The last of these.
    pub(super) tail: Tail,
}

impl LogPlace {
    /// At the beginning of a file that begins with these octets. None where there are none.
    pub(super) fn at_begin(octets: &[u8]) -> Option<Self> {
        let head = Tail::of(&octets[..octets.len().min(TAIL_MAX)]);
        (!octets.is_empty()).then_some(Self { head, offset: 0, tail: Tail::default() })
    }

    /// Octets of the file before the place, as they are when it is not compressed.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// `256/3a5f00c1 10240 256/99aabbcc`
impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { head, offset, tail } = self;
        write!(f, "{}/{:08x} {offset} {}/{:08x}", head.octets, head.crc, tail.octets, tail.crc)
    }
}

/// What is no place.
#[derive(Debug, thiserror::Error)]
#[error("this is no place in an event log")]
pub struct NoPlace;

impl FromStr for LogPlace {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let some = |text: &str| {
            let (octets, crc) = text.split_once('/')?;
            Some(Tail { octets: octets.parse().ok()?, crc: u32::from_str_radix(crc, 16).ok()? })
        };
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(NoPlace);
        let (head, offset, tail) = (word()?, word()?, word()?);
        let (head, tail) = (some(head).ok_or(NoPlace)?, some(tail).ok_or(NoPlace)?);
        let offset = offset.parse().map_err(|_| NoPlace)?;
        match [head, tail].iter().all(|octets| usize::from(octets.octets) <= TAIL_MAX) {
            true => Ok(Self { head, offset, tail }),
            false => Err(NoPlace),
        }
    }
}

/// The octets of a file that were taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Passed {
    /// The first of them.
    pub(super) head: Vec<u8>,
    pub(super) offset: u64,
    /// The last of them.
    pub(super) tail: Vec<u8>,
}

impl Passed {
    pub(super) fn pass(&mut self, octets: &[u8]) {
        let missing = TAIL_MAX.saturating_sub(self.head.len()).min(octets.len());
        self.head.extend_from_slice(&octets[..missing]);
        self.offset += octets.len() as u64;
        self.tail.extend_from_slice(&octets[octets.len().saturating_sub(TAIL_MAX)..]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_MAX));
    }

    /// None where nothing was taken.
    pub(super) fn place(&self) -> Option<LogPlace> {
        let (head, tail) = (Tail::of(&self.head), Tail::of(&self.tail));
        (self.offset > 0).then_some(LogPlace { head, offset: self.offset, tail })
    }
}
