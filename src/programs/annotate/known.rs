//! What the event log says of a port at a time: the log is read forward, as far as the lines of the
//! access log are.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::eventlog::{FollowStart, FollowStep, Follower};
use crate::handoff::change::Timestamp;
use crate::handoff::logged::{LineReader, LoggedLine};
use crate::kernel::clock;
use crate::programs::annotate::ports::{HadBy, PortHistory, REPORTED_LATE};
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
/// How often the log is read from its beginning again, as a line is of a time that is not known any
/// more: access logs may be given in any order.
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
}

/// The event log, read as far as it was asked about.
pub struct KnownPorts {
    path: PathBuf,
    follower: Follower,
    lines: LineReader,
    /// Lines that were read, and are of later than what was asked about.
    pending: VecDeque<LoggedLine>,
    ports: PortHistory,
    /// The latest time of a line that was read.
    newest: Timestamp,
    /// When the end of the log was last found, if that was since the access log was last read.
    end_found: Option<Timestamp>,
    /// When the lines that are asked about were read.
    now: Timestamp,
    /// Whether a line has waited for an event since.
    has_waited: bool,
    rereads: u32,
    progress: ProgressTeller,
}

impl KnownPorts {
    /// How far the log is read is told to `progress`.
    ///
    /// # Errors
    /// Where there is no event log.
    pub fn open(log: &Path, progress: ProgressTeller) -> Result<Self, LogTrouble> {
        Ok(Self {
            path: log.to_owned(),
            follower: open(log)?,
            pending: VecDeque::new(),
            lines: LineReader::default(),
            ports: PortHistory::default(),
            newest: Timestamp::default(),
            end_found: None,
            now: Timestamp::default(),
            has_waited: false,
            rereads: 0,
            progress,
        })
    }

    /// What is asked about next was read at that time.
    pub fn set_now(&mut self, now: Timestamp) {
        (self.now, self.end_found, self.has_waited) = (now, None, false);
    }

    /// Whether the event log knows this NAT64, as far as it was read or is of that time.
    ///
    /// # Errors
    /// Where the event log cannot be read.
    pub fn knows(&mut self, nat64: Ipv4Addr, time: Option<TimeSpan>) -> Result<bool, LogTrouble> {
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
        // The line is there: what comes later is not about it.
        let until = span.until.min(self.now).max(span.from);
        let span = TimeSpan { from: span.from, until };
        self.read_until(later(until, AHEAD))?;
        let is_recent = later(until, EVENT_LATE) >= self.now;
        if is_recent {
            self.wait_until(later(self.now, EVENT_LATE), |_| false)?;
        }
        let mut had_by = self.ports.had_by(nat64, local, span);
        if had_by == HadBy::Nobody && is_recent && !self.has_waited {
            self.has_waited = true;
            self.wait_until(later(self.now, EVENT_LATE_MAX), |ports| {
                ports.had_by(nat64, local, span) != HadBy::Nobody
            })?;
            had_by = self.ports.had_by(nat64, local, span);
        }
        if had_by == HadBy::Past && self.rereads < REREAD_MAX {
            self.rereads += 1;
            self.begin_again()?;
            self.read_until(later(until, AHEAD))?;
            had_by = self.ports.had_by(nat64, local, span);
        }
        Ok(had_by)
    }

    /// Reads on until that time, as it was found when the access log was last read.
    fn read_until(&mut self, target: Timestamp) -> Result<(), LogTrouble> {
        if self.newest < target && self.end_found.is_none() {
            self.read(target)?;
        }
        Ok(())
    }

    /// Reads to the end of the log until the clock shows that time, or it is found.
    fn wait_until(
        &mut self,
        time: Timestamp,
        is_found: impl Fn(&PortHistory) -> bool,
    ) -> Result<(), LogTrouble> {
        while self.end_found.is_none_or(|found| found < time) && !is_found(&self.ports) {
            if self.end_found.is_some() {
                let rest = time.as_micros().saturating_sub(clock::wall().as_micros());
                let waited = self.follower.wait(&[], Duration::from_micros(rest));
                waited.map_err(|cause| LogTrouble::File { path: self.path.clone(), cause })?;
            }
            self.read(Timestamp::MAX)?;
        }
        Ok(())
    }

    /// Reads up to a line of that time, or to the end.
    fn read(&mut self, target: Timestamp) -> Result<(), LogTrouble> {
        let before = clock::wall();
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
            self.progress.say(|| format!("reading the event log, at {}", self.newest));
        }
        Ok(())
    }

    /// Up to a line that is later: false where there is none.
    fn take_lines(&mut self, target: Timestamp) -> Result<bool, LogTrouble> {
        while self.newest <= target {
            let Some(line) = self.pending.pop_front() else { return Ok(false) };
            if !self.ports.take(&line) {
                return Err(LogTrouble::TooLarge(self.path.clone()));
            }
            self.newest = self.newest.max(line.at);
        }
        Ok(true)
    }

    fn begin_again(&mut self) -> Result<(), LogTrouble> {
        self.follower = open(&self.path)?;
        self.pending.clear();
        (self.ports, self.newest, self.end_found) =
            (PortHistory::default(), Timestamp::default(), None);
        Ok(())
    }
}

fn open(log: &Path) -> Result<Follower, LogTrouble> {
    let opened = log.metadata().and_then(|_| Follower::open(log, FollowStart::Beginning));
    opened.map_err(|cause| LogTrouble::File { path: log.to_owned(), cause })
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(time.as_micros().saturating_add(by))
}
