//! Control payloads (PROTOCOL sections 2 to 5): an encoder, a splitter, and strict readers of
//! replies and validation packets. Slow, plain, and without any code of the server.

use super::client::{Client, Entry};
use super::packet::header_checksum_holds;
use std::net::Ipv6Addr;

/// Largest UDP payload over IPv4.
pub const PAYLOAD_MAX: usize = 65507;
/// The most octets of a multi report (section 3).
pub const MULTI_REPORT_MAX: usize = 1232;

pub const IDENTIFIER: &[u8; 144] = b"[[ This is the NAT64 handoff protocol. The client is using \
IPv6. To know their real IP address you need to use this protocol or support IPv6. ]]";

/// A handoff message of any type, the length field computed.
pub fn message(kind: u8, data: &[u8]) -> Vec<u8> {
    assert!(kind < 16 && data.len().is_multiple_of(2) && data.len() <= 510);
    let mut octets = vec![0x30 | kind, (data.len() / 2) as u8];
    octets.extend_from_slice(data);
    octets
}

pub fn identifier() -> Vec<u8> {
    message(1, IDENTIFIER)
}

pub fn noop(data: &[u8]) -> Vec<u8> {
    message(2, data)
}

pub fn token(data: &[u8]) -> Vec<u8> {
    message(4, data)
}

pub fn rotation(data: &[u8]) -> Vec<u8> {
    message(5, data)
}

pub fn authenticator(data: &[u8]) -> Vec<u8> {
    message(6, data)
}

pub fn entry(entry: Entry) -> Vec<u8> {
    let mut data = Vec::with_capacity(32);
    data.extend_from_slice(&entry.mapped.to_be_bytes());
    data.extend_from_slice(&entry.client.prefix);
    data.extend_from_slice(&entry.client.address.octets());
    data.extend_from_slice(&entry.client.port.to_be_bytes());
    message(7, &data)
}

pub fn hint(port: u16) -> Vec<u8> {
    message(8, &port.to_be_bytes())
}

/// A payload of these parts, in this order.
pub fn payload(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Every order of the parts.
pub fn permutations(parts: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    if parts.is_empty() {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for first in 0..parts.len() {
        let mut rest = parts.to_vec();
        let head = rest.remove(first);
        for mut tail in permutations(&rest) {
            tail.insert(0, head.clone());
            all.push(tail);
        }
    }
    all
}

/// The messages of a payload.
#[derive(Debug, Default)]
pub struct Messages<'a> {
    /// Type and data of each handoff message.
    pub handoff: Vec<(u8, &'a [u8])>,
    /// The embedded packet, cut to its own length.
    pub packet: Option<&'a [u8]>,
    /// What stands behind it.
    pub behind: &'a [u8],
    /// The octets of the whole payload.
    pub length: usize,
}

impl<'a> Messages<'a> {
    /// `None` where the payload is malformed by section 2.
    pub fn split(payload: &'a [u8]) -> Option<Self> {
        if payload.is_empty() || payload.len() > PAYLOAD_MAX {
            return None;
        }
        let mut messages = Self { length: payload.len(), ..Self::default() };
        let mut rest = payload;
        while let Some(&first) = rest.first() {
            match first >> 4 {
                3 => {
                    let length = 2 * usize::from(*rest.get(1)?);
                    let data = rest.get(2..2 + length)?;
                    let well_formed = match first & 15 {
                        1 => data == IDENTIFIER.as_slice(),
                        7 => length == 32,
                        8 => length == 2,
                        _ => true,
                    };
                    if !well_formed {
                        return None;
                    }
                    messages.handoff.push((first & 15, data));
                    rest = &rest[2 + length..];
                }
                4 | 6 => {
                    let packet = rest.get(..packet_length(rest)?)?;
                    (messages.packet, messages.behind) = (Some(packet), &rest[packet.len()..]);
                    break;
                }
                _ => return None,
            }
        }
        Some(messages)
    }

    /// The data of the first message of type `kind`.
    pub fn first(&self, kind: u8) -> Option<&'a [u8]> {
        self.handoff.iter().find(|message| message.0 == kind).map(|message| message.1)
    }

    /// How many messages of type `kind` there are.
    pub fn count(&self, kind: u8) -> usize {
        self.handoff.iter().filter(|message| message.0 == kind).count()
    }

    /// The entries, each with the nearest authenticator before it.
    pub fn groups(&self) -> Vec<(Option<&'a [u8]>, Entry)> {
        let mut authenticator = None;
        let mut groups = Vec::new();
        for &(kind, data) in &self.handoff {
            match kind {
                6 => authenticator = Some(data),
                7 => groups.push((authenticator, parse_entry(data))),
                _ => {}
            }
        }
        groups
    }

    /// Whether this is a request that is well-formed by section 3, and of which shape.
    pub fn shape(&self) -> Option<Shape> {
        self.first(4)?;
        let is_ipv6 = self.packet.map(|packet| packet[0] >> 4 == 6);
        let shape = match (self.count(6), self.count(7), is_ipv6) {
            (_, 0, None) | (0, 0, Some(true)) | (0, 1.., _) => return None,
            (_, 0, Some(true)) => Shape::Client,
            (_, 0, Some(false)) => Shape::Service,
            (1, 1, _) => Shape::Report,
            (_, _, Some(_)) => return None,
            (_, _, None) if self.groups()[0].0.is_none() => return None,
            (_, _, None) if self.length > MULTI_REPORT_MAX => return None,
            (_, _, None) => Shape::MultiReport,
        };
        let reports = matches!(shape, Shape::Report | Shape::MultiReport);
        (!reports || self.count(1) > 0).then_some(shape)
    }
}

/// The shapes of section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// 4, 6, maybe 8, an IPv6 packet.
    Client,
    /// 4, an IPv4 packet.
    Service,
    /// 1, 4, 6, 7, maybe a packet.
    Report,
    /// 1, 4, then groups of a 6 and its 7s.
    MultiReport,
}

/// What the server sent to a control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub token: Option<Vec<u8>>,
    pub authenticator: Option<Vec<u8>>,
    pub entry: Option<Entry>,
    pub packet: Option<Vec<u8>>,
}

impl Reply {
    /// Reads a reply. Strict: one of the combinations of section 4, its messages in the order of
    /// their types, nothing behind the packet.
    pub fn parse(payload: &[u8]) -> Result<Reply, String> {
        let messages = Messages::split(payload).ok_or("malformed")?;
        let kinds: Vec<u8> = messages.handoff.iter().map(|message| message.0).collect();
        match (&kinds[..], messages.packet.map(|packet| packet[0] >> 4)) {
            ([4], Some(4)) | ([6], Some(6)) | ([6, 7], _) if messages.behind.is_empty() => {}
            _ => return Err(format!("not a combination of section 4: {messages:?}")),
        }
        Ok(Reply {
            token: messages.first(4).map(<[u8]>::to_vec),
            authenticator: messages.first(6).map(<[u8]>::to_vec),
            entry: messages.first(7).map(parse_entry),
            packet: messages.packet.map(<[u8]>::to_vec),
        })
    }

    /// Authenticator, entry and packet.
    pub fn mapping(authenticator: &[u8], entry: Entry, packet: &[u8]) -> Reply {
        Reply { packet: Some(packet.to_vec()), ..Reply::report(authenticator, entry) }
    }

    /// Authenticator and entry: the answer to a report.
    pub fn report(authenticator: &[u8], entry: Entry) -> Reply {
        let authenticator = Some(authenticator.to_vec());
        Reply { token: None, authenticator, entry: Some(entry), packet: None }
    }

    /// Token and packet: nothing found.
    pub fn returned(token: &[u8], packet: &[u8]) -> Reply {
        let (token, packet) = (Some(token.to_vec()), Some(packet.to_vec()));
        Reply { token, authenticator: None, entry: None, packet }
    }
}

/// The data of a message of type 7, which has 32 octets.
fn parse_entry(data: &[u8]) -> Entry {
    let address: [u8; 16] = data[14..30].try_into().unwrap();
    Entry {
        mapped: u16::from_be_bytes([data[0], data[1]]),
        client: Client {
            prefix: data[2..14].try_into().unwrap(),
            address: Ipv6Addr::from(address),
            port: u16::from_be_bytes([data[30], data[31]]),
        },
    }
}

/// The proof in a validation packet's payload (section 5). `request` is what it answers.
///
/// # Panics
/// Where `payload` has none of the three forms, or not the first that fits.
pub fn read_validation<'a>(payload: &'a [u8], request: &Messages<'_>, length: usize) -> &'a [u8] {
    let messages = Messages::split(payload).expect("a validation packet that is malformed");
    assert!(messages.behind.is_empty() && payload.len() <= length);
    let token = request.first(4).expect("only a request with a token is answered");
    let authenticator = request.first(6).filter(|data| 2 + data.len() + 56 <= length);
    match (authenticator, &messages.handoff[..], messages.packet) {
        (Some(expected), &[(6, authenticator)], Some(packet)) => {
            assert_eq!(authenticator, expected);
            let discard: Ipv6Addr = "100::".parse().unwrap();
            let addresses = [discard.octets(), discard.octets()].concat();
            assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 16, 59, 1]);
            assert_eq!(packet[8..40], addresses);
        }
        (None, &[(4, back)], Some(packet)) => {
            assert_eq!(back, token);
            assert_eq!((packet[0], packet[8], packet[9]), (0x45, 1, 59));
            assert_eq!(packet[12..20], [192, 0, 0, 8, 192, 0, 0, 8]);
            assert!(header_checksum_holds(packet));
            assert_eq!(packet.len(), 36);
        }
        (None, &[(4, back), (2, proof)], None) => {
            assert_eq!(back, token);
            assert_eq!(proof.len(), 16);
            assert!(2 + token.len() + 36 > length, "the second form would have fitted");
        }
        _ => panic!("a validation packet of another form: {messages:?}"),
    }
    &payload[payload.len() - 16..]
}

/// What the header of an IP packet says how long the packet is; `None` where that cannot be.
fn packet_length(packet: &[u8]) -> Option<usize> {
    let field =
        |at| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (header, length) = match packet[0] >> 4 {
        4 => (4 * usize::from(packet[0] & 15), field(2)?),
        _ => (40, 40 + field(4)?),
    };
    (header >= 20 && length >= header && packet.len() >= length).then_some(length)
}
