//! Which entries have a live TCP connection: what the kernel says, for the reactors (PROTOCOL.md
//! section 6).
//!
//! A thread, the [`Poller`], asks the kernel for this host's connections with the NAT64s of
//! *watched* tables, and publishes a snapshot. A table becomes watched when a reactor asks about
//! it, which it does when the table is nearly full. It is watched until no reactor has asked for a
//! minute; its last snapshot stays published for ten minutes more, or until one asks again. While
//! no table is watched, the thread sleeps. Likewise all hosts with a connection are watched, while
//! reactors ask which ones these are: when `--max-nat64s` is reached.
//!
//! In a fleet, connections with the NAT64 of a table are on any host. Those of the others come by
//! [`LiveElsewhere`], and are in the snapshot as this host's own; and tables that another host asks
//! about are polled as well, but not watched.
//!
//! A reactor never waits: its [`View`] reads the snapshot, and wakes the thread when a table is to
//! become watched. Nothing is known of a table before its first poll, nor while polls fail for
//! long, nor without the thread.

mod elsewhere;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use rtrb::{Consumer, Producer, RingBuffer};

pub use self::elsewhere::{LiveAnswer, LiveElsewhere};
use crate::handoff::entry::TableKey;
use crate::handoff::ports::PortSet;
use crate::handoff::server::LiveConnections;
use crate::handoff::table::LivePorts;
use crate::kernel::clock;
use crate::kernel::sock_diag::SockDiag;

/// From one poll of the watched tables to the next, at least.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Pause = 50 * duration of the last poll: under 2 % of a core.
const PAUSE_FACTOR: u32 = 50;
/// The longest pause: on busy cores a poll takes longer than its work. A table that was never
/// polled does not wait for the pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A table's ports are forgotten when polls have failed for this long.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// The start waits at most this long for the first poll of tables that are full already.
const START_WAIT_MAX: Duration = Duration::from_secs(1);
/// A table is watched for this long after a reactor last asked about it.
const WATCHED_FOR: Duration = Duration::from_secs(60);
/// What is known of a table is forgotten when it was not watched for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// The most tables that one reactor can request before the thread takes the first request. It
/// requests the others when it asks again.
const REQUESTS_MAX: usize = 1024;

/// What is known of a table.
#[derive(Debug, Clone)]
struct Seen {
    /// The number of its last poll, from 1 on; 0 where nothing is known.
    poll: u64,
    ports: Arc<PortSet>,
    /// Whether it will be polled again.
    watched: bool,
    /// Set by a reactor that asks.
    asked: Arc<AtomicBool>,
}

/// What is known of all tables.
#[derive(Debug, Default)]
struct Snapshot {
    number: u64,
    tables: HashMap<TableKey, Seen>,
    /// Between which addresses there are connections, if that is known.
    connected: Option<Arc<HashSet<TableKey>>>,
}

/// What the thread and the views share besides the snapshots.
#[derive(Debug, Default)]
struct PollShared {
    thread: OnceLock<Thread>,
    stop: AtomicBool,
    /// Set by a reactor that asks which hosts have connections.
    asked_all: AtomicBool,
}

impl PollShared {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// A reactor's view of the live connections.
pub struct View {
    published: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    requests: Producer<TableKey>,
    /// The tables requested since snapshot `since`: once is enough.
    requested: HashSet<TableKey>,
    since: u64,
    shared: Arc<PollShared>,
}

impl LiveConnections for View {
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>> {
        let Self { published, requests, requested, since, shared } = self;
        if requests.is_abandoned() {
            return None;
        }
        let snapshot = published.load();
        let seen = snapshot.tables.get(&table);
        match seen {
            Some(Seen { watched: true, asked, .. }) => {
                if !asked.load(Ordering::Relaxed) {
                    asked.store(true, Ordering::Relaxed);
                }
            }
            _ => {
                if *since != snapshot.number {
                    *since = snapshot.number;
                    requested.clear();
                }
                if !requested.contains(&table) && requests.push(table).is_ok() {
                    requested.insert(table);
                    shared.wake();
                }
            }
        }
        seen.map(|seen| LivePorts { poll: seen.poll, ports: &seen.ports })
    }

    fn any(&mut self, table: TableKey) -> Option<bool> {
        let Self { published, requests, shared, .. } = self;
        if requests.is_abandoned() {
            return None;
        }
        if !shared.asked_all.load(Ordering::Relaxed) {
            shared.asked_all.store(true, Ordering::Relaxed);
            // Either this sees what the poller published, or the poller sees this: see `watch_all`.
            fence(Ordering::SeqCst);
            if published.load().connected.is_none() {
                shared.wake();
            }
        }
        let connected = published.load().connected.as_ref()?;
        Some(connected.contains(&table))
    }
}

/// Polls the kernel, on a thread that [`Poller::start`] starts.
pub struct Poller {
    sock_diag: Option<SockDiag>,
    requests: Vec<Consumer<TableKey>>,
    published: Arc<ArcSwap<Snapshot>>,
    /// Former snapshots that a reactor may still have: kept, so that no reactor has to free one.
    retired: Vec<Arc<Snapshot>>,
    tables: HashMap<TableKey, WatchedTable>,
    all: WatchedHosts,
    /// The number of polls so far.
    polls: u64,
    shared: Arc<PollShared>,
    /// What other hosts of the fleet have...
    elsewhere: Option<Arc<LiveElsewhere>>,
    /// ...and how many ports that were at the last poll.
    gathered: usize,
}

/// All hosts with connections, while they are watched.
#[derive(Default)]
struct WatchedHosts {
    connected: Option<Arc<HashSet<TableKey>>>,
    /// The time of the last successful poll.
    seen_at: Duration,
    /// They are watched until then, if at all.
    until: Option<Duration>,
}

/// A table that is watched, or was.
struct WatchedTable {
    seen: Seen,
    /// The time of its last successful poll.
    seen_at: Duration,
    /// It is watched until then.
    until: Duration,
}

/// The running thread. To drop this ends it soon, without waiting for it.
pub struct Polling(Arc<PollShared>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.wake();
    }
}

/// A poller that does not run yet, and a view for each reactor. In a fleet, the connections of
/// other hosts count as well, and they are told of those here.
pub fn prepare(reactors: usize, elsewhere: Option<Arc<LiveElsewhere>>) -> (Poller, Vec<View>) {
    let published: Arc<ArcSwap<Snapshot>> = Arc::default();
    let shared: Arc<PollShared> = Arc::default();
    let view = |_| {
        let (requests, consumer) = RingBuffer::new(REQUESTS_MAX);
        let view = View {
            published: Cache::new(Arc::clone(&published)),
            requests,
            requested: HashSet::new(),
            since: 0,
            shared: Arc::clone(&shared),
        };
        (consumer, view)
    };
    let (requests, views) = (0..reactors).map(view).unzip();
    let poller = Poller {
        sock_diag: None,
        requests,
        published,
        retired: Vec::new(),
        tables: HashMap::new(),
        all: WatchedHosts::default(),
        polls: 0,
        shared,
        elsewhere,
        gathered: 0,
    };
    (poller, views)
}

impl Poller {
    /// Starts the thread. Waits for its first poll of `tables`, if there are any, but not for long.
    /// `trouble` is called with the first error of a poll, and not again.
    ///
    /// # Errors
    /// Where sock_diag does not work at all, or there is no thread. Then no connection is ever
    /// known.
    pub fn start(
        mut self,
        tables: impl Iterator<Item = TableKey>,
        trouble: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Polling> {
        self.sock_diag = Some(SockDiag::open()?);
        for table in tables {
            self.watch(table, Duration::ZERO);
        }
        let (shared, elsewhere) = (Arc::clone(&self.shared), self.elsewhere.clone());
        let (polled, first_poll) = mpsc::channel();
        let run = move || self.run(trouble, polled);
        let thread = thread::Builder::new().name("connections".into()).spawn(run)?;
        // No reactor runs yet that could want to wake the thread.
        let _ = shared.thread.set(thread.thread().clone());
        if let Some(elsewhere) = elsewhere {
            elsewhere.wakes(thread.thread().clone());
        }
        let polling = Polling(shared);
        // Nothing is sent: this ends when the other end is dropped.
        let _ = first_poll.recv_timeout(START_WAIT_MAX);
        Ok(polling)
    }

    fn run(mut self, trouble: impl FnOnce(io::Error), polled: mpsc::Sender<()>) {
        let shared = Arc::clone(&self.shared);
        let (mut trouble, mut polled) = (Some(trouble), Some(polled));
        let start = clock::instant();
        let (mut next, mut soon, mut is_new) = (Duration::ZERO, Duration::ZERO, false);
        while !shared.stop.load(Ordering::Acquire) {
            let now = start.elapsed();
            is_new |= self.take_requests(now);
            if !self.is_watching() {
                if let Some(elsewhere) = &self.elsewhere {
                    elsewhere.begin_poll(std::iter::empty());
                    elsewhere.published(0);
                }
                polled = None;
                thread::park();
                continue;
            }
            let due = if is_new { soon } else { next };
            if let Some(wait) = due.checked_sub(now).filter(|wait| !wait.is_zero()) {
                thread::park_timeout(wait);
                continue;
            }
            is_new = false;
            if let Err(error) = self.poll(now) {
                // The next poll opens another socket: a late answer may still arrive by this one.
                self.sock_diag = None;
                if let Some(trouble) = trouble.take() {
                    trouble(error);
                }
            }
            polled = None;
            let end = start.elapsed();
            let took = end - now;
            soon = end + took;
            next = (now + POLL_EVERY).max(end + (PAUSE_FACTOR * took).min(PAUSE_MAX));
        }
        drop(polled);
    }

    /// Returns whether a table became watched of which nothing is known yet, or all hosts did.
    fn take_requests(&mut self, now: Duration) -> bool {
        let is_new = self.watch_all(now)
            | self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.take_new());
        let requests = self.requests.iter_mut();
        let requested: Vec<_> =
            requests.flat_map(|requests| std::iter::from_fn(|| requests.pop().ok())).collect();
        requested.iter().fold(is_new, |is_new, &table| self.watch(table, now) | is_new)
    }

    fn watch_all(&mut self, now: Duration) -> bool {
        // After what was published: see `View::any`.
        fence(Ordering::SeqCst);
        if !self.shared.asked_all.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.all.until.replace(now + WATCHED_FOR).is_none() && self.all.connected.is_none()
    }

    /// Returns whether the table was not watched before and nothing is known of it yet.
    fn watch(&mut self, table: TableKey, now: Duration) -> bool {
        let watched = self.tables.entry(table).or_insert_with(|| {
            let ports = Arc::new(PortSet::new(Vec::new()));
            let seen = Seen { poll: 0, ports, watched: false, asked: Arc::default() };
            WatchedTable { seen, seen_at: now, until: now }
        });
        let is_new = !watched.seen.watched && watched.seen.poll == 0;
        watched.seen.watched = true;
        watched.until = now + WATCHED_FOR;
        is_new
    }

    fn is_watching(&self) -> bool {
        self.all.until.is_some()
            || self.tables.values().any(|table| table.seen.watched)
            || self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.is_asked())
    }

    /// Polls all watched tables, and publishes a snapshot also where that fails.
    fn poll(&mut self, now: Duration) -> io::Result<()> {
        self.polls += 1;
        let result = self.ask(now);
        for table in self.tables.values_mut().filter(|table| table.seen.watched) {
            if table.seen.asked.swap(false, Ordering::Relaxed) {
                table.until = now + WATCHED_FOR;
            }
            table.seen.watched = now < table.until;
            if result.is_err() && table.seen_at + KEPT_FOR < now {
                table.seen.poll = 0;
            }
        }
        self.tables.retain(|_, table| {
            table.seen.watched || now.saturating_sub(table.until) < FORGOTTEN_AFTER
        });
        self.all.until.take_if(|until| *until <= now);
        if self.all.until.is_none() || self.all.seen_at + KEPT_FOR < now {
            self.all.connected = None;
        }
        let connected = self.all.connected.clone();
        let known = self.tables.iter().filter(|(_, table)| table.seen.poll > 0);
        let tables = known.map(|(&key, table)| (key, table.seen.clone())).collect();
        let snapshot = Arc::new(Snapshot { number: self.polls, tables, connected });
        self.retired.push(self.published.swap(snapshot));
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.published(self.gathered);
        }
        result
    }

    fn ask(&mut self, now: Duration) -> io::Result<()> {
        let watched = self.tables.iter().filter(|(_, table)| table.seen.watched);
        let watched = watched.map(|(&key, _)| key);
        let elsewhere = self.elsewhere.clone();
        let asked: BTreeSet<_> = elsewhere
            .as_ref()
            .map_or_else(BTreeSet::new, |elsewhere| elsewhere.begin_poll(watched.clone()));
        let all = watched.chain(asked.iter().copied());
        let mut ports: HashMap<TableKey, Vec<u16>> = all.map(|key| (key, Vec::new())).collect();
        let mut hosts: Vec<_> = ports.keys().map(|table| table.nat64).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let mut connected = self.all.until.map(|_| HashSet::new());
        if connected.is_some() {
            // Of all.
            hosts.clear();
        }
        let sock_diag = match &mut self.sock_diag {
            Some(sock_diag) => sock_diag,
            none => none.insert(SockDiag::open()?),
        };
        sock_diag.connections(&hosts, |connection| {
            let (local, remote) = (connection.local, connection.remote);
            let table = TableKey { local: *local.ip(), nat64: *remote.ip() };
            if let Some(ports) = ports.get_mut(&table) {
                ports.push(remote.port());
            }
            if let Some(connected) = &mut connected {
                connected.insert(table);
            }
        })?;
        if let Some(connected) = connected {
            self.all.seen_at = now;
            self.all.connected = Some(Arc::new(connected));
        }
        if let Some(elsewhere) = &elsewhere {
            let answers =
                asked.iter().filter_map(|table| Some((*table, ports.get(table)?.clone())));
            elsewhere.answer(answers.collect());
        }
        self.gathered = 0;
        for (table, mut ports) in ports {
            if let Some(watched) = self.tables.get_mut(&table).filter(|table| table.seen.watched) {
                if let Some(elsewhere) = &elsewhere {
                    self.gathered += elsewhere.gather(table, &mut ports);
                }
                watched.seen_at = now;
                watched.seen.poll = self.polls;
                watched.seen.ports = Arc::new(PortSet::new(ports));
            }
        }
        Ok(())
    }
}
