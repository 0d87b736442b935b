//! Lines that an earlier run of this host had recorded, and did not write any more.
//!
//! Each shard writes its lines in the order of its records. So what the event log lacks of a shard
//! are its last ones: those that are later than all that the log has, and some of about that time,
//! as shards write beside each other.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::disk::fleet::{FleetKey, FleetValue, changes_of};
use crate::handoff::change::{Event, LogFormat, Timestamp};
use crate::handoff::logged::LoggedLine;
use crate::handoff::ownership::HostRun;

/// How much of the end of the log is read: more than the lines that can have waited.
const READ_MAX: u64 = 64 << 20;
/// By how much a shard's lines may be older than those of another that are in the log already.
const BESIDE_MICROS: u64 = 60_000_000;
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;

/// The file of the event log, and what its lines look like.
#[derive(Debug, Clone)]
pub struct LoggedBefore {
    pub path: PathBuf,
    pub format: LogFormat,
}

impl LoggedBefore {
    /// What the log has now. `now`: where the log of this day has no line, those of former days are
    /// in other files, and are complete.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&self, now: Timestamp) -> io::Result<LoggedLines> {
        let (lines, last) = end_of(&self.path)?;
        let today = now.as_micros() - now.as_micros() % DAY_MICROS;
        let last = last.map_or(today, Timestamp::as_micros);
        Ok(LoggedLines { format: self.format, lines, last })
    }
}

/// The end of the event log.
#[derive(Debug)]
pub struct LoggedLines {
    format: LogFormat,
    lines: HashSet<String>,
    last: u64,
}

impl LoggedLines {
    /// What the log lacks of a record, if an earlier run of this host made it.
    pub fn missing(&self, me: HostRun, value: &FleetValue) -> Vec<Event> {
        let FleetKey::Record(key) = value.key else { return Vec::new() };
        let changes = match &value.value {
            Some(value) if key.by.run.host == me.host && key.by.run != me => {
                changes_of(&key, value).unwrap_or_default()
            }
            _ => return Vec::new(),
        };
        let is_missing = |event: &Event| {
            let at = event.at.as_micros();
            let is_beside = at <= self.last && at + BESIDE_MICROS > self.last;
            at > self.last
                || is_beside && !self.lines.contains(&event.line(self.format).to_string())
        };
        let events = changes.iter().filter_map(|(at, table, change)| change.event(*at, *table));
        events.filter(is_missing).collect()
    }
}

/// The last lines of a log, and the latest time of any. None of a log that is not there.
fn end_of(path: &Path) -> io::Result<(HashSet<String>, Option<Timestamp>)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(READ_MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut octets = Vec::new();
    file.take(READ_MAX).read_to_end(&mut octets)?;
    // One that was cut off is none: the logger removes it.
    let whole = octets.iter().rposition(|&octet| octet == b'\n').map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&octets[..whole]);
    let first = if begin > 0 { 1 } else { 0 };
    let lines: Vec<&str> = text.lines().skip(first).collect();
    // The last line of all may be older than that of another shard.
    let last = lines.iter().filter_map(|line| LoggedLine::parse(line)).map(|line| line.at).max();
    let lines = lines.into_iter().map(str::to_owned).collect();
    Ok((lines, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fleet::{RecordKey, ShardRun, body_of};
    use crate::handoff::change::Change;
    use crate::handoff::entry::TableKey;
    use crate::handoff::ownership::{HostId, Revision};

    const ME: HostRun = HostRun { host: HostId(1), number: 2 };
    const BEFORE: HostRun = HostRun { host: HostId(1), number: 1 };
    const OTHER: HostRun = HostRun { host: HostId(3), number: 1 };
    /// A day, 10:00:00.
    const TEN: u64 = 1_500 * DAY_MICROS + 10 * 3600 * 1_000_000;

    fn table(number: u8) -> TableKey {
        TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, number].into() }
    }

    /// That a NAT64 became known so many seconds after ten.
    fn recorded(run: HostRun, nat64: u8, seconds: u64) -> (FleetValue, String) {
        let number = u64::from(nat64);
        let key = RecordKey { by: ShardRun { run, shard: 0 }, number };
        let at = Timestamp::from_micros(TEN + seconds * 1_000_000);
        let change = Change::Initialized;
        let line = change.event(at, table(nat64)).unwrap().line(LogFormat::Plain).to_string();
        let value = Some(body_of(&key, &[(at, table(nat64), change)]));
        let key = FleetKey::Record(key);
        (FleetValue { key, value, revision: Revision(number) }, line)
    }

    #[test]
    fn what_was_recorded_and_not_written_is_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        let before = LoggedBefore { path: path.clone(), format: LogFormat::Plain };
        let all = [(BEFORE, 0), (BEFORE, 500), (OTHER, 501), (BEFORE, 502), (BEFORE, 503)];
        let (values, lines): (Vec<_>, Vec<_>) =
            all.iter().zip(1..).map(|(&(run, at), nat64)| recorded(run, nat64, at)).unzip();
        let missing = |now: u64| {
            let now = Timestamp::from_micros(TEN + now * 1_000_000);
            let logged = before.read(now).unwrap();
            let events = values.iter().flat_map(|value| logged.missing(ME, value));
            events.map(|event| event.table.nat64.octets()[3]).collect::<Vec<_>>()
        };
        // Nothing was written this day; or all is of the day before.
        assert_eq!(missing(600), [1, 2, 4, 5]);
        assert!(missing(DAY_MICROS / 1_000_000).is_empty());
        let write = |lines: &[&str]| std::fs::write(&path, lines.concat()).unwrap();
        let [first, second, _, fourth, fifth] = [0, 1, 2, 3, 4].map(|at| lines[at].clone() + "\n");
        write(&[&first, &second, &fourth]);
        assert_eq!(missing(600), [5]);
        // Another shard was ahead, and what is long ago is not looked for.
        write(&[&second, &fifth]);
        assert_eq!(missing(600), [4]);
        write(&[&first, &second, &fifth, &fourth]);
        assert!(missing(600).is_empty());
        write(&[&first, &second, &fourth, fifth.trim_end()]);
        assert_eq!(missing(600), [5]);
        write(&[&first, &second, &fourth, &fifth]);
        assert!(missing(600).is_empty());
    }
}
