//! What the event log says of a port at a time: the log is read forward, as far as the lines of the
//! access log are; and before it, where its old files were removed, its history.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::Ipv6Net;

use crate::disk::eventlog::{FollowStart, FollowStep, Follower};
use crate::disk::history::{HistoryPlace, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LineReader, LoggedKind, LoggedLine};
use crate::kernel::clock;
use crate::kernel::stderr::say;
use crate::programs::annotate::found::HadBy;
use crate::programs::annotate::names::PoolHistory;
use crate::programs::annotate::older::OlderEvents;
use crate::programs::annotate::ports::{KEPT_FOR, PortHistory, REPORTED_LATE};
use crate::programs::progress::ProgressTeller;
use crate::programs::who::when::TimeSpan;

/// The event log is read up to so much later than what is asked about: an entry may be reported
/// later, and lines of several reactors may be out of order by less.
const AHEAD: Duration = Duration::from_micros(REPORTED_LATE + 2_000_000);
/// An event is in the log at the latest this long after the connection that it is about began, if
/// its disk does not hang. A line of that time waits for it.
const EVENT_LATE: Duration = Duration::from_millis(100);
/// How long a line waits for an event where it names a port of a NAT64 that nobody has.
const EVENT_LATE_MAX: Duration = Duration::from_secs(1);
/// The log is read on until so many lines in a row are later: the clock may have been wrong for a
/// few.
const LATER_LINES: u64 = 32;
/// What is shown while lines come out.
pub const ANNOTATING: &str = "annotating";
/// Reading that takes longer is shown instead.
const SHOWN_READ: Duration = Duration::from_millis(200);
/// Reading that takes longer is said.
const LONG_READ: Duration = Duration::from_secs(1);
/// How often the log is read from its beginning again, as a line is of a time that is not known any
/// more: access logs that are files may be given in any order.
const REREAD_MAX: u32 = 16;
/// How often it is read from its beginning again, as files of it were removed or changed meanwhile,
/// before what is there must do.
const LOST_MAX: u32 = 3;

/// Why the event log does not say who it was.
#[derive(Debug, thiserror::Error)]
pub enum LogTrouble {
    #[error("the event log {} cannot be read: {cause}; name it by --log", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("the event log {} has more ports than there is memory for here", .0.display())]
    TooLarge(PathBuf),
    #[error(
        "{}, of its history, cannot be read: {cause}; --history off reads the event log alone",
        path.display()
    )]
    History { path: PathBuf, cause: io::Error },
}

/// The event log, read as far as it was asked about.
pub struct KnownPorts {
    path: PathBuf,
    history: Option<HistoryPlace>,
    follower: Follower,
    /// What is to be taken before the lines of the log.
    older: Option<OlderEvents>,
    /// The earliest time that is to be known, once something was asked about.
    begun: Option<Timestamp>,
    lines: LineReader,
    /// Lines that were read, and are of later than what was asked about.
    pending: VecDeque<LoggedLine>,
    ports: PortHistory,
    names: PoolHistory,
    /// The least of the times of the last lines that were read, and those that may become it: with
    /// the number of the line.
    last_times: VecDeque<(u64, Timestamp)>,
    lines_read: u64,
    /// When the end of the log was last found, if that was since the access log was last read.
    end_found: Option<Instant>,
    /// When the lines that are asked about were read, by both clocks.
    now: Timestamp,
    read_at: Instant,
    /// Whether a line has waited for an event since.
    has_waited: bool,
    /// How often files of its history were removed while it was read.
    gone: u32,
    rereads: u32,
    /// How often it may be read from its beginning again.
    rereads_max: u32,
    is_long_said: bool,
    is_reading_shown: bool,
    progress: ProgressTeller,
}

impl KnownPorts {
    /// How far the log is read is told to `progress`. `is_of_files`: nobody waits for what is asked
    /// about.
    ///
    /// # Errors
    /// Where there is no event log.
    pub fn open(
        log: &Path,
        history: Option<HistoryPlace>,
        is_of_files: bool,
        progress: ProgressTeller,
    ) -> Result<Self, LogTrouble> {
        Ok(Self {
            path: log.to_owned(),
            history,
            follower: open(log)?,
            older: None,
            begun: None,
            pending: VecDeque::new(),
            lines: LineReader::default(),
            ports: PortHistory::default(),
            names: PoolHistory::default(),
            last_times: VecDeque::new(),
            lines_read: 0,
            end_found: None,
            now: Timestamp::default(),
            read_at: clock::instant(),
            has_waited: false,
            gone: 0,
            rereads: 0,
            rereads_max: if is_of_files { REREAD_MAX } else { 0 },
            is_long_said: false,
            is_reading_shown: false,
            progress,
        })
    }

    /// What is asked about next was read at that time.
    pub fn set_now(&mut self, now: Timestamp) {
        (self.now, self.end_found, self.has_waited) = (now, None, false);
        self.read_at = clock::instant();
    }

    /// Whether the event log knows this NAT64, as far as it was read or is of that time.
    ///
    /// # Errors
    /// Where the event log cannot be read.
    pub fn knows(&mut self, nat64: Ipv4Addr, time: Option<TimeSpan>) -> Result<bool, LogTrouble> {
        self.begin(time.map_or(self.now, |time| time.from))?;
        if let Some(time) = time {
            self.read_until(later(time.until.min(self.now), AHEAD))?;
        }
        Ok(self.ports.knows(nat64))
    }

    /// Who had that port.
    ///
    /// # Errors
    /// Where the event log cannot be read.
    pub fn had_by(
        &mut self,
        nat64: SocketAddrV4,
        local: Option<Ipv4Addr>,
        span: TimeSpan,
    ) -> Result<HadBy, LogTrouble> {
        self.ask(span, |known, span| known.ports.had_by(nat64, local, span))
    }

    /// Whether an address is of a part of the pool that was used, as far as the event log was read.
    pub fn has_pool(&self, address: Ipv4Addr) -> bool {
        self.names.has(address)
    }

    /// Whom an address of the pool stood for.
    ///
    /// # Errors
    /// Where the event log cannot be read.
    pub fn named(&mut self, pool: Ipv4Addr, span: TimeSpan) -> Result<HadBy<Ipv6Net>, LogTrouble> {
        self.ask(span, |known, span| known.names.named(pool, span))
    }

    /// Asks what is known, as soon as it is.
    fn ask<C: PartialEq>(
        &mut self,
        span: TimeSpan,
        had_by: impl Fn(&Self, TimeSpan) -> HadBy<C>,
    ) -> Result<HadBy<C>, LogTrouble> {
        // The line is there: what comes later is not about it.
        let until = span.until.min(self.now).max(span.from);
        let span = TimeSpan { from: span.from, until };
        self.begin(span.from)?;
        self.read_until(later(until, AHEAD))?;
        let is_recent = later(until, EVENT_LATE) >= self.now;
        if is_recent {
            self.wait_until(self.read_at + EVENT_LATE, |_| false)?;
        }
        let mut found = had_by(self, span);
        if found == HadBy::Nobody && is_recent && !self.has_waited {
            self.has_waited = true;
            self.wait_until(self.read_at + EVENT_LATE_MAX, |known| {
                had_by(known, span) != HadBy::Nobody
            })?;
            found = had_by(self, span);
        }
        if found == HadBy::Past && self.rereads < self.rereads_max {
            self.rereads += 1;
            self.begun = self.begun.map(|begun| begun.min(span.from));
            self.begin_again()?;
            self.read_until(later(until, AHEAD))?;
            found = had_by(self, span);
        }
        Ok(found)
    }

    /// The first time that is asked about: where the log begins later, its history is read from a
    /// little before that time on.
    fn begin(&mut self, from: Timestamp) -> Result<(), LogTrouble> {
        if self.begun.is_some() {
            return Ok(());
        }
        self.begun = Some(from);
        let Some(history) = &self.history else { return Ok(()) };
        // Where the log begins.
        let mut lost = 0;
        while self.pending.is_empty() {
            let step = self.follower.read();
            let step = step.map_err(|cause| LogTrouble::File { path: self.path.clone(), cause })?;
            match step {
                FollowStep::Lines => {
                    let lines = self.follower.lines();
                    self.pending.extend(lines.filter_map(|line| self.lines.read(line.octets)));
                }
                FollowStep::Lost(_) if lost < LOST_MAX => lost += 1,
                FollowStep::Nothing | FollowStep::Lost(_) => break,
            }
        }
        let until = self.pending.front().map_or(Timestamp::MAX, |line| line.at);
        let from = Timestamp::from_micros(from.as_micros().saturating_sub(KEPT_FOR));
        let opened = loop {
            let opened = OlderEvents::open(history, &self.path, from, until).and_then(|older| {
                let names = older.as_ref().map(OlderEvents::names).transpose()?;
                Ok(older.zip(names))
            });
            match opened {
                Err(error) if is_gone(&error) && self.gone < LOST_MAX => self.gone += 1,
                opened => break opened.map_err(of_history)?,
            }
        };
        if let Some((older, names)) = opened {
            self.ports.begin_at(older.since());
            self.names.begin(older.since(), names);
            self.older = Some(older);
        }
        Ok(())
    }

    /// Reads on until that time, as it was found when the access log was last read.
    fn read_until(&mut self, target: Timestamp) -> Result<(), LogTrouble> {
        if self.end_found.is_none() && !self.are_later(target) {
            self.read(target)?;
        }
        Ok(())
    }

    /// Reads to the end of the log until that time has come, or it is found.
    fn wait_until(
        &mut self,
        time: Instant,
        is_found: impl Fn(&Self) -> bool,
    ) -> Result<(), LogTrouble> {
        while self.end_found.is_none_or(|found| found < time) && !is_found(self) {
            if self.end_found.is_some() {
                let rest = time.saturating_duration_since(clock::instant());
                let waited = self.follower.wait(&[], rest);
                waited.map_err(|cause| LogTrouble::File { path: self.path.clone(), cause })?;
            }
            self.read(Timestamp::MAX)?;
        }
        Ok(())
    }

    /// Reads up to a line of that time, or to the end.
    fn read(&mut self, target: Timestamp) -> Result<(), LogTrouble> {
        let done = self.read_saying(target);
        if std::mem::take(&mut self.is_reading_shown) {
            self.progress.say(|| ANNOTATING.to_owned());
        }
        done
    }

    fn read_saying(&mut self, target: Timestamp) -> Result<(), LogTrouble> {
        let before = clock::instant();
        let mut lost = 0;
        while !self.take_lines(target)? {
            let step = self.follower.read();
            let step = step.map_err(|cause| LogTrouble::File { path: self.path.clone(), cause })?;
            match step {
                FollowStep::Lines => {
                    let lines = self.follower.lines();
                    // What somebody else wrote there is no line of the server's.
                    self.pending.extend(lines.filter_map(|line| self.lines.read(line.octets)));
                }
                FollowStep::Nothing => {
                    self.end_found = Some(before);
                    return Ok(());
                }
                FollowStep::Lost(_) if lost < LOST_MAX => {
                    lost += 1;
                    self.begin_again()?;
                }
                FollowStep::Lost(_) => {}
            }
            let at = self.last_times.back().map_or(Timestamp::default(), |&(_, at)| at);
            let took = clock::instant().saturating_duration_since(before);
            if took > SHOWN_READ {
                self.is_reading_shown = true;
                self.progress.say(|| format!("reading the event log, at {at}"));
            }
            if took > LONG_READ && !self.is_long_said {
                self.is_long_said = true;
                let log = self.path.display();
                say(format_args!(
                    "reading the event log {log}, which takes a while; it is at {at}"
                ));
            }
        }
        Ok(())
    }

    /// Up to a line that is later: false where there is none.
    fn take_lines(&mut self, target: Timestamp) -> Result<bool, LogTrouble> {
        while !self.are_later(target) {
            let Some((at, has_room)) = self.take_line()? else { return Ok(false) };
            if !has_room {
                return Err(LogTrouble::TooLarge(self.path.clone()));
            }
            // One that is to come was written by a clock that was wrong.
            if at <= self.now {
                self.read_time(at);
            }
        }
        Ok(true)
    }

    /// The next line that was read: of when it is, and whether there was room for what it says.
    fn take_line(&mut self) -> Result<Option<(Timestamp, bool)>, LogTrouble> {
        while let Some(older) = &mut self.older {
            if older.is_to_read() {
                self.is_reading_shown = true;
                self.progress.say(|| "reading the history".to_owned());
            }
            match older.take(&mut self.ports) {
                Ok(None) => self.older = None,
                Err(error) if is_gone(&error) && self.gone < LOST_MAX => {
                    self.gone += 1;
                    self.begin_again()?;
                }
                taken => return taken.map_err(of_history),
            }
        }
        let Some(line) = self.pending.pop_front() else { return Ok(None) };
        let has_room = match line.kind {
            LoggedKind::Named(_) | LoggedKind::Unnamed(_) => {
                self.names.take(&line);
                true
            }
            _ => self.ports.take(&line),
        };
        Ok(Some((line.at, has_room)))
    }

    /// Whether the last lines all are.
    fn are_later(&self, target: Timestamp) -> bool {
        self.lines_read >= LATER_LINES
            && self.last_times.front().is_some_and(|&(_, least)| least > target)
    }

    fn read_time(&mut self, at: Timestamp) {
        while self.last_times.back().is_some_and(|(_, last)| *last >= at) {
            self.last_times.pop_back();
        }
        self.last_times.push_back((self.lines_read, at));
        self.lines_read += 1;
        let oldest = self.lines_read.saturating_sub(LATER_LINES);
        while self.last_times.front().is_some_and(|(number, _)| *number < oldest) {
            self.last_times.pop_front();
        }
        // Those that were read ahead may be of much later.
        if let Some(&(_, least)) = self.last_times.front() {
            self.ports.forget_before(least);
            self.names.forget_before(least);
        }
    }

    fn begin_again(&mut self) -> Result<(), LogTrouble> {
        self.follower = open(&self.path)?;
        self.pending.clear();
        self.last_times.clear();
        (self.ports, self.lines_read, self.end_found) = (PortHistory::default(), 0, None);
        self.names = PoolHistory::default();
        self.older = None;
        self.begun.take().map_or(Ok(()), |begun| self.begin(begun))
    }
}

fn open(log: &Path) -> Result<Follower, LogTrouble> {
    let opened = log.metadata().and_then(|_| Follower::open(log, FollowStart::Beginning));
    opened.map_err(|cause| LogTrouble::File { path: log.to_owned(), cause })
}

/// A file was removed, or put aside, since it was listed.
fn is_gone((_, cause): &Unreadable) -> bool {
    cause.kind() == io::ErrorKind::NotFound
}

fn of_history((path, cause): Unreadable) -> LogTrouble {
    LogTrouble::History { path, cause }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(time.as_micros().saturating_add(by))
}
