//! The control plane: signals, on the main thread, in a runtime of tokio-uring or, where io_uring
//! is refused, of tokio. It never touches a packet.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kernel::backend::Io;
use crate::kernel::clock::Clock;
use crate::kernel::memory;
use crate::kernel::service;
use crate::kernel::signals;
use crate::kernel::stderr::{say, warn};
use crate::kernel::successor::{ChannelMessage, Successor, Word};
use crate::programs::serve::drops::DropLines;
use crate::programs::serve::repeats::Repeats;
use crate::programs::serve::stop::Serving;

/// The interval at which the control plane asks for troubles of the background work and for drops.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The command that finds what would keep the server from starting.
const CHECK: &str = "check-config";

/// How long a successor may take to be ready, while compaction is held: it may read many millions
/// of entries. `install` waits a little longer.
const PREPARATION_MAX: Duration = Duration::from_secs(240);

/// What is said where nobody takes over, before why.
const GOES_ON: &str = "SIGUSR2: this server goes on, as the program that would take over";

/// How the parts of the server wake [`supervise`].
#[derive(Debug, Clone, Default)]
pub struct Alarm(Arc<Notify>);

impl Alarm {
    /// A part of the server ended by itself. May be called from any thread.
    pub fn raise(&self) {
        self.0.notify_one();
    }
}

/// Why the server is to end.
#[derive(Debug)]
pub enum ServeEnd {
    /// A signal, or a part that ended by itself.
    Stop,
    /// SIGUSR2: the program is executed anew, and goes on with the sockets: beside this one where
    /// there is a successor already.
    HandOver(Option<Successor>),
}

/// Starts the server, and returns it after SIGTERM, SIGINT, SIGUSR2 or an alarm. SIGHUP reopens the
/// event log's file. A signal that came since the program began is handled when the server has
/// started: see [`signals::hold`].
///
/// # Errors
/// Where the runtime does not start, or signals cannot be handled; within, where the server does
/// not start.
pub fn supervise<E>(
    io: Io,
    alarm: &Alarm,
    start: impl FnOnce() -> Result<Serving, E>,
) -> io::Result<Result<(Serving, ServeEnd), E>> {
    let supervised = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut hand_over = signal(SignalKind::user_defined2())?;
        // The threads that are started from here on hold the signals: this one gets them.
        signals::let_through();
        let mut look = Look::new();
        let mut interval = tokio::time::interval(REPORT_INTERVAL);
        let mut beside: Option<Beside> = None;
        let mut serving = match start() {
            Ok(serving) => serving,
            Err(error) => return Ok(Err(error)),
        };
        let mut names_interval = tokio::time::interval(serving.names_said_every());
        loop {
            tokio::select! {
                // A signal is heeded before a successor takes over.
                biased;
                _ = terminate.recv() => return Ok(Ok((serving, ServeEnd::Stop))),
                _ = interrupt.recv() => return Ok(Ok((serving, ServeEnd::Stop))),
                () = alarm.0.notified() => return Ok(Ok((serving, ServeEnd::Stop))),
                _ = hand_over.recv() => {
                    // There may be a newer program than the one that is beside this one.
                    beside = None;
                    serving.hold_compaction(false);
                    match service::rehearse(CHECK) {
                        Ok(()) => match Beside::start(&mut serving) {
                            Some(started) => beside = Some(started),
                            None => return Ok(Ok((serving, ServeEnd::HandOver(None)))),
                        },
                        Err(why) => warn(format_args!("{GOES_ON} refuses: {why}")),
                    }
                }
                word = Beside::word(beside.as_mut()) => {
                    let said = beside.take().map(|beside| beside.successor);
                    match word {
                        Word::Ready => return Ok(Ok((serving, ServeEnd::HandOver(said)))),
                        Word::Cannot => return Ok(Ok((serving, ServeEnd::HandOver(None)))),
                        Word::Ended(how) => {
                            serving.hold_compaction(false);
                            warn(format_args!("{GOES_ON} has ended: {how}"));
                        }
                    }
                }
                _ = hangup.recv() => {
                    say(format_args!("SIGHUP: opening the event log's file again"));
                    serving.reopen_log();
                }
                _ = names_interval.tick() => serving.keep_names(),
                _ = interval.tick() => {
                    look.at(&mut serving);
                    Beside::give_up_late(&mut beside, &mut serving);
                }
            }
        }
    };
    match io {
        Io::Uring => tokio_uring::start(supervised),
        Io::Mmsg => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(supervised)
        }
    }
}

/// What is looked at once in an interval.
struct Look {
    clock: Clock,
    drops: DropLines,
    repeats: Repeats,
    /// The turns that were seen, where there is a watchdog.
    watchdog: Option<Vec<u64>>,
}

impl Look {
    fn new() -> Self {
        Self {
            clock: Clock::new(),
            drops: DropLines::default(),
            repeats: Repeats::default(),
            watchdog: service::watchdog().map(|_| Vec::new()),
        }
    }

    fn at(&mut self, serving: &mut Serving) {
        let now = self.clock.monotonic();
        let mut troubles = serving.troubles();
        troubles.retain(|trouble| self.repeats.is_due(trouble, now));
        troubles.iter().for_each(|trouble| warn(format_args!("{trouble}")));
        serving.say_drops(&mut self.drops, now);
        if self.watchdog.as_mut().is_some_and(|before| serving.all_turned(before)) {
            service::alive();
        }
    }
}

/// The next process, beside this one.
struct Beside {
    successor: Successor,
    channel: UnixStream,
    /// What was read of its next message.
    heard: Vec<u8>,
    /// When it was started.
    since: Instant,
}

impl Beside {
    /// Starts it, where a service manager can be told of it, and there is memory for the tables of
    /// both.
    fn start(serving: &mut Serving) -> Option<Self> {
        if !service::is_service() || !memory::has_room_for_another() {
            return None;
        }
        // It would remove what is being read.
        serving.hold_compaction(true);
        let started = Successor::start(serving.sockets()).and_then(|successor| {
            let channel = UnixStream::from_std(successor.channel()?)?;
            Ok(Self { successor, channel, heard: Vec::new(), since: Instant::now() })
        });
        match &started {
            Ok(_) => say(format_args!("SIGUSR2: starting the program anew, beside this server")),
            Err(error) => warn(format_args!(
                "SIGUSR2: the program cannot be started beside this server: {error}"
            )),
        }
        started.ok()
    }

    /// One that takes too long is ended.
    fn give_up_late(beside: &mut Option<Self>, serving: &mut Serving) {
        if beside.take_if(|beside| beside.since.elapsed() > PREPARATION_MAX).is_some() {
            serving.hold_compaction(false);
            warn(format_args!("{GOES_ON} is not ready after {PREPARATION_MAX:?}"));
        }
    }

    /// Waits for what it says; for ever where there is none.
    async fn word(beside: Option<&mut Self>) -> Word {
        let Some(Self { successor, channel, heard, .. }) = beside else { return pending().await };
        loop {
            // Nothing is lost where this ends at the wait.
            let mut octets = [0; size_of::<ChannelMessage>()];
            let room = octets.len() - heard.len();
            match channel.read(&mut octets[..room]).await {
                Ok(read @ 1..) => heard.extend_from_slice(&octets[..read]),
                _ => return successor.gone(),
            }
            let Ok(message) = ChannelMessage::try_from(&heard[..]) else { continue };
            heard.clear();
            if let Some(word) = successor.hear(message) {
                return word;
            }
        }
    }
}
