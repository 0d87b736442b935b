//! What a running server says of itself, as JSON: `GET /status` and the like of the admin socket.
//! The server writes it, `status` and `top` read it.
//!
//! A field that was released keeps its name and meaning; what a reader lacks has its default.
//! Times are RFC 3339, UTC. A rate is in each second, over [`Status::rates_over_seconds`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::handoff::change::Timestamp;
use crate::handoff::entry::{Entry, TableKey};

/// How a host does in its fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetStatus {
    pub cell: String,
    pub host: u32,
    /// How many tables it has.
    pub tables: u64,
    /// What it has seen of what is recorded: the revision of etcd.
    pub revision: u64,
    /// By how many revisions that is behind the last one that this host knows of.
    pub behind_revisions: u64,
    /// For how long etcd has told nothing, not even that there is nothing.
    pub behind_seconds: f64,
    /// How many nodes of etcd answer this host, of how many.
    pub nodes_answering: u64,
    pub nodes: u64,
    /// How long ago a transaction was done. Nothing where none was.
    pub transaction_seconds_ago: Option<f64>,
    /// Octets of the records in etcd, and of its snapshots.
    pub log_octets: u64,
    pub snapshot_octets: u64,
    /// Whether another host is heard.
    pub hears_others: bool,
    /// It gives its tables away, and gets none.
    pub drains: bool,
}

/// What `fleet drain` came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainReport {
    /// How many tables the host has given away.
    pub tables: u64,
}

/// How the server is doing, and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// The path of the program.
    pub program: String,
    pub process: u32,
    /// Now.
    pub time: String,
    /// When it began to serve.
    pub since: String,
    pub uptime_seconds: f64,
    pub listen: Vec<String>,
    pub reactors: usize,
    /// How datagrams are received and sent: `uring` or `mmsg`.
    pub io: String,
    /// Whether new clients are answered.
    pub ready: bool,
    /// Why not, a line each.
    pub not_ready: Vec<String>,
    pub nat64s: Capacity,
    pub entries: Capacity,
    /// Clients and networks that are banned.
    pub bans: u64,
    /// Addresses of the pool that stand for clients. Nothing where none are given.
    pub pool: Option<Capacity>,
    /// Nothing where no tables are shared with other hosts.
    pub fleet: Option<FleetStatus>,
    /// All counters but drops, by name.
    pub counters: BTreeMap<String, Rated>,
    /// What rates are measured over; 0 where they are not known yet.
    pub rates_over_seconds: f64,
    /// Reasons that were counted, the most frequent now first.
    pub drops: Vec<DropStatus>,
    pub validation: ValidationStatus,
    pub batches: BatchStatus,
    /// Nothing where there is no journal, or it is not ready yet.
    pub journal: Option<JournalStatus>,
    pub disks: Vec<DiskStatus>,
    /// Nothing where it is not ready yet.
    pub log: Option<LogStatus>,
    /// Nothing where it was not installed to be updated.
    pub update: Option<UpdateStatus>,
    /// The fullest first, and of these the busiest: at most as many as were asked for.
    pub tables: Vec<TableStatus>,
    /// What they were chosen from.
    pub tables_all: usize,
    /// How old what is said of tables is.
    pub tables_age_seconds: f64,
    /// What the rates of tables are measured over; 0 where they are not known.
    pub tables_rates_over_seconds: f64,
}

/// How much of what there may be is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    pub used: u64,
    pub max: u64,
}

/// A counter since the start, and how fast it rises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rated {
    pub total: u64,
    pub per_second: f64,
}

/// Requests, or parts of some, that got no answer for one reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropStatus {
    pub reason: String,
    pub total: u64,
    pub per_second: f64,
    /// Whom it concerns: `operator` or `sender`.
    pub concerns: String,
    /// What it means, and what to do.
    pub advice: String,
}

/// How strangers prove themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidationStatus {
    /// Packets that asked for a proof.
    pub sent: Rated,
    /// The most of them in a second (`--validation-rate`).
    pub rate_max: u64,
    /// Identities that became known.
    pub learned: Rated,
}

/// How requests came and were answered since the start, in powers of two: at least half, and 99 of
/// 100, were no larger.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchStatus {
    pub count: u64,
    pub datagrams_half: u64,
    pub datagrams_99: u64,
    /// From receipt to reply, without what waits for the disk.
    pub nanoseconds_half: u64,
    pub nanoseconds_99: u64,
}

/// The journal, of all reactors together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JournalStatus {
    /// As `--sync` has it.
    pub sync: String,
    pub octets: u64,
    /// That of the reactor that is nearest to its limit: at it there are no more changes before it
    /// is compacted.
    pub fullest: Capacity,
    /// The durable lag: records that a power cut would take.
    pub unsynced_records: u64,
    pub syncs: u64,
    pub sync_microseconds_half: u64,
    pub sync_microseconds_99: u64,
    /// It takes no more changes until a restart.
    pub failed: bool,
}

/// The file system of a directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// What is there: `state` or `log`.
    pub holds: String,
    pub directory: String,
    pub free_octets: u64,
    pub size_octets: u64,
}

/// The event log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogStatus {
    /// What it is called.
    pub name: String,
    /// Lines since the start.
    pub written: u64,
    /// Lines that wait to be written, and how many can before there are no more changes.
    pub waiting: Capacity,
    /// It is in a call that writes or syncs.
    pub waits_for_system: bool,
}

/// Where the service updates itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateStatus {
    /// The release that runs.
    pub release: String,
    /// What the last update did, with its time.
    pub last: Option<String>,
}

/// A NAT64 at one address of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableStatus {
    pub nat64: String,
    pub local: String,
    pub entries: Capacity,
    /// TCP connections of this host with it; nothing where the kernel does not say.
    pub live_connections: Option<u64>,
    /// Since it came into being, or the server started.
    pub requests: Rated,
    pub created: Rated,
    /// When it came into being, or the server started.
    pub since: String,
    pub last_seen: String,
    pub last_seen_seconds: f64,
    pub identities: Vec<IdentityStatus>,
    /// It is being given up.
    pub going: bool,
}

/// By which a NAT64 is known. Its token is its secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityStatus {
    /// The port that it asks from.
    pub port: u16,
    /// When it, or the one before it, proved itself last, or the server started.
    pub proved: String,
    pub last_used: String,
    /// Else it has to prove itself anew: it was not used for a day, or not proved for two.
    pub known: bool,
}

/// What `GET /tables/NAT64` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableReport {
    pub nat64: String,
    pub time: String,
    /// One for each address of the server that it asks at.
    pub tables: Vec<TableEntries>,
}

/// The entries of one table, by port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableEntries {
    pub local: String,
    pub entries: Vec<EntryStatus>,
}

/// An entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EntryStatus {
    pub port: u16,
    pub client: String,
    pub client_port: u16,
    /// The NAT64's prefix that the client came by.
    pub prefix: String,
}

/// What `GET /identities` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentitiesReport {
    pub time: String,
    pub tables: Vec<TableIdentities>,
    /// How many tables there are.
    pub tables_all: usize,
}

/// The identities of one table, the most recently used first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableIdentities {
    pub nat64: String,
    pub local: String,
    pub identities: Vec<IdentityStatus>,
}

/// What `POST /tables/NAT64/drop` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropReport {
    pub nat64: String,
    pub tables: Vec<DroppedEntries>,
}

/// A table that has gone, for good.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DroppedEntries {
    pub local: String,
    /// Entries that were deleted with it.
    pub entries: u64,
}

/// What `POST /ban` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BanReport {
    /// The ban.
    #[serde(flatten)]
    pub ban: BanStatus,
    /// How many entries its clients have.
    pub entries_all: u64,
    /// The first of them.
    pub entries: Vec<BannedEntry>,
    /// How many TCP connections were ended, where that was wanted.
    pub ended: Option<u64>,
    /// Why none were.
    pub not_ended: Option<String>,
}

/// What `GET /bans/ports` says: what changed since it said the version that was named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BannedPortsReport {
    /// Another one for each process of the server.
    pub instance: u64,
    pub version: u64,
    /// All ports are in `added`: there are no others.
    pub is_all: bool,
    pub added: Vec<BannedPort>,
    pub removed: Vec<BannedPort>,
    /// Connections that are to be ended.
    pub orders: Vec<EndOrder>,
}

/// A port of a banned client: NAT64, mapped port, address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BannedPort(pub Ipv4Addr, pub u16, pub Ipv4Addr);

impl BannedPort {
    /// That of an entry.
    pub fn of(table: TableKey, entry: &Entry) -> Self {
        Self(table.nat64, entry.port.0, table.local)
    }
}

/// An order to end the TCP connections of some ports. `POST /bans/ended?order=N&count=M`, or
/// `error=TEXT`, says what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndOrder {
    pub number: u64,
    pub ports: Vec<BannedPort>,
}

/// A ban.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BanStatus {
    /// An address, or a network.
    pub client: String,
    pub since: String,
    /// Nothing: it does not end by itself.
    pub until: Option<String>,
}

/// An entry of a banned client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BannedEntry {
    pub nat64: String,
    pub local: String,
    /// As in a table.
    #[serde(flatten)]
    pub entry: EntryStatus,
}

/// What `POST /unban` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnbanReport {
    pub client: String,
    /// A larger network that is banned still.
    pub banned_as_part_of: Option<String>,
}

/// What `GET /bans` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BansReport {
    pub time: String,
    /// The most that there may be.
    pub bans_max: u64,
    pub bans: Vec<BanStatus>,
}

/// What `GET /hour` says: what the last hour was like, in columns, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HourReport {
    /// When each was counted.
    pub times: Vec<String>,
    pub nat64s: Vec<u64>,
    pub entries: Vec<u64>,
    /// In each second since the time before; the first is 0.
    pub requests: Vec<f64>,
    pub created: Vec<f64>,
    pub drops: Vec<f64>,
}

/// What `GET /who` says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhoReport {
    /// As `who` prints it.
    pub text: String,
}

/// What is said instead where something is wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorReport {
    pub error: String,
}

/// RFC 3339, UTC, to the microsecond.
pub fn rfc3339(at: Timestamp) -> String {
    // The latest time that there can be is one of the crate's, too.
    let micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).to_string()
}
