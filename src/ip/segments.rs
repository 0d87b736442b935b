//! [`Segments`]: a super-packet cut into the packets that it stands for, as a device does it (TSO
//! and USO), for those that cannot be passed on as one. [`Pieces`]: the same of any packet that a
//! device gave.

use super::checksum::{self, pseudo_ipv4, pseudo_ipv6};
use super::fields::{
    IPV6_HEADER, ipv4 as field4, ipv6 as field6, put_u16, tcp, u16_at, u32_at, udp,
};
use super::ipv4::{self, Ipv4};
use super::ipv6::Ipv6;
use super::offload::{ChecksumLeft, Offload, transport_header};
use super::transport::Transport;

/// The segments of one super-packet, in order. They are made one at a time.
#[derive(Debug)]
pub struct Segments<'a> {
    headers: &'a [u8],
    /// Where the transport header begins.
    upper_at: usize,
    transport: Transport,
    data: &'a [u8],
    size: usize,
    /// Octets of data in the segments before.
    done: usize,
    number: u16,
}

impl<'a> Segments<'a> {
    /// `None` where this is no super-packet, or its headers are not what `offload` says.
    pub fn of(packet: &'a [u8], offload: &Offload) -> Option<Self> {
        let (segmentation, left) = (offload.segments?, offload.checksum?);
        let (upper_at, transport) = (usize::from(left.start), segmentation.transport);
        let (whole, at_least) = match packet.first()? >> 4 {
            4 => {
                let view = Ipv4::whole(packet)?;
                (view.octets(), view.header_length())
            }
            _ => (Ipv6::whole(packet)?.octets(), IPV6_HEADER),
        };
        let upper = whole.get(upper_at..).filter(|_| upper_at >= at_least)?;
        let headers = upper_at + transport_header(transport, upper)?;
        let (headers, data) = whole.split_at(headers);
        let size = usize::from(segmentation.size);
        Some(Self { headers, upper_at, transport, data, size, done: 0, number: 0 })
    }

    /// The length of the next segment, in octets. `None` behind the last one.
    pub fn next_length(&self) -> Option<usize> {
        let rest = self.data.len() - self.done;
        (rest > 0 || self.number == 0).then(|| self.headers.len() + rest.min(self.size))
    }

    /// Makes the next segment at the start of `out`, and returns its length. `None` behind the last
    /// one. One without data stands for itself.
    ///
    /// # Panics
    /// `out` is shorter than [`Self::next_length`].
    pub fn next_segment(&mut self, out: &mut [u8]) -> Option<usize> {
        let first = self.number == 0;
        let rest = &self.data[self.done..];
        if rest.is_empty() && !first {
            return None;
        }
        let (data, rest) = rest.split_at(rest.len().min(self.size));
        let length = self.headers.len() + data.len();
        let segment = &mut out[..length];
        segment[..self.headers.len()].copy_from_slice(self.headers);
        segment[self.headers.len()..].copy_from_slice(data);
        let pseudo = self.set_length(segment);
        let upper = &mut segment[self.upper_at..];
        match self.transport {
            Transport::Tcp => {
                let sequence = u32_at(upper, tcp::SEQUENCE.start).wrapping_add(self.done as u32);
                upper[tcp::SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
                if !first {
                    upper[tcp::FLAGS] &= !tcp::CWR;
                }
                if !rest.is_empty() {
                    upper[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
                }
            }
            Transport::Udp | Transport::Echo => {
                let length = upper.len() as u16;
                put_u16(upper, udp::LENGTH, length);
            }
        }
        put_u16(upper, self.transport.checksum_at(), 0);
        let checksum = checksum::with_pseudo(pseudo, &[upper]);
        checksum::put(upper, self.transport, checksum);
        self.done += data.len();
        self.number = self.number.wrapping_add(1).max(1);
        Some(length)
    }

    /// Writes a segment's length into its IP header, and what else is its own there. Returns the
    /// sum of its pseudo-header.
    fn set_length(&self, segment: &mut [u8]) -> u16 {
        let (length, upper) = (segment.len(), segment.len() - self.upper_at);
        let protocol = self.transport.ipv4_protocol();
        if let Some(view) = Ipv4::new(segment) {
            let (source, destination) = (view.source(), view.destination());
            let header = view.header_length();
            put_u16(segment, field4::TOTAL_LENGTH, length as u16);
            let identification = u16_at(segment, field4::IDENTIFICATION);
            put_u16(segment, field4::IDENTIFICATION, identification.wrapping_add(self.number));
            ipv4::set_checksum(&mut segment[..header]);
            return pseudo_ipv4(source, destination, protocol, upper);
        }
        put_u16(segment, field6::PAYLOAD_LENGTH, (length - IPV6_HEADER) as u16);
        let ends = Ipv6::new(segment).map(|view| (view.source(), view.destination()));
        ends.map_or(0, |(source, destination)| pseudo_ipv6(source, destination, protocol, upper))
    }
}

/// The packets that one of a device stands for, in order, with their checksums: itself, or the
/// segments of a super-packet. They are made one at a time.
#[derive(Debug)]
pub enum Pieces<'a> {
    /// It, as long as it was not made, and what is left to do about it.
    Itself(Option<(&'a [u8], Option<ChecksumLeft>)>),
    Segments(Segments<'a>),
}

impl<'a> Pieces<'a> {
    /// `None` where the packet is not what `offload` says.
    pub fn of(packet: &'a [u8], offload: &Offload) -> Option<Self> {
        if offload.segments.is_some() {
            return Segments::of(packet, offload).map(Self::Segments);
        }
        let left = offload.checksum;
        let has_place = left.is_none_or(|left| left.has_place(packet));
        has_place.then_some(Self::Itself(Some((packet, left))))
    }

    /// The length of the next one, in octets. `None` behind the last one.
    pub fn next_length(&self) -> Option<usize> {
        match self {
            Self::Itself(packet) => packet.map(|(packet, _)| packet.len()),
            Self::Segments(segments) => segments.next_length(),
        }
    }

    /// As [`Segments::next_segment`].
    ///
    /// # Panics
    /// `out` is shorter than [`Self::next_length`].
    pub fn next_piece(&mut self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Itself(packet) => {
                let (packet, left) = packet.take()?;
                let out = &mut out[..packet.len()];
                out.copy_from_slice(packet);
                left.map(|left| left.make(out));
                Some(packet.len())
            }
            Self::Segments(segments) => segments.next_segment(out),
        }
    }
}

/// All segments of a super-packet.
#[cfg(test)]
pub(crate) fn cut(packet: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    let mut segments = Segments::of(packet, offload).expect("a super-packet");
    let mut out = vec![0; packet.len()];
    let next = || {
        let expected = segments.next_length();
        let length = segments.next_segment(&mut out);
        assert_eq!(length, expected);
        length.map(|length| out[..length].to_vec())
    };
    std::iter::from_fn(next).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, SocketAddrV6};

    use super::*;
    use crate::ip::build::{ipv4_tcp, ipv4_udp, ipv6_tcp, ipv6_udp};
    use crate::ip::offload::Segmentation;

    const ACK: u8 = 0x10;

    fn ends4() -> (SocketAddrV4, SocketAddrV4) {
        ("192.0.2.7:1024".parse().unwrap(), "203.0.113.5:80".parse().unwrap())
    }

    fn ends6() -> (SocketAddrV6, SocketAddrV6) {
        ("[2001:db8::17]:1024".parse().unwrap(), "[64:ff9b::1]:80".parse().unwrap())
    }

    fn offload(transport: Transport, start: usize, size: u16) -> Offload {
        let segments = Segmentation { transport, size, headers: 0, ecn: false };
        Offload { checksum: Some(ChecksumLeft::of(transport, start)), segments: Some(segments) }
    }

    #[test]
    fn udp_segments_are_datagrams_of_their_own() {
        let data: Vec<u8> = (0..250).collect();
        let (from, to) = ends6();
        let packet = ipv6_udp(from, to, &data);
        let parts: Vec<_> = data.chunks(100).map(|data| ipv6_udp(from, to, data)).collect();
        assert_eq!(cut(&packet, &offload(Transport::Udp, 40, 100)), parts);
        let (from, to) = ends4();
        let packet = ipv4_udp(from, to, &data);
        for (number, (segment, data)) in
            cut(&packet, &offload(Transport::Udp, 20, 100)).iter().zip(data.chunks(100)).enumerate()
        {
            let mut expected = ipv4_udp(from, to, data);
            put_u16(&mut expected, 4, number as u16);
            ipv4::set_checksum(&mut expected[..20]);
            assert_eq!(*segment, expected);
        }
    }

    #[test]
    fn tcp_segments_count_on_and_end_once() {
        let data: Vec<u8> = (0..=255).cycle().take(2500).collect();
        let (from, to) = ends6();
        let flags = ACK | tcp::FIN | tcp::PSH | tcp::CWR;
        let mut packet = ipv6_tcp(from, to, flags, &data);
        packet[44..48].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
        let segments = cut(&packet, &offload(Transport::Tcp, 40, 1000));
        assert_eq!(segments.len(), 3);
        let mut sequence = 0xffff_ff00_u32;
        for (segment, data) in segments.iter().zip(data.chunks(1000)) {
            let flags = match data.len() {
                500 => ACK | tcp::FIN | tcp::PSH,
                _ if sequence == 0xffff_ff00 => ACK | tcp::CWR,
                _ => ACK,
            };
            let mut expected = ipv6_tcp(from, to, flags, data);
            let at = 40;
            expected[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            put_u16(&mut expected, at + 16, 0);
            let pseudo = pseudo_ipv6(*from.ip(), *to.ip(), 6, data.len() + 20);
            let checksum = checksum::with_pseudo(pseudo, &[&expected[at..]]);
            put_u16(&mut expected, at + 16, checksum);
            assert_eq!(*segment, expected);
            sequence = sequence.wrapping_add(data.len() as u32);
        }
        // One segment's worth is one segment, and so is none.
        for (length, size) in [(1000, 1000), (0, 1000)] {
            let (from, to) = ends4();
            let packet = ipv4_tcp(from, to, ACK, &data[..length]);
            assert_eq!(cut(&packet, &offload(Transport::Tcp, 20, size)), [packet]);
        }
    }

    #[test]
    fn a_packet_that_is_no_super_packet_is_its_only_piece() {
        let (from, to) = ends6();
        let whole = ipv6_udp(from, to, b"one");
        let mut left = whole.clone();
        let pseudo = pseudo_ipv6(*from.ip(), *to.ip(), 17, whole.len() - 40);
        put_u16(&mut left, 46, pseudo);
        let checksum = Some(ChecksumLeft::of(Transport::Udp, 40));
        for (packet, checksum) in [(&left, checksum), (&whole, None)] {
            let mut pieces = Pieces::of(packet, &Offload { checksum, segments: None }).unwrap();
            let mut out = vec![0; whole.len() + 1];
            assert_eq!(pieces.next_length(), Some(whole.len()));
            assert_eq!(pieces.next_piece(&mut out), Some(whole.len()));
            assert_eq!(out[..whole.len()], whole);
            assert_eq!((pieces.next_length(), pieces.next_piece(&mut out)), (None, None));
        }
        for (start, offset) in [(whole.len() - 1, 0), (65_535, 6), (40, 7)] {
            let checksum = Some(ChecksumLeft { start: start as u16, offset });
            assert!(Pieces::of(&whole, &Offload { checksum, segments: None }).is_none());
        }
        let mut pieces = Pieces::of(&whole, &offload(Transport::Udp, 40, 2)).unwrap();
        let mut out = [0; 64];
        assert_eq!([(); 3].map(|()| pieces.next_piece(&mut out)), [Some(50), Some(49), None]);
    }

    #[test]
    fn headers_that_are_not_as_said_are_refused() {
        let (from, to) = ends4();
        let packet = ipv4_tcp(from, to, ACK, &[7; 3000]);
        let good = offload(Transport::Tcp, 20, 1000);
        assert!(Segments::of(&packet, &good).is_some());
        for start in [0, 19, 2995, 3040, 65_535] {
            assert!(Segments::of(&packet, &offload(Transport::Tcp, start, 1000)).is_none());
        }
        for length in 0..packet.len() {
            assert!(Segments::of(&packet[..length], &good).is_none(), "{length}");
        }
        for data_offset in [0x00, 0x40] {
            let mut packet = packet.clone();
            packet[32] = data_offset;
            assert!(Segments::of(&packet, &good).is_none());
        }
        assert!(Segments::of(&packet, &Offload { segments: None, ..good }).is_none());
        assert!(Segments::of(&packet, &Offload { checksum: None, ..good }).is_none());
    }
}
