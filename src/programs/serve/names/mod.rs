//! The names of peers (`--peer-names`), kept as the tables are: see
//! [`crate::kernel::bpf::peer_names`].
//!
//! Names follow what was recorded, before it is announced: an entry that comes has its name before
//! its NAT64 is told of it, and the name of one that goes is taken away, or becomes that of whoever
//! has the port then, before the NAT64 can know of that. So at any instant, also at that of a kill,
//! a name that is there is of the client that the NAT64 has there. One that should be there may be
//! missing, until the next start. Where a record is to be durable before its NAT64 is told, so it
//! is before the new name comes.
//!
//! A start compares the names that it finds with the tables that it has read: what is right stays,
//! and meanwhile a short restart is not noticed. Names count only for some seconds after the server
//! last said that it is there.
//!
//! A map that is full, or that refuses a name, leaves the entry without one, which is counted.
//! Where a name cannot be taken away, it is not true any more: then none is valid until a restart.

mod pool;
mod writer;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::HashSet;

use self::pool::NamePool;
pub(super) use self::pool::{FoundPool, ReactorNames, pool_lines};
use self::writer::{NameKey, NameMap, NameWriter, name_of};
use crate::handoff::entry::{Client, Entry, MappedPort, TableKey};
use crate::handoff::pool::{AddressPool, PoolShare};
use crate::handoff::server::{SEEN_ENTRIES_MAX, SEEN_TABLES_MAX, Server};
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::peer_names::{self, NAMES, PeerName, STATE};
use crate::kernel::bpf::{BpfError, BpfMap, MapShape};
use crate::kernel::socket::{network_namespace, steered_to};
use crate::kernel::{clock, service};
use crate::programs::peer_names::{NAMES_FILE, STATE_FILE};

/// How long names are valid after the server last said that it is there, where a service manager
/// keeps its sockets: longer than a restart takes after a kill.
pub(super) const VALID_FOR: Duration = Duration::from_secs(5);
const SAID_EVERY: Duration = Duration::from_secs(1);
/// The same where nobody keeps them: after a kill NAT64s hear that the port is closed, and give
/// ports to clients by themselves.
const VALID_ALONE: Duration = Duration::from_millis(300);
const SAID_ALONE_EVERY: Duration = Duration::from_millis(100);
/// Names that are given at once at the start.
const FILL_AT_ONCE: usize = 8192;

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
            _ if cause.is_of_another_version() => {
                "as root, run ./install again, or nat64handoff peer-names attach where that did not attach \
                 them, and restart the server"
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

/// The maps of the kernel, for all reactors.
#[derive(Debug)]
pub struct NameMaps {
    names: BpfMap,
    state: BpfMap,
    generation: u32,
    /// In which names count.
    namespace: u64,
    /// A name that is not true could not be taken away.
    failed: AtomicBool,
    /// No name is valid any more, and nothing is to be written.
    lost: AtomicBool,
}

impl NameMaps {
    /// Says for how long names are valid from now on.
    fn publish(&self, valid: Duration) -> Result<(), BpfError> {
        let until = u64::try_from((clock::since_boot() + valid).as_nanos()).unwrap_or(u64::MAX);
        self.say(until)?;
        // A reactor may have given them up since.
        if self.failed.load(Ordering::SeqCst) { self.say(0) } else { Ok(()) }
    }

    fn say(&self, until: u64) -> Result<(), BpfError> {
        let state = peer_names::state(self.generation, until, self.namespace);
        self.state.set(&[0; STATE.key_octets], &state)
    }

    /// From now on, no name is valid; those of another server are its own.
    fn withdraw(&self) -> Result<(), BpfError> {
        let state = self.state.get(&[0; STATE.key_octets])?.unwrap_or_default();
        let is_ours = peer_names::read_state(&state).0 == self.generation;
        if is_ours { self.say(0) } else { Ok(()) }
    }

    /// Nothing more is written, as soon as no name is valid. Where the kernel refuses to say that,
    /// they are for some seconds, and names that are not true go on being taken away.
    fn lose(&self) {
        if self.withdraw().is_ok() {
            self.lost.store(true, Ordering::SeqCst);
        }
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
        self.lose();
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The names of all reactors.
pub struct Names {
    maps: Arc<NameMaps>,
    /// Where the state is pinned, and which file that is.
    pinned: PathBuf,
    number: u64,
    valid: Duration,
    /// None: names have no address of IPv4.
    pool: Option<Arc<AddressPool>>,
}

/// What of a map is to be kept at a start.
enum FoundName {
    Right,
    /// Of nobody, or of another server's state, or with another address of the pool.
    Wrong,
    /// By a server with this state the port was another client's. So the state is an older one
    /// that was restored, or a kill came before the NAT64 was told.
    Contradicted,
}

impl Names {
    /// Opens the maps that are pinned in this directory, for the server with this state and this
    /// socket.
    ///
    /// # Errors
    /// Where they are not there, or not this user's, or another version's.
    pub fn open(
        maps: &Path,
        state: &Path,
        socket: impl AsFd,
        pool: Option<Arc<AddressPool>>,
    ) -> Result<Self, NamesError> {
        let open = |file, shape| {
            let path = maps.join(file);
            BpfMap::open(&path, shape).map_err(|cause| NamesError::of(&path, cause))
        };
        let (names, state_map) = (open(NAMES_FILE, NAMES)?, open(STATE_FILE, STATE)?);
        let pinned = maps.join(STATE_FILE);
        let number = fs::metadata(&pinned).map_or(0, |file| file.ino());
        let maps = Arc::new(NameMaps {
            names,
            state: state_map,
            generation: generation_of(state),
            // Where the kernel does not tell it, nor do the programs ask for it.
            namespace: network_namespace(socket).unwrap_or_default(),
            failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        });
        let valid = if service::is_service() { VALID_FOR } else { VALID_ALONE };
        Ok(Self { maps, pinned, number, valid, pool })
    }

    /// All entries have their names from now on, and nobody else has any. To be called before
    /// anything is announced. The `shares` of the pool learn which addresses are in use.
    ///
    /// # Errors
    /// Where the kernel refuses to read or to change the maps.
    pub fn fill(
        &self,
        servers: &[Server],
        stats: &[Arc<Stats>],
        shares: &mut [PoolShare],
    ) -> Result<(), NamesError> {
        if let Some(pool) = &self.pool {
            count_entries(pool, servers, shares);
        }
        let filled = self.compare_and_fill(servers, stats);
        filled.map_err(|cause| NamesError::of(&self.pinned, cause))
    }

    fn compare_and_fill(&self, servers: &[Server], stats: &[Arc<Stats>]) -> Result<(), BpfError> {
        let (mut right, mut wrong, mut doubtful) = (0, Vec::new(), HashSet::default());
        self.maps.names.walk(|key, value| match self.judge(servers, key, value) {
            FoundName::Right => right += 1,
            FoundName::Wrong => wrong.extend_from_slice(key),
            FoundName::Contradicted => doubtful.extend(key.first_chunk()),
        })?;
        self.maps.names.remove_all(&wrong)?;
        self.name_nobody(&doubtful)?;
        let mut all = 0;
        for server in servers {
            each_table(server, |table| all += table.1);
        }
        let mut is_whole = true;
        if right + doubtful.len() < all {
            for server in servers {
                is_whole = is_whole && self.fill_from(server, &doubtful);
            }
        }
        let named = if is_whole { all - doubtful.len().min(all) } else { self.count()? };
        if let Some(stats) = stats.first() {
            stats.add(Counter::Unnamed, all.saturating_sub(named) as u64);
        }
        self.maps.publish(self.valid)
    }

    fn judge(&self, servers: &[Server], key: &[u8], value: &[u8]) -> FoundName {
        let Some(key) = key.first_chunk() else { return FoundName::Wrong };
        let (table, port) = peer_names::read_key(key);
        let client = servers
            .get(steered_to(table.nat64, servers.len()))
            .and_then(|server| server.client_at(table, MappedPort(port)));
        let Some(client) = client else { return FoundName::Wrong };
        let generation = self.maps.generation;
        let expected = peer_names::value(key, self.name_of(&client), generation);
        if value == expected {
            FoundName::Right
        } else if peer_names::read_generation(value) == generation
            && !peer_names::is_of_same_client(value, &expected)
        {
            FoundName::Contradicted
        } else {
            FoundName::Wrong
        }
    }

    fn name_of(&self, client: &Client) -> PeerName {
        let pool = self.pool.as_ref();
        name_of(client, pool.and_then(|pool| pool.address_of(client.address)))
    }

    /// These ports have no name before they are given to a client anew, over restarts, too.
    fn name_nobody(&self, keys: &HashSet<NameKey>) -> Result<(), BpfError> {
        let nobody = PeerName { client: Ipv6Addr::UNSPECIFIED, client_port: 0, pool: None };
        let value = |key| peer_names::value(key, nobody, self.maps.generation);
        let values: Vec<u8> = keys.iter().flat_map(value).collect();
        let keys: Vec<u8> = keys.iter().flatten().copied().collect();
        self.maps.names.set_all(&keys, &values).1.map_or(Ok(()), Err)
    }

    /// How many there are.
    fn count(&self) -> Result<usize, BpfError> {
        let mut count = 0;
        self.maps.names.walk(|_, value| count += usize::from(peer_names::is_somebodys(value)))?;
        Ok(count)
    }

    /// Names all entries but these. Returns false where not all have names: there is no room.
    fn fill_from(&self, server: &Server, except: &HashSet<NameKey>) -> bool {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut is_whole = true;
        each_entry(server, |table, entry| {
            let key = peer_names::key(table, entry.port.0);
            if !except.contains(&key) {
                let name = self.name_of(&entry.client);
                values.extend(peer_names::value(&key, name, self.maps.generation));
                keys.extend(key);
            }
            if keys.len() >= FILL_AT_ONCE * NAMES.key_octets {
                is_whole = self.maps.names.set_all(&keys, &values).1.is_none();
                keys.clear();
                values.clear();
            }
            is_whole
        });
        is_whole && self.maps.names.set_all(&keys, &values).1.is_none()
    }

    /// For a reactor, with its share of the pool, if there is one.
    pub fn writer(&self, stats: Arc<Stats>, share: Option<PoolShare>) -> PeerNameWriter {
        let pool = share.map(|share| NamePool::new(share, Arc::clone(&stats)));
        NameWriter::new(Arc::clone(&self.maps), self.maps.generation, stats, pool)
    }

    /// The pool, if addresses of it are given.
    pub fn pool(&self) -> Option<&Arc<AddressPool>> {
        self.pool.as_ref()
    }

    /// How often [`Names::keep_valid`] is to be called.
    pub fn said_every(&self) -> Duration {
        if self.valid == VALID_FOR { SAID_EVERY } else { SAID_ALONE_EVERY }
    }

    /// Says that the server is there.
    ///
    /// # Errors
    /// Why peers have no names any more; then no reactor writes any.
    pub fn keep_valid(&self) -> Result<(), NamesLost> {
        self.still_valid().inspect_err(|_| self.maps.lose())
    }

    fn still_valid(&self) -> Result<(), NamesLost> {
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
        Ok(self.maps.publish(self.valid)?)
    }

    /// The server ends, and nobody goes on with its sockets: NAT64s soon give ports to clients by
    /// themselves.
    pub fn end(&self) {
        // Where the kernel refuses, they end by themselves.
        let _ = self.maps.withdraw();
    }
}

/// A server with this state starts, or does not, and keeps no names: those of one that did so
/// before are not true much longer.
///
/// # Errors
/// Where there may be some, and the kernel refuses: they end by themselves, after `VALID_FOR`.
pub fn forget(maps: &Path, state: &Path) -> Result<(), BpfError> {
    forget_if(maps, |generation| generation == generation_of(state))
}

/// The same where the configuration does not tell which state that would have been: a server that
/// lives says in a moment that it does.
///
/// # Errors
/// Those of [`forget`].
pub(super) fn forget_any(maps: &Path) -> Result<(), BpfError> {
    forget_if(maps, |_| true)
}

fn forget_if(maps: &Path, is_its: impl Fn(u32) -> bool) -> Result<(), BpfError> {
    // That of another version begins alike.
    let is_state =
        |shape: &MapShape| shape.kind == STATE.kind && shape.key_octets == STATE.key_octets;
    let map = match BpfMap::open_such(&maps.join(STATE_FILE), is_state) {
        Err(error) if error.cause.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut value = map.get(&[0; STATE.key_octets])?.unwrap_or_default();
    if !is_its(peer_names::read_state(&value).0) {
        return Ok(());
    }
    peer_names::end_state(&mut value);
    map.set(&[0; STATE.key_octets], &value)
}

/// While a server starts that has its state alone: where it does not serve, the names of the one
/// before do not count any more, as its sockets are closed soon.
pub(super) struct ForgottenUnlessServed {
    maps: PathBuf,
    state: PathBuf,
    is_served: bool,
}

impl ForgottenUnlessServed {
    pub(super) fn of(maps: &Path, state: &Path) -> Self {
        Self { maps: maps.to_owned(), state: state.to_owned(), is_served: false }
    }

    pub(super) fn served(mut self) {
        self.is_served = true;
    }
}

impl Drop for ForgottenUnlessServed {
    fn drop(&mut self) {
        if !self.is_served {
            // Where the kernel refuses, they end by themselves.
            let _ = forget(&self.maps, &self.state);
        }
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

/// Calls `each` with all entries, as long as it returns true.
fn each_entry(server: &Server, mut each: impl FnMut(TableKey, &Entry) -> bool) {
    let mut goes_on = true;
    let mut entries = Vec::with_capacity(SEEN_ENTRIES_MAX);
    each_table(server, |(table, _)| {
        let mut from = Some(0);
        while let Some(place) = from.filter(|_| goes_on) {
            entries.clear();
            from = server.see_entries(table, place, &mut entries);
            for entry in &entries {
                goes_on = goes_on && each(table, entry);
            }
        }
    });
}

/// Whose addresses of the pool are in use, by how many entries, and through which NAT64s.
fn count_entries(pool: &AddressPool, servers: &[Server], shares: &mut [PoolShare]) {
    for (number, server) in servers.iter().enumerate() {
        each_entry(server, |table, entry| {
            let address = pool.found_entry(entry.client.address);
            let own = |address: &Ipv4Addr| {
                steered_to(TableKey::block_of(*address).nat64, servers.len()) == number
            };
            if let Some(address) = address.filter(own)
                && let Some(share) = shares.get_mut(number)
            {
                share.found_via(address, table.nat64);
            }
            true
        });
    }
}

/// Of the kernel's maps.
pub type PeerNameWriter = NameWriter<Arc<NameMaps>>;
