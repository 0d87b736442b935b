//! What a translation made: one packet, or its fragments, out of the buffer that was lent.
//!
//! The whole packet lies in the buffer once. Each fragment is made where its data lie, its header over the end
//! of the data before, which have been handed out already: nothing is copied.

use crate::ip::packet::{self, Fragment, IPV4_HEADER, IPV6_HEADER};

use super::{FRAGMENT_HEADER, put_u16};

/// Where the header with the fragment header ends, at most.
const HEADERS_MAX: usize = IPV6_HEADER + FRAGMENT_HEADER;

/// The packets that a translation made, one or several. See [`Packets::next_packet`].
#[derive(Debug)]
pub struct Packets<'b> {
    buffer: &'b mut [u8],
    header: [u8; HEADERS_MAX],
    header_length: usize,
    /// What is data of the packet: behind the header, up to here.
    end: usize,
    /// The most octets of data in one packet: a multiple of 8, or all of them.
    data_max: usize,
    /// How many octets of data were handed out.
    handed_out: usize,
    done: bool,
    /// What the packet is itself a fragment of.
    offset: usize,
    more: bool,
}

impl<'b> Packets<'b> {
    /// A packet whose header is `header`, with the data behind so many octets in `buffer`, up to `end`. None is
    /// to be longer than `packet_max`.
    pub(super) fn new(
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

    /// The next packet, in the order in which they are to be sent. It is overwritten by the one after it.
    pub fn next_packet(&mut self) -> Option<&[u8]> {
        if self.done {
            return None;
        }
        let left = self.end - self.header_length - self.handed_out;
        let length = left.min(self.data_max);
        let last = length == left;
        let offset = self.offset + self.handed_out;
        let more = self.more || !last;
        let (start, header_length) = (self.handed_out, self.header_length);
        let end = start + header_length + length;
        let header = &mut self.header[..header_length];
        if header[0] >> 4 == 4 {
            put_u16(header, 2, (header_length + length) as u16);
            let dont_fragment = u16::from(header[6] & 0x40) << 8;
            put_u16(header, 6, dont_fragment | u16::from(more) << 13 | (offset / 8) as u16);
            put_u16(header, 10, 0);
            put_u16(header, 10, packet::checksum(&[&header[..IPV4_HEADER]]));
        } else {
            put_u16(header, 4, (header_length - IPV6_HEADER + length) as u16);
            if header_length > IPV6_HEADER {
                put_u16(header, IPV6_HEADER + 2, offset as u16 | u16::from(more));
            }
        }
        self.buffer[start..start + header_length].copy_from_slice(&self.header[..header_length]);
        self.handed_out += length;
        self.done = last;
        Some(&self.buffer[start..end])
    }

    /// Whether there is more than one, so that the whole did not fit into the next link's MTU.
    pub fn fragmented(&self) -> bool {
        self.end - self.header_length > self.data_max
    }
}
