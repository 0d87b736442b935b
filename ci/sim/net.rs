//! Packets on their way: what cuts, changes and joins them, apart from the code that is tested.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use nat64handoff::handoff::message::HANDOFF_PORT;
use nat64handoff::ip::checksum::{checksum, pseudo_ipv4, update, with_pseudo};
use nat64handoff::ip::fields::{IPV4_HEADER, UDP_HEADER, protocol};
use nat64handoff::ip::ipv4::{self, Ipv4};
use nat64handoff::ip::transport::ports;

/// Where the payload of a UDP datagram without fragments or options starts.
pub const PAYLOAD_AT: usize = IPV4_HEADER + UDP_HEADER;
/// How long it is waited for the others.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most packets whose fragments are waited for.
const PARTIAL_MAX: usize = 64;

/// A packet in fragments for links of that MTU; itself where it fits.
pub fn fragments(packet: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
    if packet.len() <= mtu || Ipv4::new(&packet).is_none_or(|view| view.fragment().is_some()) {
        return vec![packet];
    }
    let (header, data) = packet.split_at(IPV4_HEADER);
    let size = (mtu - IPV4_HEADER) & !7;
    let count = data.len().div_ceil(size);
    let part = |(number, part): (usize, &[u8])| {
        let mut out = [header, part].concat();
        let length = out.len() as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        let more = number + 1 < count;
        let field = u16::from(more) << 13 | (number * size / 8) as u16;
        out[6..8].copy_from_slice(&field.to_be_bytes());
        ipv4::set_checksum(&mut out[..IPV4_HEADER]);
        out
    };
    data.chunks(size).enumerate().map(part).collect()
}

/// The fragments that a host has of packets.
#[derive(Default)]
pub struct Joining {
    /// By source, destination and identification: the protocol's data, with how many octets of
    /// it are there, and how many are wanted once the last fragment is.
    partial: BTreeMap<(Ipv4Addr, Ipv4Addr, u16), Partial>,
    /// The canary: what is missing is taken as zeros once the last fragment is there, and nobody
    /// looks at the checksum.
    pub fills_holes: bool,
}

#[derive(Default)]
struct Partial {
    data: Vec<u8>,
    has: usize,
    end: Option<usize>,
    starts: Vec<usize>,
    /// When its first fragment came.
    since: Duration,
}

impl Joining {
    /// The packet as a whole, as soon as it is.
    pub fn take(&mut self, now: Duration, packet: Vec<u8>) -> Option<Vec<u8>> {
        let view = Ipv4::new(&packet)?;
        let Some(fragment) = view.fragment() else { return Some(packet) };
        let key = (view.source(), view.destination(), view.identification());
        self.partial.retain(|_, partial| now - partial.since < PATIENCE);
        if self.partial.len() >= PARTIAL_MAX && !self.partial.contains_key(&key) {
            self.partial.pop_first();
        }
        let new = || Partial { since: now, ..Partial::default() };
        let partial = self.partial.entry(key).or_insert_with(new);
        let (at, data) = (usize::from(fragment.offset), view.data());
        if partial.starts.contains(&at) {
            return None; // It came twice.
        }
        partial.starts.push(at);
        let end = at + data.len();
        partial.data.resize(partial.data.len().max(end), 0);
        partial.data[at..end].copy_from_slice(data);
        partial.has += data.len();
        if !fragment.more {
            partial.end = Some(end);
        }
        if partial.end? != partial.has && !self.fills_holes {
            return None;
        }
        let data = self.partial.remove(&key)?.data;
        let length = IPV4_HEADER + data.len();
        let header = ipv4::header(length, 64, view.protocol(), view.source(), view.destination());
        Some([&header[..], &data].concat())
    }
}

/// Whether it is a datagram, or its first fragment, that goes to or comes from a handoff port.
pub fn control_ports(packet: &[u8]) -> Option<(u16, u16)> {
    let view = Ipv4::new(packet)?;
    let first = view.fragment().is_none_or(|fragment| fragment.first);
    let (from, to) = ports(view.data())?;
    let ours = first && view.protocol() == protocol::UDP;
    (ours && (from == HANDOFF_PORT || to == HANDOFF_PORT)).then_some((from, to))
}

/// Replaces a port of a UDP datagram: the source port, or the destination port.
pub fn set_port(packet: &mut [u8], destination: bool, port: u16) {
    let upper = &mut packet[IPV4_HEADER..];
    let at = if destination { 2 } else { 0 };
    let old = u16::from_be_bytes([upper[at], upper[at + 1]]);
    upper[at..at + 2].copy_from_slice(&port.to_be_bytes());
    if let Some(field) = upper.get_mut(6..8) {
        let sum = update(u16::from_be_bytes([field[0], field[1]]), old, port);
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Makes the checksum of a datagram right whose payload was changed.
pub fn sum_again(packet: &mut [u8]) {
    let Some(view) = Ipv4::new(packet) else { return };
    let (from, to) = (view.source(), view.destination());
    let upper = &mut packet[IPV4_HEADER..];
    upper[6..8].fill(0);
    let sum = with_pseudo(pseudo_ipv4(from, to, protocol::UDP, upper.len()), &[upper]);
    upper[6..8].copy_from_slice(&sum.to_be_bytes());
}

/// Whether the checksum of a whole UDP or TCP packet is right.
pub fn sum_is_right(packet: &[u8]) -> bool {
    Ipv4::new(packet).is_some_and(|view| {
        let data = view.data();
        let pseudo = pseudo_ipv4(view.source(), view.destination(), view.protocol(), data.len());
        matches!(with_pseudo(pseudo, &[data]), 0 | 0xffff)
    })
}

/// An ICMP error, port unreachable, about a packet that `from` got.
pub fn port_unreachable(from: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let to = Ipv4::new(about).map_or(from, Ipv4::source);
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0], &about[..about.len().min(548)]].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = ipv4::header(IPV4_HEADER + message.len(), 64, protocol::ICMP, from, to);
    [&header[..], &message].concat()
}
