//! What a reactor and the fleet's thread hand each other.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::disk::fleet::{CellBeside, FleetValue};
use crate::handoff::change::Event;
use crate::handoff::entry::TableKey;
use crate::handoff::message::HEAD_ROOM;
use crate::handoff::ownership::{HostProgress, HostRun, Outcome, PassedOn, Transaction};
use crate::handoff::secret::FleetSecret;
use crate::kernel::waker::EventWaker;

/// The most that waits on its way to a reactor...
const TO_SEAT_MAX: usize = 4096;
/// ...and on its way back.
const FROM_SEAT_MAX: usize = 1024;

/// A request that is not answered where it was received, or not then: with room in front for an
/// answer.
#[derive(Debug)]
pub struct KeptRequest {
    pub table: TableKey,
    /// The NAT64's.
    pub port: u16,
    pub buffer: Vec<u8>,
    /// Where another host passed it on.
    pub passed: Option<PassedOn>,
    /// When it came.
    pub since: Duration,
}

impl KeptRequest {
    pub fn new(
        table: TableKey,
        port: u16,
        payload: &[u8],
        passed: Option<PassedOn>,
        since: Duration,
    ) -> Self {
        let mut buffer = vec![0; HEAD_ROOM + payload.len()];
        buffer[HEAD_ROOM..].copy_from_slice(payload);
        Self { table, port, buffer, passed, since }
    }

    pub fn payload_range(&self) -> Range<usize> {
        HEAD_ROOM..self.buffer.len()
    }

    pub fn payload(&self) -> &[u8] {
        &self.buffer[HEAD_ROOM..]
    }
}

/// Parts of snapshots and records, in the order in which they are to be applied.
#[derive(Debug)]
pub struct CellPage {
    pub values: Vec<FleetValue>,
    /// So many are in memory: the next is read when a reactor has done with one of them.
    pub room: OwnedSemaphorePermit,
}

/// What a reactor is told.
#[derive(Debug)]
pub enum ToSeat {
    Secret(FleetSecret),
    /// Lines that the event log lacks, of earlier runs.
    Lines(Vec<Event>),
    /// All that there is follows: what was watched before is void, and what was read of it.
    Anew(Arc<CellBeside>),
    /// Some of it.
    AnewPage(Arc<CellPage>),
    /// That was all.
    AnewEnds,
    Watched(Arc<Vec<FleetValue>>),
    Outcome(u64, Outcome),
    Heard(HostRun),
    /// How far another host is. What it passed on before is told before.
    Progressed(HostRun, HostProgress),
    Passed(KeptRequest),
}

/// What a reactor wants of the engine.
#[derive(Debug)]
pub struct FromSeat {
    pub id: u64,
    pub transaction: Transaction,
    pub body: Vec<u8>,
}

/// What reactor and thread know of each other.
#[derive(Debug, Default)]
pub struct SeatShared {
    /// Wakes the reactor, as soon as there is one.
    pub waker: OnceLock<EventWaker>,
    /// Goes on as long as the others may be told that this reactor is there.
    pub beats: AtomicU64,
    /// Whether the network should send requests here.
    pub is_ready: AtomicBool,
    /// Whether all tables are to be given away.
    pub leaves: AtomicBool,
    /// Whether any other host is there that may be given tables.
    pub hears_others: AtomicBool,
    /// Whether they were given away, and nothing more comes from other hosts.
    pub is_followed: AtomicBool,
    /// How many tables it has.
    pub owned: AtomicU64,
    /// What it watched last.
    pub watched: AtomicU64,
    /// The lines of all its records up to this revision are written.
    pub logged: AtomicU64,
    /// How many of them are written.
    pub written: AtomicU64,
}

/// The reactor's end.
pub struct SeatEnd {
    pub from: Consumer<ToSeat>,
    pub to: Producer<FromSeat>,
    pub notify: Arc<Notify>,
    pub shared: Arc<SeatShared>,
}

/// The thread's end.
pub struct ThreadEnd {
    pub to: Producer<ToSeat>,
    pub from: Consumer<FromSeat>,
    pub shared: Arc<SeatShared>,
}

/// Both ends of a reactor's queues. `notify` wakes the thread.
pub fn seat_ends(notify: &Arc<Notify>) -> (SeatEnd, ThreadEnd) {
    let (to_seat, from_thread) = RingBuffer::new(TO_SEAT_MAX);
    let (to_thread, from_seat) = RingBuffer::new(FROM_SEAT_MAX);
    let shared = Arc::<SeatShared>::default();
    let notify = Arc::clone(notify);
    let seat = SeatEnd { from: from_thread, to: to_thread, notify, shared: Arc::clone(&shared) };
    (seat, ThreadEnd { to: to_seat, from: from_seat, shared })
}
