//! The maps that say who the clients of NAT64s are, and the programs that make them the peers of
//! their connections, as `accept` and `getpeername` tell them.
//!
//! | program | runs | what it does |
//! | --- | --- | --- |
//! | `established` | when a connection of others is established | gives the socket its name |
//! | | when a socket connects | takes away the one that it had |
//! | `peer6` | at getpeername and accept of AF_INET6 | the socket's name is its peer |
//! | `peer4` | at getpeername and accept of AF_INET | the name's address of the pool is its peer |
//!
//! | map | key | value |
//! | --- | --- | --- |
//! | `names` | a bucket | tables and ports, their clients, and addresses of the pool |
//! | `state` | 0 | the generation that is valid, until when, and in which network namespace |
//! | `peers` | a socket | its name |
//!
//! How `names` is filled stands in [`super::names`].
//!
//! So a name is that of the time at which the connection came into being, and stays for its life,
//! whatever becomes of the entry. A socket that this host connects never has one, also where the
//! other host connects to it at the same time.
//!
//! A name is valid if it is of the current generation, which stands for a state directory, and if
//! the server said within the last seconds that it is there. A program may read it while it is
//! written: the check is over all of it, so what is read of two halves is no name.
//!
//! Addresses and ports are in network order, other numbers in that of the host.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::assembler::Instruction;
use super::call::{self, BpfError, BpfStep, ProgramKind};
pub use super::layout::STATE;
use super::layout::{
    self, CURRENT_AT, NAMES, NAMES_MAX_AT, NAMESPACE_AT, PEERS, SEED_AT, UNTIL_AT,
};
use super::map::BpfMap;
use super::names::{self, NameTable};
use super::programs;
use crate::kernel::entropy;

const CONNECTIONS: u32 = 3;
const PEER4: u32 = 29;
const PEER6: u32 = 30;

/// The value of the state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NamesState {
    /// Which names are valid.
    pub generation: u32,
    /// Until when, in nanoseconds since the boot.
    pub until: u64,
    /// In which network namespace ([`crate::kernel::socket::network_namespace`]).
    pub namespace: u64,
    pub made: MadeNames,
}

/// How the map of the names was made: that stays.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MadeNames {
    names_max: u32,
    seed: u64,
}

impl NamesState {
    /// What the map of the state says now.
    ///
    /// # Errors
    /// Where the kernel refuses to read it.
    pub fn read(map: &BpfMap) -> Result<Self, BpfError> {
        Ok(Self::of(&map.get(&[0; STATE.key_octets])?.unwrap_or_default()))
    }

    /// That of a value, also of another version, which begins alike.
    pub fn of(value: &[u8]) -> Self {
        fn at<const N: usize>(value: &[u8], at: i16) -> [u8; N] {
            let found = value.get(at as usize..).and_then(|rest| rest.first_chunk());
            found.copied().unwrap_or([0; N])
        }
        let word = |place| u32::from_ne_bytes(at(value, place));
        let double = |place| u64::from_ne_bytes(at(value, place));
        Self {
            generation: word(CURRENT_AT),
            until: double(UNTIL_AT),
            namespace: double(NAMESPACE_AT),
            made: MadeNames { names_max: word(NAMES_MAX_AT), seed: double(SEED_AT) },
        }
    }

    fn value(&self) -> [u8; STATE.value_octets] {
        let mut value = [0; STATE.value_octets];
        let mut put = |at: i16, octets: &[u8]| {
            value[at as usize..][..octets.len()].copy_from_slice(octets);
        };
        put(CURRENT_AT, &self.generation.to_ne_bytes());
        put(NAMES_MAX_AT, &self.made.names_max.to_ne_bytes());
        put(UNTIL_AT, &self.until.to_ne_bytes());
        put(NAMESPACE_AT, &self.namespace.to_ne_bytes());
        put(SEED_AT, &self.made.seed.to_ne_bytes());
        value
    }

    /// The map says so from now on.
    ///
    /// # Errors
    /// Where the kernel refuses to change it.
    pub fn write(&self, map: &BpfMap) -> Result<(), BpfError> {
        map.set(&[0; STATE.key_octets], &self.value())
    }
}

/// From now on no name is valid by this value of the state, which may be another version's.
pub fn end_state(value: &mut [u8]) {
    if let Some(until) = value.get_mut(UNTIL_AT as usize..UNTIL_AT as usize + 8) {
        until.fill(0);
    }
}

/// Opens the names that are pinned at `path`, which were made with this state.
///
/// # Errors
/// Where they are not there, or not this user's, or another version's, or cannot be mapped.
pub fn open_names(path: &Path, state: &NamesState) -> Result<NameTable, BpfError> {
    names_of(&BpfMap::open(path, NAMES)?, true, state)
}

/// How many ports have names now by this state, and how many there may be.
///
/// # Errors
/// Those of [`open_names`].
pub fn count_names(path: &Path, state: &NamesState) -> Result<(usize, u32), BpfError> {
    let names = names_of(&BpfMap::open(path, NAMES)?, false, state)?;
    Ok((names.count(state.generation), names.names_max()))
}

fn names_of(map: &BpfMap, writes: bool, state: &NamesState) -> Result<NameTable, BpfError> {
    NameTable::of(map, writes, state.made.names_max, state.made.seed)
}

/// The maps that the programs look into.
#[derive(Debug)]
pub struct PeerMaps {
    pub names: NameTable,
    names_map: BpfMap,
    pub state: BpfMap,
    peers: BpfMap,
}

impl PeerMaps {
    /// Makes them, for at most `names_max` names, for which the kernel takes memory at once.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN, or without memory.
    pub fn create(names_max: u32) -> Result<Self, BpfError> {
        let types = call::load_types(&layout::peer_type())?;
        let types = Some((types.as_fd(), layout::TYPE_INTEGER, layout::TYPE_PEER));
        let seed = entropy::octets().map(u64::from_ne_bytes);
        let seed = seed.map_err(|cause| BpfError { step: BpfStep::Map, cause, verifier: None })?;
        let made = MadeNames { names_max, seed };
        let said = NamesState { made, ..NamesState::default() };
        let names_map = BpfMap::create(NAMES, names::buckets(names_max), None)?;
        let state = BpfMap::create(STATE, 1, None)?;
        said.write(&state)?;
        let names = names_of(&names_map, true, &said)?;
        Ok(Self { names, names_map, state, peers: BpfMap::create(PEERS, 0, types)? })
    }

    /// Opens those that are pinned: names, state, peers.
    ///
    /// # Errors
    /// Where one is not there, or is another version's.
    pub fn open([names, state, peers]: &[PathBuf; 3]) -> Result<Self, BpfError> {
        let names_map = BpfMap::open(names, NAMES)?;
        let state = BpfMap::open(state, STATE)?;
        let names = names_of(&names_map, true, &NamesState::read(&state)?)?;
        Ok(Self { names, names_map, state, peers: BpfMap::open(peers, PEERS)? })
    }

    /// The map of the names, as the kernel has it.
    pub fn names_map(&self) -> &BpfMap {
        &self.names_map
    }

    /// Keeps them when this process ends, until the files are removed: names, state, peers.
    ///
    /// # Errors
    /// Where a path is in no bpffs, or there already.
    pub fn pin(&self, [names, state, peers]: &[PathBuf; 3]) -> Result<(), BpfError> {
        call::pin(self.names_map.as_fd(), names)?;
        call::pin(self.state.as_fd(), state)?;
        call::pin(self.peers.as_fd(), peers)
    }

    /// Attaches the programs to a control group, for as long as one of the links is open or
    /// pinned: those of IPv6 sockets, of IPv4 sockets, or both.
    ///
    /// # Errors
    /// Where the kernel takes no such program (before Linux 5.8), or the group is none.
    pub fn attach(&self, group: &File, ipv6: bool, ipv4: bool) -> Result<Vec<PeerLink>, BpfError> {
        let (names, state) = (&self.names_map, self.state.as_fd());
        let peers = self.peers.as_fd();
        // The last one first: a name that nobody gives yet is asked for in vain.
        let mut links = Vec::new();
        for (name, place, wanted, program) in [
            ("peer4", PEER4, ipv4, programs::tell_ipv4(peers)),
            ("peer6", PEER6, ipv6, programs::tell_ipv6(peers)),
        ] {
            if wanted {
                links.push(attach(group, name, ProgramKind::Addresses, place, &program)?);
            }
        }
        let established = |name, tells_namespaces| {
            let program = programs::established(names, state, peers, ipv6, ipv4, tells_namespaces);
            attach(group, name, ProgramKind::Connections, CONNECTIONS, &program)
        };
        links.push(match established("established", true) {
            // Before Linux 5.15 it has no number of a network namespace here.
            Err(error) if error.is_of_the_verifier() => established(EVERYWHERE, false)?,
            done => done?,
        });
        Ok(links)
    }
}

/// Attaches programs that do nothing to the places of those of IPv6 sockets: what the kernel takes
/// for running any program there is measured so.
///
/// # Errors
/// Those of [`PeerMaps::attach`].
pub fn attach_empty(group: &File) -> Result<[PeerLink; 2], BpfError> {
    let program = programs::empty();
    Ok([
        attach(group, "empty6", ProgramKind::Addresses, PEER6, &program)?,
        attach(group, "empty", ProgramKind::Connections, CONNECTIONS, &program)?,
    ])
}

fn attach(
    group: &File,
    name: &'static str,
    kind: ProgramKind,
    place: u32,
    program: &[Instruction],
) -> Result<PeerLink, BpfError> {
    let program = call::load_program(&format!("n64_{name}"), kind, place, program)?;
    Ok(PeerLink { name, link: call::attach(program.as_fd(), group.as_fd(), place)? })
}

/// A program that is attached.
#[derive(Debug)]
pub struct PeerLink {
    /// What it is pinned as.
    pub name: &'static str,
    link: OwnedFd,
}

/// What it is pinned as where it gives names in all network namespaces.
pub const EVERYWHERE: &str = "established-everywhere";

impl PeerLink {
    /// Keeps the program attached when this process ends, until the file is removed.
    ///
    /// # Errors
    /// Where `path` is in no bpffs, or there already.
    pub fn pin(&self, path: &Path) -> Result<(), BpfError> {
        call::pin(self.link.as_fd(), path)
    }
}

/// Detaches the program whose link is pinned here.
///
/// # Errors
/// Where there is none, or the kernel cannot do that (before Linux 5.9): then it is detached soon
/// after the file is removed.
pub fn detach(link: &Path) -> Result<(), BpfError> {
    call::detach(call::open(link)?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::fs;
    use std::io;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::process;
    use std::sync::atomic::{AtomicU16, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;

    use crate::handoff::entry::{MappedPort, TableKey};
    use crate::kernel::bpf::layout::SLOT_WORDS;
    use crate::kernel::bpf::names::{FoundName, PeerName};
    use crate::kernel::bpf::place::control_groups;
    use crate::kernel::clock;
    use crate::kernel::socket::network_namespace;

    #[test]
    fn the_state_is_read_as_it_was_written() {
        let made = MadeNames { names_max: 1_000_000, seed: 0x1122_3344_5566_7788 };
        let said = NamesState { generation: 5, until: 1 << 40, namespace: 4_026_531_840, made };
        assert_eq!(NamesState::of(&said.value()), said);
        let mut ended = said.value();
        end_state(&mut ended);
        assert_eq!(NamesState::of(&ended), NamesState { until: 0, ..said });
        // That of a former version is shorter.
        assert_eq!(NamesState::of(&said.value()[..24]).generation, 5);
    }

    /// A process is in one group: tests that want their own take turns.
    static ONE: Mutex<()> = Mutex::new(());

    /// A control group for a test, which this process is in as long as the value lives.
    struct Group {
        folder: PathBuf,
        before: PathBuf,
        _one: MutexGuard<'static, ()>,
    }

    impl Group {
        fn enter() -> Option<Self> {
            let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
            let root = control_groups()?;
            let own = fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
            let group = root.join(format!("nat64handoff-test-{}", process::id()));
            fs::create_dir(&group).ok()?;
            fs::write(group.join("cgroup.procs"), process::id().to_string()).ok()?;
            Some(Self { folder: group, before: root.join(own), _one: one })
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::write(self.before.join("cgroup.procs"), process::id().to_string());
            let _ = fs::remove_dir(&self.folder);
        }
    }

    /// From a port that is named before it is connected, if it is to be.
    fn connected(
        listener: &TcpListener,
        to: SocketAddr,
        name: impl FnOnce(u16),
    ) -> (SocketAddr, u16, [TcpStream; 2]) {
        use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, socket};
        let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&client, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let own = SocketAddr::try_from(getsockname(&client).unwrap()).unwrap().port();
        name(own);
        connect(&client, &to).unwrap();
        let (server, peer) = listener.accept().unwrap();
        (peer, own, [client.into(), server])
    }

    /// What a test asks, with programs that are attached to a group of its own.
    struct Fixture {
        maps: PeerMaps,
        listener: TcpListener,
        to: SocketAddr,
        valid: Cell<(u32, i64)>,
        namespace: Cell<u64>,
        links: Vec<PeerLink>,
        _group: Group,
    }

    const POOL: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
    const TABLE: TableKey = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };

    fn client() -> Ipv6Addr {
        "2001:db8::17".parse().unwrap()
    }

    fn its_name() -> PeerName {
        PeerName { client: client(), client_port: 53186, pool: Some(POOL) }
    }

    impl Fixture {
        fn new(names_max: u32) -> Self {
            let group = Group::enter().unwrap();
            let maps = PeerMaps::create(names_max).unwrap();
            let links = maps.attach(&File::open(&group.folder).unwrap(), true, true).unwrap();
            let listener = TcpListener::bind("[::]:0").unwrap();
            let to = (Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()).into();
            let (valid, namespace) = (Cell::new((0, -1)), Cell::new(0));
            namespace.set(network_namespace(&listener).unwrap_or_default());
            Self { maps, listener, to, valid, namespace, links, _group: group }
        }

        /// From now on, at each connection.
        fn valid(&self, generation: u32, seconds: i64) {
            self.valid.set((generation, seconds));
            self.renew();
        }

        fn renew(&self) {
            let (generation, seconds) = self.valid.get();
            let now = clock::since_boot().as_nanos() as u64;
            let until = now.wrapping_add_signed(seconds * 1_000_000_000);
            let namespace = self.namespace.get();
            let found = NamesState::read(&self.maps.state).unwrap();
            let said = NamesState { generation, until, namespace, ..found };
            said.write(&self.maps.state).unwrap();
        }

        fn name(&self, port: u16, generation: u32) {
            self.give(port, &its_name(), generation);
        }

        fn give(&self, port: u16, name: &PeerName, generation: u32) {
            assert!(self.maps.names.give(TABLE, MappedPort(port), name, generation));
        }

        /// Whether a new connection has its name.
        fn is_named(&self, port: impl FnOnce(u16)) -> bool {
            self.renew();
            let (peer, own, [connecting, server]) = connected(&self.listener, self.to, port);
            assert_eq!(server.peer_addr().unwrap(), peer, "accept and getpeername");
            assert_eq!(connecting.peer_addr().unwrap(), self.to, "opened by this host");
            let named = SocketAddr::from((client(), 53186));
            assert!(
                peer == named || peer == (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), own).into(),
                "{peer}"
            );
            peer == named
        }
    }

    #[test]
    fn accepted_peers_are_named_and_nothing_else() -> io::Result<()> {
        let test = Fixture::new(16);
        assert!(!test.is_named(|port| test.name(port, 1)), "no server yet");
        test.valid(1, 9);
        assert!(test.is_named(|port| test.name(port, 1)));
        assert!(!test.is_named(|_| ()), "nobody's port");
        assert!(!test.is_named(|port| test.name(port, 2)), "another generation");
        test.valid(1, -1);
        assert!(!test.is_named(|port| test.name(port, 1)), "of a dead server");
        test.valid(1, 9);
        // What a program may read while the name is replaced: half of it. It does not read the
        // table, which is first.
        for at in 8..8 * SLOT_WORDS {
            assert!(!test.is_named(|port| {
                test.name(port, 1);
                test.maps.names.damage(TABLE, MappedPort(port), at);
            }));
            test.maps.names.retain(2, |_, _, _| FoundName::Goes);
        }
        assert!(!test.is_named(|port| test.give(port, &PeerName::NOBODY, 1)), "nobody's");

        // What no server says.
        test.valid(1, 60);
        assert!(!test.is_named(|port| test.name(port, 1)), "too far away");
        let own = test.namespace.replace(0);
        test.valid(1, 9);
        let tells_namespaces = test.links.iter().all(|link| link.name != EVERYWHERE);
        assert_eq!(!test.is_named(|port| test.name(port, 1)), tells_namespaces);
        test.namespace.set(own);
        test.renew();

        // What it is stays, whatever becomes of the name.
        let (peer, own, [_, server]) =
            connected(&test.listener, test.to, |port| test.name(port, 1));
        assert_eq!(peer, SocketAddr::from((client(), 53186)));
        test.maps.names.take(TABLE, MappedPort(own));
        test.valid(3, -1);
        assert_eq!(server.peer_addr()?, peer);

        test.valid(1, 9);
        let ipv4 = TcpListener::bind("127.0.0.1:0")?;
        let to = ipv4.local_addr()?;
        let (peer, _, [connecting, _server]) = connected(&ipv4, to, |port| test.name(port, 1));
        assert_eq!(peer, SocketAddr::from((POOL, 53186)));
        assert_eq!(connecting.peer_addr()?, to, "opened by this host");
        let without = |port| test.give(port, &PeerName { pool: None, ..its_name() }, 1);
        let (peer, own, _both) = connected(&ipv4, to, without);
        assert_eq!(peer, SocketAddr::from((Ipv4Addr::LOCALHOST, own)), "nothing of the pool");
        Ok(())
    }

    /// A socket that had a name has none when it connects to somebody itself.
    #[test]
    fn a_socket_that_connects_loses_its_name() {
        let test = Fixture::new(16);
        test.valid(1, 9);
        let (peer, _, [_connecting, server]) =
            connected(&test.listener, test.to, |port| test.name(port, 1));
        assert_eq!(peer, SocketAddr::from((client(), 53186)));
        // SAFETY: the address is one of no family, and of the size that is told.
        let done = unsafe {
            let nobody = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
            libc::connect(server.as_raw_fd(), &raw const nobody, 16)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
        rustix::net::connect(&server, &to).unwrap();
        assert_eq!(server.peer_addr().unwrap(), to);
    }

    /// Both connect at the same time: here one with itself.
    #[test]
    fn a_socket_that_connects_has_no_name_where_the_other_does_so_too() {
        use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, socket};
        let test = Fixture::new(16);
        let own = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
        bind(&own, &any).unwrap();
        let at = SocketAddr::try_from(getsockname(&own).unwrap()).unwrap();
        test.name(at.port(), 1);
        test.valid(1, 9);
        connect(&own, &at).unwrap();
        assert_eq!(TcpStream::from(own).peer_addr().unwrap(), at);
    }

    /// At which nobody writes names any more.
    const END: MappedPort = MappedPort(1);

    /// Also where the test fails.
    struct End<'a>(&'a AtomicU16);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(END.0, Ordering::Relaxed);
        }
    }

    /// The server writes names at all times: whoever is told has been there, as a whole.
    #[test]
    fn a_name_that_changes_meanwhile_is_never_half_another() {
        const TRIES: usize = 5000;
        const ENOUGH: usize = 100;
        let test = Fixture::new(TRIES as u32 + 1);
        test.valid(1, 9);
        let other = PeerName {
            client: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
            client_port: 1,
            pool: None,
        };
        let all = [its_name(), other];
        let expected = all.map(|name| SocketAddr::from((name.client, name.client_port)));
        let (names, mut seen) = (&test.maps.names, [0; 3]);
        let (port, written) = (AtomicU16::new(0), AtomicU16::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut step = 0_usize;
                loop {
                    let port = MappedPort(port.load(Ordering::Relaxed));
                    step += 1;
                    match step % 5 {
                        _ if port == END => break,
                        4 => names.take(TABLE, port),
                        step => _ = names.give(TABLE, port, &all[step % 2], 1),
                    }
                    written.store(port.0, Ordering::Relaxed);
                }
            });
            let _end = End(&port);
            for _ in 0..TRIES {
                test.renew();
                let (peer, own, _both) = connected(&test.listener, test.to, |own| {
                    port.store(own, Ordering::Relaxed);
                    // On a busy machine the other thread may wait for its turn.
                    while written.load(Ordering::Relaxed) != own {
                        thread::yield_now();
                    }
                });
                let true_peer = (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), own).into();
                let known = [expected[0], expected[1], true_peer];
                let which = known.iter().position(|known| *known == peer);
                seen[which.unwrap_or_else(|| panic!("{peer} is nobody"))] += 1;
                if seen.iter().all(|seen| *seen > ENOUGH) {
                    break;
                }
            }
        });
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    }
}
