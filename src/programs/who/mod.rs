//! `nat64handoff who`: who was behind a NAT64's address and port, or where a client was, from the
//! event log alone. The server need not run.

mod answer;
pub mod when;

use std::io;
use std::path::PathBuf;

use crate::disk::eventlog::{lines_with, open_past, past_of};
use crate::handoff::holding::{Holding, Holdings};
use crate::handoff::logged::LoggedLine;
use crate::kernel::clock;
use crate::programs::exit::{ExitError, print};
use crate::programs::log_place::event_log;
use crate::programs::options::{Asked, WhoOptions};
pub use crate::programs::who::answer::Answer;
use crate::programs::who::when::TimeSpan;

/// Prints who it was.
///
/// # Errors
/// Where the event log cannot be read, or a time is none.
pub fn run(options: WhoOptions) -> Result<(), ExitError> {
    let answer = answer(&options)?;
    print(if options.json { answer.json()? } else { answer.to_string() })
}

/// Looks it up.
///
/// # Errors
/// As [`run`].
pub fn answer(options: &WhoOptions) -> Result<Answer, ExitError> {
    let now = clock::wall();
    let span = options.at.as_deref().map(|at| TimeSpan::parse(at, now)).transpose();
    let span = span.map_err(|error| ExitError::usage(format_args!("--at: {error}")))?;
    let asked = options.who;
    let (mut holdings, mut contradictions) = Holdings::of(lines(options)?.into_iter()).into_all();
    if let Some(to) = options.to {
        let is_asked = |held: &Holding| {
            span.is_none_or(|span| held.until.is_none_or(|until| until > span.from))
        };
        if holdings.iter().any(|held| held.local.is_none() && is_asked(held)) {
            return Err(ExitError::failed(
                "--to: the event log does not say at which address of the server (--log-format full does)",
            ));
        }
        holdings.retain(|holding| holding.local == Some(to));
        contradictions.retain(|said| said.local == Some(to));
    }
    let span = span.or(match asked {
        Asked::Port(_) => Some(TimeSpan::moment(now)),
        Asked::Clients(_) => None,
    });
    Ok(Answer { asked, span, holdings, contradictions })
}

/// The lines of the event log that may be about it.
fn lines(options: &WhoOptions) -> Result<Vec<LoggedLine>, ExitError> {
    let failed = |(path, error): (PathBuf, io::Error)| {
        ExitError::failed(format_args!(
            "the event log {} cannot be read: {error}; name it by --log",
            path.display()
        ))
    };
    let past = match event_log(options.log.as_deref(), options.config.as_deref())? {
        None => past_of(io::stdin()),
        Some(path) => open_past(&path).map_err(failed)?,
    };
    let take = |line: &str| LoggedLine::parse(line).filter(|line| is_about(options.who, line));
    lines_with(past, &options.who.needles(), take).map_err(failed)
}

/// Whether a line is about it, or begins a table that it may be in.
fn is_about(asked: Asked, line: &LoggedLine) -> bool {
    match (asked, line.entry()) {
        (Asked::Port(port), None) => line.nat64 == *port.ip(),
        (Asked::Clients(_), None) => true,
        (Asked::Port(port), Some(entry)) => (line.nat64, entry.port) == (*port.ip(), port.port()),
        (Asked::Clients(net), Some(entry)) => net.contains(&entry.client),
    }
}
