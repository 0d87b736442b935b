//! The sockets of the handoff port: bound exclusively, and steered by the NAT64's address.
//!
//! PROTOCOL.md section 1 keeps one table per (local address, NAT64 address), and each reactor has
//! its own tables. So everything that one NAT64 sends must reach the same reactor, from whatever
//! port it is sent. The reactors' sockets of one address form an SO_REUSEPORT group, and a classic
//! BPF program picks the socket by the IPv4 source address alone. Section 4 asks for
//! IP_PMTUDISC_OMIT.
//!
//! A datagram never meets an incomplete group: its sockets are deaf (a filter drops everything)
//! until the last one is bound and the program is attached. A group is also exclusive: its first
//! socket is bound without SO_REUSEPORT. That fails if anyone uses the port, also a server that has
//! just died and whose ring the kernel has not taken down yet. Only then the port is shared with
//! the others.
//!
//! Nothing here receives or sends: `ring` and `mmsg` do. IPv6 and dual-stack sockets do not work
//! with the steering program, which reads an IPv4 header.

use std::error::Error;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_socket_recv_buffer_size,
    set_socket_recv_buffer_size_force, set_socket_reuseport, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, socket_recv_buffer_size, socket_send_buffer_size,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use kept::KeptSockets;

use crate::ip::geneve::GENEVE_PORT;
use crate::kernel::holder::Holder;
use crate::kernel::limits;

pub mod kept;

/// What each socket may queue in each direction, in octets, as far as the system allows.
const SOCKET_QUEUE_MAX: usize = 4 << 20;
/// After this many failed tries, the port counts as taken if a process has it.
const BIND_TRIES: u32 = 31;
/// After this many, the port counts as taken even if no process is seen to have it. Mostly its
/// process has ended, and the kernel still takes down the ring and the sockets: in some 30 ms, but
/// in a second where all cores are busy.
const BIND_TRIES_NOBODY: u32 = 501;
/// The pause between two tries.
const BIND_INTERVAL: Duration = Duration::from_millis(10);
/// Tries between two searches of /proc for the port's holder.
const HOLDER_EVERY: u32 = 25;

/// A bound socket of one reactor.
#[derive(Debug)]
pub struct ReactorSocket {
    socket: UdpSocket,
    local: SocketAddrV4,
    /// The kernel's count of drops when [`ReactorSocket::overflowed`] was last called.
    dropped: u32,
}

impl ReactorSocket {
    /// The address that the socket is bound to, with the port that the kernel picked.
    pub fn local(&self) -> SocketAddrV4 {
        self.local
    }

    /// Whether the socket is bound to all addresses of the host, so that each datagram comes with
    /// its destination (IP_PKTINFO).
    pub fn is_wildcard(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// How many datagrams the kernel has dropped since the last call, mostly because the queue was
    /// full. SO_RXQ_OVFL tells the same number with each datagram, but costs a little for each.
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

/// Why the handoff port could not be bound.
#[derive(Debug)]
pub enum BindError {
    /// Another socket has the port.
    PortTaken {
        port: u16,
        /// The process with that socket, if it was found.
        holder: Option<Holder>,
    },
    /// The address does not belong to this host.
    NotLocal(Ipv4Addr),
    /// The port is privileged.
    Forbidden(u16),
    /// Any other error of the kernel.
    Other(SocketAddrV4, io::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::PortTaken { port, holder: Some(holder) } => {
                write!(f, "port {port} is taken by {holder}; stop it, or {}", instead_of(*port))
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
            BindError::Other(address, error) => {
                write!(f, "cannot listen on {address}: {}", limits::explained(error))
            }
        }
    }
}

/// What to do where a port cannot be had.
fn instead_of(port: u16) -> &'static str {
    if port == GENEVE_PORT { "go without --geneve" } else { "choose another with --port" }
}

impl Error for BindError {}

/// Binds every address of `listen` once for each of `reactors`. Returns each reactor's sockets, in
/// the order of `listen`; an address that is listed twice is bound once. Port 0 stands for a port
/// that the kernel picks, the same one for all addresses with port 0.
///
/// The group of an address must stay complete while any of its sockets is read: close the sockets
/// only when all reactors have finished.
///
/// # Errors
/// Why the first address that cannot be bound failed; then none is bound.
///
/// # Panics
/// Where `listen` is empty or `reactors` is 0.
pub fn bind_group(
    listen: &[SocketAddrV4],
    reactors: usize,
) -> Result<Vec<Vec<ReactorSocket>>, BindError> {
    bind_or_take(listen, reactors, KeptSockets::default()).map(|bound| bound.shards)
}

/// The sockets of the handoff port.
#[derive(Debug)]
pub struct BoundSockets {
    /// Those of each reactor, in the order of the addresses.
    pub shards: Vec<Vec<ReactorSocket>>,
    /// How many datagrams waited in kept sockets and are lost, as they waited for a reactor that is
    /// another now.
    pub lost: u64,
    /// The addresses whose sockets are those of a unit.
    of_units: Vec<SocketAddrV4>,
}

/// [`bind_group`], but for the addresses whose sockets were kept: those never stop to hear.
///
/// # Errors
/// As [`bind_group`].
///
/// # Panics
/// As [`bind_group`].
pub fn bind_or_take(
    listen: &[SocketAddrV4],
    reactors: usize,
    mut kept: KeptSockets,
) -> Result<BoundSockets, BindError> {
    assert!(!listen.is_empty(), "an address to listen on");
    assert!(reactors > 0, "a reactor to listen");
    kept.forget_useless();
    let mut addresses: Vec<SocketAddrV4> = Vec::with_capacity(listen.len());
    for &address in listen {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    // The wildcard first: it overlaps with all others, so it alone must be exclusive.
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    order.sort_by_key(|&index| !addresses[index].ip().is_unspecified());
    let mut picked_port = 0;
    let mut wildcard_ports = Vec::new();
    let mut groups: Vec<_> = addresses.iter().map(|_| Vec::new()).collect();
    let of_units = kept.of_units();
    let (mut deaf, mut lost) = (Vec::new(), 0);
    for index in order {
        let mut address = addresses[index];
        let wildcard = address.ip().is_unspecified();
        let shared = reactors > 1 || wildcard && addresses.len() > 1;
        if let Some(group) = kept.take(address, shared, reactors, &mut lost) {
            groups[index] = group.map_err(|error| BindError::Other(address, error))?;
            if wildcard {
                wildcard_ports.push(address.port());
            }
            continue;
        }
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
        deaf.push(index);
        groups[index] = complete_group(first, shared, reactors)
            .map_err(|error| BindError::Other(bound, error))?;
    }
    // No socket hears anything before all addresses are bound.
    let all = groups.iter_mut().enumerate();
    for socket in all.filter(|(index, _)| deaf.contains(index)).flat_map(|(_, group)| group) {
        undeafen(socket).map_err(|error| BindError::Other(socket.local, error))?;
        // The kernel counted what the filter dropped: that was not for us.
        socket.overflowed();
    }
    let mut shards: Vec<Vec<ReactorSocket>> = (0..reactors).map(|_| Vec::new()).collect();
    for group in groups {
        for (shard, socket) in shards.iter_mut().zip(group) {
            shard.push(socket);
        }
    }
    Ok(BoundSockets { shards, lost, of_units })
}

/// Whether [`bind_group`] could bind `address`, if no server like this one has it.
///
/// # Errors
/// Why it could not.
pub fn check(address: SocketAddrV4) -> Result<(), BindError> {
    let Err(error) = UdpSocket::bind(address) else { return Ok(()) };
    if error.raw_os_error() != Some(libc::EADDRINUSE) {
        return Err(refused(address, error));
    }
    match Holder::of(address) {
        Some(holder) if !holder.may_be_ours() => {
            Err(BindError::PortTaken { port: address.port(), holder: Some(holder) })
        }
        _ => Ok(()),
    }
}

/// The number of the reactor, of `reactors`, that gets the datagrams from `source`.
///
/// # Panics
/// Where `reactors` is 0.
pub fn steered_to(source: Ipv4Addr, reactors: usize) -> usize {
    let hash = u32::from(source).wrapping_mul(STEERING_MULTIPLIER) >> STEERING_SHIFT;
    hash as usize % reactors
}

/// 2^32 divided by the golden ratio: neighbouring addresses get distant products (Knuth, TAOCP
/// 6.4).
const STEERING_MULTIPLIER: u32 = 0x9e37_79b1;
/// Only the high half of a product is used: the low half depends on the low half of the address
/// alone.
const STEERING_SHIFT: u32 = 16;
/// The offset of the source address in the IPv4 header.
const SOURCE_ADDRESS: u32 = 12;

/// [`steered_to`] as a classic BPF program, which returns the number of a socket in its group.
/// A load from the packet converts to host byte order, as `u32::from` does with an address.
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

/// The first socket of a group, deaf, and bound to the exclusion of everyone else. Where a wildcard
/// of ours `overlaps`, that one excludes them already.
fn bind_first(address: SocketAddrV4, overlaps: bool) -> Result<ReactorSocket, BindError> {
    // The kernel binds to these addresses, but no reply can leave from them.
    if address.ip().is_multicast() || address.ip().is_broadcast() {
        return Err(BindError::NotLocal(*address.ip()));
    }
    let mut tries = 1;
    loop {
        let attempt = open(address).and_then(|socket| {
            if overlaps {
                set_socket_reuseport(&socket, true)?;
            }
            bind(&socket, &address)?;
            bound(socket)
        });
        let error = match attempt {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                let search =
                    tries >= BIND_TRIES && (tries - BIND_TRIES).is_multiple_of(HOLDER_EVERY);
                let holder = search.then(|| Holder::of(address)).flatten();
                if holder.is_some() || tries >= BIND_TRIES_NOBODY {
                    return Err(BindError::PortTaken { port: address.port(), holder });
                }
                tries += 1;
                thread::sleep(BIND_INTERVAL);
            }
            _ => return Err(refused(address, error)),
        }
    }
}

fn refused(address: SocketAddrV4, error: io::Error) -> BindError {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => BindError::NotLocal(*address.ip()),
        Some(libc::EACCES) => BindError::Forbidden(address.port()),
        _ => BindError::Other(address, error),
    }
}

/// Adds deaf sockets to `first` until there is one for each reactor, and steers between them. Where
/// the address is to be `shared`, others of ours can bind to it from now on: those with
/// SO_REUSEPORT, like this one, and of our user.
fn complete_group(
    first: ReactorSocket,
    shared: bool,
    reactors: usize,
) -> io::Result<Vec<ReactorSocket>> {
    let address = first.local;
    if shared {
        set_socket_reuseport(&first.socket, true)?;
    }
    let mut group = vec![first];
    if reactors == 1 {
        return Ok(group);
    }
    while group.len() < reactors {
        let socket = open(address)?;
        set_socket_reuseport(&socket, true)?;
        bind(&socket, &address)?;
        group.push(bound(socket)?);
    }
    attach_steering(&group[0], reactors)?;
    Ok(group)
}

/// Steers what comes to the group of this socket.
fn attach_steering(socket: &ReactorSocket, reactors: usize) -> io::Result<()> {
    let reactors = u32::try_from(reactors).map_err(io::Error::other)?;
    attach(socket.as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, &mut steering_program(reactors))
}

/// A socket with all its options that hears nothing yet.
fn open(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut drop_all = [instruction(libc::BPF_RET | libc::BPF_K, 0)];
    attach(socket.as_fd(), libc::SO_ATTACH_FILTER, &mut drop_all)?;
    configure(socket.as_fd(), *address.ip())?;
    Ok(socket)
}

/// Sets all options that a socket for this address has, but for those of its group.
fn configure(socket: BorrowedFd<'_>, address: Ipv4Addr) -> io::Result<()> {
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::OMIT)?;
    if address.is_unspecified() {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    }
    // Without GRO, the kernel splits again what it had coalesced on the way: that only costs time.
    let _ = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    // Without the privilege to force a size, the system's own limit applies, and that is no error.
    // One that was given a larger queue keeps it.
    let too_small =
        |size: rustix::io::Result<usize>| size.is_ok_and(|size| size < 2 * SOCKET_QUEUE_MAX);
    if too_small(socket_recv_buffer_size(socket))
        && set_socket_recv_buffer_size_force(socket, SOCKET_QUEUE_MAX).is_err()
    {
        let _ = set_socket_recv_buffer_size(socket, SOCKET_QUEUE_MAX);
    }
    if too_small(socket_send_buffer_size(socket))
        && set_socket_send_buffer_size_force(socket, SOCKET_QUEUE_MAX).is_err()
    {
        let _ = set_socket_send_buffer_size(socket, SOCKET_QUEUE_MAX);
    }
    Ok(())
}

fn undeafen(socket: &ReactorSocket) -> io::Result<()> {
    let unused = 0;
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DETACH_FILTER, unused)
}

fn bound(socket: OwnedFd) -> io::Result<ReactorSocket> {
    let socket = UdpSocket::from(socket);
    match socket.local_addr()? {
        SocketAddr::V4(local) => Ok(ReactorSocket { socket, local, dropped: 0 }),
        SocketAddr::V6(_) => unreachable!("an IPv4 socket has an IPv4 address"),
    }
}

/// `address` in the kernel's form.
pub(crate) fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: internet_address(*address.ip()),
        sin_zero: [0; 8],
    }
}

/// `address` in the kernel's form.
pub(crate) fn internet_address(address: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

/// Attaches a classic BPF program, which no crate of ours can do for SO_REUSEPORT groups.
fn attach(
    socket: BorrowedFd<'_>,
    option: c_int,
    program: &mut [libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the value is a whole sock_fprog, of the length that is given. It points to as many
    // instructions as it says, which are borrowed until the call returns; the kernel copies them.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    checked(outcome)
}

/// Sets an option that is an int, where rustix has no function for it.
fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: `value` can be read for the length that is given, and the kernel keeps no pointer to
    // it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    checked(outcome)
}

/// The kernel's count of a socket's drops (SK_MEMINFO_DROPS of SO_MEMINFO, since Linux 4.12).
fn dropped(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const SO_MEMINFO: c_int = 55;
    const SK_MEMINFO_DROPS: usize = 8;
    words::<{ SK_MEMINFO_DROPS + 1 }>(socket, SO_MEMINFO).map(|values| values[SK_MEMINFO_DROPS])
}

/// The number by which the kernel knows the network namespace of a socket.
///
/// # Errors
/// Before Linux 5.14.
pub fn network_namespace(socket: impl AsFd) -> io::Result<u64> {
    let [first, second] = words(socket.as_fd(), libc::SO_NETNS_COOKIE)?.map(u32::to_ne_bytes);
    let mut octets = [0; 8];
    octets[..4].copy_from_slice(&first);
    octets[4..].copy_from_slice(&second);
    Ok(u64::from_ne_bytes(octets))
}

/// What the kernel says of a socket; zeros where it says less.
fn words<const N: usize>(socket: BorrowedFd<'_>, option: c_int) -> io::Result<[u32; N]> {
    let mut values = [0_u32; N];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: both pointers are good for the call, in which the kernel writes at most `length`
    // octets to the first, and a length to the second.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    checked(outcome).map(|()| values)
}

fn checked(outcome: c_int) -> io::Result<()> {
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
