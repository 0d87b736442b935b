//! What asks a running server, at its admin socket: `status`, `table`, `identities`, `drop-table`,
//! `ban`, `unban`, `bans`.

mod bans;
pub mod client;
mod status;
pub mod units;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use bans::{ban, bans, unban};

use crate::programs::ask::client::{AskedServer, Method};
use crate::programs::ask::units::Units;
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{AskOptions, DropTableOptions, StatusOptions, TableOptions};
use crate::programs::report::{
    DrainReport, DropReport, DroppedEntries, IdentitiesReport, IdentityStatus, Status, TableReport,
};

/// Tables that `status` prints, and that its JSON has.
const TABLES_SHOWN: usize = 20;
const TABLES_JSON: usize = 1000;

/// Prints how the server is doing.
///
/// # Errors
/// Where it does not say, here and below.
pub fn status(options: &StatusOptions) -> Result<(), ExitError> {
    let default = if options.ask.json { TABLES_JSON } else { TABLES_SHOWN };
    let path = format!("/status?tables={}", options.tables.unwrap_or(default));
    tell(&options.ask, Method::Get, &path, |status: &Status| {
        status::text(status, Units::of_output())
    })
}

/// Prints the entries of a NAT64.
///
/// # Errors
/// As above.
pub fn table(options: &TableOptions) -> Result<(), ExitError> {
    let client = options.client.map_or_else(String::new, |client| format!("?client={client}"));
    let path = format!("/tables/{}{client}", options.nat64);
    tell(&options.ask, Method::Get, &path, |report: &TableReport| {
        let mut text = String::new();
        for table in &report.tables {
            for entry in &table.entries {
                text.push_str(&format!(
                    "{}:{} [{}]:{} to {} via {}\n",
                    report.nat64,
                    entry.port,
                    entry.client,
                    entry.client_port,
                    table.local,
                    entry.prefix
                ));
            }
        }
        text
    })
}

/// Prints the identities of all NAT64s.
///
/// # Errors
/// As above.
pub fn identities(options: &AskOptions) -> Result<(), ExitError> {
    tell(options, Method::Get, "/identities?tables=10000", |report: &IdentitiesReport| {
        let line = |nat64: &str, local: &str, identity: &IdentityStatus| {
            let IdentityStatus { port, proved, last_used, known } = identity;
            let known = if *known { "" } else { ", has to prove itself anew" };
            format!("{nat64}:{port} to {local}, proved {proved}, last used {last_used}{known}\n")
        };
        let mut text = String::new();
        for table in &report.tables {
            let its = table.identities.iter().map(|each| line(&table.nat64, &table.local, each));
            text.extend(its);
        }
        let more = report.tables_all - report.tables.len().min(report.tables_all);
        if more > 0 {
            text.push_str(&format!("and those of {more} more tables\n"));
        }
        text
    })
}

/// Has the server forget a NAT64.
///
/// # Errors
/// As above, and where nobody says that it is meant.
pub fn drop_table(options: &DropTableOptions) -> Result<(), ExitError> {
    let nat64 = options.nat64;
    if !options.yes {
        if !io::stdin().is_terminal() {
            return Err(ExitError::usage(
                "nobody can be asked whether that is meant, as standard input is no terminal; say so by --yes",
            ));
        }
        let server = AskedServer::of(&options.ask)?;
        let report: TableReport = read(&server.ask(Method::Get, &format!("/tables/{nat64}"))?)?;
        let entries: usize = report.tables.iter().map(|table| table.entries.len()).sum();
        print(format!(
            "{nat64} has {entries} entries. Its clients get other ports, and their open connections \
             break. Forget it? [y/N] "
        ))?;
        // Whoever closed it does not answer either.
        let _ = io::stdout().flush();
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        if !["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
            return Err(ExitError::failed("nothing was changed"));
        }
    }
    let path = format!("/tables/{nat64}/drop");
    tell(&options.ask, Method::Post, &path, |report: &DropReport| {
        let gone = |table: &DroppedEntries| {
            format!(
                "{} to {} has gone, with {} entries\n",
                report.nat64, table.local, table.entries
            )
        };
        report.tables.iter().map(gone).collect()
    })
}

/// Has a host of a fleet give its tables away.
///
/// # Errors
/// As above, and where it has not given all of them away in time.
pub fn drain(options: &AskOptions) -> Result<(), ExitError> {
    tell(options, Method::Post, "/fleet/drain", |report: &DrainReport| {
        format!("{} tables are other hosts' now\n", report.tables)
    })
}

/// Asks, and prints the answer: as JSON, or as `text` has it.
fn tell<T: DeserializeOwned + Serialize>(
    options: &AskOptions,
    method: Method,
    path: &str,
    text: impl FnOnce(&T) -> String,
) -> Result<(), ExitError> {
    let octets = AskedServer::of(options)?.ask(method, path)?;
    if options.json {
        // As the server has it, also what this program does not know.
        let json: serde_json::Value = read(&octets)?;
        let pretty = serde_json::to_string_pretty(&json).map_err(ExitError::failed)?;
        return print(pretty + "\n");
    }
    print(text(&read(&octets)?))
}

/// Reads an answer.
///
/// # Errors
/// Where it is none that this program knows.
pub fn read<T: DeserializeOwned>(octets: &[u8]) -> Result<T, ExitError> {
    serde_json::from_slice(octets).map_err(|error| {
        ExitError::failed(format_args!(
            "the server's answer cannot be read: {error}; see whether it is of another version"
        ))
    })
}
