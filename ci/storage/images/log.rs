//! The event log of a workload. It is a real file, and the simulated disk gets what it has before
//! each write of its cursor: so it is part of the moments, and of the images.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nat64handoff::disk::eventlog::{
    self, Cursor, Destination, EventLog, JournalEnds, LogConfig, LogSync, LogToComplete, Sender,
};
use nat64handoff::disk::fs::{Boot, Disk, DiskFile, write_full};
use nat64handoff::disk::storage::{Opened, Started, SyncPolicy};
use nat64handoff::handoff::change::{Event, LogFormat};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::kernel::clock::{self, Clock};

use crate::faults::{open_on, shard_of};
use crate::model::Model;
use crate::real::at;
use crate::sim::SimDisk;

/// Where the simulated disk has it.
pub const LOG: &str = "/log/events.log";
const CURSOR: &str = "log.cursor";
const PATIENCE: Duration = Duration::from_secs(60);

/// A file that is made anew only once: the cursor knows its inode.
pub struct RealLog {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

impl RealLog {
    /// In memory where that can be, as it is synced for each image.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.unwrap();
        let path = folder.path().join("events.log");
        fs::write(&path, "").unwrap();
        Self { _folder: folder, path }
    }

    /// The same file gets another content.
    pub fn set(&self, content: &[u8]) {
        let file = fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(content, 0).unwrap();
    }

    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

/// Reads the state, and completes the log from it, as a start does; but for a canary, which does
/// not say how far the journal is.
pub fn open_with_log(
    disk: &Arc<dyn Disk>,
    log: &Path,
    shards: usize,
    policy: SyncPolicy,
    says_journal: bool,
) -> Result<(Opened, Model), String> {
    let destination = Destination::File(log.to_owned());
    let known = |folder: &Path| eventlog::known_events(&**disk, &destination, &folder.join(CURSOR));
    let opened = open_on(Arc::clone(disk), shards, policy, known);
    let (mut opened, model) = opened.map_err(|error| format!("refused: {error}"))?;
    if let Some(folder) = &opened.epoch_folder {
        let cursor = folder.join(CURSOR);
        let (format, now) = (LogFormat::Full, at(0));
        let shard_of = |nat64, shards| shard_of(shards)(nat64);
        let ends = JournalEnds { next_events: &opened.next_events, shard_of: &shard_of };
        let journal = says_journal.then_some(ends);
        let log = LogToComplete { destination, format, cursor: &cursor, now, journal };
        eventlog::complete_saying(&**disk, log, &mut opened.unlogged, |_| {})
            .map_err(|error| format!("the log cannot be completed: {error}"))?;
    }
    Ok((opened, model))
}

/// A simulated disk that looks at the log whenever its cursor is written.
#[derive(Clone)]
pub struct Mirror {
    disk: SimDisk,
    log: Arc<RealLog>,
    copy: Arc<Mutex<LogCopy>>,
    is_synced: bool,
}

struct LogCopy {
    file: Arc<dyn DiskFile>,
    content: Vec<u8>,
    is_synced: bool,
}

impl Mirror {
    pub fn new(disk: &SimDisk, policy: SyncPolicy) -> Self {
        let (path, log) = (Path::new(LOG), Arc::new(RealLog::new()));
        let folder = path.parent().unwrap();
        disk.create_dir(folder).unwrap();
        disk.sync_dir(folder.parent().unwrap()).unwrap();
        let file = disk.create(path).unwrap();
        disk.sync_dir(folder).unwrap();
        let copy = Arc::new(Mutex::new(LogCopy { file, content: Vec::new(), is_synced: true }));
        Self { disk: disk.clone(), log, copy, is_synced: policy != SyncPolicy::None }
    }

    pub fn log(&self) -> &Arc<RealLog> {
        &self.log
    }

    /// The disk gets what the log has by now, synced where it is.
    pub fn look(&self) {
        self.write();
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_synced && !copy.is_synced {
            copy.file.sync().unwrap();
            copy.is_synced = true;
        }
    }

    /// The same before it is synced.
    fn write(&self) {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.log.content();
        let same = now.iter().zip(&copy.content).take_while(|(now, then)| now == then).count();
        if same < copy.content.len() {
            copy.file.truncate(same as u64).unwrap();
        }
        if same < now.len() {
            write_full(&*copy.file, &now[same..], same as u64).unwrap();
        }
        copy.is_synced &= now == copy.content;
        copy.content = now;
    }

    /// The log has what a power cut has left of it.
    pub fn power_was_cut(&self) {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        copy.content = self.disk.content(Path::new(LOG));
        copy.is_synced = true;
        copy.file = self.disk.open(Path::new(LOG), true).unwrap();
        self.log.set(&copy.content);
    }
}

/// The cursor's file.
#[derive(Clone)]
struct Seen(Arc<dyn DiskFile>, Mirror);

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl DiskFile for Seen {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        self.1.look();
        self.0.write_at(octets, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

impl Disk for Mirror {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(directory)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.create_dir(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if !path.to_string_lossy().contains(CURSOR) {
            return self.disk.create(path);
        }
        self.look();
        Ok(Arc::new(Seen(self.disk.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, write)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.remove_dir(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_dir(directory)
    }

    fn boot(&self) -> Boot {
        self.disk.boot()
    }
}

/// The log of a server that runs. Nothing waits for a time: who sends events waits for the cursor.
pub struct RunningLog {
    log: EventLog,
    senders: Vec<Sender>,
    mirror: Mirror,
    cursor: PathBuf,
    /// Events of each shard that were sent.
    sent: Vec<u64>,
    /// Events that a slow log does not have yet.
    waiting: Vec<(usize, Event)>,
}

impl RunningLog {
    pub fn start(mirror: &Mirror, started: &Started, policy: SyncPolicy) -> Self {
        let cursor = started.epoch_folder.join(CURSOR);
        let first_events = started.first_events.clone();
        assert!(started.events.iter().all(Vec::is_empty), "the port stays the same");
        let config = LogConfig {
            destination: Destination::File(mirror.log.path.clone()),
            format: LogFormat::Full,
            rotation: None,
            sync: match policy {
                SyncPolicy::None => LogSync::None,
                _ => LogSync::Interval(Duration::from_micros(100)),
            },
            cursor: Some(cursor.clone()),
            first_events: first_events.clone(),
            clock: Clock::new(),
            threads: true,
        };
        let (log, senders) = EventLog::start(mirror, config, || {}).unwrap();
        let (mirror, waiting) = (mirror.clone(), Vec::new());
        Self { log, senders, mirror, cursor, sent: first_events, waiting }
    }

    /// What the journal need not keep.
    pub fn logged(&self) -> eventlog::Logged {
        self.log.logged()
    }

    pub fn take(&mut self, shard: usize, events: impl Iterator<Item = Event>) {
        self.waiting.extend(events.map(|event| (shard, event)));
    }

    /// Sends what waits, and waits until the cursor counts it.
    pub fn send(&mut self) {
        for (shard, event) in self.waiting.drain(..) {
            self.senders[shard].send(event, &Stats::default());
            self.sent[shard] += 1;
        }
        self.senders.iter_mut().for_each(Sender::publish);
        let begin = clock::instant();
        let is_counted = |cursor: Cursor| cursor.events == self.sent;
        while !Cursor::read(&self.mirror, &self.cursor).is_ok_and(is_counted) {
            assert!(begin.elapsed() < PATIENCE, "the cursor stands still");
            std::thread::yield_now();
        }
    }

    /// The server ends: what waits is never sent.
    pub fn end(self) {
        let Self { log, senders, mirror, .. } = self;
        drop(senders);
        log.join(PATIENCE).unwrap();
        mirror.look();
    }
}
