//! Packets as the engine takes them: parsed once, by the engine or by translation.
//!
//! A packet's kind depends on the packet alone. Whether there is an entry for it is asked in
//! `traffic`.

use std::net::Ipv4Addr;

use super::Ignored;
use super::lifetime::{SegmentKind, Session, Usage};
use crate::handoff::entry::{Client, MappedPort};
use crate::ip::address::Prefix96;
use crate::ip::flow::{Class, Truncated, classify_ipv4, classify_ipv6, quoted_ipv4, quoted_ipv6};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::ip::transport::Transport;
use crate::nat64::translate::{Flow, Inside, Ipv4Packet, Ipv6Packet};

/// A packet of a client, before translation: whole, and cut to its own length.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a> {
    pub(super) view: Ipv6<'a>,
    pub(super) kind: PacketKind<Client>,
}

/// A packet to the public address, before translation: whole, and cut to its own length.
#[derive(Debug, Clone, Copy)]
pub struct Inbound<'a> {
    pub(super) view: Ipv4<'a>,
    pub(super) kind: PacketKind<ServiceKey>,
}

/// What a packet is to a NAT64. `K` is the key of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PacketKind<K> {
    /// TCP or UDP, whole or the first fragment.
    Data(DataPacket<K>),
    /// An ICMP error about such a packet that went the other way.
    Error(K),
    /// A fragment behind the first, of any protocol.
    LaterFragment,
    /// Queries, other protocols.
    Other,
}

/// A TCP segment or UDP datagram, or the first fragment of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DataPacket<K> {
    pub key: K,
    /// The first of several fragments.
    pub fragment: bool,
    pub usage: Usage,
}

/// The key of a service's packet: the server, and the mapped port that the packet is to.
pub(super) type ServiceKey = (Ipv4Addr, MappedPort);

impl<'a> Outbound<'a> {
    /// A packet that translation has parsed.
    pub fn translatable(packet: &Ipv6Packet<'a>) -> Self {
        let kind = PacketKind::of(packet.inside(), true, |flow| Client {
            prefix: Prefix96::of(flow.service),
            address: flow.client,
            port: flow.client_port,
        });
        Self { view: packet.view(), kind }
    }

    /// A packet of a client that no entry can carry, and that translation refuses: of another
    /// protocol than TCP and UDP, say.
    pub fn untranslatable(view: Ipv6<'a>) -> Self {
        Self { view, kind: PacketKind::Other }
    }

    pub(super) fn parse(view: Ipv6<'a>) -> Result<Self, Ignored> {
        let walk = view.walk().map_err(|_| Ignored::PacketHeaders)?;
        let kind = match classify_ipv6(view, &walk)? {
            Class::Ports { transport, source_port, destination_port } => {
                let (prefix, address) = (view.destination_prefix(), view.source());
                let session = Session { transport, service_port: destination_port };
                let segment = segment(transport, view.upper(&walk))?;
                PacketKind::Data(DataPacket {
                    key: Client { prefix, address, port: source_port },
                    fragment: walk.fragment.is_some_and(|fragment| fragment.more),
                    usage: Usage { session, segment, of_client: true },
                })
            }
            Class::Error(quoted) => {
                client_of_quoted(quoted).map_or(PacketKind::Other, PacketKind::Error)
            }
            Class::Later(_) => PacketKind::LaterFragment,
            Class::Icmp(_) | Class::Other => PacketKind::Other,
        };
        Ok(Self { view, kind })
    }

    /// Whether the packet, which came back with `client`'s entry, is one of that client's.
    pub(super) fn is_of(&self, client: Client) -> bool {
        match self.kind {
            PacketKind::Data(DataPacket { key, .. }) | PacketKind::Error(key) => key == client,
            PacketKind::LaterFragment => self.view.source() == client.address,
            PacketKind::Other => false,
        }
    }
}

impl<'a> Inbound<'a> {
    /// A packet that translation has parsed.
    pub fn translatable(packet: &Ipv4Packet<'a>) -> Self {
        let kind = PacketKind::of(packet.inside(), false, |flow| {
            (flow.service, MappedPort(flow.client_port))
        });
        Self { view: packet.view(), kind }
    }

    pub(super) fn parse(view: Ipv4<'a>) -> Result<Self, Ignored> {
        let kind = match classify_ipv4(view)? {
            Class::Ports { transport, source_port, destination_port } => {
                let session = Session { transport, service_port: source_port };
                let segment = segment(transport, view.data())?;
                PacketKind::Data(DataPacket {
                    key: (view.source(), MappedPort(destination_port)),
                    fragment: view.fragment().is_some(),
                    usage: Usage { session, segment, of_client: false },
                })
            }
            Class::Error(quoted) => {
                let key = service_of_quoted(quoted, view.destination());
                key.map_or(PacketKind::Other, PacketKind::Error)
            }
            Class::Later(_) => PacketKind::LaterFragment,
            Class::Icmp(_) | Class::Other => PacketKind::Other,
        };
        Ok(Self { view, kind })
    }

    /// Whether the packet, which came back with the entry of `port`, is one to that port.
    pub(super) fn is_to(&self, port: MappedPort) -> bool {
        match self.kind {
            PacketKind::Data(DataPacket { key, .. }) | PacketKind::Error(key) => key.1 == port,
            PacketKind::LaterFragment => true,
            PacketKind::Other => false,
        }
    }
}

impl<K> PacketKind<K> {
    fn of<A>(inside: Inside<A>, of_client: bool, key: impl FnOnce(Flow<A>) -> K) -> Self {
        match inside {
            Inside::Flow { flow, .. } | Inside::Error(flow)
                if flow.transport == Transport::Echo =>
            {
                PacketKind::Other
            }
            Inside::Flow { flow, tcp_flags, fragments } => {
                let segment = SegmentKind::of(flow.transport, tcp_flags);
                let session =
                    Session { transport: flow.transport, service_port: flow.service_port };
                PacketKind::Data(DataPacket {
                    key: key(flow),
                    fragment: fragments.is_some(),
                    usage: Usage { session, segment, of_client },
                })
            }
            Inside::Error(flow) => PacketKind::Error(key(flow)),
            Inside::Later(_) => PacketKind::LaterFragment,
        }
    }

    /// How the packet uses its entry, if it does.
    pub(super) fn usage(&self) -> Option<Usage> {
        match self {
            PacketKind::Data(data) => Some(data.usage),
            _ => None,
        }
    }
}

impl<K> DataPacket<K> {
    /// Whether it can open a connection: any TCP segment but a SYN belongs to one that is open.
    pub(super) fn opens(&self) -> bool {
        matches!(self.usage.segment, SegmentKind::Udp | SegmentKind::Syn)
    }
}

/// The client to which a quoted packet was sent.
fn client_of_quoted(quoted: &[u8]) -> Option<Client> {
    let quoted = quoted_ipv6(quoted).ok()?;
    let prefix = Prefix96::of(quoted.source);
    Some(Client { prefix, address: quoted.destination, port: quoted.destination_port })
}

/// Section 10, repair 4: the NAT64 sent the quoted packet to the server, which is its destination.
fn service_of_quoted(quoted: &[u8], nat64: Ipv4Addr) -> Option<ServiceKey> {
    let quoted = quoted_ipv4(quoted).ok().filter(|quoted| quoted.source == nat64)?;
    Some((quoted.destination, MappedPort(quoted.source_port)))
}

/// `upper` starts with a header of TCP or UDP, of which at least the ports are there.
fn segment(transport: Transport, upper: &[u8]) -> Result<SegmentKind, Ignored> {
    Ok(SegmentKind::of(transport, transport.tcp_flags(upper).ok_or(Truncated)?))
}

impl From<Truncated> for Ignored {
    fn from(_: Truncated) -> Self {
        Ignored::PacketHeaders
    }
}

/// The whole packet, cut to its own length.
pub(super) fn whole_ipv6(packet: &[u8]) -> Result<Ipv6<'_>, Ignored> {
    Ipv6::whole(packet).ok_or(Ignored::PacketTruncated)
}

/// As [`whole_ipv6`].
pub(super) fn whole_ipv4(packet: &[u8]) -> Result<Ipv4<'_>, Ignored> {
    Ipv4::whole(packet).ok_or(Ignored::PacketTruncated)
}
