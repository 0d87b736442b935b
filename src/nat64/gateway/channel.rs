//! The control channel (PROTOCOL.md section 1) as IPv4 packets between the control port of the public address and
//! the handoff port of a server.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::{Done, Dropped, Gateway, Outbox};
use crate::handoff::fragments::FragmentKey;
use crate::ip::packet::{self, ICMP_HEADER, IPV4_HEADER, Ipv4, icmp_type, protocol};

/// The octets of a UDP header.
const UDP_HEADER: usize = 8;
/// What our own packets start with.
const TTL: u8 = 64;
/// ICMP: the code of destination unreachable that says that nobody listens.
const CODE_PORT: u8 = 3;

impl Gateway {
    /// What belongs to the control channel is dealt with here; `None` where a packet does not. It is one to the
    /// public address.
    pub(super) fn control(
        &mut self,
        now: Duration,
        view: Ipv4<'_>,
        out: &mut Outbox,
    ) -> Option<Result<(), Dropped>> {
        let end = view.total_length();
        let whole = end >= view.header_length() && view.octets().len() >= end;
        if !whole || !view.checksum_is_right() {
            return None; // Translation says what is wrong.
        }
        let data = &view.octets()[view.header_length()..end];
        match view.protocol() {
            protocol::UDP => self.control_datagram(now, view, data, out),
            protocol::ICMP => self.control_error(now, view, data, out),
            _ => None,
        }
    }

    fn control_datagram(
        &mut self,
        now: Duration,
        view: Ipv4<'_>,
        data: &[u8],
        out: &mut Outbox,
    ) -> Option<Result<(), Dropped>> {
        let Some(fragment) = view.fragment() else {
            return self.is_to_control_port(data).then(|| self.take_datagram(now, view, data, out));
        };
        let key = FragmentKey::Ipv4 {
            source: view.source(),
            destination: view.destination(),
            protocol: view.protocol(),
            identification: fragment.identification,
        };
        let ours = if fragment.first {
            self.is_to_control_port(data)
        } else {
            self.reassembly.knows(now, key)
        };
        ours.then(|| match self.reassembly.take(now, key, fragment, data)? {
            Some(whole) => self.take_datagram(now, view, &whole, out),
            None => Ok(()),
        })
    }

    fn is_to_control_port(&self, datagram: &[u8]) -> bool {
        packet::ports(datagram).is_some_and(|(_, to)| to == self.nat64.control_port().0)
    }

    fn take_datagram(
        &mut self,
        now: Duration,
        view: Ipv4<'_>,
        datagram: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Dropped> {
        let server = view.source();
        let (port, payload) =
            udp_payload(server, view.destination(), datagram).ok_or(Dropped::ControlChecksum)?;
        self.did(Done::Answers);
        self.hear_of_server(now, server, out, |nat64, actions| {
            nat64.control_payload(now, SocketAddrV4::new(server, port), payload, actions);
        });
        Ok(())
    }

    /// An ICMP error about a control datagram of ours.
    fn control_error(
        &mut self,
        now: Duration,
        view: Ipv4<'_>,
        message: &[u8],
        out: &mut Outbox,
    ) -> Option<Result<(), Dropped>> {
        let (&[kind, code, ..], quoted) = message.split_at_checked(ICMP_HEADER)? else {
            return None;
        };
        if view.fragment().is_some() || !packet::icmp_is_error(kind) {
            return None;
        }
        let quoted = Ipv4::new(quoted)?;
        let (from, to) = packet::ports(quoted.data())?;
        let first = quoted.fragment().is_none_or(|fragment| fragment.first);
        let ours = first
            && quoted.protocol() == protocol::UDP
            && quoted.source() == self.pool
            && (from, to) == (self.nat64.control_port().0, self.handoff_port);
        if !ours {
            return None;
        }
        if packet::checksum(&[message]) != 0 {
            return Some(Err(Dropped::ControlChecksum));
        }
        if (kind, code) != (icmp_type::UNREACHABLE, CODE_PORT) {
            return Some(Err(Dropped::ControlError));
        }
        let server = quoted.destination();
        let payload = quoted.data().get(UDP_HEADER..).unwrap_or_default();
        self.hear_of_server(now, server, out, |nat64, _| {
            nat64.port_unreachable(now, server, payload);
        });
        Some(Ok(()))
    }

    /// Sends a control payload, in fragments where the device is too narrow. It has at most 65507 octets.
    pub(super) fn send_control(&mut self, server: Ipv4Addr, payload: &[u8], out: &mut Outbox) {
        self.did(Done::Requests);
        let length = UDP_HEADER + payload.len();
        let mut header = [0; UDP_HEADER];
        header[..2].copy_from_slice(&self.nat64.control_port().0.to_be_bytes());
        header[2..4].copy_from_slice(&self.handoff_port.to_be_bytes());
        header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        let sum = udp_checksum(self.pool, server, &[&header, payload]);
        header[6..].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        let identification = self.next_identification();
        let data_max = (usize::from(self.mtu) - IPV4_HEADER) & !7;
        let data = &mut self.buffer[..length];
        data[..UDP_HEADER].copy_from_slice(&header);
        data[UDP_HEADER..].copy_from_slice(payload);
        for (number, part) in data.chunks(data_max).enumerate() {
            let offset = number * data_max;
            let more = offset + part.len() < length;
            let mut header = packet::ipv4_header(
                IPV4_HEADER + part.len(),
                TTL,
                protocol::UDP,
                self.pool,
                server,
            );
            header[4..6].copy_from_slice(&identification.to_be_bytes());
            let field = u16::from(more) << 13 | (offset / 8) as u16;
            header[6..8].copy_from_slice(&field.to_be_bytes());
            header[10..12].fill(0);
            let checksum = packet::checksum(&[&header]);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            out.push(&[&header, part]);
        }
    }
}

/// Source port and payload of a UDP datagram that is as long as it says. Its checksum may be 0: none.
fn udp_payload(from: Ipv4Addr, to: Ipv4Addr, datagram: &[u8]) -> Option<(u16, &[u8])> {
    let (port, _) = packet::ports(datagram)?;
    let &[_, _, _, _, high, low, sum_high, sum_low, ..] = datagram else {
        return None;
    };
    let datagram = datagram.get(..usize::from(u16::from_be_bytes([high, low])))?;
    let payload = datagram.get(UDP_HEADER..)?;
    let summed = (sum_high, sum_low) != (0, 0);
    if summed && udp_checksum(from, to, &[datagram]) != 0 {
        return None;
    }
    Some((port, payload))
}

/// Over `parts`, each but the last of even length, and the pseudo-header (RFC 768).
fn udp_checksum(from: Ipv4Addr, to: Ipv4Addr, parts: &[&[u8]]) -> u16 {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let pseudo = packet::sum(&[
        &from.octets(),
        &to.octets(),
        &[0, protocol::UDP],
        &(length as u16).to_be_bytes(),
    ]);
    packet::checksum_update(packet::checksum(parts), 0, pseudo)
}
