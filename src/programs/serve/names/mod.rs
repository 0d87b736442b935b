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
//! A map that is full leaves the entry without a name, which is counted.

mod pool;
mod writer;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::HashSet;

use self::pool::NamePool;
pub(super) use self::pool::{DealtPool, FoundPool, ReactorNames, pool_lines};
use self::writer::{NameMap, NameWriter, name_of};
use crate::handoff::entry::{Client, Entry, MappedPort, TableKey};
use crate::handoff::pool::{AddressPool, PoolShare, PoolShareOfBoth};
use crate::handoff::server::{SEEN_ENTRIES_MAX, SEEN_TABLES_MAX, Server};
use crate::handoff::stats::{Counter, Stats};
use crate::kernel::bpf::names::{FoundName, NameTable, PeerName};
use crate::kernel::bpf::peer_names::{self, NamesState, STATE};
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
    names: NameTable,
    /// None: names are in memory, and nobody asks how long they are valid.
    state: Option<BpfMap>,
    /// What it says as long as names are valid, but for the time.
    said: NamesState,
    /// No name is valid any more, and nothing is to be written.
    lost: AtomicBool,
}

impl NameMaps {
    /// Says for how long names are valid from now on.
    fn publish(&self, valid: Duration) -> Result<(), BpfError> {
        let Some(state) = &self.state else { return Ok(()) };
        let until = u64::try_from((clock::since_boot() + valid).as_nanos()).unwrap_or(u64::MAX);
        NamesState { until, ..self.said }.write(state)
    }

    fn is_ours(&self) -> Result<bool, BpfError> {
        let Some(state) = &self.state else { return Ok(true) };
        Ok(NamesState::read(state)?.generation == self.said.generation)
    }

    /// From now on, no name is valid; those of another server are its own.
    fn withdraw(&self) -> Result<(), BpfError> {
        match &self.state {
            Some(state) if self.is_ours()? => NamesState { until: 0, ..self.said }.write(state),
            _ => Ok(()),
        }
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
    fn give(&self, table: TableKey, port: MappedPort, name: &PeerName) -> bool {
        self.names.give(table, port, name, self.said.generation)
    }

    fn take(&self, table: TableKey, port: MappedPort) {
        self.names.take(table, port);
    }

    fn prefetch(&self, ports: impl Iterator<Item = (TableKey, MappedPort)> + Clone) {
        self.names.prefetch(ports);
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
        let (path, pinned) = (maps.join(NAMES_FILE), maps.join(STATE_FILE));
        let of_state = |cause| NamesError::of(&pinned, cause);
        let state_map = BpfMap::open(&pinned, STATE).map_err(of_state)?;
        let found = NamesState::read(&state_map).map_err(of_state)?;
        let names = peer_names::open_names(&path, &found);
        let number = fs::metadata(&pinned).map_or(0, |file| file.ino());
        let said = NamesState {
            generation: generation_of(state),
            // Where the kernel does not tell it, nor do the programs ask for it.
            namespace: network_namespace(socket).unwrap_or_default(),
            ..found
        };
        let maps = Arc::new(NameMaps {
            names: names.map_err(|cause| NamesError::of(&path, cause))?,
            state: Some(state_map),
            said,
            lost: AtomicBool::new(false),
        });
        let valid = if service::is_service() { VALID_FOR } else { VALID_ALONE };
        Ok(Self { maps, pinned, number, valid, pool })
    }

    /// Names in memory, which no program reads, for tests of the whole: they outlive a server that
    /// is killed, as those of the kernel do, and are [`Names::again`] those of the next one.
    ///
    /// # Errors
    /// Where there is no memory for so many names.
    pub fn in_memory(names_max: u32, seed: u64) -> io::Result<Self> {
        let names = NameTable::in_memory(names_max, seed)?;
        let (said, lost) = (NamesState { generation: 1, ..NamesState::default() }, false.into());
        let maps = Arc::new(NameMaps { names, state: None, said, lost });
        Ok(Self { maps, pinned: PathBuf::new(), number: 0, valid: VALID_FOR, pool: None })
    }

    /// The same names, as the next server has them.
    pub fn again(&self) -> Self {
        let (maps, pinned) = (Arc::clone(&self.maps), self.pinned.clone());
        Self { maps, pinned, pool: self.pool.clone(), ..*self }
    }

    /// Calls `each` with all names that are there.
    pub fn each(&self, each: impl FnMut(TableKey, MappedPort, PeerName)) {
        self.maps.names.each(self.maps.said.generation, each);
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
        let (mut right, mut doubtful) = (0, HashSet::default());
        self.maps.names.retain(self.maps.said.generation, |table, port, name| {
            let found = self.judge(servers, table, port, name);
            match found {
                FoundName::Stays => right += 1,
                FoundName::Becomes(name) if name == PeerName::NOBODY => {
                    doubtful.insert((table, port));
                }
                FoundName::Becomes(_) => right += 1,
                FoundName::Goes => {}
            }
            found
        });
        let mut all = 0;
        for server in servers {
            each_table(server, |table| all += table.1);
        }
        let mut named = right;
        if right + doubtful.len() < all {
            named = servers.iter().map(|server| self.fill_from(server, &doubtful)).sum();
        }
        if let Some(stats) = stats.first() {
            stats.add(Counter::Unnamed, all.saturating_sub(named) as u64);
        }
        self.maps.publish(self.valid)
    }

    /// What becomes of a name that a server with this state gave.
    fn judge(
        &self,
        servers: &[Server],
        table: TableKey,
        port: MappedPort,
        name: PeerName,
    ) -> FoundName {
        let client = servers
            .get(steered_to(table.nat64, servers.len()))
            .and_then(|server| server.client_at(table, port));
        let Some(client) = client else { return FoundName::Goes };
        let expected = self.name_of(&client);
        if name == expected {
            FoundName::Stays
        } else if (name.client, name.client_port) == (expected.client, expected.client_port) {
            FoundName::Becomes(expected)
        } else {
            // The state is an older one that was restored, or a kill came before the NAT64 was
            // told. It has no name before it is given to a client anew, over restarts, too.
            FoundName::Becomes(PeerName::NOBODY)
        }
    }

    fn name_of(&self, client: &Client) -> PeerName {
        let pool = self.pool.as_ref();
        name_of(client, pool.and_then(|pool| pool.address_of(client.address)))
    }

    /// Names all entries but these, and returns how many have names.
    fn fill_from(&self, server: &Server, except: &HashSet<(TableKey, MappedPort)>) -> usize {
        let mut named = 0;
        each_entry(server, |table, entry| {
            let is_given = !except.contains(&(table, entry.port))
                && self.maps.give(table, entry.port, &self.name_of(&entry.client));
            named += usize::from(is_given);
        });
        named
    }

    /// For a reactor, with its share of the pool, if there is one.
    pub fn writer(&self, stats: Arc<Stats>, share: Option<PoolShareOfBoth>) -> PeerNameWriter {
        name_writer(Some(Arc::clone(&self.maps)), stats, share)
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
        if fs::metadata(&self.pinned).map_or(0, |file| file.ino()) != self.number {
            return Err(NamesLost::Replaced);
        }
        if !self.maps.is_ours()? {
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
    if !is_its(NamesState::of(&value).generation) {
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

/// Calls `each` with all entries.
fn each_entry(server: &Server, mut each: impl FnMut(TableKey, &Entry)) {
    let mut entries = Vec::with_capacity(SEEN_ENTRIES_MAX);
    each_table(server, |(table, _)| {
        let mut from = Some(0);
        while let Some(place) = from {
            entries.clear();
            from = server.see_entries(table, place, &mut entries);
            entries.iter().for_each(|entry| each(table, entry));
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
        });
    }
}

fn name_writer(
    maps: Option<Arc<NameMaps>>,
    stats: Arc<Stats>,
    share: Option<PoolShareOfBoth>,
) -> PeerNameWriter {
    let pool = share.map(|share| NamePool::new(share, Arc::clone(&stats)));
    NameWriter::new(maps, stats, pool)
}

/// Of the kernel's maps. `None`: peers have no names, and clients addresses of the pool alone.
pub type PeerNameWriter = NameWriter<Option<Arc<NameMaps>>>;
