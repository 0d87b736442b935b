//! Names of what stands in the engine, and short values, so that `etcdctl get` shows them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::{self, FromStr, Split};

use super::{KeyRange, ShardRun};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{Cause, Claim, HostId, HostRun, Revision};

/// All keys of this program begin with that.
const ROOT: &str = "nat64handoff";
/// The most octets of the name of a cell.
const CELL_MAX: usize = 64;

/// The name of a cell: hosts that share their tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellName(String);

impl FromStr for CellName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let fits = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        if name.is_empty() || name.len() > CELL_MAX || !name.bytes().all(fits) {
            return Err(format!(
                "the name of a cell has 1 to {CELL_MAX} letters, digits, dots, dashes and underscores"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl CellName {
    /// What all keys of the cell begin with.
    pub fn prefix(&self) -> String {
        format!("{ROOT}/{self}/")
    }
}

/// The key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKey {
    pub by: ShardRun,
    pub number: u64,
}

/// A snapshot of a table: no two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotId {
    /// The table is as what was done up to this revision made it.
    pub covers: Revision,
    /// Who made it.
    pub by: HostRun,
}

/// A part of a snapshot, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartKey {
    pub table: TableKey,
    pub of: SnapshotId,
    pub number: u32,
}

/// A key of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetKey {
    /// Who owns a table.
    Owner(TableKey),
    Record(RecordKey),
    /// Which snapshot a table has.
    Snapshot(TableKey),
    Part(PartKey),
    /// Up to where a host has written the lines of its records.
    Cursor(HostId),
    /// How far the log was folded into snapshots.
    Folded,
    Host(HostId),
    /// The run of a host: others of it record nothing any more.
    Run(HostId),
    Secret(u32),
}

impl fmt::Display for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(TableKey { local, nat64 }) => write!(f, "own/{local}/{nat64}"),
            Self::Record(RecordKey { by, number }) => {
                write!(f, "{}{number:020}", writer_prefix(*by))
            }
            Self::Snapshot(TableKey { local, nat64 }) => write!(f, "snap/{local}/{nat64}"),
            Self::Part(PartKey { table, of, number }) => {
                write!(f, "{}{number:06}", snapshot_prefix(*table, *of))
            }
            Self::Cursor(host) => write!(f, "cursor/{}", host.0),
            Self::Folded => f.write_str("folded"),
            Self::Host(host) => write!(f, "host/{}", host.0),
            Self::Run(host) => write!(f, "run/{}", host.0),
            Self::Secret(number) => write!(f, "secret/{number}"),
        }
    }
}

impl FleetKey {
    /// The key that was written so. `None` for one of a later version.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(key).ok()?.split('/');
        let key = match words.next()? {
            "own" => Self::Owner(table_in(&mut words)?),
            "log" => {
                let (run, shard) = (run_in(&mut words)?, next(&mut words)?);
                let by = ShardRun { run, shard };
                Self::Record(RecordKey { by, number: next(&mut words)? })
            }
            "snap" => Self::Snapshot(table_in(&mut words)?),
            "part" => {
                let (table, covers) = (table_in(&mut words)?, Revision(next(&mut words)?));
                let of = SnapshotId { covers, by: run_in(&mut words)? };
                Self::Part(PartKey { table, of, number: next(&mut words)? })
            }
            "cursor" => Self::Cursor(HostId(next(&mut words)?)),
            "folded" => Self::Folded,
            "host" => Self::Host(HostId(next(&mut words)?)),
            "run" => Self::Run(HostId(next(&mut words)?)),
            "secret" => Self::Secret(next(&mut words)?),
            _ => return None,
        };
        words.next().is_none().then_some(key)
    }
}

/// What the keys of all records of a shard begin with.
pub fn writer_prefix(by: ShardRun) -> String {
    let ShardRun { run: HostRun { host, number }, shard } = by;
    format!("log/{}/{number:016x}/{shard}/", host.0)
}

/// What the keys of all parts of a snapshot begin with.
fn snapshot_prefix(table: TableKey, of: SnapshotId) -> String {
    let (TableKey { local, nat64 }, HostRun { host, number }) = (table, of.by);
    format!("part/{local}/{nat64}/{:020}/{}/{number:016x}/", of.covers.0, host.0)
}

/// The keys of all parts of a snapshot.
pub fn parts_of_snapshot(table: TableKey, of: SnapshotId) -> KeyRange {
    KeyRange::beginning(&snapshot_prefix(table, of))
}

/// The keys of all parts of all snapshots of a table.
pub fn parts_of_table(TableKey { local, nat64 }: TableKey) -> KeyRange {
    KeyRange::beginning(&format!("part/{local}/{nat64}/"))
}

fn table_in(words: &mut Split<'_, char>) -> Option<TableKey> {
    Some(TableKey { local: next(words)?, nat64: next(words)? })
}

fn next<T: FromStr>(words: &mut Split<'_, char>) -> Option<T> {
    words.next()?.parse().ok()
}

fn run_number(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

/// A claim, as the value of the key of its table.
pub fn claim_value(claim: &Claim) -> String {
    let cause = match claim.cause {
        Cause::New => "new",
        Cause::Lost => "lost",
        Cause::Given => "given",
    };
    let run = |run: HostRun| format!("{} {:016x}", run.host.0, run.number);
    format!("{} {cause} {} {}", run(claim.owner), run(claim.by.0), claim.by.1)
}

/// The claim that was written so.
pub fn claim_in(value: &[u8]) -> Option<Claim> {
    let mut words = str::from_utf8(value).ok()?.split(' ');
    let owner = run_in(&mut words)?;
    let cause = match words.next()? {
        "new" => Cause::New,
        "lost" => Cause::Lost,
        "given" => Cause::Given,
        _ => return None,
    };
    let by = (run_in(&mut words)?, next(&mut words)?);
    words.next().is_none().then_some(Claim { owner, cause, by })
}

fn run_in(words: &mut Split<'_, char>) -> Option<HostRun> {
    Some(HostRun { host: HostId(next(words)?), number: run_number(words.next()?)? })
}

/// Which snapshot a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSnapshot {
    pub id: SnapshotId,
    /// How many parts it has.
    pub parts: u32,
    /// The octets of all of them.
    pub octets: u64,
}

impl TableSnapshot {
    pub fn value(&self) -> String {
        let Self { id: SnapshotId { covers, by }, parts, octets } = self;
        format!("{} {} {:016x} {parts} {octets}", covers.0, by.host.0, by.number)
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(value).ok()?.split(' ');
        let id = SnapshotId { covers: Revision(next(&mut words)?), by: run_in(&mut words)? };
        let (parts, octets) = (next(&mut words)?, next(&mut words)?);
        words.next().is_none().then_some(Self { id, parts, octets })
    }
}

/// How far the log was folded into snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// All snapshots cover what was done until then.
    pub at: Revision,
    /// The octets of the log that were left.
    pub log: u64,
    /// The octets of all snapshots.
    pub snapshots: u64,
}

impl Folded {
    pub fn value(&self) -> String {
        format!("{} {} {}", self.at.0, self.log, self.snapshots)
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(value).ok()?.split(' ');
        let at = Revision(next(&mut words)?);
        let (log, snapshots) = (next(&mut words)?, next(&mut words)?);
        words.next().is_none().then_some(Self { at, log, snapshots })
    }
}

/// A run, as the value of the key of its host.
pub fn run_value(run: HostRun) -> String {
    format!("{:016x}", run.number)
}

/// A host, as the value of its key: its run, and where the others pass requests on to.
pub fn host_value(run: HostRun, at: SocketAddrV4) -> String {
    format!("{:016x} {at}", run.number)
}

/// The host that was written so.
pub fn host_in(host: HostId, value: &[u8]) -> Option<(HostRun, SocketAddrV4)> {
    let mut words = str::from_utf8(value).ok()?.split(' ');
    let run = HostRun { host, number: run_number(words.next()?)? };
    let at: SocketAddrV4 = next(&mut words)?;
    (words.next().is_none() && *at.ip() != Ipv4Addr::UNSPECIFIED).then_some((run, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: HostRun = HostRun { host: HostId(3), number: 0xfeed };

    #[test]
    fn keys_are_what_they_were_written_as() {
        let table = TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() };
        let record = RecordKey { by: ShardRun { run: RUN, shard: 2 }, number: 17 };
        let of = SnapshotId { covers: Revision(900), by: RUN };
        for (key, written) in [
            (FleetKey::Owner(table), "own/203.0.113.5/192.0.2.7"),
            (FleetKey::Record(record), "log/3/000000000000feed/2/00000000000000000017"),
            (FleetKey::Snapshot(table), "snap/203.0.113.5/192.0.2.7"),
            (
                FleetKey::Part(PartKey { table, of, number: 4 }),
                "part/203.0.113.5/192.0.2.7/00000000000000000900/3/000000000000feed/000004",
            ),
            (FleetKey::Cursor(HostId(3)), "cursor/3"),
            (FleetKey::Folded, "folded"),
            (FleetKey::Host(HostId(3)), "host/3"),
            (FleetKey::Run(HostId(3)), "run/3"),
            (FleetKey::Secret(0), "secret/0"),
        ] {
            assert_eq!(key.to_string(), written);
            assert_eq!(FleetKey::parse(written.as_bytes()), Some(key));
            assert_eq!(FleetKey::parse(format!("{written}/1").as_bytes()), None);
            for end in 0..written.len() {
                // Nothing that is cut off in a word is another key of that kind, but for numbers.
                let _ = FleetKey::parse(&written.as_bytes()[..end]);
            }
        }
        for other in ["", "own", "own/203.0.113.5", "later/1", "host/x", "\u{ff}"] {
            assert_eq!(FleetKey::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn values_are_what_they_were_written_as() {
        for cause in [Cause::New, Cause::Lost, Cause::Given] {
            let claim = Claim { owner: RUN, cause, by: (HostRun { host: HostId(4), ..RUN }, 9) };
            assert_eq!(claim_in(claim_value(&claim).as_bytes()), Some(claim));
        }
        assert_eq!(claim_in(b"3 000000000000feed new 3 000000000000feed"), None);
        assert_eq!(claim_in(b"3 000000000000feed other 3 000000000000feed 1"), None);
        let at: SocketAddrV4 = "198.51.100.1:64065".parse().unwrap();
        assert_eq!(host_value(RUN, at), "000000000000feed 198.51.100.1:64065");
        assert_eq!(host_in(RUN.host, host_value(RUN, at).as_bytes()), Some((RUN, at)));
        assert_eq!(host_in(RUN.host, b"000000000000feed 0.0.0.0:1"), None);
    }

    #[test]
    fn what_says_how_far_snapshots_are_is_read_again() {
        let id = SnapshotId { covers: Revision(900), by: RUN };
        let snapshot = TableSnapshot { id, parts: 4, octets: 4_000_000 };
        assert_eq!(snapshot.value(), "900 3 000000000000feed 4 4000000");
        assert_eq!(TableSnapshot::parse(snapshot.value().as_bytes()), Some(snapshot));
        let folded = Folded { at: Revision(900), log: 17, snapshots: 4_000_000 };
        assert_eq!(folded.value(), "900 17 4000000");
        assert_eq!(Folded::parse(folded.value().as_bytes()), Some(folded));
        for other in ["", "900", "900 17 4000000 1", "x 17 4000000"] {
            assert_eq!(Folded::parse(other.as_bytes()), None);
            assert_eq!(TableSnapshot::parse(other.as_bytes()), None);
        }
    }

    #[test]
    fn a_name_of_a_cell_is_one_word_of_a_key() {
        for name in ["a", "Paris-1.x_y"] {
            assert_eq!(CellName::from_str(name).unwrap().prefix(), format!("nat64handoff/{name}/"));
        }
        for name in ["", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(CellName::from_str(name).is_err(), "{name}");
        }
    }
}
