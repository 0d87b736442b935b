//! The receive buffers, which a ring and the kernel hand to each other.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::kernel::mapping::Mapping;
use crate::kernel::slot::{RECEIVE_MAX, RECEIVE_START, SLOT_SIZE};

/// A receive buffer that the kernel has handed to us, and does not write to while this exists. It
/// cannot be copied or made up, so the memory behind it is ours alone.
pub(super) struct HeldBuffer(u16);

impl HeldBuffer {
    /// # Safety
    /// The kernel has just handed out buffer `id`, in a completion that was not seen before.
    pub(super) unsafe fn new(id: u16) -> Self {
        Self(id)
    }
}

/// The receive buffers of a ring, shared by its sockets, and the queue from which the kernel takes
/// them.
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
            buffers.give(HeldBuffer(id));
        }
        Ok(buffers)
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    pub(super) fn queue_address(&self) -> u64 {
        self.queue.at(0) as u64
    }

    /// Gives a buffer back to the kernel, which may write to it from now on.
    pub(super) fn give(&mut self, held: HeldBuffer) {
        let entry = self.queue.at(usize::from(self.tail & (self.count - 1)));
        // SAFETY: `entry` is within the mapping. The kernel does not write to it, and does not read
        // it before the tail says so. The tail itself, in the first entry, is not touched here.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.slots.at(self.start(&held) + RECEIVE_START) as u64);
        entry.set_len(RECEIVE_MAX as u32);
        entry.set_bid(held.0);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 of the first entry, in memory that lives as long as
        // self. Nobody else writes to it, and the kernel reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.queue.at(0)).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// The whole slot of a buffer.
    pub(super) fn slot(&self, held: &HeldBuffer) -> &[u8] {
        let start = self.slots.at(self.start(held));
        // SAFETY: a slot is within the mapping. The kernel does not write to it while there is a
        // `HeldBuffer`, of which there is one, and `&self` excludes the `&mut` of `slot_mut`.
        unsafe { std::slice::from_raw_parts(start, SLOT_SIZE) }
    }

    /// The whole slot of a buffer.
    pub(super) fn slot_mut(&mut self, held: &HeldBuffer) -> &mut [u8] {
        let start = self.slots.at(self.start(held));
        // SAFETY: a slot is within the mapping. The kernel does not write to it while there is a
        // `HeldBuffer`, of which there is one, and `&mut self` excludes all other references.
        unsafe { std::slice::from_raw_parts_mut(start, SLOT_SIZE) }
    }

    /// Where `range` of a buffer's slot begins. The pointer stays good when there is a reference to
    /// the slot later, which one from `slot` would not.
    ///
    /// # Panics
    /// Where the range is not within the slot.
    pub(super) fn part(&self, held: &HeldBuffer, range: &Range<usize>) -> *const u8 {
        assert!(range.start <= range.end && range.end <= SLOT_SIZE);
        self.slots.at(self.start(held)).wrapping_add(range.start)
    }

    fn start(&self, held: &HeldBuffer) -> usize {
        usize::from(held.0) * SLOT_SIZE
    }
}
