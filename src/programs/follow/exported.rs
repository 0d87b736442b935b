//! Sends events to a collector. The log is the queue: while the collector is away or takes nothing,
//! lines stay there, and it goes on behind the last one that was taken.
//!
//! What counts as taken: by a socket of this host, what it accepted; by TCP, what the other end has
//! acknowledged, so that what was on its way when a connection broke is sent again; by UDP, what
//! left so long ago that its host would have said by now that nobody is there.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
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
/// The pause where a collector hangs again: each connection gives it the same events once more.
/// Each time twice as long,
const PAUSE_HANGING: Duration = Duration::from_secs(30);
/// up to this.
const PAUSE_HANGING_MAX: Duration = Duration::from_secs(15 * 60);
/// At least this where its host said that nobody is there: it says so once a second.
const PAUSE_REFUSED: Duration = Duration::from_secs(2);
/// How often trouble is told.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is asked what was taken, while something is on its way,
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// and while there is no room for more.
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// One that takes nothing for so long hangs.
const HANG: Duration = Duration::from_secs(30);
/// What a collector's kernel takes of a connection that nobody reads is less than this.
const UNREAD_MAX: u64 = 1 << 20;
/// How long a host may take to say that nobody is there: it says so once a second.
const DOUBT: Duration = Duration::from_secs(3);
/// How often it is asked whether a host said so.
const DOUBT_INTERVAL: Duration = Duration::from_millis(100);
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
        begun: taken,
        on_the_way: VecDeque::new(),
        sent: 0,
        received: 0,
        progress: clock::instant(),
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

/// A message that was sent.
struct MessageOnTheWay {
    /// Octets that were sent up to its end.
    sent: u64,
    at: Instant,
    /// The place behind its lines.
    behind: FollowCursor,
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
    /// What that was when this connection began.
    begun: FollowCursor,
    on_the_way: VecDeque<MessageOnTheWay>,
    /// Octets that were sent on this connection,
    sent: u64,
    /// and those of them that arrived,
    received: u64,
    /// which were less before this time, or nothing was on its way then.
    progress: Instant,
    trouble: CollectorTrouble,
}

impl Exporter<'_> {
    fn serve(&mut self, follower: Follower) -> Result<(), ExitError> {
        let mut next = Some(follower);
        loop {
            match self.connect(&mut next) {
                Broken::Ended => return Ok(()),
                Broken::Fatal(error) => return Err(error),
                Broken::Collector(error) => {
                    let is_hanging = self.go_back(&error)?;
                    let trouble = &mut self.trouble;
                    let pause = trouble.failed(self.collector, &error, is_hanging, self.taken);
                    if wait_for(self.stop, None, pause).is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends by one connection, until that breaks.
    fn connect(&mut self, next: &mut Option<Follower>) -> Broken {
        // A connection that breaks has nothing more to go back from.
        (self.begun, self.sent, self.received) = (self.taken, 0, 0);
        self.on_the_way.clear();
        let first = self.trouble.failures;
        let mut connection =
            match CollectorConnection::open(&self.collector.place, first, self.stop) {
                Ok(connection) => connection,
                Err(unsent) => return unsent.into(),
            };
        self.encoder.connected();
        self.message.clear();
        let follower = match next.take() {
            Some(follower) => Ok(follower),
            None => Follower::open(self.log, FollowStart::After(self.taken)),
        };
        let mut follower = match follower {
            Ok(follower) => follower,
            Err(error) => return unreadable(self.log, &error).into(),
        };
        loop {
            match self.go_on(&mut follower, &mut connection) {
                Ok(()) => {}
                Err(Broken::Ended) => {
                    return self
                        .end(&mut connection)
                        .map_or_else(Broken::Fatal, |()| Broken::Ended);
                }
                Err(broken) => {
                    if let Broken::Collector(error) = &broken
                        && is_late(self.collector, error)
                    {
                        connection.abort();
                    }
                    return broken;
                }
            }
        }
    }

    /// What a connection took that nobody read, as far as can be told, is sent again: each one that
    /// is opened anew to a collector that hangs takes some, and a collector that hangs is killed in
    /// the end. Returns whether it hangs.
    fn go_back(&mut self, error: &io::Error) -> Result<bool, ExitError> {
        let is_hanging = is_late(self.collector, error) && self.received > 0;
        self.trouble.is_hanging |= is_hanging;
        if is_hanging && self.received <= UNREAD_MAX {
            self.taken = self.begun;
            self.kept.as_mut().map_or(Ok(()), |kept| kept.keep(self.taken))?;
        }
        Ok(is_hanging)
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
        if self.on_the_way.is_empty() {
            self.progress = clock::instant();
        }
        let mut done = 0;
        while done < self.message.len() {
            let octets = connection.send(&self.message[done..])?;
            done += octets;
            self.sent += octets as u64;
            if octets == 0 {
                let has_room = Some((connection.as_fd(), PollFlags::OUT));
                wait_for(self.stop, has_room, FULL_INTERVAL)?;
                self.look(connection, true)?;
            }
        }
        if self.on_the_way.len() >= ON_THE_WAY_MAX {
            self.on_the_way.pop_back();
        }
        let at = clock::instant();
        self.on_the_way.push_back(MessageOnTheWay { sent: self.sent, at, behind });
        self.look(connection, false)?;
        if done > 0 {
            self.message.clear();
            connection.pace(self.stop)?;
        }
        // A backlog may take long.
        Ok(wait_for(self.stop, None, Duration::ZERO).map(|_| ())?)
    }

    /// Looks how much was taken. `is_full`: there is no room for more.
    fn look(&mut self, connection: &CollectorConnection, is_full: bool) -> Result<(), Broken> {
        let now = clock::instant();
        let waiting = connection.unacknowledged()?;
        let received = self.sent.saturating_sub(waiting);
        if received > self.received || waiting == 0 && !is_full {
            (self.received, self.progress) = (received, now);
        } else if now.saturating_duration_since(self.progress) >= HANG {
            let hangs = format!("it is there, and took nothing for {} s", HANG.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, hangs).into());
        }
        let is_taken = |message: &MessageOnTheWay| match connection.is_doubtful() {
            true => now.saturating_duration_since(message.at) >= DOUBT,
            false => message.sent <= received,
        };
        let count = self.on_the_way.partition_point(is_taken);
        let last = self.on_the_way.drain(..count).next_back();
        self.take(last)
    }

    fn take(&mut self, last: Option<MessageOnTheWay>) -> Result<(), Broken> {
        let Some(MessageOnTheWay { behind, .. }) = last else { return Ok(()) };
        self.taken = behind;
        if !self.trouble.is_hanging || self.received > UNREAD_MAX {
            self.trouble.over(self.collector, behind);
        }
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
        self.look(connection, false)?;
        let is_all_taken = self.on_the_way.is_empty();
        if is_all_taken {
            self.trouble.over(self.collector, self.taken);
            if self.no_wait {
                return Err(Broken::Ended);
            }
            if let Some(kept) = &mut self.kept {
                kept.sync()?;
            }
        }
        let patience = match connection.is_doubtful() {
            _ if is_all_taken => PATIENCE,
            true => DOUBT_INTERVAL,
            false => LOOK_INTERVAL,
        };
        let also = [(self.stop.as_fd(), PollFlags::IN), (connection.as_fd(), PollFlags::IN)];
        follower.wait(&also, patience).map_err(ExitError::failed)?;
        Ok(wait_for(self.stop, None, Duration::ZERO).map(|_| ())?)
    }

    /// Waits for what is on its way, but not for long.
    fn end(&mut self, connection: &mut CollectorConnection) -> Result<(), ExitError> {
        let began = clock::instant();
        while !self.on_the_way.is_empty() {
            let is_doubtful = connection.is_doubtful();
            let checked = if is_doubtful { connection.check() } else { Ok(()) };
            match checked.map_err(Broken::from).and_then(|()| self.look(connection, false)) {
                Err(Broken::Fatal(error)) => return Err(error),
                Err(_) => return Ok(()),
                // What left just now may still be refused: it comes again.
                Ok(()) if is_doubtful => return Ok(()),
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

/// Whether a collector takes nothing of a connection for too long.
fn is_late(collector: &Collector, error: &io::Error) -> bool {
    matches!(collector.place, CollectorPlace::Tcp(_)) && error.kind() == ErrorKind::TimedOut
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
    /// It took some on the last connection, and then nothing.
    is_hanging: bool,
    /// On so many connections, one after another.
    hangs: u32,
}

impl CollectorTrouble {
    /// Returns how long to wait.
    fn failed(
        &mut self,
        collector: &Collector,
        error: &io::Error,
        is_hanging: bool,
        at: FollowCursor,
    ) -> Duration {
        self.failures += 1;
        let is_refused = error.kind() == ErrorKind::ConnectionRefused
            && matches!(collector.place, CollectorPlace::Udp(_));
        let least = if is_refused { PAUSE_REFUSED } else { PAUSE_MIN };
        self.pause = (2 * self.pause).clamp(least, PAUSE_MAX);
        self.hangs += u32::from(is_hanging);
        if let Some(again) = self.hangs.checked_sub(2).filter(|_| is_hanging) {
            let pause = PAUSE_HANGING * 2_u32.pow(again.min(10));
            self.pause = pause.min(PAUSE_HANGING_MAX);
        }
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
        (self.is_hanging, self.hangs) = (false, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first one that hangs is left at once; each one after it is given the same once more, so
    /// they become few.
    #[test]
    fn who_hangs_is_asked_less_and_less() {
        let collector: Collector = "syslog+tcp://192.0.2.1".parse().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let at = Follower::open(log.path(), FollowStart::Beginning).unwrap().cursor();
        let mut trouble = CollectorTrouble::default();
        let late: io::Error = ErrorKind::TimedOut.into();
        let mut pause = |is_hanging| trouble.failed(&collector, &late, is_hanging, at).as_secs();
        let pauses: Vec<_> = (0..9).map(|_| pause(true)).collect();
        assert_eq!(pauses, [0, 30, 60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(pause(false), PAUSE_MAX.as_secs(), "its host is gone");
        trouble.over(&collector, at);
        assert_eq!(trouble.failed(&collector, &late, true, at), PAUSE_MIN);
    }
}
