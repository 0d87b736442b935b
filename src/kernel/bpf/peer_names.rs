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
//! | `names` | local address, NAT64, its port | client, address of the pool, generation, check |
//! | `state` | 0 | the generation that is valid, until when, and in which network namespace |
//! | `peers` | a socket | its name |
//!
//! So a name is that of the time at which the connection came into being, and stays for its life,
//! whatever becomes of the entry. A socket that this host connects never has one, also where the
//! other host connects to it at the same time.
//!
//! A name is valid if it is of the current generation, which stands for a state directory, and if
//! the server said within the last seconds that it is there. The kernel gives the room of a name
//! that goes to another at once, also while a program reads it: the check is over key and value,
//! so what is read of two halves is no name.
//!
//! Addresses and ports are in network order, other numbers in that of the host.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::assembler::Instruction;
use super::call::{self, BpfError, ProgramKind};
use super::layout::{
    CHECK_AT, CHECK_MULTIPLIER, CLIENT_PORT_AT, GENERATION_AT, NAMESPACE_AT, PEER_OCTETS, PEERS,
    POOL_AT, UNTIL_AT,
};
pub use super::layout::{NAMES, STATE};
use super::map::BpfMap;
use super::programs;
use crate::handoff::entry::TableKey;

const CONNECTIONS: u32 = 3;
const PEER4: u32 = 29;
const PEER6: u32 = 30;

/// Who is behind a port of a NAT64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerName {
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// What it is called where an IPv4 address is wanted. None: nothing.
    pub pool: Option<Ipv4Addr>,
}

/// The octets of a port, where the kernel has it as the lower half of a word.
fn port_word(port: u16) -> [u8; 4] {
    u32::from(u16::from_ne_bytes(port.to_be_bytes())).to_ne_bytes()
}

/// The key of a name.
pub fn key(table: TableKey, port: u16) -> [u8; NAMES.key_octets] {
    let mut key = [0; NAMES.key_octets];
    key[..4].copy_from_slice(&table.local.octets());
    key[4..8].copy_from_slice(&table.nat64.octets());
    key[8..].copy_from_slice(&port_word(port));
    key
}

/// Table and port of a key.
pub fn read_key(key: &[u8; NAMES.key_octets]) -> (TableKey, u16) {
    let [a, b, c, d, e, f, g, h, port @ ..] = *key;
    let table = TableKey { local: [a, b, c, d].into(), nat64: [e, f, g, h].into() };
    (table, u16::from_be_bytes((u32::from_ne_bytes(port) as u16).to_ne_bytes()))
}

/// The value of a name that is given to this key.
pub fn value(
    key: &[u8; NAMES.key_octets],
    name: PeerName,
    generation: u32,
) -> [u8; NAMES.value_octets] {
    let mut value = [0; NAMES.value_octets];
    value[..16].copy_from_slice(&name.client.octets());
    value[16..20].copy_from_slice(&port_word(name.client_port));
    value[20..24].copy_from_slice(&name.pool.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    value[24..28].copy_from_slice(&generation.to_ne_bytes());
    let check = check(key, &value);
    value[CHECK_AT as usize..].copy_from_slice(&check.to_ne_bytes());
    value
}

/// Over the key and the value up to the check.
fn check(key: &[u8; NAMES.key_octets], value: &[u8; NAMES.value_octets]) -> u64 {
    let mut octets = [0; 16 + CHECK_AT as usize];
    octets[..key.len()].copy_from_slice(key);
    octets[16..].copy_from_slice(&value[..CHECK_AT as usize]);
    octets.as_chunks().0.iter().fold(0, |check, word| {
        let mixed = (check ^ u64::from_ne_bytes(*word)).wrapping_mul(CHECK_MULTIPLIER);
        mixed ^ mixed >> 32
    })
}

/// The generation in a value of a name.
pub fn read_generation(value: &[u8]) -> u32 {
    let octets = value.get(GENERATION_AT as usize..).and_then(|rest| rest.first_chunk());
    octets.map_or(0, |octets| u32::from_ne_bytes(*octets))
}

/// Whether two values of names are of the same client and port.
pub fn is_of_same_client(one: &[u8], other: &[u8]) -> bool {
    let of = |value: &[u8]| value.first_chunk::<{ POOL_AT as usize }>().copied();
    of(one).is_some_and(|client| Some(client) == of(other))
}

/// Whether a value of a name names anybody: no client has port 0.
pub fn is_somebodys(value: &[u8]) -> bool {
    let port = value.get(CLIENT_PORT_AT as usize..).and_then(|rest| rest.first_chunk());
    port.is_some_and(|port| *port != [0_u8; 4])
}

/// The value of the state: the names of which generation are valid, until when, in nanoseconds
/// since the boot, and in which network namespace ([`crate::kernel::socket::network_namespace`]).
pub fn state(generation: u32, until: u64, namespace: u64) -> [u8; STATE.value_octets] {
    let mut value = [0; STATE.value_octets];
    value[..4].copy_from_slice(&generation.to_ne_bytes());
    value[UNTIL_AT as usize..][..8].copy_from_slice(&until.to_ne_bytes());
    value[NAMESPACE_AT as usize..].copy_from_slice(&namespace.to_ne_bytes());
    value
}

/// From now on no name is valid by this value of the state, which may be another version's.
pub fn end_state(value: &mut [u8]) {
    if let Some(until) = value.get_mut(UNTIL_AT as usize..UNTIL_AT as usize + 8) {
        until.fill(0);
    }
}

/// The generation in the value of the state, and until when it is valid.
pub fn read_state(value: &[u8]) -> (u32, u64) {
    let until = value.get(UNTIL_AT as usize..).and_then(|rest| rest.first_chunk());
    let current = value.first_chunk().map_or(0, |octets| u32::from_ne_bytes(*octets));
    (current, until.map_or(0, |octets| u64::from_ne_bytes(*octets)))
}

/// The maps that the programs look into.
#[derive(Debug)]
pub struct PeerMaps {
    pub names: BpfMap,
    pub state: BpfMap,
    peers: BpfMap,
}

impl PeerMaps {
    /// Makes them, for at most `names_max` names, for which the kernel takes memory at once.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN, or without memory.
    pub fn create(names_max: u32) -> Result<Self, BpfError> {
        let types = call::load_types(&peer_type())?;
        let types = Some((types.as_fd(), TYPE_INTEGER, TYPE_PEER));
        Ok(Self {
            names: BpfMap::create(NAMES, names_max, None)?,
            state: BpfMap::create(STATE, 1, None)?,
            peers: BpfMap::create(PEERS, 0, types)?,
        })
    }

    /// Opens those that are pinned: names, state, peers.
    ///
    /// # Errors
    /// Where one is not there, or is another version's.
    pub fn open([names, state, peers]: &[PathBuf; 3]) -> Result<Self, BpfError> {
        Ok(Self {
            names: BpfMap::open(names, NAMES)?,
            state: BpfMap::open(state, STATE)?,
            peers: BpfMap::open(peers, PEERS)?,
        })
    }

    /// Keeps them when this process ends, until the files are removed: names, state, peers.
    ///
    /// # Errors
    /// Where a path is in no bpffs, or there already.
    pub fn pin(&self, [names, state, peers]: &[PathBuf; 3]) -> Result<(), BpfError> {
        call::pin(self.names.as_fd(), names)?;
        call::pin(self.state.as_fd(), state)?;
        call::pin(self.peers.as_fd(), peers)
    }

    /// Attaches the programs to a control group, for as long as one of the links is open or
    /// pinned: those of IPv6 sockets, of IPv4 sockets, or both.
    ///
    /// # Errors
    /// Where the kernel takes no such program (before Linux 5.8), or the group is none.
    pub fn attach(&self, group: &File, ipv6: bool, ipv4: bool) -> Result<Vec<PeerLink>, BpfError> {
        let (names, state) = (self.names.as_fd(), self.state.as_fd());
        let peers = self.peers.as_fd();
        let attach = |name, kind, place, program: &[Instruction]| {
            let program = call::load_program(&format!("n64_{name}"), kind, place, program)?;
            Ok(PeerLink { name, link: call::attach(program.as_fd(), group.as_fd(), place)? })
        };
        // The last one first: a name that nobody gives yet is asked for in vain.
        let mut links = Vec::new();
        for (name, place, wanted, program) in [
            ("peer4", PEER4, ipv4, programs::tell_ipv4(peers)),
            ("peer6", PEER6, ipv6, programs::tell_ipv6(peers)),
        ] {
            if wanted {
                links.push(attach(name, ProgramKind::Addresses, place, &program)?);
            }
        }
        let established = |name, tells_namespaces| {
            let program = programs::established(names, state, peers, ipv6, ipv4, tells_namespaces);
            attach(name, ProgramKind::Connections, CONNECTIONS, &program)
        };
        links.push(match established("established", true) {
            // Before Linux 5.15 it has no number of a network namespace here.
            Err(error) if error.is_of_the_verifier() => established(EVERYWHERE, false)?,
            done => done?,
        });
        Ok(links)
    }
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

/// The types in [`peer_type`].
const TYPE_INTEGER: u32 = 1;
const TYPE_PEER: u32 = 2;

/// What the kernel wants to know of the map of sockets (BTF): its keys are integers of four octets,
/// and its values are arrays of these.
fn peer_type() -> Vec<u8> {
    const MAGIC: u16 = 0xeb9f;
    const VERSION: u8 = 1;
    const HEADER_OCTETS: u32 = 24;
    const KIND_INTEGER: u32 = 1 << 24;
    const KIND_ARRAY: u32 = 3 << 24;
    const BITS_SIGNED: u32 = 1 << 24 | 32;
    let count = PEER_OCTETS as u32 / 4;
    let mut types = vec![1, KIND_INTEGER, 4, BITS_SIGNED];
    types.extend([0, KIND_ARRAY, 0, TYPE_INTEGER, TYPE_INTEGER, count]);
    let types_octets = 4 * types.len() as u32;
    let names = b"\0int\0";
    let mut octets = Vec::new();
    octets.extend(MAGIC.to_ne_bytes());
    octets.extend([VERSION, 0]);
    for word in [HEADER_OCTETS, 0, types_octets, types_octets, names.len() as u32] {
        octets.extend(word.to_ne_bytes());
    }
    types.iter().for_each(|word| octets.extend(word.to_ne_bytes()));
    octets.extend(names);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::fs;
    use std::io;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::process;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use crate::kernel::bpf::place::control_groups;
    use crate::kernel::clock;
    use crate::kernel::socket::network_namespace;

    #[test]
    fn names_are_laid_out_as_the_programs_read_them() {
        let table = TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() };
        assert_eq!(key(table, 3719)[..10], [203, 0, 113, 5, 192, 0, 2, 7, 0x0e, 0x87]);
        let name = PeerName {
            client: "2001:db8::17".parse().unwrap(),
            client_port: 53186,
            pool: Some([100, 64, 0, 7].into()),
        };
        assert_eq!(read_key(&key(table, 3719)), (table, 3719));
        let value = value(&key(table, 3719), name, 5);
        assert_eq!(value[..4], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(value[16..18], 53186_u16.to_be_bytes());
        assert_eq!(value[20..24], [100, 64, 0, 7]);
        assert_eq!(value[24..28], 5_u32.to_ne_bytes());
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
            self.maps.state.set(&[0; 4], &state(generation, until, namespace)).unwrap();
        }

        fn name(&self, port: u16, generation: u32) {
            let name = PeerName { client: client(), client_port: 53186, pool: Some(POOL) };
            let key = key(TABLE, port);
            self.maps.names.set(&key, &value(&key, name, generation)).unwrap();
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
        // What a program may read while the name is replaced: of another key, or half of it.
        let other = key(TABLE, 1);
        let name = PeerName { client: client(), client_port: 53186, pool: None };
        let torn = value(&other, name, 1);
        assert!(!test.is_named(|port| test.maps.names.set(&key(TABLE, port), &torn).unwrap()));
        for place in 0..NAMES.value_octets {
            assert!(!test.is_named(|port| {
                let key = key(TABLE, port);
                let mut torn = value(&key, name, 1);
                torn[place] ^= 1;
                test.maps.names.set(&key, &torn).unwrap();
            }));
            test.maps.names.remove_all(&all_keys(&test.maps.names)).unwrap();
        }

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
        test.maps.names.remove_all(&key(TABLE, own)).unwrap();
        test.valid(3, -1);
        assert_eq!(server.peer_addr()?, peer);

        test.valid(1, 9);
        let ipv4 = TcpListener::bind("127.0.0.1:0")?;
        let to = ipv4.local_addr()?;
        let (peer, _, [connecting, _server]) = connected(&ipv4, to, |port| test.name(port, 1));
        assert_eq!(peer, SocketAddr::from((POOL, 53186)));
        assert_eq!(connecting.peer_addr()?, to, "opened by this host");
        let without = |port| {
            let key = key(TABLE, port);
            test.maps.names.set(&key, &value(&key, name, 1)).unwrap();
        };
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

    fn all_keys(map: &BpfMap) -> Vec<u8> {
        let mut keys = Vec::new();
        map.walk(|key, _| keys.extend_from_slice(key)).unwrap();
        keys
    }

    #[test]
    fn maps_hold_what_they_have_room_for() {
        let map = BpfMap::create(NAMES, 1000, None).unwrap();
        let keys: Vec<u8> = (0..1200_u32).flat_map(|n| [n.to_ne_bytes(); 3].concat()).collect();
        let values: Vec<u8> = (0..1200_u32).flat_map(|n| [n.to_ne_bytes(); 10].concat()).collect();
        let (done, error) = map.set_all(&keys, &values);
        assert_eq!((done, error.map(|e| e.cause.raw_os_error())), (1000, Some(Some(libc::E2BIG))));
        let mut found = Vec::new();
        map.walk(|key, value| found.push((key.to_vec(), value[..4].to_vec()))).unwrap();
        found.sort_by_key(|(key, _)| u32::from_ne_bytes(*key.first_chunk().unwrap()));
        assert_eq!(found.len(), 1000);
        assert!(found.iter().zip(0..).all(|((_, value), n)| value[..] == u32::to_ne_bytes(n)));
        // Every third is there no more; those in between are missing already.
        let thirds: Vec<u8> = keys.chunks(12).step_by(3).flatten().copied().collect();
        map.remove_all(&thirds).unwrap();
        map.remove_all(&keys[..12 * 500]).unwrap();
        let mut left = 0;
        map.walk(|key, _| left += u32::from(key[..4] >= [0; 4][..])).unwrap();
        assert_eq!(left, 333);
        assert_eq!(map.get(&keys[..12]).unwrap(), None);
        assert_eq!(
            map.get(&keys[12 * 999 - 12..12 * 999]).unwrap(),
            Some(values[40 * 998..40 * 999].to_vec())
        );
    }
}
