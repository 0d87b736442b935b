//! [`LiveElsewhere`]: the live connections of other hosts of the fleet, between the thread that
//! polls the kernel and the one that speaks with the other hosts. The rules are [`CellLive`]'s.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::Notify;

use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{
    CellLive, HostDropReason, HostId, HostRun, LivePart, WantedTables,
};
use crate::kernel::clock::Clock;

/// What other hosts are told of a table.
#[derive(Debug)]
pub struct LiveAnswer {
    pub table: TableKey,
    /// Those with a live connection here, ascending.
    pub ports: Vec<u16>,
    /// Who asked.
    pub to: Vec<HostId>,
}

struct Exchanged {
    cell: CellLive,
    /// The others are to be asked at once.
    asks_now: bool,
    /// Of the last poll, as long as that is not told.
    answers: Vec<(TableKey, Vec<u16>)>,
}

/// What both threads share. Neither of them holds it for long, and no reactor waits for it.
pub struct LiveElsewhere {
    state: Mutex<Exchanged>,
    clock: Clock,
    /// Something is to be polled, or published, soon.
    is_new: AtomicBool,
    /// Wakes the fleet's thread.
    notify: Notify,
    /// The one that polls, as soon as it is there.
    poller: OnceLock<Thread>,
    /// So many are known to the reactors.
    ports: AtomicU64,
}

impl LiveElsewhere {
    /// Of this run, which knows of no other.
    pub fn new(me: HostRun, clock: Clock) -> Self {
        let state = Exchanged { cell: CellLive::new(me), asks_now: false, answers: Vec::new() };
        Self {
            state: Mutex::new(state),
            clock,
            is_new: AtomicBool::new(false),
            notify: Notify::new(),
            poller: OnceLock::new(),
            ports: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Exchanged> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// This thread polls.
    pub(super) fn wakes(&self, poller: Thread) {
        // There is one.
        let _ = self.poller.set(poller);
    }

    /// Whether it is to be polled soon, as of now.
    pub(super) fn take_new(&self) -> bool {
        self.is_new.swap(false, Ordering::AcqRel)
    }

    /// Whether any host asks.
    pub(super) fn is_asked(&self) -> bool {
        let (now, mut state) = (self.now(), self.lock());
        state.cell.forget(now);
        !state.cell.asked_tables().is_empty()
    }

    /// A poll begins, for these tables of this host. Returns those that others ask for.
    pub(super) fn begin_poll(&self, watched: impl Iterator<Item = TableKey>) -> BTreeSet<TableKey> {
        let (now, mut state) = (self.now(), self.lock());
        state.cell.forget(now);
        if state.cell.want(watched) {
            state.asks_now = true;
            self.notify.notify_one();
        }
        state.cell.asked_tables()
    }

    /// Adds what is live elsewhere, and returns how many ports that are.
    pub(super) fn gather(&self, table: TableKey, ports: &mut Vec<u16>) -> usize {
        let before = ports.len();
        self.lock().cell.gather(table, ports);
        ports.len() - before
    }

    /// The reactors know of so many ports that are live elsewhere.
    pub(super) fn published(&self, ports: usize) {
        self.ports.store(ports as u64, Ordering::Release);
    }

    /// How many ports that are live elsewhere the reactors know of.
    pub fn ports(&self) -> u64 {
        self.ports.load(Ordering::Acquire)
    }

    /// What was polled of the tables that others ask for: ports in any order.
    pub(super) fn answer(&self, mut answers: Vec<(TableKey, Vec<u16>)>) {
        if !answers.is_empty() {
            for (_, ports) in &mut answers {
                ports.sort_unstable();
                ports.dedup();
            }
            self.lock().answers = answers;
            self.notify.notify_one();
        }
    }

    /// Until there may be something to ask or to answer.
    pub async fn notified(&self) {
        self.notify.notified().await;
    }

    /// The tables to ask the others for: all that are wanted where that `is_due`, or any is new.
    pub fn take_asks(&self, is_due: bool) -> Vec<TableKey> {
        let mut state = self.lock();
        let asks_now = std::mem::take(&mut state.asks_now);
        if is_due || asks_now { state.cell.wanted().collect() } else { Vec::new() }
    }

    /// What to tell the others.
    pub fn take_answers(&self) -> Vec<LiveAnswer> {
        let mut state = self.lock();
        let answers = std::mem::take(&mut state.answers).into_iter();
        let cell = &state.cell;
        answers
            .map(|(table, ports)| LiveAnswer { table, ports, to: cell.askers(table).collect() })
            .collect()
    }

    /// The cell has this host, in this run; or has it no more.
    pub fn host(&self, host: HostId, run: Option<HostRun>) {
        self.lock().cell.host(host, run);
    }

    /// A run says that it is there.
    pub fn heard(&self, run: HostRun) {
        let now = self.now();
        self.lock().cell.heard(now, run);
    }

    /// A host asks.
    ///
    /// # Errors
    /// Why that is dropped.
    pub fn asked(
        &self,
        from: HostRun,
        number: u64,
        tables: WantedTables<'_>,
    ) -> Result<(), HostDropReason> {
        let now = self.now();
        let asked = self.lock().cell.asked(now, from, number, tables.iter());
        self.polls_if(asked)
    }

    /// A host answers.
    ///
    /// # Errors
    /// Why that is dropped.
    pub fn said(
        &self,
        from: HostRun,
        number: u64,
        part: &LivePart<'_>,
    ) -> Result<(), HostDropReason> {
        let now = self.now();
        let said = self.lock().cell.said(now, from, number, part);
        self.polls_if(said)
    }

    /// It is polled soon where that is the first of its kind.
    fn polls_if(&self, is_first: Result<bool, HostDropReason>) -> Result<(), HostDropReason> {
        let is_first = is_first?;
        if is_first {
            self.is_new.store(true, Ordering::Release);
            if let Some(poller) = self.poller.get() {
                poller.unpark();
            }
        }
        Ok(())
    }
}
