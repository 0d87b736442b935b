//! Sends events to a collector. The log is the queue: while the collector is away or takes nothing,
//! lines stay there, and it goes on behind the last one that was taken.
//!
//! What counts as taken: by a socket of this host, what it accepted; by TCP, what the other end has
//! acknowledged, so that what was on its way when a connection broke is sent again; by UDP, what
//! left, unless its host said that nobody is there.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::connection::{CollectorConnection, Unsent, wait_for};
use super::encoder::EventEncoder;
use super::ipfix::IpfixEncoder;
use super::journald::JournalEncoder;
use super::syslog::SyslogEncoder;
use super::{KeptCursor, PATIENCE, unreadable};
use crate::disk::eventlog::{FollowCursor, FollowStart, FollowStep, FollowedLine, Follower};
use crate::handoff::logged::LineReader;
use crate::kernel::clock;
use crate::kernel::signals::EndSignal;
use crate::kernel::stderr::{say, warn};
use crate::programs::exit::ExitError;
use crate::programs::options::{Collector, CollectorFormat, CollectorPlace};

/// The pause after a failure; each time twice as long,
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often trouble is told.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is asked what was taken, while something is on its way.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How long a host may take to say that nobody is there.
const DOUBT: Duration = Duration::from_millis(100);
/// How long the end waits for what is on its way.
const END_WAIT: Duration = Duration::from_secs(2);
/// Messages on their way that are counted one by one; further ones count with the last of them.
const ON_THE_WAY_MAX: usize = 65_536;

pub(super) fn run(
    collector: &Collector,
    log: &Path,
    follower: Follower,
    kept: Option<KeptCursor>,
    no_wait: bool,
    stop: &EndSignal,
) -> Result<(), ExitError> {
    let is_stream = matches!(collector.place, CollectorPlace::Tcp(_));
    let encoder: Box<dyn EventEncoder> = match collector.format {
        CollectorFormat::Journald => Box::new(JournalEncoder::default()),
        CollectorFormat::Syslog => Box::new(SyslogEncoder::new(is_stream)),
        CollectorFormat::Ipfix => Box::new(IpfixEncoder::new(is_stream)),
    };
    let taken = follower.cursor();
    let mut exporter = Exporter {
        collector,
        log,
        stop,
        kept,
        no_wait,
        encoder,
        reader: LineReader::default(),
        message: Vec::new(),
        taken,
        on_the_way: VecDeque::new(),
        sent: 0,
        trouble: CollectorTrouble::default(),
    };
    exporter.serve(follower)?;
    exporter.kept.as_mut().map_or(Ok(()), KeptCursor::sync)
}

/// Why sending ends.
enum Broken {
    /// A signal came, or the log's end with `--no-wait`.
    Ended,
    Collector(io::Error),
    Fatal(ExitError),
}

impl From<Unsent> for Broken {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Stopped => Broken::Ended,
            Unsent::Failed(error) => Broken::Collector(error),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Collector(error)
    }
}

impl From<ExitError> for Broken {
    fn from(error: ExitError) -> Self {
        Broken::Fatal(error)
    }
}

struct Exporter<'a> {
    collector: &'a Collector,
    log: &'a Path,
    stop: &'a EndSignal,
    kept: Option<KeptCursor>,
    no_wait: bool,
    encoder: Box<dyn EventEncoder>,
    reader: LineReader,
    /// One that is being made.
    message: Vec<u8>,
    /// The place behind the last line that was taken.
    taken: FollowCursor,
    /// Of each message that was sent: how much was sent with it, and the place behind its lines.
    on_the_way: VecDeque<(u64, FollowCursor)>,
    /// Octets that were sent on this connection.
    sent: u64,
    trouble: CollectorTrouble,
}

impl Exporter<'_> {
    fn serve(&mut self, follower: Follower) -> Result<(), ExitError> {
        let mut next = Some(follower);
        loop {
            let ended =
                match CollectorConnection::open(&self.collector.place, self.trouble.failures) {
                    Ok(mut connection) => {
                        self.encoder.connected();
                        self.on_the_way.clear();
                        self.sent = 0;
                        let follower = match next.take() {
                            Some(follower) => Ok(follower),
                            None => Follower::open(self.log, FollowStart::After(self.taken)),
                        };
                        let mut follower =
                            follower.map_err(|error| unreadable(self.log, &error))?;
                        let broken = loop {
                            if let Err(broken) = self.go_on(&mut follower, &mut connection) {
                                break broken;
                            }
                        };
                        if matches!(broken, Broken::Ended) {
                            return self.end(&mut connection);
                        }
                        broken
                    }
                    Err(error) => Broken::Collector(error),
                };
            match ended {
                Broken::Ended => return Ok(()),
                Broken::Fatal(error) => return Err(error),
                Broken::Collector(error) => {
                    let pause = self.trouble.failed(self.collector, &error, self.taken);
                    if wait_for(self.stop, None, pause).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn go_on(
        &mut self,
        follower: &mut Follower,
        connection: &mut CollectorConnection,
    ) -> Result<(), Broken> {
        match follower.read().map_err(|error| unreadable(self.log, &error))? {
            FollowStep::Lines => self.send_lines(follower, connection),
            FollowStep::Lost(lost) => {
                warn(format_args!("the event log {}: {lost}", self.log.display()));
                self.encoder.lost(&lost, &mut self.message);
                self.send(connection, follower.cursor())
            }
            FollowStep::Nothing => self.wait(follower, connection),
        }
    }

    fn send_lines(
        &mut self,
        follower: &Follower,
        connection: &mut CollectorConnection,
    ) -> Result<(), Broken> {
        let lines =
            follower.lines().filter_map(|line| Some((self.reader.read(line.octets)?, line)));
        let (events, lines): (Vec<_>, Vec<FollowedLine<'_>>) = lines.unzip();
        let mut done = 0;
        while done < events.len() {
            done += self.encoder.message(&events[done..], &mut self.message).max(1);
            let last = lines.get(done - 1).map(|line| follower.cursor_after(line));
            self.send(connection, last.unwrap_or_else(|| follower.cursor()))?;
        }
        Ok(())
    }

    /// Sends the message that was made, which has the lines up to a place.
    fn send(
        &mut self,
        connection: &mut CollectorConnection,
        behind: FollowCursor,
    ) -> Result<(), Broken> {
        if !self.message.is_empty() {
            let message = std::mem::take(&mut self.message);
            let (trouble, collector, taken) = (&mut self.trouble, self.collector, self.taken);
            let is_stuck = || trouble.stuck(collector, taken);
            let sent = connection.send(&message, self.stop, TELL_INTERVAL, is_stuck);
            let octets = message.len() as u64;
            self.message = message;
            self.message.clear();
            sent?;
            self.sent += octets;
            if connection.is_doubtful() {
                // What was sent before this was not refused.
                self.take_all()?;
            }
        }
        if self.on_the_way.len() >= ON_THE_WAY_MAX {
            self.on_the_way.pop_back();
        }
        self.on_the_way.push_back((self.sent, behind));
        match connection.is_doubtful() {
            true => Ok(()),
            false => self.look(connection),
        }
    }

    /// Looks how much was taken.
    fn look(&mut self, connection: &CollectorConnection) -> Result<(), Broken> {
        let waiting = connection.unacknowledged()?;
        let received = self.sent.saturating_sub(waiting);
        let count = self.on_the_way.partition_point(|&(sent, _)| sent <= received);
        let last = self.on_the_way.drain(..count).next_back();
        self.take(last)
    }

    fn take_all(&mut self) -> Result<(), Broken> {
        let last = self.on_the_way.drain(..).next_back();
        self.take(last)
    }

    fn take(&mut self, last: Option<(u64, FollowCursor)>) -> Result<(), Broken> {
        let Some((_, behind)) = last else { return Ok(()) };
        self.taken = behind;
        self.trouble.over(self.collector, behind);
        if let Some(kept) = &mut self.kept {
            kept.keep(behind)?;
        }
        Ok(())
    }

    /// All that the log has was sent.
    fn wait(
        &mut self,
        follower: &mut Follower,
        connection: &mut CollectorConnection,
    ) -> Result<(), Broken> {
        connection.check()?;
        let is_all_taken = self.on_the_way.is_empty();
        if is_all_taken {
            if self.no_wait {
                return Err(Broken::Ended);
            }
            if let Some(kept) = &mut self.kept {
                kept.sync()?;
            }
        }
        let patience = match connection.is_doubtful() {
            _ if is_all_taken => PATIENCE,
            true => DOUBT,
            false => LOOK_INTERVAL,
        };
        let also = [(self.stop.as_fd(), PollFlags::IN), (connection.as_fd(), PollFlags::IN)];
        let began = clock::instant();
        follower.wait(&also, patience).map_err(ExitError::failed)?;
        wait_for(self.stop, None, Duration::ZERO)?;
        connection.check()?;
        if !connection.is_doubtful() {
            return self.look(connection);
        }
        match clock::instant().saturating_duration_since(began) >= DOUBT {
            true => self.take_all(),
            false => Ok(()),
        }
    }

    /// Waits for what is on its way, but not for long.
    fn end(&mut self, connection: &mut CollectorConnection) -> Result<(), ExitError> {
        let began = clock::instant();
        while !self.on_the_way.is_empty() {
            let looked = match connection.is_doubtful() {
                true => {
                    thread::sleep(DOUBT);
                    connection.check().map_err(Broken::from).and_then(|()| self.take_all())
                }
                false => self.look(connection),
            };
            match looked {
                Err(Broken::Fatal(error)) => return Err(error),
                Err(_) => return Ok(()),
                Ok(()) => {}
            }
            if clock::instant().saturating_duration_since(began) > END_WAIT {
                return Ok(());
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

/// What is wrong with a collector, told once a minute at most.
#[derive(Default)]
struct CollectorTrouble {
    /// Failures since something was taken.
    failures: usize,
    pause: Duration,
    told: Option<Instant>,
    /// It was told of those failures.
    is_known: bool,
}

impl CollectorTrouble {
    /// Returns how long to wait.
    fn failed(&mut self, collector: &Collector, error: &io::Error, at: FollowCursor) -> Duration {
        self.failures += 1;
        self.pause = (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX);
        if self.is_due() {
            warn(format_args!(
                "{collector} does not take events: {error} ({} failures so far); the log keeps them, \
                 and it goes on behind {} UTC when it does",
                self.failures,
                at.at()
            ));
        }
        self.pause
    }

    fn stuck(&mut self, collector: &Collector, at: FollowCursor) {
        self.failures += 1;
        if self.is_due() {
            warn(format_args!(
                "{collector} is there, and takes nothing; the log keeps the events, and it goes on \
                 behind {} UTC when it does",
                at.at()
            ));
        }
    }

    fn is_due(&mut self) -> bool {
        let now = clock::instant();
        let is_due = self.told.is_none_or(|at| now.saturating_duration_since(at) >= TELL_INTERVAL);
        if is_due {
            (self.told, self.is_known) = (Some(now), true);
        }
        is_due
    }

    fn over(&mut self, collector: &Collector, at: FollowCursor) {
        if std::mem::take(&mut self.is_known) {
            say(format_args!(
                "{collector} takes events again, up to {} UTC so far, after {} failures",
                at.at(),
                self.failures
            ));
        }
        (self.failures, self.pause) = (0, Duration::ZERO);
    }
}
