//! The options of `serve`: one row an option.
//!
//! A row is all that there is to an option: its name (and with it the environment variable and the
//! key in the file), its help, the check of its value, its default, how `check-config` shows it,
//! and the field of [`ServeConfig`] that it makes. A row of README's table goes with it; a test
//! compares the two.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;

use super::about::About;
use super::config::{Configuration, Options, options};
use super::delivery::{self, Deliver, DeliverPort};
use super::environment::Environment;
use super::fleet::{self, FleetNode};
use super::history::HistoryDestination;
use super::layers::{Layers, Origin, Row, UsageError, UsageErrors};
use super::peers::{self, PeerNames};
use super::values::{
    self, count, integer, listen_addresses, networks, not_empty, path, strings, sync_policy,
    whole_number,
};
use crate::disk::fleet::CellName;
use crate::disk::fs::parent;
use crate::disk::history::FOLDER;
use crate::disk::storage::SyncPolicy;
use crate::handoff::change::LogFormat;
use crate::handoff::pool::{PoolSettings, PoolUnit};
use crate::ip::geneve::GENEVE_PORT;
use crate::kernel::backend::Io;

/// The bounds of the default of `--max-entries`. The lower one is a full table of one NAT64: the
/// ports from 1024 on without the reserved ones.
const ENTRIES_DEFAULT_MIN: u64 = 64_508;
const ENTRIES_DEFAULT_MAX: u64 = 16_000_000;
/// By default, entries may take this part of the memory: a quarter.
const ENTRIES_MEMORY_SHARE: u64 = 4;
/// Where that is less than a full table, half of the memory.
const ENTRIES_MEMORY_SHARE_MAX: u64 = 2;
/// Octets of an entry that has a client of its own, with the longest authenticator.
const ENTRY_OCTETS: u64 = 700;
/// With less, not even a small NAT64 could be served.
const ENTRIES_MIN: usize = 8;
const REACTORS_MAX: usize = 256;
/// A hundred years.
const LOG_KEEP_MAX: u32 = 36_525;

/// How the help and the manual group them.
const NETWORK: &str = "Network";
const STORAGE: &str = "Storage";
const LIMITS: &str = "Limits";
const PEERS: &str = "Peers";
const DELIVERY: &str = "Delivery";
const FLEET: &str = "Fleet";
const ADMIN: &str = "Admin";

options! {
    /// How the server is to run: complete and valid.
    #[derive(Debug, Clone, PartialEq)]
    struct ServeConfig;
    mod rows;

    pub listen: Vec<SocketAddrV4> =
        "IPv4 address and port to take requests at; may be repeated, with the same port",
        Row::list("listen", "ADDR[:PORT]", |list, layers| {
            // What is wrong with the port is said of the port.
            listen_addresses(list, layers.find(&port()).ok().map(|(port, _)| port))
        })
        .group(NETWORK)
        .default_with("0.0.0.0:64064", |layers| {
            let (port, origin) = layers.find(&port())?;
            Ok((vec![SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)], origin))
        })
        .shown(|addresses| strings(addresses));

    let port: u16 =
        "The port of each --listen that names none",
        Row::number("port", "N", |text| whole_number(text, 1..=u16::MAX))
            .group(NETWORK)
            .default("64064");

    pub allow: Vec<Ipv4Net> =
        "Serve only NAT64s in this network; may be repeated",
        Row::list("allow", "CIDR", |list, _| networks(list))
            .group(NETWORK)
            .default_with("all", |_| Ok((Vec::new(), Origin::Default)))
            .shown(|networks| strings(networks));

    pub deny: Vec<Ipv4Net> =
        "Do not serve NAT64s in this network, even if allowed; may be repeated",
        Row::list("deny", "CIDR", |list, _| networks(list))
            .group(NETWORK)
            .default_with("none", |_| Ok((Vec::new(), Origin::Default)))
            .shown(|networks| strings(networks));

    pub reactors: usize =
        "Number of threads that handle requests, 1 to 256",
        Row::number("reactors", "N", |text| whole_number(text, 1..=REACTORS_MAX))
            .group(NETWORK)
            .default_with("one per available CPU", |layers| {
                let cpus = layers.environment.cpus.unwrap_or(1);
                Ok((cpus.clamp(1, REACTORS_MAX), Origin::Default))
            })
            .shown(integer);

    pub io: Option<Io> =
        "How datagrams are received and sent: by io_uring, by recvmmsg and sendmmsg, or auto: by \
         io_uring where it is allowed",
        Row::word("io", "auto|uring|mmsg", values::io)
            .group(NETWORK)
            .default("auto")
            .shown(|io| io.map_or("auto", Io::name).into());

    pub state: PathBuf =
        "Directory for the state; made if it does not exist",
        Row::path("state", "DIR", not_empty)
            .group(STORAGE)
            .default_with("$STATE_DIRECTORY or ./state", |layers| {
                Ok(match layers.environment.directory("STATE_DIRECTORY") {
                    Some(directory) => (directory, Origin::Variable("STATE_DIRECTORY")),
                    None => ("./state".into(), Origin::Default),
                })
            })
            .shown(|directory| path(directory));

    pub log: LogDestination =
        "File to append the event log to, - for standard output",
        Row::path("log", "FILE|-", |path| not_empty(path).map(LogDestination::of))
            .group(STORAGE)
            .default_with("$LOGS_DIRECTORY/events.log or -", |layers| {
                Ok(match layers.environment.directory("LOGS_DIRECTORY") {
                    Some(directory) => {
                        let file = LogDestination::File(directory.join("events.log"));
                        (file, Origin::Variable("LOGS_DIRECTORY"))
                    }
                    None => (LogDestination::Stdout, Origin::Default),
                })
            })
            .shown(|log| path(log.path()));

    pub log_format: LogFormat =
        "full: name the local address and the NAT64 prefix in each line, too; json: all of that as \
         JSON lines",
        Row::word("log-format", "plain|full|json", values::log_format)
            .group(STORAGE)
            .default("plain")
            .shown(|format| match format {
                LogFormat::Plain => "plain".into(),
                LogFormat::Full => "full".into(),
                LogFormat::Json => "json".into(),
            });

    pub history: HistoryDestination =
        "Folder for the history, by which the log is asked; off: none is built",
        Row::path("history", "DIR|off", |path| not_empty(path).map(HistoryDestination::of))
            .group(STORAGE)
            .default_with("history beside the log's file", |layers| {
                let (log, _) = layers.find(&log())?;
                let history = match log {
                    LogDestination::File(log) => {
                        HistoryDestination::Folder(parent(&log).join(FOLDER))
                    }
                    LogDestination::Stdout => HistoryDestination::Off,
                };
                Ok((history, Origin::Default))
            })
            .shown(|history| path(history.path()));

    pub log_keep: u32 =
        "Days for which files of former days of the log and its history are kept; 0: for ever",
        Row::number("log-keep", "DAYS", |text| whole_number(text, 0..=LOG_KEEP_MAX))
            .group(STORAGE)
            .default("180")
            .shown(|&days| i64::from(days).into());

    pub sync: SyncPolicy =
        "When the journal is made durable: whenever the kernel likes, before each answer that \
         depends on it, or so often",
        Row::word("sync", "none|always|interval:DURATION", sync_policy)
            .group(STORAGE)
            .default("interval:100ms")
            .shown(|sync| sync.to_string().into());

    pub journal: bool =
        "Keep no journal: nothing survives. For measurements",
        Row::switch("no-journal", || false).without(|_| Ok((true, Origin::Default)));

    pub nat64s_max: usize =
        "NAT64s to serve at most; then the least worthy makes room",
        Row::number("max-nat64s", "N", |text| count(text, 1..=1_000_000))
            .group(LIMITS)
            .default("1000")
            .shown(integer);

    pub entries_max: usize =
        "Entries to hold at most, for all NAT64s together",
        Row::number("max-entries", "N", |text| count(text, ENTRIES_MIN..=1_000_000_000))
            .group(LIMITS)
            .default_with("what fits in a quarter of the memory that it may have", |layers| {
                Ok(match &layers.environment.memory {
                    Some(memory) => {
                        let mebioctets = memory.octets >> 20;
                        let why = format!("for {mebioctets} MiB by {}", memory.by);
                        (entries_for(memory.octets), Origin::Machine(why))
                    }
                    None => (ENTRIES_DEFAULT_MIN as usize, Origin::Default),
                })
            })
            .shown(integer);

    pub client_share: f64 =
        "Share of a NAT64's ports that one client network (/64) may have, 1/1024 to 1",
        Row::number("client-share", "F", values::client_share)
            .group(LIMITS)
            .default("0.125")
            .shown(|&share| share.into());

    pub validation_rate: u32 =
        "Validation packets to send at most in a second",
        Row::number("validation-rate", "N", |text| count(text, 1..=10_000_000))
            .group(LIMITS)
            .default("10000")
            .shown(|&rate| i64::from(rate).into());

    pub create_rate: u32 =
        "Entries to create for one NAT64 at most in a second, after two whole tables at once",
        Row::number("create-rate", "N", |text| count(text, 1..=10_000_000))
            .group(LIMITS)
            .default("2000")
            .shown(|&rate| i64::from(rate).into());

    pub peer_names: PeerNames =
        "Programs on this host see the clients of NAT64s as their peers, once peer-names attach was run: \
         ipv6: those that listen at `[::]`; ipv4: those that listen at 0.0.0.0, by addresses of --peer-pool",
        Row::word("peer-names", "off|ipv6|ipv4|both", PeerNames::parse)
            .group(PEERS)
            .default("off")
            .shown(|names| names.to_string().into());

    pub peer_maps: PathBuf =
        "Where peer-names attach has the maps of these names",
        Row::path("peer-maps", "DIR", not_empty)
            .group(PEERS)
            .default("/sys/fs/bpf/nat64handoff")
            .shown(|directory| path(directory));

    pub peer_pool: Ipv4Net =
        "Network of the IPv4 addresses that stand for clients (--peer-names ipv4, --deliver translate): none \
         that is in use",
        Row::word("peer-pool", "NET", peers::pool)
            .group(PEERS)
            .default("100.64.0.0/12")
            .shown(|network| network.to_string().into());

    pub peer_pool_for: PoolUnit =
        "For whom such an address stands: for all clients of a /64, or for each client address, as always \
         with --deliver translate",
        Row::word("peer-pool-for", "prefix64|address", peers::pool_unit)
            .group(PEERS)
            .default("prefix64")
            .shown(|&unit| peers::shown_unit(unit).into());

    pub peer_pool_idle: Duration =
        "How long such an address is kept for clients that have no entry (with --deliver translate, 2 h \
         4 min or more); each start begins anew",
        Row::word("peer-pool-idle", "DURATION", peers::pool_idle)
            .group(PEERS)
            .default("1h")
            .shown(|idle| humantime::format_duration(*idle).to_string().into());

    pub deliver: Deliver =
        "How packets of clients reach programs on this host: cache: their NAT64 translates them; native: \
         this server delivers them as they are, through --deliver-device; translate: it delivers them as \
         IPv4, from an address of --peer-pool for each client; auto: native where a socket of IPv6 takes the \
         port's packets, else cache",
        Row::word("deliver", "cache|native|translate|auto", Deliver::parse)
            .group(DELIVERY)
            .default("cache")
            .shown(|deliver| deliver.to_string().into());

    pub deliver_ports: Vec<DeliverPort> =
        "The same for packets to this port alone, like 80=native; may be repeated",
        Row::list("deliver-port", "PORT=HOW", |list, _| delivery::ports(list))
            .group(DELIVERY)
            .default_with("none", |_| Ok((Vec::new(), Origin::Default)))
            .shown(|ports| strings(ports));

    pub deliver_device: String =
        "The TUN device through which packets are delivered",
        Row::word("deliver-device", "NAME", delivery::device)
            .group(DELIVERY)
            .default("ho0")
            .shown(|name| name.as_str().into());

    pub deliver_services: Vec<Ipv6Addr> =
        "IPv6 address by which clients reach this host, behind a NAT64's prefix, like \
         64:ff9b::203.0.113.5; may be repeated",
        Row::list("deliver-service", "ADDRESS", |list, _| delivery::services(list))
            .group(DELIVERY)
            .default_with("those that the device has", |_| Ok((Vec::new(), Origin::Default)))
            .shown(|services| strings(services));

    pub geneve: bool =
        "Take offers of NAT64s to send clients' packets through a Geneve tunnel, at UDP port 6081; what comes \
         so is delivered natively, or translated where its port is: needs --deliver native",
        Row::word("geneve", "on|off", delivery::geneve)
            .group(DELIVERY)
            .default("off")
            .shown(|&on| delivery::shown_geneve(on).into());

    pub fleet: Vec<FleetNode> =
        "Share the tables with the other hosts that have the same addresses, on etcd: http://HOST:PORT of each \
         of its nodes; may be repeated",
        Row::list("fleet", "URL", |list, _| fleet::nodes(list))
            .group(FLEET)
            .default_with("none", |_| Ok((Vec::new(), Origin::Default)))
            .shown(|nodes| strings(nodes));

    pub fleet_cell: CellName =
        "Name of the cell: those hosts",
        fleet::cell_row().group(FLEET);

    pub fleet_host: Option<u32> =
        "Number of this host, which no other of the cell has",
        fleet::host_row().group(FLEET);

    pub fleet_address: Option<SocketAddrV4> =
        "Address of this host alone, and a UDP port, to which the others pass requests on",
        fleet::address_row().group(FLEET);

    pub fleet_fold: u64 =
        "Octets of records in etcd at which they are folded into snapshots",
        fleet::fold_row().group(FLEET);

    pub fleet_withdraw: Duration =
        "How long a host that stops goes on after /readyz has failed, so that its route is withdrawn",
        fleet::withdraw_row().group(FLEET);

    pub fleet_authority: Option<PathBuf> =
        "File with the certificate that those of etcd are signed with, for https",
        fleet::file_row("fleet-authority").group(FLEET);

    pub fleet_certificate: Option<PathBuf> =
        "File with this host's certificate for etcd",
        fleet::file_row("fleet-certificate").group(FLEET);

    pub fleet_key: Option<PathBuf> =
        "File with its key",
        fleet::file_row("fleet-key").group(FLEET);

    pub admin: AdminPlace =
        "Unix socket at which `status` and the like ask the server, over HTTP; off: none",
        Row::path("admin", "PATH|off", |path| not_empty(path).map(AdminPlace::of))
            .group(ADMIN)
            .default_with("$RUNTIME_DIRECTORY/admin.sock, or admin.sock in the state directory", |layers| {
                Ok(match layers.environment.directory("RUNTIME_DIRECTORY") {
                    Some(directory) => {
                        let place = AdminPlace::Default(directory.join(ADMIN_SOCKET));
                        (place, Origin::Variable("RUNTIME_DIRECTORY"))
                    }
                    None => {
                        let (state, _) = layers.find(&state())?;
                        (AdminPlace::Default(state.join(ADMIN_SOCKET)), Origin::Default)
                    }
                })
            })
            .shown(|place| path(place.shown()));

    pub web: Option<SocketAddr> =
        "Address and port at which the same is served over TCP, or off",
        Row::word("web", "ADDR:PORT|off", values::web)
            .group(ADMIN)
            .default("off")
            .shown(|web| web.map_or("off".into(), |web| web.to_string().into()));

    pub web_token: Option<PathBuf> =
        "File with the token that --web asks for, of at least 16 characters; needed for other \
         addresses than loopback",
        Row::path("web-token-file", "FILE|off", |path| not_empty(path).map(values::unless_off))
            .group(ADMIN)
            .default("off")
            .shown(|file| path(file.as_deref().unwrap_or(Path::new("off"))));

    let file: Option<PathBuf> =
        "TOML file with options",
        Row::path("config", "FILE", |path| Ok(Some(path.to_owned())))
            .without(|_| Ok((None, Origin::Default)))
            .not_in_file();
}

/// The default of `--max-entries`.
fn entries_for(memory: u64) -> usize {
    let quarter = memory / ENTRIES_MEMORY_SHARE / ENTRY_OCTETS;
    let half = memory / ENTRIES_MEMORY_SHARE_MAX / ENTRY_OCTETS;
    let entries = quarter.clamp(ENTRIES_DEFAULT_MIN, ENTRIES_DEFAULT_MAX).min(half);
    entries.max(ENTRIES_MIN as u64) as usize
}

/// The name of the admin socket, where no path is written.
const ADMIN_SOCKET: &str = "admin.sock";

/// Where the admin socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminPlace {
    /// There is none.
    Off,
    /// Where it is unless something else is written: a server without it serves all the same.
    Default(PathBuf),
    /// Where somebody wants it.
    At(PathBuf),
}

impl AdminPlace {
    fn of(path: PathBuf) -> Self {
        if path == Path::new("off") { Self::Off } else { Self::At(path) }
    }

    /// Its path, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Off => None,
            Self::Default(path) | Self::At(path) => Some(path),
        }
    }

    fn shown(&self) -> &Path {
        self.path().unwrap_or(Path::new("off"))
    }
}

/// Where the event log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

impl LogDestination {
    pub(super) fn of(path: PathBuf) -> Self {
        if path == Path::new("-") { LogDestination::Stdout } else { LogDestination::File(path) }
    }

    fn path(&self) -> &Path {
        match self {
            LogDestination::Stdout => Path::new("-"),
            LogDestination::File(path) => path,
        }
    }
}

/// What this machine has to have for a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    pub listen: Vec<SocketAddrV4>,
    pub state: Option<PathBuf>,
    pub log: Option<LogDestination>,
    pub peer_maps: Option<PathBuf>,
}

/// A configuration whose parts fit together.
fn taken(layers: &mut Layers<'_>) -> Result<ServeConfig, UsageErrors> {
    let config = ServeConfig::take(layers)?;
    if config.pool().is_some() && !config.journal {
        let (place, wants, other) = match config.translates() {
            true => ("--deliver", Deliver::Translate.to_string(), "native"),
            false => ("--peer-names", config.peer_names.to_string(), "ipv6"),
        };
        let cause = format!(
            "{wants} wants a journal: without one, an address would stand for another client after a restart; \
             drop --no-journal, or choose {other}"
        );
        return Err(UsageErrors(vec![UsageError { place: place.into(), cause }]));
    }
    if let Some(cause) = config.geneve_trouble() {
        return Err(UsageErrors(vec![UsageError { place: "--geneve".into(), cause }]));
    }
    match config.web {
        Some(web) if !web.ip().is_loopback() && config.web_token.is_none() => {
            let cause = format!(
                "{web} can be reached from elsewhere: name a file with a token by --web-token-file, \
                 or choose a loopback address, like 127.0.0.1:{}",
                web.port()
            );
            Err(UsageErrors(vec![UsageError { place: "--web".into(), cause }]))
        }
        _ => Ok(config),
    }
}

impl ServeConfig {
    /// How packets to this port reach programs.
    pub fn deliver_to(&self, port: u16) -> Deliver {
        let own = self.deliver_ports.iter().find(|own| own.port == port);
        own.map_or(self.deliver, |own| own.deliver)
    }

    /// All addresses and ports of UDP that it is to have: those of `listen` come first.
    pub fn sockets(&self) -> Vec<SocketAddrV4> {
        let tunnels = self.listen.iter().filter(|_| self.geneve);
        let tunnels = tunnels.map(|address| SocketAddrV4::new(*address.ip(), GENEVE_PORT));
        self.listen.iter().copied().chain(tunnels).collect()
    }

    /// Why there can be no tunnels of Geneve, where there are to be.
    fn geneve_trouble(&self) -> Option<String> {
        if self.geneve && !self.delivers_native() {
            return Some(
                "what comes by a tunnel is delivered as it is: add --deliver native, and see check-config \
                 --host for the device that it wants"
                    .to_owned(),
            );
        }
        let taken = self.geneve && self.listen.iter().any(|address| address.port() == GENEVE_PORT);
        taken.then(|| format!("port {GENEVE_PORT} is that of Geneve; choose another --port"))
    }

    /// All ways in which packets to some port or other reach programs.
    pub fn deliver_ways(&self) -> impl Iterator<Item = Deliver> {
        self.deliver_ports.iter().map(|port| port.deliver).chain([self.deliver])
    }

    /// Whether packets to some port or other are delivered as they are, or may be.
    pub fn delivers_native(&self) -> bool {
        self.deliver_ways().any(|deliver| matches!(deliver, Deliver::Native | Deliver::Auto))
    }

    /// Whether packets to some port or other are translated.
    pub fn translates(&self) -> bool {
        self.deliver_ways().any(|deliver| deliver == Deliver::Translate)
    }

    /// The pool, if clients get addresses of it. Clients whose packets are translated keep their
    /// ports, so each has an address of its own.
    pub fn pool(&self) -> Option<PoolSettings> {
        let (network, idle) = (self.peer_pool, self.peer_pool_idle);
        let (names, translates) = (self.peer_names.has_ipv4(), self.translates());
        let unit = if translates { PoolUnit::Address } else { self.peer_pool_for };
        (names || translates).then_some(PoolSettings { network, unit, idle, names, translates })
    }
}

/// The options of `serve`.
pub type ServeOptions = Options<ServeConfig>;

impl ServeOptions {
    /// Those of this file, if one is named.
    pub fn of_file(file: Option<PathBuf>) -> Self {
        let mut options = Self::default();
        if let Some(file) = file {
            options.written.insert(rows::file().about.name, vec![file.into()]);
        }
        options
    }

    /// What these options of the command line, the environment and the file that either names come
    /// to.
    ///
    /// # Errors
    /// All values that mean nothing.
    pub fn resolve(self, environment: &Environment) -> Result<ServeConfig, UsageErrors> {
        taken(&mut self.layers(environment))
    }

    /// The same, and as a TOML file, with where each value comes from: what `check-config` prints.
    ///
    /// # Errors
    /// Those of [`Self::resolve`], with the places that are written and mean something.
    pub fn effective(
        self,
        environment: &Environment,
    ) -> Result<(ServeConfig, String), (UsageErrors, Places)> {
        let mut layers = self.layers(environment);
        let config = taken(&mut layers).map_err(|errors| {
            let places = Places {
                listen: layers.written(&rows::listen()).unwrap_or_default(),
                state: layers.written(&rows::state()),
                log: layers.written(&rows::log()),
                peer_maps: layers.written(&rows::peer_maps()),
            };
            (errors, places)
        })?;
        let lines = config.lines(&layers);
        Ok((config, lines))
    }

    fn layers(self, environment: &Environment) -> Layers<'_> {
        let table = ServeConfig::table();
        let mut layers = Layers::new(self.written, environment);
        layers.add_variables(&table);
        layers.add_file(&rows::file(), &table);
        layers
    }
}
