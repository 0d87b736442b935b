//! The command line, and the configuration that it makes together with the environment and a file.
//!
//! [`ServeOptions`] is what somebody wrote, in any of these places; [`ServeOptions::resolve`] makes a
//! [`ServeConfig`] of it, which holds only what is valid. Its limits are those of PROTOCOL.md sections 5
//! and 6. Not here: opening, binding or checking anything outside of the configuration.

mod gateway;
mod values;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use serde::de::value::MapDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

pub use crate::disk::storage::SyncPolicy;
use crate::handoff::change::LogFormat;
use crate::handoff::message::HANDOFF_PORT;
use crate::kernel::backend::Io;
pub use gateway::GatewayOptions;
use values::{
    client_share, io, listen_addresses, log_format, networks, not_empty, sync_policy, whole_number,
};

/// The exit code after a [`UsageError`].
pub const EXIT_USAGE: u8 = 2;

/// What each environment variable of ours begins with.
const VARIABLE_PREFIX: &str = "NAT64HANDOFF_";
const REACTORS: RangeInclusive<u64> = 1..=256;
const SYNC_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
const NAT64S: RangeInclusive<u64> = 1..=1_000_000;
const NAT64S_DEFAULT: u64 = 1000;
const ENTRIES: RangeInclusive<u64> = 1..=1_000_000_000;
/// The default is at least one full table of one NAT64: the ports from 1024 on, but for the reserved.
const ENTRIES_DEFAULT: RangeInclusive<u64> = 64_508..=16_000_000;
/// By default, entries may take the quarter of the memory...
const ENTRIES_MEMORY_SHARE: u64 = 4;
/// ...each of them so many octets: its own client, with the longest authenticator.
const ENTRY_OCTETS: u64 = 700;
const CLIENT_SHARE: RangeInclusive<f64> = 1.0 / 1024.0..=1.0;
const CLIENT_SHARE_DEFAULT: f64 = 0.125;
const VALIDATION_RATE: RangeInclusive<u64> = 1..=10_000_000;
const VALIDATION_RATE_DEFAULT: u64 = 10_000;

/// The server side of the NAT64 handoff protocol.
#[derive(Debug, Parser)]
#[command(name = "nat64handoff", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    #[command(after_help = PLACES)]
    Serve(ServeOptions),
    /// Run a server and a NAT64 in one process, on loopback, to see what it looks like
    Demo(DemoOptions),
    /// Run a NAT64 that hands its connections over, on a TUN device
    Gateway(GatewayOptions),
    /// Look into the journal of a server that is not running
    Journal {
        /// What to do
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Print the configuration that `serve` would use, and where each value comes from
    #[command(after_help = PLACES)]
    CheckConfig(ServeOptions),
    /// Print completions of this command line for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// What to do with a journal.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Say what is damaged, and what a repair would lose; changes nothing
    Check {
        /// The state directory
        dir: PathBuf,
    },
    /// Keep all that is not damaged; the damaged files are put aside
    Repair {
        /// The state directory
        dir: PathBuf,
    },
}

const PLACES: &str = "\
Every option can also be set by an environment variable (--max-entries: NAT64HANDOFF_MAX_ENTRIES, \
lists with commas) and, except for --config, by a key of the same name in the TOML file \
(max-entries = 1000000, lists as arrays). The command line wins over the environment, and the \
environment over the file.";

/// Options of `demo`.
#[derive(Debug, Default, Args)]
pub struct DemoOptions {
    /// The server's port [default: any that is free]
    #[arg(long, value_name = "N", hide = true)]
    pub port: Option<u16>,
}

/// Options of `serve`, as they stand in one place: nothing is checked, and all may be missing.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServeOptions {
    /// IPv4 address and port to take requests at; may be repeated, with the same port
    /// [default: 0.0.0.0:64064]
    #[arg(long, value_name = "ADDR[:PORT]", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub listen: Option<Vec<String>>,

    /// The port of each --listen that names none [default: 64064]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub port: Option<String>,

    /// Directory for the state; made if it does not exist [default: $STATE_DIRECTORY or ./state]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "some")]
    pub state: Option<PathBuf>,

    /// File to append the event log to, - for standard output
    /// [default: $LOGS_DIRECTORY/events.log or -]
    #[arg(long, value_name = "FILE|-")]
    #[serde(deserialize_with = "some")]
    pub log: Option<PathBuf>,

    /// full: name the local address and the NAT64 prefix in each line, too [default: plain]
    #[arg(long, value_name = "plain|full")]
    #[serde(deserialize_with = "some")]
    pub log_format: Option<String>,

    /// Number of threads that handle requests, 1 to 256 [default: one per available CPU]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub reactors: Option<String>,

    /// How datagrams are received and sent: by io_uring, by recvmmsg and sendmmsg, or auto: by io_uring where
    /// it is allowed [default: auto]
    #[arg(long, value_name = "auto|uring|mmsg")]
    #[serde(deserialize_with = "some")]
    pub io: Option<String>,

    /// When the journal is made durable: whenever the kernel likes, before each answer that depends on it,
    /// or so often [default: interval:100ms]
    #[arg(long, value_name = "none|always|interval:DURATION")]
    #[serde(deserialize_with = "some")]
    pub sync: Option<String>,

    /// Keep no journal: nothing survives. For measurements
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub no_journal: bool,

    /// NAT64s to serve at most; further ones get no answer [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub max_nat64s: Option<String>,

    /// Entries to hold at most, for all NAT64s together [default: what fits in a quarter of the memory]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub max_entries: Option<String>,

    /// Share of a NAT64's ports that one client network (/64) may have, 1/1024 to 1 [default: 0.125]
    #[arg(long, value_name = "F")]
    #[serde(deserialize_with = "scalar")]
    pub client_share: Option<String>,

    /// Validation packets to send at most in a second [default: 10000]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "scalar")]
    pub validation_rate: Option<String>,

    /// Serve only NAT64s in this network; may be repeated [default: all]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub allow: Option<Vec<String>>,

    /// Do not serve NAT64s in this network, even if allowed; may be repeated [default: none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    #[serde(deserialize_with = "list")]
    pub deny: Option<Vec<String>>,

    /// TOML file with options
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// How the server is to run: complete and valid.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Where requests are taken: at least one, all different, with the same port, which is not 0.
    pub listen: Vec<SocketAddrV4>,
    /// The state directory. Its existence was not checked.
    pub state: PathBuf,
    /// Where the event log goes.
    pub log: LogDestination,
    /// What its lines look like.
    pub log_format: LogFormat,
    /// Threads, at least 1.
    pub reactors: usize,
    /// How datagrams are received and sent; none where the best way that works is wanted.
    pub io: Option<Io>,
    /// When the journal is made durable.
    pub sync: SyncPolicy,
    /// Whether there is a journal at all.
    pub journal: bool,
    /// The limit on NAT64s, at least 1.
    pub nat64s_max: usize,
    /// The limit on entries in all tables, at least 1.
    pub entries_max: usize,
    /// The fair share of a client network, above 0 and up to 1.
    pub client_share: f64,
    /// Validation packets a second, at least 1.
    pub validation_rate: u32,
    /// NAT64s that are served; empty for all.
    pub allow: Vec<Ipv4Net>,
    /// NAT64s that are not served, even if allowed.
    pub deny: Vec<Ipv4Net>,
}

impl ServeConfig {
    /// The handoff port, common to all of `listen`.
    pub fn port(&self) -> u16 {
        self.listen.first().map_or(HANDOFF_PORT, SocketAddrV4::port)
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

/// What somebody has to write differently: one line, with where it stands and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    place: String,
    cause: String,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)
    }
}

impl std::error::Error for UsageError {}

/// What the defaults, and the values of variables, are taken from.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// CPUs that we may use, if that is known.
    pub cpus: Option<usize>,
    /// Memory of the machine in octets, if that is known.
    pub memory: Option<u64>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            cpus: thread::available_parallelism().ok().map(usize::from),
            memory: memory_total(),
        }
    }

    /// Variables that are set to nothing count as not set.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// What systemd made for us; of several directories (`a:b`), the first.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.variable(name)?)
            .next()
            .filter(|path| !path.as_os_str().is_empty())
    }
}

/// The machine's memory in octets.
fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibioctets: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibioctets.checked_mul(1024)
}

impl ServeOptions {
    /// What these options of the command line, the environment and the file that either names come to.
    pub fn resolve(self, environment: &Environment) -> Result<ServeConfig, UsageError> {
        Ok(self.resolve_from(environment)?.0)
    }

    /// The same as a TOML file, with where each value comes from: the output of `check-config`.
    pub fn effective(self, environment: &Environment) -> Result<String, UsageError> {
        let (config, sources) = self.resolve_from(environment)?;
        let strings = |items: &[String]| {
            toml::Value::Array(items.iter().map(|item| item.as_str().into()).collect())
        };
        let number = |n: usize| toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
        let path = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
        let all =
            |items: &[Ipv4Net]| strings(&items.iter().map(Ipv4Net::to_string).collect::<Vec<_>>());
        let listen: Vec<_> = config.listen.iter().map(SocketAddrV4::to_string).collect();
        let values: [(&str, toml::Value); 13] = [
            ("listen", strings(&listen)),
            ("state", path(&config.state)),
            (
                "log",
                match &config.log {
                    LogDestination::Stdout => "-".into(),
                    LogDestination::File(file) => path(file),
                },
            ),
            (
                "log-format",
                match config.log_format {
                    LogFormat::Plain => "plain".into(),
                    LogFormat::Full => "full".into(),
                },
            ),
            ("reactors", number(config.reactors)),
            ("io", config.io.map_or("auto", Io::name).into()),
            ("sync", config.sync.to_string().into()),
            ("max-nat64s", number(config.nat64s_max)),
            ("max-entries", number(config.entries_max)),
            ("client-share", config.client_share.into()),
            ("validation-rate", i64::from(config.validation_rate).into()),
            ("allow", all(&config.allow)),
            ("deny", all(&config.deny)),
        ];
        let mut text = String::new();
        for (key, value) in values {
            let origin = sources.origins.get(key).unwrap_or(&Origin::Default);
            text.push_str(&format!("{key} = {value} # {origin}\n"));
        }
        Ok(text)
    }

    fn resolve_from(self, environment: &Environment) -> Result<(ServeConfig, Sources), UsageError> {
        let mut sources = Sources::new(self, environment)?;
        let config = sources.resolve(environment)?;
        Ok((config, sources))
    }

    /// Those that are set by variables.
    fn from_variables(environment: &Environment) -> Result<ServeOptions, UsageError> {
        let mut options = ServeOptions::default();
        for key in keys() {
            let name = variable_of(&key);
            let Some(value) = environment.variable(&name) else {
                continue;
            };
            if key == "config" {
                options.config = Some(value.into());
                continue;
            }
            let error = |cause| UsageError { place: name.clone(), cause };
            let text = value.to_str().ok_or_else(|| {
                error("is not UTF-8; write it in the file or as an option".into())
            })?;
            // One at a time, so that an error is about this one.
            let entries = MapDeserializer::new(std::iter::once((key.as_str(), text)));
            let one = ServeOptions::deserialize(entries)
                .map_err(|cause: serde::de::value::Error| error(cause.to_string()))?;
            options = options.or(one);
        }
        Ok(options)
    }

    /// Those in a file.
    fn from_file(path: &Path, origin: &Origin) -> Result<ServeOptions, UsageError> {
        let text = fs::read_to_string(path).map_err(|cause| UsageError {
            place: origin.place("config"),
            cause: format!(
                "{} cannot be read: {cause}; name a TOML file that this user can read",
                path.display()
            ),
        })?;
        Self::from_toml(&text).map_err(|(span, cause)| {
            let start = span.map_or(0, |span| span.start);
            let before = text.as_bytes().get(..start).unwrap_or_default();
            let line = 1 + before.iter().filter(|&&octet| octet == b'\n').count();
            UsageError { place: format!("{} line {line}", path.display()), cause }
        })
    }

    fn from_toml(text: &str) -> Result<ServeOptions, (Option<Range<usize>>, String)> {
        let failed = |error: toml::de::Error| {
            let message = error.message().trim().replace('\n', ", ");
            (error.span(), format!("{message}; correct this line"))
        };
        let table: BTreeMap<toml::Spanned<String>, toml::Value> =
            toml::from_str(text).map_err(failed)?;
        let known: Vec<_> = keys().filter(|key| key != "config").collect();
        for key in table.keys() {
            let name = key.get_ref().as_str();
            if known.iter().any(|known| known == name) {
                continue;
            }
            let advice = match nearest(name, &known) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("the keys are {}", known.join(", ")),
            };
            return Err((Some(key.span()), format!("unknown key {name:?}; {advice}")));
        }
        toml::from_str(text).map_err(failed)
    }

    fn or(self, other: ServeOptions) -> ServeOptions {
        ServeOptions {
            listen: self.listen.or(other.listen),
            port: self.port.or(other.port),
            state: self.state.or(other.state),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            reactors: self.reactors.or(other.reactors),
            io: self.io.or(other.io),
            sync: self.sync.or(other.sync),
            no_journal: self.no_journal || other.no_journal,
            max_nat64s: self.max_nat64s.or(other.max_nat64s),
            max_entries: self.max_entries.or(other.max_entries),
            client_share: self.client_share.or(other.client_share),
            validation_rate: self.validation_rate.or(other.validation_rate),
            allow: self.allow.or(other.allow),
            deny: self.deny.or(other.deny),
            config: self.config.or(other.config),
        }
    }
}

/// The names of all options of `serve`.
fn keys() -> impl Iterator<Item = String> {
    let command = ServeOptions::augment_args(clap::Command::new("serve"));
    let shown = command.get_arguments().filter(|option| !option.is_hide_set());
    let keys: Vec<_> = shown.filter_map(|option| option.get_long().map(str::to_owned)).collect();
    keys.into_iter()
}

fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('-', "_").to_ascii_uppercase())
}

/// The key that somebody meant, if at most every third letter is wrong.
fn nearest<'a>(name: &str, keys: &'a [String]) -> Option<&'a str> {
    keys.iter()
        .map(|key| (distance(name, key), key.as_str()))
        .min()
        .filter(|&(distance, key)| 3 * distance <= key.len())
        .map(|(_, key)| key)
}

/// Letters to insert, remove or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            left = (above + 1).min(left + 1).min(diagonal + usize::from(x != y));
            diagonal = std::mem::replace(cell, left);
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    CommandLine,
    /// Of ours.
    Environment,
    File(PathBuf),
    /// Of systemd.
    Variable(&'static str),
    Default,
}

impl Origin {
    /// What an error says about an option from there.
    fn place(&self, key: &str) -> String {
        match self {
            Origin::CommandLine | Origin::Default => format!("--{key}"),
            Origin::Environment => variable_of(key),
            Origin::File(path) => format!("{}: {key}", path.display()),
            Origin::Variable(name) => format!("${name}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::Environment => f.write_str("environment"),
            // Escaped, as it stands in a comment of one line.
            Origin::File(path) => write!(f, "{path:?}"),
            Origin::Variable(name) => write!(f, "${name}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// All places, the most important first.
struct Sources {
    layers: Vec<(Origin, ServeOptions)>,
    /// Where each value came from, unless it is the default.
    origins: BTreeMap<&'static str, Origin>,
}

impl Sources {
    fn new(command_line: ServeOptions, environment: &Environment) -> Result<Self, UsageError> {
        let variables = ServeOptions::from_variables(environment)?;
        let mut layers =
            vec![(Origin::CommandLine, command_line), (Origin::Environment, variables)];
        let config =
            layers.iter().find_map(|(origin, options)| Some((origin, options.config.as_ref()?)));
        if let Some((origin, path)) = config {
            let options = ServeOptions::from_file(path, origin)?;
            layers.push((Origin::File(path.clone()), options));
        }
        Ok(Self { layers, origins: BTreeMap::new() })
    }

    fn resolve(&mut self, environment: &Environment) -> Result<ServeConfig, UsageError> {
        let port = self.parsed(
            "port",
            |o| o.port.as_deref(),
            |text| whole_number(text, 1..=u64::from(u16::MAX)),
        )?;
        let port = port.map_or(HANDOFF_PORT, truncated);
        let listen =
            self.parsed("listen", |o| o.listen.as_deref(), |list| listen_addresses(list, port))?;
        if listen.is_none()
            && let Some(origin) = self.origins.get("port").cloned()
        {
            self.origins.insert("listen", origin);
        }
        let state = self.parsed("state", |o| o.state.as_deref(), not_empty)?;
        let state = state.or_else(|| self.directory("state", "STATE_DIRECTORY", environment));
        let log = self.parsed("log", |o| o.log.as_deref(), not_empty)?;
        let log = log.or_else(|| {
            let directory = self.directory("log", "LOGS_DIRECTORY", environment)?;
            Some(directory.join("events.log"))
        });
        let log = match log {
            Some(path) if path != Path::new("-") => LogDestination::File(path),
            _ => LogDestination::Stdout,
        };
        let cpus = environment.cpus.map_or(1, |cpus| cpus as u64);
        let reactors = self.parsed(
            "reactors",
            |o| o.reactors.as_deref(),
            |text| whole_number(text, REACTORS),
        )?;
        let reactors = reactors.unwrap_or(cpus.clamp(*REACTORS.start(), *REACTORS.end()));
        let nat64s_max = self.parsed(
            "max-nat64s",
            |o| o.max_nat64s.as_deref(),
            |text| whole_number(text, NAT64S),
        )?;
        let entries_max = self.parsed(
            "max-entries",
            |o| o.max_entries.as_deref(),
            |text| whole_number(text, ENTRIES),
        )?;
        let entries_default = environment.memory.unwrap_or(0) / ENTRIES_MEMORY_SHARE / ENTRY_OCTETS;
        let entries_default =
            entries_default.clamp(*ENTRIES_DEFAULT.start(), *ENTRIES_DEFAULT.end());
        let rate = self.parsed(
            "validation-rate",
            |o| o.validation_rate.as_deref(),
            |text| whole_number(text, VALIDATION_RATE),
        )?;
        Ok(ServeConfig {
            listen: listen.unwrap_or_else(|| vec![SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)]),
            state: state.unwrap_or_else(|| "./state".into()),
            log,
            log_format: self
                .parsed("log-format", |o| o.log_format.as_deref(), log_format)?
                .unwrap_or_default(),
            reactors: truncated(reactors),
            io: self.parsed("io", |o| o.io.as_deref(), io)?.flatten(),
            sync: self
                .parsed("sync", |o| o.sync.as_deref(), sync_policy)?
                .unwrap_or(SyncPolicy::Interval(SYNC_INTERVAL_DEFAULT)),
            journal: !self.layers.iter().any(|(_, options)| options.no_journal),
            nat64s_max: truncated(nat64s_max.unwrap_or(NAT64S_DEFAULT)),
            entries_max: truncated(entries_max.unwrap_or(entries_default)),
            client_share: self
                .parsed("client-share", |o| o.client_share.as_deref(), client_share)?
                .unwrap_or(CLIENT_SHARE_DEFAULT),
            validation_rate: truncated(rate.unwrap_or(VALIDATION_RATE_DEFAULT)),
            allow: self.parsed("allow", |o| o.allow.as_deref(), networks)?.unwrap_or_default(),
            deny: self.parsed("deny", |o| o.deny.as_deref(), networks)?.unwrap_or_default(),
        })
    }

    /// The most important value of an option, parsed.
    fn parsed<T: ?Sized, U>(
        &mut self,
        key: &'static str,
        get: impl Fn(&ServeOptions) -> Option<&T>,
        parse: impl FnOnce(&T) -> Result<U, String>,
    ) -> Result<Option<U>, UsageError> {
        for (origin, options) in &self.layers {
            if let Some(value) = get(options) {
                self.origins.insert(key, origin.clone());
                let parsed =
                    parse(value).map_err(|cause| UsageError { place: origin.place(key), cause })?;
                return Ok(Some(parsed));
            }
        }
        Ok(None)
    }

    fn directory(
        &mut self,
        key: &'static str,
        variable: &'static str,
        environment: &Environment,
    ) -> Option<PathBuf> {
        let path = environment.directory(variable)?;
        self.origins.insert(key, Origin::Variable(variable));
        Some(path)
    }
}

/// For numbers whose range was checked, and lies within the type's.
fn truncated<T: TryFrom<u64>>(number: u64) -> T
where
    T::Error: fmt::Debug,
{
    T::try_from(number).expect("the ranges of options fit their types")
}

const _: () = assert!(*VALIDATION_RATE.end() <= u32::MAX as u64);
const _: () = assert!(*ENTRIES.end() <= usize::MAX as u64);
const _: () = assert!(*ENTRIES_DEFAULT.end() <= *ENTRIES.end());

/// A value of the usual kind. (By itself, serde asks variables whether they are an `Option`.)
fn some<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A string, or a number as it would be written in one.
fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Scalar;

    impl Visitor<'_> for Scalar {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number")
        }

        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_f64<E>(self, number: f64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }

    deserializer.deserialize_any(Scalar).map(Some)
}

/// An array of strings, or one string with commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or an array of strings")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text.split(',').map(|item| item.trim().to_owned()).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(List).map(Some)
}

#[cfg(test)]
mod tests;
