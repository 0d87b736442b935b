//! One thread, one shard: the only loop, which reads the clock once for a batch.
//!
//! A turn of the loop receives a batch of datagrams, lets the shard answer them all, and hands the
//! answers to the kernel. A change is recorded before the answer that announces it leaves: see
//! `Reactor::commit`.

mod fleet;
mod naming;
mod record;

use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::deliver::Deliverer;
use super::fleet::FleetSeat;
use super::held::{HeldReplies, HeldReply};
use super::inquiry::{Inquiries, Inquiry, frozen};
use super::journal_trouble::JournalTrouble;
use super::names::PeerNameWriter;
use super::rounds::Rounds;
pub use super::shard::{ServerShard, Shard};
use crate::disk::eventlog;
use crate::disk::storage::{JournalState, JournalWriter};
use crate::handoff::change::{Change, Event, Now};
use crate::handoff::entry::TableKey;
use crate::handoff::message::PAYLOAD_MAX;
use crate::handoff::server::{
    Batch, Body, Datagram, EVENTS_BESIDE, Outbox, PREFETCH_MAX, RECORD_EVERY, Reply, events_max,
};
use crate::handoff::stats::{Counter, DropReason, Stats, TIMED_EVERY};
use crate::ip::geneve::GENEVE_PORT;
use crate::kernel::backend::{BATCH_MAX, Backend, Losses, ReturnPath};
use crate::kernel::clock::Clock;

/// A batch is cut when its replies that are not written in place have more octets: bounds the
/// memory of a reactor.
const COPIES_MAX: usize = 256 * 1024;
/// How often the kernel is asked how many datagrams found the sockets full.
const OVERFLOW_EVERY: Duration = Duration::from_millis(100);
/// The most datagrams that are answered after the reactor is told to stop, plus less than one
/// batch: more than the queue of a socket holds.
const LAST_MAX: usize = 16 * BATCH_MAX;
/// The most changes that are recorded first in one batch.
const FIRST_MAX: usize = 4096;
/// How soon the next ones are.
const FIRST_EVERY: Duration = Duration::from_millis(1);
/// How often a table is filled that nobody asked for, though datagrams wait.
const FILL_EVERY: Duration = Duration::from_millis(100);
/// How often a journal that had no room is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(100);

// An empty queue takes what any datagram leads to.
const _: () = assert!(2 * events_max(PAYLOAD_MAX) <= eventlog::QUEUE_EVENTS);

/// What a reactor records changes with.
pub struct ChangeRecorder {
    /// None: nothing survives the reactor.
    pub journal: Option<JournalWriter>,
    pub log: eventlog::Sender,
}

/// A shard and what drives it.
pub struct Reactor<B, S: Shard> {
    backend: B,
    shard: S,
    /// Asked for a [`ChangeRecorder`] until it gives one. A start that waits for room on the disk
    /// has none yet.
    recorder: Box<dyn FnMut() -> Option<ChangeRecorder> + Send>,
    journal: Option<JournalWriter>,
    /// None: there is no recorder yet, and there must be no change.
    log: Option<eventlog::Sender>,
    clock: Clock,
    stats: Arc<Stats>,
    outbox: Outbox,
    /// What is known about the datagrams of a part of a batch before they are answered.
    prepared: Box<[S::Prepared]>,
    rounds: Rounds,
    /// The datagrams of a round after the first.
    waited: Vec<usize>,
    held: HeldReplies,
    /// Events of a record that could not be written yet.
    unlogged: Vec<Event>,
    /// None: peers have no names.
    names: Option<PeerNameWriter>,
    /// None: nothing is delivered on this host.
    deliverer: Option<Deliverer>,
    /// The first of the sockets that frames of Geneve come to.
    frames_from: usize,
    /// What is recorded before anything else, from the last to the first.
    first: Vec<(TableKey, Change)>,
    /// Nothing could be recorded when that was tried last.
    first_waits: bool,
    /// Events that the log's queue has room for, as it was when this part of the batch began; and
    /// as many names where names are given.
    log_room: usize,
    /// The state of the journal that was reported last.
    told: JournalState,
    /// When a table is filled that nobody asked for, though datagrams wait.
    fill_due: Option<Duration>,
    /// When the kernel was last asked for [`DropReason::SocketFull`].
    overflow_asked: Duration,
    on_trouble: Box<dyn FnMut(JournalTrouble<'_>) + Send>,
    /// Turns of the loop, for whoever wants to know whether there are any.
    turns: Arc<AtomicU64>,
    batches: u32,
    inquiries: Option<Inquiries>,
    /// None: no other host has the same tables.
    fleet: Option<Box<FleetSeat>>,
}

/// What is known of a turn before the reactor waits.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// How long it waits for a datagram. None: until there is one, or somebody wakes it.
    pub wait: Option<Duration>,
    /// Nothing can be recorded now.
    frozen: bool,
    /// There is something to do also without a datagram.
    tends: bool,
    /// There are tables to be filled, as the reactor has begun just now.
    fills: bool,
}

impl<B: Backend, S: Shard> Reactor<B, S> {
    /// A reactor for `shard`, whose counters are `stats`. It makes no change before `recorder`
    /// gives what records it.
    pub fn new(
        backend: B,
        shard: S,
        recorder: impl FnMut() -> Option<ChangeRecorder> + Send + 'static,
        clock: Clock,
        stats: Arc<Stats>,
        on_trouble: impl FnMut(JournalTrouble<'_>) + Send + 'static,
    ) -> Self {
        Self {
            backend,
            shard,
            recorder: Box::new(recorder),
            journal: None,
            log: None,
            clock,
            stats,
            outbox: Outbox::default(),
            prepared: (0..PREFETCH_MAX).map(|_| S::Prepared::default()).collect(),
            rounds: Rounds::default(),
            waited: Vec::new(),
            held: HeldReplies::default(),
            unlogged: Vec::new(),
            names: None,
            deliverer: None,
            frames_from: usize::MAX,
            first: Vec::new(),
            first_waits: false,
            log_room: 0,
            told: JournalState::Fine,
            fill_due: None,
            overflow_asked: Duration::ZERO,
            on_trouble: Box::new(on_trouble),
            turns: Arc::default(),
            batches: 0,
            inquiries: None,
            fleet: None,
        }
    }

    /// From now on it answers what is asked there.
    pub fn answering(mut self, inquiries: Inquiries) -> Self {
        self.inquiries = Some(inquiries);
        self
    }

    /// With the names of peers, if they are to have any.
    pub fn naming(self, names: Option<PeerNameWriter>) -> Self {
        Self { names, ..self }
    }

    /// With packets of clients delivered on this host, if they are to be.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn delivering(mut self, deliverer: Option<Deliverer>) -> io::Result<Self> {
        if let Some(deliverer) = &deliverer {
            deliverer.watch(&mut self.backend)?;
        }
        self.deliverer = deliverer;
        Ok(self)
    }

    /// With frames of Geneve at its sockets from this one on.
    pub fn with_frames_from(self, frames_from: usize) -> Self {
        Self { frames_from, ..self }
    }

    /// These changes are recorded before all others.
    pub fn recording_first(mut self, mut changes: Vec<(TableKey, Change)>) -> Self {
        changes.reverse();
        self.first = changes;
        self
    }

    /// What it drives.
    pub fn shard(&mut self) -> &mut S {
        &mut self.shard
    }

    /// Counts the turns of the loop.
    pub fn turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turns)
    }

    /// Answers datagrams until `stop` is set and the backend woken. What was received by then is
    /// answered, and the journal is closed.
    ///
    /// # Errors
    /// What the backend cannot recover from, or a journal that could not be closed.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        self.take_recorder();
        while !stop.load(Ordering::Acquire) {
            let turn = self.begin_turn();
            self.end_turn(turn)?;
        }
        self.end()
    }

    /// What is done before the reactor waits. The first turn of a reactor that does not
    /// [run](Self::run) begins with [`Reactor::take_recorder`].
    #[inline]
    pub fn begin_turn(&mut self) -> Turn {
        // Nobody else writes to it.
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let fills = self.shard.is_filling();
        // Who asks about all tables would have them all filled at once.
        let mut inquiries = self.inquiries.as_mut().filter(|_| !fills);
        if let Some(inquiry) = inquiries.as_mut().and_then(|inquiries| inquiries.take()) {
            self.inquire(inquiry);
        }
        let frozen = self.log.is_none() || self.journal_state() == JournalState::NoSpace;
        let late = self.shard.is_late();
        // Nothing is given up that cannot be recorded.
        let due_min = if self.is_recording() { Duration::ZERO } else { RETRY_EVERY };
        let due = [self.tend_due(), self.names_due()].into_iter().flatten().min();
        let due = due.map(|due| due.max(due_min));
        let wait = frozen.then_some(RETRY_EVERY).or(late.then_some(RECORD_EVERY));
        let wait = wait.into_iter().chain(due).chain(fills.then_some(Duration::ZERO));
        let wait = wait.chain(self.fleet.as_ref().map(|fleet| fleet.wait())).min();
        Turn { wait, frozen, tends: late || due.is_some(), fills }
    }

    /// Waits, and does what there is to do then.
    ///
    /// # Errors
    /// What the backend cannot recover from.
    #[inline]
    pub fn end_turn(&mut self, turn: Turn) -> io::Result<()> {
        let arrivals = self.backend.turn(turn.wait)?;
        if turn.frozen {
            self.retry();
        }
        self.tend_fleet()?;
        self.release()?;
        if let Some(deliverer) = &mut self.deliverer {
            deliverer.go_on(&mut self.backend)?;
        }
        if arrivals > 0 || turn.tends {
            self.batch(arrivals)?;
        }
        if let Some(deliverer) = &mut self.deliverer
            && self.backend.is_readable()
        {
            deliverer.answer(&mut self.backend, self.clock.monotonic())?;
        }
        if turn.fills {
            self.fill(arrivals);
        }
        self.count_losses();
        Ok(())
    }

    /// After the last turn: answers what was received, and closes the journal.
    ///
    /// # Errors
    /// Those of [`Reactor::run`].
    pub fn end(&mut self) -> io::Result<()> {
        // What was received by now; the limit is for requests that come faster than they are
        // answered. Then what was taken from the sockets meanwhile: nothing else is, as the next
        // process may have them.
        self.answer_last(LAST_MAX)?;
        self.backend.end_receives()?;
        self.answer_last(LAST_MAX)?;
        let now = self.clock.now();
        self.record_all_late(now)?;
        self.end_fleet()?;
        let wall = now.wall;
        let closed = self.journal.take().map_or(Ok(()), |journal| journal.close(wall));
        if closed.is_ok() && self.fleet.is_none() {
            // Now everything is durable, including what the journal had no room for before.
            self.log_unlogged();
            self.release_up_to(u64::MAX)?;
        }
        self.backend.finish()?;
        self.count_losses();
        self.count_overflow();
        closed.map_err(io::Error::other)
    }

    /// Fills tables that nobody asked for yet, when nobody waits, or now and then.
    #[cold]
    fn fill(&mut self, arrivals: usize) {
        let now = self.clock.monotonic();
        let due = *self.fill_due.get_or_insert(now + FILL_EVERY);
        if arrivals == 0 || now >= due {
            self.shard.fill_some();
            self.fill_due = Some(self.clock.monotonic() + FILL_EVERY);
        }
    }

    #[cold]
    fn inquire(&mut self, mut inquiry: Box<Inquiry>) {
        inquiry.frozen = frozen(self.log.as_ref(), self.journal.as_mut());
        inquiry.durable = self.durable();
        self.shard.inquire(&mut inquiry);
        if let Some(inquiries) = &mut self.inquiries {
            inquiries.answer(inquiry);
        }
    }

    /// Answers what is there, but not many more than so many datagrams.
    fn answer_last(&mut self, most: usize) -> io::Result<()> {
        let mut answered = 0;
        while answered < most {
            let arrivals = self.backend.turn(Some(Duration::ZERO))?;
            if arrivals == 0 {
                break;
            }
            self.batch(arrivals)?;
            answered += arrivals;
        }
        Ok(())
    }

    fn batch(&mut self, arrivals: usize) -> io::Result<()> {
        let now = self.clock.now();
        if now.monotonic >= self.overflow_asked + OVERFLOW_EVERY {
            self.overflow_asked = now.monotonic;
            self.count_overflow();
        }
        self.round(now, arrivals, |place| place)?;
        // Others have their answers before what costs much goes on.
        let mut waited = std::mem::take(&mut self.waited);
        while self.rounds.next(&mut waited) {
            self.backend.send_queued()?;
            self.round(now, waited.len(), |place| waited[place])?;
        }
        self.waited = waited;
        if arrivals > 0 {
            self.stats.batch_sizes.count(arrivals as u64);
            if self.batches.is_multiple_of(TIMED_EVERY) {
                let took = self.clock.monotonic().saturating_sub(now.monotonic);
                self.stats.batch_nanos.count(took.as_nanos() as u64);
            }
            self.batches = self.batches.wrapping_add(1);
        }
        Ok(())
    }

    /// Answers the first `count` datagrams of a round. `number` says which ones of the batch they
    /// are.
    #[inline]
    fn round(&mut self, now: Now, count: usize, number: impl Fn(usize) -> usize) -> io::Result<()> {
        let mut batch = self.begin(now, EVENTS_BESIDE);
        self.shard.record_late(&batch, &mut self.outbox);
        let events = self.log_room.saturating_sub(EVENTS_BESIDE);
        if self.fleet.is_none() {
            self.shard.tend(&batch, events, &mut self.outbox);
        }
        self.tend_names(&batch);
        for place in 0..count {
            if place % PREFETCH_MAX == 0 {
                self.prefetch(place..count.min(place + PREFETCH_MAX), &number);
            }
            let index = number(place);
            let events = events_max(self.backend.arrival(index).0.payload.len());
            if self.outbox.changes.len() + events > self.log_room && batch.frozen.is_none() {
                self.commit(now)?;
                batch = self.begin(now, events);
            }
            let (arrival, buffer) = self.backend.arrival(index);
            let is_frame = arrival.socket >= self.frames_from;
            let prepared = &self.prepared[place % PREFETCH_MAX];
            let nat64 = *arrival.source.ip();
            if !is_frame && self.rounds.defers(index, nat64, self.shard.is_costly(prepared)) {
                continue;
            }
            let datagram = Datagram {
                index,
                table: TableKey { local: arrival.local, nat64 },
                port: arrival.source.port(),
                payload: arrival.payload.clone(),
                room: arrival.room,
                buffer,
            };
            if is_frame {
                self.shard.handle_frame(&batch, datagram, &mut self.outbox);
            } else if let Some(fleet) = &mut self.fleet {
                let (shard, outbox) = (&mut self.shard, &mut self.outbox);
                fleet::handle(fleet, shard, &self.stats, &batch, datagram, prepared, outbox);
            } else {
                self.shard.handle(&batch, datagram, prepared, &mut self.outbox);
            }
            if self.outbox.copies().len() > COPIES_MAX {
                self.commit(now)?;
                batch = self.begin(now, EVENTS_BESIDE);
            }
        }
        self.commit(now)
    }

    /// Before the journal is closed.
    fn record_all_late(&mut self, now: Now) -> io::Result<()> {
        while self.shard.is_late() {
            let mut batch = self.begin(now, EVENTS_BESIDE);
            if batch.frozen.is_some() {
                break;
            }
            batch.set_time(Duration::MAX);
            self.shard.record_late(&batch, &mut self.outbox);
            self.commit(now)?;
        }
        Ok(())
    }

    /// The first pass over a part of a batch, of at most [`PREFETCH_MAX`].
    fn prefetch(&mut self, places: Range<usize>, number: &impl Fn(usize) -> usize) {
        let prepared = &mut self.prepared[..places.len()];
        for (place, at) in places.enumerate() {
            let (arrival, buffer) = self.backend.arrival(number(at));
            let table = TableKey { local: arrival.local, nat64: *arrival.source.ip() };
            // Of a frame nothing is looked up ahead.
            let is_frame = arrival.socket >= self.frames_from;
            let payload = if is_frame { &[][..] } else { &buffer[arrival.payload.clone()] };
            self.shard.prepare(table, payload, place, prepared);
        }
        self.shard.prefetch(prepared);
    }

    /// What the shard can rely on until the next commit. There are to be no changes unless the
    /// log's queue has room for this number of `events`.
    fn begin(&mut self, now: Now, events: usize) -> Batch {
        let Some(log) = &mut self.log else {
            self.log_room = 0;
            return Batch { frozen: Some(DropReason::JournalUnavailable), ..Batch::at(now) };
        };
        // Each change may lead to a name.
        let each = 1 + usize::from(self.names.as_ref().is_some_and(PeerNameWriter::gives));
        self.log_room = log.reserve(each * events, &self.stats) / each;
        let mut batch = match &mut self.journal {
            Some(journal) => Batch {
                record: journal.next_number().0,
                durable: journal.durable().0,
                frozen: match journal.state() {
                    JournalState::Fine => None,
                    JournalState::Full => Some(DropReason::JournalFull),
                    _ => Some(DropReason::JournalUnavailable),
                },
                ..Batch::at(now)
            },
            None => Batch::at(now),
        };
        if let Some(fleet) = &self.fleet {
            (batch.record, batch.durable) = (fleet.next_number(), fleet.durable());
            self.log_room = self.log_room.saturating_sub(fleet.unrecorded()).min(fleet.room());
        }
        if self.log_room < events {
            batch.frozen = batch.frozen.or(Some(DropReason::LogUnavailable));
        }
        batch
    }

    /// The one place that decides what comes first: changes are written to the journal, then to the
    /// log's queue, then the replies that announce them are handed to the kernel.
    fn commit(&mut self, now: Now) -> io::Result<()> {
        self.give_names();
        let written = self.record(now);
        let durable = self.durable();
        self.name(now, written, durable);
        // Before anybody else is told that a port is his.
        if let (Some(bans), Some(inquiries)) = (self.shard.bans(), &mut self.inquiries) {
            inquiries.note(&self.outbox.changes, bans, now.monotonic);
        }
        for index in 0..self.outbox.replies.len() {
            let Reply { datagram, to, ref body, after } = self.outbox.replies[index];
            if after > durable {
                let payload: Box<[u8]> = match body {
                    Body::InPlace(range) => self.backend.arrival(datagram).1[range.clone()].into(),
                    Body::Copied(range) => self.outbox.copies()[range.clone()].into(),
                };
                let return_path = return_path(&mut self.backend, self.frames_from, datagram, to);
                self.hold(HeldReply { after, return_path, to, payload }, written);
                continue;
            }
            self.stats.add(Counter::Replies, 1);
            match body {
                Body::InPlace(range) => self.backend.send_in_place(datagram, range.clone(), to)?,
                Body::Copied(range) => {
                    let return_path =
                        return_path(&mut self.backend, self.frames_from, datagram, to);
                    let payload = &self.outbox.copies()[range.clone()];
                    self.backend.send_copy(return_path, payload, to)?;
                }
            }
        }
        if let Some(deliverer) = &mut self.deliverer
            && !self.outbox.delivered.is_empty()
        {
            let waits_for = waits_for(self.journal.as_ref(), durable).filter(|_| written);
            let delivered = &mut self.outbox.delivered;
            deliverer.deliver(&self.backend, delivered, now.monotonic, waits_for);
        }
        self.outbox.clear();
        Ok(())
    }

    fn count_overflow(&mut self) {
        self.stats.count_drops(DropReason::SocketFull, self.backend.overflowed());
    }

    fn count_losses(&mut self) {
        let Losses { truncated, not_unicast, send_errors, held } = self.backend.take_losses();
        self.stats.count_drops(DropReason::DatagramTruncated, truncated);
        self.stats.count_drops(DropReason::NotUnicast, not_unicast);
        self.stats.add(Counter::SendErrors, send_errors);
        self.stats.add(Counter::AnswersHeld, held);
    }
}

/// The last record, where it is not durable: what it says is announced, and named, when it is.
fn waits_for(journal: Option<&JournalWriter>, durable: u64) -> Option<u64> {
    let last = journal?.next_number().0.checked_sub(1)?;
    (last > durable).then_some(last)
}

/// Where a reply leaves: one of the control channel to a frame of Geneve leaves by that.
fn return_path(
    backend: &mut impl Backend,
    frames_from: usize,
    datagram: usize,
    to: SocketAddrV4,
) -> ReturnPath {
    let path = backend.arrival(datagram).0.return_path();
    let crosses = path.socket >= frames_from && to.port() != GENEVE_PORT;
    let control = if crosses { backend.path_from(path.local, None) } else { None };
    control.unwrap_or(path)
}
