//! The reactors' ends of the queues, and what reactors, logger and supervisor know of each other.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use rtrb::{Producer, PushError};

use super::QUEUE_EVENTS;
use super::recorder::Logged;
use super::tap::LogTap;
use crate::handoff::change::Event;
use crate::handoff::stats::{Counter, Stats};

/// Attempts to push into a full queue before the reactor sleeps between them.
const WAIT_SPINS: u32 = 100;
/// The first such sleep; each is twice as long as the one before, up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_micros(20);
/// The longest such sleep.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// Room that must be there again before a reactor that found none counts on it: else it would find
/// none with each batch.
const ROOM_AGAIN: usize = QUEUE_EVENTS / 2;

/// What the reactors, the thread and the supervisor know of each other.
#[derive(Default)]
pub(super) struct LogShared {
    /// Turns of the logger's loop, those that wait for a destination included.
    pub(super) turns: AtomicU64,
    /// The thread is in calls that write, sync, open or rename: these take as long as the disk or
    /// the reader does.
    pub(super) in_system: AtomicBool,
    /// The thread sleeps, or is about to: whoever adds events or requests wakes it.
    pub asleep: AtomicBool,
    /// Senders that were not dropped yet.
    pub senders: AtomicUsize,
    /// The path is to be opened anew.
    pub reopen: AtomicBool,
    /// Nobody waits any more: not for room in a queue, not for the next attempt after an error.
    pub give_up: AtomicBool,
    /// The thread ended before its work did.
    pub failed: AtomicBool,
    /// Events put into the queues since the start; added at the end of each batch.
    pub sent: AtomicU64,
    /// Lines written since the start.
    pub written: AtomicU64,
    /// Events that found no room in a queue that is not emptied any more.
    pub lost: AtomicU64,
    /// The thread, where there is one, as soon as it may sleep.
    pub(super) thread: OnceLock<Thread>,
    /// Who sees the lines as they are written.
    pub(super) tap: OnceLock<LogTap>,
}

impl LogShared {
    /// Runs what waits for the disk or the reader.
    pub(super) fn in_system<T>(&self, calls: impl FnOnce() -> T) -> T {
        let before = self.in_system.swap(true, Ordering::Relaxed);
        let result = calls();
        self.in_system.store(before, Ordering::Relaxed);
        result
    }

    /// Ends the thread's sleep.
    pub(super) fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub fn unwritten(&self) -> u64 {
        // `written` first: then what is written meanwhile cannot make the difference negative for
        // long, and lines written before their batch was published make it zero.
        let written = self.written.load(Ordering::Acquire);
        let sent = self.sent.load(Ordering::Acquire);
        sent.saturating_sub(written) + self.lost.load(Ordering::Relaxed)
    }
}

/// The reactor's end of the queue.
pub struct Sender {
    pub(super) queue: Producer<Event>,
    /// Events in the queue that `LogShared::sent` does not count yet.
    pub(super) unpublished: u64,
    /// An event was lost. So are all later ones: the cursor counts lines from the first on, so
    /// there must be no line behind a gap.
    pub(super) lost: bool,
    /// There was no room, and is not much yet.
    pub(super) is_blocked: bool,
    /// The number of the next event.
    pub(super) next: u64,
    /// The events that the log may lack at most: those before are durably in it.
    pub(super) unlogged_max: u64,
    pub(super) logged: Logged,
    /// Whose events these are.
    pub(super) shard: usize,
    pub(super) shared: Arc<LogShared>,
}

impl Sender {
    /// For how many events there is room: at least for `events`, or for none. Never waits: where
    /// the log does not take lines, there is no room until there is much.
    pub fn reserve(&mut self, events: usize, stats: &Stats) -> usize {
        let room = self.room();
        if room < events || self.is_blocked {
            if self.has_given_up() {
                // What is sent will be counted as lost.
                return usize::MAX;
            }
            if room < events || room < ROOM_AGAIN && self.is_blocked {
                self.block(stats);
                return 0;
            }
            self.is_blocked = false;
        }
        room
    }

    /// Whether there is room for this number of events, as [`Sender::reserve`] would find it.
    pub fn takes(&self, events: usize) -> bool {
        let room = self.room();
        let has_room = room >= events && (room >= ROOM_AGAIN || !self.is_blocked);
        has_room || self.has_given_up()
    }

    /// How many events were sent, and how many of them are durably in the log, since the first.
    pub fn progress(&self) -> (u64, u64) {
        // Those behind one that was lost never will be.
        let sent = if self.lost { u64::MAX } else { self.next };
        (sent, self.logged.get(self.shard))
    }

    fn room(&self) -> usize {
        let unlogged = self.next.saturating_sub(self.logged.get(self.shard));
        let left = self.unlogged_max.saturating_sub(unlogged);
        self.queue.slots().min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    fn has_given_up(&self) -> bool {
        self.lost || self.queue.is_abandoned() || self.shared.give_up.load(Ordering::Relaxed)
    }

    #[cold]
    fn block(&mut self, stats: &Stats) {
        if !mem::replace(&mut self.is_blocked, true) {
            self.publish();
            // As in `wait`.
            self.shared.unpark();
            stats.add(Counter::LogQueueWaits, 1);
        }
    }

    /// Puts an event into the queue, in which there should be room: see [`Sender::reserve`]. If
    /// there is none, this waits. When there never will be, the event is counted as lost. A
    /// sleeping logger is woken by [`Sender::publish`].
    pub fn send(&mut self, event: Event, stats: &Stats) {
        if self.lost {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.queue.push(event) {
            Ok(()) => self.pushed(),
            Err(PushError::Full(event)) => self.wait(event, stats),
        }
    }

    fn pushed(&mut self) {
        self.unpublished += 1;
        self.next += 1;
    }

    /// To be called at the end of a batch: wakes the logger, if it sleeps.
    pub fn publish(&mut self) {
        if self.unpublished > 0 {
            self.shared.sent.fetch_add(mem::take(&mut self.unpublished), Ordering::Release);
            self.wake();
        }
    }

    /// The counterpart of the logger's `wait`. We write the queue and read `asleep`; it writes
    /// `asleep` and reads the queue. The fences make at least one of the reads see the other side's
    /// write.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed)
            && self.shared.asleep.swap(false, Ordering::Relaxed)
        {
            self.shared.unpark();
        }
    }

    #[cold]
    fn wait(&mut self, mut event: Event, stats: &Stats) {
        self.publish();
        // The logger may be in `nap`, longer than we want to wait: wake it.
        self.shared.unpark();
        let mut turns = 0;
        let mut pause = WAIT_MIN;
        loop {
            if self.has_given_up() {
                self.lost = true;
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            match turns {
                0 => stats.add(Counter::LogQueueWaits, 1),
                1..WAIT_SPINS => std::hint::spin_loop(),
                _ => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(WAIT_MAX);
                }
            }
            turns = WAIT_SPINS.min(turns + 1);
            match self.queue.push(event) {
                Ok(()) => return self.pushed(),
                Err(PushError::Full(back)) => event = back,
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.publish();
        self.shared.senders.fetch_sub(1, Ordering::Release);
        self.wake();
    }
}
