//! Reads all of a history, and says what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddrV4;

use super::columns::{Column, Kind, text_key};
use super::name::PieceName;
use super::read::{PieceFile, WantedRows};
use super::sum;
use super::{HistoryPlace, NOTE_BEGIN, NOTE_END, Unreadable, end_of, open};
use crate::handoff::change::Timestamp;

/// What to do about a damaged file.
const NEXT_NEWEST: &str = "nat64handoff history build puts it aside, and makes it again, as far as the event log goes back";
const NEXT_OTHER: &str = "move it away, and keep it: the files behind it are whole without it, and who --history off reads \
                          the event log, if that still goes back so far";

/// What a history has.
#[derive(Debug, Default)]
pub struct HistoryChecked {
    pub files: usize,
    pub rows: u64,
    /// Of the newest file: who have ports at its end.
    pub open: u64,
    /// The times of the first and the last line.
    pub times: Option<(Timestamp, Timestamp)>,
    /// What is wrong, a line each.
    pub wrong: Vec<String>,
    /// Octets of the files that say who had ports.
    pub octets: u64,
}

impl fmt::Display for HistoryChecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, rows, open, times, wrong, octets } = self;
        match times {
            None => writeln!(f, "there is no history")?,
            Some((first, last)) => writeln!(
                f,
                "{files} files, {rows} rows in {octets} octets, from {first} to {last} UTC; {open} ports are clients' at \
                 the end"
            )?,
        }
        wrong.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl HistoryChecked {
    /// Reads the history in a place. `progress` is told of how many octets how many were read.
    ///
    /// # Errors
    /// Where its folder cannot be read. What is wrong with a file is told in `wrong`.
    pub fn of(place: &HistoryPlace, progress: &dyn Fn(u64, u64)) -> Result<Self, Unreadable> {
        let listed = |error| (place.folder().to_owned(), error);
        let names = place.names(Kind::Held).map_err(listed)?;
        let conflicts = place.names(Kind::Conflicts).map_err(listed)?;
        let names_of_pool = place.names(Kind::Names).map_err(listed)?;
        let octets = |kind: Kind, name: PieceName| {
            std::fs::metadata(place.path(kind, name)).map_or(0, |file| file.len())
        };
        let all: u64 = names.iter().map(|&name| octets(Kind::Held, name)).sum();
        let mut checked = Self { files: names.len(), octets: all, ..Self::default() };
        let (mut before, mut read) = (None::<(PieceName, String)>, 0);
        // How many names there are at the end of files, by their numbers.
        let mut noted = BTreeMap::new();
        for &name in &names {
            let known = checked.times.get_or_insert((name.first, name.last));
            *known = (known.0.min(name.first), known.1.max(name.last));
            match checked.file(place, Kind::Held, name, 0) {
                Err((path, error)) => {
                    let next = if names.last() == Some(&name) { NEXT_NEWEST } else { NEXT_OTHER };
                    checked.wrong.push(format!("{}: {error}; {next}", path.display()));
                }
                Ok(file) => {
                    noted.insert(name.serial, end_of(&file).map_or(0, |end| end.names));
                    let text = |note| file.note(note).unwrap_or_default().to_owned();
                    if let Some((last, end)) = before
                        && (last.serial + 1 != name.serial || end != text(NOTE_BEGIN))
                    {
                        let path = file.path().display();
                        checked.wrong.push(format!(
                            "{path} does not go on where the file before it ends: lines between are missing"
                        ));
                    }
                    before = Some((name, text(NOTE_END)));
                }
            }
            read += octets(Kind::Held, name);
            progress(all, read);
        }
        let beside = [
            (Kind::Conflicts, conflicts),
            (Kind::Names, names_of_pool),
            (Kind::Begun, place.names(Kind::Begun).map_err(listed)?),
        ];
        for (kind, files) in beside {
            for name in files {
                let names = match kind {
                    Kind::Names => noted.remove(&name.serial).unwrap_or(0),
                    _ => 0,
                };
                if let Err((path, error)) = checked.file(place, kind, name, names) {
                    checked.wrong.push(format!("{}: {error}; {NEXT_OTHER}", path.display()));
                }
            }
        }
        for (serial, _) in noted.into_iter().filter(|&(_, names)| names > 0) {
            checked.wrong.push(format!(
                "the file {serial:06} of {} is missing: whom addresses of the pool stood for then is not known",
                place.kind_folder(Kind::Names).display()
            ));
        }
        Ok(checked)
    }

    /// Reads one, which has so many names at its end if it is one of names.
    fn file(
        &mut self,
        place: &HistoryPlace,
        kind: Kind,
        name: PieceName,
        names: u64,
    ) -> Result<PieceFile, Unreadable> {
        let path = place.path(kind, name);
        let verified = File::open(&path).and_then(|file| sum::verify(&file));
        verified.map_err(|error| (path, error))?;
        let file = open(place, kind, name)?;
        let (mut last, mut rows, mut open) = (None, 0, 0);
        let scanned = file.scan(WantedRows::All, |row| {
            let key = key(row.nat64());
            if last.is_some_and(|last| last > key) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its rows are not in order",
                ));
            }
            (last, rows) = (Some(key), rows + 1);
            // A conflict is of a moment, as is the beginning of a table.
            let is_of_moment = matches!(kind, Kind::Conflicts | Kind::Begun);
            let is_open = !is_of_moment && row.time(Column::Until).is_none();
            open += u64::from(is_open);
            Ok(())
        });
        let noted = scanned.and_then(|()| match kind {
            Kind::Held => end_of(&file).map(|end| end.open),
            Kind::Conflicts | Kind::Begun => Ok(open),
            Kind::Names => Ok(names),
        });
        match noted {
            Ok(noted) if noted == open => {}
            Ok(_) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "rows are missing");
                return Err((file.path().to_owned(), error));
            }
            Err(error) => return Err((file.path().to_owned(), error)),
        }
        if kind == Kind::Held {
            (self.rows, self.open) = (self.rows + rows, open);
        }
        Ok(file)
    }
}

fn key(port: SocketAddrV4) -> ([u8; 15], u16) {
    (text_key(*port.ip()), port.port())
}
