//! To which connection a packet belongs, before translation, as the NAT64 sees it.
//!
//! What the packet's shape says and nothing else: whether there is an entry for it is asked in `nat64`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Ignored;
use super::lifetime::{Segment, Session, Usage};
use super::packets::{FIN, RST, SYN};
use crate::handoff::entry::{Client, MappedPort};
use crate::handoff::message::Prefix96;
use crate::ip::packet::{self, ICMP_HEADER, Ipv4, Ipv6, protocol};

/// What a packet is in the eyes of a NAT64. `K` is what its entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow<K> {
    /// TCP or UDP, whole or the first fragment.
    Transport(Transport<K>),
    /// An ICMP error about such a packet that went the other way.
    Error(K),
    /// Fragments behind the first, queries, other protocols.
    Other,
}

impl<K> Flow<K> {
    /// How the packet uses its entry, if it does.
    pub(super) fn usage(&self) -> Option<Usage> {
        match self {
            Flow::Transport(flow) => Some(flow.usage),
            Flow::Error(_) | Flow::Other => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transport<K> {
    pub key: K,
    /// Not a TCP segment of a connection that must have been opened before.
    pub opens: bool,
    /// The first of several fragments.
    pub fragment: bool,
    pub usage: Usage,
}

/// A packet of the service: the server, and the port of the NAT64 that it talks to.
pub(super) type ServiceKey = (Ipv4Addr, MappedPort);

pub(super) fn of_client_packet(packet: Ipv6<'_>) -> Result<Flow<Client>, Ignored> {
    let walk = packet.walk().map_err(|_| Ignored::PacketHeaders)?;
    let upper = packet.octets().get(walk.upper_at..).unwrap_or_default();
    if walk.fragment.is_some_and(|fragment| !fragment.first) {
        return Ok(Flow::Other);
    }
    if packet::has_entries(walk.protocol) {
        let (port, service_port) = packet::ports(upper).ok_or(Ignored::PacketHeaders)?;
        let client = Client { prefix: packet.destination_prefix(), address: packet.source(), port };
        let fragment = walk.fragment.is_some_and(|fragment| fragment.more);
        let session = Session { protocol: walk.protocol, service_port };
        return transport(client, session, true, fragment, upper);
    }
    if walk.protocol == protocol::ICMPV6
        && let Some(&kind) = upper.first()
        && packet::icmpv6_is_error(kind)
        && let Some(client) = upper.get(ICMP_HEADER..).and_then(client_of_quoted)
    {
        return Ok(Flow::Error(client));
    }
    Ok(Flow::Other)
}

/// The client that a quoted packet went to.
fn client_of_quoted(quoted: &[u8]) -> Option<Client> {
    let quoted = Ipv6::new(quoted)?;
    let walk = quoted.walk().ok()?;
    let first = walk.fragment.is_none_or(|fragment| fragment.first);
    if !first || !packet::has_entries(walk.protocol) {
        return None;
    }
    let (_, port) = packet::ports(quoted.octets().get(walk.upper_at..)?)?;
    Some(Client { prefix: Prefix96::of(quoted.source()), address: quoted.destination(), port })
}

pub(super) fn of_service_packet(packet: Ipv4<'_>) -> Result<Flow<ServiceKey>, Ignored> {
    let fragment = packet.fragment();
    if fragment.is_some_and(|fragment| !fragment.first) {
        return Ok(Flow::Other);
    }
    let upper = packet.data();
    if packet::has_entries(packet.protocol()) {
        let (service_port, port) = packet::ports(upper).ok_or(Ignored::PacketHeaders)?;
        let key = (packet.source(), MappedPort(port));
        let session = Session { protocol: packet.protocol(), service_port };
        return transport(key, session, false, fragment.is_some(), upper);
    }
    if packet.protocol() == protocol::ICMP
        && let Some(&kind) = upper.first()
        && packet::icmp_is_error(kind)
        && let Some(key) = upper
            .get(ICMP_HEADER..)
            .and_then(|quoted| service_of_quoted(quoted, packet.destination()))
    {
        return Ok(Flow::Error(key));
    }
    Ok(Flow::Other)
}

/// Section 10, repair 4: the quoted packet went from the NAT64 to the server, so that is its destination.
fn service_of_quoted(quoted: &[u8], nat64: Ipv4Addr) -> Option<ServiceKey> {
    let quoted = Ipv4::new(quoted)?;
    let first = quoted.fragment().is_none_or(|fragment| fragment.first);
    if !first || quoted.source() != nat64 || !packet::has_entries(quoted.protocol()) {
        return None;
    }
    let (port, _) = packet::ports(quoted.data())?;
    Some((quoted.destination(), MappedPort(port)))
}

fn transport<K>(
    key: K,
    session: Session,
    of_client: bool,
    fragment: bool,
    upper: &[u8],
) -> Result<Flow<K>, Ignored> {
    let segment = if session.protocol == protocol::TCP {
        match *upper.get(13).ok_or(Ignored::PacketHeaders)? {
            flags if flags & RST != 0 => Segment::Rst,
            flags if flags & SYN != 0 => Segment::Syn,
            flags if flags & FIN != 0 => Segment::Fin,
            _ => Segment::Other,
        }
    } else {
        Segment::Udp
    };
    let opens = matches!(segment, Segment::Udp | Segment::Syn);
    let usage = Usage { session, segment, of_client };
    Ok(Flow::Transport(Transport { key, opens, fragment, usage }))
}

/// Whether a client's packet that came back with `client`'s entry is one of that client's.
pub(super) fn is_of_client(packet: Ipv6<'_>, client: Client) -> bool {
    match of_client_packet(packet) {
        Ok(Flow::Transport(flow)) => flow.key == client,
        Ok(Flow::Error(of)) => of == client,
        Ok(Flow::Other) => is_later_fragment_of(packet, client.address),
        Err(_) => false,
    }
}

fn is_later_fragment_of(packet: Ipv6<'_>, client: Ipv6Addr) -> bool {
    let fragment = packet.walk().ok().and_then(|walk| walk.fragment);
    packet.source() == client && fragment.is_some_and(|fragment| !fragment.first)
}

/// Whether a service packet that came back with the entry of `port` is one to that port.
pub(super) fn is_to_port(packet: Ipv4<'_>, port: MappedPort) -> bool {
    match of_service_packet(packet) {
        Ok(Flow::Transport(flow)) => flow.key.1 == port,
        Ok(Flow::Error((_, of))) => of == port,
        Ok(Flow::Other) => packet.fragment().is_some_and(|fragment| !fragment.first),
        Err(_) => false,
    }
}
