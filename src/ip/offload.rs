//! [`Offload`]: what a network device has left to do about a packet, as it stands before each
//! packet of a TUN device with IFF_VNET_HDR (`struct virtio_net_hdr`, VIRTIO 1.3 section 5.1.6).
//!
//! Such a packet may be a *super-packet*: many segments of one connection behind one header, which
//! a device, or the kernel for it, cuts where it leaves (TSO and USO). Whoever passes super-packets
//! on looks at each header once for up to 64 KiB of data. Its checksum is not made yet either: in
//! its place stands the sum of the pseudo-header.

use super::fields::{put_u16, tcp};
use super::transport::Transport;

/// Octets before each packet.
pub const OFFLOAD_HEADER: usize = 10;

/// Where the fields stand. All of 16 bits are in the order of this machine.
mod field {
    pub const FLAGS: usize = 0;
    pub const KIND: usize = 1;
    pub const HEADERS: usize = 2;
    pub const SIZE: usize = 4;
    pub const CHECKSUM_START: usize = 6;
    pub const CHECKSUM_OFFSET: usize = 8;
}

/// A bit of the flags: the checksum is to be made.
const NEEDS_CHECKSUM: u8 = 1;

/// Kinds of super-packets, and the bit that goes with one of TCP.
const KIND_NONE: u8 = 0;
const KIND_TCP_IPV4: u8 = 1;
const KIND_TCP_IPV6: u8 = 4;
const KIND_UDP: u8 = 5;
const KIND_ECN: u8 = 0x80;

/// What is left to do about a packet. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    pub checksum: Option<ChecksumLeft>,
    /// It is a super-packet. Then there is a checksum left, too.
    pub segments: Option<Segmentation>,
}

/// A checksum that is to be made, over all from `start` to the end of the packet. Where it is to
/// stand, the sum of the pseudo-header does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChecksumLeft {
    /// Of the transport header, in octets from the start of the packet.
    pub start: u16,
    /// Of the checksum, in octets from there.
    pub offset: u16,
}

/// How a super-packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// TCP or UDP.
    pub transport: Transport,
    /// Octets of data in each segment; the last one may have fewer. Never 0.
    pub size: u16,
    /// Octets of all headers, IP's included. The kernel takes it for a hint.
    pub headers: u16,
    /// A TCP segment that tells of congestion: its first part alone does.
    pub ecn: bool,
}

/// A header that no kernel writes before this packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffloadMalformed;

impl Offload {
    /// What `header` says of the packet that stands behind it.
    ///
    /// # Errors
    /// A kind of super-packet that was not asked for, or is not one of this packet's IP version;
    /// one whose segments are empty, or whose checksum is made.
    pub fn parse(header: &[u8; OFFLOAD_HEADER], packet: &[u8]) -> Result<Self, OffloadMalformed> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let checksum = (header[field::FLAGS] & NEEDS_CHECKSUM != 0).then(|| ChecksumLeft {
            start: word(field::CHECKSUM_START),
            offset: word(field::CHECKSUM_OFFSET),
        });
        let kind = header[field::KIND];
        if kind == KIND_NONE {
            return Ok(Self { checksum, segments: None });
        }
        let transport = match (kind & !KIND_ECN, packet.first().map(|octet| octet >> 4)) {
            (KIND_TCP_IPV4, Some(4)) | (KIND_TCP_IPV6, Some(6)) => Transport::Tcp,
            (KIND_UDP, Some(4 | 6)) => Transport::Udp,
            _ => return Err(OffloadMalformed),
        };
        let (size, headers) = (word(field::SIZE), word(field::HEADERS));
        if size == 0 || checksum.is_none() {
            return Err(OffloadMalformed);
        }
        let ecn = kind & KIND_ECN != 0;
        Ok(Self { checksum, segments: Some(Segmentation { transport, size, headers, ecn }) })
    }

    /// The header that says so of `packet`, which begins with its IP header.
    pub fn emit(&self, packet: &[u8]) -> [u8; OFFLOAD_HEADER] {
        let mut header = [0; OFFLOAD_HEADER];
        let mut put = |at: usize, word: u16| {
            header[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        };
        if let Some(left) = self.checksum {
            put(field::CHECKSUM_START, left.start);
            put(field::CHECKSUM_OFFSET, left.offset);
        }
        if let Some(segments) = self.segments {
            put(field::SIZE, segments.size);
            put(field::HEADERS, segments.headers);
            let is_ipv6 = packet.first().is_some_and(|octet| octet >> 4 == 6);
            let kind = match segments.transport {
                Transport::Tcp if is_ipv6 => KIND_TCP_IPV6,
                Transport::Tcp => KIND_TCP_IPV4,
                Transport::Udp | Transport::Echo => KIND_UDP,
            };
            header[field::KIND] = if segments.ecn { kind | KIND_ECN } else { kind };
        }
        header[field::FLAGS] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        header
    }
}

impl ChecksumLeft {
    /// Whether a packet has a place for it.
    pub fn has_place(self, packet: &[u8]) -> bool {
        let at = usize::from(self.start) + usize::from(self.offset);
        self.offset.is_multiple_of(2) && at + 2 <= packet.len()
    }

    /// Makes the checksum of a packet. Returns whether the packet has a place for it.
    pub fn make(self, packet: &mut [u8]) -> bool {
        if !self.has_place(packet) {
            return false;
        }
        let (upper, at) = (&mut packet[usize::from(self.start)..], usize::from(self.offset));
        let checksum = super::checksum::checksum(&[upper]);
        // In UDP 0 stands for none (RFC 768). TCP's is never 0 for another reason: its other form
        // says the same.
        put_u16(upper, at, if checksum == 0 { 0xffff } else { checksum });
        true
    }

    /// That of a transport header that begins there.
    pub fn of(transport: Transport, start: usize) -> Self {
        Self { start: start as u16, offset: transport.checksum_at() as u16 }
    }
}

/// Octets of the transport header that `upper` starts with, options included. `None` where it is
/// not whole.
pub fn transport_header(transport: Transport, upper: &[u8]) -> Option<usize> {
    let least = transport.header_length();
    if upper.len() < least {
        return None;
    }
    let length = match transport {
        Transport::Tcp => usize::from(upper[tcp::DATA_OFFSET] >> 4) * 4,
        Transport::Udp | Transport::Echo => least,
    };
    (least..=upper.len()).contains(&length).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [u8; 1] = [0x45];
    const IPV6: [u8; 1] = [0x60];

    fn header(flags: u8, kind: u8, words: [u16; 4]) -> [u8; OFFLOAD_HEADER] {
        let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in words.iter().enumerate() {
            header[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
        }
        header
    }

    #[test]
    fn headers_as_the_kernel_writes_them() {
        let none = Offload::default();
        let left = Some(ChecksumLeft { start: 40, offset: 16 });
        let segments = |transport, ecn| {
            Some(Segmentation { transport, size: 1428, headers: if ecn { 52 } else { 72 }, ecn })
        };
        let cases = [
            (header(0, 0, [0; 4]), &IPV6, none),
            (header(1, 0, [0, 0, 40, 16]), &IPV6, Offload { checksum: left, segments: None }),
            (
                header(1, 4, [72, 1428, 40, 16]),
                &IPV6,
                Offload { checksum: left, segments: segments(Transport::Tcp, false) },
            ),
            (
                header(1, 0x81, [52, 1428, 40, 16]),
                &IPV4,
                Offload { checksum: left, segments: segments(Transport::Tcp, true) },
            ),
            (
                header(1, 5, [72, 1428, 40, 16]),
                &IPV6,
                Offload { checksum: left, segments: segments(Transport::Udp, false) },
            ),
        ];
        for (header, packet, offload) in cases {
            assert_eq!(Offload::parse(&header, packet), Ok(offload));
            assert_eq!(offload.emit(packet), header);
        }
        // DATA_VALID, of a checksum that was found to be right, says nothing that is left to do.
        assert_eq!(Offload::parse(&header(2, 0, [0; 4]), &IPV4), Ok(none));
    }

    #[test]
    fn what_no_kernel_writes_is_refused() {
        let words = [72, 1428, 40, 16];
        for (header, packet) in [
            (header(1, 1, words), &IPV6[..]),
            (header(1, 4, words), &IPV4),
            (header(1, 3, words), &IPV4), // UFO was not asked for.
            (header(1, 9, words), &IPV6),
            (header(1, 0x80, words), &IPV6),
            (header(1, 5, words), &[]),
            (header(0, 4, words), &IPV6),
            (header(1, 4, [72, 0, 40, 16]), &IPV6),
        ] {
            assert_eq!(Offload::parse(&header, packet), Err(OffloadMalformed), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_that_was_left_is_made() {
        use crate::ip::build::ipv6_udp;
        use crate::ip::checksum::pseudo_ipv6;
        let (from, to) =
            ("[2001:db8::17]:1024".parse().unwrap(), "[64:ff9b::1]:53".parse().unwrap());
        let whole = ipv6_udp(from, to, b"what is asked");
        let mut left = whole.clone();
        let pseudo = pseudo_ipv6(*from.ip(), *to.ip(), 17, whole.len() - 40);
        put_u16(&mut left, 46, pseudo);
        assert!(ChecksumLeft::of(Transport::Udp, 40).make(&mut left));
        assert_eq!(left, whole);
        // There is no place.
        for (start, offset) in [(whole.len() - 1, 0), (40, 65_535), (65_535, 6), (40, 7)] {
            let left = ChecksumLeft { start: start as u16, offset };
            assert!(!left.make(&mut whole.clone()), "{left:?}");
        }
    }
}
