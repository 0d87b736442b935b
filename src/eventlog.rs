//! The event log: from the reactors to the file, without losing a line (PROTOCOL.md section 8).
//!
//! Every reactor has a [`Sender`], the one end of a bounded queue; at the other end of all of them one
//! thread formats the events and writes them through fern. All lines of a table come from one reactor
//! and therefore stay in order. When the log cannot be written, the queues fill and the reactors wait:
//! this is an audit log, and what it does not say must not have happened.
//!
//! What each end may assume: an event that was sent is written once, as one whole line, unless
//! [`EventLog::join`] says that it was not.
//!
//! Not here: what a line says (`change`), when to reopen or to stop (`main`), rotation itself
//! (logrotate), and making lines durable: nothing here calls fsync.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use log::Log;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::change::{Event, LogFormat};
use crate::stats::{Counter, Stats};

/// Events that a queue holds before its reactor has to wait.
pub const QUEUE_EVENTS: usize = 8192;
/// Octets of formatted lines in memory; while they are there, nothing more is taken from the queues.
pub const BATCH_OCTETS: usize = 256 * 1024;
/// More than the longest line has, in octets.
const LINE_MAX: usize = 256;
/// Events taken from one queue before it is the next one's turn.
const TURN_EVENTS: usize = 256;
/// How long after a write error the next attempt is made.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// The same, for a destination that is only slow (a pipe or terminal in non-blocking mode).
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// How often a reactor looks for room in its queue before it begins to sleep in between.
const WAIT_SPINS: u32 = 100;
/// The first such sleep; each is twice as long as the one before...
const WAIT_MIN: Duration = Duration::from_micros(20);
/// ...up to this.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// How long the thread may take to notice that it was given up.
const GIVE_UP_GRACE: Duration = Duration::from_millis(200);
/// Who may read a new log file: it says who was behind an address.
const FILE_MODE: u32 = 0o640;

const _: () = assert!(TURN_EVENTS <= QUEUE_EVENTS);
const _: () = assert!(TURN_EVENTS * LINE_MAX < BATCH_OCTETS);

/// Where the event log goes.
pub enum Destination {
    /// Standard output. When its reader goes away, the log has failed.
    Stdout,
    /// Appended to a file, which is created if need be, in a directory that exists.
    File(PathBuf),
    /// Anything else. It may write less than it was asked to; it is never flushed.
    Writer(Box<dyn Write + Send>),
}

/// Why there is no event log, or not all of it.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be opened.
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Standard output cannot be used.
    Stdout(io::Error),
    /// The system gives us no thread.
    Thread(io::Error),
    /// The log ended before everything was written.
    Unwritten {
        /// The log, as [`EventLog`] calls it in its messages.
        log: String,
        /// How many lines are missing.
        lines: u64,
        /// The write error behind it, if there was one.
        cause: Option<io::Error>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Open { path, cause } => {
                let directory = parent(path);
                write!(f, "the event log {} cannot be opened: ", path.display())?;
                match cause.kind() {
                    io::ErrorKind::NotFound => write!(
                        f,
                        "there is no directory {0}; create it, or choose another file with --log",
                        directory.display()
                    ),
                    io::ErrorKind::PermissionDenied => write!(
                        f,
                        "{cause}; make it writable for this user, or choose another file with --log"
                    ),
                    _ => write!(f, "{cause}; choose another file with --log"),
                }
            }
            Error::Stdout(cause) => write!(
                f,
                "the event log cannot be written to standard output: {cause}; \
                 choose a file with --log"
            ),
            Error::Thread(cause) => write!(
                f,
                "the event log gets no thread: {cause}; see the limit on tasks of this service"
            ),
            Error::Unwritten { log, lines, cause } => {
                let plural = if *lines == 1 { "" } else { "s" };
                write!(f, "{lines} line{plural} could not be written to {log}: ")?;
                match cause {
                    Some(cause) => cause.fmt(f),
                    None => f.write_str("it took too long"),
                }
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Open { cause, .. } | Error::Stdout(cause) | Error::Thread(cause) => Some(cause),
            Error::Unwritten { cause, .. } => cause.as_ref().map(|cause| cause as _),
        }
    }
}

/// What the reactors, the thread and the supervisor know of each other.
#[derive(Default)]
struct Shared {
    /// The thread sleeps, or is about to: whoever has news wakes it.
    asleep: AtomicBool,
    /// Senders that were not dropped yet.
    senders: AtomicUsize,
    /// The path is to be opened anew.
    reopen: AtomicBool,
    /// Nobody waits any more: not for room in a queue, not for the next attempt after an error.
    give_up: AtomicBool,
    /// The thread ended before its work did.
    failed: AtomicBool,
    /// Events in the queues, ever: added up at the end of a batch.
    sent: AtomicU64,
    /// Lines written.
    written: AtomicU64,
    /// Events that found no room in a queue that nobody empties.
    lost: AtomicU64,
}

impl Shared {
    fn unwritten(&self) -> u64 {
        // `written` first: then what is written meanwhile cannot make the difference negative for long,
        // and lines written before their batch was published make it zero.
        let written = self.written.load(Ordering::Acquire);
        let sent = self.sent.load(Ordering::Acquire);
        sent.saturating_sub(written) + self.lost.load(Ordering::Relaxed)
    }
}

/// The reactor's end.
pub struct Sender {
    queue: Producer<Event>,
    /// In the queue, and not yet in `Shared::sent`.
    unpublished: u64,
    thread: Thread,
    shared: Arc<Shared>,
}

impl Sender {
    /// Puts an event into the queue. When there is no room, waits until there is; when there never will
    /// be, counts the event as lost. A sleeping logger does not notice before [`Sender::publish`].
    pub fn send(&mut self, event: Event, stats: &Stats) {
        match self.queue.push(event) {
            Ok(()) => self.unpublished += 1,
            Err(PushError::Full(event)) => self.wait(event, stats),
        }
    }

    /// At the end of a batch: wakes the logger, if it sleeps.
    pub fn publish(&mut self) {
        if self.unpublished > 0 {
            self.shared.sent.fetch_add(mem::take(&mut self.unpublished), Ordering::Release);
            self.wake();
        }
    }

    /// The counterpart of [`Logger::sleep`]. Of our write (to the queue) and our read (of `asleep`), and
    /// its write (of `asleep`) and its read (of the queue), the fences let at least one read see the
    /// other's write.
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed)
            && self.shared.asleep.swap(false, Ordering::Relaxed)
        {
            self.thread.unpark();
        }
    }

    #[cold]
    fn wait(&mut self, mut event: Event, stats: &Stats) {
        self.publish();
        let mut turns = 0;
        let mut pause = WAIT_MIN;
        loop {
            if self.queue.is_abandoned() || self.shared.give_up.load(Ordering::Relaxed) {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            match turns {
                0 => stats.add(Counter::LogQueueWaits, 1),
                1..WAIT_SPINS => std::hint::spin_loop(),
                _ => {
                    thread::sleep(pause);
                    pause = (2 * pause).min(WAIT_MAX);
                }
            }
            turns = WAIT_SPINS.min(turns + 1);
            match self.queue.push(event) {
                Ok(()) => {
                    self.unpublished += 1;
                    return;
                }
                Err(PushError::Full(back)) => event = back,
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.publish();
        self.shared.senders.fetch_sub(1, Ordering::Release);
        self.wake();
    }
}

/// The supervisor's end.
pub struct EventLog {
    name: String,
    thread: JoinHandle<()>,
    /// How the thread ended. Closed without a word when it panicked.
    ended: mpsc::Receiver<Result<(), io::Error>>,
    shared: Arc<Shared>,
}

impl EventLog {
    /// Opens the destination and starts the thread. One sender for each of `reactors`.
    ///
    /// `on_failure` is called, on the logger's thread, if the log ends before its senders do (the reader
    /// of standard output went away): the server is to stop then.
    pub fn start(
        destination: Destination,
        format: LogFormat,
        reactors: usize,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), Error> {
        // A closed standard error is no reason to fail.
        let say =
            |message: fmt::Arguments<'_>| drop(writeln!(io::stderr(), "nat64handoff: {message}"));
        Self::start_saying(destination, format, reactors, on_failure, say)
    }

    fn start_saying(
        destination: Destination,
        format: LogFormat,
        reactors: usize,
        on_failure: impl FnOnce() + Send + 'static,
        say: impl FnMut(fmt::Arguments<'_>) + Send + 'static,
    ) -> Result<(EventLog, Vec<Sender>), Error> {
        let output = Output::open(destination)?;
        let name = output.name();
        let shared = Arc::new(Shared::default());
        shared.senders.store(reactors, Ordering::Relaxed);
        let (producers, queues): (Vec<_>, Vec<_>) =
            (0..reactors).map(|_| RingBuffer::new(QUEUE_EVENTS)).unzip();
        let (end, ended) = mpsc::channel();
        let lines = Lines::default();
        let logger = Logger {
            queues,
            next: 0,
            format,
            fern: lines.logger(),
            lines,
            batch: Vec::with_capacity(BATCH_OCTETS),
            done: 0,
            output,
            complained: false,
            say: Box::new(say),
            watch: Watch { shared: Arc::clone(&shared), on_failure: Some(Box::new(on_failure)) },
        };
        let thread = thread::Builder::new()
            .name("eventlog".to_owned())
            .spawn(move || {
                let result = logger.run();
                // When nobody wants to know any more, nobody needs to.
                let _ = end.send(result);
            })
            .map_err(Error::Thread)?;
        let senders = producers
            .into_iter()
            .map(|queue| Sender {
                queue,
                unpublished: 0,
                thread: thread.thread().clone(),
                shared: Arc::clone(&shared),
            })
            .collect();
        let log = EventLog { name, thread, ended, shared };
        Ok((log, senders))
    }

    /// Opens the file's path anew, soon, on the logger's thread: logrotate has renamed it. Lines that
    /// are formatted already go to the old file. If the new one cannot be opened, the old one is kept.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Whether the log ended before its senders did.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// From now on nobody waits: reactors lose events that find no room, and the thread ends at the next
    /// write error or when the queues are empty. For a server that has to stop while the log cannot be
    /// written.
    pub fn give_up(&self) {
        self.shared.give_up.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    /// Events that were sent, and not written until now.
    pub fn unwritten(&self) -> u64 {
        self.shared.unwritten()
    }

    /// Waits until everything is written, which takes that all senders were dropped. After `deadline` it
    /// gives up. Returns the number of lines written, ever.
    pub fn join(self, deadline: Duration) -> Result<u64, Error> {
        let mut end = self.ended.recv_timeout(deadline);
        if matches!(end, Err(mpsc::RecvTimeoutError::Timeout)) {
            self.give_up();
            end = self.ended.recv_timeout(GIVE_UP_GRACE);
        }
        let cause = match end {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause),
            // The thread hangs in write(2), and ends with the process.
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Some(io::Error::other("the thread of the event log panicked"))
            }
        };
        match (self.shared.unwritten(), cause) {
            (0, None) => Ok(self.shared.written.load(Ordering::Acquire)),
            (lines, cause) => Err(Error::Unwritten { log: self.name, lines, cause }),
        }
    }
}

/// The opened destination.
enum Output {
    Stdout(File),
    File(File, PathBuf),
    Writer(Box<dyn Write + Send>),
}

impl Output {
    fn open(destination: Destination) -> Result<Self, Error> {
        match destination {
            // Not `io::stdout()`, which has a buffer of its own between us and write(2).
            Destination::Stdout => match io::stdout().as_fd().try_clone_to_owned() {
                Ok(stdout) => Ok(Output::Stdout(File::from(stdout))),
                Err(cause) => Err(Error::Stdout(cause)),
            },
            Destination::File(path) => match open_file(&path) {
                Ok(file) => Ok(Output::File(file, path)),
                Err(cause) => Err(Error::Open { path, cause }),
            },
            Destination::Writer(writer) => Ok(Output::Writer(writer)),
        }
    }

    fn name(&self) -> String {
        match self {
            Output::Stdout(_) => "the event log on standard output".to_owned(),
            Output::File(_, path) => format!("the event log {}", path.display()),
            Output::Writer(_) => "the event log".to_owned(),
        }
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(file) | Output::File(file, _) => file.write(octets),
            Output::Writer(writer) => writer.write(octets),
        }
    }

    /// Whether it makes no sense to try again. A named pipe can get a new reader, a pipe cannot.
    fn is_gone(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::BrokenPipe && !matches!(self, Output::File(..))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    // After a crash the last line may be a part of one: it must not become the beginning of ours.
    if file.metadata()?.is_file() && last_octet(path).is_ok_and(|octet| octet != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn last_octet(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut octet = [0];
    file.read_exact(&mut octet)?;
    Ok(octet[0])
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// What fern writes to: memory. fern flushes after each record; for us that is the end of a batch.
#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Default for Lines {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Vec::with_capacity(BATCH_OCTETS))))
    }
}

impl Lines {
    /// Its lines are bare: fern adds nothing to a message but the line feed.
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
    shared: Arc<Shared>,
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

/// The thread.
struct Logger {
    queues: Vec<Consumer<Event>>,
    /// The queue whose turn it is.
    next: usize,
    format: LogFormat,
    fern: Box<dyn Log>,
    /// The lines that are being formatted...
    lines: Lines,
    /// ...and those that are being written,
    batch: Vec<u8>,
    /// up to here.
    done: usize,
    output: Output,
    /// It was said that the log cannot be written.
    complained: bool,
    say: Box<dyn FnMut(fmt::Arguments<'_>) + Send>,
    watch: Watch,
}

impl Logger {
    fn run(mut self) -> Result<(), io::Error> {
        loop {
            // Read before the queues: what was sent before the last sender went is seen in them.
            let last = self.shared().senders.load(Ordering::Acquire) == 0
                || self.shared().give_up.load(Ordering::Acquire);
            let taken = self.take();
            if taken > 0 {
                self.write()?;
            }
            if self.shared().reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            } else if taken == 0 && last {
                self.watch.on_failure = None;
                return Ok(());
            } else if taken == 0 {
                self.sleep();
            }
        }
    }

    fn shared(&self) -> &Shared {
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
            match queue.read_chunk(events) {
                Ok(chunk) if events > 0 => {
                    for event in chunk {
                        self.fern.log(
                            &log::Record::builder()
                                .args(format_args!("{}", event.line(self.format)))
                                .build(),
                        );
                    }
                    taken += events;
                    idle = 0;
                }
                _ => idle += 1,
            }
        }
        taken
    }

    /// Writes the formatted lines, all of them, however long that takes.
    fn write(&mut self) -> Result<(), io::Error> {
        mem::swap(&mut self.batch, &mut self.lines.lock());
        self.done = 0;
        while let Some(rest) = self.batch.get(self.done..).filter(|rest| !rest.is_empty()) {
            let result = match self.output.write(rest) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                result => result,
            };
            match result {
                Ok(octets) => {
                    let written = &rest[..octets.min(rest.len())];
                    let lines = written.iter().filter(|&&octet| octet == b'\n').count();
                    self.shared().written.fetch_add(lines as u64, Ordering::Release);
                    self.done += written.len();
                    if mem::take(&mut self.complained) {
                        let name = self.output.name();
                        (self.say)(format_args!("{name} can be written again; no line is lost"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.output.is_gone(&error) => return Err(error),
                Err(error) => self.endure(error)?,
            }
        }
        self.batch.clear();
        Ok(())
    }

    /// After a write error: says so, once, and waits a while.
    fn endure(&mut self, error: io::Error) -> Result<(), io::Error> {
        let busy = error.kind() == io::ErrorKind::WouldBlock;
        if !busy && !mem::replace(&mut self.complained, true) {
            let name = self.output.name();
            (self.say)(format_args!(
                "{name} cannot be written: {error}; lines are kept and written when it works again"
            ));
        }
        if self.shared().give_up.load(Ordering::Acquire) {
            return Err(error);
        }
        // `reopen` and `give_up` end this early; reactors do not, as `asleep` is not set.
        thread::park_timeout(if busy { BUSY_INTERVAL } else { RETRY_INTERVAL });
        if self.shared().reopen.swap(false, Ordering::Acquire) && self.reopen() {
            // The old file keeps the part that it has of a line; the new one gets the whole.
            let line = self.batch[..self.done].iter().rposition(|&octet| octet == b'\n');
            self.done = line.map_or(0, |line_feed| line_feed + 1);
        }
        Ok(())
    }

    /// Whether there is another file now.
    fn reopen(&mut self) -> bool {
        let Output::File(file, path) = &mut self.output else {
            return false;
        };
        match open_file(path) {
            Ok(new) => {
                *file = new;
                true
            }
            Err(cause) => {
                let path = path.clone();
                let error = Error::Open { path, cause };
                (self.say)(format_args!("{error}; the old file is written on"));
                false
            }
        }
    }

    /// Until there is something to do. See [`Sender::wake`].
    fn sleep(&self) {
        let shared = self.shared();
        shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.queues.iter().all(|queue| queue.slots() == 0)
            && shared.senders.load(Ordering::Relaxed) > 0
            && !shared.reopen.load(Ordering::Relaxed)
            && !shared.give_up.load(Ordering::Relaxed);
        if idle {
            thread::park();
        }
        shared.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
