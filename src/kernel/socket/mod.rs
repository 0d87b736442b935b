//! The sockets of the handoff port: bound, steered, and nobody else's.
//!
//! PROTOCOL.md section 1 keeps one table per (local address, NAT64 address), and each reactor has
//! its own tables, so all that one NAT64 sends must reach the same reactor, whatever port it is sent
//! from. The reactors' sockets of one address form an SO_REUSEPORT group, and a classic BPF program
//! picks the socket by the IPv4 source address alone. Section 4 asks for IP_PMTUDISC_OMIT.
//!
//! A group is made so that no datagram ever sees a part of it: its sockets are deaf (a filter drops
//! everything) until the last one is bound and the program attached. It is exclusive as well: its
//! first socket is bound without SO_REUSEPORT, which fails if the port is in use by anyone, also by
//! a server that has just died and whose ring the kernel has not taken down yet. Only then it is
//! shared with the others.
//!
//! Nothing here receives or sends; that is `ring`. IPv6 and dual-stack sockets are not for the
//! steering program, which reads an IPv4 header.

use std::error::Error;
use std::ffi::c_int;
use std::fmt;
use std::fs;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

/// What each socket may queue in each direction, in octets, as far as the system allows.
pub const SOCKET_QUEUE_MAX: usize = 4 << 20;
/// How often a port that is in use is tried, as a rule, before it counts as taken by a process...
const BIND_TRIES: u32 = 31;
/// ...and by none that we see: mostly one that has ended, whose ring and sockets the kernel takes down behind
/// it, in some 30 ms, but in a second where all cores are busy.
const BIND_TRIES_NOBODY: u32 = 501;
/// How long to wait in between.
const BIND_INTERVAL: Duration = Duration::from_millis(10);
/// From then on, each how many tries it is looked up whether a process has it: that reads through all of them.
const HOLDER_EVERY: u32 = 25;

/// A bound socket of one reactor.
#[derive(Debug)]
pub struct ReactorSocket {
    socket: UdpSocket,
    local: SocketAddrV4,
    /// What the kernel had dropped when this was last asked.
    dropped: u32,
}

impl ReactorSocket {
    /// The address that it is bound to, with the port that it really has.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Whether it is bound to all addresses of the host, so that each datagram brings its
    /// destination along (IP_PKTINFO).
    pub fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// How many datagrams the kernel has dropped since this was last asked, mostly as the queue was full: the
    /// number that SO_RXQ_OVFL tells with each datagram, at no cost for each.
    pub fn overflowed(&mut self) -> u64 {
        let dropped = dropped(self.socket.as_fd()).unwrap_or(self.dropped);
        let before = std::mem::replace(&mut self.dropped, dropped);
        u64::from(dropped.wrapping_sub(before))
    }
}

impl AsFd for ReactorSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why the handoff port could not be had.
#[derive(Debug)]
pub enum BindError {
    /// Another socket has it.
    PortTaken {
        /// The port.
        port: u16,
        /// Whose socket that is, if it can be told.
        holder: Option<Holder>,
    },
    /// The address is not one of this host's.
    NotLocal(Ipv4Addr),
    /// The port is a privileged one.
    Forbidden(u16),
    /// Anything else.
    Other(SocketAddrV4, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::PortTaken { port, holder: Some(holder) } => {
                write!(
                    f,
                    "port {port} is taken by {holder}; stop it, or choose another with --port"
                )
            }
            BindError::PortTaken { port, holder: None } => {
                write!(f, "port {port} is taken; see `ss -lunp`")
            }
            BindError::NotLocal(address) => {
                write!(f, "{address} is not an address of this host; see `ip address`")
            }
            BindError::Forbidden(port) => write!(
                f,
                "port {port} needs CAP_NET_BIND_SERVICE, or a lower sysctl \
                 net.ipv4.ip_unprivileged_port_start"
            ),
            BindError::Other(address, error) => write!(f, "cannot listen on {address}: {error}"),
        }
    }
}

impl Error for BindError {}

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name, as in `ps`.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Binds every address of `listen` for every one of `reactors`. Returns each reactor's sockets, in
/// the order of `listen`; an address that is named twice is bound once. Port 0 stands for a port
/// that the kernel picks, the same for all addresses that have it.
///
/// The group of an address must stay whole while any of its sockets is read: close the sockets only
/// when all reactors have finished.
///
/// # Errors
/// The first address that cannot be had, and why; then none is bound.
///
/// # Panics
/// Where `listen` is empty or `reactors` is 0.
pub fn bind_group(
    listen: &[SocketAddrV4],
    reactors: usize,
) -> Result<Vec<Vec<ReactorSocket>>, BindError> {
    assert!(!listen.is_empty(), "an address to listen on");
    assert!(reactors > 0, "a reactor to listen");
    let mut addresses: Vec<SocketAddrV4> = Vec::with_capacity(listen.len());
    for &address in listen {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // The wildcard first: it overlaps with the others, and is exclusive to the whole port.
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|&index| !addresses[index].ip().is_unspecified());
    let mut picked_port = 0;
    let mut wildcard_ports = Vec::new();
    let mut groups: Vec<_> = addresses.iter().map(|_| Vec::new()).collect();
    for index in order {
        let mut address = addresses[index];
        if address.port() == 0 {
            address.set_port(picked_port);
        }
        let first = bind_first(address, wildcard_ports.contains(&address.port()))?;
        let bound = first.local;
        if address.port() == 0 {
            picked_port = bound.port();
        }
        if first.is_wildcard() {
            wildcard_ports.push(bound.port());
        }
        let shared = reactors > 1 || first.is_wildcard() && addresses.len() > 1;
        groups[index] = complete_group(first, shared, reactors)
            .map_err(|error| BindError::Other(bound, error))?;
    }
    // Only now does any of them hear: not before all addresses are there.
    for socket in groups.iter_mut().flatten() {
        undeafen(socket).map_err(|error| BindError::Other(socket.local, error))?;
        // What it did not hear does not count.
        socket.overflowed();
    }
    let mut shards: Vec<Vec<ReactorSocket>> = (0..reactors).map(|_| Vec::new()).collect();
    for group in groups {
        for (shard, socket) in shards.iter_mut().zip(group) {
            shard.push(socket);
        }
    }
    Ok(shards)
}

/// Which of `reactors` gets the datagrams from `source`.
///
/// # Panics
/// Where `reactors` is 0.
pub fn steered_to(source: Ipv4Addr, reactors: usize) -> usize {
    let hash = u32::from(source).wrapping_mul(STEERING_MULTIPLIER) >> STEERING_SHIFT;
    hash as usize % reactors
}

/// 2^32 divided by the golden ratio: neighbouring addresses get distant products (Knuth, TAOCP 6.4).
const STEERING_MULTIPLIER: u32 = 0x9e37_79b1;
/// The low half of a product depends on the low half of the address alone.
const STEERING_SHIFT: u32 = 16;
/// Where the source address stands in the IPv4 header.
const SOURCE_ADDRESS: u32 = 12;

/// [`steered_to`] as a classic BPF program, which returns the number of a socket in its group.
/// A load from the packet gives host order, which is what `u32::from` makes of an address.
fn steering_program(reactors: u32) -> [libc::sock_filter; 5] {
    [
        instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            (libc::SKF_NET_OFF as u32).wrapping_add(SOURCE_ADDRESS),
        ),
        instruction(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, STEERING_MULTIPLIER),
        instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, STEERING_SHIFT),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, reactors),
        instruction(libc::BPF_RET | BPF_A, 0),
    ]
}

/// From linux/filter.h: return the accumulator.
const BPF_A: u32 = 0x10;

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// The first socket of a group, deaf, bound to the exclusion of everyone else; or else, where a
/// wildcard of ours `overlaps`, which excludes them already.
fn bind_first(address: SocketAddrV4, overlaps: bool) -> Result<ReactorSocket, BindError> {
    // The kernel lets one bind to these, but a reply cannot leave from them.
    if address.ip().is_multicast() || address.ip().is_broadcast() {
        return Err(BindError::NotLocal(*address.ip()));
    }
    let mut tries = 1;
    loop {
        let attempt = open(address).and_then(|socket| {
            if overlaps {
                share(&socket)?;
            }
            bind(&socket, address)?;
            bound(socket)
        });
        let error = match attempt {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                let look = tries >= BIND_TRIES && (tries - BIND_TRIES).is_multiple_of(HOLDER_EVERY);
                let holder = look.then(|| holder_of(address)).flatten();
                if holder.is_some() || tries >= BIND_TRIES_NOBODY {
                    return Err(BindError::PortTaken { port: address.port(), holder });
                }
                tries += 1;
                thread::sleep(BIND_INTERVAL);
            }
            Some(libc::EADDRNOTAVAIL) => return Err(BindError::NotLocal(*address.ip())),
            Some(libc::EACCES) => return Err(BindError::Forbidden(address.port())),
            _ => return Err(BindError::Other(address, error)),
        }
    }
}

/// Adds deaf sockets to `first`, which may be `shared` from now on, until there is one for each
/// reactor, and steers between them.
fn complete_group(
    first: ReactorSocket,
    shared: bool,
    reactors: usize,
) -> io::Result<Vec<ReactorSocket>> {
    let address = first.local;
    if shared {
        share(&first.socket)?;
    }
    let mut group = vec![first];
    if reactors == 1 {
        return Ok(group);
    }
    while group.len() < reactors {
        let socket = open(address)?;
        share(&socket)?;
        bind(&socket, address)?;
        group.push(bound(socket)?);
    }
    let reactors = u32::try_from(reactors).map_err(io::Error::other)?;
    let mut program = steering_program(reactors);
    attach(group[0].as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, &mut program)?;
    Ok(group)
}

/// A socket with all its options that hears nothing yet.
fn open(address: SocketAddrV4) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nothing else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut drop_all = [instruction(libc::BPF_RET | libc::BPF_K, 0)];
    attach(socket.as_fd(), libc::SO_ATTACH_FILTER, &mut drop_all)?;
    set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_OMIT)?;
    if address.ip().is_unspecified() {
        let on: c_int = 1;
        set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, &on)?;
    }
    // Without it, datagrams that the kernel joined on their way are taken apart again: no more than that is lost.
    let _ = set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, &1);
    let octets = SOCKET_QUEUE_MAX as c_int;
    for (force, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        // Without the privilege to force it, the system's own limit applies, and that is no error.
        if set_option(socket.as_fd(), libc::SOL_SOCKET, force, &octets).is_err() {
            let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, plain, &octets);
        }
    }
    Ok(socket)
}

/// Lets others of ours bind to the same address: with SO_REUSEPORT, like this one, and of our user.
fn share(socket: &impl AsFd) -> io::Result<()> {
    let on: c_int = 1;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, &on)
}

fn undeafen(socket: &ReactorSocket) -> io::Result<()> {
    let unused: c_int = 0;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &unused)
}

fn bind(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    let name = socket_address(address);
    // SAFETY: `name` is a whole sockaddr_in, its length is given, and the call does not keep it.
    let outcome = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const name).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    checked(outcome)
}

fn bound(socket: OwnedFd) -> io::Result<ReactorSocket> {
    let socket = UdpSocket::from(socket);
    match socket.local_addr()? {
        std::net::SocketAddr::V4(local) => Ok(ReactorSocket { socket, local, dropped: 0 }),
        std::net::SocketAddr::V6(_) => unreachable!("an IPv4 socket has an IPv4 address"),
    }
}

/// `address` as the kernel wants it.
pub(crate) fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: internet_address(*address.ip()),
        sin_zero: [0; 8],
    }
}

/// `address` as the kernel wants it.
pub(crate) fn internet_address(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

fn attach(
    socket: BorrowedFd<'_>,
    option: c_int,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, option, &program)
}

/// Sets an option to one of the types that the kernel's options have: `c_int`, or for [`attach`]
/// `sock_fprog`, which must point to a live program.
fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` is readable for the length that is given, and what it may point to is borrowed
    // by the callers until the call returns; the kernel keeps no pointer.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    checked(outcome)
}

/// The drops that the kernel has counted for a socket (SK_MEMINFO_DROPS of SO_MEMINFO, Linux 4.12).
fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const SO_MEMINFO: c_int = 55;
    const SK_MEMINFO_DROPS: usize = 8;
    let mut values = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: both pointers are good for the call; the kernel writes at most `length` octets to the first.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    checked(outcome).map(|()| values[SK_MEMINFO_DROPS])
}

fn checked(outcome: c_int) -> io::Result<()> {
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Who has a UDP socket that overlaps with `address`: by the socket's number in /proc/net/udp, and
/// the process with a descriptor of that number. `None` where we may not look, or where the process
/// is gone already.
fn holder_of(address: SocketAddrV4) -> Option<Holder> {
    let sockets = fs::read_to_string("/proc/net/udp").ok()?;
    let inodes: Vec<&str> = sockets
        .lines()
        .skip(1)
        .filter_map(udp_line)
        .filter(|(local, _)| overlap(*local, address))
        .map(|(_, inode)| inode)
        .collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .filter_map(|target| socket_inode(target.to_str()?).map(str::to_owned))
            .any(|inode| inodes.contains(&inode.as_str()));
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            return Some(Holder { name: name.trim_end().to_owned(), pid });
        }
    }
    None
}

fn overlap(one: SocketAddrV4, other: SocketAddrV4) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// The local address and the inode in a line of /proc/net/udp. The address is a number in the
/// host's order, as the kernel prints what it has in memory.
fn udp_line(line: &str) -> Option<(SocketAddrV4, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = words.nth(7)?;
    Some((SocketAddrV4::new(address.into(), port), inode))
}

/// `socket:[12345]`
fn socket_inode(target: &str) -> Option<&str> {
    target.strip_prefix("socket:[")?.strip_suffix(']')
}

/// Sets the loopback interface of this thread's network namespace up: in a new one it is down.
///
/// # Errors
/// As the kernel says; without CAP_NET_ADMIN in the namespace it is refused.
pub fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::from(open(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?);
    // SAFETY: an ifreq is plain data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // SAFETY: SIOCGIFFLAGS reads the name in the ifreq and writes its flags.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call before has just written the flags, so this is the union's live field.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: SIOCSIFFLAGS reads the name and the flags in the ifreq.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

#[cfg(test)]
mod tests;
