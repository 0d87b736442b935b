//! The gateway's log (RFC 6888 section 4): a line for each entry that it makes, learns or gives up,
//! in the form that the server's event log has with `--log-format full`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::handoff::change::{Event, EventKind, LogFormat, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::line::LineWriter;
use crate::kernel::stderr::warn;
use crate::nat64::engine::EntryChange;
use crate::programs::options::LogDestination;

/// So many octets are written at once, though more may follow.
const WRITE_AT: usize = 65_536;
/// The most octets of lines that wait because they cannot be written.
const WAITING_MAX: usize = 1 << 20;

/// A log that is being written.
#[derive(Debug)]
pub struct GatewayLog {
    /// None: standard output.
    path: Option<PathBuf>,
    file: Option<File>,
    lines: LineWriter,
    waiting: String,
    /// The number of lines that were given up.
    lost: u64,
    /// That was said.
    trouble: bool,
}

impl GatewayLog {
    /// Goes on with the file, or begins it.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(destination: &LogDestination) -> io::Result<Self> {
        let path = match destination {
            LogDestination::Stdout => None,
            LogDestination::File(path) => Some(path.clone()),
        };
        let file = path.as_deref().map(append_to).transpose()?;
        Ok(Self {
            path,
            file,
            lines: LineWriter::default(),
            waiting: String::new(),
            lost: 0,
            trouble: false,
        })
    }

    /// Adds lines about these changes.
    pub fn add(&mut self, at: Timestamp, changes: impl Iterator<Item = EntryChange>) {
        for EntryChange { nat64, server, entry, made } in changes {
            if self.waiting.len() >= WAITING_MAX {
                self.lost += 1;
                continue;
            }
            let (port, client) = (entry.port, entry.client);
            let kind = match made {
                true => EventKind::Created { port, client },
                false => EventKind::Deleted { port, client },
            };
            let table = TableKey { local: server, nat64 };
            self.lines.append(&mut self.waiting, &Event { at, table, kind }, LogFormat::Full);
            self.waiting.push('\n');
            if self.waiting.len() >= WRITE_AT && !self.trouble {
                self.write();
            }
        }
    }

    /// Writes what waits. Where that fails it waits on, and that is said once.
    pub fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let written = match &mut self.file {
            Some(file) => write_some(file, self.waiting.as_bytes()),
            None => write_some(&mut io::stdout().lock(), self.waiting.as_bytes()),
        };
        let (octets, outcome) = written;
        self.waiting.drain(..octets);
        match outcome {
            Ok(()) => self.trouble = false,
            Err(error) if !self.trouble => {
                self.trouble = true;
                let name = self.name();
                warn(format_args!(
                    "warning: the log {name} cannot be written: {error}; up to 1 MiB of lines wait \
                     until it can"
                ));
            }
            Err(_) => {}
        }
    }

    /// Writes what waits, and to a new file where the log was renamed. To be called about once a
    /// second.
    pub fn tick(&mut self) {
        self.write();
        let (Some(path), Some(file)) = (&self.path, &self.file) else { return };
        if !is_at(file, path)
            && let Ok(file) = append_to(path)
        {
            self.file = Some(file);
            self.write();
        }
    }

    /// How many lines were given up.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn name(&self) -> String {
        self.path
            .as_ref()
            .map_or_else(|| "on standard output".into(), |path| path.display().to_string())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Whether the file still has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

/// Writes as much as can be. Returns how many octets that were.
fn write_some(to: &mut impl Write, octets: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < octets.len() {
        match to.write(&octets[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, to.flush())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::handoff::entry::{Client, Entry, MappedPort};
    use crate::nat64::engine::WELL_KNOWN_PREFIX;

    const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    fn change(port: u16, made: bool) -> EntryChange {
        let client = Client {
            prefix: WELL_KNOWN_PREFIX,
            address: "2001:db8::17".parse().unwrap(),
            port: 53186,
        };
        let entry = Entry { port: MappedPort(port), client };
        EntryChange { nat64: POOL, server: Ipv4Addr::new(203, 0, 113, 5), entry, made }
    }

    #[test]
    fn lines_go_on_in_the_file_of_that_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.log");
        std::fs::write(&path, "before\n").unwrap();
        let mut log = GatewayLog::open(&LogDestination::File(path.clone())).unwrap();
        let at = Timestamp::from_micros(1_552_903_588_436_754);
        log.add(at, [change(3719, true), change(3719, false)].into_iter());
        log.write();
        let line = |what: &str| {
            format!(
                "2019-03-18 10:06:28.436754 {what} 192.0.2.7:3719 [2001:db8::17]:53186 \
                 to 203.0.113.5 via 64:ff9b::/96\n"
            )
        };
        let (created, deleted) = (line("Created"), line("Deleted"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("before\n{created}{deleted}"));
        // It was renamed: what is written until that is seen is in the old one.
        let old = folder.path().join("old");
        std::fs::rename(&path, &old).unwrap();
        log.add(at, [change(3719, true)].into_iter());
        log.tick();
        log.add(at, [change(3719, false)].into_iter());
        log.tick();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), format!("{text}{created}"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), deleted);
        assert!(GatewayLog::open(&LogDestination::File(folder.path().into())).is_err());
    }

    #[test]
    fn lines_that_cannot_be_written_wait_and_are_bounded() {
        let full = LogDestination::File("/dev/full".into());
        let mut log = GatewayLog::open(&full).unwrap();
        let at = Timestamp::from_micros(0);
        for _ in 0..20_000 {
            log.add(at, [change(3719, true)].into_iter());
        }
        assert!(log.lost() > 5_000 && log.waiting.len() < WAITING_MAX + 200);
        let (waiting, lost) = (log.waiting.len(), log.lost());
        log.tick();
        assert_eq!(log.waiting.len(), waiting);
        // It can again.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        (log.file, log.path) = (Some(append_to(&path).unwrap()), Some(path.clone()));
        log.tick();
        assert!(log.waiting.is_empty() && !log.trouble);
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines as u64 + lost, 20_000);
    }
}
