//! [`PreparedLog`]: the log is open, its cursor is made, and nobody works for it yet. Then a thread
//! does ([`PreparedLog::spawn`]), or whoever makes its steps ([`PreparedLog::by_steps`]).

use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use rtrb::RingBuffer;

use super::cursor::{Cursor, CursorFile};
use super::error::LogError;
use super::logger::{LogNext, Logger};
use super::output::Output;
use super::recorder::{Logged, Recorder};
use super::sender::{LogShared, Sender};
use super::turning::Turning;
use super::{EventLog, LogConfig, LogGauge, QUEUE_EVENTS};
use crate::disk::UNLOGGED_MAX;
use crate::disk::fs::Disk;
use crate::kernel::stderr::{Priority, tell};

/// See above.
pub struct PreparedLog {
    name: String,
    logger: Logger,
    shared: Arc<LogShared>,
    logged: Logged,
}

impl PreparedLog {
    /// What [`EventLog::start`] does before the thread.
    ///
    /// # Errors
    /// Where the log or the cursor cannot be had.
    pub fn new(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Result<(Self, Vec<Sender>), LogError> {
        Self::open(disk, config, on_failure, tell)
    }

    pub(super) fn open(
        disk: &dyn Disk,
        config: LogConfig,
        on_failure: impl FnOnce() + Send + 'static,
        mut say: impl FnMut(Priority, fmt::Arguments<'_>) + Clone + Send + 'static,
    ) -> Result<(Self, Vec<Sender>), LogError> {
        let LogConfig { destination, format, rotation, sync, cursor, first_events, .. } = config;
        let (clock, threads) = (config.clock, config.threads);
        let output = Output::open(destination)?;
        let name = output.name();
        let cursor = match cursor {
            Some(path) => {
                // `complete` has synced the lines before this. This syncs the name; if that fails,
                // lines are written again after a power cut, as in a rotation.
                let _ = output.sync_name();
                let position = output.position(0);
                let cursor = Cursor { events: first_events.clone(), position };
                let create = CursorFile::create(disk, &path, &cursor);
                Some(create.map_err(|cause| LogError::Cursor { path, cause })?)
            }
            None => None,
        };
        let reactors = first_events.len();
        // Without a cursor, nobody counts what the log has.
        let unlogged_max = if cursor.is_some() { UNLOGGED_MAX } else { u64::MAX };
        let recorder = Recorder::new(first_events.clone(), sync, cursor, clock);
        let logged = recorder.logged();
        let shared = Arc::new(LogShared::default());
        shared.senders.store(reactors, Ordering::Relaxed);
        let (producers, queues): (Vec<_>, Vec<_>) =
            (0..reactors).map(|_| RingBuffer::new(QUEUE_EVENTS)).unzip();
        let rotation = rotation.and_then(|rotation| {
            let turning = Turning::start(rotation, &output, threads, say.clone());
            turning
                .inspect_err(|why| {
                    say(Priority::Warning, format_args!("{name} goes on in one file: {why}"))
                })
                .ok()?
        });
        let shared_too = Arc::clone(&shared);
        let logger = Logger::new(queues, format, output, recorder, shared_too, on_failure, say);
        let logger = logger.turning(rotation);
        let senders = producers
            .into_iter()
            .zip(first_events)
            .enumerate()
            .map(|(shard, (queue, next))| Sender {
                queue,
                unpublished: 0,
                lost: false,
                is_blocked: false,
                next,
                unlogged_max,
                logged: logged.clone(),
                shard,
                shared: Arc::clone(&shared),
            })
            .collect();
        Ok((Self { name, logger, shared, logged }, senders))
    }

    /// As [`EventLog::logged`].
    pub fn logged(&self) -> Logged {
        self.logged.clone()
    }

    /// As [`EventLog::gauge`].
    pub fn gauge(&self) -> LogGauge {
        LogGauge { name: self.name.clone(), shared: Arc::clone(&self.shared) }
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// Where there is none.
    pub fn spawn(self) -> Result<EventLog, LogError> {
        let Self { name, logger, shared, logged } = self;
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("eventlog".to_owned())
            .spawn(move || {
                let result = logger.run();
                // The supervisor may be gone: then nobody needs the result.
                let _ = end.send(result);
            })
            .map_err(LogError::Thread)?;
        Ok(EventLog { name, thread, ended, shared, logged })
    }

    /// Without a thread.
    pub fn by_steps(self) -> LogSteps {
        let Self { name, mut logger, shared, .. } = self;
        logger.begin();
        LogSteps { name, logger: Some(logger), shared, until: None, sleeps: false }
    }
}

/// What the thread would do, made by whoever holds it, a step at a time: on one thread, and by any
/// clock.
pub struct LogSteps {
    name: String,
    /// None: everything is written, or cannot be.
    logger: Option<Logger>,
    shared: Arc<LogShared>,
    /// When the next step is due, if it does not sleep.
    until: Option<Duration>,
    sleeps: bool,
}

impl LogSteps {
    /// How soon the next step is due: it can be made earlier, as where somebody wakes the thread.
    /// None: not before there is something to do.
    pub fn due(&self) -> Option<Duration> {
        let logger = self.logger.as_ref()?;
        if self.sleeps {
            return logger.rest();
        }
        Some(self.until.map_or(Duration::ZERO, |until| until.saturating_sub(logger.now())))
    }

    /// Makes a step. Returns whether there will be more.
    ///
    /// # Errors
    /// Where the log cannot be written any more.
    pub fn step(&mut self) -> io::Result<bool> {
        let Some(logger) = &mut self.logger else { return Ok(false) };
        if std::mem::take(&mut self.sleeps) {
            logger.wakes();
        }
        let next = logger.step();
        self.until = None;
        match next {
            Ok(LogNext::Step) => {}
            Ok(LogNext::Pause(pause)) => self.until = Some(logger.now() + pause),
            Ok(LogNext::Sleep) => self.sleeps = true,
            Ok(LogNext::End) => self.end(Ok(()))?,
            Err(error) => self.end(Err(error))?,
        }
        Ok(self.logger.is_some())
    }

    fn end(&mut self, result: io::Result<()>) -> io::Result<()> {
        self.logger.take().map_or(Ok(()), |logger| logger.end(result))
    }

    /// As [`EventLog::reopen`].
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// As [`EventLog::give_up`].
    pub fn give_up(&self) {
        self.shared.give_up.store(true, Ordering::Release);
    }

    /// Tells how far it is.
    pub fn gauge(&self) -> LogGauge {
        LogGauge { name: self.name.clone(), shared: Arc::clone(&self.shared) }
    }
}
