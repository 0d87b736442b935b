//! Records: changes that stand or fall together.

use std::fmt;

use crc32c::{crc32c, crc32c_append};

use super::change::{CHANGE_MAX, RawChange, encode_change, kind, skip_change};
use super::fields::Fields;
use super::header::Seal;
use super::position::{Position, RecordNumber};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// The octets in front of a record's body.
pub const RECORD_HEADER_LENGTH: usize = 44;
/// The most octets of a body: changes that need more become several records.
pub const BODY_MAX: usize = 256 * 1024;
/// The most octets of a record.
pub const RECORD_MAX: usize = RECORD_HEADER_LENGTH + BODY_MAX;

const _: () = assert!(CHANGE_MAX <= BODY_MAX);

/// Appends records of `changes` to `out`: as few as their sizes allow, none if there is no change.
/// `position` advances to that of the next record.
pub fn encode(
    out: &mut Vec<u8>,
    seal: Seal,
    position: &mut Position,
    synced: RecordNumber,
    time: Timestamp,
    changes: &[(TableKey, Change)],
) {
    let mut record = Encoder::new(out, seal, *position, synced, time);
    for (table, change) in changes {
        if record.is_full() {
            *position = record.finish();
            record = Encoder::new(out, seal, *position, synced, time);
        }
        record.add(*table, change);
    }
    *position = record.finish();
}

/// Appends an end record to `out`.
pub fn encode_end(
    out: &mut Vec<u8>,
    seal: Seal,
    position: &mut Position,
    synced: RecordNumber,
    time: Timestamp,
) {
    let record = Encoder::new(out, seal, *position, synced, time);
    record.out.push(kind::END);
    *position = record.finish();
}

/// A record that is being written behind what else is in a buffer.
pub struct Encoder<'a> {
    pub(super) out: &'a mut Vec<u8>,
    start: usize,
    table: Option<TableKey>,
    seal: Seal,
    position: Position,
    events: u64,
    synced: RecordNumber,
    time: Timestamp,
}

impl<'a> Encoder<'a> {
    /// A record without changes.
    pub fn new(
        out: &'a mut Vec<u8>,
        seal: Seal,
        position: Position,
        synced: RecordNumber,
        time: Timestamp,
    ) -> Self {
        let start = out.len();
        out.resize(start + RECORD_HEADER_LENGTH, 0);
        Self { out, start, table: None, seal, position, events: 0, synced, time }
    }

    /// Whether there might be no room for another change.
    pub fn is_full(&self) -> bool {
        self.out.len() - self.start + CHANGE_MAX > RECORD_MAX
    }

    /// Adds a change. There must be room: see [`Encoder::is_full`].
    pub fn add(&mut self, table: TableKey, change: &Change) {
        debug_assert!(!self.is_full());
        if self.table != Some(table) {
            self.table = Some(table);
            self.out.push(kind::TABLE);
            self.out.extend_from_slice(&table.local.octets());
            self.out.extend_from_slice(&table.nat64.octets());
        }
        self.events += u64::from(change.is_event());
        encode_change(self.out, change);
    }

    /// Completes the record, or removes it where it has no change. Returns the position of the next
    /// one.
    pub fn finish(self) -> Position {
        let Self { out, start, seal, position, events, synced, time, .. } = self;
        let (header, body) = out[start..].split_at_mut(RECORD_HEADER_LENGTH);
        if body.is_empty() {
            out.truncate(start);
            return position;
        }
        // At most RECORD_MAX, see `is_full`.
        header[..4].copy_from_slice(&(body.len() as u32).to_be_bytes());
        header[4..12].copy_from_slice(&position.record.0.to_be_bytes());
        header[12..20].copy_from_slice(&position.event.to_be_bytes());
        header[20..28].copy_from_slice(&synced.0.to_be_bytes());
        header[28..36].copy_from_slice(&time.as_micros().to_be_bytes());
        header[36..40].copy_from_slice(&crc32c(body).to_be_bytes());
        let checksum = crc32c_append(seal.0, &header[..40]);
        header[40..].copy_from_slice(&checksum.to_be_bytes());
        Position { record: position.record.next(), event: position.event.saturating_add(events) }
    }

    /// As [`Encoder::finish`], for a snapshot.
    pub fn finish_without_events(mut self) -> Position {
        self.events = 0;
        self.finish()
    }
}

/// A record as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub number: RecordNumber,
    /// Events of the shard before it.
    pub event: u64,
    /// The last record that was known to be synced when it was written.
    pub synced: RecordNumber,
    /// The time of all its changes.
    pub time: Timestamp,
    /// Its octets, header included.
    pub length: usize,
    /// How many of its changes are events.
    pub events: u64,
    body: &'a [u8],
}

/// Why octets are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// The octets so far are good, but this many are needed.
    Incomplete(usize),
    /// The header is not one of this file.
    Header,
    /// The body is not what the header says.
    Body,
    /// The checksums are right, and the body says nothing that this version knows.
    Meaning,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Invalid::Incomplete(_) => "record cut off",
            Invalid::Header => "no record where one should start",
            Invalid::Body => "record with a wrong checksum",
            Invalid::Meaning => "record without a meaning",
        })
    }
}

impl<'a> Record<'a> {
    /// Decodes the record that `octets` start with: those of a file from some offset on.
    ///
    /// # Errors
    /// Where no whole and valid record starts there.
    pub fn decode(octets: &'a [u8], seal: Seal) -> Result<Self, Invalid> {
        let header: &[u8; RECORD_HEADER_LENGTH] =
            octets.first_chunk().ok_or(Invalid::Incomplete(RECORD_HEADER_LENGTH))?;
        Self::decode_parts(header, &octets[RECORD_HEADER_LENGTH..], seal)
    }

    fn decode_parts(
        header: &[u8; RECORD_HEADER_LENGTH],
        rest: &'a [u8],
        seal: Seal,
    ) -> Result<Self, Invalid> {
        let (covered, checksum) = header.split_at(40);
        if crc32c_append(seal.0, covered).to_be_bytes() != *checksum {
            return Err(Invalid::Header);
        }
        let u64 = |at| Fields(&covered[at..]).u64().ok_or(Invalid::Header);
        let (number, event, synced, time) = (u64(4)?, u64(12)?, u64(20)?, u64(28)?);
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length == 0 || length > BODY_MAX {
            return Err(Invalid::Header);
        }
        let length_all = RECORD_HEADER_LENGTH + length;
        let body = rest.get(..length).ok_or(Invalid::Incomplete(length_all))?;
        if crc32c(body).to_be_bytes() != header[36..40] {
            return Err(Invalid::Body);
        }
        let mut record = Self {
            number: RecordNumber(number),
            event,
            synced: RecordNumber(synced),
            time: Timestamp::from_micros(time),
            length: length_all,
            events: 0,
            body,
        };
        let mut changes = record.changes();
        while let Some((_, raw)) = changes.step() {
            record.events += u64::from(raw.is_event());
        }
        if !changes.is_at_end() && !record.is_end() {
            return Err(Invalid::Meaning);
        }
        Ok(record)
    }

    /// Whether the file ends with it.
    pub fn is_end(&self) -> bool {
        self.body == [kind::END]
    }

    /// Its changes, in order.
    pub fn changes(&self) -> Changes<'a> {
        Changes { rest: Fields(self.body), table: None }
    }

    /// Its changes, encoded, in order: consecutive ones of a table together, for
    /// [`changes_in`](super::changes_in).
    pub fn runs(&self) -> impl Iterator<Item = (TableKey, &'a [u8])> {
        let (mut rest, mut table) = (Fields(self.body), None);
        std::iter::from_fn(move || {
            rest.tables(&mut table)?;
            let start = rest.0;
            let mut behind = rest.clone();
            while skip_change(&mut behind).is_some() {
                rest = behind.clone();
            }
            let run = start.get(..start.len() - rest.0.len())?;
            Some((table?, run)).filter(|_| !run.is_empty())
        })
    }
}

/// The changes of a record.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    rest: Fields<'a>,
    table: Option<TableKey>,
}

impl<'a> Changes<'a> {
    /// All of them, encoded, without allocating.
    pub fn raw(mut self) -> impl Iterator<Item = (TableKey, RawChange<'a>)> {
        std::iter::from_fn(move || self.step())
    }

    fn is_at_end(&self) -> bool {
        self.rest.0.is_empty()
    }

    fn step(&mut self) -> Option<(TableKey, RawChange<'a>)> {
        let mut fields = self.rest.clone();
        fields.tables(&mut self.table)?;
        let start = fields.0;
        skip_change(&mut fields)?;
        let raw = start.get(..start.len() - fields.0.len())?;
        let table = self.table?;
        self.rest = fields;
        Some((table, RawChange(raw)))
    }
}

impl Iterator for Changes<'_> {
    type Item = (TableKey, Change);

    fn next(&mut self) -> Option<Self::Item> {
        let (table, raw) = self.step()?;
        Some((table, raw.decode()?))
    }
}
