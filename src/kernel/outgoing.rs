//! Replies on their way out. Those to the same NAT64 are joined: one message of many segments passes through
//! the kernel once (UDP_SEGMENT), and on the wire they are as many datagrams as before.
//!
//! A reply is *pushed* as a piece of a message, the messages are *laid out* as sendmsg(2) wants them, and when
//! the kernel has taken them all is *cleared*. Some devices and routes take no segments; a message that was
//! refused is pushed again piece by piece, and if that works, such messages are not made any more.

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::ptr;

use crate::handoff::message::{IPV4_UDP_HEADERS, PAYLOAD_MAX};
use crate::kernel::backend::Origin;
use crate::kernel::socket::{ReactorSocket, internet_address, socket_address};

use super::cmsg::{HEADER, PKTINFO_SPACE};
use super::mapping::{Mapping, Plain};

/// The messages that can wait to be submitted.
pub(crate) const MESSAGES_MAX: usize = 512;
/// The replies that can wait to be submitted.
const PIECES_MAX: usize = 1024;
/// The octets of copied replies that can wait to be submitted.
pub(crate) const ARENA_SIZE: usize = 1 << 20;
/// The replies in one message: all kernels with UDP_SEGMENT take so many.
pub(crate) const SEGMENTS_MAX: usize = 64;
/// The longest replies that are joined: what fits in a packet on any path that carries IPv6, tunnels included.
pub(crate) const SEGMENT_MAX: usize = 1280 - IPV4_UDP_HEADERS;
/// Places to remember by which message the last reply to a NAT64 goes.
const RECENT: usize = 512;
const NO_MESSAGE: u16 = u16::MAX;

const _: () = assert!(ARENA_SIZE >= PAYLOAD_MAX);
const _: () = assert!(MESSAGES_MAX < NO_MESSAGE as usize && RECENT.is_power_of_two());

/// The way that replies take: which socket, and where it does not know that itself, from which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub socket: usize,
    pub from: Option<Ipv4Addr>,
}

impl Way {
    /// The way back of what came from `origin`, by one of these sockets.
    pub(crate) fn back(sockets: &[ReactorSocket], Origin { socket, local }: Origin) -> Self {
        let from = sockets[socket].is_wildcard().then_some(local);
        Self { socket, from }
    }
}

/// One or more replies of equal length, of which the last may be shorter.
#[derive(Debug)]
struct Message {
    way: Way,
    to: SocketAddrV4,
    pieces: u16,
    /// Whether another piece may follow.
    open: bool,
    segment: usize,
    octets: usize,
    vectors: Range<usize>,
}

/// One reply.
#[derive(Debug, Clone, Copy)]
struct Piece {
    message: u16,
    octets: *const u8,
    length: usize,
}

/// What a message header points to, besides the payload.
#[repr(C)]
struct Extra {
    to: libc::sockaddr_in,
    from: ControlMessage<libc::in_pktinfo>,
    segment: ControlMessage<u16>,
}

#[repr(C)]
struct ControlMessage<T> {
    header: libc::cmsghdr,
    data: T,
}

// SAFETY: structures of the C interface, of integers.
unsafe impl Plain for Extra {}

const _: () = assert!(size_of::<ControlMessage<libc::in_pktinfo>>() == PKTINFO_SPACE);
const _: () = assert!(offset_of!(ControlMessage<u16>, data) == HEADER);
const _: () = assert!(offset_of!(Extra, segment) == offset_of!(Extra, from) + PKTINFO_SPACE);

impl<T> ControlMessage<T> {
    fn set(&mut self, level: i32, kind: i32, data: T) {
        self.header.cmsg_len = HEADER + size_of::<T>();
        self.header.cmsg_level = level;
        self.header.cmsg_type = kind;
        self.data = data;
    }
}

/// The replies that wait to be submitted.
pub(crate) struct Outgoing {
    headers: Mapping<libc::mmsghdr>,
    extras: Mapping<Extra>,
    vectors: Mapping<libc::iovec>,
    arena: Mapping<u8>,
    arena_used: usize,
    messages: Vec<Message>,
    pieces: Vec<Piece>,
    /// How many messages, pieces and vectors are laid out already.
    laid_out: (usize, usize, usize),
    /// The last message to a NAT64, by a hash of where that is.
    recent: Box<[u16; RECENT]>,
    /// The longest replies that are joined now.
    segment_max: usize,
    /// What was refused as joined, to be sent piece by piece.
    again: Vec<(Way, SocketAddrV4, Piece)>,
    /// The shortest segment of what was refused.
    refused: Option<usize>,
}

impl Outgoing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            headers: Mapping::new(MESSAGES_MAX)?,
            extras: Mapping::new(MESSAGES_MAX)?,
            vectors: Mapping::new(PIECES_MAX)?,
            arena: Mapping::new(ARENA_SIZE)?,
            arena_used: 0,
            messages: Vec::with_capacity(MESSAGES_MAX),
            pieces: Vec::with_capacity(PIECES_MAX),
            laid_out: (0, 0, 0),
            recent: Box::new([NO_MESSAGE; RECENT]),
            segment_max: SEGMENT_MAX,
            again: Vec::with_capacity(PIECES_MAX),
            refused: None,
        })
    }

    /// Whether a reply can be pushed.
    pub(crate) fn has_room(&self) -> bool {
        self.messages.len() < MESSAGES_MAX && self.pieces.len() < PIECES_MAX
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Copies `payload` to where it can stay until all is cleared, if there is room.
    pub(crate) fn keep(&mut self, payload: &[u8]) -> Option<*const u8> {
        let range = self.arena_used..self.arena_used + payload.len();
        if range.end > ARENA_SIZE {
            return None;
        }
        if payload.is_empty() {
            return Some(self.arena.at(0));
        }
        self.arena_used = range.end;
        let target = self.arena.at(range.start);
        // SAFETY: the range is within the arena, nothing else has it, and the payload lies elsewhere.
        unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), target, payload.len()) };
        Some(target)
    }

    /// Adds a reply.
    ///
    /// # Panics
    /// Where there is no room.
    ///
    /// # Safety
    /// `payload` is readable for `length` octets until all is cleared.
    pub(crate) unsafe fn push(
        &mut self,
        way: Way,
        to: SocketAddrV4,
        payload: *const u8,
        length: usize,
    ) {
        let recent = &mut self.recent[place(to)];
        let index = usize::from(*recent);
        // Only what is not laid out can still grow.
        let known = self.messages.get_mut(index).filter(|message| {
            index >= self.laid_out.0
                && message.to == to
                && message.way == way
                && message.takes(length)
        });
        let message = match known {
            Some(message) => {
                message.pieces += 1;
                message.octets += length;
                message.open = length == message.segment;
                *recent
            }
            None => {
                let open = (1..=self.segment_max).contains(&length);
                let index = self.messages.len();
                assert!(index < MESSAGES_MAX);
                self.messages.push(Message {
                    way,
                    to,
                    pieces: 1,
                    open,
                    segment: length,
                    octets: length,
                    vectors: 0..0,
                });
                *recent = index as u16;
                index as u16
            }
        };
        assert!(self.pieces.len() < PIECES_MAX);
        self.pieces.push(Piece { message, octets: payload, length });
    }

    /// Writes down what was pushed since this was last called, as the kernel wants it: says which messages
    /// these are.
    pub(crate) fn lay_out(&mut self) -> Range<usize> {
        let (first, first_piece, mut vector) = self.laid_out;
        for message in &mut self.messages[first..] {
            message.vectors = vector..vector;
            vector += usize::from(message.pieces);
        }
        for piece in &self.pieces[first_piece..] {
            let vectors = &mut self.messages[usize::from(piece.message)].vectors;
            if let Some(last) = vectors.clone().last() {
                // SAFETY: within the mapping, written below, and the kernel does not have it yet.
                let last = unsafe { &mut *self.vectors.at(last) };
                if ptr::eq(last.iov_base.cast::<u8>().wrapping_add(last.iov_len), piece.octets) {
                    last.iov_len += piece.length;
                    continue;
                }
            }
            let (iov_base, iov_len) = (piece.octets.cast_mut().cast(), piece.length);
            // SAFETY: within the mapping, as there are no more vectors than pieces; and as above.
            unsafe { self.vectors.at(vectors.end).write(libc::iovec { iov_base, iov_len }) };
            vectors.end += 1;
        }
        for index in first..self.messages.len() {
            self.write_header(index);
        }
        self.laid_out = (self.messages.len(), self.pieces.len(), vector);
        first..self.messages.len()
    }

    fn write_header(&mut self, index: usize) {
        let message = &self.messages[index];
        // SAFETY: within their mappings, whose zeros are valid values, and the kernel reads them only from
        // their submission to its end: not now.
        let (header, extra) =
            unsafe { (&mut (*self.headers.at(index)).msg_hdr, &mut *self.extras.at(index)) };
        extra.to = socket_address(message.to);
        header.msg_name = (&raw mut extra.to).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = self.vectors.at(message.vectors.start);
        header.msg_iovlen = message.vectors.len();
        header.msg_control = ptr::null_mut();
        header.msg_controllen = 0;
        if message.pieces > 1 {
            extra.segment.set(libc::SOL_UDP, libc::UDP_SEGMENT, message.segment as u16);
            header.msg_control = (&raw mut extra.segment).cast();
            header.msg_controllen = size_of::<ControlMessage<u16>>();
        }
        if let Some(from) = message.way.from {
            let ipi_spec_dst = internet_address(from);
            let ipi_addr = libc::in_addr { s_addr: 0 };
            let from = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            extra.from.set(libc::IPPROTO_IP, libc::IP_PKTINFO, from);
            // The segment's length, if there is one, stands right behind.
            header.msg_control = (&raw mut extra.from).cast();
            header.msg_controllen += PKTINFO_SPACE;
        }
    }

    /// Message `index`, which is laid out. Good until all is cleared.
    pub(crate) fn header(&self, index: usize) -> *const libc::msghdr {
        // SAFETY: a field of what lies within the mapping; no reference is made.
        unsafe { &raw const (*self.headers.at(index)).msg_hdr }
    }

    /// Message `index` and those behind it, as sendmmsg(2) wants them.
    pub(crate) fn headers(&self, index: usize) -> *mut libc::mmsghdr {
        self.headers.at(index)
    }

    /// The socket that message `index` goes by.
    pub(crate) fn socket(&self, index: usize) -> usize {
        self.messages[index].way.socket
    }

    /// The kernel refused message `index` with `errno`. How many replies are lost by that: none where they are
    /// to be tried [`Outgoing::again`].
    pub(crate) fn refuse(&mut self, index: usize, errno: i32) -> u64 {
        let Some(&Message { way, to, pieces, segment, .. }) = self.messages.get(index) else {
            return 1;
        };
        // EMSGSIZE, EINVAL: longer than the route's packets, or more than its device takes; EIO: a device that
        // computes no checksums.
        if pieces == 1
            || !matches!(errno, libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP)
        {
            return u64::from(pieces);
        }
        let own = self.pieces.iter().filter(|piece| usize::from(piece.message) == index);
        self.again.extend(own.map(|&piece| (way, to, piece)));
        self.refused = Some(self.refused.map_or(segment, |before| before.min(segment)));
        0
    }

    /// The kernel has taken all. Whether some is to be submitted again, as single replies.
    pub(crate) fn again(&mut self) -> bool {
        if self.again.is_empty() {
            return false;
        }
        let again = std::mem::take(&mut self.again);
        let segment_max = std::mem::replace(&mut self.segment_max, 0);
        self.forget();
        for &(way, to, Piece { octets, length, .. }) in again.iter().take(MESSAGES_MAX) {
            // SAFETY: as it was promised for the first time: nothing was cleared since.
            unsafe { self.push(way, to, octets, length) };
        }
        self.segment_max = segment_max;
        self.again = again;
        let rest = self.again.len().min(MESSAGES_MAX);
        self.again.drain(..rest);
        true
    }

    /// What was submitted again as single replies has left, as it is, or was refused as well: `all_left` says
    /// which. If all have left, then it was the joining.
    pub(crate) fn learn(&mut self, all_left: bool) {
        if let Some(segment) = self.refused.take()
            && all_left
        {
            self.segment_max = self.segment_max.min(segment.saturating_sub(1));
        }
    }

    /// All that was pushed has been submitted and sent: its memory is free again.
    pub(crate) fn clear(&mut self) {
        self.forget();
        self.arena_used = 0;
    }

    fn forget(&mut self) {
        self.messages.clear();
        self.pieces.clear();
        self.laid_out = (0, 0, 0);
    }
}

impl Message {
    fn takes(&self, length: usize) -> bool {
        self.open
            && (1..=self.segment).contains(&length)
            && usize::from(self.pieces) < SEGMENTS_MAX
            && self.octets + length <= PAYLOAD_MAX
    }
}

/// Fibonacci hashing: two NAT64s that fall on the same place join a little less, and that is all.
fn place(to: SocketAddrV4) -> usize {
    let key = u32::from(*to.ip()) ^ u32::from(to.port()) << 16;
    (key.wrapping_mul(0x9e37_79b1) >> (u32::BITS - RECENT.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Way = Way { socket: 0, from: None };

    fn to(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port)
    }

    /// A message as the kernel would read it: to whom, segment size, payload, number of vectors.
    fn read(outgoing: &Outgoing, index: usize) -> (u8, Option<u16>, Vec<u8>, usize) {
        // SAFETY: laid out, and all that it points to is in the mappings or in the test's payloads.
        unsafe {
            let header = &*outgoing.header(index);
            let to = &*header.msg_name.cast::<libc::sockaddr_in>();
            let vectors = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen);
            let payload = vectors
                .iter()
                .flat_map(|v| std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len))
                .copied()
                .collect();
            let mut segment = None;
            let mut control = libc::CMSG_FIRSTHDR(header);
            while let Some(message) = control.as_ref() {
                if message.cmsg_type == libc::UDP_SEGMENT {
                    segment = Some(libc::CMSG_DATA(control).cast::<u16>().read_unaligned());
                }
                control = libc::CMSG_NXTHDR(header, control);
            }
            (to.sin_addr.s_addr.to_ne_bytes()[3], segment, payload, vectors.len())
        }
    }

    fn push(outgoing: &mut Outgoing, way: Way, to: SocketAddrV4, payload: &[u8]) {
        let kept = outgoing.keep(payload).unwrap();
        // SAFETY: it is in the arena until all is cleared.
        unsafe { outgoing.push(way, to, kept, payload.len()) };
    }

    #[test]
    fn equal_replies_to_one_nat64_are_joined() {
        let mut outgoing = Outgoing::new().unwrap();
        for round in [b"aa", b"bb", b"cc"] {
            push(&mut outgoing, HERE, to(1, 5), round);
            push(&mut outgoing, HERE, to(2, 5), round);
        }
        push(&mut outgoing, HERE, to(1, 5), b"d");
        // Behind a shorter one there is no more.
        push(&mut outgoing, HERE, to(1, 5), b"e");
        push(&mut outgoing, HERE, to(1, 6), b"f");
        push(&mut outgoing, Way { socket: 1, from: None }, to(1, 6), b"g");
        push(&mut outgoing, HERE, to(2, 5), b"longer");
        assert_eq!(outgoing.lay_out(), 0..6);
        assert_eq!(read(&outgoing, 0), (1, Some(2), b"aabbccd".to_vec(), 4));
        assert_eq!(read(&outgoing, 1), (2, Some(2), b"aabbcc".to_vec(), 3));
        assert_eq!(read(&outgoing, 2), (1, None, b"e".to_vec(), 1));
        assert_eq!(read(&outgoing, 3), (1, None, b"f".to_vec(), 1));
        assert_eq!(read(&outgoing, 4), (1, None, b"g".to_vec(), 1));
        assert_eq!(read(&outgoing, 5), (2, None, b"longer".to_vec(), 1));
        assert_eq!(outgoing.socket(4), 1);
        // What is laid out does not grow.
        push(&mut outgoing, HERE, to(2, 5), b"longer");
        assert_eq!(outgoing.lay_out(), 6..7);
        outgoing.clear();
        assert_eq!(outgoing.lay_out(), 0..0);
    }

    #[test]
    fn neighbours_in_memory_are_one_vector() {
        let mut outgoing = Outgoing::new().unwrap();
        (0..5).for_each(|_| push(&mut outgoing, HERE, to(1, 5), &[7; 100]));
        outgoing.lay_out();
        assert_eq!(read(&outgoing, 0), (1, Some(100), vec![7; 500], 1));
    }

    #[test]
    fn bounds_of_a_message() {
        let mut outgoing = Outgoing::new().unwrap();
        (0..SEGMENTS_MAX + 1).for_each(|_| push(&mut outgoing, HERE, to(1, 5), &[1; 2]));
        (0..2).for_each(|_| push(&mut outgoing, HERE, to(2, 5), &[2; SEGMENT_MAX + 1]));
        (0..2).for_each(|_| push(&mut outgoing, HERE, to(3, 5), &[]));
        let fit = PAYLOAD_MAX / SEGMENT_MAX;
        (0..fit + 1).for_each(|_| push(&mut outgoing, HERE, to(4, 5), &[3; SEGMENT_MAX]));
        let lengths: Vec<_> =
            outgoing.lay_out().map(|index| read(&outgoing, index).2.len()).collect();
        let large = [SEGMENT_MAX + 1; 2];
        let expected =
            [2 * SEGMENTS_MAX, 2, large[0], large[1], 0, 0, fit * SEGMENT_MAX, SEGMENT_MAX];
        assert_eq!(lengths, expected);
    }

    #[test]
    fn the_address_that_a_message_leaves_from() {
        let mut outgoing = Outgoing::new().unwrap();
        let from = |last| Way { socket: 0, from: Some(Ipv4Addr::new(203, 0, 113, last)) };
        for last in [1, 1, 2] {
            push(&mut outgoing, from(last), to(1, 5), b"xx");
        }
        assert_eq!(outgoing.lay_out(), 0..2);
        for (index, segment, last) in [(0, Some(2), 1), (1, None, 2)] {
            assert_eq!(read(&outgoing, index).1, segment);
            // SAFETY: laid out; the first control message is an in_pktinfo.
            let info = unsafe {
                let first = libc::CMSG_FIRSTHDR(outgoing.header(index));
                assert_eq!((*first).cmsg_type, libc::IP_PKTINFO);
                libc::CMSG_DATA(first).cast::<libc::in_pktinfo>().read_unaligned()
            };
            assert_eq!(info.ipi_spec_dst.s_addr.to_ne_bytes(), [203, 0, 113, last]);
        }
    }

    #[test]
    fn what_is_refused_as_joined_goes_piece_by_piece() {
        let mut outgoing = Outgoing::new().unwrap();
        let joined = |outgoing: &mut Outgoing, length| {
            push(outgoing, HERE, to(9, 5), b"else");
            (0..3).for_each(|_| push(outgoing, HERE, to(1, 5), &vec![1; length]));
            outgoing.lay_out().len()
        };
        assert_eq!(joined(&mut outgoing, 400), 2);
        assert_eq!(outgoing.refuse(0, libc::EMSGSIZE), 1, "a single one is lost");
        assert_eq!(outgoing.refuse(1, libc::EAGAIN), 3, "there was no room: they are lost");
        assert_eq!(outgoing.refuse(1, libc::EIO), 0);
        assert!(outgoing.again());
        assert_eq!(outgoing.lay_out(), 0..3);
        assert!((0..3).all(|index| read(&outgoing, index) == (1, None, vec![1; 400], 1)));
        assert!(!outgoing.again());
        // Alone they are refused as well: the joining was not at fault.
        outgoing.learn(false);
        outgoing.clear();
        assert_eq!(joined(&mut outgoing, 400), 2);
        assert_eq!(outgoing.refuse(1, libc::EMSGSIZE), 0);
        assert!(outgoing.again());
        outgoing.learn(true);
        outgoing.clear();
        assert_eq!(joined(&mut outgoing, 400), 4, "not joined any more");
        outgoing.clear();
        assert_eq!(joined(&mut outgoing, 399), 2, "shorter ones still are");
    }
}
