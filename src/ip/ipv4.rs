//! A view of an IPv4 packet, and its header written or changed.

use std::net::Ipv4Addr;

use super::checksum::{checksum, update};
use super::fields::{IPV4_HEADER, ipv4 as field, put_u16, u16_at};
use super::fragment::{Fragment, FragmentKey};

/// A view of an IPv4 packet: at least the whole header, options included.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a>(&'a [u8]);

impl<'a> Ipv4<'a> {
    /// A view of `packet`, which may be cut short behind its header, as inside of an ICMP error.
    /// `None` where even that is not whole, or the version is another.
    #[inline]
    pub fn new(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        (packet[0] >> 4 == 4 && header >= IPV4_HEADER && packet.len() >= header)
            .then_some(Self(packet))
    }

    /// A view of the packet that `octets` start with, cut to the length that it says. `None` where
    /// there are fewer octets, or its length leaves no room for its header.
    #[inline]
    pub fn whole(octets: &'a [u8]) -> Option<Self> {
        let view = Self::new(octets)?;
        let length = view.total_length();
        (length >= view.header_length()).then_some(Self(octets.get(..length)?))
    }

    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Octets of the header, options included.
    pub fn header_length(self) -> usize {
        usize::from(self.0[field::VERSION_AND_LENGTH] & 0x0f) * 4
    }

    /// What stands behind the header.
    pub fn data(self) -> &'a [u8] {
        &self.0[self.header_length()..]
    }

    pub fn protocol(self) -> u8 {
        self.0[field::PROTOCOL]
    }

    pub fn source(self) -> Ipv4Addr {
        self.address(field::SOURCE.start)
    }

    pub fn destination(self) -> Ipv4Addr {
        self.address(field::DESTINATION.start)
    }

    fn address(self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3])
    }

    /// What it says of itself as a fragment; `None` where it is whole.
    pub fn fragment(self) -> Option<Fragment> {
        Fragment::of_ipv4(self.0)
    }

    /// Which packet `fragment`, which is what it says of itself, is a part of.
    pub fn fragment_key(self, fragment: Fragment) -> FragmentKey {
        FragmentKey::Ipv4 {
            source: self.source(),
            destination: self.destination(),
            protocol: self.protocol(),
            identification: fragment.identification,
        }
    }

    /// The total length that the header says.
    pub fn total_length(self) -> usize {
        usize::from(u16_at(self.0, field::TOTAL_LENGTH))
    }

    pub fn identification(self) -> u16 {
        u16_at(self.0, field::IDENTIFICATION)
    }

    /// Whether it must not be fragmented.
    pub fn dont_fragment(self) -> bool {
        u16_at(self.0, field::FLAGS_AND_OFFSET) & field::DONT_FRAGMENT != 0
    }

    /// The type of service octet.
    pub fn type_of_service(self) -> u8 {
        self.0[field::TYPE_OF_SERVICE]
    }

    /// The time to live.
    pub fn ttl(self) -> u8 {
        ttl(self.0)
    }

    /// The options, which may be none.
    pub fn options(self) -> &'a [u8] {
        &self.0[IPV4_HEADER..self.header_length()]
    }

    /// Whether the header's checksum is right.
    pub fn checksum_is_right(self) -> bool {
        checksum(&[&self.0[..self.header_length()]]) == 0
    }
}

/// A header without options, for a whole packet of `total_length` octets that is not to be
/// fragmented.
pub fn header(
    total_length: usize,
    ttl: u8,
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> [u8; IPV4_HEADER] {
    let mut header = draft(total_length, ttl, protocol, source, destination);
    set_checksum(&mut header);
    header
}

/// The same as [`header`] with a checksum of 0, for whoever changes it before [`set_checksum`].
pub fn draft(
    total_length: usize,
    ttl: u8,
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> [u8; IPV4_HEADER] {
    let mut header = [0; IPV4_HEADER];
    header[field::VERSION_AND_LENGTH] = 0x45;
    put_u16(&mut header, field::TOTAL_LENGTH, total_length as u16);
    put_u16(&mut header, field::FLAGS_AND_OFFSET, field::DONT_FRAGMENT);
    (header[field::TTL], header[field::PROTOCOL]) = (ttl, protocol);
    header[field::SOURCE].copy_from_slice(&source.octets());
    header[field::DESTINATION].copy_from_slice(&destination.octets());
    header
}

/// Writes the checksum of a header of this length, options included.
pub fn set_checksum(header: &mut [u8]) {
    put_u16(header, field::CHECKSUM, 0);
    let checksum = checksum(&[header]);
    put_u16(header, field::CHECKSUM, checksum);
}

/// The time to live of an IPv4 packet with at least a whole header.
pub fn ttl(packet: &[u8]) -> u8 {
    packet[field::TTL]
}

/// Sets the time to live of an IPv4 packet and updates its header checksum (RFC 1624).
/// `packet` has at least a whole header.
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    let old = u16_at(packet, field::TTL);
    packet[field::TTL] = ttl;
    let new = u16_at(packet, field::TTL);
    let checksum = u16_at(packet, field::CHECKSUM);
    put_u16(packet, field::CHECKSUM, update(checksum, old, new));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_7_ipv4_fragments() {
        let with = |flags: u16| {
            let mut packet = vec![0; 20];
            packet[0] = 0x45;
            packet[4..6].copy_from_slice(&[0xab, 0xcd]);
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            Ipv4::new(&packet).unwrap().fragment()
        };
        assert_eq!(with(0), None);
        assert_eq!(with(0x4000), None);
        let identification = 0xabcd;
        let expected =
            |offset, more| Some(Fragment { identification, first: offset == 0, more, offset });
        assert_eq!(with(0x2000), expected(0, true));
        assert_eq!(with(0x2001), expected(8, true));
        assert_eq!(with(0x00ff), expected(2040, false));
        assert_eq!(with(0x1fff), expected(65528, false));
    }

    #[test]
    fn section_7_ipv4_view_wants_its_whole_header() {
        let mut packet = vec![0; 24];
        packet[0] = 0x46;
        assert_eq!(Ipv4::new(&packet).unwrap().header_length(), 24);
        assert!(Ipv4::new(&packet[..23]).is_none());
        packet[0] = 0x44;
        assert!(Ipv4::new(&packet).is_none());
        assert!(Ipv4::new(&[]).is_none());
    }

    #[test]
    fn a_whole_packet_is_cut_to_its_own_length() {
        let mut packet = vec![0; 30];
        packet[0] = 0x46;
        for length in 0..=40_u8 {
            packet[3] = length;
            let whole = Ipv4::whole(&packet).map(|view| view.octets().len());
            assert_eq!(whole, (24..=30).contains(&length).then_some(usize::from(length)));
        }
        packet[3] = 30;
        for length in 0..30 {
            assert!(Ipv4::whole(&packet[..length]).is_none(), "{length}");
        }
    }

    #[test]
    fn time_to_live() {
        // A header from the wire; its sum, checksum included, is 0.
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&[&header]), 0);
        for ttl in [63, 1, 255, 0, 64] {
            set_ttl(&mut header, ttl);
            assert_eq!(super::ttl(&header), ttl);
            assert_eq!(checksum(&[&header]), 0, "{ttl}");
        }
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    #[test]
    fn fields_of_the_header() {
        let header = [
            0x46, 0xb8, 0x01, 0x73, 0xab, 0xcd, 0x40, 0, 9, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
            1, 1, 1, 0,
        ];
        let view = Ipv4::new(&header).unwrap();
        assert_eq!((view.total_length(), view.identification(), view.ttl()), (371, 0xabcd, 9));
        assert_eq!((view.type_of_service(), view.options()), (0xb8, &[1, 1, 1, 0][..]));
        assert_eq!((view.source().to_string(), view.protocol()), ("192.0.2.1".to_owned(), 17));
        assert_eq!(view.destination().to_string(), "192.0.2.2");
        assert!(view.dont_fragment() && !view.checksum_is_right());
    }
}
