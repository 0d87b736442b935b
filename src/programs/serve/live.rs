//! Which entries have a live TCP connection: what the kernel says of it, for the reactors (PROTOCOL.md section 6).
//!
//! A thread looks at the connections of this host with the NAT64s of *watched* tables, and publishes what it saw. A
//! table becomes watched when a reactor asks about it, which it does when the table is nearly full, and is watched
//! until nobody has asked for a minute; then what was seen last stands until somebody does. While no table is
//! watched, the thread sleeps.
//!
//! A reactor never waits: it reads what is published, and wakes the thread when a table is to become watched. Before
//! the first look at a table, nothing is known of it; nor where looks fail, or the thread is gone.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// How often watched tables are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A rest is so many times as long as the look before it: looking takes less than 2 % of a core...
const REST: u32 = 50;
/// ...but no longer than this: on busy cores, a look takes longer than its work. Nor does a table wait for it that
/// was never looked at.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long what was seen counts while looks fail.
const COUNTS_FOR: Duration = Duration::from_secs(60);
/// How long the start waits for the first look at tables that are full already.
const START_WAITS: Duration = Duration::from_secs(1);
/// How long a table is watched after it was last asked about.
const WATCHED_FOR: Duration = Duration::from_secs(60);
/// How many tables a reactor can ask to be watched before the thread has heard of the first. Others ask again.
const REQUESTS_MAX: usize = 1024;

/// What is known of a table.
#[derive(Debug, Clone)]
struct Seen {
    /// The last look at it, from 1 on.
    look: u64,
    ports: Arc<PortSet>,
    /// Whether it goes on being looked at.
    watched: bool,
    /// Set by the reactor that asks.
    asked: Arc<AtomicBool>,
}

/// What is known of all tables.
#[derive(Debug, Default)]
struct Published {
    number: u64,
    tables: HashMap<TableKey, Seen>,
}

/// What the thread and those who use it share.
#[derive(Debug, Default)]
struct Shared {
    thread: OnceLock<Thread>,
    stop: AtomicBool,
}

impl Shared {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// A reactor's view.
pub struct Watcher {
    published: Cache<Arc<ArcSwap<Published>>, Arc<Published>>,
    requests: Producer<TableKey>,
    /// What was requested since the publication of this number: once is enough.
    requested: HashSet<TableKey>,
    since: u64,
    shared: Arc<Shared>,
}

impl LiveConnections for Watcher {
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>> {
        let Self { published, requests, requested, since, shared } = self;
        if requests.is_abandoned() {
            return None;
        }
        let published = published.load();
        let seen = published.tables.get(&table);
        match seen {
            Some(Seen { watched: true, asked, .. }) => {
                if !asked.load(Ordering::Relaxed) {
                    asked.store(true, Ordering::Relaxed);
                }
            }
            _ => {
                if *since != published.number {
                    *since = published.number;
                    requested.clear();
                }
                if !requested.contains(&table) && requests.push(table).is_ok() {
                    requested.insert(table);
                    shared.wake();
                }
            }
        }
        seen.map(|seen| LivePorts { poll: seen.look, ports: &seen.ports })
    }
}

/// The thread, before it runs.
pub struct Looker {
    sock_diag: Option<SockDiag>,
    requests: Vec<Consumer<TableKey>>,
    published: Arc<ArcSwap<Published>>,
    /// What was published before and a reactor may still have: so that it never falls to a reactor to free it.
    retired: Vec<Arc<Published>>,
    tables: HashMap<TableKey, Watched>,
    looks: u64,
    shared: Arc<Shared>,
}

/// A table that somebody asked about, now or before.
struct Watched {
    seen: Seen,
    /// When that was.
    seen_at: Duration,
    /// Until when it is watched.
    until: Duration,
}

/// Ends the thread when it is dropped: soon, but nobody waits for it.
pub struct Looking(Arc<Shared>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.wake();
    }
}

/// A thread that does not run yet, and a view for each reactor.
pub fn prepare(reactors: usize) -> (Looker, Vec<Watcher>) {
    let published: Arc<ArcSwap<Published>> = Arc::default();
    let shared: Arc<Shared> = Arc::default();
    let view = |_| {
        let (requests, consumer) = RingBuffer::new(REQUESTS_MAX);
        let watcher = Watcher {
            published: Cache::new(Arc::clone(&published)),
            requests,
            requested: HashSet::new(),
            since: 0,
            shared: Arc::clone(&shared),
        };
        (consumer, watcher)
    };
    let (requests, watchers) = (0..reactors).map(view).unzip();
    let looker = Looker {
        sock_diag: None,
        requests,
        published,
        retired: Vec::new(),
        tables: HashMap::new(),
        looks: 0,
        shared,
    };
    (looker, watchers)
}

impl Looker {
    /// Runs on a thread from now on. Waits for its first look at `tables`, if there are any, but not for long.
    /// `trouble` is told once why the kernel could not be asked.
    ///
    /// # Errors
    /// Why it cannot be asked at all, or there is no thread; then nothing is known of any connection.
    pub fn start(
        mut self,
        tables: impl Iterator<Item = TableKey>,
        trouble: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Looking> {
        self.sock_diag = Some(SockDiag::open()?);
        for table in tables {
            self.watch(table, Duration::ZERO);
        }
        let shared = Arc::clone(&self.shared);
        let (looked, first_look) = mpsc::channel();
        let run = move || self.run(trouble, looked);
        let thread = thread::Builder::new().name("connections".into()).spawn(run)?;
        // Before there is a reactor that could want to wake it.
        let _ = shared.thread.set(thread.thread().clone());
        let looking = Looking(shared);
        // Nothing is sent: the other end is dropped.
        let _ = first_look.recv_timeout(START_WAITS);
        Ok(looking)
    }

    fn run(mut self, trouble: impl FnOnce(io::Error), looked: mpsc::Sender<()>) {
        let shared = Arc::clone(&self.shared);
        let (mut trouble, mut looked) = (Some(trouble), Some(looked));
        let start = clock::instant();
        let (mut next, mut soon, mut is_new) = (Duration::ZERO, Duration::ZERO, false);
        while !shared.stop.load(Ordering::Acquire) {
            let now = start.elapsed();
            is_new |= self.heed_requests(now);
            if !self.is_watching() {
                looked = None;
                thread::park();
                continue;
            }
            let due = if is_new { soon } else { next };
            if let Some(wait) = due.checked_sub(now).filter(|wait| !wait.is_zero()) {
                thread::park_timeout(wait);
                continue;
            }
            is_new = false;
            if let Err(error) = self.look(now) {
                // Whatever is still under way by this socket, nobody wants it any more.
                self.sock_diag = None;
                if let Some(trouble) = trouble.take() {
                    trouble(error);
                }
            }
            looked = None;
            let end = start.elapsed();
            let took = end - now;
            soon = end + took;
            next = (now + LOOK_EVERY).max(end + (REST * took).min(REST_MAX));
        }
        drop(looked);
    }

    /// Whether any table became watched that was never looked at.
    fn heed_requests(&mut self, now: Duration) -> bool {
        let requests = self.requests.iter_mut();
        let requested: Vec<_> =
            requests.flat_map(|requests| std::iter::from_fn(|| requests.pop().ok())).collect();
        requested.iter().fold(false, |is_new, &table| self.watch(table, now) | is_new)
    }

    /// Whether this table is watched only now, and was never looked at.
    fn watch(&mut self, table: TableKey, now: Duration) -> bool {
        let watched = self.tables.entry(table).or_insert_with(|| {
            let ports = Arc::new(PortSet::new(Vec::new()));
            let seen = Seen { look: 0, ports, watched: false, asked: Arc::default() };
            Watched { seen, seen_at: now, until: now }
        });
        let is_new = !watched.seen.watched && watched.seen.look == 0;
        watched.seen.watched = true;
        watched.until = now + WATCHED_FOR;
        is_new
    }

    fn is_watching(&self) -> bool {
        self.tables.values().any(|table| table.seen.watched)
    }

    /// Looks at all watched tables, and publishes what it saw, or that it did not.
    fn look(&mut self, now: Duration) -> io::Result<()> {
        self.looks += 1;
        let result = self.ask(now);
        for table in self.tables.values_mut().filter(|table| table.seen.watched) {
            if table.seen.asked.swap(false, Ordering::Relaxed) {
                table.until = now + WATCHED_FOR;
            }
            table.seen.watched = now < table.until;
            if result.is_err() && table.seen_at + COUNTS_FOR < now {
                table.seen.look = 0;
            }
        }
        let looked_at = self.tables.iter().filter(|(_, table)| table.seen.look > 0);
        let tables = looked_at.map(|(&key, table)| (key, table.seen.clone())).collect();
        let published = Arc::new(Published { number: self.looks, tables });
        self.retired.push(self.published.swap(published));
        self.retired.retain(|published| Arc::strong_count(published) > 1);
        result
    }

    fn ask(&mut self, now: Duration) -> io::Result<()> {
        let watched = self.tables.iter().filter(|(_, table)| table.seen.watched);
        let mut ports: HashMap<TableKey, Vec<u16>> =
            watched.map(|(&key, _)| (key, Vec::new())).collect();
        let mut hosts: Vec<_> = ports.keys().map(|table| table.nat64).collect();
        hosts.sort_unstable();
        hosts.dedup();
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
        })?;
        for (table, ports) in ports {
            if let Some(watched) = self.tables.get_mut(&table) {
                watched.seen_at = now;
                watched.seen.look = self.looks;
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

    /// A connection of this host with `nat64`, which is this host as well: its ends, and the table and the port.
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

    fn is_live(watcher: &mut Watcher, table: TableKey, port: MappedPort) -> Option<bool> {
        watcher.of(table).map(|live| live.ports.contains(port))
    }

    #[test]
    fn section_6_a_watched_table_is_looked_at_until_nobody_asks() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 1));
        let (mut looker, mut watchers) = prepare(2);
        let [watcher, stranger] = &mut watchers[..] else { panic!("two") };
        let at = Duration::from_secs;
        assert_eq!((looker.heed_requests(at(0)), looker.is_watching()), (false, false));
        // It is told once, however often the reactor asks.
        for _ in 0..3 {
            assert_eq!(is_live(watcher, table, port), None);
        }
        assert_eq!((looker.requests[0].slots(), looker.requests[1].slots()), (1, 0));
        assert!(looker.heed_requests(at(0)) && looker.is_watching());
        looker.look(at(0)).unwrap();
        assert_eq!(is_live(watcher, table, port), Some(true));
        assert_eq!(is_live(watcher, table, MappedPort(1)), Some(false));
        assert_eq!(stranger.of(table).unwrap().poll, 1);
        let other = TableKey { local: Ipv4Addr::new(127, 0, 64, 2), ..table };
        assert_eq!(is_live(stranger, other, port), None);
        // The other one is watched from the next look on. The first was asked about just now.
        assert!(looker.heed_requests(at(59)));
        looker.look(at(59)).unwrap();
        assert_eq!(is_live(stranger, other, port), Some(false));
        assert_eq!(is_live(watcher, table, port), Some(true));
        looker.look(at(118)).unwrap();
        assert_eq!(is_live(watcher, table, port), Some(true));
        looker.look(at(177)).unwrap();
        assert!(looker.is_watching());
        assert!(!looker.heed_requests(at(177)));
        looker.look(at(238)).unwrap();
        assert!(!looker.is_watching());
        // What was seen last stands, and the table is watched again: not at once, as something is known of it.
        assert_eq!(is_live(watcher, table, port), Some(true));
        assert!(!looker.heed_requests(at(300)) && looker.is_watching());
        let before = looker.looks;
        looker.look(at(300)).unwrap();
        assert_eq!(watcher.of(table).unwrap().poll, before + 1);
        // No more is kept than a reactor may still look at.
        stranger.of(table);
        looker.look(at(301)).unwrap();
        assert!(looker.retired.len() <= 2, "{}", looker.retired.len());
    }

    #[test]
    fn what_was_seen_does_not_count_for_ever_while_looks_fail() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 5));
        let (mut looker, mut watchers) = prepare(1);
        let [watcher] = &mut watchers[..] else { panic!("one") };
        assert_eq!(is_live(watcher, table, port), None);
        let at = Duration::from_secs;
        assert!(looker.heed_requests(at(0)));
        looker.look(at(0)).unwrap();
        looker.sock_diag = Some(SockDiag::broken());
        for (now, known) in [(1, true), (60, true), (61, false)] {
            assert!(looker.look(at(now)).is_err());
            assert_eq!(is_live(watcher, table, port).is_some(), known, "{now}");
        }
        // It is asked for again, which is nothing new, and known as soon as a look succeeds.
        assert!(!looker.heed_requests(at(61)));
        looker.sock_diag = None;
        looker.look(at(62)).unwrap();
        assert_eq!(is_live(watcher, table, port), Some(true));
        drop(looker);
        assert_eq!(is_live(watcher, table, port), None, "nobody looks any more");
    }

    #[test]
    fn section_6_the_thread_looks_at_once_and_again() {
        let (ours, other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 3));
        let (looker, mut watchers) = prepare(1);
        let looking =
            looker.start(std::iter::empty(), |error| panic!("{error}")).expect("sock_diag");
        let mut wait_until = |wanted| {
            let began = clock::instant();
            while is_live(&mut watchers[0], table, port) != Some(wanted) {
                assert!(began.elapsed() < Duration::from_secs(20), "never {wanted}");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_until(true);
        drop((other, ours));
        wait_until(false);
        drop(looking);
        let began = clock::instant();
        while !watchers[0].requests.is_abandoned() {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn section_6_full_tables_are_known_from_the_start() {
        let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 4));
        let (looker, mut watchers) = prepare(1);
        let _looking = looker.start([table].into_iter(), |error| panic!("{error}")).unwrap();
        assert_eq!(is_live(&mut watchers[0], table, port), Some(true));
    }

    #[test]
    fn a_thread_that_never_ran_is_asked_for_nothing() {
        let (looker, mut watchers) = prepare(1);
        drop(looker);
        let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
        for _ in 0..3 {
            assert!(watchers[0].of(table).is_none());
        }
        assert!(watchers[0].requested.is_empty());
    }
}
