//! The value of a record's key: records of the journal, one after another, one for each time.

use thiserror::Error;

use super::RecordKey;
use crate::disk::journal::{self, FileId, FileKind, Invalid, Position, Record, RecordNumber, Seal};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// A change of a table, and when that was.
pub type TimedChange = (Timestamp, TableKey, Change);

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
    let mut changes = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let record = Record::decode(rest, seal(key)).map_err(BodyDamaged)?;
        changes.extend(record.changes().map(|(table, change)| (record.time, table, change)));
        rest = &rest[record.length..];
    }
    Ok(changes)
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
    use crate::handoff::entry::MappedPort;
    use crate::handoff::ownership::{HostId, HostRun};

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
}
