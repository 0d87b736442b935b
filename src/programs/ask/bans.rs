//! `ban`, `unban` and `bans`.

use crate::programs::ask::client::Method;
use crate::programs::ask::tell;
use crate::programs::exit::ExitError;
use crate::programs::options::{AskOptions, BanOptions, UnbanOptions, not_too_wide};
use crate::programs::report::{BanReport, BanStatus, BannedEntry, BansReport, UnbanReport};

/// The most entries of a client that are named.
const ENTRIES_SHOWN: usize = 10;

/// Bans a client.
///
/// # Errors
/// Where it is not banned, here and below.
pub fn ban(options: &BanOptions) -> Result<(), ExitError> {
    not_too_wide(options.client, options.wide).map_err(ExitError::usage)?;
    let mut path = format!("/ban?client={}", options.client);
    if let Some(length) = options.length {
        path.push_str(&format!("&for={}ms", length.as_millis()));
    }
    if options.wide {
        path.push_str("&wide");
    }
    if options.kill {
        path.push_str("&kill");
    }
    tell(&options.ask, Method::Post, &path, banned)
}

fn banned(report: &BanReport) -> String {
    let mut text = format!("{}\n", line(&report.ban));
    let entries = report.entries.iter().take(ENTRIES_SHOWN);
    let shown = entries.len() as u64;
    match report.entries_all {
        0 => text.push_str("it has no entry\n"),
        1 => text.push_str("it has 1 entry, which stays:\n"),
        all => text.push_str(&format!("it has {all} entries, which stay:\n")),
    }
    for BannedEntry { nat64, local, entry } in entries {
        let (port, client, client_port) = (entry.port, &entry.client, entry.client_port);
        text.push_str(&format!("  {nat64}:{port} [{client}]:{client_port} to {local}\n"));
    }
    if report.entries_all > shown {
        text.push_str(&format!("  and {} more\n", report.entries_all - shown));
    }
    match (report.ended, &report.not_ended) {
        (Some(1), _) => text.push_str("1 connection was ended\n"),
        (Some(ended), _) => text.push_str(&format!("{ended} connections were ended\n")),
        (None, Some(why)) => text.push_str(&format!("its connections were not ended: {why}\n")),
        (None, None) => {}
    }
    text
}

/// Bans a client no more.
///
/// # Errors
/// As above.
pub fn unban(options: &UnbanOptions) -> Result<(), ExitError> {
    let path = format!("/unban?client={}", options.client);
    tell(&options.ask, Method::Post, &path, |report: &UnbanReport| {
        let client = &report.client;
        match &report.banned_as_part_of {
            None => format!("{client} is not banned any more\n"),
            Some(by) => format!("{client} is still banned, as a part of {by}\n"),
        }
    })
}

/// Prints all bans.
///
/// # Errors
/// As above.
pub fn bans(options: &AskOptions) -> Result<(), ExitError> {
    tell(options, Method::Get, "/bans", |report: &BansReport| {
        report.bans.iter().map(|ban| line(ban) + "\n").collect()
    })
}

fn line(BanStatus { client, since, until }: &BanStatus) -> String {
    match until {
        Some(until) => format!("{client} is banned since {since} until {until}"),
        None => format!("{client} is banned since {since}"),
    }
}
