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

use crate::backend::Waker;
use crate::change::LogFormat;
use crate::eventlog::{self, Destination, EventLog, LogConfig, LogSync};
use crate::random::SEED_LENGTH;
use crate::reactor::{Clock, Reactor};
use crate::ring::{self, EventWaker, Refused, Ring};
use crate::server::{AccessList, Budget, NoneKnown, Server, ServerConfig};
use crate::socket::{self, BindError, ReactorSocket};
use crate::stats::{Counter, DropReason, Stats};
use crate::storage::{self, StateDirectory};
use crate::table::TableLimits;

/// How long reactors may take to finish once they are told to, before the log stops waiting.
const REACTORS_DEADLINE: Duration = Duration::from_millis(300);
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
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// io_uring cannot be used.
    Refused(Refused),
    /// The state directory cannot.
    State(storage::Error),
    /// The handoff port cannot be had.
    Bind(BindError),
    /// There is no event log.
    Log(eventlog::Error),
    /// The system gives us no thread, or no randomness.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Refused(error) => error.fmt(f),
            StartError::State(error) => error.fmt(f),
            StartError::Bind(error) => error.fmt(f),
            StartError::Log(error) => error.fmt(f),
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
    /// Locked until all is over.
    state: StateDirectory,
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
        ring::probe().map_err(StartError::Refused)?;
        let state = StateDirectory::open(&config.state).map_err(StartError::State)?;
        let groups =
            socket::bind_group(&config.listen, config.reactors).map_err(StartError::Bind)?;
        let listen: Vec<_> = groups[0].iter().map(ReactorSocket::local).collect();
        let handoff_port = listen[0].port();

        let on_failure: Arc<dyn Fn() + Send + Sync> = Arc::new(on_failure);
        let on_log_failure = Arc::clone(&on_failure);
        let log_config = LogConfig {
            destination: config.log,
            format: config.log_format,
            sync: LogSync::None,
            cursor: None,
            first_events: vec![0; config.reactors],
        };
        let (log, senders) =
            EventLog::start(log_config, move || on_log_failure()).map_err(StartError::Log)?;

        let budget = Arc::new(Budget::new(config.nat64s_max, config.entries_max));
        let access = Arc::new(config.access);
        let stop = Arc::new(AtomicBool::new(false));
        let all_end = Arc::new(AllEnd(AtomicUsize::new(config.reactors)));
        let (ended_sender, ended) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let mut all_stats = Vec::new();
        for (number, (sockets, sender)) in groups.into_iter().zip(senders).enumerate() {
            let stats = Arc::new(Stats::default());
            all_stats.push(Arc::clone(&stats));
            let server_config = ServerConfig {
                handoff_port,
                limits: config.limits,
                validation_rate: share(config.validation_rate, config.reactors, number),
                budget: Arc::clone(&budget),
                access: Arc::clone(&access),
            };
            let seed = seed().map_err(|error| StartError::System("randomness", error))?;
            let mut on_end =
                OnEnd { end: Some(ended_sender.clone()), tell: Arc::clone(&on_failure) };
            let (stop, ready) = (Arc::clone(&stop), ready_sender.clone());
            let all_end = Arc::clone(&all_end);
            let run = move || {
                let (ring, waker) = match Ring::new(sockets) {
                    Ok(made) => made,
                    Err(error) => {
                        // The supervisor hears of it by this channel, and not by the other.
                        on_end.forget();
                        return drop(ready.send(Err(error)));
                    }
                };
                let clock = Clock::new();
                let live = Box::new(NoneKnown);
                let server =
                    Server::new(server_config, seed, clock.monotonic(), live, Arc::clone(&stats));
                drop(ready.send(Ok(waker)));
                let mut reactor = Reactor::new(ring, server, sender, clock, stats);
                let result = reactor.run(&stop);
                all_end.wait();
                drop(reactor);
                on_end.say(result, &stop);
            };
            thread::Builder::new()
                .name(format!("reactor-{number}"))
                .spawn(run)
                .map_err(|error| StartError::System("thread", error))?;
        }
        let mut serving = Serving {
            listen,
            stop,
            wakers: Vec::new(),
            stats: all_stats,
            ended,
            log,
            budget,
            state,
        };
        for _ in 0..config.reactors {
            match ready.recv() {
                Ok(Ok(waker)) => serving.wakers.push(waker),
                Ok(Err(error)) => {
                    drop(serving.stop());
                    return Err(StartError::Refused(Refused::explain(&error)));
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

    /// The state directory.
    pub fn state(&self) -> &StateDirectory {
        &self.state
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

    /// Stops receiving, drains the queues, and ends, within a second.
    ///
    /// # Errors
    /// What ended by itself before, or did not end in time, or was not written.
    pub fn stop(self) -> Result<Totals, StopError> {
        self.stop.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
        let mut result = Ok(());
        let mut running = self.wakers.len();
        let mut patient = true;
        while running > 0 {
            match self.ended.recv_timeout(REACTORS_DEADLINE) {
                Ok(ended) => {
                    running -= 1;
                    result = result.and(ended.map_err(StopError::Reactor));
                }
                // Most likely they wait for a log that cannot be written.
                Err(_) if patient => {
                    patient = false;
                    self.log.give_up();
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

/// What shard `number` of `shards` gets of `rate`: at least 1, so that none is shut out.
fn share(rate: u32, shards: usize, number: usize) -> u32 {
    let (shards, number) = (shards as u32, number as u32);
    (rate / shards + u32::from(number < rate % shards)).max(1)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that draws randomness, for the core's seeds"
)]
fn seed() -> io::Result<[u8; SEED_LENGTH]> {
    let mut seed = [0; SEED_LENGTH];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
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
