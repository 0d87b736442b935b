//! The memory that the kernel reads and writes: receive buffers, and replies on their way out.
//!
//! It is mapped apart from the heap, so that Rust never holds a reference to what the kernel may be
//! writing, and so that it can be left alone if the kernel does not let go of it.

use std::io;
use std::marker::PhantomData;
use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::socket::{internet_address, socket_address};
use crate::wire::{HEAD_ROOM, PAYLOAD_MAX};

use super::received;

/// Where the kernel begins to write in a slot: behind the head room, on a cache line.
pub(super) const RECEIVE_START: usize = HEAD_ROOM.next_multiple_of(64);
const PAGE: usize = 4096;
/// From one slot to the next, in octets. Of a slot, only the pages that were ever used cost memory.
pub(super) const SLOT_SIZE: usize =
    (RECEIVE_START + received::FRONT_MAX + PAYLOAD_MAX).next_multiple_of(PAGE);
/// What the kernel may write into one slot.
const RECEIVE_MAX: usize = SLOT_SIZE - RECEIVE_START;
/// The replies that can wait to be submitted.
pub(super) const MESSAGES: usize = 512;
/// The octets of copied replies that can wait to be submitted.
pub(super) const ARENA_SIZE: usize = 1 << 20;

const _: () = assert!(ARENA_SIZE >= PAYLOAD_MAX);
const _: () = assert!(RECEIVE_START >= HEAD_ROOM);
const _: () = assert!(RECEIVE_MAX >= received::FRONT_MAX + PAYLOAD_MAX);

/// Zeroed memory of its own for `length` values.
pub(super) struct Mapping<T> {
    base: NonNull<T>,
    length: usize,
    owns: PhantomData<T>,
}

/// Types that any octets are a valid value of, and that need no drop.
///
/// # Safety
/// Only for such types.
pub(super) unsafe trait Plain {}
// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: two integers for the address and length, two for number and tail.
unsafe impl Plain for BufRingEntry {}
// SAFETY: structures of the C interface, of integers and raw pointers.
unsafe impl Plain for Message {}

impl<T: Plain> Mapping<T> {
    pub(super) fn new(length: usize) -> io::Result<Self> {
        let size = length * size_of::<T>();
        // SAFETY: a new private mapping at an address that the kernel picks touches nothing else.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // A huge page would bring in the pages that nobody touches. Where it cannot be said, there
        // are none.
        // SAFETY: advice about the mapping made above changes none of its content.
        unsafe { libc::madvise(base, size, libc::MADV_NOHUGEPAGE) };
        let base = NonNull::new(base.cast()).expect("a mapping is not at address 0");
        Ok(Self { base, length, owns: PhantomData })
    }

    pub(super) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.length);
        // SAFETY: `index` is within the mapping, as was just asserted.
        unsafe { self.base.as_ptr().add(index) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, of the same size, and it goes away only here.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length * size_of::<T>()) };
    }
}

/// A receive buffer that the kernel has handed to us: as long as this exists, it does not write
/// there. Neither copied nor made up, so the memory behind it is ours alone.
pub(super) struct Held(u16);

impl Held {
    /// # Safety
    /// The kernel has just handed out buffer `id` in a completion, which was not seen before.
    pub(super) unsafe fn new(id: u16) -> Self {
        Self(id)
    }
}

/// The receive buffers of a ring, shared by its sockets, and the queue that the kernel takes them
/// from.
pub(super) struct Buffers {
    slots: Mapping<u8>,
    queue: Mapping<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl Buffers {
    /// `count` buffers, all in the queue. `count` is a power of two.
    pub(super) fn new(count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let mut buffers = Self {
            slots: Mapping::new(usize::from(count) * SLOT_SIZE)?,
            queue: Mapping::new(usize::from(count))?,
            count,
            tail: 0,
        };
        for id in 0..count {
            buffers.give(Held(id));
        }
        Ok(buffers)
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    pub(super) fn queue_address(&self) -> u64 {
        self.queue.at(0) as u64
    }

    /// Gives a buffer to the kernel, which may write there from the next `io_uring_enter` on.
    pub(super) fn give(&mut self, held: Held) {
        let entry = self.queue.at(usize::from(self.tail & (self.count - 1)));
        // SAFETY: `entry` is within the mapping, and the kernel does not write to it, nor read it
        // before the tail says so. The tail itself, in the first entry, is not touched here.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.slots.at(self.start(&held) + RECEIVE_START) as u64);
        entry.set_len(RECEIVE_MAX as u32);
        entry.set_bid(held.0);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail stands in the first entry, aligned, in memory that lives as long as self.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.queue.at(0)).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The whole slot of a buffer.
    pub(super) fn slot(&self, held: &Held) -> &[u8] {
        let start = self.slots.at(self.start(held));
        // SAFETY: `held` says that the kernel does not write there and that nobody else has it; a
        // slot is within the mapping, and `&self` keeps `slot_mut` away.
        unsafe { std::slice::from_raw_parts(start, SLOT_SIZE) }
    }

    /// The whole slot of a buffer.
    pub(super) fn slot_mut(&mut self, held: &Held) -> &mut [u8] {
        let start = self.slots.at(self.start(held));
        // SAFETY: as in `slot`, and `&mut self` keeps every other reference away.
        unsafe { std::slice::from_raw_parts_mut(start, SLOT_SIZE) }
    }

    fn start(&self, held: &Held) -> usize {
        usize::from(held.0) * SLOT_SIZE
    }
}

/// One reply as sendmsg(2) wants it. Its pointers are into the same message and to the payload.
#[repr(C)]
pub(super) struct Message {
    header: libc::msghdr,
    payload: libc::iovec,
    to: libc::sockaddr_in,
    control: Control,
}

/// The one control message that we send: which address the reply leaves from.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

const _: () = assert!(size_of::<Control>() == received::CONTROL);
const _: () = assert!(offset_of!(Control, info) == received::CONTROL_HEADER);

/// The replies that wait to be submitted.
pub(super) struct Outgoing {
    messages: Mapping<Message>,
    arena: Mapping<u8>,
    queued: usize,
    arena_used: usize,
}

impl Outgoing {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            messages: Mapping::new(MESSAGES)?,
            arena: Mapping::new(ARENA_SIZE)?,
            queued: 0,
            arena_used: 0,
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.queued < MESSAGES
    }

    /// Where in the arena a payload of `length` octets can go.
    pub(super) fn reserve(&mut self, length: usize) -> Option<Range<usize>> {
        let range = self.arena_used..self.arena_used + length;
        if range.end > ARENA_SIZE {
            return None;
        }
        self.arena_used = range.end;
        Some(range)
    }

    /// Copies `payload` to `range` of the arena, which was reserved for it.
    pub(super) fn fill(&mut self, range: Range<usize>, payload: &[u8]) -> *const u8 {
        assert!(range.len() == payload.len() && range.end <= self.arena_used);
        if payload.is_empty() {
            return self.arena.at(0);
        }
        let target = self.arena.at(range.start);
        // SAFETY: the range is within the arena and as long as the payload, which lies elsewhere.
        unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), target, payload.len()) };
        target
    }

    /// Writes down a reply. `from` is needed where the socket does not know it. The pointer that is
    /// returned is good until the submission, and so must `payload` be for `length` octets.
    ///
    /// # Panics
    /// Where there is no room.
    pub(super) fn push(
        &mut self,
        payload: *const u8,
        length: usize,
        to: SocketAddrV4,
        from: Option<Ipv4Addr>,
    ) -> *const libc::msghdr {
        let slot = self.messages.at(self.queued);
        self.queued += 1;
        // SAFETY: `slot` is within the mapping, whose zeros are a valid message, and the kernel reads
        // it only while it is being submitted.
        let message = unsafe { &mut *slot };
        message.to = socket_address(to);
        message.payload = libc::iovec { iov_base: payload.cast_mut().cast(), iov_len: length };
        message.header.msg_name = (&raw mut message.to).cast();
        message.header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        message.header.msg_iov = &raw mut message.payload;
        message.header.msg_iovlen = 1;
        if let Some(from) = from {
            let length = received::CONTROL_HEADER + size_of::<libc::in_pktinfo>();
            message.control.header.cmsg_len = length as _;
            message.control.header.cmsg_level = libc::IPPROTO_IP;
            message.control.header.cmsg_type = libc::IP_PKTINFO;
            message.control.info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: internet_address(from),
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            message.header.msg_control = (&raw mut message.control).cast();
            message.header.msg_controllen = size_of::<Control>() as _;
        } else {
            message.header.msg_control = ptr::null_mut();
            message.header.msg_controllen = 0;
        }
        &raw const message.header
    }

    /// All that was queued has been submitted and sent: its memory is free again.
    pub(super) fn clear(&mut self) {
        self.queued = 0;
        self.arena_used = 0;
    }
}
