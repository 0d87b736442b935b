//! The fleet is started: a run begins, its thread, and a seat for each reactor.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use std::vec;

use thiserror::Error;
use tokio::sync::Notify;

use super::folding::FleetGauges;
use super::lines::LoggedBefore;
use super::queues::{SeatEnd, SeatShared, seat_ends};
use super::seat::FleetSeat;
use super::thread::FleetPlace;
use crate::disk::fleet::{FoldLimits, Folder, ShardRun};
use crate::handoff::ownership::{HostId, HostRun};
use crate::handoff::random::SecretHash;
use crate::kernel::clock::Clock;
use crate::kernel::entropy;
use crate::programs::options::{Deliver, FleetOptions, LogDestination, PeerNames, ServeConfig};
use crate::programs::serve::live::LiveElsewhere;

/// Why a host does not take part in its fleet.
#[derive(Debug, Error)]
pub enum FleetError {
    /// There is no engine in this program.
    #[error("--fleet: this program was built without it: build it with --features fleet")]
    NotBuilt,
    /// What belongs to it is missing.
    #[error("{0}")]
    Lacks(String),
    /// What goes by changes that may not be recorded yet.
    #[error("{0}: a host of a fleet cannot do that yet; drop it, or --fleet")]
    NotYet(&'static str),
    /// Other hosts cannot pass requests on to this one.
    #[error(
        "--fleet-address {0}: {1}; name an address of this host alone, and a port that is free"
    )]
    Address(SocketAddrV4, io::Error),
    /// A file with a certificate or a key cannot be read.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// The system gives us no thread, or no randomness.
    #[error("--fleet: no {0}: {1}")]
    System(&'static str, io::Error),
}

/// The fleet, as far as it is there before the reactors are.
pub struct FleetSetup {
    run: HostRun,
    ends: Vec<SeatEnd>,
    socket: UdpSocket,
    shared: Vec<Arc<SeatShared>>,
    gauges: Arc<FleetGauges>,
    notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
    withdraw: Duration,
    live: Arc<LiveElsewhere>,
}

impl FleetSetup {
    /// Starts the thread, which connects to the engine: to be called before the process is
    /// confined. `None`: this host is alone.
    ///
    /// # Errors
    /// Where it cannot take part.
    pub fn begin(config: &ServeConfig) -> Result<Option<Self>, FleetError> {
        if let Some(what) = config.fleet_lacks() {
            return Err(FleetError::Lacks(what));
        }
        let Some(options) = config.fleet_options() else { return Ok(None) };
        if config.peer_names != PeerNames::Off {
            return Err(FleetError::NotYet("--peer-names"));
        }
        if config.deliver_ways().any(|way| way != Deliver::Cache) {
            return Err(FleetError::NotYet("--deliver"));
        }
        let random = |error| FleetError::System("randomness", error);
        let number = u64::from_be_bytes(entropy::octets().map_err(random)?);
        let run = HostRun { host: HostId(options.host), number };
        let refused = |error| FleetError::Address(options.address, error);
        let socket = UdpSocket::bind(options.address).map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let notify = Arc::<Notify>::default();
        let (ends, theirs): (Vec<_>, Vec<_>) =
            (0..config.reactors).map(|_| seat_ends(&notify)).unzip();
        let shared = ends.iter().map(|end| Arc::clone(&end.shared)).collect();
        let stop = Arc::<AtomicBool>::default();
        let clock = Clock::new();
        let live = Arc::new(LiveElsewhere::new(run, clock.clone()));
        let place = FleetPlace {
            run,
            at: options.address,
            new_secret: entropy::octets().map_err(random)?,
            log: log_of(config),
            clock,
            live: Arc::clone(&live),
        };
        let its_socket = socket.try_clone().map_err(refused)?;
        let gauges = Arc::<FleetGauges>::default();
        let threads = FleetThreads { gauges: &gauges, notify: &notify, stop: &stop };
        let folder = Folder {
            by: run,
            handoff_port: config.listen.first().map_or(0, SocketAddrV4::port),
            hash: SecretHash::new(entropy::octets().map_err(random)?),
            limits: FoldLimits::default(),
        };
        threads.spawn(&options, place, theirs, its_socket, folder)?;
        let withdraw = options.withdraw;
        Ok(Some(Self { run, ends, socket, shared, gauges, notify, stop, withdraw, live }))
    }

    /// What hosts tell each other of live connections, if it is a fleet.
    pub fn live(setup: Option<&Self>) -> Option<Arc<LiveElsewhere>> {
        setup.map(|setup| Arc::clone(&setup.live))
    }

    /// The seats of all reactors, if it is a fleet; and what it is, to be stopped when they have
    /// ended.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn seats_of(
        setup: Option<Self>,
        clock: &Clock,
    ) -> io::Result<(vec::IntoIter<Box<FleetSeat>>, Option<RunningFleet>)> {
        let Some(setup) = setup else {
            return Ok((Vec::new().into_iter(), None));
        };
        let Self { run, ends, socket, shared, gauges, notify, stop, withdraw, live } = setup;
        let (shards, now) = (ends.len(), clock.monotonic());
        let seats = ends.into_iter().zip(0..).map(|(end, shard)| {
            let me = ShardRun { run, shard };
            Ok(Box::new(FleetSeat::new(me, shards, now, end, socket.try_clone()?)))
        });
        let seats: Vec<_> = seats.collect::<io::Result<_>>()?;
        let (left, clock) = (Arc::default(), clock.clone());
        let state = FleetState { seats: Arc::new(shared), gauges, withdraw, left, clock, live };
        Ok((seats.into_iter(), Some(RunningFleet { state, notify, stop })))
    }
}

/// The event log, if it can be read.
fn log_of(config: &ServeConfig) -> Option<LoggedBefore> {
    match &config.log {
        LogDestination::Stdout => None,
        LogDestination::File(path) => {
            Some(LoggedBefore { path: path.clone(), format: config.log_format })
        }
    }
}

/// How long a host that stops waits until others have its tables, and have seen that.
const HAND_OVER_WAIT: Duration = Duration::from_secs(3);
/// How long it stays then, and that has to be so still: what was passed on to it before may arrive
/// later, and so may a table that was being given to it.
const HAND_OVER_ECHO: Duration = Duration::from_millis(100);
/// Where nobody was heard for so long who may be given tables, nobody is waited for.
const HAND_OVER_ALONE: Duration = Duration::from_millis(300);
/// How often it looks.
const HAND_OVER_LOOKED: Duration = Duration::from_millis(10);

/// How this host does in the fleet.
#[derive(Clone)]
pub struct FleetState {
    seats: Arc<Vec<Arc<SeatShared>>>,
    gauges: Arc<FleetGauges>,
    /// How long it goes on when it leaves, at least.
    withdraw: Duration,
    /// Since when it leaves.
    left: Arc<OnceLock<Duration>>,
    clock: Clock,
    live: Arc<LiveElsewhere>,
}

impl FleetState {
    /// Whether the network should send requests here.
    pub fn is_ready(&self) -> bool {
        self.seats.iter().all(|seat| seat.is_ready.load(Ordering::Acquire))
    }

    /// How many tables this host has.
    pub fn owned(&self) -> u64 {
        self.seats.iter().map(|seat| seat.owned.load(Ordering::Acquire)).sum()
    }

    /// What the threads know.
    pub fn gauges(&self) -> &FleetGauges {
        &self.gauges
    }

    /// How many ports with live connections on other hosts are known, of nearly full tables.
    pub fn live_elsewhere(&self) -> u64 {
        self.live.ports()
    }

    /// Whether it gives all tables away.
    pub fn leaves(&self) -> bool {
        self.seats.iter().any(|seat| seat.leaves.load(Ordering::Acquire))
    }

    /// From now on it gives all tables to other hosts, and gets none.
    pub fn leave(&self) {
        self.left.get_or_init(|| self.clock.monotonic());
        self.seats.iter().for_each(|seat| seat.leaves.store(true, Ordering::Release));
    }

    /// Whether any other host is heard that may be given tables.
    pub fn hears_others(&self) -> bool {
        self.seats.iter().any(|seat| seat.hears_others.load(Ordering::Acquire))
    }

    /// Whether all tables are others', and no request is passed on to this host any more.
    pub fn is_followed(&self) -> bool {
        self.seats.iter().all(|seat| seat.is_followed.load(Ordering::Acquire))
    }

    /// Gives all tables to other hosts, where there are any, and waits until they have seen that,
    /// but not for long; and until the network may have seen that this one is not ready, unless
    /// another process `goes_on` with its sockets. Requests are answered meanwhile.
    pub fn hand_over(&self, goes_on: bool) {
        self.leave();
        let began = self.clock.monotonic();
        let (mut now, mut heard) = (began, None);
        while now.saturating_sub(began) < HAND_OVER_WAIT {
            if self.hears_others() {
                heard = Some(now);
            }
            if self.is_followed() {
                thread::sleep(HAND_OVER_ECHO);
                if self.is_followed() {
                    break;
                }
            } else if now.saturating_sub(heard.unwrap_or(began)) >= HAND_OVER_ALONE {
                break;
            }
            thread::sleep(HAND_OVER_LOOKED);
            now = self.clock.monotonic();
        }
        // Where nobody else was there, no other route leads to anybody.
        if heard.is_some() && !goes_on {
            let left = self.left.get().copied().unwrap_or(began);
            let passed = self.clock.monotonic().saturating_sub(left);
            thread::sleep(self.withdraw.saturating_sub(passed));
        }
    }
}

/// A fleet that this host takes part in. It ends with the value.
pub struct RunningFleet {
    pub state: FleetState,
    notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
}

impl Drop for RunningFleet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// What the threads share with the rest.
struct FleetThreads<'a> {
    #[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "there are no threads"))]
    gauges: &'a Arc<FleetGauges>,
    #[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "there are no threads"))]
    notify: &'a Arc<Notify>,
    #[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "there are no threads"))]
    stop: &'a Arc<AtomicBool>,
}

#[cfg(not(feature = "fleet"))]
impl FleetThreads<'_> {
    fn spawn(
        self,
        _: &FleetOptions,
        _: FleetPlace,
        _: Vec<super::queues::ThreadEnd>,
        _: UdpSocket,
        _: Folder,
    ) -> Result<(), FleetError> {
        Err(FleetError::NotBuilt)
    }
}

#[cfg(feature = "fleet")]
impl FleetThreads<'_> {
    /// One that speaks for the reactors, and one that folds the log: each has connections of its
    /// own, as folding takes long.
    fn spawn(
        self,
        options: &FleetOptions,
        place: FleetPlace,
        ends: Vec<super::queues::ThreadEnd>,
        socket: UdpSocket,
        folder: Folder,
    ) -> Result<(), FleetError> {
        use crate::disk::fleet::etcd::{Etcd, EtcdAccess};

        let read = |path: &std::path::PathBuf| {
            let octets = std::fs::read(path);
            octets.map_err(|error| FleetError::File(path.display().to_string(), error))
        };
        let authority = options.authority.as_ref().map(read).transpose()?;
        let identity = match &options.identity {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        let nodes = options.nodes.iter().map(|node| node.url.clone()).collect();
        let user = options.nodes.iter().find_map(|node| node.user.clone());
        let access = EtcdAccess { nodes, user, authority, identity };
        let (cell, its_access) = (options.cell.clone(), access.clone());
        let (gauges, stop) = (Arc::clone(self.gauges), Arc::clone(self.stop));
        let fold_at = options.fold_at;
        spawn_loop("fleet-fold", async move || {
            super::folding::folds(Etcd::new(its_access, &cell), folder, fold_at, gauges, stop)
                .await;
            Ok(())
        })?;
        let Self { gauges, notify, stop } = self;
        let (gauges, notify, stop) = (Arc::clone(gauges), Arc::clone(notify), Arc::clone(stop));
        let cell = options.cell.clone();
        spawn_loop("fleet", async move || {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let engine = Etcd::new(access, &cell);
            super::thread::live(engine, place, ends, socket, gauges, notify, stop).await;
            Ok(())
        })
    }
}

/// A thread with a loop of its own.
#[cfg(feature = "fleet")]
fn spawn_loop(
    name: &str,
    life: impl AsyncFnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), FleetError> {
    let life = move || -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, life())
    };
    let run = move || {
        if let Err(error) = life() {
            crate::kernel::stderr::warn(format_args!("--fleet: a thread has ended: {error}"));
        }
    };
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(|error| FleetError::System("thread", error))
}
