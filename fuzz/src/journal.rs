//! The target `journal`: the codec of the journal, and all reading of a state directory at start.
//!
//! The first octet of an input says which of three it is:
//! - octets that are read as a header, as a record's body behind checksums that fit, and as a file;
//! - a program that writes the files of a state directory, and then flips octets of them: what
//!   `Storage::open_at` has to say of that is known exactly;
//! - the same, and any other damage: what it replays must be what was written, in order, from the beginning.
//!
//! Octets are never made up where a checksum covers them: the fuzzer could make up the checksum as well.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nat64handoff::disk::fs::{Boot, Disk, DiskFile};
use nat64handoff::disk::journal::{
    self, BODY_MAX, Encoder, FileId, FileKind, HEADER_LENGTH, Header, Position,
    RECORD_HEADER_LENGTH, Record, RecordNumber, changes_in, encode_change,
};
use nat64handoff::disk::storage::{
    Storage, StorageConfig, StorageError, SyncPolicy, check_at, repair_at,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use nat64handoff::handoff::message::Prefix96;
use nat64handoff::handoff::opaque::{Authenticator, Token};

const ROOT: &str = "/state";
const EPOCH: u64 = 3;
const HANDOFF_PORT: u16 = 64064;
/// Of a journal; snapshots have as many at the most, too.
const RECORDS_MAX: u8 = 24;
/// So few octets cannot be changed to fit a CRC but by an unlikely chance.
const FLIPS_MAX: u8 = 3;
const DAMAGES_MAX: u8 = 6;
const BOOT: Boot = [1; 16];

/// `data` is one of the three above.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => codec(input.0),
        1 => flipped(&mut input),
        _ => damaged(&mut input),
    }
}

/// What an input says, octet by octet. Zeros follow it.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound.max(1)
    }
}

/// As RFC 3720 has it, bit by bit.
fn crc32c(octets: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for octet in octets {
        crc ^= u32::from(*octet);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

// --- Octets

fn codec(octets: &[u8]) {
    if let Ok(header) = Header::decode(octets) {
        assert_eq!(octets[..HEADER_LENGTH], header.encode());
    }
    let id = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 0 };
    let (mut at, mut records) = (0, 0);
    while at < octets.len() {
        match Record::decode(&octets[at..], id.seal(&BOOT)) {
            Ok(record) => {
                assert!((RECORD_HEADER_LENGTH + 1..=octets.len() - at).contains(&record.length));
                at += record.length;
            }
            Err(_) => at += 1,
        }
        records += 1;
    }
    assert!(records <= octets.len());
    body(octets, id);
}

/// Behind a header that fits.
fn body(octets: &[u8], id: FileId) {
    let mut file = Vec::new();
    let position = Position { record: RecordNumber(7), event: 9 };
    let time = Timestamp::from_micros(1);
    if octets.is_empty() || octets.len() > BODY_MAX {
        return;
    }
    // Of any record, with another body, length and checksums.
    let key = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
    let mut encoder = Encoder::new(&mut file, id.seal(&BOOT), position, RecordNumber(6), time);
    encoder.add(key, &Change::Initialized);
    encoder.finish();
    file.truncate(RECORD_HEADER_LENGTH);
    file[..4].copy_from_slice(&(octets.len() as u32).to_be_bytes());
    file[36..40].copy_from_slice(&crc32c(octets).to_be_bytes());
    let sealed = [&seal_octets(id)[..], &file[..40]].concat();
    // The seal's checksum goes on into the header's.
    file[40..].copy_from_slice(&crc32c(&sealed).to_be_bytes());
    file.extend_from_slice(octets);
    let record = match Record::decode(&file, id.seal(&BOOT)) {
        Ok(record) => record,
        Err(error) => return assert_eq!(error, journal::Invalid::Meaning),
    };
    assert_eq!((record.number, record.event, record.length), (RecordNumber(7), 9, file.len()));
    let mut events = 0;
    let mut changes = record.changes();
    for (table, raw) in record.changes().raw() {
        let change = raw.decode().expect("a whole change");
        assert_eq!(changes.next(), Some((table, change.clone())));
        let mut again = Vec::new();
        encode_change(&mut again, &change);
        assert_eq!(raw.octets(), again);
        assert!(changes_in(&again).eq([change.clone()]));
        assert_eq!(raw.is_event(), change.is_event());
        assert_eq!(raw.is_initialized(), change == Change::Initialized);
        events += u64::from(change.is_event());
    }
    assert_eq!(changes.next(), None);
    assert_eq!(record.events(), events);
    assert!(!record.is_end() || octets == [10]);
    // Written anew, what it says is the same.
    let changes: Vec<_> = record.changes().collect();
    let (mut anew, mut position) = (Vec::new(), position);
    journal::encode(&mut anew, id.seal(&BOOT), &mut position, RecordNumber(6), time, &changes);
    if let Ok(again) = Record::decode(&anew, id.seal(&BOOT)) {
        assert!(again.changes().eq(changes.iter().cloned()) || again.length < anew.len());
    } else {
        assert!(changes.is_empty());
    }
}

/// What the doc says of a seal.
fn seal_octets(id: FileId) -> [u8; 35] {
    let mut octets = [0; 35];
    octets[0] = id.kind as u8;
    octets[1..3].copy_from_slice(&id.shard.to_be_bytes());
    octets[3..11].copy_from_slice(&id.epoch.to_be_bytes());
    octets[11..19].copy_from_slice(&id.number.to_be_bytes());
    octets[19..].copy_from_slice(&BOOT);
    octets
}

// --- A disk

/// Files in memory. Everything is durable at once.
#[derive(Clone, Default)]
struct Memory {
    files: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
    boot: Boot,
}

type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Debug)]
struct File(Content);

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Memory {
    fn put(&self, path: PathBuf, content: Vec<u8>) {
        self.files.lock().unwrap().insert(path, Arc::new(Mutex::new(content)));
    }

    fn content(&self, path: &Path) -> Vec<u8> {
        self.files.lock().unwrap()[path].lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.files.lock().unwrap().keys().cloned().collect()
    }
}

impl Disk for Memory {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let depth = directory.components().count();
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.starts_with(directory));
        let mut names: Vec<_> =
            inside.filter_map(|path| Some(path.iter().nth(depth)?.to_owned())).collect();
        names.dedup();
        Ok(names)
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.put(path.to_owned(), Vec::new());
        self.open(path, true)
    }

    fn open(&self, path: &Path, _: bool) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.files.lock().unwrap();
        Ok(Arc::new(File(Arc::clone(files.get(path).ok_or_else(not_found)?))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let inside: Vec<_> = files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in inside {
            let content = files.remove(&path).unwrap();
            let rest = path.strip_prefix(from).unwrap();
            files.insert(if path == from { to.to_owned() } else { to.join(rest) }, content);
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().unwrap().remove(path).ok_or_else(not_found).map(drop)
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn boot(&self) -> Boot {
        self.boot
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let rest = content.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        let mut content = self.0.lock().unwrap();
        let end = offset as usize + octets.len();
        let length = content.len().max(end);
        content.resize(length, 0);
        content[offset as usize..end].copy_from_slice(octets);
        Ok(octets.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}

// --- Files, written

/// A change, when and where.
type Happened = (Timestamp, TableKey, Change);

/// A record of a segment.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    /// Where it begins and ends in its file.
    range: std::ops::Range<usize>,
    number: u64,
    synced: u64,
    changes: Vec<Happened>,
}

/// What was written for a shard, in order.
#[derive(Default)]
struct Shard {
    snapshot: Vec<Happened>,
    records: Vec<Written>,
}

struct State {
    disk: Memory,
    shards: Vec<Shard>,
    /// Whether the power was cut, as far as files and machine can tell.
    power_cut: bool,
    /// Whether to repair it in the end, which takes long.
    repairs: bool,
}

fn key(shard: u8, n: u8) -> TableKey {
    TableKey { local: Ipv4Addr::new(203, 0, 113, n), nat64: Ipv4Addr::new(192, 0, n, shard) }
}

fn shard_of(nat64: Ipv4Addr) -> usize {
    usize::from(nat64.octets()[3])
}

/// Entries by port, with the port's control identity, if it is one: what live servers keep apart.
#[derive(Default)]
struct Known(BTreeMap<TableKey, BTreeMap<u16, Option<Client>>>);

impl Known {
    /// A change that a server could make.
    fn change(&mut self, table: TableKey, input: &mut Input<'_>) -> Change {
        let Some(ports) = self.0.get_mut(&table) else {
            self.0.insert(table, BTreeMap::new());
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
}

fn time(n: u64) -> Timestamp {
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
            let table = key(shard, input.u8() % 3);
            (table, known.change(table, input))
        })
        .collect()
}

impl State {
    /// What `input` says.
    fn write(input: &mut Input<'_>) -> Self {
        let options = input.u8();
        let boots: [Boot; 3] = [[1; 16], [2; 16], [0; 16]];
        let (then, now) = (options & 3, options >> 2 & 3);
        let boot_then = boots[usize::from(then % 3)];
        let disk = Memory { boot: boots[usize::from(now % 3)], ..Memory::default() };
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
        for n in 0..input.u8() % 3 {
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

    /// What replaying all up to so many records gives.
    fn up_to(&self, records: usize) -> Vec<Happened> {
        let records = self.records[..records].iter().flat_map(|record| &record.changes);
        self.snapshot.iter().chain(records).cloned().collect()
    }
}

// --- Files, read

/// What comes of a start: what was replayed, and how many ends were cut off.
struct Start {
    replayed: Vec<Vec<Happened>>,
    cuts: Result<Vec<(PathBuf, u64, u64)>, StorageError>,
}

fn start(disk: &Memory, shards: usize) -> Start {
    let mut config = StorageConfig::new(shards, HANDOFF_PORT, SyncPolicy::Always);
    config.threads = false;
    let mut replayed: Vec<Vec<Happened>> = vec![Vec::new(); shards];
    let mut replays: Vec<_> = replayed
        .iter_mut()
        .map(|shard| {
            |at: Timestamp, table: TableKey, change: &Change| {
                shard.push((at, table, change.clone()));
            }
        })
        .collect();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = Storage::open_at(disk, Path::new(ROOT), config, shard_of, |_| None, &mut replays);
    let cuts = opened.map(|opened| {
        let cut = |cut: nat64handoff::disk::storage::Cut| (cut.file, cut.offset, cut.records);
        opened.report.cuts.into_iter().map(cut).collect()
    });
    Start { replayed, cuts }
}

impl State {
    /// Nothing that was not written, nothing out of order, nothing left out but at the end.
    fn start(&self) -> Start {
        let found = start(&self.disk, self.shards.len());
        for (shard, replayed) in self.shards.iter().zip(&found.replayed) {
            let written = shard.up_to(shard.records.len());
            assert!(written.starts_with(replayed), "{replayed:?} of {written:?}");
        }
        found
    }

    /// A check finds what a start does, and a repair makes it good.
    fn repair(&self, good: bool) {
        let root = Path::new(ROOT);
        let checked = check_at(&self.disk, root).unwrap();
        assert_eq!(checked.is_good(), good, "{checked}");
        assert!(good || checked.epoch.is_some());
        if !self.repairs {
            return;
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let repaired = repair_at(&disk, root, time(10)).unwrap();
        let checked = check_at(&self.disk, root).unwrap();
        assert!(checked.is_good(), "{repaired}{checked}");
        let again = start(&self.disk, self.shards.len());
        if let Err(error) = again.cuts {
            panic!("{repaired}{error}");
        }
    }
}

fn flipped(input: &mut Input<'_>) {
    let state = State::write(input);
    let mut paths = state.disk.paths();
    paths.retain(|path| !path.ends_with("log.cursor"));
    let mut flips: BTreeMap<(PathBuf, usize), u8> = BTreeMap::new();
    for _ in 0..input.u8() % (FLIPS_MAX + 1) {
        let path = paths[input.below(paths.len())].clone();
        let at = input.below(state.disk.content(&path).len());
        *flips.entry((path, at)).or_default() ^= input.u8();
    }
    flips.retain(|_, flip| *flip != 0);
    for ((path, at), flip) in &flips {
        let mut content = state.disk.content(path);
        content[*at] ^= flip;
        state.disk.put(path.clone(), content);
    }
    let is_hit = |record: &Written| {
        flips.keys().any(|(path, at)| *path == record.path && record.range.contains(at))
    };
    // Only records of segments can be torn.
    let mut good = flips.keys().all(|(path, at)| {
        path.extension().is_some_and(|extension| extension == "journal") && *at >= HEADER_LENGTH
    });
    let mut cuts = Vec::new();
    let mut kept = Vec::new();
    for shard in &state.shards {
        let hit = shard.records.iter().position(is_hit);
        kept.push(shard.up_to(hit.unwrap_or(shard.records.len())));
        let Some(hit) = hit else { continue };
        let behind = shard.records[hit..].iter().filter(|record| !is_hit(record));
        let expected = shard.records[hit].number;
        let synced = behind.clone().map(|record| record.synced).max();
        good &= synced.is_none_or(|synced| state.power_cut && synced < expected);
        let first = &shard.records[hit];
        cuts.push((first.path.clone(), first.range.start as u64, behind.count() as u64));
    }
    let found = state.start();
    match found.cuts {
        Ok(found_cuts) => {
            assert!(good, "{flips:?} unnoticed, cut {found_cuts:?}");
            assert_eq!(found_cuts, cuts);
            assert_eq!(found.replayed, kept);
            // What was cut is gone, and not reported again.
            let again = state.start();
            assert!(again.cuts.unwrap().is_empty());
            assert_eq!(again.replayed, kept);
        }
        Err(error) => assert!(!good, "{error}"),
    }
    state.repair(good);
}

/// Each keeps to octets that were written, or zeros.
fn damaged(input: &mut Input<'_>) {
    let state = State::write(input);
    let mut paths = state.disk.paths();
    paths.retain(|path| !path.ends_with("log.cursor") && !path.ends_with("current"));
    let records: Vec<&Written> = state.shards.iter().flat_map(|shard| &shard.records).collect();
    for _ in 0..input.u8() % (DAMAGES_MAX + 1) {
        let path = &paths[input.below(paths.len())];
        let mut content = state
            .disk
            .files
            .lock()
            .unwrap()
            .get(path)
            .map_or_else(Vec::new, |content| content.lock().unwrap().clone());
        let (kind, at) = (input.u8() % 8, input.below(content.len() + 1));
        let record = |input: &mut Input<'_>| {
            let record = records.get(input.below(records.len()))?;
            let file = state.disk.files.lock().unwrap().get(&record.path).cloned()?;
            let file = file.lock().unwrap();
            Some((file.get(record.range.clone())?.to_vec(), *record))
        };
        match kind {
            0 => content.truncate(at),
            1 => {
                let end = (at + input.below(400)).min(content.len());
                content[at..end].fill(0);
            }
            2 => content.extend(std::iter::repeat_n(0, input.below(300))),
            3 => {
                // A piece of the same file, elsewhere, over what is there or between.
                let from = input.below(content.len() + 1);
                let piece = content[from..(from + input.below(300)).min(content.len())].to_vec();
                let over = if input.u8() & 1 == 1 { piece.len() } else { 0 };
                let end = (at + over).min(content.len());
                content.splice(at..end, piece);
            }
            4 => {
                // A record once more, of this file or of another.
                let Some((octets, _)) = record(input) else { continue };
                let at = if input.u8() & 1 == 1 { content.len() } else { at };
                content.splice(at..at, octets);
            }
            5 => {
                // Two records of one file change places.
                let Some((_, a)) = record(input) else { continue };
                let Some((_, b)) = record(input) else { continue };
                let (a, b) = if a.range.start <= b.range.start { (a, b) } else { (b, a) };
                if a.path != b.path || a.number == b.number {
                    continue;
                }
                let mut content = state.disk.content(&a.path);
                let (Some(first), Some(second)) =
                    (content.get(a.range.clone()), content.get(b.range.clone()))
                else {
                    continue;
                };
                let (first, second) = (first.to_vec(), second.to_vec());
                content.splice(b.range.clone(), first);
                content.splice(a.range.clone(), second);
                state.disk.put(a.path.clone(), content);
                continue;
            }
            6 => {
                let Some(octet) = content.get_mut(at) else { continue };
                *octet ^= 1 << (input.u8() % 8);
            }
            _ => {
                drop(state.disk.remove(path));
                continue;
            }
        }
        state.disk.put(path.clone(), content);
    }
    let found = state.start();
    if found.cuts.is_ok() {
        let again = state.start();
        assert!(again.cuts.unwrap().is_empty());
        assert_eq!(again.replayed, found.replayed);
    }
    state.repair(found.cuts.is_ok());
}
