//! `nat64handoff who`: who was behind a NAT64's address and port, or where a client was, from the
//! history of the event log, and from the log; of a fleet, from those of all hosts. The server need
//! not run.

mod answer;
mod fleet;
mod found;
pub mod when;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::eventlog::{PastFile, lines_with, open_past, open_past_from, past_of};
use crate::disk::history::{FoundNames, History, HistoryPlace, NamesOf, Unreadable};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Holding, Holdings};
use crate::handoff::logged::LoggedLine;
use crate::handoff::names::overlap;
use crate::handoff::naming::{Naming, Namings};
use crate::kernel::clock;
use crate::kernel::stderr::warn;
use crate::programs::exit::{ExitError, print};
use crate::programs::log_place::LogPlaces;
use crate::programs::options::{Asked, WhoOptions};
pub use crate::programs::who::answer::Answer;
use crate::programs::who::found::{FoundHoldings, Search, Sought};
use crate::programs::who::when::TimeSpan;

/// How often a history is read that changes meanwhile.
const TRIES: usize = 16;

/// Of so many clients or networks that an address of the pool stood for one after another in the
/// time that is asked about, those are looked up that used a port.
const NETS_MAX: usize = 16;

/// Prints who it was.
///
/// # Errors
/// Where the event log or its history cannot be read, or a time is none.
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
    let span = span.or(match asked {
        Asked::Port(_) | Asked::Pool(_) => Some(TimeSpan::moment(now)),
        Asked::Clients(_) => None,
    });
    told(options, Sought { asked, span, to: options.to })
}

fn told(options: &WhoOptions, sought: Sought) -> Result<Answer, ExitError> {
    let mut said = Said::default();
    let found = find(options, sought, &mut said)?;
    let FoundHoldings { mut holdings, mut contradictions, names } = found;
    if let Some(to) = sought.to {
        if holdings.iter().any(|held| held.local.is_none() && sought.is_within(held)) {
            return Err(ExitError::failed(
                "--to: the event log does not say at which address of the server (--log-format full does)",
            ));
        }
        holdings.retain(|holding| holding.local == Some(to));
        contradictions.retain(|said| said.local == Some(to));
    }
    let clients = clients_of(options, sought, &names, &mut said)?;
    let Sought { asked, span, .. } = sought;
    Ok(Answer { asked, span, holdings, contradictions, names, clients })
}

/// Where an address of the pool is asked about with a client's own port: which client of those that
/// it stood for then used that port, and behind which NAT64.
fn clients_of(
    options: &WhoOptions,
    sought: Sought,
    names: &[Naming],
    said: &mut Said,
) -> Result<Vec<Holding>, ExitError> {
    let Asked::Port(port) = sought.asked else { return Ok(Vec::new()) };
    let then = names.iter().filter(|name| sought.has_time_of(name.from, name.until));
    let mut nets: Vec<_> = then.map(|name| name.client).collect();
    nets.sort_unstable();
    nets.dedup();
    let mut all = Vec::new();
    for net in nets.into_iter().take(NETS_MAX) {
        let found = find(options, Sought { asked: Asked::Clients(net), ..sought }, said)?;
        let its = |held: &Holding| held.client_port == port.port() && sought.is_within(held);
        all.extend(found.holdings.into_iter().filter(its));
    }
    if let Some(to) = sought.to {
        all.retain(|held| held.local == Some(to));
    }
    Ok(all)
}

/// What was said of answers that may lack something: each thing once.
#[derive(Debug, Default)]
struct Said(BTreeSet<String>);

impl Said {
    fn say(&mut self, warnings: Vec<String>) {
        for warning in warnings {
            if self.0.insert(warning.clone()) {
                warn(format_args!("{warning}"));
            }
        }
    }
}

/// Looks into the history, if there is one, and into the event log; or into those of a fleet.
fn find(options: &WhoOptions, sought: Sought, said: &mut Said) -> Result<FoundHoldings, ExitError> {
    let WhoOptions { log, history, config, fleet, .. } = options;
    if let Some(place) = fleet {
        let (found, warnings) = fleet::find(place, sought, clock::wall())?;
        said.say(warnings);
        return Ok(found);
    }
    let LogPlaces { log, history } =
        LogPlaces::find(log.as_deref(), history.as_deref(), config.as_deref())?;
    let Some((folder, log)) = history.zip(log.clone()) else { return find_in_log(log, sought) };
    let failed = |(path, error): Unreadable| {
        ExitError::failed(format_args!(
            "the history in {} cannot be read: {error}; --history off reads the event log alone",
            path.display()
        ))
    };
    let look = |history: Option<&History>, warnings: &mut Vec<String>| match history {
        Some(history) => find_in_history(history, &log, sought, warnings),
        None => find_in_log(Some(log.clone()), sought),
    };
    let place = HistoryPlace::new(folder, log.clone());
    let (found, warnings) = with_history(&place, failed, look)?;
    said.say(warnings);
    Ok(found)
}

/// What `look` finds in the history of a log, if there is one, with what it warns of.
fn with_history<T>(
    place: &HistoryPlace,
    failed: impl Fn(Unreadable) -> ExitError,
    mut look: impl FnMut(Option<&History>, &mut Vec<String>) -> Result<T, ExitError>,
) -> Result<(T, Vec<String>), ExitError> {
    let mut tries = TRIES;
    loop {
        let opened = History::open(place.clone()).map_err(&failed)?;
        let mut warnings = Vec::new();
        let found = look(opened.as_ref(), &mut warnings);
        tries -= 1;
        // A file may have been too old, and removed before it was read.
        let is_in_doubt = found.is_err() || !warnings.is_empty();
        if tries > 0 && is_in_doubt && opened.is_some_and(|history| history.is_outdated()) {
            continue;
        }
        return found.map(|found| (found, warnings));
    }
}

/// Looks into the event log alone, or into standard input.
fn find_in_log(log: Option<PathBuf>, sought: Sought) -> Result<FoundHoldings, ExitError> {
    let past = match log {
        None => past_of(io::stdin()),
        Some(path) => open_past(&path).map_err(unreadable)?,
    };
    let lines = lines(past, sought.asked, None)?;
    let mut namings = Namings::default();
    lines.iter().for_each(|line| namings.take(line));
    let (holdings, contradictions) = Holdings::of(lines.into_iter()).into_all();
    let mut found = FoundHoldings { holdings, contradictions, names: Vec::new() };
    if !found.is_of_nat64(sought) {
        found.names = namings.into_all();
    }
    Ok(found)
}

/// Looks into a history, and into the event log behind it. `warnings` are about the answer.
fn find_in_history(
    history: &History,
    log: &Path,
    sought: Sought,
    warnings: &mut Vec<String>,
) -> Result<FoundHoldings, ExitError> {
    let (lines, gap) = behind(history, log, sought.asked, warnings)?;
    warn_of_gaps(history, sought, warnings);
    let about_names = lines.iter().filter(|line| line.named().is_some()).cloned().collect();
    let mut found = Search::run(sought, history, (lines, gap))?;
    if !found.is_of_nat64(sought) {
        found.names = names(sought.asked, history, about_names, gap)?;
    }
    Ok(found)
}

/// The lines of the event log behind a history; and since when lines are missing between, where
/// some are.
fn behind(
    history: &History,
    log: &Path,
    asked: Asked,
    warnings: &mut Vec<String>,
) -> Result<(Vec<LoggedLine>, Option<Timestamp>), ExitError> {
    let end = *history.end();
    match open_past_from(log, Some(&end.place)) {
        Ok(past) => {
            if !past.is_found {
                warnings.push(format!(
                    "where the history ends is not in the event log any more: lines may be missing from {} UTC on, \
                     and who had a port then may have lost it",
                    end.reached
                ));
            }
            // What is later is behind it.
            let gap = (!past.is_found).then_some(end.reached);
            Ok((lines(past.files, asked, gap)?, gap))
        }
        Err((path, error)) if error.kind() == io::ErrorKind::NotFound => {
            warnings.push(format!(
                "the event log {} is not there: this is what its history has, up to {} UTC",
                path.display(),
                end.reached
            ));
            Ok((Vec::new(), None))
        }
        Err(error) => Err(unreadable(error)),
    }
}

/// Lines may be missing in a history, too.
fn warn_of_gaps(history: &History, sought: Sought, warnings: &mut Vec<String>) {
    let (gaps, trouble) = Search::gaps(sought, history);
    warnings.extend(trouble.into_iter().map(|(path, error)| {
        format!(
            "{}, a file of the history, cannot be read: {error}; whether lines are missing before it is not known",
            path.display()
        )
    }));
    warnings.extend(gaps.into_iter().map(|(since, until)| {
        format!(
            "lines of the event log from {since} to {until} UTC are not in its history: who had it then may be \
             missing"
        )
    }));
}

/// Whom addresses of the pool stood for, by the history and by the lines behind it; some are
/// missing between, where a time is given since when.
fn names(
    asked: Asked,
    history: &History,
    lines: Vec<LoggedLine>,
    gap: Option<Timestamp>,
) -> Result<Vec<Naming>, ExitError> {
    let of = match asked {
        Asked::Port(port) => NamesOf::Address(*port.ip()),
        Asked::Pool(pool) => NamesOf::Address(pool),
        Asked::Clients(net) => NamesOf::Clients(net),
    };
    let FoundNames { ended, mut open } = history.names_from(0, of).map_err(found::unreadable)?;
    if let Some(gap) = gap {
        open.iter_mut().for_each(|name| name.doubt(gap));
    }
    let mut namings = Namings::continued(open);
    lines.iter().for_each(|line| namings.take(line));
    let mut all = namings.into_all();
    all.extend(ended);
    all.sort_by(Naming::order);
    Ok(all)
}

fn unreadable((path, error): (PathBuf, io::Error)) -> ExitError {
    ExitError::failed(format_args!(
        "the event log {} cannot be read: {error}; name it by --log",
        path.display()
    ))
}

/// The lines that may be about it, and are later than `after`.
fn lines(
    past: Vec<PastFile>,
    asked: Asked,
    after: Option<Timestamp>,
) -> Result<Vec<LoggedLine>, ExitError> {
    let take = |line: &str| {
        LoggedLine::parse(line)
            .filter(|line| is_about(asked, line) && after.is_none_or(|after| line.at > after))
    };
    lines_with(past, &asked.needles(), take).map_err(unreadable)
}

/// Whether a line is about it, or begins a table that it may be in.
fn is_about(asked: Asked, line: &LoggedLine) -> bool {
    if let Some(client) = line.named() {
        return match asked {
            Asked::Port(port) => line.nat64 == *port.ip(),
            Asked::Pool(pool) => line.nat64 == pool,
            Asked::Clients(net) => overlap(client, net),
        };
    }
    match (asked, line.entry()) {
        (Asked::Pool(_), _) => false,
        (Asked::Port(port), None) => line.nat64 == *port.ip(),
        (Asked::Clients(_), None) => true,
        (Asked::Port(port), Some(entry)) => (line.nat64, entry.port) == (*port.ip(), port.port()),
        (Asked::Clients(net), Some(entry)) => net.contains(&entry.client),
    }
}

#[cfg(test)]
mod tests;
