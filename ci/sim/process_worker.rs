//! What works behind the reactors can be stopped in the middle: a [`Worker`] has a thread of its
//! own, which runs only while a step of it is made, and a step ends at each operation of the disk
//! ([`PausingDisk`]). So one thing is done at a time, always in the order that the seed says.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nat64handoff::disk::fs::{Boot, Disk, DiskFile};

/// What a worker is told.
enum Order {
    /// Begin, at this time.
    Begin(Duration),
    /// Go on.
    On,
    /// All further operations fail: there is no process any more.
    Die,
}

/// What a worker tells.
enum Told {
    /// It is about to do something with the disk.
    Pauses,
    /// It has done what there was to do, and when there is more.
    Done(Option<Duration>),
}

/// The ends of the thread.
struct Within {
    orders: Receiver<Order>,
    tell: SyncSender<Told>,
    is_dead: bool,
}

thread_local! {
    static WITHIN: RefCell<Option<Within>> = const { RefCell::new(None) };
}

/// See above.
pub struct Worker {
    orders: SyncSender<Order>,
    told: Receiver<Told>,
    thread: Option<JoinHandle<()>>,
    /// It pauses within its work.
    is_within: bool,
}

impl Worker {
    /// Does `work` with each step that begins, and returns with the last one what that does.
    pub fn new(mut work: impl FnMut(Duration) -> Option<Duration> + Send + 'static) -> Self {
        let (orders, its_orders) = sync_channel(1);
        let (tell, told) = sync_channel(1);
        let run = move || {
            WITHIN.set(Some(Within { orders: its_orders, tell, is_dead: false }));
            while let Some(now) = next_begin() {
                let done = work(now);
                WITHIN.with_borrow(|within| {
                    // Nobody hears it where the process is no more.
                    let _ = within.as_ref().map(|within| within.tell.send(Told::Done(done)));
                });
            }
        };
        let thread = thread::Builder::new().spawn(run).expect("a thread");
        Self { orders, told, thread: Some(thread), is_within: false }
    }

    /// Whether it pauses within its work.
    pub fn is_within(&self) -> bool {
        self.is_within
    }

    /// Begins, or goes on to the next operation of the disk. Where it is done, it returns what the
    /// work returns.
    pub fn step(&mut self, now: Duration) -> Option<Option<Duration>> {
        let order = if self.is_within { Order::On } else { Order::Begin(now) };
        self.orders.send(order).expect("the thread waits for it");
        match self.told.recv().expect("the thread tells it") {
            Told::Pauses => {
                self.is_within = true;
                None
            }
            Told::Done(next) => {
                self.is_within = false;
                Some(next)
            }
        }
    }
}

/// The process is killed: what the thread was about to do is not done.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Die);
        // It may tell once more that it is done.
        while self.told.recv().is_ok() {}
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(ended.is_none_or(|ended| ended.is_ok()), "a worker panicked");
        }
    }
}

fn next_begin() -> Option<Duration> {
    WITHIN.with_borrow_mut(|within| {
        let Some(its) = within.as_mut().filter(|its| !its.is_dead) else {
            *within = None;
            return None;
        };
        match its.orders.recv() {
            Ok(Order::Begin(now)) => Some(now),
            _ => {
                *within = None;
                None
            }
        }
    })
}

/// Before each operation of the disk. On a thread that is no worker's it does nothing.
fn pause() -> io::Result<()> {
    WITHIN.with_borrow_mut(|within| {
        let Some(its) = within else { return Ok(()) };
        if !its.is_dead && its.tell.send(Told::Pauses).is_ok() {
            its.is_dead = !matches!(its.orders.recv(), Ok(Order::On));
        }
        if its.is_dead { Err(io::Error::other("the process is killed")) } else { Ok(()) }
    })
}

/// A disk whose operations are steps of the workers that do them.
pub struct PausingDisk(pub Arc<dyn Disk>);

#[derive(Debug)]
struct PausingFile(Arc<dyn DiskFile>);

impl Disk for PausingDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        pause()?;
        self.0.list(directory)
    }

    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        pause()?;
        self.0.create_dir(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        pause()?;
        Ok(Arc::new(PausingFile(self.0.create(path)?)))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        pause()?;
        Ok(Arc::new(PausingFile(self.0.open(path, write)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        pause()?;
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        pause()?;
        self.0.remove(path)
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        pause()?;
        self.0.remove_dir(directory)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        pause()?;
        self.0.sync_dir(directory)
    }

    fn boot(&self) -> Boot {
        self.0.boot()
    }
}

impl DiskFile for PausingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        pause()?;
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, octets: &[u8], offset: u64) -> io::Result<usize> {
        pause()?;
        self.0.write_at(octets, offset)
    }

    fn sync(&self) -> io::Result<()> {
        pause()?;
        self.0.sync()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        pause()?;
        self.0.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        pause()?;
        self.0.length()
    }
}
