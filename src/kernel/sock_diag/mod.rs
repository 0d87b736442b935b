//! Asks the kernel for the TCP connections of this host with given hosts, by sock_diag over
//! netlink. That needs no privilege.
//!
//! It sees the connections of its own network namespace. A service that listens on `[::]` has its
//! IPv4 clients as `::ffff:a.b.c.d`, so both families are asked. The kernel filters: connections
//! with other hosts cost no more than its walk through them.
//!
//! Integers are in host byte order, except addresses and ports: `linux/netlink.h`,
//! `linux/inet_diag.h`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use rustix::net::netlink::SOCK_DIAG;

use crate::ip::fields::protocol;
use crate::ip::transport::Transport;
use crate::kernel::netlink::{self, Netlink, REQUEST_ACKNOWLEDGED, REQUEST_DUMP, invalid};

/// For more hosts than this, the kernel is asked for all connections over IPv4.
const HOSTS_MAX: usize = 32;
/// The size of `inet_diag_sockid`.
const SOCKET_ID: usize = 48;
/// Offset of the `inet_diag_sockid`: after family, state, timer and retransmissions.
const ID_AT: usize = 4;

/// Message types.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

/// A connection is live while either end may still send: not in `LISTEN`, `CLOSE` and `TIME_WAIT`.
/// Nor in `SYN_RECV`, before the client has confirmed: anybody can bring that about with a single
/// forged packet, and the entry is a young one anyway.
const LIVE: u32 = 1 << ESTABLISHED
    | 1 << SYN_SENT
    | 1 << FIN_WAIT1
    | 1 << FIN_WAIT2
    | 1 << CLOSE_WAIT
    | 1 << LAST_ACK
    | 1 << CLOSING;
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
const CLOSE: u32 = 7;
const CLOSING: u32 = 11;

/// The attribute with the program that filters, and the program's operations.
const ATTRIBUTE_BYTECODE: u16 = 1;
const OP_JUMP: u8 = 1;
const OP_REMOTE: u8 = 8;
const OP: u16 = 4;
/// An operation that compares the remote address with an IPv4 address.
const OP_REMOTE_IPV4: u16 = OP + 12;

/// A socket of IPv6 that takes packets of whoever sends them: it listens for TCP, or is one of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListeningSocket {
    pub transport: Transport,
    pub address: Ipv6Addr,
    pub port: u16,
    /// The device that it is bound to; 0 for any.
    pub device: u32,
}

/// A TCP connection of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Our end.
    pub local: SocketAddrV4,
    /// The other end.
    pub remote: SocketAddrV4,
}

/// A connection, and what the kernel knows its socket by.
struct FoundSocket<'a> {
    connection: Connection,
    id: &'a [u8; SOCKET_ID],
}

/// A netlink socket, connected to the kernel.
#[derive(Debug)]
pub struct SockDiag {
    netlink: Netlink,
}

impl SockDiag {
    /// Opens a socket, and checks with an empty request that the kernel answers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut opened = Self { netlink: Netlink::open(Some(SOCK_DIAG))? };
        // No connection is in none of the states.
        opened.ask(FAMILY_IPV4, 0, &[], &mut |_| ())?;
        Ok(opened)
    }

    /// A socket with which every request fails.
    #[cfg(test)]
    pub fn broken() -> Self {
        Self { netlink: Netlink::broken() }
    }

    /// Calls `found` for each live connection with these hosts, and maybe for some with others.
    /// After an error the socket must not be used again: a late answer may still arrive.
    ///
    /// # Errors
    /// The kernel's, or that its answer is malformed.
    pub fn connections(
        &mut self,
        hosts: &[Ipv4Addr],
        mut found: impl FnMut(Connection),
    ) -> io::Result<()> {
        self.ask(FAMILY_IPV4, LIVE, hosts, &mut found)?;
        match self.ask(FAMILY_IPV6, LIVE, hosts, &mut found) {
            // The kernel has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Calls `found` for each socket of IPv6 that takes packets from anywhere. After an error the
    /// socket must not be used again.
    ///
    /// # Errors
    /// The kernel's, or that its answer is malformed.
    pub fn listening(&mut self, mut found: impl FnMut(ListeningSocket)) -> io::Result<()> {
        // A socket of UDP that is not connected is closed, as the kernel says it.
        for (transport, number, state) in
            [(Transport::Tcp, protocol::TCP, LISTEN), (Transport::Udp, protocol::UDP, CLOSE)]
        {
            let request = request_of(FAMILY_IPV6, number, 1 << state);
            let mut note = |kind: u16, data: &[u8]| {
                if kind == SOCK_DIAG_BY_FAMILY {
                    let socket = listening(data, transport).ok_or_else(|| invalid("is cut off"))?;
                    socket.into_iter().for_each(&mut found);
                }
                Ok(())
            };
            match self.netlink.ask(SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, &request, &mut note) {
                // The kernel cannot say it of this protocol, or has no IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Ends those connections with these hosts that are meant, both ends of which see that: it
    /// takes CAP_NET_ADMIN. Returns how many.
    ///
    /// # Errors
    /// The kernel's, or that its answer is malformed. The socket must not be used again then.
    pub fn end(
        &mut self,
        hosts: &[Ipv4Addr],
        is_meant: impl Fn(&Connection) -> bool,
    ) -> io::Result<u64> {
        let mut meant = Vec::new();
        for family in [FAMILY_IPV4, FAMILY_IPV6] {
            let mut note = |found: FoundSocket<'_>| {
                if is_meant(&found.connection) {
                    meant.push((family, *found.id));
                }
            };
            match self.ask_any(family, LIVE | 1 << SYN_RECV, hosts, &mut note) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        let mut ended = 0;
        for (family, id) in meant {
            let request = destroy(family, &id);
            match self.netlink.ask(SOCK_DESTROY, REQUEST_ACKNOWLEDGED, &request, &mut ignore) {
                Ok(()) => ended += 1,
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    fn ask(
        &mut self,
        family: u8,
        states: u32,
        hosts: &[Ipv4Addr],
        found: &mut impl FnMut(Connection),
    ) -> io::Result<()> {
        self.ask_any(family, states, hosts, &mut |socket| found(socket.connection))
    }

    fn ask_any(
        &mut self,
        family: u8,
        states: u32,
        hosts: &[Ipv4Addr],
        found: &mut impl FnMut(FoundSocket<'_>),
    ) -> io::Result<()> {
        let request = request(family, states, hosts);
        let mut note = |kind: u16, data: &[u8]| note(kind, data, found);
        self.netlink.ask(SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, &request, &mut note)
    }
}

fn ignore(_: u16, _: &[u8]) -> io::Result<()> {
    Ok(())
}

/// A request for the TCP connections of `family` in one of `states` with one of `hosts`.
fn request(family: u8, states: u32, hosts: &[Ipv4Addr]) -> Vec<u8> {
    let mut out = request_of(family, protocol::TCP, states);
    out.extend(netlink::attribute(ATTRIBUTE_BYTECODE, &bytecode(hosts)));
    out
}

/// A request for the sockets of a protocol in one of `states`.
fn request_of(family: u8, protocol: u8, states: u32) -> Vec<u8> {
    let mut out = vec![family, protocol, 0, 0];
    out.extend(states.to_ne_bytes());
    out.extend([0; SOCKET_ID]);
    out
}

/// A request to end one TCP connection.
fn destroy(family: u8, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let any_state = u32::MAX;
    let mut out = vec![family, protocol::TCP, 0, 0];
    out.extend(any_state.to_ne_bytes());
    out.extend(id);
    out
}

/// The program that accepts connections with one of `hosts`, or, where these are none or too many,
/// with any IPv4 host. It accepts by jumping to its end, and rejects by jumping beyond it.
fn bytecode(hosts: &[Ipv4Addr]) -> Vec<u8> {
    let any = [Ipv4Addr::UNSPECIFIED];
    let (hosts, bits) = match hosts.len() {
        1..=HOSTS_MAX => (hosts, 32),
        _ => (&any[..], 0),
    };
    let mut out = Vec::new();
    for (left, host) in (0..hosts.len() as u16).rev().zip(hosts) {
        // A match continues with the next operation, which jumps to the end. Otherwise the next
        // comparison follows.
        out.extend([OP_REMOTE, OP_REMOTE_IPV4 as u8]);
        out.extend((OP_REMOTE_IPV4 + OP).to_ne_bytes());
        out.extend([FAMILY_IPV4, bits, 0, 0]);
        let any_port = -1_i32;
        out.extend(any_port.to_ne_bytes());
        out.extend(host.octets());
        if left > 0 {
            out.extend([OP_JUMP, OP as u8]);
            out.extend((left * (OP_REMOTE_IPV4 + OP)).to_ne_bytes());
        }
    }
    out
}

/// Takes a message of the answer.
fn note(kind: u16, data: &[u8], found: &mut impl FnMut(FoundSocket<'_>)) -> io::Result<()> {
    if kind != SOCK_DIAG_BY_FAMILY {
        return Err(invalid("is of no kind that is known"));
    }
    if let Some(socket) = socket(data).ok_or_else(|| invalid("is cut off"))? {
        found(socket);
    }
    Ok(())
}

/// The socket in a message, if it is over IPv4. The outer `None`: the message is too short.
fn socket(data: &[u8]) -> Option<Option<FoundSocket<'_>>> {
    let family = *data.first()?;
    let id: &[u8; SOCKET_ID] = data.get(ID_AT..)?.first_chunk()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| {
        let octets: [u8; 16] = id[at..at + 16].try_into().expect("16 octets");
        match family {
            FAMILY_IPV4 => Some(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            FAMILY_IPV6 => Ipv6Addr::from(octets).to_ipv4_mapped(),
            _ => None,
        }
    };
    let ends = address(4).zip(address(20));
    Some(ends.map(|(local, remote)| {
        let (local, remote) =
            (SocketAddrV4::new(local, port(0)), SocketAddrV4::new(remote, port(2)));
        FoundSocket { connection: Connection { local, remote }, id }
    }))
}

/// The socket in a message, unless it is connected with somebody. The outer `None`: the message is
/// too short.
fn listening(data: &[u8], transport: Transport) -> Option<Option<ListeningSocket>> {
    let family = *data.first()?;
    let id: &[u8; SOCKET_ID] = data.get(ID_AT..)?.first_chunk()?;
    let [p0, p1, peer0, peer1, ..] = *id;
    let address: [u8; 16] = id[4..20].try_into().ok()?;
    let device = u32::from_ne_bytes(id[36..40].try_into().ok()?);
    let (address, port) = (address.into(), u16::from_be_bytes([p0, p1]));
    let takes = family == FAMILY_IPV6 && port != 0 && [peer0, peer1] == [0, 0];
    Some(takes.then_some(ListeningSocket { transport, address, port, device }))
}

#[cfg(test)]
mod tests;
