//! The files before a new one whose ports it notes together with its own (`ports`).

use std::io;

use super::columns::Kind;
use super::ports::{NotedPorts, begin_of};
use super::read::PieceFile;
use super::{HistoryPlace, LinesAbout, open};

/// The files before a new one whose ports it has, too.
pub(super) struct EarlierPorts {
    /// None: one of them is missing or cannot be read, so it is not known which these are.
    files: Option<Vec<PieceFile>>,
}

impl EarlierPorts {
    /// Those before the file of this number.
    pub(super) fn of(place: &HistoryPlace, serial: u32) -> io::Result<Self> {
        let names = place.names(Kind::Held)?;
        let oldest = names.first().map_or(serial, |name| name.serial);
        let (mut files, mut before) = (Vec::new(), serial - 1);
        // What was there before the oldest one was removed as it was too old.
        while before > begin_of(serial) && before >= oldest {
            let found = names.iter().find(|name| name.serial == before);
            let Some(Ok(file)) = found.map(|&name| open(place, Kind::Held, name)) else {
                return Ok(Self { files: None });
            };
            files.push(file);
            before = begin_of(before);
        }
        Ok(Self { files: Some(files) })
    }

    /// The new file's ports together with theirs, and where they are noted. None: not known.
    pub(super) fn with(
        &self,
        what: LinesAbout,
        mut own: NotedPorts,
    ) -> Option<(&'static str, NotedPorts)> {
        for file in self.files.as_ref()? {
            own.add(file.ports(what.note()).ok()??);
        }
        Some((what.note(), own))
    }
}
