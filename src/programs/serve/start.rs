//! A server is started: state directory, sockets, state, event log, and one reactor for each core.

use std::io;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use crate::disk::eventlog::Destination;
use crate::disk::fs::{RealDisk, parent};
use crate::disk::storage::{self, StateDirectory};
use crate::handoff::random::SecretHash;
use crate::handoff::server::{AccessList, Budget, Server, ServerConfig};
use crate::handoff::stats::Stats;
use crate::handoff::table::TableLimits;
use crate::handoff::validation::ValidationRate;
use crate::kernel::backend::Io;
use crate::kernel::clock::Clock;
use crate::kernel::confine;
use crate::kernel::entropy;
use crate::kernel::limits;
use crate::kernel::ring::{self, RingRefused};
use crate::kernel::service::PassedFile;
use crate::kernel::socket::kept::KeptSockets;
use crate::kernel::socket::{self, BindError, BoundSockets, ReactorSocket};
use crate::kernel::stderr::{say, warn};
use crate::kernel::successor::Predecessor;
use crate::programs::options::{LogDestination, PeerNames, ServeConfig};
use crate::programs::peer_names::attached_otherwise;
use crate::programs::serve::admin::{
    Admin, AdminShared, AdminState, BanDesk, DoorError, Doors, Gauges,
};
use crate::programs::serve::ban_notes::{BanNotesTaken, ban_notes};
use crate::programs::serve::bans::BanBook;
use crate::programs::serve::deliver::{DeliveryError, DeliverySetup};
use crate::programs::serve::fleet::{FleetError, FleetSetup};
use crate::programs::serve::history::HistorySetup;
use crate::programs::serve::inquiry::{self, Desk, Inquiries};
use crate::programs::serve::live::{self, Poller, Polling};
use crate::programs::serve::names::{
    self, DealtPool, ForgottenUnlessServed, FoundPool, Names, pool_lines,
};
use crate::programs::serve::reactor::ServerShard;
use crate::programs::serve::recording::RecoverError;
use crate::programs::serve::recovery::{Kept, StateAhead, StateFound};
use crate::programs::serve::stop::{LogWatch, Serving};
use crate::programs::serve::thread::{ReadyReactor, Reports, Seat, ThreadsShared};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring cannot be used.
    #[error(transparent)]
    Refused(RingRefused),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(storage::DirectoryError),
    /// The state in it, or the event log, cannot be used.
    #[error(transparent)]
    Recover(RecoverError),
    /// The handoff port cannot be bound.
    #[error(transparent)]
    Bind(BindError),
    /// The system gives us no thread, or no randomness.
    #[error("no {what}: {why}", what = .0, why = limits::explained(.1))]
    System(&'static str, io::Error),
    /// The operator cannot ask where that was wanted.
    #[error(transparent)]
    Admin(DoorError),
    /// Nothing can be delivered where that was wanted.
    #[error(transparent)]
    Delivery(DeliveryError),
    /// This host does not take part in its fleet.
    #[error(transparent)]
    Fleet(FleetError),
    /// The process beside which this one was started has not let it take over.
    #[error("not taking over: {0}")]
    NotLetGo(io::Error),
}

/// Where requests come in, beside tunnels.
fn listening(config: &ServeConfig, bound: &BoundSockets) -> Vec<SocketAddrV4> {
    let sockets = &bound.shards[0];
    sockets.iter().map(ReactorSocket::local).take(sockets.len() - tunnels(config)).collect()
}

/// The process may not open another one.
fn descriptors(error: io::Error) -> StartError {
    StartError::System("descriptors", error)
}

impl Names {
    /// Those that the configuration wants, of all entries. A server that cannot name anybody serves
    /// all the same.
    fn of(
        config: &ServeConfig,
        socket: &ReactorSocket,
        servers: &mut [Server],
        stats: &[Arc<Stats>],
    ) -> (Option<Self>, DealtPool) {
        pool_lines(config).iter().for_each(|line| warn(format_args!("{line}")));
        let mut found = FoundPool::take(config, servers);
        let names = Self::filled(config, socket, servers, stats, &mut found);
        let dealt = found.deal(names.as_ref(), servers, stats);
        (names, dealt)
    }

    fn filled(
        config: &ServeConfig,
        socket: &ReactorSocket,
        servers: &[Server],
        stats: &[Arc<Stats>],
        found: &mut FoundPool,
    ) -> Option<Self> {
        let forgotten = || names::forget(&config.peer_maps, &config.state);
        if config.peer_names == PeerNames::Off {
            // Those of another user are not of this state.
            let _ = forgotten();
            return None;
        }
        let (pool, shares) = match &mut found.pool {
            Some((pool, shares)) => (Some(Arc::clone(pool)), &mut shares[..]),
            None => (None, &mut [][..]),
        };
        let names = Self::open(&config.peer_maps, &config.state, socket, pool);
        let why = match names.and_then(|names| names.fill(servers, stats, shares).map(|()| names)) {
            Ok(names) => {
                say_attached_otherwise(config);
                if config.allow.is_empty() {
                    warn(format_args!(
                        "--peer-names: any IPv4 host can appear as any IPv6 client, as all may be NAT64s: name \
                         yours by --allow"
                    ));
                }
                return Some(names);
            }
            Err(why) => why,
        };
        warn(format_args!("no peer has a name: {why}"));
        if forgotten().is_err() {
            warn(format_args!(
                "names that a server before gave may count for {} s: nothing is answered meanwhile",
                names::VALID_FOR.as_secs()
            ));
            thread::sleep(names::VALID_FOR);
        }
        None
    }
}

/// Where other sockets have names than those that the configuration wants.
fn say_attached_otherwise(config: &ServeConfig) {
    let wanted = config.peer_names;
    let [missing, beside] = attached_otherwise(&config.peer_maps, wanted);
    let cure = format!("as root, nat64handoff peer-names attach --peer-names {wanted}");
    for names in missing {
        warn(format_args!(
            "--peer-names {wanted}: peers of {names} sockets have no name, as that was not attached: {cure}"
        ));
    }
    // Without a pool they have none.
    for names in beside.into_iter().filter(|names| names.has_ipv6()) {
        warn(format_args!(
            "--peer-names {wanted}: peers of {names} sockets are named, too, as that was attached: {cure}"
        ));
    }
}

impl Serving {
    /// Starts everything; when this returns, requests are answered. `on_failure` is called, on
    /// another thread, when a part ends by itself: [`Serving::stop`] says why. It goes on with the
    /// sockets that were `kept`. The calling thread and what it starts from then on can change no
    /// files but those in the directories of state and log ([`confine`]). Where there is a
    /// `predecessor`, that one serves while this one reads the state ahead.
    ///
    /// # Errors
    /// The first thing that is missing; then nothing runs.
    pub fn start(
        config: ServeConfig,
        mut kept: KeptSockets,
        predecessor: Option<Predecessor>,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let ahead = predecessor.map(|serving| Shards::ahead(&config, serving)).transpose()?;
        let log = match &config.log {
            LogDestination::Stdout => Destination::Stdout,
            LogDestination::File(path) => Destination::File(path.clone()),
        };
        let state = StateDirectory::open(&config.state).map_err(StartError::State)?;
        let unless_served = ForgottenUnlessServed::of(&config.peer_maps, &config.state);
        let doors = Doors::open(&config, &mut kept).map_err(StartError::Admin)?;
        let delivery = DeliverySetup::of(&config).map_err(StartError::Delivery)?;
        let fleet = FleetSetup::begin(&config).map_err(StartError::Fleet)?;
        let mut writable = directories(&state, &log);
        writable.extend(delivery.iter().map(|delivery| delivery.device_file().to_owned()));
        writable.extend(doors.directory());
        let history = HistorySetup::of(&config);
        if let Some(history) = &history {
            if !writable.iter().any(|directory| history.folder().starts_with(directory)) {
                history.make_folder();
            }
            writable.push(history.folder().to_owned());
        }
        match confine::to_directories(writable.iter().map(PathBuf::as_path)) {
            Ok(true) => {}
            Ok(false) => say(format_args!("not confined to its directories: no Landlock here")),
            Err(error) => warn(format_args!("not confined to its directories (Landlock): {error}")),
        }
        let attached = Attachments { doors: Some(doors), delivery, fleet };
        let on_failure = Arc::new(on_failure);
        let mut serving = Self::start_on(config, kept, ahead, state, log, attached, on_failure)?;
        unless_served.served();
        let failures = Arc::clone(&serving.history_failures);
        let keeping = history.map(|history| history.start(failures)).transpose();
        serving.history = keeping.unwrap_or_else(|why| {
            warn(format_args!("no history is made, as there is no thread for it: {why}"));
            None
        });
        Ok(serving)
    }

    /// [`Serving::start`] on new sockets, not confined, without an admin socket, with the event log
    /// in another place than the configuration says.
    ///
    /// # Errors
    /// Those of [`Serving::start`].
    pub fn start_with_log(
        config: ServeConfig,
        log: Destination,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let state = StateDirectory::open(&config.state).map_err(StartError::State)?;
        let (kept, attached) =
            (KeptSockets::default(), Attachments { doors: None, delivery: None, fleet: None });
        Self::start_on(config, kept, None, state, log, attached, Arc::new(on_failure))
    }

    fn start_on(
        config: ServeConfig,
        kept: KeptSockets,
        ahead: Option<Shards>,
        state: StateDirectory,
        log: Destination,
        Attachments { doors, delivery, fleet }: Attachments,
        on_failure: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, StartError> {
        let io = choose_io(config.io).map_err(StartError::Refused)?;
        let (bound, mut sockets) = bind(&config, kept)?;
        let (inquiries, asking) =
            Asking::prepare(doors, config.reactors, &mut sockets).map_err(descriptors)?;
        let listen = listening(&config, &bound);
        let handoff_port = listen[0].port();
        let shards = ahead.map_or_else(|| Shards::new(&config, handoff_port), Ok)?;
        let Shards { clock, budget, stats, mut servers, ahead } = shards;
        let (poller, views) = live::prepare(config.reactors, FleetSetup::live(fleet.as_ref()));
        let kept = Kept::of(&config, state, log);
        let sync = kept.sync;
        let StateFound { recording, lines: found } =
            kept.read(handoff_port, &mut servers, ahead).map_err(StartError::Recover)?;
        let bans = bans_of(&config, &clock, &mut servers)?;
        let (names, (pool, naming)) = Names::of(&config, &bound.shards[0][0], &mut servers, &stats);
        let (stop, gauges) = (Arc::new(AtomicBool::new(false)), recording.gauges());
        let (recorders, keeping) =
            recording.begin(clock.clone(), &stop, &on_failure).map_err(StartError::Recover)?;
        let polling = polling_for(poller, &servers);
        let (common, Reports { ready, ended }) =
            ThreadsShared::new(config.reactors, sync, clock.clone(), Arc::clone(&stop), on_failure);
        let (mut deliverers, routes) =
            DeliverySetup::begin(delivery, &mut servers, &stats, pool.as_ref());
        let (mut fleets, fleet) = FleetSetup::seats_of(fleet, &clock).map_err(descriptors)?;
        let parts =
            servers.into_iter().zip(views).zip(recorders).zip(&stats).zip(inquiries).zip(naming);
        let seats = parts.map(|(((((server, live), recorder), stats), inquiries), names)| {
            let (shard, stats) = (ServerShard { server, live }, Arc::clone(stats));
            let (deliverer, fleet, common) = (deliverers.next(), fleets.next(), common.clone());
            Seat { shard, recorder, stats, inquiries, names, deliverer, fleet, common }
        });
        Seat::spawn_all(seats, bound.shards, io)
            .map_err(|error| StartError::System("thread", error))?;
        // `recv` must fail when a reactor ended before it could report.
        drop(common);
        let serving = Serving {
            listen,
            stop,
            wakers: Vec::new(),
            turns: Vec::new(),
            sockets,
            stats,
            ended,
            budget,
            found,
            admin: None,
            names,
            pool,
            is_taken_over: false,
            log_watch: LogWatch::default(),
            routes,
            _polling: polling,
            history: None,
            history_failures: Arc::default(),
            fleet,
            keeping,
        };
        let mut serving = serving.when_ready(config.reactors, &ready, io)?;
        serving.admin = asking.and_then(|its| its.start(&serving, config, clock, gauges, io, bans));
        Ok(serving)
    }

    /// These reactors receive.
    fn has(&mut self, mut reactors: Vec<ReadyReactor>) {
        reactors.sort_unstable_by_key(|reactor| reactor.number);
        let parts = reactors.into_iter().map(|reactor| (reactor.waker, reactor.turns));
        (self.wakers, self.turns) = parts.unzip();
    }

    /// Waits until all reactors receive.
    fn when_ready(
        mut self,
        reactors: usize,
        ready: &mpsc::Receiver<io::Result<ReadyReactor>>,
        io: Io,
    ) -> Result<Self, StartError> {
        let mut all = Vec::with_capacity(reactors);
        for _ in 0..reactors {
            match ready.recv() {
                Ok(Ok(reactor)) => all.push(reactor),
                Ok(Err(error)) => {
                    self.has(all);
                    drop(self.stop());
                    return Err(match io {
                        Io::Uring => StartError::Refused(RingRefused::explain(&error)),
                        Io::Mmsg => {
                            StartError::System("memory or descriptors for a reactor", error)
                        }
                    });
                }
                Err(_) => {
                    let error = io::Error::other("a reactor ended at its start");
                    return Err(StartError::System("reactor", error));
                }
            }
        }
        self.has(all);
        Ok(self)
    }
}

/// What a server has beside its sockets, its state and its log.
struct Attachments {
    /// Where the operator can ask.
    doors: Option<Doors>,
    /// Where packets are delivered.
    delivery: Option<DeliverySetup>,
    /// With whom tables are shared.
    fleet: Option<FleetSetup>,
}

/// What the operator will be answered with, as soon as reactors run.
struct Asking {
    doors: Doors,
    desks: Vec<Desk>,
    notes: BanNotesTaken,
}

impl Asking {
    /// Where the operator can ask anything: that, and where each reactor finds what it is asked.
    /// Adds to `sockets` what is to be handed over.
    fn prepare(
        doors: Option<Doors>,
        reactors: usize,
        sockets: &mut Vec<PassedFile>,
    ) -> io::Result<(Vec<Option<Inquiries>>, Option<Self>)> {
        let Some(doors) = doors.filter(|doors| doors.unix.is_some() || doors.web.is_some()) else {
            return Ok(((0..reactors).map(|_| None).collect(), None));
        };
        sockets.extend(doors.passed()?);
        let (ends, notes) = ban_notes(reactors)?;
        let pairs: Vec<_> = ends.into_iter().map(inquiry::pair).collect::<io::Result<_>>()?;
        let (desks, inquiries) = pairs.into_iter().map(|(desk, its)| (desk, Some(its))).unzip();
        Ok((inquiries, Some(Self { doors, desks, notes })))
    }

    /// A server that nobody can ask serves all the same.
    fn start(
        self,
        serving: &Serving,
        config: ServeConfig,
        clock: Clock,
        gauges: Arc<OnceLock<Gauges>>,
        io: Io,
        bans: BanBook,
    ) -> Option<Admin> {
        let Self { mut doors, desks, notes } = self;
        let since = clock.now().wall;
        let bans = BanDesk::new(bans, config.state.clone(), notes, since);
        let shared = AdminShared {
            config,
            listen: serving.listen.clone(),
            io,
            since,
            clock,
            stats: serving.stats.clone(),
            budget: Arc::clone(&serving.budget),
            pool: serving.pool.clone(),
            history_failures: Arc::clone(&serving.history_failures),
            fleet: serving.fleet.as_ref().map(|fleet| fleet.state.clone()),
            gauges,
            desks,
            wakers: serving.wakers.clone(),
            token: doors.token.take(),
            bans,
            state: AdminState::default(),
        };
        let started = Admin::start(shared, doors);
        started
            .inspect_err(|error| {
                warn(format_args!("nobody is answered at the admin socket: {error}"))
            })
            .ok()
    }
}

/// How many sockets of each reactor are for tunnels of Geneve: the last ones.
fn tunnels(config: &ServeConfig) -> usize {
    config.sockets().len() - config.listen.len()
}

/// The bans that are kept, which count for all `servers`.
fn bans_of(
    config: &ServeConfig,
    clock: &Clock,
    servers: &mut [Server],
) -> Result<BanBook, StartError> {
    let key = entropy::octets().map_err(|error| StartError::System("randomness", error))?;
    let (book, lost) = BanBook::open(&RealDisk, &config.state, SecretHash::new(key), clock.now());
    if let Some(lost) = lost {
        warn(format_args!("{lost}"));
    }
    let bans = book.bans();
    servers.iter_mut().for_each(|server| drop(server.set_bans(bans.clone())));
    Ok(book)
}

/// The way to receive and send: the wanted one, or else io_uring where it can be used.
///
/// # Errors
/// Where io_uring is wanted, and refused.
pub fn choose_io(wanted: Option<Io>) -> Result<Io, RingRefused> {
    if wanted == Some(Io::Mmsg) {
        return Ok(Io::Mmsg);
    }
    match ring::probe() {
        Ok(()) => Ok(Io::Uring),
        Err(refused) if wanted.is_some() => Err(refused),
        Err(refused) => {
            warn(format_args!("using recvmmsg and sendmmsg instead: {refused}"));
            Ok(Io::Mmsg)
        }
    }
}

/// Those in which a server changes files: where its log's path is a link, also the one it leads to.
fn directories(state: &StateDirectory, log: &Destination) -> Vec<PathBuf> {
    let mut directories = vec![state.path().to_owned()];
    if let Destination::File(path) = log {
        directories.push(parent(path).to_owned());
        directories.extend(path.canonicalize().map(|path| parent(&path).to_owned()));
    }
    directories
}

/// Takes the sockets, or those that were `kept`; and once more, to be handed over.
fn bind(
    config: &ServeConfig,
    kept: KeptSockets,
) -> Result<(BoundSockets, Vec<PassedFile>), StartError> {
    let bound =
        socket::bind_or_take(&config.sockets(), config.reactors, kept).map_err(StartError::Bind)?;
    let sockets = bound.keep().map_err(descriptors)?;
    say_lost(bound.lost);
    Ok((bound, sockets))
}

/// Says what is lost where the number of reactors changes.
fn say_lost(datagrams: u64) {
    if datagrams > 0 {
        warn(format_args!(
            "{datagrams} requests that waited in the sockets are lost, as the number of reactors is another now"
        ));
    }
}

/// Polls the kernel for live connections, where it can be asked.
fn polling_for(poller: Poller, servers: &[Server]) -> Option<Polling> {
    let polling = poller.start(servers.iter().flat_map(Server::nearly_full), say_unseen);
    polling.map_err(say_unseen).ok()
}

/// Says what is lost where the kernel cannot be asked for live connections.
fn say_unseen(why: io::Error) {
    warn(format_args!(
        "the kernel does not say which TCP connections are live (sock_diag: {why}): a full table may give the \
         port of an idle one to a new client; let the server open netlink sockets (seccomp filter, \
         RestrictAddressFamilies=), on a kernel that has tcp_diag"
    ));
}

/// What reactors will drive.
struct Shards {
    clock: Clock,
    budget: Arc<Budget>,
    /// One for each shard.
    stats: Vec<Arc<Stats>>,
    servers: Vec<Server>,
    /// What was read for them while another process served.
    ahead: Option<StateAhead>,
}

impl Shards {
    fn new(config: &ServeConfig, handoff_port: u16) -> Result<Self, StartError> {
        let clock = Clock::new();
        let budget = Arc::new(Budget::new(config.nat64s_max, config.entries_max));
        let stats: Vec<_> = (0..config.reactors).map(|_| Arc::<Stats>::default()).collect();
        let shard_config = shard_config(config, handoff_port, Arc::clone(&budget));
        let servers = shards(&shard_config, &stats, &clock)?;
        Ok(Self { clock, budget, stats, servers, ahead: None })
    }

    /// Reads the state while the other process serves, then waits until it does not any more.
    fn ahead(config: &ServeConfig, serving: Predecessor) -> Result<Self, StartError> {
        let handoff_port = config.listen.first().map_or(0, SocketAddrV4::port);
        let mut shards = Self::new(config, handoff_port)?;
        // A port that the kernel chooses is known only when it is bound.
        let has_ports = config.listen.iter().all(|address| address.port() != 0);
        if config.has_journal() && has_ports {
            let read = StateAhead::read(&config.state, config.sync, handoff_port, &shards.servers);
            shards.ahead = read.map_err(StartError::Recover)?;
        }
        if shards.ahead.is_none() {
            serving.say_that_nothing_can_be_done();
            return Err(StartError::NotLetGo(io::Error::other("there is no state to read")));
        }
        serving.take_over().map_err(StartError::NotLetGo)?;
        Ok(shards)
    }
}

/// The configuration of every shard.
fn shard_config(config: &ServeConfig, handoff_port: u16, budget: Arc<Budget>) -> ServerConfig {
    let access = AccessList { allow: config.allow.clone(), deny: config.deny.clone() };
    ServerConfig {
        handoff_port,
        limits: TableLimits { client_share: config.client_share, ..TableLimits::default() },
        create_rate: config.create_rate,
        validation_rate: Arc::new(ValidationRate::new(config.validation_rate)),
        budget,
        access: Arc::new(access),
    }
}

/// The shards, one for each of `all_stats`, that share what `config` says.
fn shards(
    config: &ServerConfig,
    all_stats: &[Arc<Stats>],
    clock: &Clock,
) -> Result<Vec<Server>, StartError> {
    let shard = |stats: &Arc<Stats>| {
        let seed = entropy::octets().map_err(|error| StartError::System("randomness", error))?;
        Ok(Server::new(config.clone(), seed, clock.monotonic(), Arc::clone(stats)))
    };
    all_stats.iter().map(shard).collect()
}
