//! Who it was, of a fleet: each host's log and history have what that host did while it owned a
//! table, and here they are put together (`handoff::hosts`).
//!
//! Of a port, each history opens the files that have lines about it; of clients, all that may have
//! them. Nothing is written: the folders may be copies, or those of the hosts themselves. Of what
//! `history copy` put there, in a directory or a bucket, the lines behind the history are in
//! `rest.gz`; of a bucket, the files are brought that are opened.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::copies::CopyStore;
use crate::disk::eventlog::{LogReader, open_past, open_past_from};
use crate::disk::history::{
    FOLDER, HOST_LOG, History, HistoryPlace, OpenedRest, ToldRows, Unreadable, last_time,
};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::Holding;
use crate::handoff::hosts::{HostPast, HostsLines, ToldTogether};
use crate::handoff::logged::LoggedLine;
use crate::handoff::naming::{Naming, Namings};
use crate::programs::copies::{bucket, next_step};
use crate::programs::exit::ExitError;
use crate::programs::options::{Asked, CopyPlace};
use crate::programs::who::found::{FoundHoldings, Sought, room, too_much};
use crate::programs::who::{behind, lines, names, warn_of_gaps, with_history};

/// The most hosts.
const HOSTS_MAX: usize = 256;
/// Octets at the end of a log that have a whole line.
const END_OCTETS: u64 = 4096;
/// Of so many ports that clients seem to have still, it is looked up whether another host gave them
/// to others. No log says that without saying that they were deleted, unless lines are missing.
const FOLLOWED_MAX: usize = 64;

/// What one host says, and whom it had addresses of the pool stand for.
type NamedPast = (HostPast, Vec<Naming>);

/// A host's folder.
struct Host {
    name: String,
    place: HistoryPlace,
}

/// Looks into the logs and histories of all hosts. With what the answer may lack.
///
/// # Errors
/// Where there are no hosts, none can be read, or too much is found.
pub fn find(
    place: &CopyPlace,
    sought: Sought,
    now: Timestamp,
) -> Result<(FoundHoldings, Vec<String>), ExitError> {
    let hosts = match place {
        CopyPlace::Folder(folder) => hosts_in(folder)?,
        CopyPlace::Bucket(name, prefix) => hosts_of(&bucket("--fleet", name, prefix)?)?,
    };
    let mut warnings = Vec::new();
    let asked = sought.asked;
    let (mut together, names) = ask(&hosts, sought, &mut warnings)?;
    if let Asked::Clients(net) = asked {
        let open = together.holdings.iter().filter(|held| held.until.is_none());
        let ports: BTreeSet<_> = open.map(|held| held.nat64).collect();
        for port in ports.into_iter().take(FOLLOWED_MAX) {
            let sought = Sought { asked: Asked::Port(port), ..sought };
            // What cannot be read was told.
            let (ToldTogether { holdings: all, .. }, _) = ask(&hosts, sought, &mut Vec::new())?;
            together.holdings.retain(|held| held.nat64 != port);
            together.holdings.extend(all.into_iter().filter(|held| net.contains(&held.client)));
        }
        together.holdings.sort_by(Holding::order);
    }
    warn_of_age(&hosts, sought, now, &mut warnings);
    let ToldTogether { holdings, contradictions } = together;
    let mut found = FoundHoldings { holdings, contradictions, names: Vec::new() };
    if !found.is_of_nat64(sought) {
        found.names = names;
    }
    Ok((found, warnings))
}

fn hosts_in(folder: &Path) -> Result<Vec<Host>, ExitError> {
    let failed = |error: &dyn std::fmt::Display| {
        ExitError::failed(format_args!(
            "--fleet: {}: {error}; name a folder that has one for each host, with its {HOST_LOG} and {FOLDER}",
            folder.display()
        ))
    };
    let mut hosts = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let (name, folder) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if folder.is_dir() && !name.starts_with('.') {
            let place = HistoryPlace::new(folder.join(FOLDER), folder.join(HOST_LOG));
            hosts.push(Host { name, place });
        }
        if hosts.len() > HOSTS_MAX {
            return Err(failed(&format_args!("it has more than {HOSTS_MAX} folders")));
        }
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    match hosts.is_empty() {
        true => Err(failed(&"it has no folder of a host")),
        false => Ok(hosts),
    }
}

/// Those that were copied there.
fn hosts_of(store: &Arc<dyn CopyStore>) -> Result<Vec<Host>, ExitError> {
    let failed = |error: &dyn std::fmt::Display, next: &str| {
        ExitError::failed(format_args!("--fleet: {store}: {error}; {next}"))
    };
    let names = store.hosts().map_err(|error| failed(&error, next_step(&error, true)))?;
    let names = names.into_iter().filter(|name| !name.starts_with('.'));
    let hosts = names.map(|name| Host { place: HistoryPlace::copied(store, &name), name });
    let mut hosts: Vec<_> = hosts.collect();
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    match hosts.len() {
        0 => Err(failed(&"no host has copied its history there", "history copy does")),
        1..=HOSTS_MAX => Ok(hosts),
        _ => Err(failed(
            &format_args!("it has more than {HOSTS_MAX} folders"),
            "name one of a fleet",
        )),
    }
}

/// What all hosts say together of what is asked about.
fn ask(
    hosts: &[Host],
    sought: Sought,
    warnings: &mut Vec<String>,
) -> Result<(ToldTogether, Vec<Naming>), ExitError> {
    let (mut pasts, mut names, mut trouble, mut count) = (Vec::new(), Vec::new(), None, 0);
    for host in hosts {
        match host.past(sought, warnings) {
            Ok((past, its_names)) => {
                names.extend(its_names);
                count += past.holdings.len() + past.contradictions.len() + past.rest.len();
                pasts.push((host, past));
            }
            Err(error) => {
                let lost = format!("{}; what it did is not in this answer", error.message);
                warnings.push(host.says(&lost));
                trouble = Some(error);
            }
        }
        room(count).map_err(too_much)?;
    }
    if let Some(error) = trouble.filter(|_| pasts.is_empty()) {
        return Err(error);
    }
    // What one host says of a client may be ended by a table that another one began anew.
    let nat64s = nat64s_of(sought.asked, pasts.iter().map(|(_, past)| past));
    let mut lines = HostsLines::default();
    for (host, mut past) in pasts {
        host.add_beginnings(&nat64s, &mut past, warnings);
        lines.add(past);
        room(lines.count()).map_err(too_much)?;
    }
    names.sort_by(Naming::order);
    Ok((lines.together(), names))
}

/// The NAT64s that an answer is about.
fn nat64s_of<'p>(asked: Asked, pasts: impl Iterator<Item = &'p HostPast>) -> BTreeSet<Ipv4Addr> {
    match asked {
        Asked::Port(port) => BTreeSet::from([*port.ip()]),
        Asked::Pool(_) => BTreeSet::new(),
        Asked::Clients(_) => {
            let all = pasts.flat_map(|past| {
                let rest = past.rest.iter().filter(|line| line.entry().is_some());
                let held = past.holdings.iter().map(|held| *held.nat64.ip());
                held.chain(rest.map(|line| line.nat64))
            });
            all.collect()
        }
    }
}

impl Host {
    fn log(&self) -> &Path {
        self.place.log()
    }

    /// The lines behind its history, where its log is not there.
    fn rest(&self) -> Result<Option<OpenedRest>, ExitError> {
        if !self.place.is_copied() && self.log().exists() {
            return Ok(None);
        }
        self.place.open_rest().map_err(|error| self.rest_failed(&error))
    }

    fn rest_failed(&self, error: &io::Error) -> ExitError {
        let folder = self.place.folder().display();
        let next = "ask again, and if that is of no use, have it copied again";
        ExitError::failed(format_args!(
            "the end of its event log, in {folder}, cannot be read: {error}; {next}"
        ))
    }

    /// What lies behind its history, as `behind` has it.
    fn behind(
        &self,
        history: &History,
        asked: Asked,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<LoggedLine>, Option<Timestamp>), ExitError> {
        let Some(rest) = self.rest()? else { return behind(history, self.log(), asked, warnings) };
        let found = rest.behind(Some(history)).map_err(|error| self.rest_failed(&error))?;
        let (file, after, gap) = found;
        if let Some(gap) = gap {
            warnings.push(format!(
                "lines of its event log are missing from {gap} UTC on, and who had a port then may have lost it"
            ));
        }
        Ok((lines(vec![file], asked, after)?, gap))
    }

    /// Its lines, where it has no history.
    fn lines(&self, asked: Asked) -> Result<Vec<LoggedLine>, ExitError> {
        let Some(rest) = self.rest()? else {
            return lines(open_past(self.log()).map_err(log_failed)?, asked, None);
        };
        let (file, ..) = rest.behind(None).map_err(|error| self.rest_failed(&error))?;
        lines(vec![file], asked, None)
    }

    fn says(&self, warning: &str) -> String {
        format!("host {}: {warning}", self.name)
    }

    /// What `look` finds in its history, if there is one.
    fn look<T>(
        &self,
        warnings: &mut Vec<String>,
        look: impl FnMut(Option<&History>, &mut Vec<String>) -> Result<T, ExitError>,
    ) -> Result<T, ExitError> {
        let failed = |error| history_failed(&error);
        let (found, said) = with_history(&self.place, failed, look)?;
        warnings.extend(said.iter().map(|warning| self.says(warning)));
        Ok(found)
    }

    /// What its history and its log say of what is asked about. Where the history cannot be read:
    /// what the log says alone.
    fn past(&self, sought: Sought, warnings: &mut Vec<String>) -> Result<NamedPast, ExitError> {
        let found = self.look(warnings, |history, warnings| match history {
            Some(history) => self.past_in_history(history, sought, warnings),
            None => Ok(past_in_log(self.lines(sought.asked)?)),
        });
        let error = match found {
            Ok(past) => return Ok(past),
            Err(error) => error,
        };
        let Ok(past) = self.lines(sought.asked).map(past_in_log) else { return Err(error) };
        let alone = format!("{}; its event log was read alone", error.message);
        warnings.push(self.says(&alone));
        Ok(past)
    }

    fn past_in_history(
        &self,
        history: &History,
        sought: Sought,
        warnings: &mut Vec<String>,
    ) -> Result<NamedPast, ExitError> {
        let asked = sought.asked;
        let (rest, gap) = self.behind(history, asked, warnings)?;
        warn_of_gaps(history, sought, warnings);
        let failed = |error: Unreadable| match error.1.kind() {
            io::ErrorKind::QuotaExceeded => too_much(error.1),
            _ => history_failed(&error),
        };
        let told = match asked {
            Asked::Port(port) => history.told_of_port(port, room),
            Asked::Clients(net) => history.told_of_clients(net, room),
            Asked::Pool(_) => Ok(ToldRows::default()),
        };
        let ToldRows { mut holdings, contradictions, .. } = told.map_err(failed)?;
        if let Some(gap) = gap {
            let open = holdings.iter_mut().filter(|held| held.until.is_none());
            open.for_each(|held| held.doubt(gap));
        }
        let about_names = rest.iter().filter(|line| line.named().is_some()).cloned().collect();
        let names = names(asked, history, about_names, gap)?;
        let is_whole = matches!(asked, Asked::Port(_));
        Ok((HostPast { holdings, contradictions, beginnings: None, is_whole, rest }, names))
    }

    /// Adds when tables of these NAT64s began anew, by its history.
    fn add_beginnings(
        &self,
        nat64s: &BTreeSet<Ipv4Addr>,
        past: &mut HostPast,
        warnings: &mut Vec<String>,
    ) {
        if nat64s.is_empty() {
            return;
        }
        let found = self.look(warnings, |history, warnings| {
            let Some(history) = history else { return Ok(Some(Vec::new())) };
            let failed = |error| history_failed(&error);
            let all = history.beginnings(|nat64| nat64s.contains(&nat64), room);
            let (all, is_told) = (all.map_err(failed)?, history.tells_beginnings());
            if !is_told.map_err(failed)? {
                warnings.push(
                    "the first files of its history are of an older release, which do not say which tables began \
                     anew: what that ended on other hosts is not known"
                        .to_owned(),
                );
                return Ok(None);
            }
            Ok(Some(all))
        });
        match found {
            Ok(all) => past.beginnings = all,
            Err(error) => {
                let lost = format!("{}; which tables began anew is not known", error.message);
                warnings.push(self.says(&lost));
            }
        }
    }

    /// The time of its newest line. None: it has none, as far as that can be read.
    fn newest(&self) -> Option<Timestamp> {
        let log = self.log();
        if let Some(at) = last_in_file(log).ok().flatten() {
            return Some(at);
        }
        if let Some(at) = self.rest().ok().flatten().and_then(|rest| rest.note.last()) {
            return Some(at);
        }
        // Since its day began, it has written none.
        let history = History::open(self.place.clone());
        let end = history.ok().flatten().map(|history| *history.end());
        let rest = open_past_from(log, end.as_ref().map(|end| &end.place)).ok();
        let last = rest.and_then(|past| last_of(LogReader::new(past.files)));
        last.or(end.map(|end| end.reached))
    }
}

fn history_failed((path, error): &Unreadable) -> ExitError {
    ExitError::failed(format_args!(
        "{}, of its history, cannot be read: {error}; nat64handoff history check says what to do",
        path.display()
    ))
}

fn past_in_log(rest: Vec<LoggedLine>) -> NamedPast {
    let mut namings = Namings::default();
    rest.iter().for_each(|line| namings.take(line));
    (HostPast { rest, ..HostPast::default() }, namings.into_all())
}

fn log_failed((path, error): (PathBuf, io::Error)) -> ExitError {
    ExitError::failed(format_args!("its event log {} cannot be read: {error}", path.display()))
}

/// Says whose lines end before the time that is asked about: whether such a host wrote nothing
/// since then, or the folder is an old copy, is not known here.
fn warn_of_age(hosts: &[Host], sought: Sought, now: Timestamp, warnings: &mut Vec<String>) {
    let asked = sought.span.map_or(now, |span| span.until.min(now));
    let older = hosts.iter().filter_map(|host| match host.newest() {
        Some(newest) if newest >= asked => None,
        Some(newest) => Some(format!("{} at {newest} UTC", host.name)),
        None => Some(format!("{} before all", host.name)),
    });
    let older: Vec<_> = older.collect();
    if !older.is_empty() {
        warnings.push(format!(
            "lines end before the time that is asked about: of host {}; what these hosts wrote since, if anything, \
             is not in this answer",
            older.join(", ")
        ));
    }
}

/// The time of the last line at the end of a file.
fn last_in_file(log: &Path) -> io::Result<Option<Timestamp>> {
    let mut file = File::open(log)?;
    let octets = file.metadata()?.len();
    file.seek(SeekFrom::Start(octets.saturating_sub(END_OCTETS)))?;
    let mut end = Vec::new();
    file.take(END_OCTETS).read_to_end(&mut end)?;
    Ok(last_time(&end))
}

/// That of the last line of some files.
fn last_of(mut log: LogReader) -> Option<Timestamp> {
    let mut last = None;
    while let Ok(text) = log.lines()
        && !text.is_empty()
    {
        let length = text.len();
        last = last_time(text).or(last);
        log.take(length);
    }
    last
}
