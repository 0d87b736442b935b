//! A program that writes the files of a state directory, and what they say.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use nat64handoff::disk::fs::Boot;
use nat64handoff::disk::journal::{
    self, Encoder, FileId, FileKind, Header, Position, RecordNumber, VERSION,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::opaque::{Authenticator, Token};
use nat64handoff::ip::address::Prefix96;

use super::codec::crc32c;
use super::input::Input;
use super::memory::Memory;

pub const ROOT: &str = "/state";
pub const HANDOFF_PORT: u16 = 64064;
const EPOCH: u64 = 3;
/// Of a journal; snapshots have at most as many.
const RECORDS_MAX: u8 = 24;

/// A change, when and where.
pub type Happened = (Timestamp, TableKey, Change);

/// A record of a segment.
#[derive(Debug)]
pub struct Written {
    pub path: PathBuf,
    /// Where it begins and ends in its file.
    pub range: std::ops::Range<usize>,
    pub number: u64,
    pub synced: u64,
    pub changes: Vec<Happened>,
}

/// What was written for a shard, in order.
#[derive(Default)]
pub struct Shard {
    snapshot: Vec<Happened>,
    pub records: Vec<Written>,
}

pub struct State {
    pub disk: Memory,
    pub shards: Vec<Shard>,
    /// Whether the power was cut, as far as files and machine can tell.
    pub power_cut: bool,
    /// Whether to repair it in the end, which takes long.
    pub repairs: bool,
}

/// A table of a NAT64; the last one of a shard is a block of the pool.
fn key(shard: u8, n: u8) -> TableKey {
    if n == 3 {
        return TableKey::block_of(pool(shard, 0));
    }
    TableKey { local: Ipv4Addr::new(203, 0, 113, n), nat64: Ipv4Addr::new(192, 0, n, shard) }
}

fn pool(shard: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, shard, n)
}

pub fn shard_of(nat64: Ipv4Addr) -> usize {
    match nat64.octets() {
        [100, 64, shard, _] | [.., shard] => usize::from(shard),
    }
}

/// Entries by port, with the port's control identity, if it is one: what live servers keep apart.
#[derive(Default)]
struct Known {
    ports: BTreeMap<TableKey, BTreeMap<u16, Option<Client>>>,
    /// Addresses of the block, and whom they stand for: all of a /64, or one.
    names: BTreeMap<u8, (Ipv6Addr, bool)>,
}

impl Known {
    /// A change that a server could make.
    fn change(&mut self, table: TableKey, input: &mut Input<'_>) -> Change {
        if table.is_block() {
            return self.name(table, input);
        }
        let Some(ports) = self.ports.get_mut(&table) else {
            self.ports.insert(table, BTreeMap::new());
            return Change::Initialized;
        };
        let (kind, n) = (input.u8(), input.u8());
        let number = 2000 + u16::from(n & 7);
        let client = Client {
            prefix: Prefix96([n >> 7; 12]),
            address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n >> 4 & 7)),
            port: 1000,
        };
        let port = MappedPort(number);
        let there = ports.get(&number).copied();
        match kind % 8 {
            0 | 1 if there.is_none() && !ports.values().any(|other| *other == Some(client)) => {
                ports.insert(number, Some(client));
                Change::Created { port, client }
            }
            2 if let Some(Some(client)) = there => {
                ports.remove(&number);
                Change::Deleted { port, client }
            }
            3 if there.is_none_or(|there| there.is_none())
                && ports.values().flatten().count() < 8 =>
            {
                ports.insert(number, None);
                let token = Token::new(&vec![n; usize::from(kind >> 3) * 16]).unwrap();
                Change::IdentityKnown { port: ControlPort(number), token }
            }
            4 => Change::Used { port },
            5 => {
                let authenticator =
                    Authenticator::new(&vec![n; usize::from(kind >> 3) * 4]).unwrap();
                Change::AuthenticatorLearned { address: client.address, authenticator }
            }
            6 if there == Some(None) => Change::IdentityForgotten {
                port: ControlPort(number),
                token: Token::new(&[n; 2]).unwrap(),
            },
            _ => Change::Conflict { port, client },
        }
    }

    fn name(&mut self, block: TableKey, input: &mut Input<'_>) -> Change {
        let n = input.u8();
        let address = pool(block.nat64.octets()[2], n & 7);
        let net = |(client, all): (Ipv6Addr, bool)| match all {
            true => format!("{client}/64").parse().unwrap(),
            false => client.into(),
        };
        if let Some(client) = self.names.remove(&(n & 7)) {
            return Change::Unnamed { address, client: net(client) };
        }
        let client = (Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(n >> 4), 0, 0, 0, 0), n & 8 == 0);
        self.names.insert(n & 7, client);
        Change::Named { address, client: net(client) }
    }
}

pub fn time(n: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + n)
}

fn changes_of(
    shard: u8,
    count: u8,
    known: &mut Known,
    input: &mut Input<'_>,
) -> Vec<(TableKey, Change)> {
    (0..count)
        .map(|_| {
            let table = key(shard, input.u8() % 4);
            (table, known.change(table, input))
        })
        .collect()
}

impl State {
    /// What `input` says.
    pub fn write(input: &mut Input<'_>) -> Self {
        let options = input.u8();
        let boots: [Boot; 3] = [[1; 16], [2; 16], [0; 16]];
        let (then, now) = (options & 3, options >> 2 & 3);
        let boot_then = boots[usize::from(then % 3)];
        let disk = Memory::new(boots[usize::from(now % 3)]);
        let power_cut = boot_then != disk.boot && boot_then != [0; 16] && disk.boot != [0; 16];
        let name = format!("epoch-{EPOCH}");
        let current = format!("{name} {:08x}\n", crc32c(name.as_bytes()));
        disk.put(Path::new(ROOT).join("current"), current.into_bytes());
        // Without any file there is no folder here.
        disk.put(Path::new(ROOT).join(name).join("log.cursor"), Vec::new());
        let count = 1 + u16::from(options >> 4 & 1);
        let mut shards = Vec::new();
        for number in 0..count {
            let header = |id| Header {
                version: VERSION,
                id,
                shards: count,
                handoff_port: HANDOFF_PORT,
                time: time(0),
                boot: boot_then,
                next_record: RecordNumber(u64::from(id.kind == FileKind::Snapshot) * 5),
                next_event: u64::from(id.kind == FileKind::Snapshot) * 11,
            };
            shards.push(Shard::write(&disk, number, &header, input));
        }
        Self { disk, shards, power_cut, repairs: options & 0xe0 == 0x20 }
    }
}

fn path_of(id: FileId) -> PathBuf {
    let kind = if id.kind == FileKind::Segment { "journal" } else { "snapshot" };
    let name = format!("{:02}-{:08}.{kind}", id.shard, id.number);
    Path::new(ROOT).join(format!("epoch-{EPOCH}")).join(name)
}

impl Shard {
    fn write(
        disk: &Memory,
        number: u16,
        header: &dyn Fn(FileId) -> Header,
        input: &mut Input<'_>,
    ) -> Self {
        let mut shard = Self::default();
        let mut known = Known::default();
        let first = u64::from(input.u8() & 1);
        let id = FileId { kind: FileKind::Snapshot, epoch: EPOCH, shard: number, number: first };
        let boot = &header(id).boot;
        let mut octets = header(id).encode().to_vec();
        let mut position = Position { record: RecordNumber(1), event: 0 };
        let tables = input.u8();
        let in_order = [3, 0, 1, 2].into_iter().skip(usize::from(tables >> 7));
        for n in in_order.take(usize::from(tables % 4)) {
            // One table after the other.
            let table = key(number as u8, n);
            let count = 1 + input.u8() % 4;
            let synced = RecordNumber(position.record.0 - 1);
            let at = time(u64::from(n));
            let mut record = Encoder::new(&mut octets, id.seal(boot), position, synced, at);
            for _ in 0..count {
                let change = known.change(table, input);
                record.add(table, &change);
                shard.snapshot.push((at, table, change));
            }
            position.record = record.finish_without_events().record;
        }
        let none = RecordNumber(0);
        journal::encode_end(&mut octets, id.seal(boot), &mut position, none, time(9));
        disk.put(path_of(id), octets);

        let mut position = Position { record: RecordNumber(5), event: 11 };
        let segments = 1 + u64::from(input.u8() % 3);
        for segment in first..first + segments {
            let id = FileId { kind: FileKind::Segment, number: segment, ..id };
            let mut octets = header(id).encode().to_vec();
            for _ in 0..input.u8() % (RECORDS_MAX / 3) {
                let (start, before) = (octets.len(), position);
                let at = time(input.u16().into());
                let count = 1 + input.u8() % 4;
                // What was synced by then: never more than is written, nor less than before.
                let least = shard.records.last().map_or(0, |record| record.synced);
                let synced =
                    (before.record.0 - 1).saturating_sub(u64::from(input.u8() % 4)).max(least);
                let changes = changes_of(number as u8, count, &mut known, input);
                let synced_by = RecordNumber(synced);
                journal::encode(&mut octets, id.seal(boot), &mut position, synced_by, at, &changes);
                assert_eq!(position.record, before.record.next());
                let changes =
                    changes.into_iter().map(|(table, change)| (at, table, change)).collect();
                let (path, range) = (path_of(id), start..octets.len());
                let number = before.record.0;
                shard.records.push(Written { path, range, number, synced, changes });
            }
            if input.u8() & 1 == 1 {
                let (start, number) = (octets.len(), position.record.0);
                let synced = shard.records.last().map_or(0, |record| record.synced);
                let synced_by = RecordNumber(synced);
                journal::encode_end(&mut octets, id.seal(boot), &mut position, synced_by, time(9));
                let (path, range) = (path_of(id), start..octets.len());
                shard.records.push(Written { path, range, number, synced, changes: Vec::new() });
            }
            disk.put(path_of(id), octets);
        }
        shard
    }

    /// What a replay of the first `records` records gives.
    pub fn up_to(&self, records: usize) -> Vec<Happened> {
        let records = self.records[..records].iter().flat_map(|record| &record.changes);
        self.snapshot.iter().chain(records).cloned().collect()
    }
}
