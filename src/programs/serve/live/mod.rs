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
//! A reactor never waits: its [`View`] reads the snapshot, and wakes the thread when a table is to
//! become watched. Nothing is known of a table before its first poll, nor while polls fail for
//! long, nor without the thread.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use rtrb::{Consumer, Producer, RingBuffer};

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

/// A poller that does not run yet, and a view for each reactor.
pub fn prepare(reactors: usize) -> (Poller, Vec<View>) {
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
        let shared = Arc::clone(&self.shared);
        let (polled, first_poll) = mpsc::channel();
        let run = move || self.run(trouble, polled);
        let thread = thread::Builder::new().name("connections".into()).spawn(run)?;
        // No reactor runs yet that could want to wake the thread.
        let _ = shared.thread.set(thread.thread().clone());
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
        let is_new = self.watch_all(now);
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
        self.all.until.is_some() || self.tables.values().any(|table| table.seen.watched)
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
        result
    }

    fn ask(&mut self, now: Duration) -> io::Result<()> {
        let watched = self.tables.iter().filter(|(_, table)| table.seen.watched);
        let mut ports: HashMap<TableKey, Vec<u16>> =
            watched.map(|(&key, _)| (key, Vec::new())).collect();
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
        for (table, ports) in ports {
            if let Some(watched) = self.tables.get_mut(&table) {
                watched.seen_at = now;
                watched.seen.poll = self.polls;
                watched.seen.ports = Arc::new(PortSet::new(ports));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::entry::MappedPort;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    /// A connection of this host with `nat64`, an address of this host too: its ends, its table and
    /// port.
    fn connect(nat64: Ipv4Addr) -> (TcpStream, TcpStream, TableKey, MappedPort) {
        let listener = TcpListener::bind((nat64, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        let (IpAddr::V4(local), SocketAddr::V4(remote)) =
            (ours.local_addr().unwrap().ip(), ours.peer_addr().unwrap())
        else {
            panic!("all over IPv4");
        };
        let table = TableKey { local, nat64: *remote.ip() };
        (ours, other, table, MappedPort(remote.port()))
    }

    fn is_live(view: &mut View, table: TableKey, port: MappedPort) -> Option<bool> {
        view.of(table).map(|live| live.ports.contains(port))
    }

    #[test]
    fn section_6_a_watched_table_is_looked_at_until_nobody_asks() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 1));
        let (mut poller, mut views) = prepare(2);
        let [view, stranger] = &mut views[..] else { panic!("two") };
        let at = Duration::from_secs;
        assert_eq!((poller.take_requests(at(0)), poller.is_watching()), (false, false));
        // However often the reactor asks, it requests the table once.
        for _ in 0..3 {
            assert_eq!(is_live(view, table, port), None);
        }
        assert_eq!((poller.requests[0].slots(), poller.requests[1].slots()), (1, 0));
        assert!(poller.take_requests(at(0)) && poller.is_watching());
        poller.poll(at(0)).unwrap();
        assert_eq!(is_live(view, table, port), Some(true));
        assert_eq!(is_live(view, table, MappedPort(1)), Some(false));
        assert_eq!(stranger.of(table).unwrap().poll, 1);
        let other = TableKey { local: Ipv4Addr::new(127, 0, 64, 2), ..table };
        assert_eq!(is_live(stranger, other, port), None);
        // The other table is watched from now on. The first one was just asked about.
        assert!(poller.take_requests(at(59)));
        poller.poll(at(59)).unwrap();
        assert_eq!(is_live(stranger, other, port), Some(false));
        assert_eq!(is_live(view, table, port), Some(true));
        poller.poll(at(118)).unwrap();
        assert_eq!(is_live(view, table, port), Some(true));
        poller.poll(at(177)).unwrap();
        assert!(poller.is_watching());
        assert!(!poller.take_requests(at(177)));
        poller.poll(at(238)).unwrap();
        assert!(!poller.is_watching());
        // The last snapshot stays, and the table is watched again, without haste as something is
        // known.
        assert_eq!(is_live(view, table, port), Some(true));
        assert!(!poller.take_requests(at(300)) && poller.is_watching());
        let before = poller.polls;
        poller.poll(at(300)).unwrap();
        assert_eq!(view.of(table).unwrap().poll, before + 1);
        // Only the snapshots are kept that a reactor may still read.
        stranger.of(table);
        poller.poll(at(301)).unwrap();
        assert!(poller.retired.len() <= 2, "{}", poller.retired.len());
        // The other one has not been asked about for long.
        let is_known = |poller: &Poller| poller.tables.contains_key(&other);
        assert!(is_known(&poller));
        poller.poll(at(1000)).unwrap();
        assert!(!is_known(&poller) && stranger.of(other).is_none());
    }

    #[test]
    fn a_snapshot_is_forgotten_while_polls_fail() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 5));
        let (mut poller, mut views) = prepare(1);
        let [view] = &mut views[..] else { panic!("one") };
        assert_eq!(is_live(view, table, port), None);
        let at = Duration::from_secs;
        assert!(poller.take_requests(at(0)));
        poller.poll(at(0)).unwrap();
        poller.sock_diag = Some(SockDiag::broken());
        for (now, known) in [(1, true), (60, true), (61, false)] {
            assert!(poller.poll(at(now)).is_err());
            assert_eq!(is_live(view, table, port).is_some(), known, "{now}");
        }
        // It is still watched, and known as soon as a poll succeeds.
        assert!(!poller.take_requests(at(61)));
        poller.sock_diag = None;
        poller.poll(at(62)).unwrap();
        assert_eq!(is_live(view, table, port), Some(true));
        drop(poller);
        assert_eq!(is_live(view, table, port), None, "nobody polls any more");
    }

    #[test]
    fn section_5_all_hosts_with_a_connection_are_known_while_somebody_asks() {
        let (_ours, _other, table, _) = connect(Ipv4Addr::new(127, 0, 64, 6));
        let (mut poller, mut views) = prepare(1);
        let [view] = &mut views[..] else { panic!("one") };
        let at = Duration::from_secs;
        assert!(!poller.take_requests(at(0)) && !poller.is_watching());
        assert_eq!(view.any(table), None);
        assert!(poller.take_requests(at(1)) && poller.is_watching());
        poller.poll(at(1)).unwrap();
        let stranger = TableKey { nat64: Ipv4Addr::new(127, 0, 64, 7), ..table };
        assert_eq!((view.any(table), view.any(stranger)), (Some(true), Some(false)));
        // It is known already: there is no haste.
        assert!(!poller.take_requests(at(60)) && poller.is_watching());
        poller.poll(at(119)).unwrap();
        assert_eq!(view.any(table), Some(true));
        // While polls fail.
        poller.sock_diag = Some(SockDiag::broken());
        assert!(!poller.take_requests(at(120)) && poller.poll(at(179)).is_err());
        assert_eq!(view.any(table), Some(true));
        assert!(poller.poll(at(179) + at(1)).is_err());
        assert_eq!(view.any(table), None);
        poller.sock_diag = None;
        poller.shared.asked_all.store(false, Ordering::Relaxed);
        poller.poll(at(300)).unwrap();
        assert_eq!(view.any(table), None);
        assert!(poller.take_requests(at(300)), "asked anew");
        poller.poll(at(300)).unwrap();
        assert_eq!(view.any(table), Some(true));
        poller.take_requests(at(301));
        poller.poll(at(361)).unwrap();
        assert!(!poller.is_watching());
    }

    #[test]
    fn section_6_the_thread_looks_at_once_and_again() {
        let (ours, other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 3));
        let (poller, mut views) = prepare(1);
        let polling =
            poller.start(std::iter::empty(), |error| panic!("{error}")).expect("sock_diag");
        let mut wait_until = |wanted| {
            let began = clock::instant();
            while is_live(&mut views[0], table, port) != Some(wanted) {
                assert!(began.elapsed() < Duration::from_secs(20), "never {wanted}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_until(true);
        drop((other, ours));
        wait_until(false);
        drop(polling);
        let began = clock::instant();
        while !views[0].requests.is_abandoned() {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn section_6_full_tables_are_known_from_the_start() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 4));
        let (poller, mut views) = prepare(1);
        let _polling = poller.start([table].into_iter(), |error| panic!("{error}")).unwrap();
        assert_eq!(is_live(&mut views[0], table, port), Some(true));
    }

    #[test]
    fn a_thread_that_never_ran_is_asked_for_nothing() {
        let (poller, mut views) = prepare(1);
        drop(poller);
        let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
        for _ in 0..3 {
            assert!(views[0].of(table).is_none());
        }
        assert!(views[0].requested.is_empty());
    }
}
