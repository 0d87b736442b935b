//! [`Serving`]: a server that runs, and how it is stopped.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::disk::eventlog::{self, EventLog};
use crate::handoff::pool::AddressPool;
use crate::handoff::server::Budget;
use crate::handoff::stats::{Concern, Counter, DropReason, Stats};
use crate::kernel::backend::Waker;
use crate::kernel::service::PassedFile;
use crate::kernel::stderr::{say, warn};
use crate::kernel::waker::EventWaker;
use crate::programs::serve::admin::Admin;
use crate::programs::serve::deliver::RoutesKeeping;
use crate::programs::serve::drops::{self, DropLines, Watched};
use crate::programs::serve::fleet::RunningFleet;
use crate::programs::serve::history::HistoryKeeping;
use crate::programs::serve::live::Polling;
use crate::programs::serve::names::Names;
use crate::programs::serve::recording::{Keeper, Keeping, RecoverError};

/// How long reactors may take to finish once they are told to, before the log stops waiting...
const REACTORS_DEADLINE: Duration = Duration::from_millis(300);
/// ...and how many such waits follow: a reactor saves its state, and the disk may be slow.
const SAVE_WAITS_MAX: u32 = 30;
/// For how many seconds a log may be in one call of the system before that is said.
const LOG_HANGS: u32 = 10;
/// How long the log may take to write the next of the events that were sent to it.
const LOG_DEADLINE: Duration = Duration::from_millis(400);

/// Why a server that ran did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A reactor ended by itself.
    #[error("a reactor ended: {0}")]
    Reactor(io::Error),
    /// This number of reactors did not end in time.
    #[error("{0} reactors did not end in time")]
    Stuck(usize),
    /// Lines of the event log are missing.
    #[error(transparent)]
    Log(eventlog::LogError),
    /// The event log is as the run before left it.
    #[error(
        "stopped before there was room to complete the event log; nothing is lost: the next start \
         does it"
    )]
    Incomplete,
    /// Nothing could be recorded at all.
    #[error(transparent)]
    Unrecorded(RecoverError),
}

/// What a server did, for its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    pub datagrams: u64,
    /// Replies sent, validation packets included.
    pub replies: u64,
    /// Drops, of all reasons.
    pub drops: u64,
    /// The drops of each reason, in brackets, if there are any.
    pub drops_by_reason: String,
    /// NAT64s known at the end.
    pub nat64s: usize,
    /// Lines in the event log.
    pub lines: u64,
    /// How often the history could not be gone on with.
    pub history_failures: u64,
    /// Whether no thread may still write to the log: one that hangs in a call of the system ends
    /// with the process.
    pub log_ended: bool,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { datagrams, replies, drops, drops_by_reason, nat64s, lines, .. } = self;
        write!(
            f,
            "{nat64s} NAT64s, {datagrams} datagrams, {replies} replies, {drops} drops{drops_by_reason}, \
             {lines} log lines"
        )?;
        match self.history_failures {
            0 => Ok(()),
            failures => write!(f, ", {failures} times no history could be made"),
        }
    }
}

/// A server that runs.
pub struct Serving {
    pub(super) listen: Vec<SocketAddrV4>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) wakers: Vec<EventWaker>,
    /// For each reactor, how many turns its loop has made.
    pub(super) turns: Vec<Arc<AtomicU64>>,
    /// The sockets of all reactors once more, to be handed over.
    pub(super) sockets: Vec<PassedFile>,
    pub(super) stats: Vec<Arc<Stats>>,
    /// How each reactor ended.
    pub(super) ended: mpsc::Receiver<io::Result<()>>,
    pub(super) budget: Arc<Budget>,
    /// See [`Serving::found`].
    pub(super) found: Vec<String>,
    /// Answers the operator.
    pub(super) admin: Option<Admin>,
    /// The names of peers.
    pub(super) names: Option<Names>,
    /// The pool, if addresses of it are given.
    pub(super) pool: Option<Arc<AddressPool>>,
    /// Whether another process goes on with the sockets.
    pub(super) is_taken_over: bool,
    /// Whether the log hangs.
    pub(super) log_watch: LogWatch,
    /// Makes the history of the log.
    pub(super) history: Option<HistoryKeeping>,
    /// How often it could not be gone on with.
    pub(super) history_failures: Arc<AtomicU64>,
    /// Keeps routes to clients whose packets are delivered here.
    pub(super) routes: Option<RoutesKeeping>,
    /// The fleet, if tables are shared.
    pub(super) fleet: Option<RunningFleet>,
    /// Polls the kernel for live connections.
    pub(super) _polling: Option<Polling>,
    /// Keeps the state directory locked until it is dropped.
    pub(super) keeping: Keeping,
}

/// Finds out whether the log hangs, from what is seen of its thread once a second.
#[derive(Debug, Default)]
pub(super) struct LogWatch {
    turns: u64,
    /// How often it was seen in the same call of the system.
    waits: u32,
}

impl LogWatch {
    fn hangs(&mut self, waits_for_system: bool, turns: u64) -> bool {
        let moved = std::mem::replace(&mut self.turns, turns) != turns;
        self.waits = if moved || !waits_for_system { 0 } else { self.waits + 1 };
        self.waits >= LOG_HANGS
    }
}

impl Serving {
    /// The addresses it is bound to, with the port that the kernel chose where 0 was asked for.
    pub fn listen(&self) -> &[SocketAddrV4] {
        &self.listen
    }

    /// What an operator should know about the state that was found, a line each.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// How often [`Serving::keep_names`] is to be called.
    pub fn names_said_every(&self) -> Duration {
        self.names.as_ref().map_or(Duration::from_secs(1), Names::said_every)
    }

    /// Says to whoever asks for names of peers that they are valid.
    pub fn keep_names(&mut self) {
        let Some(Err(why)) = self.names.as_ref().map(Names::keep_valid) else { return };
        warn(format_args!(
            "--peer-names: new connections have no names any more: {why}; see peer-names status, and start the \
             server again"
        ));
        self.names = None;
    }

    /// The troubles of the background work since the last call, and of a log that hangs since many
    /// calls.
    pub fn troubles(&mut self) -> Vec<String> {
        let reactors = self.reactors();
        let history = self.history.as_ref().and_then(HistoryKeeping::trouble);
        let Some(Keeper { log, storage, .. }) = self.keeping.keeper() else {
            return history.into_iter().collect();
        };
        let hangs = self.log_watch.hangs(log.waits_for_system(), log.turns());
        let hangs = hangs.then(|| {
            format!(
                "{} hangs: one write, sync or the like has taken more than {LOG_HANGS} s; see whether its disk \
                 works, or its reader reads; known clients are served, lines wait, and where no \
                 more can wait new clients get no answer",
                log.name()
            )
        });
        let trouble = |shard| storage.as_ref().and_then(|storage| storage.trouble(shard));
        let troubles = hangs.into_iter().chain((0..reactors).filter_map(trouble));
        troubles.chain(history).collect()
    }

    /// The number of reactors that receive.
    pub fn reactors(&self) -> usize {
        self.wakers.len()
    }

    /// The sum of a counter over all shards.
    pub fn count(&self, counter: Counter) -> u64 {
        self.stats.iter().map(|stats| stats.get(counter)).sum()
    }

    /// How often a payload was dropped for `reason`, in all shards.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.stats.iter().map(|stats| stats.dropped(reason)).sum()
    }

    /// What was dropped, and which limits were reached, as far as `lines` finds it due `now`.
    pub(super) fn say_drops(&self, lines: &mut DropLines, now: Duration) {
        let count = |of| match of {
            Watched::Drop(reason) => self.dropped(reason),
            Watched::Other(counter) => self.count(counter),
        };
        for (concern, line) in lines.due(now, count) {
            match concern {
                Concern::Us => warn(format_args!("{line}")),
                Concern::Sender => say(format_args!("{line}")),
            }
        }
    }

    /// Reopens the log's file: see [`eventlog::EventLog::reopen`]. One that waits for room is
    /// opened anew anyway.
    pub fn reopen_log(&mut self) {
        if let Some(keeper) = self.keeping.keeper() {
            keeper.log.reopen();
        }
    }

    /// Whether every reactor and the event log's thread have made a turn since the last call, which
    /// woke them for that.
    pub(super) fn all_turned(&mut self, before: &mut Vec<u64>) -> bool {
        // One that waits is not asked: a new process would not make its disk or reader go on.
        let log = self.keeping.keeper().map(|keeper| &keeper.log);
        let log = log.filter(|log| !log.waits_for_system()).map(EventLog::turns);
        let reactors = self.turns.iter().map(|turns| turns.load(Ordering::Relaxed));
        let turns: Vec<_> = reactors.chain(log).collect();
        self.wakers.iter().for_each(Waker::wake);
        let turned = turns.iter().zip(&*before).all(|(now, before)| now != before);
        if turned {
            *before = turns;
        }
        turned
    }

    /// While another process reads the state, and may need what compaction would remove.
    pub(super) fn hold_compaction(&mut self, held: bool) {
        if let Some(Keeper { storage: Some(storage), .. }) = self.keeping.keeper() {
            storage.hold_compaction(held);
        }
    }

    /// The sockets, once more.
    pub(super) fn sockets(&self) -> &[PassedFile] {
        &self.sockets
    }

    /// The sockets, for another process: they stay open, and what arrives waits in them.
    pub(super) fn take_sockets(&mut self) -> Vec<PassedFile> {
        self.is_taken_over = true;
        std::mem::take(&mut self.sockets)
    }

    /// Stops receiving, drains the queues, and saves the state: within a second if the disk works.
    ///
    /// # Errors
    /// A part that ended by itself before, or not in time, or a log that could not be written.
    pub fn stop(mut self) -> Result<Totals, StopError> {
        if let Some(fleet) = &self.fleet {
            fleet.state.hand_over(self.is_taken_over);
        }
        if let Some(admin) = self.admin.take() {
            admin.stop(self.is_taken_over);
        }
        if let Some(names) = self.names.as_ref().filter(|_| !self.is_taken_over) {
            names.end();
        }
        self.stop.store(true, Ordering::Release);
        // It ends by itself, or with the process.
        let history_failures = self.history.take().map_or(0, |history| history.failures());
        self.wakers.iter().for_each(Waker::wake);
        let mut result = Ok(());
        let mut running = self.wakers.len();
        let mut waits = 0;
        let mut written = self.keeping.keeper().map_or(0, |keeper| keeper.log.written());
        while running > 0 {
            match self.ended.recv_timeout(REACTORS_DEADLINE) {
                Ok(ended) => {
                    running -= 1;
                    result = result.and(ended.map_err(StopError::Reactor));
                }
                Err(_) if waits < SAVE_WAITS_MAX => {
                    waits += 1;
                    // The reactors may wait for room in the log's queue. Where the log does not
                    // move, it gives up: the journal has all events, and the next start completes
                    // the log.
                    if let Some(keeper) = self.keeping.keeper() {
                        let before = std::mem::replace(&mut written, keeper.log.written());
                        if keeper.log.unwritten() > 0 && written == before {
                            keeper.log.give_up();
                        }
                    }
                }
                Err(_) => {
                    result = result.and(Err(StopError::Stuck(running)));
                    break;
                }
            }
        }
        self.routes.take().into_iter().for_each(RoutesKeeping::end);
        let totals = Totals {
            datagrams: self.count(Counter::Datagrams),
            replies: self.count(Counter::Replies),
            drops: self.stats.iter().map(|stats| stats.dropped_all()).sum(),
            drops_by_reason: drops::by_reason(|reason| self.dropped(reason)),
            nat64s: self.budget.nat64s(),
            lines: 0,
            history_failures,
            log_ended: false,
        };
        self.keeping.look();
        let lines = match self.keeping {
            Keeping::Here(keeper) => {
                let Keeper { log, storage, .. } = *keeper;
                let ended = log.end(LOG_DEADLINE).map_err(StopError::Log);
                drop(storage);
                ended
            }
            Keeping::Coming(_) => Err(StopError::Incomplete),
            Keeping::Failed(error) => Err(StopError::Unrecorded(error)),
        };
        result.and(lines).map(|(lines, log_ended)| Totals { lines, log_ended, ..totals })
    }
}
