//! One thread, one shard: the only loop, and the only reader of the clock.
//!
//! A turn of the loop takes a batch of datagrams, lets the shard answer them all, and hands the answers to
//! the kernel. What an answer announces is recorded before it leaves: see `Reactor::commit`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::backend::{Backend, Losses};
use crate::change::{Now, TableKey, Timestamp};
use crate::eventlog;
use crate::server::{Body, Datagram, Outbox, Reply, Server};
use crate::stats::{Counter, DropReason, Stats};

/// Beyond so many octets that are not written in place, a batch is cut: bounds the memory of a reactor.
const COPIES_MAX: usize = 256 * 1024;

/// The clock of a reactor, read once for a batch.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
    #[expect(clippy::new_without_default, reason = "reading a clock is not a default")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
    pub fn now(&self) -> Now {
        // A wall clock before 1970 is set wrong; the log says so as well as it can.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp::from_micros(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX));
        Now { wall, monotonic: self.monotonic() }
    }

    /// How long ago it was started.
    pub fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A shard and what drives it.
pub struct Reactor<B> {
    backend: B,
    server: Server,
    log: eventlog::Sender,
    clock: Clock,
    stats: Arc<Stats>,
    outbox: Outbox,
}

impl<B: Backend> Reactor<B> {
    /// A reactor for `server`, whose counters are `stats`.
    pub fn new(
        backend: B,
        server: Server,
        log: eventlog::Sender,
        clock: Clock,
        stats: Arc<Stats>,
    ) -> Self {
        Self { backend, server, log, clock, stats, outbox: Outbox::default() }
    }

    /// Answers datagrams until `stop` is set and the backend woken. What was received by then is answered.
    ///
    /// # Errors
    /// What the backend cannot recover from.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Acquire) {
            let arrivals = self.backend.turn(None)?;
            if arrivals > 0 {
                self.batch(arrivals)?;
            }
            self.count_losses();
        }
        self.backend.finish()?;
        self.count_losses();
        Ok(())
    }

    fn batch(&mut self, arrivals: usize) -> io::Result<()> {
        let now = self.clock.now();
        for index in 0..arrivals {
            let (arrival, buffer) = self.backend.arrival(index);
            let datagram = Datagram {
                table: TableKey { local: arrival.local, nat64: *arrival.source.ip() },
                port: arrival.source.port(),
                payload: arrival.payload.clone(),
                buffer,
            };
            self.outbox.datagram = index;
            self.server.handle(now, datagram, &mut self.outbox);
            if self.outbox.copies().len() > COPIES_MAX {
                self.commit(now)?;
            }
        }
        self.commit(now)
    }

    /// The one place that decides what comes first: changes are recorded, then the replies that announce
    /// them are handed to the kernel.
    fn commit(&mut self, now: Now) -> io::Result<()> {
        for (table, change) in self.outbox.changes.drain(..) {
            if let Some(event) = change.event(now.wall, table) {
                self.log.send(event, &self.stats);
            }
        }
        self.log.publish();
        self.stats.add(Counter::Replies, self.outbox.replies.len() as u64);
        for index in 0..self.outbox.replies.len() {
            let Reply { datagram, to, ref body, .. } = self.outbox.replies[index];
            match body {
                Body::InPlace(range) => self.backend.send_in_place(datagram, range.clone(), to)?,
                Body::Copied(range) => {
                    let payload = &self.outbox.copies()[range.clone()];
                    let origin = self.backend.arrival(datagram).0.origin();
                    self.backend.send_copy(origin, payload, to)?;
                }
            }
        }
        self.outbox.clear();
        Ok(())
    }

    fn count_losses(&mut self) {
        let Losses { truncated, not_unicast, send_errors } = self.backend.take_losses();
        self.stats.count_drops(DropReason::DatagramTruncated, truncated);
        self.stats.count_drops(DropReason::NotUnicast, not_unicast);
        self.stats.add(Counter::SendErrors, send_errors);
    }
}
