//! The names of peers (`--peer-names`), kept as the tables are: see
//! [`crate::kernel::bpf::peer_names`].
//!
//! Names follow what was recorded, before it is announced: an entry that comes has its name before
//! its NAT64 is told of it, and the name of one that goes is taken away, or becomes that of whoever
//! has the port then, before the NAT64 can know of that. So at any instant, also at that of a kill,
//! a name that is there is of the client that the NAT64 has there. One that should be there may be
//! missing, until the next start.
//!
//! A start compares the names that it finds with the tables that it has read: what is right stays,
//! and meanwhile a short restart is not noticed. Names count only for some seconds after the server
//! last said that it is there.
//!
//! A map that is full, or that refuses a name, leaves the entry without one, which is counted.
//! Where a name cannot be taken away, it is not true any more: then none is valid until a restart.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::handoff::change::{Change, Event, EventKind};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::server::{SEEN_ENTRIES_MAX, SEEN_TABLES_MAX, Server};
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::peer_names::{self, NAMES, PeerName, STATE};
use crate::kernel::bpf::{BpfError, BpfMap};
use crate::kernel::clock;
use crate::kernel::socket::steered_to;
use crate::programs::peer_names::{NAMES_FILE, STATE_FILE};

/// How long names are valid after the server last said that it is there, which it does each second:
/// longer than a restart takes after a kill.
const VALID_FOR: Duration = Duration::from_secs(5);
/// The same after a stop, where a service manager keeps the sockets: longer than a restart takes.
/// Where nobody keeps them, NAT64s go on by themselves at once.
const VALID_AFTER: Duration = Duration::from_secs(2);
/// Names that are given at once at the start.
const FILL_AT_ONCE: usize = 8192;
const PORTS: usize = 1 << 16;

/// Why names cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}; {cure}", path.display())]
pub struct NamesError {
    path: PathBuf,
    cause: BpfError,
    cure: &'static str,
}

impl NamesError {
    fn of(path: &Path, cause: BpfError) -> Self {
        let cure = match cause.cause.kind() {
            // The kernel says so of the call, and the file of itself.
            ErrorKind::PermissionDenied if cause.cause.raw_os_error() == Some(libc::EPERM) => {
                "this user may make no such call: it takes Linux 6.0 (or kernel.unprivileged_bpf_disabled=0), \
                 and the service SystemCallFilter=bpf"
            }
            ErrorKind::PermissionDenied => {
                "the maps are another user's: attach them anew for this one (as root: nat64handoff \
                 peer-names attach --user NAME), and restart the server"
            }
            ErrorKind::NotFound => {
                "attach them (as root: nat64handoff peer-names attach), and restart the server"
            }
            _ => {
                "attach them anew (as root: nat64handoff peer-names detach, then attach), and restart the \
                 server"
            }
        };
        Self { path: path.to_owned(), cause, cure }
    }
}

/// Why peers have no names any more.
#[derive(Debug, thiserror::Error)]
pub enum NamesLost {
    /// One that is not true could not be taken away.
    #[error("the kernel refuses to remove one")]
    Stale,
    /// The kernel does not take them.
    #[error(transparent)]
    Refused(#[from] BpfError),
    /// By a server with another state directory.
    #[error("another server writes into the same maps, and each wants its own (--peer-maps)")]
    Taken,
    /// By `peer-names detach`, or `attach` with another size.
    #[error("their maps were removed, or made anew")]
    Replaced,
}

/// Where names are: the maps of the kernel, or a test's.
pub trait NameMap {
    /// As [`BpfMap::set_all`].
    fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>);

    /// As [`BpfMap::remove_all`].
    ///
    /// # Errors
    /// As there.
    fn remove_all(&self, keys: &[u8]) -> Result<(), BpfError>;

    /// From now on, no name is valid.
    fn give_up(&self);
}

/// The maps of the kernel, for all reactors.
#[derive(Debug)]
pub struct NameMaps {
    names: BpfMap,
    state: BpfMap,
    generation: u32,
    /// A name that is not true could not be taken away.
    failed: AtomicBool,
}

impl NameMaps {
    /// Says for how long names are valid from now on.
    fn publish(&self, valid: Duration) -> Result<(), BpfError> {
        let set = |valid: Duration| {
            let until = if valid.is_zero() { Duration::ZERO } else { clock::since_boot() + valid };
            let until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
            self.state.set(&[0; STATE.key_octets], &peer_names::state(self.generation, until))
        };
        set(valid)?;
        // A reactor may have given them up since.
        if self.failed.load(Ordering::SeqCst) { set(Duration::ZERO) } else { Ok(()) }
    }
}

impl NameMap for Arc<NameMaps> {
    fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>) {
        self.names.set_all(keys, values)
    }

    fn remove_all(&self, keys: &[u8]) -> Result<(), BpfError> {
        self.names.remove_all(keys)
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::SeqCst);
        // Where the kernel refuses that, too, the time goes by.
        let _ = self.publish(Duration::ZERO);
    }
}

/// The names of all reactors.
pub struct Names {
    maps: Arc<NameMaps>,
    /// Where the state is pinned, and which file that is.
    pinned: PathBuf,
    number: u64,
}

impl Names {
    /// Opens the maps that are pinned in this directory, for the server with this state.
    ///
    /// # Errors
    /// Where they are not there, or not this user's, or another version's.
    pub fn open(maps: &Path, state: &Path) -> Result<Self, NamesError> {
        let open = |file, shape| {
            let path = maps.join(file);
            BpfMap::open(&path, shape).map_err(|cause| NamesError::of(&path, cause))
        };
        let (names, state_map) = (open(NAMES_FILE, NAMES)?, open(STATE_FILE, STATE)?);
        let pinned = maps.join(STATE_FILE);
        let number = fs::metadata(&pinned).map_or(0, |file| file.ino());
        let (generation, failed) = (generation_of(state), AtomicBool::new(false));
        let maps = Arc::new(NameMaps { names, state: state_map, generation, failed });
        Ok(Self { maps, pinned, number })
    }

    /// All entries have their names from now on, and nobody else has any. To be called before
    /// anything is announced.
    ///
    /// # Errors
    /// Where the kernel refuses to read or to change the maps.
    pub fn fill(&self, servers: &[Server], stats: &[Arc<Stats>]) -> Result<(), NamesError> {
        let filled = self.compare_and_fill(servers, stats);
        filled.map_err(|cause| NamesError::of(&self.pinned, cause))
    }

    fn compare_and_fill(&self, servers: &[Server], stats: &[Arc<Stats>]) -> Result<(), BpfError> {
        let (mut right, mut wrong) = (0, Vec::new());
        self.maps.names.walk(|key, value| match self.is_right(servers, key, value) {
            true => right += 1,
            false => wrong.extend_from_slice(key),
        })?;
        self.maps.names.remove_all(&wrong)?;
        let mut all = 0;
        for server in servers {
            each_table(server, |table| all += table.1);
        }
        if right < all {
            servers.iter().zip(stats).for_each(|(server, stats)| self.fill_from(server, stats));
        }
        self.maps.publish(VALID_FOR)
    }

    fn is_right(&self, servers: &[Server], key: &[u8], value: &[u8]) -> bool {
        let Some(key) = key.first_chunk() else { return false };
        let (table, port) = peer_names::read_key(key);
        let client = servers
            .get(steered_to(table.nat64, servers.len()))
            .and_then(|server| server.client_at(table, MappedPort(port)));
        client.is_some_and(|client| {
            value == peer_names::value(key, name_of(&client), self.maps.generation)
        })
    }

    fn fill_from(&self, server: &Server, stats: &Arc<Stats>) {
        let mut writer = self.writer(Arc::clone(stats));
        let mut entries = Vec::with_capacity(SEEN_ENTRIES_MAX);
        each_table(server, |(table, _)| {
            let mut from = Some(0);
            while let Some(place) = from {
                entries.clear();
                from = server.see_entries(table, place, &mut entries);
                entries.iter().for_each(|entry| writer.add(table, entry.port, &entry.client));
                if writer.waiting() >= FILL_AT_ONCE {
                    writer.write();
                }
            }
        });
        writer.write();
    }

    /// For a reactor.
    pub fn writer(&self, stats: Arc<Stats>) -> PeerNameWriter {
        NameWriter::new(Arc::clone(&self.maps), self.maps.generation, stats)
    }

    /// Says that the server is there. To be called every second or so.
    ///
    /// # Errors
    /// Why peers have no names any more.
    pub fn keep_valid(&self) -> Result<(), NamesLost> {
        if self.maps.failed.load(Ordering::SeqCst) {
            return Err(NamesLost::Stale);
        }
        if fs::metadata(&self.pinned).map_or(0, |file| file.ino()) != self.number {
            return Err(NamesLost::Replaced);
        }
        let state = self.maps.state.get(&[0; STATE.key_octets])?.unwrap_or_default();
        if peer_names::read_state(&state).0 != self.maps.generation {
            return Err(NamesLost::Taken);
        }
        Ok(self.maps.publish(VALID_FOR)?)
    }

    /// The server ends. While its sockets are kept for the next one, NAT64s wait for that, and go
    /// on with the entries that they have; else they go on by themselves.
    pub fn end(&self, is_kept: bool) {
        let valid = if is_kept { VALID_AFTER } else { Duration::ZERO };
        let state = self.maps.state.get(&[0; STATE.key_octets]).ok().flatten();
        let generation = state.map(|state| peer_names::read_state(&state).0);
        if generation == Some(self.maps.generation) {
            // Else they are another's, or end by themselves.
            let _ = self.maps.publish(valid);
        }
    }
}

/// A server with this state starts that keeps no names: those of one that did so before are not
/// true much longer.
pub fn forget(maps: &Path, state: &Path) {
    let Ok(map) = BpfMap::open(&maps.join(STATE_FILE), STATE) else { return };
    let generation = generation_of(state);
    let found = map.get(&[0; STATE.key_octets]).ok().flatten().unwrap_or_default();
    if peer_names::read_state(&found).0 == generation {
        // Where the kernel refuses, they end by themselves.
        let _ = map.set(&[0; STATE.key_octets], &peer_names::state(generation, 0));
    }
}

/// Which stands for a state directory, that one server at a time has: the names of the server that
/// had it before are those of its tables.
fn generation_of(state: &Path) -> u32 {
    let file = fs::metadata(state).map(|file| [file.dev(), file.ino()]);
    let mixed = file.unwrap_or_default().iter().fold(0_u64, |mixed, number| {
        (mixed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
    });
    ((mixed >> 32) as u32 ^ mixed as u32).max(1)
}

fn name_of(client: &Client) -> PeerName {
    PeerName { client: client.address, client_port: client.port, pool: None }
}

/// Calls `each` with the tables, and how many entries they have.
fn each_table(server: &Server, mut each: impl FnMut((TableKey, usize))) {
    let mut tables = Vec::with_capacity(SEEN_TABLES_MAX);
    let mut below = Some(usize::MAX);
    while let Some(place) = below {
        tables.clear();
        below = server.see_tables(place, &mut tables);
        tables.iter().for_each(|table| each((table.key, table.entries as usize)));
    }
}

/// Of the kernel's maps.
pub type PeerNameWriter = NameWriter<Arc<NameMaps>>;

/// A reactor's writer of names.
pub struct NameWriter<M> {
    map: M,
    generation: u32,
    stats: Arc<Stats>,
    /// Keys of names that are to go.
    going: Vec<u8>,
    /// Keys and values of names that come, after those have gone.
    keys: Vec<u8>,
    values: Vec<u8>,
    /// The ports in `keys`.
    ports: Box<[bool]>,
    /// Keys that the map did not take.
    refused: Vec<u8>,
}

impl<M: NameMap> NameWriter<M> {
    fn new(map: M, generation: u32, stats: Arc<Stats>) -> Self {
        Self {
            map,
            generation,
            stats,
            going: Vec::new(),
            keys: Vec::new(),
            values: Vec::new(),
            ports: vec![false; PORTS].into_boxed_slice(),
            refused: Vec::new(),
        }
    }

    /// After the changes were recorded, and before they are announced.
    pub fn follow(&mut self, changes: &[(TableKey, Change)]) {
        for (table, change) in changes {
            match change {
                Change::Created { port, client } => self.add(*table, *port, client),
                Change::Deleted { port, .. } => self.remove(*table, *port),
                _ => {}
            }
        }
        self.write();
    }

    /// The same, for changes that could not be recorded at once.
    pub fn follow_late(&mut self, events: &[Event]) {
        for event in events {
            match &event.kind {
                EventKind::Created { port, client } => self.add(event.table, *port, client),
                EventKind::Deleted { port, .. } => self.remove(event.table, *port),
                _ => {}
            }
        }
        self.write();
    }

    fn waiting(&self) -> usize {
        self.keys.len() / NAMES.key_octets
    }

    fn add(&mut self, table: TableKey, port: MappedPort, client: &Client) {
        let key = peer_names::key(table, port.0);
        // As where a newcomer has the port of another: it is enough to write over that one's.
        if self.going.ends_with(&key) {
            self.going.truncate(self.going.len() - key.len());
        }
        self.values.extend(peer_names::value(&key, name_of(client), self.generation));
        self.keys.extend(key);
        self.ports[usize::from(port.0)] = true;
    }

    fn remove(&mut self, table: TableKey, port: MappedPort) {
        let key = peer_names::key(table, port.0);
        self.going.extend(key);
        if !self.ports[usize::from(port.0)] {
            return;
        }
        // It may have come just now.
        let mut places = self.keys.chunks(NAMES.key_octets);
        if let Some(place) = places.position(|other| other == key) {
            self.keys.drain(place * NAMES.key_octets..(place + 1) * NAMES.key_octets);
            self.values.drain(place * NAMES.value_octets..(place + 1) * NAMES.value_octets);
        }
    }

    /// All that was added and removed.
    fn write(&mut self) {
        self.take_away();
        for key in self.keys.as_chunks().0 {
            self.ports[usize::from(peer_names::read_key(key).1)] = false;
        }
        let (mut keys, mut values) = (&self.keys[..], &self.values[..]);
        while !keys.is_empty() {
            let (done, refused) = self.map.set_all(keys, values);
            if refused.is_none() {
                break;
            }
            self.stats.add(Counter::Unnamed, 1);
            let end = (done + 1) * NAMES.key_octets;
            self.refused.extend(&keys[done * NAMES.key_octets..end]);
            keys = &keys[end..];
            values = &values[(done + 1) * NAMES.value_octets..];
        }
        self.keys.clear();
        self.values.clear();
        // Another's name may still be there.
        std::mem::swap(&mut self.going, &mut self.refused);
        self.take_away();
    }

    fn take_away(&mut self) {
        if !self.going.is_empty() && self.map.remove_all(&self.going).is_err() {
            self.map.give_up();
        }
        self.going.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::handoff::change::Timestamp;
    use crate::ip::address::Prefix96;
    use crate::kernel::bpf::BpfStep;

    /// A map with room for so many names, of which the kernel may refuse to remove any, or to
    /// change that of one port.
    #[derive(Default)]
    struct TestMap {
        stuck: Option<u16>,
        names: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
        room: usize,
        refuses: bool,
        given_up: Cell<bool>,
    }

    fn refused() -> BpfError {
        let cause = io::Error::from_raw_os_error(libc::E2BIG);
        BpfError { step: BpfStep::Change, cause, verifier: None }
    }

    impl NameMap for &TestMap {
        fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>) {
            let mut names = self.names.borrow_mut();
            let pairs = keys.chunks(NAMES.key_octets).zip(values.chunks(NAMES.value_octets));
            for (done, (key, value)) in pairs.enumerate() {
                let is_stuck = peer_names::read_key(key.first_chunk().unwrap()).1;
                let is_full = names.len() >= self.room && !names.contains_key(key);
                if is_full || self.stuck == Some(is_stuck) {
                    return (done, Some(refused()));
                }
                names.insert(key.to_vec(), value.to_vec());
            }
            (keys.len() / NAMES.key_octets, None)
        }

        fn remove_all(&self, keys: &[u8]) -> Result<(), BpfError> {
            if self.refuses {
                return Err(refused());
            }
            let mut names = self.names.borrow_mut();
            keys.chunks(NAMES.key_octets).for_each(|key| drop(names.remove(key)));
            Ok(())
        }

        fn give_up(&self) {
            self.given_up.set(true);
        }
    }

    const TABLE: TableKey =
        TableKey { local: std::net::Ipv4Addr::LOCALHOST, nat64: std::net::Ipv4Addr::BROADCAST };

    fn client(number: u16) -> Client {
        let address = [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into();
        Client { prefix: Prefix96([0; 12]), address, port: 1000 + number }
    }

    fn created(port: u16, number: u16) -> (TableKey, Change) {
        (TABLE, Change::Created { port: MappedPort(port), client: client(number) })
    }

    fn deleted(port: u16, number: u16) -> (TableKey, Change) {
        (TABLE, Change::Deleted { port: MappedPort(port), client: client(number) })
    }

    impl TestMap {
        fn with(room: usize) -> Self {
            Self { room, ..Self::default() }
        }

        /// Ports with the numbers of their clients.
        fn ports(&self) -> Vec<(u16, u16)> {
            let names = self.names.borrow();
            let pair = |(key, value): (&Vec<u8>, &Vec<u8>)| {
                let key = key.first_chunk().unwrap();
                let (table, port) = peer_names::read_key(key);
                assert_eq!(table, TABLE);
                let number = u16::from_be_bytes([value[14], value[15]]);
                assert_eq!(value[..], peer_names::value(key, name_of(&client(number)), 7));
                (port, number)
            };
            let mut ports: Vec<_> = names.iter().map(pair).collect();
            ports.sort_unstable();
            ports
        }
    }

    #[test]
    fn names_are_those_of_the_entries_after_each_batch() {
        let (map, stats) = (TestMap::with(100), Arc::<Stats>::default());
        let mut writer = NameWriter::new(&map, 7, stats);
        let mut commit = |changes: &[(TableKey, Change)]| writer.follow(changes);
        commit(&[created(5000, 1), created(5001, 2)]);
        assert_eq!(map.ports(), [(5000, 1), (5001, 2)]);
        commit(&[deleted(5000, 1), created(5000, 3)]);
        assert_eq!(map.ports(), [(5000, 3), (5001, 2)]);
        // One that comes and goes within a batch, and one that comes again.
        commit(&[created(5002, 4), deleted(5002, 4), created(5003, 5)]);
        commit(&[deleted(5003, 5), created(5003, 6), deleted(5003, 6), created(5003, 7)]);
        assert_eq!(map.ports(), [(5000, 3), (5001, 2), (5003, 7)]);
        commit(&[deleted(5001, 2), created(5001, 10), deleted(5001, 10)]);
        assert_eq!(map.ports(), [(5000, 3), (5003, 7)]);
        let events = [created(5004, 8), deleted(5004, 8), created(5004, 9)];
        let at = Timestamp::from_micros(0);
        let events: Vec<_> =
            events.iter().filter_map(|(table, change)| change.event(at, *table)).collect();
        writer.follow_late(&events);
        assert_eq!(map.ports(), [(5000, 3), (5003, 7), (5004, 9)]);
        assert!(!map.given_up.get());
    }

    #[test]
    fn what_has_no_room_has_no_name_and_is_counted() {
        let (map, stats) = (TestMap::with(2), Arc::<Stats>::default());
        let mut writer = NameWriter::new(&map, 7, Arc::clone(&stats));
        let changes: Vec<_> = (0..5).map(|number| created(5000 + number, number)).collect();
        writer.follow(&changes);
        assert_eq!(map.ports(), [(5000, 0), (5001, 1)]);
        assert_eq!(stats.get(Counter::Unnamed), 3);
        writer.follow(&[deleted(5000, 0), created(5005, 5)]);
        assert_eq!(map.ports(), [(5001, 1), (5005, 5)]);
        assert_eq!(stats.get(Counter::Unnamed), 3);
    }

    #[test]
    fn a_name_that_cannot_be_taken_away_makes_all_invalid() {
        let map = TestMap { refuses: true, ..TestMap::with(9) };
        let mut writer = NameWriter::new(&map, 7, Arc::default());
        writer.follow(&[created(5000, 1)]);
        assert!(!map.given_up.get());
        writer.follow(&[deleted(5000, 1)]);
        assert!(map.given_up.get());
    }

    #[test]
    fn a_name_that_cannot_be_changed_goes() {
        let mut map = TestMap::with(9);
        NameWriter::new(&map, 7, Arc::default()).follow(&[created(5000, 1), created(5001, 2)]);
        map.stuck = Some(5000);
        let changes = [deleted(5000, 1), created(5000, 3), deleted(5001, 2), created(5001, 4)];
        NameWriter::new(&map, 7, Arc::default()).follow(&changes);
        assert_eq!(map.ports(), [(5001, 4)]);
        assert!(!map.given_up.get());
    }
}
