//! [`ControlEnds`]: the headers of control datagrams to a server.

use std::net::SocketAddrV4;

use crate::handoff::message::IPV4_UDP_HEADERS;
use crate::ip::checksum::pseudo_ipv4;
use crate::ip::fields::{
    IPV4_HEADER, UDP_HEADER, ipv4 as field, ports as port_field, protocol, put_u16, udp,
};
use crate::ip::ipv4;
use crate::ip::offload::ChecksumLeft;

/// The time to live of our own packets.
const TTL: u8 = 64;

/// The ends of control datagrams to a server, and the identification of the first of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ControlEnds {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) identification: u16,
}

impl ControlEnds {
    /// What is left to do about a datagram with these [`Self::headers`].
    pub(super) const CHECKSUM_LEFT: ChecksumLeft =
        ChecksumLeft { start: IPV4_HEADER as u16, offset: udp::CHECKSUM as u16 };

    /// The headers before so many octets of payload. IPv4's checksum is made, UDP's is left.
    pub(super) fn headers(&self, payload: usize) -> [u8; IPV4_UDP_HEADERS] {
        let (from, to) = (*self.from.ip(), *self.to.ip());
        let (end, length) = (IPV4_UDP_HEADERS + payload, UDP_HEADER + payload);
        let mut headers = [0; IPV4_UDP_HEADERS];
        let (ip, upper) = headers.split_at_mut(IPV4_HEADER);
        ip.copy_from_slice(&ipv4::draft(end, TTL, protocol::UDP, from, to));
        put_u16(ip, field::IDENTIFICATION, self.identification);
        put_u16(ip, field::FLAGS_AND_OFFSET, 0);
        ipv4::set_checksum(ip);
        put_u16(upper, port_field::SOURCE, self.from.port());
        put_u16(upper, port_field::DESTINATION, self.to.port());
        put_u16(upper, udp::LENGTH, length as u16);
        put_u16(upper, udp::CHECKSUM, pseudo_ipv4(from, to, protocol::UDP, length));
        headers
    }
}
