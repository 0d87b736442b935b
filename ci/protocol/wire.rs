//! Control payloads: an encoder and a strict reader of replies, independent of the server's own
//! (PROTOCOL sections 2 and 4).

use crate::client::{Client, Entry};
use std::net::Ipv6Addr;

/// Largest UDP payload over IPv4.
pub const PAYLOAD_MAX: usize = 65507;

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

/// What the server sent to a control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub token: Option<Vec<u8>>,
    pub authenticator: Option<Vec<u8>>,
    pub entry: Option<Entry>,
    pub packet: Option<Vec<u8>>,
}

impl Reply {
    /// Reads a reply. Strict: only 4, 6, 7, packet, each at most once and in this order; the
    /// packet exactly as long as its header says; one of the combinations of section 4.
    pub fn parse(payload: &[u8]) -> Result<Reply, String> {
        let mut reply = Reply::default();
        let mut rest = payload;
        let mut last = 0;
        while let Some(&first) = rest.first() {
            match first >> 4 {
                3 => {
                    let kind = first & 15;
                    let length = 2 * *rest.get(1).ok_or("a message without a length")? as usize;
                    let data = rest.get(2..2 + length).ok_or("a message past the end")?;
                    rest = &rest[2 + length..];
                    if kind <= last {
                        return Err(format!("message {kind} after message {last}"));
                    }
                    last = kind;
                    match kind {
                        4 => reply.token = Some(data.to_vec()),
                        6 => reply.authenticator = Some(data.to_vec()),
                        7 => reply.entry = Some(parse_entry(data)?),
                        _ => return Err(format!("a message of type {kind}")),
                    }
                }
                4 if rest.len() >= 20 => {
                    let total = u16::from_be_bytes([rest[2], rest[3]]) as usize;
                    if total != rest.len() {
                        return Err(format!("IPv4 length {total} in {} octets", rest.len()));
                    }
                    reply.packet = Some(rest.to_vec());
                    rest = &[];
                }
                6 if rest.len() >= 40 => {
                    let total = 40 + u16::from_be_bytes([rest[4], rest[5]]) as usize;
                    if total != rest.len() {
                        return Err(format!("IPv6 length {total} in {} octets", rest.len()));
                    }
                    reply.packet = Some(rest.to_vec());
                    rest = &[];
                }
                format => return Err(format!("format {format}, {} octets left", rest.len())),
            }
        }
        let version = reply.packet.as_ref().map(|packet| packet[0] >> 4);
        let service = reply.token.is_some() && version == Some(4);
        let client = reply.authenticator.is_some() && version == Some(6);
        let mapping = reply.authenticator.is_some() && reply.entry.is_some();
        if service || client || mapping {
            Ok(reply)
        } else {
            Err(format!("not a combination of section 4: {reply:?}"))
        }
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

fn parse_entry(data: &[u8]) -> Result<Entry, String> {
    let data: &[u8; 32] = data.try_into().map_err(|_| format!("entry of {}", data.len()))?;
    let address: [u8; 16] = data[14..30].try_into().unwrap();
    Ok(Entry {
        mapped: u16::from_be_bytes([data[0], data[1]]),
        client: Client {
            prefix: data[2..14].try_into().unwrap(),
            address: Ipv6Addr::from(address),
            port: u16::from_be_bytes([data[30], data[31]]),
        },
    })
}

const LITERAL_ENTRY: [u8; 34] = [
    0x37, 0x10, 0x0e, 0x87, 0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17, 0xcf, 0xc2,
];

#[test]
fn encoder_writes_literal_octets() {
    let client = Client::parse("2001:db8::17", 53186);
    assert_eq!(entry(Entry { mapped: 3719, client }), LITERAL_ENTRY);
    assert_eq!(token(b"ab"), [0x34, 1, b'a', b'b']);
    assert_eq!(token(b""), [0x34, 0]);
    assert_eq!(rotation(b"abcd"), [0x35, 2, b'a', b'b', b'c', b'd']);
    assert_eq!(authenticator(&[7; 510])[..3], [0x36, 255, 7]);
    assert_eq!(noop(b""), [0x32, 0]);
    assert_eq!(hint(0x1234), [0x38, 1, 0x12, 0x34]);
    assert_eq!(identifier()[..7], [0x31, 72, b'[', b'[', b' ', b'T', b'h']);
    assert_eq!(identifier().len(), 146);
    assert!(identifier().ends_with(b"protocol or support IPv6. ]]"));
}

#[test]
fn reader_of_replies_is_strict() {
    let client = Client::parse("2001:db8::17", 53186);
    let expected = Entry { mapped: 3719, client };
    let mut octets = vec![0x36, 1, 8, 9];
    octets.extend_from_slice(&LITERAL_ENTRY);
    assert_eq!(Reply::parse(&octets), Ok(Reply::report(&[8, 9], expected)));
    // Order, truncation, trailing octets, forbidden combinations.
    let swapped = [&LITERAL_ENTRY[..], &[0x36, 1, 8, 9]].concat();
    assert!(Reply::parse(&swapped).is_err());
    for end in 0..octets.len() {
        assert!(Reply::parse(&octets[..end]).is_err(), "{end}");
    }
    let ipv4 = [0x45, 0, 0, 20, 0, 0, 0, 0, 1, 59, 0, 0, 192, 0, 0, 8, 192, 0, 0, 8];
    assert_eq!(Reply::parse(&[&[0x34, 0][..], &ipv4].concat()), Ok(Reply::returned(b"", &ipv4)),);
    assert!(Reply::parse(&[&[0x34, 0][..], &ipv4, &[0]].concat()).is_err());
    assert!(Reply::parse(&[&[0x36, 0][..], &ipv4].concat()).is_err());
    assert!(Reply::parse(&[0x34, 0, 0x36, 0]).is_err());
    assert_eq!(permutations(&[vec![1], vec![2], vec![3], vec![4]]).len(), 24);
}
