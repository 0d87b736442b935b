//! `--state FILE`: the entries that outlive a restart of the gateway.
//!
//! They are collected some at a time, between packets, and written by another thread. A packet
//! waits for neither. After [`SAVE_INTERVAL`] they are kept anew: so a gateway that is killed loses
//! what is newer than that. Where there are so many that collecting them takes its time, it is done
//! less often.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::disk::fs::{FILE_MODE, RealDisk};
use crate::disk::kept::{self, KeptFile, KeptLost};
use crate::handoff::change::Timestamp;
use crate::kernel::clock::Clock;
use crate::kernel::stderr::{say, warn};
use crate::nat64::gateway::{Gateway, KeptEntries};

/// The time between the end of one keeping and the beginning of the next.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Collecting entries takes at most this part of the time: one in so many.
const SHARE_OF_TIME: u32 = 50;
/// The end of the name of the file that says that a gateway uses the other one.
const LOCK: &str = ".lock";

/// What is to be written, and when it was collected; and the outcome, with the memory.
type ToWrite = (Timestamp, Vec<u8>);
type WriteOutcome = (io::Result<()>, Vec<u8>);

/// The file, and what goes on with it.
#[derive(Debug)]
pub struct EntryKeeper {
    path: PathBuf,
    /// Closing it ends the lock, however the process ends.
    _lock: File,
    to_writer: SyncSender<ToWrite>,
    from_writer: Receiver<WriteOutcome>,
    phase: Phase,
    due: Duration,
    /// How long this collecting has taken so far.
    took: Duration,
    /// That it cannot be written was said.
    trouble: bool,
}

#[derive(Debug)]
enum Phase {
    /// Memory to be used again.
    Waits(Vec<u8>),
    Collects(KeptEntries),
    Writes,
}

impl EntryKeeper {
    /// Locks the file.
    ///
    /// # Errors
    /// Another gateway uses it, or nothing can be written there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let lock = lock(path)?;
        let (to_writer, received) = sync_channel::<ToWrite>(1);
        let (done, from_writer) = sync_channel::<WriteOutcome>(1);
        let file = path.to_owned();
        let run = move || {
            for (at, octets) in received {
                let outcome = kept::write(&RealDisk, &file, at, &octets);
                if done.send((outcome, octets)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("entries".to_owned()).spawn(run)?;
        let path = path.to_owned();
        let phase = Phase::Waits(Vec::new());
        let (due, took) = (Duration::ZERO, Duration::ZERO);
        Ok(Self { path, _lock: lock, to_writer, from_writer, phase, due, took, trouble: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the gateway what was kept, and says so.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn restore(&self, clock: &Clock, gateway: &mut Gateway) -> io::Result<()> {
        let path = self.path.display();
        let lost = match kept::read(&RealDisk, &self.path) {
            Ok(None) => return Ok(()),
            Ok(Some(KeptFile { at, kept })) => {
                // Where the clock was set back, nobody knows how long it was.
                let micros = clock.wall().as_micros().saturating_sub(at.as_micros());
                let elapsed = Duration::from_micros(micros);
                if let Some(restored) = gateway.restore(clock.monotonic(), elapsed, &kept) {
                    let (entries, lost) = (restored.entries, restored.lost);
                    say(format_args!(
                        "{entries} entries of before go on, {lost} are over ({path})"
                    ));
                    return Ok(());
                }
                kept::put_aside(&RealDisk, &self.path, "it makes no sense")
            }
            Err(lost) => lost,
        };
        match lost {
            KeptLost::Unreadable(error) => Err(error),
            KeptLost::Damaged { .. } => {
                warn(format_args!("warning: --state {path}: {lost}"));
                Ok(())
            }
        }
    }

    /// Does what is due. Returns whether it should be called again at once.
    pub fn step(&mut self, now: Duration, clock: &Clock, gateway: &mut Gateway) -> bool {
        match &mut self.phase {
            Phase::Waits(octets) if now >= self.due => {
                let keeping = gateway.begin_keeping(std::mem::take(octets));
                (self.phase, self.took) = (Phase::Collects(keeping), Duration::ZERO);
                true
            }
            Phase::Waits(_) => false,
            Phase::Collects(keeping) => {
                let begin = clock.monotonic();
                let all = gateway.keep_some(now, keeping);
                self.took += clock.monotonic().saturating_sub(begin);
                if all {
                    self.hand_over(clock.wall());
                }
                !all
            }
            Phase::Writes => {
                match self.from_writer.try_recv() {
                    Ok(outcome) => self.finish(now, outcome, gateway),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => {
                        let error = io::Error::other("the thread that writes it has ended");
                        self.finish(Duration::MAX, (Err(error), Vec::new()), gateway);
                    }
                }
                false
            }
        }
    }

    fn hand_over(&mut self, at: Timestamp) {
        if let Phase::Collects(keeping) = std::mem::replace(&mut self.phase, Phase::Writes) {
            // It waits for nothing: the writer has nothing else to do.
            let _ = self.to_writer.send((at, keeping.into_octets()));
        }
    }

    fn finish(&mut self, now: Duration, (outcome, octets): WriteOutcome, gateway: &mut Gateway) {
        let rest = SAVE_INTERVAL.max(self.took * SHARE_OF_TIME);
        (self.phase, self.due) = (Phase::Waits(octets), now.saturating_add(rest));
        match outcome {
            Ok(()) => {
                gateway.kept();
                self.trouble = false;
            }
            Err(error) => self.give_up(&error, gateway),
        }
    }

    /// What is there is too old. Without it, a restart knows nothing; with it, it might be wrong.
    fn give_up(&mut self, error: &io::Error, gateway: &mut Gateway) {
        let path = self.path.display();
        let removed = kept::remove(&RealDisk, &self.path);
        if removed.is_ok() {
            gateway.kept();
        }
        if !self.trouble {
            self.trouble = true;
            let then = match removed {
                Ok(()) => "a restart would end all connections".to_owned(),
                Err(cause) => format!("remove it before a restart: it is old, and stays ({cause})"),
            };
            warn(format_args!("warning: --state {path} cannot be written: {error}; {then}"));
        }
    }

    /// Removes the file: the gateway is about to forget all entries.
    pub fn forget(&mut self, now: Duration, gateway: &mut Gateway) {
        self.settle(now, gateway);
        if let Err(error) = kept::remove(&RealDisk, &self.path) {
            let path = self.path.display();
            warn(format_args!(
                "warning: --state {path} cannot be removed: {error}; remove it before a restart"
            ));
        }
        self.due = now.saturating_add(SAVE_INTERVAL);
    }

    /// Keeps all entries, before the gateway ends. Returns whether that was done.
    pub fn stop(&mut self, clock: &Clock, gateway: &mut Gateway) -> bool {
        let now = clock.monotonic();
        self.settle(now, gateway);
        let mut keeping = gateway.begin_keeping(Vec::new());
        while !gateway.keep_some(now, &mut keeping) {}
        let written = kept::write(&RealDisk, &self.path, clock.wall(), &keeping.into_octets());
        match &written {
            Ok(()) => gateway.kept(),
            Err(error) => self.give_up(error, gateway),
        }
        written.is_ok()
    }

    /// Waits until nothing is written, and drops what is being collected.
    fn settle(&mut self, now: Duration, gateway: &mut Gateway) {
        match &mut self.phase {
            Phase::Writes => {
                if let Ok(outcome) = self.from_writer.recv() {
                    self.finish(now, outcome, gateway);
                }
            }
            Phase::Collects(_) => self.phase = Phase::Waits(Vec::new()),
            Phase::Waits(_) => {}
        }
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE_MODE);
    let lock = options.custom_flags(libc::O_NOFOLLOW).open(&name)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another gateway uses it")),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
