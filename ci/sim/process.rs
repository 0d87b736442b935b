//! A real server process without a thread: its reactors, its journal, its event log and its start,
//! all driven step by step on simulated time. Whoever drives it says which [`Actor`] makes its next
//! step, and when.
//!
//! The network is two lists: what waits in the sockets, and what was sent. The state is on any
//! [`Disk`]; the event log is a real file. With the same seed and the same steps it does the same.

#[path = "process_behind.rs"]
mod behind;
#[path = "process_config.rs"]
mod config;
#[path = "process_live.rs"]
mod live;
#[path = "process_log.rs"]
mod log_disk;
#[path = "process_operator.rs"]
mod operator;
#[path = "process_wire.rs"]
mod wire;
#[path = "process_worker.rs"]
mod worker;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nat64handoff::disk::eventlog::{Destination, LogGauge, LogSteps};
use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::storage::{StatePlace, Storage, SyncPolicy};
use nat64handoff::handoff::change::Now;
use nat64handoff::handoff::entry::{Client, Entry, MappedPort, TableKey};
use nat64handoff::handoff::random::{Random, SEED_LENGTH, SecretHash};
use nat64handoff::handoff::server::{Budget, Server, ServerConfig};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::kernel::clock::{Clock, HandClock};
use nat64handoff::kernel::socket::steered_to;
use nat64handoff::programs::serve::ban_notes::{BanNotes, BanNotesTaken, ban_notes};
use nat64handoff::programs::serve::bans::BanBook;
use nat64handoff::programs::serve::inquiry::{self, Desk};
use nat64handoff::programs::serve::names::Names;
use nat64handoff::programs::serve::reactor::{ChangeRecorder, Reactor, ServerShard, Turn};
use nat64handoff::programs::serve::recording::{RETRY_INTERVAL, Recording, RecordingState};
use nat64handoff::programs::serve::recovery::{self, StateAhead};
use tempfile::TempDir;

use crate::sim::SimDisk;
use behind::{Compacting, Syncing};
pub use config::ProcessConfig;
pub use live::LiveTable;
use live::{LiveShared, SimLive};
pub use log_disk::{LogDisk, LogTear};
pub use wire::{Sent, Sockets, Waiting};
use wire::{SimBackend, Wire};
use worker::PausingDisk;

/// Where files are in memory.
const MEMORY: &str = "/dev/shm";
/// How often bans that have ended are looked for.
const BANS_EVERY: Duration = Duration::from_secs(1);
/// The most steps of the log at a stop: where it cannot be written, it is given up then.
const LOG_STEPS_MAX: usize = 1000;
/// The same, when it was given up.
const LOG_STEPS_LAST: usize = 100;

/// Where a process finds its state, and its time.
#[derive(Clone)]
pub struct Place {
    pub disk: Arc<dyn Disk>,
    /// The state directory on that disk.
    pub root: PathBuf,
    /// The event log, a real file.
    pub log: PathBuf,
    pub clock: Arc<HandClock>,
    /// The names of peers, if they have any.
    pub names: Option<Arc<Names>>,
}

impl Place {
    /// On that disk, with a log in a folder of its own, which is in memory where that can be.
    pub fn in_memory(disk: &SimDisk, root: &str, now: Now) -> (Self, TempDir) {
        let folder = tempfile::tempdir_in(MEMORY).or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder for the event log");
        let place = Self {
            disk: Arc::new(disk.clone()),
            root: root.into(),
            log: folder.path().join("events.log"),
            clock: Arc::new(HandClock::new(now)),
            names: None,
        };
        (place, folder)
    }
}

/// Who makes steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The loop of a reactor.
    Reactor(usize),
    /// Who syncs the journal of a shard, and makes its segments.
    Sync(usize),
    /// Who compacts the journal of a shard.
    Compact(usize),
    /// Who writes the event log.
    Log,
    /// Who tries to make journal and log ready, where there was no room for them.
    Recovery,
    /// Who forgets bans that have ended.
    Bans,
}

/// A reactor, and what it is asked by.
struct Seat {
    reactor: Reactor<SimBackend, ServerShard<SimLive>>,
    wire: Rc<RefCell<Wire>>,
    /// What it waits for, and until when.
    turn: Turn,
    until: Option<Duration>,
    /// Set by a sync, where replies wait for that, and by who asks.
    woken: Arc<AtomicBool>,
    desk: Desk,
    stats: Arc<Stats>,
}

/// Journal and log that can be written.
struct Recorded {
    storage: Arc<Storage>,
    syncs: Vec<Syncing>,
    compacts: Vec<Compacting>,
    log: LogSteps,
    log_error: Option<io::Error>,
}

/// Journal and log that are not ready yet.
struct Coming {
    recording: Recording,
    recorders: Vec<mpsc::Sender<ChangeRecorder>>,
    again: Duration,
}

/// See above.
pub struct Process {
    place: Place,
    config: ProcessConfig,
    clock: Clock,
    seats: Vec<Seat>,
    coming: Option<Coming>,
    recorded: Option<Recorded>,
    /// A part has ended by itself: the server is to stop.
    failed: Arc<AtomicBool>,
    live: Arc<LiveShared>,
    book: BanBook,
    bans_at: Duration,
    are_bans_late: bool,
    budget: Arc<Budget>,
    _notes: BanNotesTaken,
    /// What was found at the start, for the operator.
    pub found: String,
}

/// What a process leaves that was stopped.
pub struct Stopped {
    /// What it still answered.
    pub sent: Vec<Sent>,
    /// For who goes on with them.
    pub sockets: Sockets,
    /// The counters of each reactor.
    pub stats: Vec<Arc<Stats>>,
    /// Why it did not end as it should.
    pub result: Result<(), String>,
}

impl Process {
    /// Starts it as `serve` does: the state is read, the log is completed, and reactors wait for
    /// datagrams; those in `sockets` are there already, if there are as many reactors as before.
    pub fn start(
        place: &Place,
        config: &ProcessConfig,
        sockets: Sockets,
        ahead: Option<StateAhead>,
        seed: [u8; SEED_LENGTH],
    ) -> Result<Self, String> {
        let clock = Clock::by_hand(Arc::clone(&place.clock));
        let mut place = place.clone();
        if config.interleaves {
            place.disk = Arc::new(PausingDisk(place.disk));
        }
        let mut random = Random::new(seed);
        let server_config = config.server();
        let stats: Vec<_> = (0..config.reactors).map(|_| Arc::<Stats>::default()).collect();
        let mut servers = servers(&server_config, &stats, clock.monotonic(), &mut random);
        let log = Destination::FileBy(place.log.clone(), Arc::new(config.log_disk.clone()));
        let state = StatePlace::NotLocked(place.root.clone());
        let opened =
            recovery::replay(&place.disk, state, config.storage(), &log, &mut servers, ahead)
                .map_err(|error| error.to_string())?;
        let found = opened.report.to_string();
        let hash = SecretHash::new(random.key());
        let (book, _) = BanBook::open(&*place.disk, &place.root, hash, clock.now());
        for server in &mut servers {
            server.set_bans(book.bans());
        }
        fill_names(&place, config, &servers, &stats)?;
        let recording = Recording::new(
            Arc::clone(&place.disk),
            RecordingState::Opened(Box::new(opened)),
            config.reactors,
            log,
            config.format,
            config.keep_days,
            Some(config.sync),
        );
        let (recorders, receivers): (Vec<_>, Vec<_>) =
            (0..config.reactors).map(|_| mpsc::channel()).unzip();
        let (notes, taken) = ban_notes(config.reactors).map_err(|error| error.to_string())?;
        let again = clock.monotonic();
        let mut process = Self {
            place,
            config: config.clone(),
            clock,
            seats: Vec::new(),
            coming: Some(Coming { recording: recording.by_steps(), recorders, again }),
            recorded: None,
            failed: Arc::default(),
            live: Arc::default(),
            book,
            bans_at: again,
            are_bans_late: false,
            budget: server_config.budget,
            _notes: taken,
            found,
        };
        process.recover()?;
        let queues = if sockets.0.len() == config.reactors { sockets.0 } else { Vec::new() };
        let mut queues = queues.into_iter();
        let parts = servers.into_iter().zip(stats).zip(receivers).zip(notes);
        for (((server, stats), recorder), notes) in parts {
            let queue = queues.next().unwrap_or_default();
            let backend = process.backend(queue, Random::new(seed_of(&mut random)));
            process.seat((server, stats), recorder, notes, backend)?;
        }
        Ok(process)
    }

    /// A socket with what waits in it, and the backend that has it.
    fn backend(&self, queue: VecDeque<Waiting>, random: Random) -> (Rc<RefCell<Wire>>, SimBackend) {
        let wire = Rc::new(RefCell::new(Wire { queue, ..Wire::default() }));
        (Rc::clone(&wire), SimBackend::new(wire, self.config.batch_max, random))
    }

    /// Another reactor.
    fn seat(
        &mut self,
        (server, stats): (Server, Arc<Stats>),
        recorder: mpsc::Receiver<ChangeRecorder>,
        notes: BanNotes,
        (wire, backend): (Rc<RefCell<Wire>>, SimBackend),
    ) -> Result<(), String> {
        let (desk, inquiries) = inquiry::pair(notes).map_err(|error| error.to_string())?;
        let shard = ServerShard { server, live: self.live.view() };
        let woken = Arc::<AtomicBool>::default();
        let (wake, always) = (Arc::clone(&woken), self.config.sync == SyncPolicy::Always);
        let recorder = move || {
            let recorder: ChangeRecorder = recorder.try_recv().ok()?;
            if let (Some(journal), true) = (&recorder.journal, always) {
                let wake = Arc::clone(&wake);
                journal.set_wake(Arc::new(move || wake.store(true, Ordering::Relaxed)));
            }
            Some(recorder)
        };
        let (clock, its_stats) = (self.clock.clone(), Arc::clone(&stats));
        let reactor = Reactor::new(backend, shard, recorder, clock, its_stats, |_| {});
        let names = self.place.names.as_ref();
        let names = names.map(|names| names.again().writer(Arc::clone(&stats), None));
        let mut reactor = reactor.answering(inquiries).naming(names);
        reactor.take_recorder();
        let turn = reactor.begin_turn();
        let until = turn.wait.map(|wait| self.now() + wait);
        self.seats.push(Seat { reactor, wire, turn, until, woken, desk, stats });
        Ok(())
    }

    /// Reads the state as a successor does while another process still serves. It is started with
    /// the same seed, as what was read is hashed by that.
    pub fn read_ahead(
        place: &Place,
        config: &ProcessConfig,
        seed: [u8; SEED_LENGTH],
    ) -> Result<Option<StateAhead>, String> {
        let stats: Vec<_> = (0..config.reactors).map(|_| Arc::<Stats>::default()).collect();
        let servers = servers(&config.server(), &stats, Duration::ZERO, &mut Random::new(seed));
        StateAhead::read_on(&*place.disk, &place.root, &config.storage(), &servers)
            .map_err(|error| error.to_string())
    }

    /// The time since the start.
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A datagram arrives at the socket that the kernel steers it to. Returns whether there was
    /// room for it.
    pub fn deliver(&mut self, datagram: Waiting) -> bool {
        let seat = &self.seats[steered_to(*datagram.from.ip(), self.seats.len())];
        let mut wire = seat.wire.borrow_mut();
        let has_room = wire.queue.len() < self.config.queue_max;
        if has_room {
            wire.queue.push_back(datagram);
        } else {
            wire.overflowed += 1;
        }
        has_room
    }

    /// All who make steps now.
    pub fn actors(&self) -> impl Iterator<Item = Actor> {
        let (syncs, compacts) =
            self.recorded.as_ref().map_or((0, 0), |it| (it.syncs.len(), it.compacts.len()));
        let reactors = (0..self.seats.len()).map(Actor::Reactor);
        let behind = (0..syncs).map(Actor::Sync).chain((0..compacts).map(Actor::Compact));
        let log = self.recorded.as_ref().map(|_| Actor::Log);
        let recovery = self.coming.as_ref().map(|_| Actor::Recovery);
        reactors.chain(behind).chain(log).chain(recovery).chain([Actor::Bans])
    }

    /// How soon the next step of an actor is due. None: not before something else happens. It may
    /// be stepped earlier: then it finds nothing to do, as after a wake-up without a cause.
    pub fn due(&self, actor: Actor) -> Option<Duration> {
        let now = self.now();
        let left = |until: Duration| until.saturating_sub(now);
        match actor {
            Actor::Reactor(number) => {
                let seat = &self.seats[number];
                if seat.woken.load(Ordering::Relaxed) || !seat.wire.borrow().queue.is_empty() {
                    return Some(Duration::ZERO);
                }
                seat.until.map(left)
            }
            Actor::Sync(number) => self.recorded.as_ref()?.syncs.get(number)?.due(now),
            Actor::Compact(number) => {
                // One thread does it for all shards.
                let compacts = &self.recorded.as_ref()?.compacts;
                let other = (0..compacts.len()).find(|&other| compacts[other].is_within());
                let may = other.is_none_or(|other| other == number);
                may.then(|| compacts[number].due(now))
            }
            Actor::Log => self.recorded.as_ref()?.log.due(),
            Actor::Recovery => Some(left(self.coming.as_ref()?.again)),
            Actor::Bans => Some(left(self.bans_at)),
        }
    }

    /// An actor makes its next step; what it sends is added to `sent`.
    ///
    /// # Errors
    /// Where a part of the server ends by itself: it is to be stopped then.
    pub fn step(&mut self, actor: Actor, sent: &mut Vec<Sent>) -> Result<(), String> {
        let now = self.now();
        match actor {
            Actor::Reactor(number) => {
                let seat = &mut self.seats[number];
                seat.woken.store(false, Ordering::Relaxed);
                let ended = seat.reactor.end_turn(seat.turn);
                sent.append(&mut seat.wire.borrow_mut().sent);
                ended.map_err(|error| format!("a reactor ended: {error}"))?;
                seat.turn = seat.reactor.begin_turn();
                seat.until = seat.turn.wait.map(|wait| now + wait);
            }
            Actor::Sync(number) => {
                if let Some(recorded) = &mut self.recorded {
                    recorded.syncs[number].step(now);
                }
            }
            Actor::Compact(number) => {
                if let Some(recorded) = &mut self.recorded {
                    recorded.compacts[number].step(now);
                }
            }
            Actor::Log => {
                if let Some(recorded) = &mut self.recorded
                    && let Err(error) = recorded.log.step()
                {
                    let why = format!("the event log ended: {error}");
                    recorded.log_error = Some(error);
                    return Err(why);
                }
            }
            Actor::Recovery => self.recover()?,
            Actor::Bans => {
                self.bans_at = now + BANS_EVERY;
                let (ended, is_changed) = self.book.pass(self.clock.now());
                self.are_bans_late |= is_changed || !ended.is_empty();
                if self.are_bans_late {
                    self.keep_bans();
                }
            }
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<(), String> {
        let Some(coming) = &mut self.coming else { return Ok(()) };
        let failed = Arc::clone(&self.failed);
        let on_failure: Arc<dyn Fn() + Send + Sync> =
            Arc::new(move || failed.store(true, Ordering::Relaxed));
        let tried = coming.recording.try_once(&self.clock, &on_failure);
        let Some(prepared) = tried.map_err(|error| error.to_string())? else {
            coming.again = self.clock.monotonic() + RETRY_INTERVAL;
            return Ok(());
        };
        for (recorder, to) in prepared.recorders.into_iter().zip(&coming.recorders) {
            to.send(recorder).expect("a reactor waits for it");
        }
        self.coming = None;
        let storage = Arc::new(prepared.storage.expect("there is a journal"));
        let (now, ways) = (self.clock.monotonic(), self.config.interleaves);
        let steps = |shard| storage.sync_steps(shard).expect("the shard");
        let shards = 0..self.config.reactors;
        let syncs = shards.clone().map(|shard| Syncing::new(steps(shard), now, ways)).collect();
        let compacts = shards.map(|shard| Compacting::new(&storage, shard, now, ways)).collect();
        let log = prepared.log.by_steps();
        self.recorded = Some(Recorded { storage, syncs, compacts, log, log_error: None });
        Ok(())
    }

    /// Whether a part of the server has ended by itself.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether changes can be recorded.
    pub fn is_recording(&self) -> bool {
        self.recorded.is_some()
    }

    /// The counters of each reactor.
    pub fn stats(&self) -> Vec<Arc<Stats>> {
        self.seats.iter().map(|seat| Arc::clone(&seat.stats)).collect()
    }

    /// How far the event log is.
    pub fn log_gauge(&self) -> Option<LogGauge> {
        self.recorded.as_ref().map(|recorded| recorded.log.gauge())
    }

    /// NAT64s and entries of all shards.
    pub fn used(&self) -> (usize, usize) {
        (self.budget.nat64s(), self.budget.entries())
    }

    /// Datagrams that wait in the sockets.
    pub fn waiting(&self) -> usize {
        self.seats.iter().map(|seat| seat.wire.borrow().queue.len()).sum()
    }

    /// All entries of all tables.
    pub fn tables(&mut self) -> Vec<(TableKey, Entry)> {
        let mut all: Vec<_> = (self.seats.iter_mut())
            .flat_map(|seat| seat.reactor.shard().server.entries().collect::<Vec<_>>())
            .collect();
        all.sort_by_key(|(key, entry)| (*key, entry.port));
        all
    }

    /// The first contradiction between the structures of a shard.
    pub fn contradiction(&mut self) -> Option<String> {
        self.seats.iter_mut().find_map(|seat| seat.reactor.shard().server.contradiction())
    }

    /// The client that an entry is of.
    pub fn client_at(&mut self, table: TableKey, port: MappedPort) -> Option<Client> {
        let number = self.reactor_of(table.nat64);
        self.seats[number].reactor.shard().server.client_at(table, port)
    }

    /// What the operator would be told of the background work of a shard.
    pub fn trouble(&self, shard: usize) -> Option<String> {
        self.recorded.as_ref()?.storage.trouble(shard)
    }

    /// The kernel tells of other live connections from now on.
    pub fn set_live(&mut self, table: LiveTable) {
        self.live.set(table);
    }

    /// Which reactor has the tables of a NAT64.
    pub fn reactor_of(&self, nat64: Ipv4Addr) -> usize {
        steered_to(nat64, self.seats.len())
    }

    /// SIGTERM, and the end of a hand-over: what was received is answered, queues are drained, the
    /// state is saved. What arrives from now on waits in the sockets.
    pub fn stop(mut self) -> Stopped {
        let (mut sent, mut result) = (Vec::new(), Ok(()));
        let now = self.now();
        if let Some(Recorded { syncs, compacts, .. }) = &mut self.recorded {
            syncs.iter_mut().for_each(|sync| sync.finish(now));
            compacts.iter_mut().for_each(|compact| compact.finish(now));
        }
        let stats = self.stats();
        let mut sockets = Sockets::default();
        for seat in &mut self.seats {
            // As with a thread: the reactor never finds a full queue of the log for long.
            drain(self.recorded.as_mut(), LOG_STEPS_LAST);
            let ended = seat.reactor.end();
            result = result.and(ended.map_err(|error| format!("a reactor ended: {error}")));
            let mut wire = seat.wire.borrow_mut();
            sent.append(&mut wire.sent);
            sockets.0.push(std::mem::take(&mut wire.queue));
        }
        self.seats.clear();
        match (&mut self.recorded, self.coming.is_some()) {
            (Some(recorded), _) => {
                drain(Some(recorded), LOG_STEPS_MAX);
                recorded.log.give_up();
                drain(Some(recorded), LOG_STEPS_LAST);
                if recorded.log.gauge().unwritten() > 0 {
                    let lines = recorded.log.gauge().unwritten();
                    result = result.and(Err(format!("{lines} lines are not written")));
                }
            }
            (None, true) => result = result.and(Err("nothing was recorded".to_owned())),
            (None, false) => {}
        }
        Stopped { sent, sockets, stats, result }
    }

    /// SIGKILL: nothing more is done. Returns what waits in the sockets, which somebody else may
    /// have kept.
    pub fn kill(mut self) -> Sockets {
        // What it sent and nobody took is lost; so is what it had received.
        let take = |seat: Seat| std::mem::take(&mut seat.wire.borrow_mut().queue);
        Sockets(std::mem::take(&mut self.seats).into_iter().map(take).collect())
    }
}

/// Makes the log's steps until it has nothing to do, but not more.
fn drain(recorded: Option<&mut Recorded>, steps: usize) {
    let Some(recorded) = recorded else { return };
    for _ in 0..steps {
        match recorded.log.step() {
            Ok(true) if recorded.log.due() == Some(Duration::ZERO) => {}
            Ok(_) => return,
            Err(error) => return recorded.log_error = Some(error),
        }
    }
}

/// Names that are there become those of the tables.
fn fill_names(
    place: &Place,
    config: &ProcessConfig,
    servers: &[Server],
    stats: &[Arc<Stats>],
) -> Result<(), String> {
    let names = place.names.as_ref().filter(|_| config.fills_names);
    let filled = names.map(|names| names.again().fill(servers, stats, &mut []));
    filled.transpose().map(drop).map_err(|error| error.to_string())
}

/// A server for each reactor.
fn servers(
    config: &ServerConfig,
    stats: &[Arc<Stats>],
    now: Duration,
    random: &mut Random,
) -> Vec<Server> {
    let server = |stats| Server::new(config.clone(), seed_of(random), now, Arc::clone(stats));
    stats.iter().map(server).collect()
}

fn seed_of(random: &mut Random) -> [u8; SEED_LENGTH] {
    let mut seed = [0; SEED_LENGTH];
    seed[..16].copy_from_slice(&random.key());
    seed[16..].copy_from_slice(&random.key());
    seed
}
