//! The command line, and the configurations that it makes together with the environment and a file.
//!
//! An option is declared in one row: of `table` for `serve`, of `gateway` for `gateway`. All
//! else is made of the rows. A configuration holds only what is valid; its limits are those of
//! PROTOCOL.md sections 5 and 6. Not here: opening, binding or checking anything outside of the
//! configuration.

mod about;
mod annotate;
mod asked;
mod config;
mod environment;
mod followed;
mod gateway;
mod layers;
mod table;
mod values;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use annotate::AnnotateOptions;
pub use asked::Asked;
pub use config::{Configuration, Options};
pub use environment::Environment;
pub use followed::{Collector, CollectorFormat, CollectorPlace, FollowOptions};
pub use gateway::{GatewayOptions, GatewaySetup};
pub use layers::{UsageError, UsageErrors};
pub use table::{LogDestination, Places, ServeConfig, ServeOptions};

/// The version, with the commit where `ci/commit.rs` knows it.
const VERSION: &str = match option_env!("VERSION_WITH_COMMIT") {
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
    CheckConfig(ServeOptions),
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

/// Options of `who`.
#[derive(Debug, Args)]
pub struct WhoOptions {
    /// A NAT64's address and port, as 192.0.2.7:3719; or a client, as 2001:db8::17 or 2001:db8::/64
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
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON: one object
    #[arg(long)]
    pub json: bool,
}

const WHO_EXAMPLES: &str = "\
Reads the event log, with the files of former days; the server need not run.

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
mod tests;
