//! A second opinion on PROTOCOL.md sections 2 to 5: splits payloads into messages, and says which are a
//! request, a reply or a validation packet. Slow, plain, and shares no code with the server's parser.

use std::net::Ipv6Addr;

/// The content that a message of type 1 must have.
pub const IDENTIFIER: &[u8] = b"[[ This is the NAT64 handoff protocol. The client is using IPv6. To know their real IP address you need to use this protocol or support IPv6. ]]";

/// The messages of a payload.
#[derive(Debug, Default)]
pub struct Messages<'a> {
    /// Type and data of each handoff message.
    pub handoff: Vec<(u8, &'a [u8])>,
    /// The embedded packet, cut to its own length.
    pub packet: Option<&'a [u8]>,
    /// What stands behind it.
    pub behind: &'a [u8],
}

impl<'a> Messages<'a> {
    /// `None` where the payload is malformed by section 2.
    pub fn split(payload: &'a [u8]) -> Option<Self> {
        if payload.is_empty() || payload.len() > 65507 {
            return None;
        }
        let mut messages = Self::default();
        let mut rest = payload;
        while let Some(&first) = rest.first() {
            match first >> 4 {
                3 => {
                    let length = 2 * usize::from(*rest.get(1)?);
                    let data = rest.get(2..2 + length)?;
                    let well_formed = match first & 15 {
                        1 => data == IDENTIFIER,
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
                7 => groups.push((authenticator, Entry::read(data))),
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

/// The data of a message of type 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The mapped port.
    pub port: u16,
    /// The NAT64's prefix.
    pub prefix: [u8; 12],
    /// The client's address.
    pub address: Ipv6Addr,
    /// The client's port.
    pub client_port: u16,
}

impl Entry {
    fn read(data: &[u8]) -> Self {
        let address: [u8; 16] = data[14..30].try_into().unwrap();
        Self {
            port: u16::from_be_bytes([data[0], data[1]]),
            prefix: data[2..14].try_into().unwrap(),
            address: address.into(),
            client_port: u16::from_be_bytes([data[30], data[31]]),
        }
    }
}

/// A payload that satisfies section 4.
#[derive(Debug)]
pub enum Reply<'a> {
    /// Token, IPv4 packet.
    Returned {
        /// Type 4.
        token: &'a [u8],
        /// The packet.
        packet: &'a [u8],
    },
    /// Authenticator, IPv6 packet.
    Message {
        /// Type 6.
        authenticator: &'a [u8],
        /// The packet.
        packet: &'a [u8],
    },
    /// Authenticator, entry, maybe a packet.
    Mapped {
        /// Type 6.
        authenticator: &'a [u8],
        /// Type 7.
        entry: Entry,
        /// The packet.
        packet: Option<&'a [u8]>,
    },
}

impl<'a> Reply<'a> {
    /// # Panics
    /// Where `payload` is anything else, says more than it has to, or in another order.
    pub fn read(payload: &'a [u8]) -> Self {
        let messages = Messages::split(payload).expect("a reply that is malformed");
        assert!(messages.behind.is_empty(), "octets behind the packet of a reply");
        let is_ipv4 = messages.packet.map(|packet| packet[0] >> 4 == 4);
        match (&messages.handoff[..], messages.packet, is_ipv4) {
            (&[(4, token)], Some(packet), Some(true)) => Reply::Returned { token, packet },
            (&[(6, authenticator)], Some(packet), Some(false)) => {
                Reply::Message { authenticator, packet }
            }
            (&[(6, authenticator), (7, entry)], packet, _) => {
                Reply::Mapped { authenticator, entry: Entry::read(entry), packet }
            }
            _ => panic!("a reply of no known shape: {messages:?}"),
        }
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
            assert_eq!(sum(&packet[..20]), 0xffff);
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

/// The one's complement sum of RFC 1071: 0xffff over what stands with its right checksum.
pub fn sum(octets: &[u8]) -> u16 {
    let words = octets
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default()));
    words.fold(0, |sum, word| {
        let sum = u32::from(sum) + word;
        (sum + (sum >> 16)) as u16
    })
}

/// As [`sum`], over an ICMPv6 message from `source` to `destination` with its pseudo-header.
pub fn icmpv6_sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let header = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58]].concat();
    sum(&[&header, message].concat())
}
