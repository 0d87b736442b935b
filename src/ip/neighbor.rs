//! Neighbor solicitations and advertisements (RFC 4861) over Ethernet, as far as a tunnel of two
//! ends needs them: both ends ask and tell which link-layer address the other has.

use std::net::Ipv6Addr;

use super::checksum;
use super::fields::{IPV6_HEADER, icmp as icmp_field, neighbor as field, protocol, put_u16};
use super::geneve::LinkAddress;
use super::ipv6::{self, Ipv6};

/// Octets of a message as a packet, without options.
pub const NEIGHBOR_PACKET: usize = IPV6_HEADER + NEIGHBOR_HEADER;
/// The same, with the sender's link-layer address.
pub const NEIGHBOR_PACKET_MAX: usize = NEIGHBOR_PACKET + LINK_OPTION;

/// ICMPv6 type: neighbor solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type: neighbor advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// Octets of a message without options.
const NEIGHBOR_HEADER: usize = 24;
/// Octets of an option with a link-layer address of Ethernet.
const LINK_OPTION: usize = 8;
/// Options: the link-layer address of who asks, and of what was asked for.
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
/// A message that came from a neighbor has passed no router.
const HOP_LIMIT: u8 = 255;

/// Who asks for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// Unspecified: somebody who wants to know whether the target is free.
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    pub target: Ipv6Addr,
    /// The link-layer address of who asks, if it is told.
    pub link: Option<LinkAddress>,
}

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    pub target: Ipv6Addr,
    /// The link-layer address of the target, if it is told.
    pub link: Option<LinkAddress>,
    /// It answers a solicitation.
    pub solicited: bool,
}

/// Why a message is not looked at: RFC 4861 sections 7.1.1 and 7.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborMalformed;

/// The type of the message in a packet, if it is one.
pub fn kind_of(packet: Ipv6<'_>) -> Option<u8> {
    let octets = packet.octets();
    let is_icmp = octets.get(NEXT_HEADER) == Some(&protocol::ICMPV6);
    let kind = octets.get(IPV6_HEADER + icmp_field::TYPE).filter(|_| is_icmp)?;
    matches!(*kind, SOLICITATION | ADVERTISEMENT).then_some(*kind)
}

const NEXT_HEADER: usize = super::fields::ipv6::NEXT_HEADER;

impl Solicitation {
    /// Of a whole packet.
    ///
    /// # Errors
    /// It is none, or must be discarded.
    pub fn parse(packet: Ipv6<'_>) -> Result<Self, NeighborMalformed> {
        let (message, target) = message_of(packet, SOLICITATION)?;
        let link = link_of(message, SOURCE_LINK)?;
        let (from, to) = (packet.source(), packet.destination());
        // Who has no address asks all that may have the one that it wants, and tells none.
        if from.is_unspecified() && (link.is_some() || to != solicited_node(target)) {
            return Err(NeighborMalformed);
        }
        Ok(Self { from, to, target, link })
    }

    /// Writes it to the start of `out`, which has [`NEIGHBOR_PACKET_MAX`] octets. Returns its
    /// length.
    pub fn emit(&self, out: &mut [u8; NEIGHBOR_PACKET_MAX]) -> usize {
        emit(out, (SOLICITATION, 0), self.from, self.to, self.target, (SOURCE_LINK, self.link))
    }
}

impl Advertisement {
    /// Of a whole packet.
    ///
    /// # Errors
    /// It is none, or must be discarded.
    pub fn parse(packet: Ipv6<'_>) -> Result<Self, NeighborMalformed> {
        let (message, target) = message_of(packet, ADVERTISEMENT)?;
        let solicited = message[field::FLAGS] & field::SOLICITED != 0;
        let (from, to) = (packet.source(), packet.destination());
        if solicited && to.is_multicast() {
            return Err(NeighborMalformed);
        }
        Ok(Self { from, to, target, link: link_of(message, TARGET_LINK)?, solicited })
    }

    /// Writes it to the start of `out`, which has [`NEIGHBOR_PACKET_MAX`] octets. What it says
    /// replaces what was known. Returns its length.
    pub fn emit(&self, out: &mut [u8; NEIGHBOR_PACKET_MAX]) -> usize {
        let flags = if self.solicited { field::SOLICITED } else { 0 } | field::OVERRIDE;
        emit(out, (ADVERTISEMENT, flags), self.from, self.to, self.target, (TARGET_LINK, self.link))
    }
}

/// The group in which who has an address is asked for it.
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let (a, low) = (u16::from(a), u16::from_be_bytes([b, c]));
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a, low)
}

/// The link-layer address of a group (RFC 2464 section 7).
pub fn group_link(group: Ipv6Addr) -> LinkAddress {
    let [.., a, b, c, d] = group.octets();
    LinkAddress([0x33, 0x33, a, b, c, d])
}

/// The message of a packet without extension headers, and its target.
fn message_of(packet: Ipv6<'_>, kind: u8) -> Result<(&[u8], Ipv6Addr), NeighborMalformed> {
    let message = &packet.octets()[IPV6_HEADER..];
    let is_it = kind_of(packet) == Some(kind)
        && message.len() >= NEIGHBOR_HEADER
        && packet.hop_limit() == HOP_LIMIT
        && message[icmp_field::CODE] == 0
        && checksum::icmpv6(packet.source(), packet.destination(), message) == 0;
    let target: [u8; 16] = match message.get(field::TARGET).map(TryInto::try_into) {
        Some(Ok(target)) if is_it => target,
        _ => return Err(NeighborMalformed),
    };
    let target = Ipv6Addr::from(target);
    (!target.is_multicast()).then_some((message, target)).ok_or(NeighborMalformed)
}

/// The first option of this kind. All of them have a length, which counts units of 8 octets.
fn link_of(message: &[u8], kind: u8) -> Result<Option<LinkAddress>, NeighborMalformed> {
    let mut options = &message[NEIGHBOR_HEADER..];
    let mut link = None;
    while let [first, units, ..] = *options {
        let length = 8 * usize::from(units);
        if length == 0 {
            return Err(NeighborMalformed);
        }
        let (option, rest) = options.split_at_checked(length).ok_or(NeighborMalformed)?;
        if first == kind && length == LINK_OPTION {
            link = link.or(Some(LinkAddress(std::array::from_fn(|octet| option[2 + octet]))));
        }
        options = rest;
    }
    if options.is_empty() { Ok(link) } else { Err(NeighborMalformed) }
}

fn emit(
    out: &mut [u8; NEIGHBOR_PACKET_MAX],
    (kind, flags): (u8, u8),
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    (option, link): (u8, Option<LinkAddress>),
) -> usize {
    let length = if link.is_some() { NEIGHBOR_PACKET_MAX } else { NEIGHBOR_PACKET };
    let (header, message) = out[..length].split_at_mut(IPV6_HEADER);
    let ip = ipv6::header(message.len(), protocol::ICMPV6, HOP_LIMIT, from, to);
    header.copy_from_slice(&ip);
    message.fill(0);
    (message[icmp_field::TYPE], message[field::FLAGS]) = (kind, flags);
    message[field::TARGET].copy_from_slice(&target.octets());
    if let Some(LinkAddress(link)) = link {
        let place = &mut message[NEIGHBOR_HEADER..];
        (place[0], place[1]) = (option, 1);
        place[2..].copy_from_slice(&link);
    }
    let checksum = checksum::icmpv6(from, to, message);
    put_u16(message, icmp_field::CHECKSUM, checksum);
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINK: LinkAddress = LinkAddress([2, 1, 2, 3, 4, 5]);
    const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const TARGET: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);

    /// The octets of a solicitation, whose checksum another program made.
    #[rustfmt::skip]
    const ASKED: [u8; 72] = [
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0x71, 5,
        135, 0, 0xc6, 0x08, 0, 0, 0, 0,
        0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 203, 0, 0x71, 5,
        1, 1, 2, 1, 2, 3, 4, 5,
    ];

    fn asked() -> Solicitation {
        Solicitation { from: FROM, to: solicited_node(TARGET), target: TARGET, link: Some(LINK) }
    }

    /// With a right checksum again.
    fn mended(mut packet: Vec<u8>) -> Vec<u8> {
        let view = Ipv6::new(&packet).unwrap();
        let (from, to) = (view.source(), view.destination());
        packet[42..44].fill(0);
        let checksum = checksum::icmpv6(from, to, &packet[40..]);
        packet[42..44].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn a_solicitations_octets_both_ways() {
        let mut out = [0xee; NEIGHBOR_PACKET_MAX];
        assert_eq!(asked().emit(&mut out), 72);
        assert_eq!(out, ASKED);
        assert_eq!(Solicitation::parse(Ipv6::whole(&ASKED).unwrap()), Ok(asked()));
        assert_eq!(group_link(asked().to), LinkAddress([0x33, 0x33, 0xff, 0, 0x71, 5]));
        let told = Advertisement {
            from: TARGET,
            to: FROM,
            target: TARGET,
            link: Some(LINK),
            solicited: true,
        };
        assert_eq!(told.emit(&mut out), 72);
        assert_eq!((out[40], out[44], out[64]), (136, 0x60, 2));
        assert_eq!(Advertisement::parse(Ipv6::whole(&out).unwrap()), Ok(told));
        assert!(Solicitation::parse(Ipv6::whole(&out).unwrap()).is_err());
        let told = Advertisement { link: None, solicited: false, ..told };
        assert_eq!(told.emit(&mut out), 64);
        assert_eq!(Advertisement::parse(Ipv6::whole(&out[..64]).unwrap()), Ok(told));
    }

    #[test]
    fn rfc4861_7_1_1_what_must_be_discarded_is() {
        let discarded = |packet: Vec<u8>| {
            let view = Ipv6::whole(&packet).unwrap();
            Solicitation::parse(view).is_err()
        };
        for (at, octet) in [(7, 254), (41, 1), (48, 0xff), (65, 0), (65, 2), (6, 17), (40, 136)] {
            let mut packet = ASKED.to_vec();
            packet[at] = octet;
            assert!(discarded(mended(packet)), "{at}");
        }
        let mut wrong = ASKED.to_vec();
        wrong[42] ^= 1;
        assert!(discarded(wrong));
        for length in 0..32 {
            let mut packet = ASKED.to_vec();
            packet[5] = length;
            packet.truncate(40 + usize::from(length));
            packet.resize(packet.len().max(44), 0);
            assert!(length == 24 || discarded(mended(packet)), "{length}");
        }
        // Who has no address tells no other, and asks the group.
        let unspecified = |to, link| {
            let asked = Solicitation { from: Ipv6Addr::UNSPECIFIED, to, link, ..asked() };
            let mut out = [0; NEIGHBOR_PACKET_MAX];
            let length = asked.emit(&mut out);
            discarded(out[..length].to_vec())
        };
        assert!(!unspecified(asked().to, None));
        assert!(unspecified(asked().to, Some(LINK)) && unspecified(TARGET, None));
    }

    proptest! {
        #[test]
        fn anything_is_read_within_its_bounds(
            body in prop::collection::vec(any::<u8>(), 4..100), kind in 135_u8..137,
        ) {
            let mut packet = ASKED[..40].to_vec();
            packet[5] = body.len() as u8;
            packet.extend_from_slice(&body);
            packet[40] = kind;
            packet[41] = 0;
            let packet = mended(packet);
            let view = Ipv6::whole(&packet).unwrap();
            let read = Solicitation::parse(view).is_ok() || Advertisement::parse(view).is_ok();
            prop_assert!(!read || body.len() >= 24);
        }
    }
}
