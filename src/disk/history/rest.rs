//! The lines of the log behind a history, beside a copy of it, where the log itself is not:
//! `rest.gz`. The first line says what it is ([`RestNote`], as JSON), and the others are the log's.
//!
//! It is put there after the files of the history, and read after them. So it may be behind one
//! that is not the newest any more: what is later than that one's lines is behind it as well.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use memchr::memrchr;
use serde::{Deserialize, Serialize};

use super::{History, HistoryPlace};
use crate::disk::eventlog::PastFile;
use crate::handoff::change::Timestamp;
use crate::handoff::logged::time_of;

/// What it is called, in the folder of a history.
pub(super) const REST: &str = "rest.gz";
/// Octets that the first line has at most.
const NOTE_MAX: u64 = 1024;
const REST_VERSION: u32 = 1;

/// What the lines are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestNote {
    #[serde(rename = "nat64handoff.rest")]
    version: u32,
    /// The number of the newest file of the history, which they are behind; 0: there is none.
    pub(super) behind: u32,
    pub(super) octets: u64,
    crc32c: u32,
    /// The time of the last one.
    last: Option<u64>,
    /// Since when lines are missing before the first one.
    gap: Option<u64>,
}

impl RestNote {
    /// The time of the last line, if there is one.
    pub fn last(&self) -> Option<Timestamp> {
        self.last.map(Timestamp::from_micros)
    }

    /// None: it is none.
    #[cfg(feature = "fleet")]
    pub(super) fn of_begin(begin: &[u8]) -> Option<Self> {
        read_note(&mut BufReader::new(MultiGzDecoder::new(begin))).ok()
    }
}

/// Lines that can be read.
pub struct OpenedRest {
    pub note: RestNote,
    pub file: PastFile,
}

impl OpenedRest {
    /// Those that are behind a history, later than the time that is returned, where there is one;
    /// and since when lines are missing between, where some are.
    ///
    /// # Errors
    /// Where the history is another one by now.
    pub fn behind(
        self,
        history: Option<&History>,
    ) -> io::Result<(PastFile, Option<Timestamp>, Option<Timestamp>)> {
        let newest = history.map_or(0, History::newest);
        match history {
            _ if self.note.behind == newest => {
                let gap = self.note.gap.map(Timestamp::from_micros);
                Ok((self.file, gap, gap))
            }
            Some(history) if self.note.behind < newest => {
                Ok((self.file, Some(history.end().reached), None))
            }
            _ => Err(io::Error::new(ErrorKind::ResourceBusy, "it is put there just now")),
        }
    }
}

impl HistoryPlace {
    /// The lines behind it, if they are beside it.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn open_rest(&self) -> io::Result<Option<OpenedRest>> {
        let path = self.folder.join(REST);
        let file = match self.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut reader = BufReader::new(MultiGzDecoder::new(BufReader::new(file)));
        let note = read_note(&mut reader)?;
        if note.version != REST_VERSION {
            return Err(io::Error::new(ErrorKind::InvalidData, "a newer release wrote it"));
        }
        Ok(Some(OpenedRest { note, file: PastFile::of(path, reader) }))
    }
}

fn read_note(reader: &mut impl BufRead) -> io::Result<RestNote> {
    let mut line = Vec::new();
    reader.take(NOTE_MAX).read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(io::Error::from)
}

/// The time of the last whole line of a text that has one.
pub fn last_time(text: &[u8]) -> Option<Timestamp> {
    let whole = &text[..memrchr(b'\n', text)?];
    let lines = whole.rsplit(|&octet| octet == b'\n');
    let mut times = lines.filter_map(|line| time_of(std::str::from_utf8(line).ok()?));
    times.next()
}

#[cfg(feature = "fleet")]
mod made {
    use std::fs::File;
    use std::io::{Seek, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::disk::eventlog::{LogReader, open_past_from};
    use crate::disk::history::Unreadable;

    impl RestNote {
        /// Octets of a file that have its note.
        pub(crate) const BEGIN_OCTETS: u64 = 2 * NOTE_MAX;

        /// The lines that the log of a place has behind a history, in a file without a name.
        ///
        /// # Errors
        /// Where the log cannot be read, or there is no room.
        pub(crate) fn make(
            place: &HistoryPlace,
            history: Option<&History>,
        ) -> Result<(Self, File), Unreadable> {
            let end = history.map(History::end);
            let past = open_past_from(place.log(), end.map(|end| &end.place))?;
            let gap = end.filter(|_| !past.is_found).map(|end| end.reached);
            let here = |error| (std::env::temp_dir(), error);
            let mut note = Self {
                version: REST_VERSION,
                behind: history.map_or(0, History::newest),
                octets: 0,
                crc32c: 0,
                last: None,
                gap: gap.map(Timestamp::as_micros),
            };
            let file = tempfile::tempfile().map_err(here)?;
            let mut encoder = GzEncoder::new(file, Compression::default());
            let mut log = LogReader::new(past.files);
            loop {
                let text = log.lines()?;
                if text.is_empty() {
                    break;
                }
                let length = text.len();
                for line in text.split_inclusive(|&octet| octet == b'\n') {
                    // What is not later may be in the history.
                    let is_behind = gap.is_none_or(|gap| last_time(line) > Some(gap));
                    if is_behind {
                        encoder.write_all(line).map_err(here)?;
                        note.octets += line.len() as u64;
                        note.crc32c = crc32c::crc32c_append(note.crc32c, line);
                    }
                }
                note.last = last_time(text).map(Timestamp::as_micros).or(note.last);
                log.take(length);
            }
            let whole = encoder.finish().and_then(|lines| note.put_before(lines));
            Ok((note, whole.map_err(here)?))
        }

        /// The same with the note, which was not known before.
        fn put_before(&self, mut lines: File) -> io::Result<File> {
            let mut encoder = GzEncoder::new(tempfile::tempfile()?, Compression::default());
            serde_json::to_writer(&mut encoder, self)?;
            encoder.write_all(b"\n")?;
            let mut whole = encoder.finish()?;
            lines.rewind()?;
            io::copy(&mut lines, &mut whole)?;
            Ok(whole)
        }
    }
}
