//! Fragments: what one says of itself, which packet it is a part of, and how a packet is cut.
//!
//! Putting fragments together again is not done here.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::checksum::checksum;
use super::fields::{FRAGMENT_HEADER, IPV4_HEADER, IPV6_HEADER, extension, ipv4, ipv6, put_u16};
use super::fields::{u16_at, u32_at};

/// The longest data that an IPv4 packet can have, reassembled ones included, in octets.
pub const IPV4_DATA_MAX: usize = u16::MAX as usize - IPV4_HEADER;
/// Octets of the longest header that [`Packets`] writes: IPv6 with a fragment header.
const HEADERS_MAX: usize = IPV6_HEADER + FRAGMENT_HEADER;

/// What a fragment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The same in all fragments of a packet. 16 bits in IPv4.
    pub identification: u32,
    /// Whether it is the first part, with the transport header.
    pub first: bool,
    /// Whether more parts follow.
    pub more: bool,
    /// Where its data stand in those of the packet, in octets; a multiple of 8.
    pub offset: u16,
}

impl Fragment {
    /// From the fields of an IPv4 header; `None` where the packet is whole.
    #[inline]
    pub(super) fn of_ipv4(header: &[u8]) -> Option<Self> {
        let offset_and_flags = u16_at(header, ipv4::FLAGS_AND_OFFSET);
        let fragment = Fragment {
            identification: u32::from(u16_at(header, ipv4::IDENTIFICATION)),
            first: offset_and_flags & ipv4::OFFSET_MASK == 0,
            more: offset_and_flags & ipv4::MORE_FRAGMENTS != 0,
            offset: offset_and_flags << 3,
        };
        (!fragment.first || fragment.more).then_some(fragment)
    }

    /// From an IPv6 fragment header, which is whole.
    pub(super) fn of_ipv6(header: &[u8]) -> Self {
        let offset_and_flags = u16_at(header, extension::OFFSET_AND_FLAGS);
        let offset = offset_and_flags & extension::OFFSET_MASK;
        Fragment {
            identification: u32_at(header, extension::IDENTIFICATION),
            first: offset == 0,
            more: offset_and_flags & extension::MORE_FRAGMENTS != 0,
            offset,
        }
    }

    /// Whether its data can have this length: a multiple of 8 octets unless it is the last, and not
    /// past the end of the longest packet.
    pub fn can_have(self, length: usize) -> bool {
        let end = usize::from(self.offset) + length;
        (!self.more || length.is_multiple_of(8)) && end <= IPV4_DATA_MAX
    }

    /// The IPv6 fragment header that says so. `next` is the number of the header behind it.
    pub fn ipv6_header(self, next: u8) -> [u8; FRAGMENT_HEADER] {
        let mut header = [0; FRAGMENT_HEADER];
        header[extension::NEXT_HEADER] = next;
        put_u16(&mut header, extension::OFFSET_AND_FLAGS, self.offset | u16::from(self.more));
        header[extension::IDENTIFICATION..].copy_from_slice(&self.identification.to_be_bytes());
        header
    }
}

/// Whether `fragment` is one behind the first, so that the transport header is not in it.
#[inline]
pub fn is_later(fragment: Option<Fragment>) -> bool {
    fragment.is_some_and(|fragment| !fragment.first)
}

/// Which packet a fragment is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FragmentKey {
    /// RFC 8200 section 4.5.
    Ipv6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        /// As in [`Fragment`].
        identification: u32,
    },
    /// RFC 791 section 3.2.
    Ipv4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        /// As in [`Fragment`].
        identification: u32,
    },
}

/// A packet that is sent whole, or cut into fragments where the next link is too narrow for it.
///
/// The whole packet lies in the buffer once. Each fragment is made where its data lie, and its
/// header is written over the end of the data before, which were handed out already: nothing is
/// copied.
#[derive(Debug)]
pub struct Packets<'b> {
    buffer: &'b mut [u8],
    header: [u8; HEADERS_MAX],
    header_length: usize,
    /// The packet's data stand behind the header, up to here.
    end: usize,
    /// The most octets of data in one packet: a multiple of 8, or all of them.
    data_max: usize,
    /// Octets of data that were handed out.
    handed_out: usize,
    done: bool,
    /// Of the packet itself, where it is a fragment already.
    offset: usize,
    more: bool,
}

impl<'b> Packets<'b> {
    /// A packet with `header`: IPv4 without options, IPv6, or IPv6 with a fragment header. In
    /// `buffer` its data follow room for that header, up to `end`. No packet will be longer than
    /// `packet_max`. `fragment` is what the packet says of itself where it is a fragment already.
    ///
    /// Length, offset and checksum in `header` may be anything, as they are written for each
    /// packet.
    pub fn new(
        buffer: &'b mut [u8],
        header: &[u8],
        end: usize,
        packet_max: usize,
        fragment: Option<Fragment>,
    ) -> Self {
        let header_length = header.len();
        let mut headers = [0; HEADERS_MAX];
        headers[..header_length].copy_from_slice(header);
        let data = end - header_length;
        let room = packet_max - header_length;
        Self {
            buffer,
            header: headers,
            header_length,
            end,
            data_max: if data <= room { data } else { room & !7 },
            handed_out: 0,
            done: false,
            offset: fragment.map_or(0, |fragment| usize::from(fragment.offset)),
            more: fragment.is_some_and(|fragment| fragment.more),
        }
    }

    /// The next packet, in the order in which they are to be sent. The one after it overwrites it.
    pub fn next_packet(&mut self) -> Option<&[u8]> {
        if self.done {
            return None;
        }
        let left = self.end - self.header_length - self.handed_out;
        let length = left.min(self.data_max);
        let last = length == left;
        let (start, header_length) = (self.handed_out, self.header_length);
        let end = start + header_length + length;
        self.finish_header(length, self.more || !last);
        self.buffer[start..start + header_length].copy_from_slice(&self.header[..header_length]);
        self.handed_out += length;
        self.done = last;
        Some(&self.buffer[start..end])
    }

    /// Writes what the header says of the next `length` octets of data.
    fn finish_header(&mut self, length: usize, more: bool) {
        let header_length = self.header_length;
        let offset = self.offset + self.handed_out;
        let header = &mut self.header[..header_length];
        if header[ipv4::VERSION_AND_LENGTH] >> 4 == 4 {
            put_u16(header, ipv4::TOTAL_LENGTH, (header_length + length) as u16);
            let dont_fragment = u16_at(header, ipv4::FLAGS_AND_OFFSET) & ipv4::DONT_FRAGMENT;
            let more = if more { ipv4::MORE_FRAGMENTS } else { 0 };
            put_u16(header, ipv4::FLAGS_AND_OFFSET, dont_fragment | more | (offset / 8) as u16);
            put_u16(header, ipv4::CHECKSUM, 0);
            let checksum = checksum(&[header]);
            put_u16(header, ipv4::CHECKSUM, checksum);
        } else {
            put_u16(header, ipv6::PAYLOAD_LENGTH, (header_length - IPV6_HEADER + length) as u16);
            if header_length > IPV6_HEADER {
                let field = offset as u16 | u16::from(more);
                put_u16(header, IPV6_HEADER + extension::OFFSET_AND_FLAGS, field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut packets: Packets<'_>) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(packet) = packets.next_packet() {
            all.push(packet.to_vec());
        }
        all
    }

    #[test]
    fn ipv4_fragments_for_every_link() {
        let data: Vec<u8> = (0..200).collect();
        let mut header = [0; IPV4_HEADER];
        header[0] = 0x45;
        for packet_max in 28..=230 {
            let mut buffer = [&[0; IPV4_HEADER][..], &data].concat();
            let end = buffer.len();
            let packets = all(Packets::new(&mut buffer, &header, end, packet_max, None));
            assert_eq!(packets.len() == 1, packet_max >= end, "{packet_max}");
            let mut found = Vec::new();
            for (number, packet) in packets.iter().enumerate() {
                assert!(packet.len() <= packet_max);
                assert_eq!(checksum(&[&packet[..IPV4_HEADER]]), 0);
                assert_eq!(usize::from(u16_at(packet, 2)), packet.len());
                let fragment = Fragment::of_ipv4(packet);
                let offset = fragment.map_or(0, |fragment| usize::from(fragment.offset));
                assert_eq!(offset, found.len());
                let more = fragment.is_some_and(|fragment| fragment.more);
                assert_eq!(more, number + 1 < packets.len());
                found.extend_from_slice(&packet[IPV4_HEADER..]);
            }
            assert_eq!(found, data);
        }
    }

    #[test]
    fn an_ipv6_fragment_header_reads_as_it_was_written() {
        for (offset, more) in [(0, true), (8, false), (65528, true)] {
            let fragment =
                Fragment { identification: 0x0102_0304, first: offset == 0, more, offset };
            let header = fragment.ipv6_header(17);
            assert_eq!((header[0], header[1]), (17, 0));
            assert_eq!(Fragment::of_ipv6(&header), fragment);
            assert_eq!(is_later(Some(fragment)), offset > 0);
        }
    }
}
