//! The control channels (PROTOCOL.md section 1) as IPv4 packets between the control port of a
//! public address and the handoff port of a server.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::ends::ControlEnds;
use super::pool::Which;
use super::{Done, Dropped, Gateway, GatewayOutbox, push_all};
use crate::handoff::message::IPV4_UDP_HEADERS;
use crate::ip::checksum::{self, checksum};
use crate::ip::fields::{
    ICMP_HEADER, IPV4_HEADER, UDP_HEADER, ports as port_field, protocol, u16_at, udp,
};
use crate::ip::fragment::Packets;
use crate::ip::icmp;
use crate::ip::ipv4::Ipv4;
use crate::ip::transport::ports;

/// The codes of ICMP destination unreachable that say that there is no server: nobody listens, or
/// the host or a firewall in front of it rejects what is sent there (RFC 1122 section 3.2.2.1, RFC
/// 1812 section 5.2.7.1). The others may be over in a moment.
const NO_SERVER: [u8; 5] = [
    icmp::v4::PROTOCOL,
    icmp::v4::PORT,
    icmp::v4::NETWORK_PROHIBITED,
    icmp::v4::HOST_PROHIBITED,
    icmp::v4::PROHIBITED,
];

impl Gateway {
    /// Handles a packet to a public address if it belongs to its control channel; `None` where it
    /// does not.
    pub(super) fn control(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv4<'_>,
        out: &mut GatewayOutbox,
    ) -> Option<Result<(), Dropped>> {
        let end = view.total_length();
        let whole = end >= view.header_length() && view.octets().len() >= end;
        if !whole || !view.checksum_is_right() {
            return None; // Translation refuses and counts it.
        }
        let data = &view.octets()[view.header_length()..end];
        match view.protocol() {
            protocol::UDP => self.control_datagram(now, which, view, data, out),
            protocol::ICMP => self.control_error(now, which, view, data, out),
            _ => None,
        }
    }

    fn control_datagram(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv4<'_>,
        data: &[u8],
        out: &mut GatewayOutbox,
    ) -> Option<Result<(), Dropped>> {
        let Some(fragment) = view.fragment() else {
            let ours = self.is_to_own_port(which, data);
            return ours.then(|| self.take_datagram(now, which, view, data, out));
        };
        let key = view.fragment_key(fragment);
        let ours = if fragment.first {
            self.is_to_own_port(which, data)
        } else {
            self.reassembly.knows(now, key)
        };
        ours.then(|| {
            if let Some(whole) = self.reassembly.take(now, key, fragment, data)? {
                return self.take_datagram(now, which, view, &whole, out);
            }
            if fragment.first {
                self.release(now, key, out);
            }
            Ok(())
        })
    }

    /// Whether it is for the control channel, or for a tunnel.
    fn is_to_own_port(&self, which: Which, datagram: &[u8]) -> bool {
        self.is_to_control_port(which, datagram) || self.is_to_tunnel_port(which, datagram)
    }

    pub(super) fn is_to_control_port(&self, which: Which, datagram: &[u8]) -> bool {
        ports(datagram).is_some_and(|(_, to)| to == self.pool[which].nat64.control_port().0)
    }

    fn take_datagram(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv4<'_>,
        datagram: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let server = view.source();
        let (port, payload) = udp_payload(server, view.destination(), datagram, false)
            .ok_or(Dropped::ControlChecksum)?;
        if self.is_to_tunnel_port(which, datagram) {
            return self.take_frame(now, which, server, payload, out);
        }
        self.did(Done::Answers);
        self.hear_of_server(now, which, server, out, |nat64, actions| {
            nat64.control_payload(now, SocketAddrV4::new(server, port), payload, actions);
        });
        Ok(())
    }

    /// An ICMP error about a control datagram of ours.
    fn control_error(
        &mut self,
        now: Duration,
        which: Which,
        view: Ipv4<'_>,
        message: &[u8],
        out: &mut GatewayOutbox,
    ) -> Option<Result<(), Dropped>> {
        let (&[kind, code, ..], quoted) = message.split_at_checked(ICMP_HEADER)? else {
            return None;
        };
        if view.fragment().is_some() || !icmp::v4::is_error(kind) {
            return None;
        }
        let quoted = Ipv4::new(quoted)?;
        if quoted.source() == view.destination()
            && let Some(server) = self.server_of_frame(which, quoted)
        {
            let unreachable = kind == icmp::v4::UNREACHABLE && NO_SERVER.contains(&code);
            if unreachable && checksum(&[message]) == 0 {
                self.lose_tunnel(now, which, server, out);
            }
            return Some(Ok(()));
        }
        let (from, to) = ports(quoted.data())?;
        let first = quoted.fragment().is_none_or(|fragment| fragment.first);
        let ours = first
            && quoted.protocol() == protocol::UDP
            && quoted.source() == view.destination()
            && (from, to) == (self.pool[which].nat64.control_port().0, self.handoff_port);
        if !ours {
            return None;
        }
        if checksum(&[message]) != 0 {
            return Some(Err(Dropped::ControlChecksum));
        }
        if kind != icmp::v4::UNREACHABLE || !NO_SERVER.contains(&code) {
            return Some(Err(Dropped::ControlError));
        }
        let server = quoted.destination();
        let payload = quoted.data().get(UDP_HEADER..).unwrap_or_default();
        self.hear_of_server(now, which, server, out, |nat64, _| {
            nat64.port_unreachable(now, server, payload);
        });
        Some(Ok(()))
    }

    /// Sends a control payload of at most 65,507 octets, in fragments where it exceeds the MTU.
    pub(super) fn send_control(
        &mut self,
        which: Which,
        server: Ipv4Addr,
        payload: &[u8],
        out: &mut GatewayOutbox,
    ) {
        self.did(Done::Requests);
        let ends = self.control_ends(which, server);
        self.send_datagram(&ends, payload, out);
    }

    /// Sends a UDP payload, likewise.
    pub(super) fn send_datagram(
        &mut self,
        ends: &ControlEnds,
        payload: &[u8],
        out: &mut GatewayOutbox,
    ) {
        let end = IPV4_UDP_HEADERS + payload.len();
        let headers = ends.headers(payload.len());
        self.buffer[..IPV4_UDP_HEADERS].copy_from_slice(&headers);
        self.buffer[IPV4_UDP_HEADERS..end].copy_from_slice(payload);
        ControlEnds::CHECKSUM_LEFT.make(&mut self.buffer[..end]);
        let header = headers.first_chunk().unwrap_or(&[0; IPV4_HEADER]);
        push_all(Packets::new(&mut self.buffer, header, end, usize::from(self.mtu), None), out);
    }

    /// Between which ends a control datagram to `server` goes.
    pub(super) fn control_ends(&mut self, which: Which, server: Ipv4Addr) -> ControlEnds {
        let nat64 = &self.pool[which].nat64;
        ControlEnds {
            from: SocketAddrV4::new(nat64.address(), nat64.control_port().0),
            to: SocketAddrV4::new(server, self.handoff_port),
            identification: self.next_identification(),
        }
    }
}

/// Source port and payload of a UDP datagram. `None` where it is shorter than its length field
/// says, or where its checksum is neither right nor 0, which means none, nor `left` to make.
pub(super) fn udp_payload(
    from: Ipv4Addr,
    to: Ipv4Addr,
    datagram: &[u8],
    left: bool,
) -> Option<(u16, &[u8])> {
    let header: &[u8; UDP_HEADER] = datagram.first_chunk()?;
    let datagram = datagram.get(..usize::from(u16_at(header, udp::LENGTH)))?;
    let payload = datagram.get(UDP_HEADER..)?;
    let summed = !left && u16_at(header, udp::CHECKSUM) != 0;
    if summed && udp_checksum(from, to, datagram) != 0 {
        return None;
    }
    Some((u16_at(header, port_field::SOURCE), payload))
}

/// The checksum of a UDP datagram (RFC 768); 0 over one that has a right checksum.
fn udp_checksum(from: Ipv4Addr, to: Ipv4Addr, datagram: &[u8]) -> u16 {
    let pseudo = checksum::pseudo_ipv4(from, to, protocol::UDP, datagram.len());
    checksum::with_pseudo(pseudo, &[datagram])
}
