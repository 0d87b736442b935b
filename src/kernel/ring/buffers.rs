//! The receive buffers that a ring and the kernel hand to each other.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::kernel::mapping::Mapping;
use crate::kernel::slot::{RECEIVE_MAX, RECEIVE_START, SLOT_SIZE};

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
