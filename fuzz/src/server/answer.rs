//! What an answer to a known identity must be (PROTOCOL.md sections 4, 6 and 7).

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddrV4};

use super::super::messages::{Entry, Messages, Reply, Shape, icmpv6_sum, sum};
use super::Nat64;

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
        let request = self.request;
        match Reply::read(&sent.payload) {
            Reply::Returned { token, packet } => {
                assert_eq!(Some(token), request.first(4));
                let asked = request.packet.expect("a packet that nobody sent");
                assert_eq!(asked[0] >> 4, 4);
                if sent.in_place {
                    self.returned(asked, packet);
                    Origin::Request
                } else {
                    assert!(packet.len() <= 576 && packet[20..22] == [3, 2]);
                    assert_eq!((sum(&packet[..20]), sum(&packet[20..])), (0xffff, 0xffff));
                    assert_eq!(
                        (&packet[12..16], &packet[16..20]),
                        (&asked[16..20], &asked[12..16])
                    );
                    assert!(asked.starts_with(&packet[28..]));
                    Origin::Server
                }
            }
            Reply::Message { authenticator, packet } => {
                assert_eq!(Some(authenticator), request.first(6));
                let asked = request.packet.expect("a packet that nobody sent");
                assert_eq!((&packet[8..24], &packet[24..40]), (&asked[24..40], &asked[8..24]));
                let address =
                    |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
                assert_eq!(icmpv6_sum(address(8), address(24), &packet[40..]), 0xffff);
                match (sent.in_place, packet[40]) {
                    (true, 129) => assert!(asked.ends_with(&packet[44..])),
                    (false, 4) => {
                        assert!(packet.len() <= 1280 && asked.starts_with(&packet[48..]));
                    }
                    _ => panic!("an ICMPv6 message of type {}", packet[40]),
                }
                Origin::Server
            }
            Reply::Mapped { authenticator, entry, packet } => {
                assert!(self.ever_mapped.contains(&entry), "{entry:?} was never there");
                // About a packet: in front of it where there was room, else copied with it.
                if sent.in_place || packet.is_some() {
                    let asked = request.packet.expect("an answer in front of no packet");
                    let length = 2 + authenticator.len() + 34 + asked.len();
                    assert_eq!(packet, Some(asked).filter(|_| length <= 65507));
                    assert_eq!(authenticator, self.nat64.authenticator(entry.address));
                    self.belongs(entry, asked);
                } else {
                    assert_eq!(packet, None);
                    self.reported(authenticator, entry);
                }
                Origin::Request
            }
        }
    }

    /// The packet comes back with another time to live, and a header checksum that is as right as it was.
    fn returned(&self, asked: &[u8], packet: &[u8]) {
        assert!(packet[8] != 0 && packet.len() == asked.len());
        assert!(packet[8] + 1 == asked[8] || self.carries_proof && packet[8] == 1);
        let header = 4 * usize::from(packet[0] & 15);
        if sum(&asked[..header]) == 0xffff {
            assert_eq!(sum(&packet[..header]), 0xffff);
        }
        assert_eq!((&packet[..8], packet[9]), (&asked[..8], asked[9]));
        assert_eq!(packet[12..], asked[12..]);
        if !self.carries_proof
            && let Some(port) = transport_port(packet, 2)
        {
            assert!(!self.nat64.entries.contains_key(&port), "port {port} is mapped");
        }
    }

    /// The entry is the one that the packet asks for.
    fn belongs(&self, entry: Entry, packet: &[u8]) {
        if packet[0] >> 4 == 4 {
            // A report that comes along may have made it.
            assert!(self.shape == Shape::Report || self.mapped_before.contains(&entry));
            if let Some(port) = transport_port(packet, 2) {
                assert_eq!(entry.port, port);
            }
        } else if let Some(port) = transport_port(packet, 0) {
            assert_eq!((&entry.prefix[..], entry.client_port), (&packet[24..36], port));
            assert_eq!(entry.address.octets(), packet[8..24]);
            assert_eq!(Some(self.nat64.authenticator(entry.address)), self.request.first(6));
        }
    }

    /// The entry is the one of a client that was reported.
    fn reported(&self, authenticator: &[u8], entry: Entry) {
        let groups = self.request.groups();
        let same_client = |other: Entry| Entry { port: entry.port, ..other } == entry;
        // The one authenticator of a report may stand behind its entry.
        let only = self.request.first(6).filter(|_| self.shape == Shape::Report);
        let is_it = |(own, other): &(Option<&[u8]>, Entry)| {
            same_client(*other) && own.or(only) == Some(authenticator)
        };
        assert!(groups.iter().any(is_it), "{entry:?} was not reported");
        if self.shape == Shape::Report && self.nat64.entries.get(&entry.port) == Some(&entry) {
            assert_eq!(authenticator, self.nat64.authenticator(entry.address));
        }
    }
}

/// The source (`at` 0) or destination port (`at` 2) of a TCP or UDP packet that has nothing between its
/// header and them, and is not a later fragment.
fn transport_port(packet: &[u8], at: usize) -> Option<u16> {
    let (protocol, data) = match packet[0] >> 4 {
        4 if packet[6] & 0x1f != 0 || packet[7] != 0 => return None,
        4 => (packet[9], &packet[4 * usize::from(packet[0] & 15)..]),
        _ => (packet[6], &packet[40..]),
    };
    let port = data.get(at..at + 2).filter(|_| matches!(protocol, 6 | 17))?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}
