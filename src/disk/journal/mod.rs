//! The journal's format: changes as records, and records in files. This page is its documentation.
//!
//! A pure codec: octets in, [`Record`]s out, and back. It knows no files; `storage` writes, reads and
//! replaces them. Decoding never panics and never yields what was not written.
//!
//! All numbers are unsigned and in network order.
//!
//! # Files
//!
//! A file is a header and then records, without gaps. It is a *segment* (changes as they happened) or a
//! *snapshot* (changes that make the state that all earlier segments of its shard led to). Segments of a
//! shard are numbered without gaps; snapshot *n* is the state before segment *n*.
//!
//! | at | octets | header |
//! | --- | --- | --- |
//! | 0 | 8 | `NAT64jnl` |
//! | 8 | 2 | version of the format: 1 |
//! | 10 | 1 | kind: 1 segment, 2 snapshot |
//! | 11 | 1 | 0 |
//! | 12 | 2 | shard, from 0 |
//! | 14 | 2 | how many shards the epoch has |
//! | 16 | 8 | epoch |
//! | 24 | 8 | number of the file |
//! | 32 | 8 | snapshot: number of the record that comes next in the segments; segment: 0 |
//! | 40 | 8 | snapshot: number of the event that comes next in the segments; segment: 0 |
//! | 48 | 8 | time at which the file was made, in microseconds since 1970 |
//! | 56 | 2 | handoff port |
//! | 58 | 2 | 0 |
//! | 60 | 16 | boot: which run of the machine made the file (0: not known) |
//! | 76 | 4 | CRC32C of the octets before it |
//!
//! In every version the first 10 octets mean this, the header has 80 octets, and its last 4 are this
//! checksum.
//!
//! # Records
//!
//! | at | octets | record |
//! | --- | --- | --- |
//! | 0 | 4 | length of the body, 1 to 262144 |
//! | 4 | 8 | number of the record |
//! | 12 | 8 | how many events of the shard came before the record |
//! | 20 | 8 | number of the last record of the shard that was known to be synced when this was written |
//! | 28 | 8 | time of all changes in the record, in microseconds since 1970 |
//! | 36 | 4 | CRC32C of the body |
//! | 40 | 4 | CRC32C of the *seal* and then of the octets before it |
//! | 44 | | body: changes |
//!
//! The seal is kind (1 octet), shard (2), epoch (8), number (8) and boot (16) of the file, so that a record
//! counts in its own file alone; and since no remote knows the boot, nothing that one sends, like a token,
//! looks like a record when damage is searched for the next. Records of a shard are numbered from 1 in an epoch, through all of its segments;
//! those of a snapshot from 1, for themselves. The two checksums are apart so that a flipped octet is
//! found wherever it is: the length is checked before it is used.
//!
//! An *event* is a change that has a line in the event log (`Initialized`, `Created`, `Deleted`,
//! `Conflict`) and stands in a segment. Those of a shard are numbered from 0 in an epoch.
//!
//! # Changes
//!
//! A change is an octet that says which, and fields:
//!
//! | octet | change | fields |
//! | --- | --- | --- |
//! | 1 | the changes that follow, up to the record's end, are of this table | local address (4), NAT64 address (4) |
//! | 2 | `Initialized` | |
//! | 3 | `Created` | mapped port (2), prefix (12), client address (16), client port (2) |
//! | 4 | `Deleted` | as `Created` |
//! | 5 | `Conflict` | as `Created` |
//! | 6 | `IdentityKnown` | control port (2), half the token's length (1), token |
//! | 7 | `AuthenticatorLearned` | client address (16), half the authenticator's length (1), authenticator |
//! | 8 | `IdentityForgotten` | as `IdentityKnown` |
//! | 9 | `Used` | mapped port (2) |
//! | 10 | the file ends with this record, of which this is the only change | |
//!
//! A snapshot has each table once, in the order of their keys. A table starts a new record, whose first
//! change is `Initialized`, with the time of that. Then come its identities and its entries, both from the
//! least to the most recently used. It ends with an end record.
//!
//! # What is torn, and what is damaged
//!
//! A writer that was killed leaves a part of a record, or a few records, at the end of the last segment:
//! nothing valid is behind that. A machine that lost its power may also leave a hole, with valid records
//! behind it; then no record behind it says that what is missing had been synced, and the machine has
//! another boot than the file. Both were announced to nobody who was promised more, and are cut. All else
//! that is not as described here is damage, and never skipped without being told to.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crc32c::{crc32c, crc32c_append};

use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use crate::handoff::message::Prefix96;
use crate::handoff::opaque::{Authenticator, Token};

/// The version of the format that is written.
pub const VERSION: u16 = 1;
/// The octets of a file's header.
pub const HEADER_LENGTH: usize = 80;
/// The octets in front of a record's body.
pub const RECORD_HEADER_LENGTH: usize = 44;
/// The most octets of a body: changes that need more become several records.
pub const BODY_MAX: usize = 256 * 1024;
/// The most octets of a record.
pub const RECORD_MAX: usize = RECORD_HEADER_LENGTH + BODY_MAX;
/// The most octets of a change, the table that it is in included.
const CHANGE_MAX: usize = 9 + 1 + 16 + 1 + 2 * u8::MAX as usize;

const MAGIC: &[u8; 8] = b"NAT64jnl";

const _: () = assert!(CHANGE_MAX <= BODY_MAX);

mod kind {
    pub const TABLE: u8 = 1;
    pub const INITIALIZED: u8 = 2;
    pub const CREATED: u8 = 3;
    pub const DELETED: u8 = 4;
    pub const CONFLICT: u8 = 5;
    pub const IDENTITY_KNOWN: u8 = 6;
    pub const AUTHENTICATOR_LEARNED: u8 = 7;
    pub const IDENTITY_FORGOTTEN: u8 = 8;
    pub const USED: u8 = 9;
    pub const END: u8 = 10;
}

/// The number of a record in its shard and epoch. The first is 1; 0 stands for the time before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordNumber(pub u64);

impl RecordNumber {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for RecordNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// Changes as they happened.
    Segment = 1,
    /// Changes that make a state.
    Snapshot = 2,
}

/// Which file of a state directory one is: what its name says, and its header once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// What it is.
    pub kind: FileKind,
    /// Its epoch.
    pub epoch: u64,
    /// Its shard.
    pub shard: u16,
    /// Its number in the shard.
    pub number: u64,
}

/// What binds records to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal(u32);

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
    /// Which file it is.
    pub id: FileId,
    /// How many shards the epoch has.
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
    /// There are too few.
    Truncated,
    /// It is not one of ours, or damaged.
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

    /// What stands for [`Header::boot`] in the first octets of a file, be they damaged or not.
    pub fn boot_in(octets: &[u8; HEADER_LENGTH]) -> [u8; 16] {
        std::array::from_fn(|i| octets[60 + i])
    }

    /// Its octets.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut out = [0; HEADER_LENGTH];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_be_bytes());
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

    /// From the first octets of a file.
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
            1 => Self::decode_1(octets).ok_or(HeaderError::Damaged),
            0 => Err(HeaderError::Damaged),
            newer => Err(HeaderError::Newer(newer)),
        }
    }

    fn decode_1(octets: &[u8; HEADER_LENGTH]) -> Option<Self> {
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

/// What the records of a shard are numbered with, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The number of the next record.
    pub record: RecordNumber,
    /// The number of the next event.
    pub event: u64,
}

/// Appends records of `changes` to `out`: as few as their sizes allow, none if there is no change.
/// `position` goes on to what comes behind them.
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
    out: &'a mut Vec<u8>,
    start: usize,
    table: Option<TableKey>,
    seal: Seal,
    position: Position,
    events: u64,
    synced: RecordNumber,
    time: Timestamp,
}

impl<'a> Encoder<'a> {
    /// Without any change yet.
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

    /// Whether another change may not fit.
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

    /// Completes the record, or takes it back where it has no change. Returns what comes next.
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

/// Appends one change, without its table.
pub fn encode_change(out: &mut Vec<u8>, change: &Change) {
    let mut entry = |kind, port: MappedPort, client: &Client| {
        let mut octets = [0; 33];
        octets[0] = kind;
        octets[1..3].copy_from_slice(&port.0.to_be_bytes());
        octets[3..15].copy_from_slice(&client.prefix.0);
        octets[15..31].copy_from_slice(&client.address.octets());
        octets[31..].copy_from_slice(&client.port.to_be_bytes());
        out.extend_from_slice(&octets);
    };
    match change {
        Change::Initialized => out.push(kind::INITIALIZED),
        Change::Created { port, client } => entry(kind::CREATED, *port, client),
        Change::Deleted { port, client } => entry(kind::DELETED, *port, client),
        Change::Conflict { port, client } => entry(kind::CONFLICT, *port, client),
        Change::IdentityKnown { port, token } => {
            encode_identity(out, kind::IDENTITY_KNOWN, *port, token);
        }
        Change::IdentityForgotten { port, token } => {
            encode_identity(out, kind::IDENTITY_FORGOTTEN, *port, token);
        }
        Change::AuthenticatorLearned { address, authenticator } => {
            out.push(kind::AUTHENTICATOR_LEARNED);
            out.extend_from_slice(&address.octets());
            encode_opaque(out, authenticator.octets());
        }
        Change::Used { port } => {
            out.push(kind::USED);
            out.extend_from_slice(&port.0.to_be_bytes());
        }
    }
}

fn encode_identity(out: &mut Vec<u8>, kind: u8, port: ControlPort, token: &Token) {
    out.push(kind);
    out.extend_from_slice(&port.0.to_be_bytes());
    encode_opaque(out, token.octets());
}

fn encode_opaque(out: &mut Vec<u8>, octets: &[u8]) {
    // A token or authenticator has an even length of at most 510.
    out.push((octets.len() / 2) as u8);
    out.extend_from_slice(octets);
}

/// A record as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its number.
    pub number: RecordNumber,
    /// How many events came before it.
    pub event: u64,
    /// The last record that was known to be synced when it was written.
    pub synced: RecordNumber,
    /// When its changes happened.
    pub time: Timestamp,
    /// Its octets, header included.
    pub length: usize,
    body: &'a [u8],
}

/// Why octets are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// So far good, but this many octets are needed.
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
    /// From the octets of a file from some offset on.
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
        let record = Self {
            number: RecordNumber(number),
            event,
            synced: RecordNumber(synced),
            time: Timestamp::from_micros(time),
            length: length_all,
            body,
        };
        let mut changes = record.changes();
        while changes.step().is_some() {}
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

    /// Its changes as they stand there, in order: those of one table in a row together, for [`changes_in`].
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

    /// How many of its changes are events.
    pub fn events(&self) -> u64 {
        let mut changes = self.changes();
        let mut events = 0;
        while let Some((_, raw)) = changes.step() {
            events += u64::from(raw.is_event());
        }
        events
    }
}

/// The changes of a record.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    rest: Fields<'a>,
    table: Option<TableKey>,
}

/// A change as it stands in a record.
#[derive(Debug, Clone, Copy)]
pub struct RawChange<'a>(&'a [u8]);

impl<'a> RawChange<'a> {
    /// Its octets: what [`encode_change`] writes.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Whether it has a line in the event log.
    pub fn is_event(self) -> bool {
        matches!(
            self.0.first(),
            Some(&(kind::INITIALIZED | kind::CREATED | kind::DELETED | kind::CONFLICT))
        )
    }

    /// Whether it is [`Change::Initialized`].
    pub fn is_initialized(self) -> bool {
        self.0 == [kind::INITIALIZED]
    }

    /// What it says.
    pub fn decode(self) -> Option<Change> {
        decode_change(&mut Fields(self.0))
    }
}

impl<'a> Changes<'a> {
    /// All of them as they stand there, without allocating.
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

/// The changes that [`encode_change`] wrote one after another. Ends before the first that it did not write.
pub fn changes_in(octets: &[u8]) -> impl Iterator<Item = Change> {
    let mut fields = Fields(octets);
    std::iter::from_fn(move || decode_change(&mut fields))
}

/// Goes behind a change without looking into it. All octets of the right length are a change.
fn skip_change(fields: &mut Fields<'_>) -> Option<()> {
    match fields.u8()? {
        kind::INITIALIZED => {}
        kind::CREATED | kind::DELETED | kind::CONFLICT => drop(fields.slice(32)?),
        kind::IDENTITY_KNOWN | kind::IDENTITY_FORGOTTEN => {
            fields.u16()?;
            fields.opaque()?;
        }
        kind::AUTHENTICATOR_LEARNED => {
            fields.slice(16)?;
            fields.opaque()?;
        }
        kind::USED => drop(fields.u16()?),
        _ => return None,
    }
    Some(())
}

fn decode_change(fields: &mut Fields<'_>) -> Option<Change> {
    let change = match fields.u8()? {
        kind::INITIALIZED => Change::Initialized,
        kind::CREATED => {
            let (port, client) = fields.entry()?;
            Change::Created { port, client }
        }
        kind::DELETED => {
            let (port, client) = fields.entry()?;
            Change::Deleted { port, client }
        }
        kind::CONFLICT => {
            let (port, client) = fields.entry()?;
            Change::Conflict { port, client }
        }
        kind::IDENTITY_KNOWN => {
            let port = ControlPort(fields.u16()?);
            Change::IdentityKnown { port, token: Token::new(fields.opaque()?)? }
        }
        kind::IDENTITY_FORGOTTEN => {
            let port = ControlPort(fields.u16()?);
            Change::IdentityForgotten { port, token: Token::new(fields.opaque()?)? }
        }
        kind::AUTHENTICATOR_LEARNED => {
            let address = Ipv6Addr::from(fields.take::<16>()?);
            let authenticator = Authenticator::new(fields.opaque()?)?;
            Change::AuthenticatorLearned { address, authenticator }
        }
        kind::USED => Change::Used { port: MappedPort(fields.u16()?) },
        _ => return None,
    };
    Some(change)
}

/// Octets that are taken from the front.
#[derive(Debug, Clone)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[octet]| octet)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn opaque(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.slice(2 * usize::from(length))
    }

    /// Which table the changes here are of, where that is said here.
    fn tables(&mut self, table: &mut Option<TableKey>) -> Option<()> {
        while self.0.first() == Some(&kind::TABLE) {
            self.u8()?;
            let (local, nat64) = (self.take()?, self.take()?);
            let [local, nat64] = [local, nat64].map(|octets: [u8; 4]| Ipv4Addr::from(octets));
            *table = Some(TableKey { local, nat64 });
        }
        Some(())
    }

    fn entry(&mut self) -> Option<(MappedPort, Client)> {
        let port = MappedPort(self.u16()?);
        let prefix = Prefix96(self.take()?);
        let address = Ipv6Addr::from(self.take::<16>()?);
        Some((port, Client { prefix, address, port: self.u16()? }))
    }
}

#[cfg(test)]
mod tests;
