//! The log cursor: how much of a shard's events the event log has, and where it ends.
//!
//! The file (`log.cursor`, in the folder of the epoch) has two slots of [`SLOT_OCTETS`] each, at 0
//! and behind that. The valid one with the higher sequence number counts. All numbers are little
//! endian:
//!
//! | octets | field |
//! | --- | --- |
//! | 0..8 | `N64HCURS` |
//! | 8..10 | version: 1 |
//! | 10..12 | shards: 1 to 256 |
//! | 12..16 | 0: the log is no file, 24..48 are 0; 1: it is a file; 2: a file, synced before |
//! | 16..24 | sequence number, one more with each write |
//! | 24..32 | device of the file |
//! | 32..40 | inode of the file |
//! | 40..48 | offset behind the last of the counted lines |
//! | 48.. | for each shard, its events in the log, from the start of the epoch |
//! | ..4072 | zeros |
//! | 4072..4080 | when the inode was made, nanoseconds since 1970; 0: unknown |
//! | 4080..4084 | CRC32C of the last octets before the offset |
//! | 4084..4086 | how many octets that are, up to 256; 0: unknown |
//! | ..4092 | zeros |
//! | 4092..4096 | CRC32C of all before |
//!
//! A slot that is known to be on disk is not overwritten before the other slot is on disk too, so a
//! torn write leaves the older cursor. An older cursor is always safe: more lines are then compared
//! with the journal. That is why not each write of the cursor needs a sync.
//!
//! Slots of earlier programs have zeros from 4072 on, and programs that know no more than those
//! pass over what is there.
//!
//! Not here: when it is written (`recorder`), and what is made of it (`complete`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::{Inode, LogPosition, TAIL_MAX, Tail};
use crate::disk::fs::{Disk, DiskFile, read_full, write_full, write_new};

/// Shards that a slot has room for.
pub const SHARDS_MAX: usize = 256;
/// A page: a process that is killed while it writes one leaves the whole page or nothing of it.
const SLOT_OCTETS: usize = 4096;
const SLOTS: u64 = 2;
const MAGIC: [u8; 8] = *b"N64HCURS";
const VERSION: u16 = 1;
const EVENTS_AT: usize = 48;
const BORN_AT: usize = 4072;
const TAIL_AT: usize = 4080;
const CRC_AT: usize = SLOT_OCTETS - 4;

const _: () = assert!(EVENTS_AT + 8 * SHARDS_MAX <= BORN_AT);
const _: () = assert!(TAIL_AT + 6 <= CRC_AT);

/// Which events the event log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// For each shard, the number of its events in the log, from the start of the epoch.
    pub events: Vec<u64>,
    /// The end of the last of their lines, if the log is a regular file.
    pub position: Option<LogPosition>,
}

/// Why it is not known which events the log has.
#[derive(Debug)]
pub enum Unknown {
    /// There is no such file.
    Missing,
    /// The file cannot be read.
    Unreadable(io::Error),
    /// Neither slot is valid.
    Damaged,
    /// A later version of this program wrote it.
    Newer(u16),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Missing => f.write_str("it is missing"),
            Unknown::Unreadable(cause) => write!(f, "it cannot be read: {cause}"),
            Unknown::Damaged => f.write_str("it is damaged"),
            Unknown::Newer(version) => {
                write!(f, "it has format version {version}, and this program knows {VERSION}")
            }
        }
    }
}

impl Cursor {
    /// Reads the newer of the file's valid slots.
    ///
    /// # Errors
    /// Where there is no usable cursor.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Cursor, Unknown> {
        let file = match disk.open(path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unknown::Missing),
            Err(error) => return Err(Unknown::Unreadable(error)),
        };
        let mut octets = [0; SLOTS as usize * SLOT_OCTETS];
        let length = read_full(&*file, &mut octets, 0).map_err(Unknown::Unreadable)?;
        Self::decode(&octets[..length])
    }

    fn decode(octets: &[u8]) -> Result<Cursor, Unknown> {
        let mut best = None;
        let mut newer = None;
        for slot in octets.as_chunks::<SLOT_OCTETS>().0 {
            match decode_slot(slot) {
                Ok((sequence, cursor)) => {
                    if best.as_ref().is_none_or(|&(other, _)| sequence > other) {
                        best = Some((sequence, cursor));
                    }
                }
                Err(version) => newer = newer.max(version),
            }
        }
        match (best, newer) {
            (Some((_, cursor)), _) => Ok(cursor),
            (None, Some(version)) => Err(Unknown::Newer(version)),
            (None, None) => Err(Unknown::Damaged),
        }
    }

    fn encode(&self, sequence: u64) -> [u8; SLOT_OCTETS] {
        let mut slot = [0; SLOT_OCTETS];
        let mut put = |at: usize, octets: &[u8]| {
            slot[at..at + octets.len()].copy_from_slice(octets);
        };
        // Cannot truncate: `CursorFile::create` refuses more than SHARDS_MAX.
        let shards = self.events.len() as u16;
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(10, &shards.to_le_bytes());
        put(16, &sequence.to_le_bytes());
        if let Some(position) = self.position {
            put(12, &(1 + u32::from(position.synced)).to_le_bytes());
            put(24, &position.file.device.to_le_bytes());
            put(32, &position.file.inode.to_le_bytes());
            put(40, &position.offset.to_le_bytes());
            put(BORN_AT, &position.file.born.to_le_bytes());
            put(TAIL_AT, &position.tail.crc.to_le_bytes());
            put(TAIL_AT + 4, &position.tail.octets.to_le_bytes());
        }
        for (shard, events) in self.events.iter().enumerate() {
            put(EVENTS_AT + 8 * shard, &events.to_le_bytes());
        }
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        slot
    }
}

/// Sequence number and content; for one that is valid but of a later version, that version.
fn decode_slot(slot: &[u8; SLOT_OCTETS]) -> Result<(u64, Cursor), Option<u16>> {
    let u64_at = |at: usize| {
        let mut octets = [0; 8];
        octets.copy_from_slice(&slot[at..at + 8]);
        u64::from_le_bytes(octets)
    };
    let u16_at = |at: usize| u16::from_le_bytes([slot[at], slot[at + 1]]);
    let checksum = crc32c::crc32c(&slot[..CRC_AT]);
    if slot[..8] != MAGIC || slot[CRC_AT..] != checksum.to_le_bytes() {
        return Err(None);
    }
    if u16_at(8) > VERSION {
        return Err(Some(u16_at(8)));
    }
    let shards = usize::from(u16_at(10));
    if u16_at(8) != VERSION || !(1..=SHARDS_MAX).contains(&shards) {
        return Err(None);
    }
    // The upper half of the octets there is the number of octets, and zeros.
    let (crc, octets) = (u64_at(TAIL_AT) as u32, u16_at(TAIL_AT + 4));
    if usize::from(octets) > TAIL_MAX {
        return Err(None);
    }
    let position = match slot[12..16] {
        [0, 0, 0, 0] => None,
        [kind @ 1..=2, 0, 0, 0] => Some(LogPosition {
            file: Inode { device: u64_at(24), inode: u64_at(32), born: u64_at(BORN_AT) },
            offset: u64_at(40),
            synced: kind == 2,
            tail: Tail { octets, crc },
        }),
        _ => return Err(None),
    };
    let events = (0..shards).map(|shard| u64_at(EVENTS_AT + 8 * shard)).collect();
    Ok((u64_at(16), Cursor { events, position }))
}

/// A cursor that is kept up to date.
#[derive(Debug)]
pub(super) struct CursorFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    sequence: u64,
    /// The slot that may be overwritten.
    slot: u64,
}

impl CursorFile {
    /// Makes the file anew, durably.
    pub(super) fn create(disk: &dyn Disk, path: &Path, cursor: &Cursor) -> io::Result<CursorFile> {
        if !(1..=SHARDS_MAX).contains(&cursor.events.len()) {
            let shards = cursor.events.len();
            return Err(io::Error::other(format!("no cursor for {shards} shards")));
        }
        let file = write_new(disk, path, |file| {
            write_full(file, &cursor.encode(1), 0)?;
            // Allocates the second slot, so that later writes need no more room on the disk.
            write_full(file, &[0; SLOT_OCTETS], SLOT_OCTETS as u64)
        })?;
        Ok(CursorFile { file, path: path.to_owned(), sequence: 1, slot: 1 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was written survives a killed process; [`CursorFile::sync`] makes it survive a power
    /// cut.
    pub(super) fn write(&mut self, cursor: &Cursor) -> io::Result<()> {
        let sequence = self.sequence + 1;
        write_full(&*self.file, &cursor.encode(sequence), self.slot * SLOT_OCTETS as u64)?;
        self.sequence = sequence;
        Ok(())
    }

    /// Makes the last write durable; the next one goes to the other slot.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.turn();
        Ok(())
    }

    /// Turns to the other slot without a sync.
    pub(super) fn turn(&mut self) {
        self.slot = (self.slot + 1) % SLOTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::RealDisk;
    use std::fs;

    fn cursor(shards: usize, offset: u64) -> Cursor {
        Cursor {
            events: (0..shards as u64).map(|shard| 1_000 * offset + shard).collect(),
            position: Some(LogPosition {
                file: Inode { device: 7, inode: 1 << 40, born: 1_552_903_588_491_727_000 },
                offset,
                synced: offset % 2 == 1,
                tail: Tail::of(&[b'x'; 70]),
            }),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.cursor");
        assert!(matches!(Cursor::read(&RealDisk, &path), Err(Unknown::Missing)));
        for shards in [1, 2, 255, 256] {
            let mut file = CursorFile::create(&RealDisk, &path, &cursor(shards, 0)).unwrap();
            assert_eq!(Cursor::read(&RealDisk, &path).unwrap(), cursor(shards, 0));
            for offset in 1..10 {
                let mut cursor = cursor(shards, offset);
                if offset % 4 == 0 {
                    cursor.position = None;
                }
                file.write(&cursor).unwrap();
                assert_eq!(Cursor::read(&RealDisk, &path).unwrap(), cursor);
                if offset % 3 == 0 {
                    file.sync().unwrap();
                }
            }
        }
        for shards in [0, 257] {
            assert!(CursorFile::create(&RealDisk, &path, &cursor(shards, 0)).is_err());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn format() {
        let slot = cursor(2, 0x0102).encode(3);
        let head = b"N64HCURS\x01\0\x02\0\x01\0\0\0\x03\0\0\0\0\0\0\0\
            \x07\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\x02\x01\0\0\0\0\0\0\
            \xd0\xef\x03\0\0\0\0\0\xd1\xef\x03\0\0\0\0\0\0\0\0\0";
        assert_eq!(&slot[..head.len()], head);
        let born_and_tail = b"\x98\x90\x7a\x0a\x96\x05\x8d\x15";
        assert_eq!(&slot[BORN_AT..][..8], born_and_tail);
        assert_eq!(slot[TAIL_AT..][..4], crc32c::crc32c(&[b'x'; 70]).to_le_bytes());
        assert_eq!(&slot[TAIL_AT + 4..][..8], b"\x46\0\0\0\0\0\0\0");
        assert_eq!(slot[CRC_AT..], crc32c::crc32c(&slot[..CRC_AT]).to_le_bytes());
    }

    /// What the version before this one wrote, which knew of neither.
    #[test]
    fn a_cursor_without_birth_and_tail_is_read() {
        let mut slot = cursor(2, 5).encode(3);
        slot[BORN_AT..CRC_AT].fill(0);
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let read = Cursor::decode(&slot).unwrap();
        let position = read.position.unwrap();
        assert_eq!((position.file.born, position.tail, position.offset), (0, Tail::default(), 5));
        assert_eq!(read.events, cursor(2, 5).events);
    }

    #[test]
    fn every_flipped_octet_and_every_torn_write_leaves_the_older_one() {
        let (old, new) = (cursor(3, 1), cursor(3, 2));
        let mut octets = [old.encode(8), new.encode(9)].concat();
        assert_eq!(Cursor::decode(&octets).unwrap(), new);
        for at in SLOT_OCTETS..2 * SLOT_OCTETS {
            octets[at] ^= 0x10;
            assert_eq!(Cursor::decode(&octets).unwrap(), old);
            octets[at] ^= 0x10;
        }
        for length in 0..SLOT_OCTETS {
            let mut torn = [old.encode(8), cursor(3, 0).encode(7)].concat();
            torn[SLOT_OCTETS..][..length].copy_from_slice(&octets[SLOT_OCTETS..][..length]);
            let read = Cursor::decode(&torn).unwrap();
            assert!(read == old || read == new && length > CRC_AT, "{length}");
            assert_eq!(
                Cursor::decode(&octets[..SLOT_OCTETS + length]).unwrap(),
                old,
                "cut at {length}"
            );
        }
        assert!(matches!(Cursor::decode(&octets[..SLOT_OCTETS - 1]), Err(Unknown::Damaged)));
        assert!(matches!(Cursor::decode(&[0; 8192]), Err(Unknown::Damaged)));
    }

    #[test]
    fn newer_versions_are_named() {
        let mut slot = cursor(1, 1).encode(1);
        slot[8] = 2;
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Cursor::decode(&slot), Err(Unknown::Newer(2))));
    }

    #[test]
    fn writes_that_are_not_synced_spare_the_slot_that_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.cursor");
        let mut file = CursorFile::create(&RealDisk, &path, &cursor(1, 0)).unwrap();
        let durable = |file: u64| {
            let octets = fs::read(&path).unwrap();
            let at = usize::try_from(file).unwrap() * SLOT_OCTETS;
            Cursor::decode(&octets[at..at + SLOT_OCTETS]).unwrap()
        };
        for offset in 1..5 {
            file.write(&cursor(1, offset)).unwrap();
            assert_eq!(durable(0), cursor(1, 0));
        }
        file.sync().unwrap();
        for offset in 5..9 {
            file.write(&cursor(1, offset)).unwrap();
            assert_eq!(durable(1), cursor(1, 4));
        }
    }
}
