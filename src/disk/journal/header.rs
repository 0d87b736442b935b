//! The header of a file, and the seal that binds records to it.

use std::fmt;

use crc32c::crc32c;

use super::fields::Fields;
use super::position::RecordNumber;
use crate::handoff::change::Timestamp;

/// The newest version of the format, which is written where names of the pool may be recorded.
pub const VERSION: u16 = 3;
/// The one that is written elsewhere: releases before names read it.
pub const VERSION_WITHOUT_NAMES: u16 = 2;
/// The octets of a file's header.
pub const HEADER_LENGTH: usize = 80;

const MAGIC: &[u8; 8] = b"NAT64jnl";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// Changes as they happened.
    Segment = 1,
    /// Changes that make a state.
    Snapshot = 2,
}

/// Identifies a file of a state directory: its name and its header both say this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    pub kind: FileKind,
    pub epoch: u64,
    pub shard: u16,
    /// Its number in the shard.
    pub number: u64,
}

/// What binds records to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal(pub(super) u32);

impl FileId {
    /// The seal of its records, where its header has this `boot`.
    pub fn seal(&self, boot: &[u8; 16]) -> Seal {
        let mut octets = [0; 35];
        octets[0] = self.kind as u8;
        octets[1..3].copy_from_slice(&self.shard.to_be_bytes());
        octets[3..11].copy_from_slice(&self.epoch.to_be_bytes());
        octets[11..19].copy_from_slice(&self.number.to_be_bytes());
        octets[19..].copy_from_slice(boot);
        Seal(crc32c(&octets))
    }
}

/// The header of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// That of the format.
    pub version: u16,
    pub id: FileId,
    /// Shards of the epoch.
    pub shards: u16,
    /// The port that requests came in by. No entry is mapped to it.
    pub handoff_port: u16,
    /// When the file was made.
    pub time: Timestamp,
    /// The run of the machine that made it; zeros where that is not known.
    pub boot: [u8; 16],
    /// Of a snapshot: the number of the first record behind it.
    pub next_record: RecordNumber,
    /// Of a snapshot: the number of the first event behind it.
    pub next_event: u64,
}

/// Why octets are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// There are fewer than [`HEADER_LENGTH`].
    Truncated,
    /// The magic, the checksum or a field is wrong.
    Damaged,
    /// A later version of this program wrote it.
    Newer(u16),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Truncated => f.write_str("header cut off"),
            HeaderError::Damaged => f.write_str("damaged header"),
            HeaderError::Newer(version) => {
                write!(f, "format version {version}, of which this program knows up to {VERSION}")
            }
        }
    }
}

impl Header {
    /// What binds records to the file.
    pub fn seal(&self) -> Seal {
        self.id.seal(&self.boot)
    }

    /// The octets at the place of [`Header::boot`], in a header that may be damaged.
    pub fn boot_in(octets: &[u8; HEADER_LENGTH]) -> [u8; 16] {
        std::array::from_fn(|i| octets[60 + i])
    }

    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut out = [0; HEADER_LENGTH];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&self.version.to_be_bytes());
        out[10] = self.id.kind as u8;
        out[12..14].copy_from_slice(&self.id.shard.to_be_bytes());
        out[14..16].copy_from_slice(&self.shards.to_be_bytes());
        out[16..24].copy_from_slice(&self.id.epoch.to_be_bytes());
        out[24..32].copy_from_slice(&self.id.number.to_be_bytes());
        out[32..40].copy_from_slice(&self.next_record.0.to_be_bytes());
        out[40..48].copy_from_slice(&self.next_event.to_be_bytes());
        out[48..56].copy_from_slice(&self.time.as_micros().to_be_bytes());
        out[56..58].copy_from_slice(&self.handoff_port.to_be_bytes());
        out[60..76].copy_from_slice(&self.boot);
        let checksum = crc32c(&out[..76]);
        out[76..].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Decodes the first octets of a file.
    ///
    /// # Errors
    /// Where they are not a header that this version can read.
    pub fn decode(octets: &[u8]) -> Result<Self, HeaderError> {
        let octets: &[u8; HEADER_LENGTH] = octets.first_chunk().ok_or(HeaderError::Truncated)?;
        let (covered, checksum) = octets.split_at(76);
        if covered[..8] != *MAGIC || *checksum != crc32c(covered).to_be_bytes() {
            return Err(HeaderError::Damaged);
        }
        match u16::from_be_bytes([octets[8], octets[9]]) {
            version @ 1..=VERSION => {
                Self::decode_known(version, octets).ok_or(HeaderError::Damaged)
            }
            0 => Err(HeaderError::Damaged),
            newer => Err(HeaderError::Newer(newer)),
        }
    }

    fn decode_known(version: u16, octets: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let mut fields = Fields(&octets[10..]);
        let kind = match fields.u8()? {
            1 => FileKind::Segment,
            2 => FileKind::Snapshot,
            _ => return None,
        };
        let zero = fields.u8()?;
        let (shard, shards) = (fields.u16()?, fields.u16()?);
        let (epoch, number) = (fields.u64()?, fields.u64()?);
        let (next_record, next_event) = (RecordNumber(fields.u64()?), fields.u64()?);
        let (time, handoff_port) = (Timestamp::from_micros(fields.u64()?), fields.u16()?);
        let zeros = fields.u16()?;
        let boot = fields.take()?;
        let id = FileId { kind, epoch, shard, number };
        (zero == 0 && zeros == 0 && shard < shards).then_some(Self {
            version,
            id,
            shards,
            handoff_port,
            time,
            boot,
            next_record,
            next_event,
        })
    }
}
