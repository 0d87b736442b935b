//! A position in a log file, and how the file is known again.
//!
//! A file that was removed leaves its inode's number to the next file that is made. So two more
//! things identify a log: when its inode was made, where the file system says so, and the octets
//! before the position.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
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
