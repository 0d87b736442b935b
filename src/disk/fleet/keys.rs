//! Names of what stands in the engine, and short values, so that `etcdctl get` shows them.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::{self, FromStr, Split};

use super::ShardRun;
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{Cause, Claim, HostId, HostRun};

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

/// A key of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetKey {
    /// Who owns a table.
    Owner(TableKey),
    Record(RecordKey),
    Host(HostId),
    Secret(u32),
}

impl fmt::Display for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(TableKey { local, nat64 }) => write!(f, "own/{local}/{nat64}"),
            Self::Record(RecordKey { by: ShardRun { run, shard }, number }) => {
                let HostRun { host, number: run } = run;
                write!(f, "log/{}/{run:016x}/{shard}/{number:020}", host.0)
            }
            Self::Host(host) => write!(f, "host/{}", host.0),
            Self::Secret(number) => write!(f, "secret/{number}"),
        }
    }
}

impl FleetKey {
    /// The key that was written so. `None` for one of a later version.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(key).ok()?.split('/');
        let key = match words.next()? {
            "own" => {
                let [local, nat64] = [next(&mut words)?, next(&mut words)?];
                Self::Owner(TableKey { local, nat64 })
            }
            "log" => {
                let (host, run) = (HostId(next(&mut words)?), run_number(words.next()?)?);
                let (shard, number) = (next(&mut words)?, next(&mut words)?);
                let by = ShardRun { run: HostRun { host, number: run }, shard };
                Self::Record(RecordKey { by, number })
            }
            "host" => Self::Host(HostId(next(&mut words)?)),
            "secret" => Self::Secret(next(&mut words)?),
            _ => return None,
        };
        words.next().is_none().then_some(key)
    }
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
        for (key, written) in [
            (FleetKey::Owner(table), "own/203.0.113.5/192.0.2.7"),
            (FleetKey::Record(record), "log/3/000000000000feed/2/00000000000000000017"),
            (FleetKey::Host(HostId(3)), "host/3"),
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
    fn a_name_of_a_cell_is_one_word_of_a_key() {
        for name in ["a", "Paris-1.x_y"] {
            assert_eq!(CellName::from_str(name).unwrap().prefix(), format!("nat64handoff/{name}/"));
        }
        for name in ["", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
            assert!(CellName::from_str(name).is_err(), "{name}");
        }
    }
}
