//! `nat64handoff follow`: the events as they come, from any point in the past on, to standard
//! output or to a collector. It reads the log's files and asks nothing of the server, which need
//! not run.
//!
//! What "once" means: with `--cursor`, the place is kept after the lines before it were taken, by a
//! pipe or file of ours, or by a collector as far as its protocol tells. Who is killed in between
//! gives the last of them again, at most `printed::GROUP_OCTETS` to a pipe. A reader that keeps
//! the cursor of `--json` itself, with what it made of the line, and gives it back by `--after`,
//! has each event exactly once.
//!
//! | file | what it is |
//! | --- | --- |
//! | `kept` | the file of `--cursor` |
//! | `printed` | standard output |
//! | `exported` | collectors: what was taken, and what is sent again |
//! | `connection` | the way to a collector |
//! | `encoder` | what makes messages of events: `journald`, `syslog`, `ipfix` |
#![doc = include_str!("../../EXPORT.md")]

mod connection;
mod encoder;
mod exported;
mod ipfix;
mod journald;
mod kept;
mod printed;
mod syslog;

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::disk::eventlog::{FollowStart, Follower};
use crate::kernel::{clock, signals};
use crate::programs::exit::ExitError;
use crate::programs::follow::kept::KeptCursor;
use crate::programs::log_place::event_log;
use crate::programs::options::FollowOptions;
use crate::programs::who::when::TimeSpan;

/// How long to wait at once; a signal ends it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows the event log until it is told to end.
///
/// # Errors
/// Where the log cannot be read, or the lines or the cursor cannot be written.
pub fn run(options: &FollowOptions) -> Result<(), ExitError> {
    let stop = signals::EndSignal::new().map_err(ExitError::failed)?;
    signals::let_through();
    let log = event_log(options.log.as_deref(), options.config.as_deref())?;
    let log = log
        .ok_or_else(|| ExitError::usage("--log: standard input cannot be followed; name a file"))?;
    let mut kept = options.cursor.as_deref().map(KeptCursor::open).transpose()?;
    let known = kept.as_ref().and_then(KeptCursor::cursor);
    let start = match known.or(options.after) {
        Some(cursor) => FollowStart::After(cursor),
        None => start(&options.from)?,
    };
    let follower = Follower::open(&log, start).map_err(|error| unreadable(&log, &error))?;
    if let Some(kept) = &mut kept {
        // So that nothing is passed over that comes before the first line is taken.
        kept.keep(follower.cursor())?;
    }
    match &options.to {
        Some(to) => exported::run(to, &log, follower, kept, options.no_wait, &stop),
        None => printed::run(options, &log, follower, kept, &stop),
    }
}

fn start(from: &str) -> Result<FollowStart, ExitError> {
    match from {
        "start" => Ok(FollowStart::Beginning),
        "now" => Ok(FollowStart::Now),
        time => match TimeSpan::parse(time, clock::wall()) {
            Ok(span) => Ok(FollowStart::Time(span.from)),
            Err(error) => Err(ExitError::usage(format_args!("--from: {error}; or start, or now"))),
        },
    }
}

fn unreadable(log: &Path, error: &std::io::Error) -> ExitError {
    let log = log.display();
    match error.kind() {
        ErrorKind::NotFound => ExitError::failed(format_args!(
            "the event log {log} cannot be followed: there is no such directory; name it by --log"
        )),
        ErrorKind::PermissionDenied => ExitError::failed(format_args!(
            "the event log {log} cannot be followed: {error}; run this as root or as the log's owner"
        )),
        _ => ExitError::failed(format_args!(
            "the event log {log} cannot be followed: {error}; name another by --log, or begin later by \
             --from"
        )),
    }
}
