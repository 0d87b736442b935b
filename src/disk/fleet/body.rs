//! The values of records' keys, and of parts of snapshots: records of the journal, one after
//! another, one for each time.

use thiserror::Error;

use super::{PartKey, RecordKey, SnapshotId};
use crate::disk::journal::{
    self, Encoder, FileId, FileKind, Invalid, Position, RECORD_MAX, Record, RecordNumber, Seal,
};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// A change of a table, and when that was.
pub type TimedChange = (Timestamp, TableKey, Change);

/// The most octets of a part of a snapshot: etcd takes 1.5 MiB.
const PART_OCTETS_MAX: usize = 1 << 20;
/// Changes of a table that were recorded at a time, encoded.
pub(super) type ChangesRun<'v> = (Timestamp, TableKey, &'v [u8]);

/// Why a value is not what was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it has a {0}")]
pub struct BodyDamaged(Invalid);

/// The value under `key` that says that these changes happened, in this order.
pub fn body_of(key: &RecordKey, changes: &[TimedChange]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut position = Position { record: RecordNumber(1), event: 0 };
    for of_a_time in changes.chunk_by(|one, next| one.0 == next.0) {
        let untimed: Vec<_> =
            of_a_time.iter().map(|(_, table, change)| (*table, change.clone())).collect();
        let time = of_a_time[0].0;
        journal::encode(&mut out, seal(key), &mut position, RecordNumber(0), time, &untimed);
    }
    out
}

/// The changes that a value says, in order.
///
/// # Errors
/// It is not what [`body_of`] made for this key.
pub fn changes_of(key: &RecordKey, value: &[u8]) -> Result<Vec<TimedChange>, BodyDamaged> {
    changes_sealed(seal(key), value)
}

/// The changes that a value says, encoded: those of one table and time that stand together at once,
/// for [`journal::changes_in`].
///
/// # Errors
/// As [`changes_of`].
pub(super) fn runs_of<'v>(
    key: &RecordKey,
    value: &'v [u8],
) -> Result<Vec<ChangesRun<'v>>, BodyDamaged> {
    let (mut runs, mut rest) = (Vec::new(), value);
    while !rest.is_empty() {
        let record = Record::decode(rest, seal(key)).map_err(BodyDamaged)?;
        runs.extend(record.runs().map(|(table, changes)| (record.time, table, changes)));
        rest = &rest[record.length..];
    }
    Ok(runs)
}

fn changes_sealed(seal: Seal, value: &[u8]) -> Result<Vec<TimedChange>, BodyDamaged> {
    let mut changes = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let record = Record::decode(rest, seal).map_err(BodyDamaged)?;
        changes.extend(record.changes().map(|(table, change)| (record.time, table, change)));
        rest = &rest[record.length..];
    }
    Ok(changes)
}

/// The parts of a snapshot of a table that these changes make, in order.
pub fn parts_of(
    table: TableKey,
    of: SnapshotId,
    initialized: Timestamp,
    changes: impl Iterator<Item = Change>,
) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut changes = changes.peekable();
    let mut position = Position { record: RecordNumber(1), event: 0 };
    while changes.peek().is_some() {
        if parts.last().is_none_or(|part| part.len() + RECORD_MAX > PART_OCTETS_MAX) {
            parts.push(Vec::new());
            position.record = RecordNumber(1);
        }
        let number = parts.len() as u32 - 1;
        let Some(part) = parts.last_mut() else { break };
        let seal = part_seal(&PartKey { table, of, number });
        let mut record = Encoder::new(part, seal, position, RecordNumber(0), initialized);
        while !record.is_full()
            && let Some(change) = changes.next()
        {
            record.add(table, &change);
        }
        position = record.finish_without_events();
    }
    parts
}

/// The changes that a part of a snapshot says, in order.
///
/// # Errors
/// It is not what [`parts_of`] made for this key.
pub fn changes_in_part(key: &PartKey, value: &[u8]) -> Result<Vec<TimedChange>, BodyDamaged> {
    changes_sealed(part_seal(key), value)
}

/// What binds a part to its key.
fn part_seal(PartKey { table, of, number }: &PartKey) -> Seal {
    let kind = FileKind::Snapshot;
    let id = FileId { kind, epoch: of.by.number, shard: 0, number: of.covers.0 };
    let mut whose = [0; 16];
    whose[..4].copy_from_slice(&of.by.host.0.to_be_bytes());
    whose[4..8].copy_from_slice(&number.to_be_bytes());
    whose[8..12].copy_from_slice(&table.local.octets());
    whose[12..].copy_from_slice(&table.nat64.octets());
    id.seal(&whose)
}

/// What binds the records to their key.
fn seal(key: &RecordKey) -> Seal {
    let epoch = key.by.run.number;
    let id = FileId { kind: FileKind::Segment, epoch, shard: key.by.shard, number: key.number };
    let mut host = [0; 16];
    host[..4].copy_from_slice(&key.by.run.host.0.to_be_bytes());
    id.seal(&host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fleet::ShardRun;
    use crate::handoff::entry::{ControlPort, MappedPort};
    use crate::handoff::opaque::Token;
    use crate::handoff::ownership::{HostId, HostRun, Revision};

    #[test]
    fn a_value_says_what_was_recorded_under_its_key_alone() {
        let run = HostRun { host: HostId(3), number: 0xfeed };
        let key = RecordKey { by: ShardRun { run, shard: 2 }, number: 17 };
        let table = |number: u8| TableKey {
            local: [203, 0, 113, 5].into(),
            nat64: [192, 0, 2, number].into(),
        };
        let changes: Vec<TimedChange> = (0..5)
            .map(|number| {
                let at = Timestamp::from_micros(1_000_000 + u64::from(number / 2));
                let change = match number {
                    0 => Change::Initialized,
                    _ => Change::Used { port: MappedPort(2000 + u16::from(number)) },
                };
                (at, table(number % 2), change)
            })
            .collect();
        let value = body_of(&key, &changes);
        assert_eq!(changes_of(&key, &value), Ok(changes));
        assert_eq!(changes_of(&key, &[]), Ok(Vec::new()));
        let other = RecordKey { number: 18, ..key };
        assert!(changes_of(&other, &value).is_err());
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert!(changes_of(&key, &damaged).is_err(), "{at}");
        }
        assert!(changes_of(&key, &value[..value.len() - 1]).is_err());
    }

    #[test]
    fn a_table_becomes_parts_that_etcd_takes_and_they_make_it_again() {
        let table = TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() };
        let by = HostRun { host: HostId(3), number: 0xfeed };
        let of = SnapshotId { covers: Revision(900), by };
        let token = Token::new(&[7; 510]).unwrap();
        let change = |number: u16| match number {
            0 => Change::Initialized,
            _ => Change::IdentityKnown { port: ControlPort(number), token: token.clone() },
        };
        let made = |count| (0..count).map(change);
        let initialized = Timestamp::from_micros(17);
        assert!(parts_of(table, of, initialized, made(0)).is_empty());
        for (count, expected) in [(1, 1), (1000, 1), (5000, 3)] {
            let parts = parts_of(table, of, initialized, made(count));
            assert_eq!(parts.len(), expected);
            assert!(parts.iter().all(|part| part.len() <= PART_OCTETS_MAX));
            let keys = (0..).map(|number| PartKey { table, of, number });
            let read =
                keys.zip(&parts).flat_map(|(key, part)| changes_in_part(&key, part).unwrap());
            assert!(read.eq(made(count).map(|change| (initialized, table, change))));
            let other = PartKey { table, of, number: 1 };
            assert!(changes_in_part(&other, &parts[0]).is_err());
        }
    }
}
