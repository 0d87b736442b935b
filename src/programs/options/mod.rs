//! The command line, and the configurations that it makes together with the environment and a file.
//!
//! An option is declared in one row: of `table` for `serve`, of `gateway` for `gateway`. All
//! else is made of the rows. A configuration holds only what is valid; its limits are those of
//! PROTOCOL.md sections 5 and 6. Not here: opening, binding or checking anything outside of the
//! configuration.

mod about;
mod annotate;
mod asked;
mod ban_set;
mod banned;
mod cell;
mod config;
mod delivery;
mod environment;
mod fleet;
mod followed;
mod gateway;
mod history;
mod layers;
mod peers;
mod table;
mod values;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv6Net;

pub use annotate::AnnotateOptions;
pub use asked::Asked;
pub use ban_set::{BanSetOptions, SetName};
pub use banned::{BanOptions, UnbanOptions, clients, length, not_too_wide};
pub use cell::FleetOptions;
pub use config::{Configuration, Options};
pub use delivery::{Deliver, DeliverDeviceCommand, DeliverDeviceOptions, DeliverPort};
pub use environment::Environment;
pub use fleet::FleetNode;
pub use followed::{Collector, CollectorFormat, CollectorPlace, FollowOptions};
pub use gateway::{GatewayOptions, GatewaySetup};
pub use history::{CopyOptions, CopyPlace, HistoryDestination, host_name};
pub use layers::{UsageError, UsageErrors};
pub use peers::PeerNames;
pub use table::{AdminPlace, LogDestination, Places, ServeConfig, ServeOptions};

/// The version, with the commit where `ci/commit.rs` knows it.
pub const VERSION: &str = match option_env!("VERSION_WITH_COMMIT") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The server side of the NAT64 handoff protocol.
#[derive(Debug, Parser)]
#[command(name = "nat64handoff", version = VERSION, max_term_width = 100)]
// All that it says is plain text, on a terminal, too.
#[command(color = clap::ColorChoice::Never)]
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
    CheckConfig(CheckOptions),
    /// Ask the server that runs with these options as a NAT64 would, from loopback
    #[command(after_help = PLACES)]
    SelfCheck(SelfCheckOptions),
    /// Say who was behind a NAT64's address and port, or where a client was
    #[command(after_help = WHO_EXAMPLES)]
    Who(WhoOptions),
    /// Print the events as they come, from any point in the past on, or send them to a collector
    #[command(after_help = followed::FOLLOW_EXAMPLES)]
    Follow(FollowOptions),
    /// Copy an access log, with the client in the place of each NAT64
    #[command(after_help = annotate::SHAPES)]
    Annotate(AnnotateOptions),
    /// Say how the server is doing, and what it holds
    Status(StatusOptions),
    /// Show the same on the terminal, as it changes
    #[command(after_help = TOP_KEYS)]
    Top(TopOptions),
    /// Print the entries of a NAT64's table, as the server has them
    Table(TableOptions),
    /// Print the control identities of all NAT64s, as the server knows them
    Identities(AskOptions),
    /// Have the server forget a NAT64: a `Deleted` for each entry stands in the event log
    #[command(after_help = DROP_TABLE)]
    DropTable(DropTableOptions),
    /// Give a client no connection any more, and its NAT64's other clients theirs
    #[command(after_help = BAN)]
    Ban(BanOptions),
    /// Give a client connections again
    Unban(UnbanOptions),
    /// Print who is banned, and until when
    Bans(AskOptions),
    /// Have the server share its tables in another way with the other hosts of its fleet
    Fleet {
        /// What to do
        #[command(subcommand)]
        command: FleetCommand,
    },
    /// Keep the ports of banned clients in a set of nftables, and end connections for `ban --kill`
    #[command(after_help = ban_set::BAN_SET)]
    BanSet(BanSetOptions),
    /// Make the history of an event log, by which `who` asks it, check it, or copy it
    History {
        /// What to do
        #[command(subcommand)]
        command: HistoryCommand,
    },
    /// Have programs on this host see the clients of NAT64s as their peers
    PeerNames {
        /// What to do
        #[command(subcommand)]
        command: PeerNamesCommand,
    },
    /// Make or remove the TUN device through which a server delivers
    DeliverDevice {
        /// What to do
        #[command(subcommand)]
        command: DeliverDeviceCommand,
    },
    /// Print completions of this command line for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print a page of the manual
    Man {
        /// Which page
        #[arg(default_value = "nat64handoff")]
        page: ManualPage,
    },
}

/// A page of the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManualPage {
    /// Of the program and its commands: section 8.
    #[value(name = "nat64handoff", help = "The program and its commands: section 8")]
    Program,
    /// Of the configuration file: section 5.
    #[value(name = "nat64handoff.toml", help = "The file of --config: section 5")]
    File,
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

/// What a host of a fleet is to do.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Have it give all its tables to other hosts, and get none until it is started again
    #[command(after_help = DRAIN)]
    Drain(AskOptions),
}

/// What to do with a history.
#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Add all that the event log has by now; the server does so by itself, a day at a time
    Build(HistoryOptions),
    /// Read all of it, and say what is wrong; changes nothing
    Check(HistoryOptions),
    /// Copy it, and the lines of the event log behind it, to where those of a fleet's hosts are
    #[command(after_help = history::COPY)]
    Copy(CopyOptions),
}

/// Options of `history`.
#[derive(Debug, Args)]
pub struct HistoryOptions {
    /// The event log [default: that of `serve`]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The history's folder [default: beside the log]
    #[arg(long, value_name = "DIR")]
    pub history: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do with the programs that name peers.
#[derive(Debug, Subcommand)]
pub enum PeerNamesCommand {
    /// Load the programs into the kernel, for servers with `--peer-names`; as root
    Attach(AttachOptions),
    /// Remove the programs and all names; as root
    Detach(PinnedOptions),
    /// Say what is attached, and how many names there are
    Status(NamesStatusOptions),
}

/// Where the programs and their maps are kept.
#[derive(Debug, Args)]
pub struct PinnedOptions {
    /// The directory of the maps, in a bpffs
    #[arg(long, value_name = "DIR", default_value = PEER_MAPS)]
    pub maps: PathBuf,
}

/// Options of `peer-names status`.
#[derive(Debug, Args)]
pub struct NamesStatusOptions {
    /// Where the programs and their maps are kept.
    #[command(flatten)]
    pub pinned: PinnedOptions,
    /// Print JSON: one object
    #[arg(long)]
    pub json: bool,
}

/// Options of `peer-names attach`.
#[derive(Debug, Args)]
pub struct AttachOptions {
    /// Name peers only to the programs in this control group v2, as that of a slice; may be
    /// repeated [default: the root, so all programs]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Vec<PathBuf>,
    /// At which sockets peers are named, as serve has it
    #[arg(long, value_name = "ipv6|ipv4|both", default_value = "ipv6", value_parser = attached)]
    pub peer_names: PeerNames,
    /// The most names: 97 octets of memory for each, at once
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = names_max)]
    pub names_max: u32,
    /// The user that the server runs as
    #[arg(long, value_name = "NAME", default_value = "nat64ho")]
    pub user: String,
    /// Where the programs and their maps are kept.
    #[command(flatten)]
    pub pinned: PinnedOptions,
}

fn attached(text: &str) -> Result<PeerNames, String> {
    match PeerNames::parse(text) {
        Ok(PeerNames::Off) => Err("to have none, there is peer-names detach".into()),
        names => names,
    }
}

fn names_max(text: &str) -> Result<u32, String> {
    values::count(text, 1..=100_000_000)
}

/// Where the maps are kept unless it is said.
pub const PEER_MAPS: &str = "/sys/fs/bpf/nat64handoff";

/// Options of `self-check`.
#[derive(Debug, Args)]
pub struct SelfCheckOptions {
    /// What the server runs with.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// Check a server that is started for that, on loopback, with this state directory and log
    #[arg(long)]
    pub start: bool,
}

/// Options of `check-config`.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// What the server runs with.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// Print what --deliver needs of this host, as commands, and which of them were done
    #[arg(long)]
    pub host: bool,
    /// With --host: print it as commands that write files of systemd-networkd
    #[arg(long, requires = "host")]
    pub networkd: bool,
}

/// Options of `who`.
#[derive(Debug, Args)]
pub struct WhoOptions {
    /// A NAT64's address and port, as 192.0.2.7:3719; an address of the pool of peer names, as
    /// 100.64.0.7; or a client, as 2001:db8::17 or 2001:db8::/64
    #[arg(value_name = "WHO")]
    pub who: Asked,
    /// When, in UTC unless a zone is written; to the minute or second: all of that; two with ..
    /// between: from, to [default: now; of a client: ever]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Only connections to this address of the server
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<Ipv4Addr>,
    /// The event log; - for standard input [default: that of `serve`]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The history's folder; off: read the event log alone [default: beside the log]
    #[arg(long, value_name = "DIR|off")]
    pub history: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A folder with one for each host of a fleet, with its events.log, the files of former days
    /// and history, or with what history copy put there: all are asked together; a bucket is
    /// s3://BUCKET/PREFIX
    #[arg(long, value_name = "DIR", conflicts_with_all = ["log", "history", "config"])]
    pub fleet: Option<CopyPlace>,
    /// Print JSON: one object
    #[arg(long)]
    pub json: bool,
}

const TOP_KEYS: &str = "\
  a l e o r c s        sort by address, local address, entries, open connections, requests,
                       new entries, last seen; once more: the other way round
  up, down, j, k, ...  choose a NAT64
  Enter                its entries; Esc goes back
  q                    end";

/// Where a running server is asked, and how it is answered.
#[derive(Debug, Args)]
pub struct AskOptions {
    /// The admin socket [default: that of `serve`]
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON: one object
    #[arg(long)]
    pub json: bool,
}

/// Options of `top`.
#[derive(Debug, Args)]
pub struct TopOptions {
    /// The admin socket [default: that of `serve`]
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// How many tables it shows, the fullest first [default: 20; of JSON: 1000]
    #[arg(long, value_name = "N")]
    pub tables: Option<usize>,
    /// Where the server is asked.
    #[command(flatten)]
    pub ask: AskOptions,
}

/// Options of `table`.
#[derive(Debug, Args)]
pub struct TableOptions {
    /// The address of the NAT64
    #[arg(value_name = "NAT64")]
    pub nat64: Ipv4Addr,
    /// Only the entries of this client, or of those in this network
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub client: Option<Ipv6Net>,
    /// Where the server is asked.
    #[command(flatten)]
    pub ask: AskOptions,
}

/// Options of `drop-table`.
#[derive(Debug, Args)]
pub struct DropTableOptions {
    /// The address of the NAT64
    #[arg(value_name = "NAT64")]
    pub nat64: Ipv4Addr,
    /// Do not ask whether that is meant
    #[arg(long)]
    pub yes: bool,
    /// Where the server is asked.
    #[command(flatten)]
    pub ask: AskOptions,
}

/// A network, or one address.
fn prefix(text: &str) -> Result<Ipv6Net, String> {
    let alone = || text.parse::<Ipv6Addr>().map(Ipv6Net::from);
    let parsed = text.parse::<Ipv6Net>().or_else(|_| alone());
    parsed
        .map_err(|_| "no IPv6 address or prefix, like 2001:db8::17 or 2001:db8:17::/64".to_owned())
}

const DROP_TABLE: &str = "\
Its clients get other ports when the NAT64 asks for them again, and their connections that are open \
break. For a NAT64 that is not one any more, or whose table is wrong.";

const DRAIN: &str = "\
Every request is answered meanwhile. From the beginning /readyz says that it is not ready, so that its \
route is withdrawn; what still comes is passed on to the others. It is at its end when this is, and may \
be stopped when no more requests come. Fails where no other host is heard.";

const BAN: &str = "\
Its entries stay, so that unban breaks nothing. A connection that its NAT64 has in its cache goes on,
unless `ban-set` runs: with the operator's rule, its TCP and UDP packets are dropped, and --kill ends
its connections. A ban is kept over restarts.

  nat64handoff ban 2001:db8::17 --for 10m
  nat64handoff ban 2001:db8:17::/64";

const WHO_EXAMPLES: &str = "\
Reads the history and, behind it, the event log with its files of former days; the server need not
run.

  nat64handoff who 192.0.2.7:3719 --at '2019-03-18 10:07'
  nat64handoff who 192.0.2.7:3719 --at 'yesterday 10:00..11:00'
  nat64handoff who 2001:db8::17";

const PLACES: &str = "\
Every option can also be set by an environment variable (--max-entries: NAT64HANDOFF_MAX_ENTRIES, \
lists with commas) and, except for --config, by a key of the same name in the TOML file \
(max-entries = 1000000, lists as arrays). The command line wins over the environment, and the \
environment over the file. Counts may end in k or M.";

/// Options of `demo`.
#[derive(Debug, Default, Args)]
pub struct DemoOptions {
    /// The server's port [default: any that is free]
    #[arg(long, value_name = "N", hide = true)]
    pub port: Option<u16>,
}

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod tests;
