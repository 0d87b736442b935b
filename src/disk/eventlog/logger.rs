//! The thread: takes events from the queues, in turns, formats them through fern, writes them, and
//! lets the recorder know.
//!
//! Not here: the queues' other ends, and how the thread is started and ended (`eventlog`).

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::Log;
use rtrb::Consumer;
use rtrb::chunks::ReadChunk;

use super::archive::Job;
use super::days::{Day, rename_to_new};
use super::output::{LogFile, Output};
use super::recorder::{Firmness, Recorder};
use super::sender::LogShared;
use super::turning::Turning;
use super::{
    BATCH_OCTETS, BUSY_INTERVAL, LINE_MAX, NAP, REOPEN_INTERVAL, RETRY_INTERVAL, ROTATE_INTERVAL,
    TURN_EVENTS,
};
use crate::handoff::change::{Event, LogFormat};
use crate::handoff::line::LineWriter;
use crate::kernel::limits;
use crate::kernel::stderr::Priority;

/// What fern writes to: memory. fern flushes after each record; for us that is the end of a batch.
#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Default for Lines {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Vec::with_capacity(BATCH_OCTETS))))
    }
}

impl Lines {
    /// A logger that adds nothing to a message but the line feed.
    fn logger(&self) -> Box<dyn Log> {
        let output: Box<dyn Write + Send> = Box::new(self.clone());
        fern::Dispatch::new().chain(output).into_log().1
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Lines {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.lock().write(octets)
    }

    /// Locks once for the line, not once for each piece of it.
    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        self.lock().write_fmt(arguments)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the supervisor when the thread ends too early, by an error or by a panic.
struct Watch {
    shared: Arc<LogShared>,
    on_failure: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(on_failure) = self.on_failure.take() {
            self.shared.failed.store(true, Ordering::Release);
            on_failure();
        }
    }
}

/// What the logger does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogNext {
    /// The next one.
    Step,
    /// The next one after this time, or earlier where somebody wants something.
    Pause(Duration),
    /// It sleeps for [`Logger::rest`].
    Sleep,
    /// Everything is written.
    End,
}

pub(super) struct Logger {
    queues: Vec<Consumer<Event>>,
    /// The queue whose turn it is.
    next: usize,
    format: LogFormat,
    writer: LineWriter,
    /// The lines of one turn: to fern they are one message.
    turn: String,
    fern: Box<dyn Log>,
    /// The lines that are being formatted.
    lines: Lines,
    /// The lines that are being written.
    batch: Vec<u8>,
    /// Octets of `batch` that are written.
    done: usize,
    /// After an error, what is known of `batch`: how many events it has, and whether these are the
    /// last ones.
    unwritten: Option<(usize, bool)>,
    /// Whose lines these are, in order: shard and number of lines.
    turns: VecDeque<(usize, u64)>,
    recorder: Recorder,
    output: Output,
    /// When the thread was last woken.
    woken: Option<Duration>,
    /// Whether that was within [`NAP`] of the time before: see [`Logger::may_nap`].
    busy: bool,
    /// Whether it was said that the log cannot be written.
    complained: bool,
    /// When the path is opened anew once more, after that failed.
    reopen_at: Option<Duration>,
    turning: Option<Turning>,
    say: Box<dyn FnMut(Priority, fmt::Arguments<'_>) + Send>,
    watch: Watch,
}

impl Logger {
    pub(super) fn new(
        queues: Vec<Consumer<Event>>,
        format: LogFormat,
        output: Output,
        recorder: Recorder,
        shared: Arc<LogShared>,
        on_failure: impl FnOnce() + Send + 'static,
        say: impl FnMut(Priority, fmt::Arguments<'_>) + Send + 'static,
    ) -> Self {
        let lines = Lines::default();
        Self {
            queues,
            next: 0,
            format,
            writer: LineWriter::default(),
            turn: String::with_capacity(TURN_EVENTS * LINE_MAX),
            fern: lines.logger(),
            lines,
            batch: Vec::with_capacity(BATCH_OCTETS),
            done: 0,
            unwritten: None,
            turns: VecDeque::new(),
            recorder,
            output,
            woken: None,
            busy: false,
            complained: false,
            reopen_at: None,
            turning: None,
            say: Box::new(say),
            watch: Watch { shared, on_failure: Some(Box::new(on_failure)) },
        }
    }

    /// With a file for each day.
    pub(super) fn turning(self, turning: Option<Turning>) -> Self {
        Self { turning, ..self }
    }

    /// Runs until all senders are dropped, or the log cannot be written.
    pub(super) fn run(mut self) -> Result<(), io::Error> {
        // Nobody else sets it.
        let _ = self.shared().thread.set(thread::current());
        self.begin();
        let result = self.serve();
        self.end(result)
    }

    /// Before the first step.
    pub(super) fn begin(&mut self) {
        if self.output.is_unread() {
            self.complained = true;
            self.say_of_log(
                Priority::Warning,
                format_args!(
                    "is a named pipe that nobody reads; lines are kept until somebody does"
                ),
            );
        }
    }

    /// After the last step.
    pub(super) fn end(mut self, result: Result<(), io::Error>) -> Result<(), io::Error> {
        self.record(Firmness::Firm);
        if result.is_ok() {
            self.watch.on_failure = None;
        }
        result
    }

    fn serve(&mut self) -> Result<(), io::Error> {
        loop {
            match self.step()? {
                LogNext::Step => {}
                // `reopen`, `give_up` and a reactor under backpressure end this early.
                LogNext::Pause(pause) => thread::park_timeout(pause),
                LogNext::Sleep => self.sleep(),
                LogNext::End => return Ok(()),
            }
        }
    }

    /// Takes what there is, writes it, and says what to do next. Waits for nothing but the system.
    pub(super) fn step(&mut self) -> Result<LogNext, io::Error> {
        self.shared().turns.fetch_add(1, Ordering::Relaxed);
        let (taken, last) = match self.unwritten.take() {
            Some(batch) => {
                self.reopen_within_batch();
                batch
            }
            None => {
                // Loaded before the queues are read, so that all that the last sender sent is seen
                // in them.
                let last = self.shared().senders.load(Ordering::Acquire) == 0
                    || self.shared().give_up.load(Ordering::Acquire);
                let taken = self.take();
                if taken > 0 {
                    mem::swap(&mut self.batch, &mut self.lines.lock());
                    self.done = 0;
                }
                (taken, last)
            }
        };
        if taken > 0
            && let Some(pause) = self.write()?
        {
            self.unwritten = Some((taken, last));
            return Ok(LogNext::Pause(pause));
        }
        self.record_if_due();
        if self.is_reopen_due() {
            if self.reopen() {
                self.record(Firmness::Firm);
            }
            return Ok(LogNext::Step);
        }
        if taken == 0 {
            let shared = Arc::clone(&self.watch.shared);
            if shared.in_system(|| self.turn_day()) {
                // What waits is of the day that begins.
                return Ok(LogNext::Step);
            }
        }
        Ok(match taken {
            0 if last => LogNext::End,
            0 => LogNext::Sleep,
            _ if self.busy && !last && self.may_nap() => LogNext::Pause(NAP),
            _ => LogNext::Step,
        })
    }

    fn shared(&self) -> &LogShared {
        &self.watch.shared
    }

    /// Formats what is in the queues, in turns, as much as fits into a batch.
    fn take(&mut self) -> usize {
        let mut taken = 0;
        let mut idle = 0;
        while idle < self.queues.len() && self.lines.lock().len() + LINE_MAX <= BATCH_OCTETS {
            let room = (BATCH_OCTETS - self.lines.lock().len()) / LINE_MAX;
            let turn = self.next;
            self.next = (turn + 1) % self.queues.len();
            let queue = &mut self.queues[turn];
            let events = queue.slots().min(TURN_EVENTS).min(room);
            let chunk = queue.read_chunk(events).ok();
            let fit = |chunk: &ReadChunk<'_, Event>| match &self.turning {
                Some(turning) => turning.fit(chunk),
                None => events,
            };
            match chunk.map(|chunk| (fit(&chunk), chunk)) {
                Some((events, chunk)) if events > 0 => {
                    self.turn.clear();
                    for event in chunk.into_iter().take(events) {
                        self.writer.append(&mut self.turn, &event, self.format);
                        self.turn.push('\n');
                    }
                    // fern appends the last one.
                    self.turn.pop();
                    self.fern
                        .log(&log::Record::builder().args(format_args!("{}", self.turn)).build());
                    self.turns.push_back((turn, events as u64));
                    taken += events;
                    idle = 0;
                }
                _ => idle += 1,
            }
        }
        taken
    }

    /// Writes the batch, all of it, unless there is an error: then it says how long to wait before
    /// it is called again.
    fn write(&mut self) -> Result<Option<Duration>, io::Error> {
        while let Some(rest) = self.batch.get(self.done..).filter(|rest| !rest.is_empty()) {
            let result = match self.watch.shared.in_system(|| self.output.write(rest)) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                result => result,
            };
            match result {
                Ok(octets) => {
                    let written = &rest[..octets.min(rest.len())];
                    let lines = if written.len() == rest.len() {
                        self.turns.iter().map(|&(_, left)| left).sum()
                    } else {
                        written.iter().filter(|&&octet| octet == b'\n').count() as u64
                    };
                    self.done += written.len();
                    self.shared().written.fetch_add(lines, Ordering::Release);
                    self.count(lines);
                    if mem::take(&mut self.complained) {
                        self.say_of_log(
                            Priority::Information,
                            format_args!("can be written again; no line is lost"),
                        );
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.output.is_gone(&error) => return Err(error),
                Err(error) => return self.endure(error).map(Some),
            }
        }
        if let Some(tap) = self.shared().tap.get() {
            tap.offer(&self.batch);
        }
        self.batch.clear();
        self.done = 0;
        Ok(None)
    }

    /// Tells the recorder whose lines were written.
    fn count(&mut self, mut lines: u64) {
        while lines > 0
            && let Some((shard, left)) = self.turns.front_mut()
        {
            let now = lines.min(*left);
            self.recorder.wrote(*shard, now);
            lines -= now;
            *left -= now;
            if *left == 0 {
                self.turns.pop_front();
            }
        }
    }

    /// Octets at the end of what was written that are not a whole line.
    fn part(&self) -> usize {
        let written = &self.batch[..self.done];
        written.iter().rev().take_while(|&&octet| octet != b'\n').count()
    }

    fn record_if_due(&mut self) {
        if self.recorder.due(&self.output).is_some_and(|due| due.is_zero()) {
            self.record(Firmness::Usual);
        }
    }

    fn record(&mut self, firmness: Firmness) {
        let Self { watch, output, .. } = self;
        if let Some((before, after)) = watch.shared.in_system(|| output.shortened()) {
            self.say_of_log(
                Priority::Warning,
                format_args!(
                    "was truncated by somebody else, from {before} octets to {after}: lines that \
                     were written while it was copied may be in neither; it needs no rotation but \
                     that of --log-keep, and who does it all the same shall rename it and send \
                     SIGHUP (in logrotate: create, not copytruncate)"
                ),
            );
        }
        let part = self.part() as u64;
        let Self { watch, recorder, output, .. } = self;
        let recorded = watch.shared.in_system(|| recorder.record(output, part, firmness));
        if let Err(trouble) = recorded {
            self.say_of_log(Priority::Warning, format_args!("{trouble}"));
        }
    }

    /// Says it in a sentence that begins with the log's name.
    fn say_of_log(&mut self, priority: Priority, what: fmt::Arguments<'_>) {
        let name = self.output.name();
        (self.say)(priority, format_args!("{name} {what}"));
    }

    /// After a write error: says so, once, and how long to wait.
    fn endure(&mut self, error: io::Error) -> Result<Duration, io::Error> {
        let busy = error.kind() == io::ErrorKind::WouldBlock;
        if !busy && !mem::replace(&mut self.complained, true) {
            self.say_of_log(
                Priority::Warning,
                format_args!(
                    "cannot be written: {}; lines are kept and written when it works again",
                    limits::explained(&error)
                ),
            );
        }
        if self.shared().give_up.load(Ordering::Acquire) {
            return Err(error);
        }
        self.record_if_due();
        if let Some(turning) = &mut self.turning {
            // What is too old may be what takes the room.
            turning.tidy(!self.recorder.is_stuck());
        }
        // A reactor that finds no room ends this early once, not with each event, as `asleep` is
        // not set.
        Ok(if busy { BUSY_INTERVAL } else { RETRY_INTERVAL })
    }

    /// After such a wait.
    fn reopen_within_batch(&mut self) {
        if self.is_reopen_due() && self.reopen() {
            // The new file gets the whole line.
            let line = self.batch[..self.done].iter().rposition(|&octet| octet == b'\n');
            self.done = line.map_or(0, |line_feed| line_feed + 1);
            self.record(Firmness::Firm);
        }
    }

    /// Whether the path is to be opened anew: somebody asked for it, or it failed before.
    fn is_reopen_due(&mut self) -> bool {
        let asked = self.shared().reopen.swap(false, Ordering::Acquire);
        if asked {
            // What is wrong now is said once more.
            self.reopen_at = None;
        }
        asked || self.reopen_at.is_some_and(|at| at <= self.now())
    }

    /// Opens the log's path anew. Returns whether there is another file now.
    ///
    /// The cursor moves to the end of the old file before the new file exists, and to the start of
    /// the new file before it has a line. So [`complete`](super::complete()) needs no more than two
    /// files, unless the cursor cannot be moved.
    fn reopen(&mut self) -> bool {
        if let Output::File(_) = self.output {
            self.record(Firmness::Firm);
        }
        let Output::File(log) = &self.output else { return false };
        match self.watch.shared.in_system(|| log.open_again()) {
            Ok(new) => {
                if self.reopen_at.take().is_some() {
                    self.say_of_log(Priority::Information, format_args!("is opened anew"));
                }
                self.output.take_back(self.part() as u64);
                self.go_on_in(new);
                if let (Some(turning), Some(day)) = (&mut self.turning, self.output.day()) {
                    turning.day = day;
                }
                true
            }
            Err(error) => {
                if self.reopen_at.is_none() {
                    (self.say)(
                        Priority::Warning,
                        format_args!("{error}; until this works the old file is written on"),
                    );
                }
                self.reopen_at = Some(self.now() + REOPEN_INTERVAL);
                false
            }
        }
    }

    /// Where a day has begun, by the clock or by the time of what comes next, the log's file gets
    /// the name of the day that is over. Returns whether events wait for that.
    fn turn_day(&mut self) -> bool {
        let (now, compresses) = (self.now(), !self.recorder.is_stuck());
        let Some(turning) = &mut self.turning else { return false };
        let heads = self.queues.iter().filter_map(|queue| queue.peek().ok());
        let later = heads.map(|event| event.at).filter(|&at| !turning.day.has_room_for(at));
        let (later, today) = (later.map(Day::of).min(), Day::of((turning.clock)()));
        let again = turning.again_at.is_some_and(|at| at <= now);
        let (day, next) = (turning.day, later.unwrap_or(today.max(turning.day)));
        if next == day && !again {
            turning.tidy(compresses);
            return false;
        }
        turning.day = next;
        if self.output.day().is_none() {
            turning.tidy(compresses);
        } else {
            let put_aside = self.put_aside(day, today);
            let (now, compresses) = (self.now(), !self.recorder.is_stuck());
            if let Some(turning) = &mut self.turning {
                let failed_before = turning.again_at.take().is_some();
                turning.again_at = put_aside.as_ref().err().map(|_| now + ROTATE_INTERVAL);
                turning.tidied = today;
                turning.archive.tidy(Job { today, compresses });
                if let Err(error) = put_aside
                    && !failed_before
                {
                    self.say_of_log(
                        Priority::Warning,
                        format_args!(
                            "cannot be put aside, though its day is over: {error}; it is \
                         written on until that works"
                        ),
                    );
                }
            }
        }
        later.is_some()
    }

    /// Gives the log's file the name of a day, and goes on in a new one.
    ///
    /// It has whole lines, and the cursor counts them, durably. A crash between the two steps
    /// leaves a file that was renamed, which [`complete`](super::complete()) finds.
    fn put_aside(&mut self, day: Day, today: Day) -> io::Result<()> {
        self.record(Firmness::Firm);
        if !self.recorder.is_settled() {
            return Err(io::Error::other("it is not known how much of it is on the disk"));
        }
        let Output::File(log) = &self.output else { return Ok(()) };
        let aside = log.put_aside(day, today)?;
        match log.open_again() {
            Ok(new) => self.go_on_in(new),
            Err(error) => {
                if let Some((aside, path)) = aside {
                    // If that fails, it is written on under its new name, and found by that.
                    let _ = rename_to_new(&aside, &path);
                }
                return Err(error.into_cause());
            }
        }
        self.record(Firmness::Firm);
        Ok(())
    }

    fn go_on_in(&mut self, new: LogFile) {
        self.output = Output::File(new);
        // If the name does not survive a power cut, the lines are written again.
        let _ = self.watch.shared.in_system(|| self.output.sync_name());
    }

    /// Whether to let events gather. Under load, waking this thread for each batch would cost it
    /// and the reactors more than the lines do. A batch that comes alone is written at once.
    fn may_nap(&self) -> bool {
        self.queues.iter().all(|queue| queue.slots() < TURN_EVENTS)
    }

    /// Sleeps until there is something to do. See `Sender::wake`.
    fn sleep(&mut self) {
        self.shared().asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        match self.rest() {
            Some(Duration::ZERO) => {}
            Some(rest) => thread::park_timeout(rest),
            None => thread::park(),
        }
        self.shared().asleep.store(false, Ordering::Relaxed);
        self.wakes();
    }

    /// How long there is nothing to do. None: until somebody wakes it.
    pub(super) fn rest(&self) -> Option<Duration> {
        let shared = self.shared();
        let idle = self.queues.iter().all(|queue| queue.slots() == 0)
            && shared.senders.load(Ordering::Relaxed) > 0
            && !shared.reopen.load(Ordering::Relaxed)
            && !shared.give_up.load(Ordering::Relaxed);
        if !idle {
            return Some(Duration::ZERO);
        }
        let now = self.now();
        let again = self.reopen_at.map(|at| at.saturating_sub(now));
        let turn = self.turning.as_ref().map(|turning| turning.rest(now));
        self.recorder.due(&self.output).into_iter().chain(again).chain(turn).min()
    }

    /// After it slept.
    pub(super) fn wakes(&mut self) {
        let now = self.now();
        let before = self.woken.replace(now);
        self.busy = before.is_some_and(|before| now.saturating_sub(before) < NAP);
    }

    /// The time by its clock.
    pub(super) fn now(&self) -> Duration {
        self.recorder.now()
    }
}
