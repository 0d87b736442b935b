//! Geneve frames (RFC 8926) of a tunnel by which a NAT64 gives an IPv4 server its clients' packets:
//! Ethernet within Geneve, and IPv6 within Ethernet.
//!
//! What a gateway sends has an option of its own, with a message for who reads a capture; what a
//! server sends has none. Who may send what is for the caller to say.

use std::fmt;

use super::fields::{ethernet, geneve as field, geneve_option as option, u16_at};

/// The UDP port that frames are sent to.
pub const GENEVE_PORT: u16 = 6081;
/// Octets of a Geneve header without options.
pub const GENEVE_HEADER: usize = 8;
/// Octets of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Octets of the header of an option.
pub const OPTION_HEADER: usize = 4;
/// Octets before the packet in a frame without options.
pub const PLAIN_FRONT: usize = GENEVE_HEADER + ETHERNET_HEADER;
/// The same, with the option of a gateway and no message in it.
pub const BYPASS_FRONT: usize = PLAIN_FRONT + OPTION_HEADER;
/// The longest message in the option of a gateway: its length counts units of 4 octets, and has 5
/// bits.
pub const LOG_MESSAGE_MAX: usize = 31 * 4;

/// The protocol type of Ethernet.
const ETHERNET: u16 = 0x6558;
/// The Ethernet type of IPv6.
const IPV6: u16 = 0x86dd;
/// The class and the type of the option of a gateway.
const BYPASS_CLASS: u16 = 0x0162;
const BYPASS_TYPE: u8 = 0;
/// What fills up the message in it.
const PADDING: u8 = 0xff;

/// The number of a tunnel, of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vni([u8; 3]);

impl Vni {
    /// Of the octets as they stand in a header.
    pub const fn new(octets: [u8; 3]) -> Self {
        Self(octets)
    }

    pub const fn octets(self) -> [u8; 3] {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, middle, low] = self.0;
        write!(f, "{}", u32::from_be_bytes([0, high, middle, low]))
    }
}

/// An address of the link within the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkAddress(pub [u8; 6]);

impl LinkAddress {
    /// One of a single station that nobody assigns, with 46 of these 48 bits.
    pub const fn local(bits: [u8; 6]) -> Self {
        let [first, rest @ ..] = bits;
        let [b, c, d, e, f] = rest;
        Self([(first & !1) | 2, b, c, d, e, f])
    }

    /// Whether it is of a group, not of a single station.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What stands before the packet in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub vni: Vni,
    /// The station that it is for, and the one that sent it.
    pub to: LinkAddress,
    pub from: LinkAddress,
    /// The message in the option of a gateway, if it has that option.
    pub message: Option<&'a [u8]>,
    /// Where the packet begins.
    pub packet_at: usize,
}

/// Why a frame is not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameRefusal {
    /// A header or an option runs past the end.
    Truncated,
    /// Of another version, a control packet, or with an option that must be understood and is not.
    NotUnderstood,
    /// Not Ethernet, or not IPv6 within it.
    NotIpv6,
}

impl<'a> Frame<'a> {
    /// Reads what stands before the packet in a UDP payload.
    ///
    /// # Errors
    /// See [`FrameRefusal`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, FrameRefusal> {
        let header: &[u8; GENEVE_HEADER] = payload.first_chunk().ok_or(FrameRefusal::Truncated)?;
        let first = header[field::VERSION_AND_LENGTH];
        if first >> 6 != 0 || header[field::FLAGS] & field::CONTROL != 0 {
            return Err(FrameRefusal::NotUnderstood);
        }
        let ethernet_at = GENEVE_HEADER + 4 * usize::from(first & 0x3f);
        let options = payload.get(GENEVE_HEADER..ethernet_at).ok_or(FrameRefusal::Truncated)?;
        let message = if options.is_empty() { None } else { message_of(options)? };
        if u16_at(header, field::PROTOCOL) != ETHERNET {
            return Err(FrameRefusal::NotIpv6);
        }
        let link: &[u8; ETHERNET_HEADER] =
            payload[ethernet_at..].first_chunk().ok_or(FrameRefusal::Truncated)?;
        if u16_at(link, ethernet::KIND) != IPV6 {
            return Err(FrameRefusal::NotIpv6);
        }
        let address = |at: usize| LinkAddress(std::array::from_fn(|octet| link[at + octet]));
        let vni = Vni(std::array::from_fn(|octet| header[field::VNI + octet]));
        let (to, from) = (address(ethernet::TO), address(ethernet::FROM));
        Ok(Self { vni, to, from, message, packet_at: ethernet_at + ETHERNET_HEADER })
    }
}

/// The message in the first option of a gateway among these.
fn message_of(mut options: &[u8]) -> Result<Option<&[u8]>, FrameRefusal> {
    let mut message = None;
    while !options.is_empty() {
        let (header, rest) =
            options.split_first_chunk::<OPTION_HEADER>().ok_or(FrameRefusal::Truncated)?;
        let length = 4 * usize::from(header[option::LENGTH] & 0x1f);
        let (data, next) = rest.split_at_checked(length).ok_or(FrameRefusal::Truncated)?;
        let kind = header[option::KIND];
        if (u16_at(header, option::CLASS), kind) == (BYPASS_CLASS, BYPASS_TYPE) {
            message.get_or_insert(data);
        } else if kind & option::CRITICAL != 0 {
            return Err(FrameRefusal::NotUnderstood);
        }
        options = next;
    }
    Ok(message.map(without_padding))
}

/// UTF-8 never has the octet that fills it up.
fn without_padding(data: &[u8]) -> &[u8] {
    let padding = data.iter().rev().take(3).take_while(|&&octet| octet == PADDING).count();
    &data[..data.len() - padding]
}

/// What stands before the packet in a frame without options.
pub fn plain_front(vni: Vni, to: LinkAddress, from: LinkAddress) -> [u8; PLAIN_FRONT] {
    let mut front = [0; PLAIN_FRONT];
    front[..GENEVE_HEADER].copy_from_slice(&header(vni, 0));
    front[GENEVE_HEADER..].copy_from_slice(&link_header(to, from));
    front
}

/// The same, with the option of a gateway and no message in it.
pub fn bypass_front(vni: Vni, to: LinkAddress, from: LinkAddress) -> [u8; BYPASS_FRONT] {
    let mut front = [0; BYPASS_FRONT];
    let (geneve, rest) = front.split_at_mut(GENEVE_HEADER);
    let (option, link) = rest.split_at_mut(OPTION_HEADER);
    geneve.copy_from_slice(&header(vni, OPTION_HEADER));
    option.copy_from_slice(&option_header(0));
    link.copy_from_slice(&link_header(to, from));
    front
}

/// Appends what stands before the packet in a frame with a message, of which as many whole
/// characters are taken as [`LOG_MESSAGE_MAX`] octets have room for.
pub fn emit_bypass_front(
    out: &mut Vec<u8>,
    vni: Vni,
    to: LinkAddress,
    from: LinkAddress,
    message: &str,
) {
    let message = &message[..message.floor_char_boundary(LOG_MESSAGE_MAX)];
    let padded = message.len().next_multiple_of(4);
    out.extend_from_slice(&header(vni, OPTION_HEADER + padded));
    out.extend_from_slice(&option_header(padded));
    out.extend_from_slice(message.as_bytes());
    out.resize(out.len() + padded - message.len(), PADDING);
    out.extend_from_slice(&link_header(to, from));
}

/// A Geneve header before so many octets of options.
fn header(vni: Vni, options: usize) -> [u8; GENEVE_HEADER] {
    let mut header = [0; GENEVE_HEADER];
    header[field::VERSION_AND_LENGTH] = (options / 4) as u8;
    header[field::PROTOCOL..][..2].copy_from_slice(&ETHERNET.to_be_bytes());
    header[field::VNI..][..3].copy_from_slice(&vni.0);
    header
}

/// The header of the option of a gateway with so many octets of data.
fn option_header(data: usize) -> [u8; OPTION_HEADER] {
    let [high, low] = BYPASS_CLASS.to_be_bytes();
    [high, low, BYPASS_TYPE, (data / 4) as u8]
}

fn link_header(to: LinkAddress, from: LinkAddress) -> [u8; ETHERNET_HEADER] {
    let mut header = [0; ETHERNET_HEADER];
    header[ethernet::TO..][..6].copy_from_slice(&to.0);
    header[ethernet::FROM..][..6].copy_from_slice(&from.0);
    header[ethernet::KIND..].copy_from_slice(&IPV6.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VNI: Vni = Vni([0x12, 0x34, 0x56]);
    const TO: LinkAddress = LinkAddress([0x33, 0x33, 0xff, 0, 0, 5]);
    const FROM: LinkAddress = LinkAddress([2, 0xa, 0xb, 0xc, 0xd, 0xe]);

    #[rustfmt::skip]
    const OFFER: [u8; 38] = [
        4, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0,
        0x01, 0x62, 0, 3, b'a', b'n', b' ', b'o', b'f', b'f', b'e', b'r', b'.', 0xff, 0xff, 0xff,
        0x33, 0x33, 0xff, 0, 0, 5, 2, 0xa, 0xb, 0xc, 0xd, 0xe, 0x86, 0xdd,
    ];

    #[test]
    fn an_offers_octets_both_ways() {
        let mut out = vec![];
        emit_bypass_front(&mut out, VNI, TO, FROM, "an offer.");
        assert_eq!(out, OFFER);
        let frame =
            Frame { vni: VNI, to: TO, from: FROM, message: Some(b"an offer."), packet_at: 38 };
        assert_eq!(Frame::parse(&OFFER), Ok(frame));
        for end in 0..OFFER.len() {
            assert_eq!(Frame::parse(&OFFER[..end]), Err(FrameRefusal::Truncated), "{end}");
        }
        let plain = plain_front(VNI, TO, FROM);
        assert_eq!(plain[..8], [0, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0]);
        assert_eq!(plain[8..], OFFER[24..]);
        let parsed = Frame { message: None, packet_at: PLAIN_FRONT, ..frame };
        assert_eq!(Frame::parse(&plain), Ok(parsed));
        let bypass = bypass_front(VNI, TO, FROM);
        assert_eq!(bypass[..12], [1, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0, 0x01, 0x62, 0, 0]);
        let parsed = Frame { message: Some(b""), packet_at: BYPASS_FRONT, ..frame };
        assert_eq!(Frame::parse(&bypass), Ok(parsed));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = |at: usize, octet: u8| {
            let mut frame = OFFER;
            frame[at] = octet;
            Frame::parse(&frame).err()
        };
        assert_eq!(refused(0, 0x44), Some(FrameRefusal::NotUnderstood));
        assert_eq!(refused(1, 0x80), Some(FrameRefusal::NotUnderstood));
        // That there are options which must be understood, and reserved bits, say nothing.
        assert_eq!(refused(1, 0x7f), None);
        assert_eq!(refused(7, 9), None);
        assert_eq!(refused(11, 0xe3), None);
        // Another option is passed over, unless it must be understood.
        assert_eq!(refused(9, 0x63), None);
        assert_eq!(refused(10, 0x7f), None);
        assert_eq!(refused(10, 0x80), Some(FrameRefusal::NotUnderstood));
        // Options that are longer than all of them, or shorter.
        assert_eq!(refused(11, 4), Some(FrameRefusal::Truncated));
        assert_eq!(refused(11, 2), Some(FrameRefusal::Truncated));
        for at in [2, 3, 36, 37] {
            assert_eq!(refused(at, 0), Some(FrameRefusal::NotIpv6), "{at}");
        }
    }

    #[test]
    fn messages_are_cut_between_characters() {
        for length in 0..40 {
            let message = "\u{20ac}".repeat(length);
            let mut out = vec![];
            emit_bypass_front(&mut out, VNI, TO, FROM, &message);
            let read = Frame::parse(&out).unwrap().message.unwrap();
            assert_eq!(read, &message.as_bytes()[..3 * length.min(41)], "{length}");
        }
        assert!(LinkAddress::local([0xff; 6]).0 == [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(!LinkAddress::local([0xff; 6]).is_group() && TO.is_group());
        let shown = (VNI.to_string(), FROM.to_string());
        assert_eq!(shown, ("1193046".to_owned(), "02:0a:0b:0c:0d:0e".to_owned()));
    }

    proptest! {
        #[test]
        fn anything_is_read_within_its_bounds(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(frame) = Frame::parse(&payload) {
                prop_assert!(frame.packet_at <= payload.len());
                prop_assert_eq!(frame.packet_at, 22 + 4 * usize::from(payload[0]));
            }
        }

        #[test]
        fn what_is_written_is_read(vni: [u8; 3], to: [u8; 6], from: [u8; 6], message in ".{0,60}") {
            let (vni, to, from) = (Vni(vni), LinkAddress(to), LinkAddress(from));
            let mut out = vec![];
            emit_bypass_front(&mut out, vni, to, from, &message);
            let frame = Frame::parse(&out).unwrap();
            prop_assert_eq!((frame.vni, frame.to, frame.from), (vni, to, from));
            prop_assert_eq!(frame.packet_at, out.len());
            prop_assert!(message.as_bytes().starts_with(frame.message.unwrap()));
            let read = frame.message.unwrap().len();
            prop_assert!(read == message.len() || read > LOG_MESSAGE_MAX - 4);
        }
    }
}
