//! [`Serving`]: the whole server, started and stopped. It wires state directory, sockets, event log and one
//! reactor for each core, and knows no signals and no command line.

use std::fmt;
use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::disk::eventlog::{self, Destination, EventLog};
use crate::disk::storage::{self, JournalWriter, StateDirectory, Storage, SyncPolicy};
use crate::handoff::change::LogFormat;
use crate::handoff::server::{AccessList, Budget, Server, ServerConfig};
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::handoff::table::TableLimits;
use crate::kernel::backend::{Backend, Io, Waker};
use crate::kernel::clock::Clock;
use crate::kernel::entropy;
use crate::kernel::mmsg::Mmsg;
use crate::kernel::ring::{self, Refused, Ring};
use crate::kernel::socket::{self, BindError, ReactorSocket};
use crate::kernel::stderr::say;
use crate::kernel::waker::EventWaker;
use crate::programs::serve::live::{Polling, View};
use crate::programs::serve::reactor::{Reactor, ServerShard, Trouble};
use crate::programs::serve::recovery::{Kept, RecoverError, Recovered};

pub mod live;
pub mod reactor;
pub mod recovery;
pub mod supervise;

/// How long reactors may take to finish once they are told to, before the log stops waiting...
const REACTORS_DEADLINE: Duration = Duration::from_millis(300);
/// ...and how many times as long they may take in all, if the disk is slow: they save the state.
const SAVE_WAITS_MAX: u32 = 30;
/// A reactor that has stopped looks so often, at such intervals, whether the others have: one of them may be
/// stuck.
const ALL_END_TRIES: u32 = 200;
const ALL_END_INTERVAL: Duration = Duration::from_millis(1);
/// How long the log may take to write what it was sent.
const LOG_DEADLINE: Duration = Duration::from_millis(400);

/// All that a server is started with.
pub struct Config {
    /// Where to listen: all with one port.
    pub listen: Vec<SocketAddrV4>,
    /// The state directory.
    pub state: PathBuf,
    /// Where the event log goes.
    pub log: Destination,
    /// How much its lines tell.
    pub log_format: LogFormat,
    /// How many reactors: at least 1.
    pub reactors: usize,
    /// How they receive and send.
    pub io: Io,
    /// The most NAT64s.
    pub nat64s_max: usize,
    /// The most entries in all tables together.
    pub entries_max: usize,
    /// The bounds of each table.
    pub limits: TableLimits,
    /// The most validation packets a second.
    pub validation_rate: u32,
    /// Which NAT64s are served.
    pub access: AccessList,
    /// When the journal is made durable. `None`: there is no journal, and nothing survives.
    pub sync: Option<SyncPolicy>,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// io_uring cannot be used.
    Refused(Refused),
    /// The state directory cannot.
    State(storage::Error),
    /// What is in it, or the event log, cannot.
    Recover(RecoverError),
    /// The handoff port cannot be had.
    Bind(BindError),
    /// The system gives us no thread, or no randomness.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Refused(error) => error.fmt(f),
            StartError::State(error) => error.fmt(f),
            StartError::Recover(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::System(what, error) => write!(f, "no {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a server that ran did not end as it should.
#[derive(Debug)]
pub enum StopError {
    /// A reactor ended by itself.
    Reactor(io::Error),
    /// Reactors did not end in time.
    Stuck(usize),
    /// Lines of the event log are missing.
    Log(eventlog::Error),
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopError::Reactor(error) => write!(f, "a reactor ended: {error}"),
            StopError::Stuck(reactors) => write!(f, "{reactors} reactors did not end in time"),
            StopError::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StopError {}

/// What a server did, for its last words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Datagrams received.
    pub datagrams: u64,
    /// Replies sent, validation packets included.
    pub replies: u64,
    /// Drops, of all reasons.
    pub drops: u64,
    /// NAT64s known at the end.
    pub nat64s: usize,
    /// Lines in the event log.
    pub lines: u64,
}

/// A server that runs.
pub struct Serving {
    listen: Vec<SocketAddrV4>,
    stop: Arc<AtomicBool>,
    wakers: Vec<EventWaker>,
    stats: Vec<Arc<Stats>>,
    /// A word from each reactor that has ended. The channel outlives them all.
    ended: mpsc::Receiver<io::Result<()>>,
    log: EventLog,
    budget: Arc<Budget>,
    /// What is said about the state that was found.
    found: Vec<String>,
    /// Tells the reactors of live connections.
    _polling: Option<Polling>,
    /// Works in the background, and has the state directory locked, until all is over.
    storage: Option<Storage>,
    /// Keeps it locked where there is no journal.
    _lock: Option<StateDirectory>,
}

impl Serving {
    /// Starts everything; when this returns, requests are answered. `on_failure` is called, on another
    /// thread, when a part ends by itself: [`Serving::stop`] says why.
    ///
    /// # Errors
    /// The first thing that is missing; then nothing runs.
    pub fn start(
        config: Config,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        if config.io == Io::Uring {
            ring::probe().map_err(StartError::Refused)?;
        }
        let state = StateDirectory::open(&config.state).map_err(StartError::State)?;
        let groups =
            socket::bind_group(&config.listen, config.reactors).map_err(StartError::Bind)?;
        let listen: Vec<_> = groups[0].iter().map(ReactorSocket::local).collect();
        let handoff_port = listen[0].port();

        let on_failure: Arc<dyn Fn() + Send + Sync> = Arc::new(on_failure);
        let on_log_failure = Arc::clone(&on_failure);
        let clock = Clock::new();
        let budget = Arc::new(Budget::new(config.nat64s_max, config.entries_max));
        let all_stats: Vec<_> = (0..config.reactors).map(|_| Arc::<Stats>::default()).collect();
        let shard_config = ServerConfig {
            handoff_port,
            limits: config.limits,
            validation_rate: config.validation_rate,
            budget: Arc::clone(&budget),
            access: Arc::new(config.access),
        };
        let (poller, views) = live::prepare(config.reactors);
        let mut servers = shards(&shard_config, &all_stats, clock)?;
        let kept = Kept { state, sync: config.sync, log: config.log, format: config.log_format };
        let Recovered { storage, lock, journals, log, senders, found } = kept
            .recover(handoff_port, &mut servers, clock, move || on_log_failure())
            .map_err(StartError::Recover)?;

        let polling = poller.start(servers.iter().flat_map(Server::nearly_full), say_unseen);
        let polling = polling.map_err(say_unseen).ok();

        let troubled = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let all_end = Arc::new(AllEnd(AtomicUsize::new(config.reactors)));
        let (ended_sender, ended) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let shards = servers.into_iter().zip(views).zip(journals).zip(senders).zip(&all_stats);
        for (number, (sockets, shard)) in groups.into_iter().zip(shards).enumerate() {
            let ((((server, live), journal), sender), stats) = shard;
            let seat = Seat {
                shard: ServerShard { server, live },
                journal,
                sync: config.sync,
                log: sender,
                clock,
                stats: Arc::clone(stats),
                troubled: Arc::clone(&troubled),
                stop: Arc::clone(&stop),
                all_end: Arc::clone(&all_end),
                ready: ready_sender.clone(),
                on_end: OnEnd { end: Some(ended_sender.clone()), tell: Arc::clone(&on_failure) },
            };
            // On the thread itself, as the ring belongs to who made it.
            let run = move || match config.io {
                Io::Uring => seat.run(Ring::new(sockets)),
                Io::Mmsg => seat.run(Mmsg::new(sockets)),
            };
            thread::Builder::new()
                .name(format!("reactor-{number}"))
                .spawn(run)
                .map_err(|error| StartError::System("thread", error))?;
        }
        // So that it is seen if one of them ends without a word.
        drop(ready_sender);
        let mut serving = Serving {
            listen,
            stop,
            wakers: Vec::new(),
            stats: all_stats,
            ended,
            log,
            budget,
            found,
            _polling: polling,
            storage,
            _lock: lock,
        };
        for _ in 0..config.reactors {
            match ready.recv() {
                Ok(Ok(waker)) => serving.wakers.push(waker),
                Ok(Err(error)) => {
                    drop(serving.stop());
                    return Err(match config.io {
                        Io::Uring => StartError::Refused(Refused::explain(&error)),
                        Io::Mmsg => {
                            StartError::System("memory or descriptors for a reactor", error)
                        }
                    });
                }
                Err(_) => {
                    let error = io::Error::other("a reactor ended at its start");
                    return Err(StartError::System("reactor", error));
                }
            }
        }
        Ok(serving)
    }

    /// Where it listens, with the ports that it really has.
    pub fn listen(&self) -> &[SocketAddrV4] {
        &self.listen
    }

    /// What is to be said about the state that was found, a line each.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// What the journal's background work has to complain of, since this was last asked.
    pub fn troubles(&self) -> Vec<String> {
        let storage = self.storage.iter();
        storage
            .flat_map(|storage| (0..self.reactors()).filter_map(|shard| storage.trouble(shard)))
            .collect()
    }

    /// How many reactors there are.
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

    /// Opens the log's file anew: see [`EventLog::reopen`].
    pub fn reopen_log(&self) {
        self.log.reopen();
    }

    /// Stops receiving, drains the queues, saves the state, and ends: with a working disk within a second.
    ///
    /// # Errors
    /// What ended by itself before, or did not end in time, or was not written.
    pub fn stop(self) -> Result<Totals, StopError> {
        self.stop.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
        let mut result = Ok(());
        let mut running = self.wakers.len();
        let mut waits = 0;
        while running > 0 {
            match self.ended.recv_timeout(REACTORS_DEADLINE) {
                Ok(ended) => {
                    running -= 1;
                    result = result.and(ended.map_err(StopError::Reactor));
                }
                Err(_) if waits < SAVE_WAITS_MAX => {
                    waits += 1;
                    // If there is anything to be written to the log still, they wait for it in vain. The
                    // journal has what it loses.
                    if self.log.unwritten() > 0 {
                        self.log.give_up();
                    }
                }
                Err(_) => {
                    result = result.and(Err(StopError::Stuck(running)));
                    break;
                }
            }
        }
        let totals = Totals {
            datagrams: self.count(Counter::Datagrams),
            replies: self.count(Counter::Replies),
            drops: self.stats.iter().map(|stats| stats.dropped_all()).sum(),
            nat64s: self.budget.nat64s(),
            lines: 0,
        };
        let lines = self.log.join(LOG_DEADLINE).map_err(StopError::Log);
        result.and(lines).map(|lines| Totals { lines, ..totals })
    }
}

/// What a reactor is made of, on its way to the reactor's thread.
struct Seat {
    shard: ServerShard<View>,
    journal: Option<JournalWriter>,
    sync: Option<SyncPolicy>,
    log: eventlog::Sender,
    clock: Clock,
    stats: Arc<Stats>,
    troubled: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    all_end: Arc<AllEnd>,
    ready: mpsc::Sender<io::Result<EventWaker>>,
    on_end: OnEnd,
}

impl Seat {
    /// The life of a reactor.
    fn run<B: Backend>(mut self, backend: io::Result<(B, EventWaker)>) {
        let (backend, waker) = match backend {
            Ok(made) => made,
            Err(error) => {
                // The supervisor hears of it by this channel, and not by the other.
                self.on_end.forget();
                return drop(self.ready.send(Err(error)));
            }
        };
        if let (Some(journal), Some(SyncPolicy::Always)) = (&self.journal, self.sync) {
            let waker = waker.clone();
            journal.set_wake(Arc::new(move || waker.wake()));
        }
        drop(self.ready.send(Ok(waker)));
        drop(self.ready);
        let say = say_trouble(self.troubled);
        let mut reactor =
            Reactor::new(backend, self.shard, self.journal, self.log, self.clock, self.stats, say);
        let result = reactor.run(&self.stop);
        self.all_end.wait();
        drop(reactor);
        self.on_end.say(result, &self.stop);
    }
}

/// Says what the reactors tell of their journals, once for all of them.
fn say_trouble(troubled: Arc<AtomicUsize>) -> impl FnMut(Trouble<'_>) + Send {
    let cause =
        |cause: Option<&io::Error>| cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    let mut counted = false;
    move |trouble| match trouble {
        Trouble::NoSpace(why) => {
            counted = true;
            if troubled.fetch_add(1, Ordering::AcqRel) == 0 {
                say(format_args!(
                    "there is no room for the journal{}: new clients get no answer until there is, \
                     known ones are served; free some space",
                    cause(why)
                ));
            }
        }
        Trouble::Over => {
            counted = false;
            if troubled.fetch_sub(1, Ordering::AcqRel) == 1 {
                say(format_args!("the journal is written again"));
            }
        }
        Trouble::Failed(why) => {
            if std::mem::take(&mut counted) {
                troubled.fetch_sub(1, Ordering::AcqRel);
            }
            say(format_args!(
                "a journal cannot be written any more{}: its new clients get no answer, known ones are \
                 served; see what the kernel's log says about the disk, and start again",
                cause(why)
            ));
        }
    }
}

/// Says what is lost where the kernel does not tell of connections.
fn say_unseen(why: io::Error) {
    say(format_args!(
        "the kernel does not say which TCP connections are live (sock_diag: {why}): a full table may give the \
         port of an idle one to a new client; let the server open netlink sockets (seccomp filter, \
         RestrictAddressFamilies=), on a kernel that has tcp_diag"
    ));
}

/// Keeps every reactor's sockets open until none of them receives any more: the kernel steers by the number
/// of open sockets, and would send a NAT64 to a shard that does not know it.
struct AllEnd(AtomicUsize);

impl AllEnd {
    fn wait(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
        for _ in 0..ALL_END_TRIES {
            if self.0.load(Ordering::Acquire) == 0 {
                break;
            }
            thread::sleep(ALL_END_INTERVAL);
        }
    }
}

/// Says how a reactor ended, also when it panicked.
struct OnEnd {
    end: Option<mpsc::Sender<io::Result<()>>>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl OnEnd {
    fn forget(&mut self) {
        self.end = None;
    }

    fn say(&mut self, result: io::Result<()>, stop: &AtomicBool) {
        let by_itself = !stop.load(Ordering::Acquire);
        if let Some(end) = self.end.take() {
            // When nobody wants to know any more, nobody needs to.
            drop(end.send(result));
        }
        if by_itself {
            (self.tell)();
        }
    }
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.say(Err(io::Error::other("it panicked")), &AtomicBool::new(false));
        }
    }
}

/// The shards, one for each of `all_stats`, that share what `config` says.
fn shards(
    config: &ServerConfig,
    all_stats: &[Arc<Stats>],
    clock: Clock,
) -> Result<Vec<Server>, StartError> {
    let shard = |(number, stats): (usize, &Arc<Stats>)| {
        let validation_rate = share(config.validation_rate, all_stats.len(), number);
        let config = ServerConfig { validation_rate, ..config.clone() };
        let seed = entropy::octets().map_err(|error| StartError::System("randomness", error))?;
        Ok(Server::new(config, seed, clock.monotonic(), Arc::clone(stats)))
    };
    all_stats.iter().enumerate().map(shard).collect()
}

/// What shard `number` of `shards` gets of `rate`: at least 1, so that none is shut out.
fn share(rate: u32, shards: usize, number: usize) -> u32 {
    let (shards, number) = (shards as u32, number as u32);
    (rate / shards + u32::from(number < rate % shards)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_5_the_rate_is_divided() {
        for (rate, shards) in [(10_000, 1), (10_000, 3), (7, 2), (64, 64)] {
            let shares: Vec<_> = (0..shards).map(|number| share(rate, shards, number)).collect();
            assert_eq!(shares.iter().sum::<u32>(), rate, "{shares:?}");
        }
        assert_eq!(share(1, 2, 1), 1);
    }
}
