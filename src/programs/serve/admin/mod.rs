//! The server answers its operator: over HTTP at a Unix socket, and at `--web` where that is
//! wanted.
//!
//! A thread of its own with the least priority does that, in a runtime of its own: hyper reads and
//! writes by readiness, which tokio-uring does not do, and a heavy answer on the control thread
//! would keep that from signals and the watchdog. Nothing here makes a reactor or the event log's
//! thread wait. Counters are atomics; what a reactor alone knows is asked in small parts
//! ([`crate::programs::serve::inquiry`]).
//!
//! | file | what it is |
//! | --- | --- |
//! | `doors` | the sockets |
//! | `connection` | one connection: all bounds of time and size |
//! | `counts` | what is refused |
//! | `guard` | who may ask what |
//! | `routes`, `body` | which answer a path has |
//! | `survey` | all tables, and how busy they are |
//! | `status`, `tables`, `metrics` | the answers |
//! | `samples` | rates of all reactors together, and the last hour |
//! | `page` | the page, which asks for all that it shows |
//! | `events` | lines of the event log as they are written |
//! | `asked` | who it was |
//! | `bans` | who is banned |
//! | `bans_followed`, `ban_ports` | their ports, for who keeps them out |
//!
#![doc = include_str!("../../../ADMIN.md")]

mod asked;
mod ban_ports;
mod bans;
mod bans_followed;
mod body;
mod connection;
mod counts;
mod doors;
mod events;
mod guard;
mod metrics;
mod page;
mod routes;
mod samples;
mod status;
mod survey;
mod tables;

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore};

use crate::disk::eventlog::LogGauge;
use crate::disk::storage::JournalGauge;
use crate::handoff::change::Timestamp;
use crate::handoff::pool::AddressPool;
use crate::handoff::server::Budget;
use crate::handoff::stats::Stats;
use crate::kernel::backend::Io;
use crate::kernel::clock::Clock;
use crate::kernel::priority;
use crate::kernel::waker::EventWaker;
use crate::programs::options::ServeConfig;
use crate::programs::serve::fleet::FleetState;
use crate::programs::serve::inquiry::{Desk, Inquiry, NoAnswer, Question};
pub use bans::BanDesk;
use counts::{AdminCounts, Permits};
use doors::UnixDoor;
pub use doors::{DoorError, Doors, door_troubles};
use events::Listeners;
use samples::Samples;
use status::KnownDisks;
use survey::Surveys;

/// The most connections at one door.
const CONNECTIONS_MAX: usize = 32;
/// The most answers about many tables or entries, at one door, that are made or sent at once: each
/// may have many megaoctets.
const LARGE_ANSWERS_MAX: usize = 2;
/// The most questions who it was that are answered at once, at each door.
const QUESTIONS_MAX: usize = 1;
/// How often counters are sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// How long the end waits for the thread to accept no more. Where another process goes on, the last
/// answers are sent first: reactors serve meanwhile.
const END_WAIT: Duration = Duration::from_millis(800);
const LAST_ANSWERS_WAIT: Duration = Duration::from_millis(600);
/// Threads for what waits for the system.
const BLOCKING_THREADS: usize = 4;

/// What tells how far journal and event log are, as soon as they are there.
#[derive(Clone)]
pub struct Gauges {
    /// None where there is no journal.
    pub journal: Option<JournalGauge>,
    pub log: LogGauge,
}

/// What the answers are made of.
pub struct AdminShared {
    pub config: ServeConfig,
    pub listen: Vec<SocketAddrV4>,
    pub io: Io,
    /// When the server began to serve.
    pub since: Timestamp,
    pub clock: Clock,
    /// By reactor.
    pub stats: Vec<Arc<Stats>>,
    pub budget: Arc<Budget>,
    /// None: no addresses of the pool are given.
    pub pool: Option<Arc<AddressPool>>,
    /// How often the history could not be gone on with.
    pub history_failures: Arc<AtomicU64>,
    /// None: no tables are shared with other hosts.
    pub fleet: Option<FleetState>,
    pub gauges: Arc<OnceLock<Gauges>>,
    /// By reactor.
    pub desks: Vec<Desk>,
    pub wakers: Vec<EventWaker>,
    pub token: Option<Vec<u8>>,
    pub bans: BanDesk,
    pub state: AdminState,
}

/// What the thread itself keeps.
pub struct AdminState {
    surveys: AsyncMutex<Surveys>,
    samples: Mutex<Samples>,
    /// At each door, so that nobody at the one keeps out who is at the other.
    large: Permits,
    disks: Arc<KnownDisks>,
    questions: Questions,
    listeners: Listeners,
    counts: AdminCounts,
    places: Permits,
}

/// Places for questions who it was, at each door.
struct Questions {
    unix: Arc<Semaphore>,
    web: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        let [unix, web] = [QUESTIONS_MAX; 2].map(|most| Arc::new(Semaphore::new(most)));
        Self { unix, web }
    }
}

impl Default for AdminState {
    fn default() -> Self {
        Self {
            surveys: AsyncMutex::default(),
            samples: Mutex::default(),
            large: Permits::new(LARGE_ANSWERS_MAX),
            disks: Arc::default(),
            questions: Questions::default(),
            listeners: Listeners::default(),
            counts: AdminCounts::default(),
            places: Permits::new(CONNECTIONS_MAX),
        }
    }
}

impl AdminShared {
    async fn ask<T>(
        &self,
        reactor: usize,
        question: Question,
        read: impl FnOnce(&Inquiry) -> T,
    ) -> Result<T, NoAnswer> {
        let (desk, waker) =
            self.desks.get(reactor).zip(self.wakers.get(reactor)).ok_or(NoAnswer)?;
        desk.ask(waker, question, read).await
    }

    fn with_samples<T>(&self, read: impl FnOnce(&mut Samples) -> T) -> T {
        // Whoever panics in it leaves numbers that are as good as any.
        read(&mut self.state.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread.
pub struct Admin {
    stop: Arc<Notify>,
    is_taken_over: Arc<AtomicBool>,
    /// Closed when no more connection is accepted, and what was asked is answered.
    ended: mpsc::Receiver<()>,
    unix: Option<(PathBuf, (u64, u64))>,
}

impl Admin {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system gives no thread, or no descriptors for it.
    pub fn start(shared: AdminShared, doors: Doors) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let first = samples::Sample::take(&shared, shared.clock.now());
        shared.with_samples(|samples| samples.add(first));
        let unix = doors.unix.as_ref().map(|door| (door.path.clone(), door.file()));
        let (stop, (end, ended)) = (Arc::new(Notify::new()), mpsc::channel());
        let is_taken_over = Arc::new(AtomicBool::new(false));
        let (stopped, taken_over) = (Arc::clone(&stop), Arc::clone(&is_taken_over));
        let run = move || {
            priority::lower();
            let shared = Arc::new(shared);
            runtime.block_on(async move {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = sample(&shared) => {}
                    () = events::give_all(&shared) => {}
                    () = bans::keep_all(&shared) => {}
                    () = bans_followed::hear_all(&shared) => {}
                    () = connection::accept_all(&shared, doors) => {}
                }
                shared.state.listeners.end_all();
                // Who connects from now on is for the next process, if there is one.
                if taken_over.load(Ordering::Acquire) {
                    shared.state.places.all_left(LAST_ANSWERS_WAIT).await;
                }
            });
            drop(end);
            // What waits for the system ends with the process.
            runtime.shutdown_background();
        };
        thread::Builder::new().name("admin".into()).spawn(run)?;
        Ok(Self { stop, is_taken_over, ended, unix })
    }

    /// Ends it, soon. Where nobody takes over, the Unix socket is removed.
    pub fn stop(self, is_taken_over: bool) {
        self.is_taken_over.store(is_taken_over, Ordering::Release);
        self.stop.notify_one();
        // Nothing is sent: this ends when the other end is dropped.
        let _ = self.ended.recv_timeout(END_WAIT);
        if let Some((path, file)) = self.unix.filter(|_| !is_taken_over) {
            UnixDoor::remove(&path, file);
        }
    }
}

/// Samples the counters, and forgets what nobody asks for any more.
async fn sample(shared: &AdminShared) {
    let mut interval = tokio::time::interval(SAMPLE_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let now = shared.clock.now();
        let sample = samples::Sample::take(shared, now);
        shared.with_samples(|samples| samples.add(sample));
        // Whoever makes one now has it.
        if let Ok(mut surveys) = shared.state.surveys.try_lock() {
            surveys.forget(now.monotonic);
        }
        shared.state.counts.tell(now.monotonic);
    }
}
