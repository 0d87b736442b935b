//! Replies on their way out. Replies to the same NAT64 are coalesced: one message of many segments
//! passes through the kernel once (GSO, UDP_SEGMENT), and is as many datagrams on the wire as
//! before.
//!
//! A reply is *pushed* as a segment of a message. The messages are *laid out* as sendmsg(2) wants
//! them, and *cleared* when the kernel has taken them all. Some devices and routes do not support
//! GSO: a message that was refused is pushed again as single replies. If that works, such messages
//! are not made any more.

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::ptr;

use crate::handoff::message::{IPV4_UDP_HEADERS, PAYLOAD_MAX};
use crate::kernel::backend::ReturnPath;
use crate::kernel::socket::{ReactorSocket, internet_address, socket_address};

use super::cmsg::{HEADER, PKTINFO_SPACE};
use super::mapping::{Mapping, Plain};

/// The most messages that wait to be submitted.
pub(crate) const MESSAGES_MAX: usize = 512;
/// The most replies that wait to be submitted.
const REPLIES_MAX: usize = 1024;
/// The most octets of copied replies that wait to be submitted.
pub(crate) const ARENA_SIZE: usize = 1 << 20;
/// The most replies in one message: what every kernel with UDP_SEGMENT takes.
pub(crate) const SEGMENTS_MAX: usize = 64;
/// The longest replies that are coalesced: they fit in a packet on Ethernet. Where the route's
/// packets are shorter, the kernel refuses longer ones, and that is learned.
pub(crate) const SEGMENT_MAX: usize = 1500 - IPV4_UDP_HEADERS;
/// Slots of [`Outgoing::recent`].
const RECENT: usize = 512;
const NO_MESSAGE: u16 = u16::MAX;

const _: () = assert!(ARENA_SIZE >= PAYLOAD_MAX);
const _: () = assert!(MESSAGES_MAX < NO_MESSAGE as usize && RECENT.is_power_of_two());

/// How replies leave: by which socket and, where that is bound to all addresses, from which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub socket: usize,
    pub from: Option<Ipv4Addr>,
}

impl Way {
    /// How replies to what came in at `return_path` leave.
    pub(crate) fn back(
        sockets: &[ReactorSocket],
        ReturnPath { socket, local }: ReturnPath,
    ) -> Self {
        let from = sockets[socket].is_wildcard().then_some(local);
        Self { socket, from }
    }
}

/// How what is sent from this address leaves, and from this port if one is named.
pub(crate) fn path_from(
    sockets: &[ReactorSocket],
    local: Ipv4Addr,
    port: Option<u16>,
) -> Option<ReturnPath> {
    let has = |socket: &ReactorSocket| {
        let of_port = port.is_none_or(|port| port == socket.local().port());
        of_port && (socket.is_wildcard() || *socket.local().ip() == local)
    };
    let socket = sockets.iter().position(has)?;
    Some(ReturnPath { socket, local })
}

/// One or more replies of equal length, except that the last may be shorter.
#[derive(Debug)]
struct OutgoingMessage {
    way: Way,
    to: SocketAddrV4,
    replies: u16,
    /// Whether another reply may follow.
    open: bool,
    /// The length of each reply but the last.
    segment: usize,
    octets: usize,
    vectors: Range<usize>,
}

/// One reply, and the message that it is in.
#[derive(Debug, Clone, Copy)]
struct OutgoingReply {
    message: u16,
    octets: *const u8,
    length: usize,
}

/// What a message's header points to, besides the payload.
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

// SAFETY: structures of the C interface, which consist of integers.
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
    messages: Vec<OutgoingMessage>,
    replies: Vec<OutgoingReply>,
    /// How many messages, replies and vectors are laid out already.
    laid_out: (usize, usize, usize),
    /// The number of the last message to a NAT64, by a hash of its address and port.
    recent: Box<[u16; RECENT]>,
    /// The longest replies that are coalesced from now on.
    segment_max: usize,
    /// The replies of messages that were refused, to be sent one by one.
    refused: Vec<(Way, SocketAddrV4, OutgoingReply)>,
    /// The shortest segment of the messages that were refused.
    refused_segment: Option<usize>,
}

impl Outgoing {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            headers: Mapping::new(MESSAGES_MAX)?,
            extras: Mapping::new(MESSAGES_MAX)?,
            vectors: Mapping::new(REPLIES_MAX)?,
            arena: Mapping::new(ARENA_SIZE)?,
            arena_used: 0,
            messages: Vec::with_capacity(MESSAGES_MAX),
            replies: Vec::with_capacity(REPLIES_MAX),
            laid_out: (0, 0, 0),
            recent: Box::new([NO_MESSAGE; RECENT]),
            segment_max: SEGMENT_MAX,
            refused: Vec::with_capacity(REPLIES_MAX),
            refused_segment: None,
        })
    }

    /// Whether a reply can be pushed.
    pub(crate) fn has_room(&self) -> bool {
        self.messages.len() < MESSAGES_MAX && self.replies.len() < REPLIES_MAX
    }

    /// Whether no reply waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether so many replies can be pushed, whichever they are.
    pub(crate) fn has_room_of(&self, replies: usize) -> bool {
        self.messages.len() + replies <= MESSAGES_MAX && self.replies.len() + replies <= REPLIES_MAX
    }

    /// Whether there is room for a payload.
    pub(crate) fn has_room_for(&self, length: usize) -> bool {
        self.arena_used + length <= ARENA_SIZE
    }

    /// Adds a reply of `length` octets that `emit` writes. Returns false where there is no room for
    /// its payload.
    ///
    /// # Panics
    /// As [`Outgoing::push`].
    pub(crate) fn push_emitted(
        &mut self,
        way: Way,
        to: SocketAddrV4,
        length: usize,
        emit: impl FnOnce(&mut [u8]),
    ) -> bool {
        let Some(room) = self.room(length) else { return false };
        emit(room);
        let payload = room.as_ptr();
        // SAFETY: the payload stays in the arena until all is cleared.
        unsafe { self.push(way, to, payload, length) };
        true
    }

    /// Room for a payload in the arena, where it stays until all is cleared. `None`: there is none.
    fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        if !self.has_room_for(length) {
            return None;
        }
        let start = self.arena_used;
        self.arena_used += length;
        if length == 0 {
            return Some(&mut []);
        }
        // SAFETY: the range is within the arena, which is plain octets, in a part that was given to
        // nobody since all was cleared; the kernel reads only what was pushed.
        Some(unsafe { std::slice::from_raw_parts_mut(self.arena.at(start), length) })
    }

    /// Adds a reply.
    ///
    /// # Panics
    /// Where there is no room: see [`Outgoing::has_room`].
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
        let recent = &mut self.recent[bucket(to)];
        let index = usize::from(*recent);
        // A message that is laid out does not grow.
        let known = self.messages.get_mut(index).filter(|message| {
            index >= self.laid_out.0
                && message.to == to
                && message.way == way
                && message.takes(length)
        });
        let message = match known {
            Some(message) => {
                message.replies += 1;
                message.octets += length;
                message.open = length == message.segment;
                *recent
            }
            None => {
                let open = (1..=self.segment_max).contains(&length);
                let index = self.messages.len();
                assert!(index < MESSAGES_MAX);
                self.messages.push(OutgoingMessage {
                    way,
                    to,
                    replies: 1,
                    open,
                    segment: length,
                    octets: length,
                    vectors: 0..0,
                });
                *recent = index as u16;
                index as u16
            }
        };
        assert!(self.replies.len() < REPLIES_MAX);
        self.replies.push(OutgoingReply { message, octets: payload, length });
    }

    /// Lays out what was pushed since the last call. Returns the numbers of these messages.
    pub(crate) fn lay_out(&mut self) -> Range<usize> {
        let (first, first_reply, mut vector) = self.laid_out;
        for message in &mut self.messages[first..] {
            message.vectors = vector..vector;
            vector += usize::from(message.replies);
        }
        for reply in &self.replies[first_reply..] {
            let vectors = &mut self.messages[usize::from(reply.message)].vectors;
            if let Some(last) = vectors.clone().last() {
                // SAFETY: the vector is within the mapping and was written below. Its message was
                // not submitted yet, so the kernel does not read it.
                let last = unsafe { &mut *self.vectors.at(last) };
                if ptr::eq(last.iov_base.cast::<u8>().wrapping_add(last.iov_len), reply.octets) {
                    last.iov_len += reply.length;
                    continue;
                }
            }
            let (iov_base, iov_len) = (reply.octets.cast_mut().cast(), reply.length);
            // SAFETY: the vector is within the mapping, as there are no more vectors than replies.
            // Its message was not submitted yet, so the kernel does not read it.
            unsafe { self.vectors.at(vectors.end).write(libc::iovec { iov_base, iov_len }) };
            vectors.end += 1;
        }
        for index in first..self.messages.len() {
            self.write_header(index);
        }
        self.laid_out = (self.messages.len(), self.replies.len(), vector);
        first..self.messages.len()
    }

    fn write_header(&mut self, index: usize) {
        let message = &self.messages[index];
        // SAFETY: both are within their mappings, whose zeros are valid values. The message was not
        // submitted yet, so the kernel does not read them.
        let (header, extra) =
            unsafe { (&mut (*self.headers.at(index)).msg_hdr, &mut *self.extras.at(index)) };
        extra.to = socket_address(message.to);
        header.msg_name = (&raw mut extra.to).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        header.msg_iov = self.vectors.at(message.vectors.start);
        header.msg_iovlen = message.vectors.len();
        header.msg_control = ptr::null_mut();
        header.msg_controllen = 0;
        if message.replies > 1 {
            extra.segment.set(libc::SOL_UDP, libc::UDP_SEGMENT, message.segment as u16);
            header.msg_control = (&raw mut extra.segment).cast();
            header.msg_controllen = size_of::<ControlMessage<u16>>();
        }
        if let Some(from) = message.way.from {
            let ipi_spec_dst = internet_address(from);
            let ipi_addr = libc::in_addr { s_addr: 0 };
            let from = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            extra.from.set(libc::IPPROTO_IP, libc::IP_PKTINFO, from);
            // The segment's length, where there is one, follows.
            header.msg_control = (&raw mut extra.from).cast();
            header.msg_controllen += PKTINFO_SPACE;
        }
    }

    /// The header of message `index`, which is laid out. The pointer is good until all is cleared.
    pub(crate) fn header(&self, index: usize) -> *const libc::msghdr {
        // SAFETY: the field is within the mapping, and no reference is made to it.
        unsafe { &raw const (*self.headers.at(index)).msg_hdr }
    }

    /// The headers of message `index` and those after it, as sendmmsg(2) wants them.
    pub(crate) fn headers(&self, index: usize) -> *mut libc::mmsghdr {
        self.headers.at(index)
    }

    /// The number of the socket by which message `index` leaves.
    pub(crate) fn socket(&self, index: usize) -> usize {
        self.messages[index].way.socket
    }

    /// How many replies message `index` is.
    pub(crate) fn replies(&self, index: usize) -> u64 {
        self.messages[index].replies.into()
    }

    /// How many of these messages, which are laid out, a send queue takes that has so much `room`:
    /// the first one if there is any, and those after it that leave by the same socket.
    pub(crate) fn fitting(&self, messages: Range<usize>, mut room: u64) -> usize {
        let socket = self.socket(messages.start);
        let fits = |&index: &usize| {
            let fits = room > 0 && self.socket(index) == socket;
            // What the kernel adds to it.
            room = room.saturating_sub(2 * self.messages[index].octets as u64 + 1024);
            fits
        };
        messages.take_while(fits).count()
    }

    /// Notes that the kernel refused message `index` with `errno`. Returns how many replies are
    /// lost: none where they are to be sent one by one, by [`Outgoing::retry`].
    pub(crate) fn refuse(&mut self, index: usize, errno: i32) -> u64 {
        let Some(&OutgoingMessage { way, to, replies, segment, .. }) = self.messages.get(index)
        else {
            return 1;
        };
        // EMSGSIZE, EINVAL: longer than the route's packets, or than its device takes; EIO: a
        // device that computes no checksums.
        if replies == 1
            || !matches!(errno, libc::EMSGSIZE | libc::EINVAL | libc::EIO | libc::EOPNOTSUPP)
        {
            return u64::from(replies);
        }
        let own = self.replies.iter().filter(|reply| usize::from(reply.message) == index);
        self.refused.extend(own.map(|&reply| (way, to, reply)));
        let shortest = self.refused_segment.map_or(segment, |before| before.min(segment));
        self.refused_segment = Some(shortest);
        0
    }

    /// Pushes the refused replies again, as single ones. Returns false where there are none. Call
    /// it when the kernel has taken everything, until it returns false.
    pub(crate) fn retry(&mut self) -> bool {
        if self.refused.is_empty() {
            return false;
        }
        let mut refused = std::mem::take(&mut self.refused);
        let segment_max = std::mem::replace(&mut self.segment_max, 0);
        self.forget();
        for (way, to, OutgoingReply { octets, length, .. }) in
            refused.drain(..refused.len().min(MESSAGES_MAX))
        {
            // SAFETY: whoever pushed this reply promised that it can be read until all is cleared,
            // and nothing was cleared since: `forget` leaves the arena alone.
            unsafe { self.push(way, to, octets, length) };
        }
        self.segment_max = segment_max;
        self.refused = refused;
        true
    }

    /// After a retry: if every reply left, GSO was at fault, and only shorter segments are used
    /// from now on.
    pub(crate) fn learn(&mut self, all_left: bool) {
        if let Some(segment) = self.refused_segment.take()
            && all_left
        {
            self.segment_max = self.segment_max.min(segment.saturating_sub(1));
        }
    }

    /// Frees the memory of everything that was pushed. Call it when all was submitted and has left.
    pub(crate) fn clear(&mut self) {
        self.forget();
        self.arena_used = 0;
    }

    fn forget(&mut self) {
        self.messages.clear();
        self.replies.clear();
        self.laid_out = (0, 0, 0);
    }
}

impl OutgoingMessage {
    fn takes(&self, length: usize) -> bool {
        self.open
            && (1..=self.segment).contains(&length)
            && usize::from(self.replies) < SEGMENTS_MAX
            && self.octets + length <= PAYLOAD_MAX
    }
}

/// Fibonacci hashing. Two NAT64s in the same slot only make GSO less effective.
fn bucket(to: SocketAddrV4) -> usize {
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
        // SAFETY: the message is laid out, and all that it points to is in the mappings of
        // `outgoing`.
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
        assert!(
            outgoing.push_emitted(way, to, payload.len(), |room| room.copy_from_slice(payload))
        );
    }

    #[test]
    fn equal_replies_to_one_nat64_are_coalesced() {
        let mut outgoing = Outgoing::new().unwrap();
        for round in [b"aa", b"bb", b"cc"] {
            push(&mut outgoing, HERE, to(1, 5), round);
            push(&mut outgoing, HERE, to(2, 5), round);
        }
        push(&mut outgoing, HERE, to(1, 5), b"d");
        // A shorter reply is the last of its message.
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
        // A message that is laid out does not grow.
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
            // SAFETY: the message is laid out, and its first control message is an in_pktinfo.
            let info = unsafe {
                let first = libc::CMSG_FIRSTHDR(outgoing.header(index));
                assert_eq!((*first).cmsg_type, libc::IP_PKTINFO);
                libc::CMSG_DATA(first).cast::<libc::in_pktinfo>().read_unaligned()
            };
            assert_eq!(info.ipi_spec_dst.s_addr.to_ne_bytes(), [203, 0, 113, last]);
        }
    }

    #[test]
    fn what_is_refused_with_gso_is_sent_one_by_one() {
        let mut outgoing = Outgoing::new().unwrap();
        let coalesced = |outgoing: &mut Outgoing, length| {
            push(outgoing, HERE, to(9, 5), b"else");
            (0..3).for_each(|_| push(outgoing, HERE, to(1, 5), &vec![1; length]));
            outgoing.lay_out().len()
        };
        assert_eq!(coalesced(&mut outgoing, 400), 2);
        assert_eq!(outgoing.refuse(0, libc::EMSGSIZE), 1, "a single one is lost");
        assert_eq!(outgoing.refuse(1, libc::EAGAIN), 3, "a full queue: they are lost");
        assert_eq!(outgoing.refuse(1, libc::EIO), 0);
        assert!(outgoing.retry());
        assert_eq!(outgoing.lay_out(), 0..3);
        assert!((0..3).all(|index| read(&outgoing, index) == (1, None, vec![1; 400], 1)));
        assert!(!outgoing.retry());
        // Single replies are refused as well: GSO was not at fault.
        outgoing.learn(false);
        outgoing.clear();
        assert_eq!(coalesced(&mut outgoing, 400), 2);
        assert_eq!(outgoing.refuse(1, libc::EMSGSIZE), 0);
        assert!(outgoing.retry());
        outgoing.learn(true);
        outgoing.clear();
        assert_eq!(coalesced(&mut outgoing, 400), 4, "not coalesced any more");
        outgoing.clear();
        assert_eq!(coalesced(&mut outgoing, 399), 2, "shorter ones still are");
    }
}
