//! What an answer to a known identity must be (PROTOCOL.md sections 4, 6 and 7).

use std::collections::BTreeSet;
use std::net::SocketAddrV4;

use super::super::judge::client::Entry;
use super::super::judge::packet::{checksum, header_checksum_holds, icmpv6_checksum_holds};
use super::super::judge::wire::{Messages, PAYLOAD_MAX, Reply, Shape};
use super::model::Nat64;

/// One payload of the server's.
pub struct Sent {
    /// Where it went.
    pub to: SocketAddrV4,
    /// Whether it stood in the buffer of the request.
    pub in_place: bool,
    /// Its octets.
    pub payload: Vec<u8>,
}

/// Who made the packet in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It came with the request, or there is none.
    Request,
    /// It is an ICMP message of the server's own.
    Server,
}

/// Every well-formed request of a known identity gets an answer, or is counted (section 7).
pub fn count_answers(shape: Shape, request: &Messages<'_>, answers: u64, drops: u64) {
    match shape {
        Shape::Client | Shape::Service => assert_eq!(answers + drops, 1),
        Shape::Report => assert_eq!(answers + drops, 1 + u64::from(request.packet.is_some())),
        Shape::MultiReport => {
            let entries = request.groups().len() as u64;
            assert!(drops <= entries && answers + drops <= entries.max(1));
            assert_eq!(answers == 0, drops == entries);
        }
    }
}

/// An answer to a known identity, and what it may depend on.
pub struct Answer<'a> {
    /// What is answered.
    pub request: &'a Messages<'a>,
    /// Its shape.
    pub shape: Shape,
    /// Whether it returns a proof that was made for it, however old.
    pub carries_proof: bool,
    /// The entries before the request.
    pub mapped_before: &'a BTreeSet<Entry>,
    /// Those, and the ones that it created.
    pub ever_mapped: &'a BTreeSet<Entry>,
    /// After the request.
    pub nat64: &'a Nat64,
}

impl Answer<'_> {
    /// Panics where the answer is not the one that PROTOCOL.md says, and tells whose packet it has.
    pub fn check(&self, sent: &Sent) -> Origin {
        let reply = Reply::parse(&sent.payload).unwrap_or_else(|error| panic!("{error}"));
        let packet = reply.packet.as_deref();
        match (reply.token, reply.authenticator, reply.entry, packet) {
            (Some(token), None, None, Some(packet)) => {
                assert_eq!(Some(&token[..]), self.request.first(4));
                self.unmapped(sent, packet)
            }
            (None, Some(authenticator), None, Some(packet)) => {
                assert_eq!(Some(&authenticator[..]), self.request.first(6));
                self.icmpv6(sent, packet)
            }
            (None, Some(authenticator), Some(entry), packet) => {
                self.mapped(sent, &authenticator, entry, packet);
                Origin::Request
            }
            _ => panic!("no combination of section 4"),
        }
    }

    fn asked(&self) -> &[u8] {
        self.request.packet.expect("a packet that nobody sent")
    }

    /// A token and an IPv4 packet: the request's own, or an ICMP message about it.
    fn unmapped(&self, sent: &Sent, packet: &[u8]) -> Origin {
        let asked = self.asked();
        assert_eq!(asked[0] >> 4, 4);
        if sent.in_place {
            self.returned(asked, packet);
            return Origin::Request;
        }
        assert!(packet.len() <= 576 && packet[20..22] == [3, 2]);
        assert_eq!((checksum(&[&packet[..20]]), checksum(&[&packet[20..]])), (0, 0));
        assert_eq!((&packet[12..16], &packet[16..20]), (&asked[16..20], &asked[12..16]));
        assert!(asked.starts_with(&packet[28..]));
        Origin::Server
    }

    /// An authenticator and an ICMPv6 message: an echo reply, or a parameter problem.
    fn icmpv6(&self, sent: &Sent, packet: &[u8]) -> Origin {
        let asked = self.asked();
        assert_eq!((&packet[8..24], &packet[24..40]), (&asked[24..40], &asked[8..24]));
        assert!(icmpv6_checksum_holds(packet));
        match (sent.in_place, packet[40]) {
            (true, 129) => assert!(asked.ends_with(&packet[44..])),
            (false, 4) => assert!(packet.len() <= 1280 && asked.starts_with(&packet[48..])),
            _ => panic!("an ICMPv6 message of type {}", packet[40]),
        }
        Origin::Server
    }

    /// An authenticator and an entry.
    fn mapped(&self, sent: &Sent, authenticator: &[u8], entry: Entry, packet: Option<&[u8]>) {
        assert!(self.ever_mapped.contains(&entry), "{entry:?} was never there");
        // About a packet: in front of it where there was room, else copied with it.
        if sent.in_place || packet.is_some() {
            let asked = self.asked();
            let length = 2 + authenticator.len() + 34 + asked.len();
            assert_eq!(packet, Some(asked).filter(|_| length <= PAYLOAD_MAX));
            assert_eq!(authenticator, self.nat64.authenticator(entry.client.address));
            self.belongs(entry, asked);
        } else {
            self.reported(authenticator, entry);
        }
    }

    /// The packet comes back with another time to live, and a header checksum that is as right as
    /// it was.
    fn returned(&self, asked: &[u8], packet: &[u8]) {
        assert!(packet[8] != 0 && packet.len() == asked.len());
        assert!(packet[8] + 1 == asked[8] || self.carries_proof && packet[8] == 1);
        if header_checksum_holds(asked) {
            assert!(header_checksum_holds(packet));
        }
        assert_eq!((&packet[..8], packet[9]), (&asked[..8], asked[9]));
        assert_eq!(packet[12..], asked[12..]);
        // A proof to a mapped port, too, is answered from its entry.
        if let Some(port) = transport_port(packet, 2) {
            assert!(!self.nat64.entries.contains_key(&port), "port {port} is mapped");
        }
    }

    /// The entry is the one that the packet asks for.
    fn belongs(&self, entry: Entry, packet: &[u8]) {
        if packet[0] >> 4 == 4 {
            // A report that comes along may have made it.
            assert!(self.shape == Shape::Report || self.mapped_before.contains(&entry));
            if let Some(port) = transport_port(packet, 2) {
                assert_eq!(entry.mapped, port);
            }
        } else if let Some(port) = transport_port(packet, 0) {
            assert_eq!((&entry.client.prefix[..], entry.client.port), (&packet[24..36], port));
            assert_eq!(entry.client.address.octets(), packet[8..24]);
            assert_eq!(Some(self.nat64.authenticator(entry.client.address)), self.request.first(6));
        }
    }

    /// The entry is the one of a client that was reported.
    fn reported(&self, authenticator: &[u8], entry: Entry) {
        let groups = self.request.groups();
        // The one authenticator of a report may stand behind its entry.
        let only = self.request.first(6).filter(|_| self.shape == Shape::Report);
        let is_it = |(own, other): &(Option<&[u8]>, Entry)| {
            other.client == entry.client && own.or(only) == Some(authenticator)
        };
        assert!(groups.iter().any(is_it), "{entry:?} was not reported");
        if self.shape == Shape::Report && self.nat64.entries.get(&entry.mapped) == Some(&entry) {
            assert_eq!(authenticator, self.nat64.authenticator(entry.client.address));
        }
    }
}

/// The source (`at` 0) or destination port (`at` 2) of a TCP or UDP packet that has nothing between
/// its header and them, and is not a later fragment.
fn transport_port(packet: &[u8], at: usize) -> Option<u16> {
    let (protocol, data) = match packet[0] >> 4 {
        4 if packet[6] & 0x1f != 0 || packet[7] != 0 => return None,
        4 => (packet[9], &packet[4 * usize::from(packet[0] & 15)..]),
        _ => (packet[6], &packet[40..]),
    };
    let port = data.get(at..at + 2).filter(|_| matches!(protocol, 6 | 17))?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}
