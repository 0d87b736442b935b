//! What the event log has from its beginning on: its file, and those of former days, compressed or
//! not (`days`, `archive`).

use std::fs::File;
use std::io::ErrorKind::{NotFound, ResourceBusy};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use memchr::{memchr, memmem, memrchr};

use super::days::Former;
use super::output::open_to_read;
use super::place::{LogPlace, Passed, Tail};
use crate::disk::fs::{Disk, RealDisk, parent};

/// Octets that are searched at once, more than a line has.
const PIECE_OCTETS: usize = 1 << 20;
/// The server may begin another file, or compress one, while they are opened.
pub(super) const OPEN_TRIES: usize = 10;
pub(super) const OPEN_INTERVAL: Duration = Duration::from_millis(10);

/// A part of the event log that is open: it stays what it is when it is renamed or removed.
pub struct PastFile {
    pub(super) path: PathBuf,
    pub(super) reader: Box<dyn Read + Send>,
    /// The file itself, where it is not compressed.
    pub(super) plain: Option<File>,
    /// Where it is read from.
    pub(super) begin: Passed,
    /// How many octets it has on the disk, and how many of these were read.
    octets: u64,
    read: Arc<AtomicU64>,
}

/// What is open of an event log.
pub struct OpenedPast {
    /// In the order of time.
    pub files: Vec<PastFile>,
    /// Whether the first one is read from the place that was looked for. False: it is nowhere, and
    /// all there is is open.
    pub is_found: bool,
}

/// Opens the files of the event log at `log`, in the order of time.
///
/// # Errors
/// The first that cannot be opened, and why.
pub fn open_past(log: &Path) -> Result<Vec<PastFile>, (PathBuf, io::Error)> {
    open_past_from(log, None).map(|past| past.files)
}

/// Opens the files of the event log at `log` that have something behind a place in it, in the order
/// of time. Without a place: all of them.
///
/// # Errors
/// The first that cannot be opened, and why.
pub fn open_past_from(
    log: &Path,
    place: Option<&LogPlace>,
) -> Result<OpenedPast, (PathBuf, io::Error)> {
    for _ in 1..OPEN_TRIES {
        match open_now(log, place) {
            Err((_, error)) if matches!(error.kind(), NotFound | ResourceBusy) => {
                thread::sleep(OPEN_INTERVAL);
            }
            opened => return opened,
        }
    }
    open_now(log, place)
}

fn open_now(log: &Path, place: Option<&LogPlace>) -> Result<OpenedPast, (PathBuf, io::Error)> {
    let names = files(log)?;
    let mut found = None;
    for (index, name) in names.iter().enumerate().rev() {
        let Some(place) = place else { break };
        let opened = PastFile::open(name).and_then(|file| file.at(place));
        found = opened.map_err(|error| (name.clone(), error))?.map(|file| (index, file));
        if found.is_some() {
            break;
        }
    }
    let is_found = place.is_none() || found.is_some();
    let behind = found.as_ref().map_or(0, |(index, _)| index + 1);
    let mut opened: Vec<_> = found.into_iter().map(|(_, file)| file).collect();
    for name in &names[behind..] {
        opened.push(PastFile::open(name).map_err(|error| (name.clone(), error))?);
    }
    match files(log)? == names {
        true => Ok(OpenedPast { files: opened, is_found }),
        false => {
            Err((log.to_owned(), io::Error::new(ResourceBusy, "its files change all the time")))
        }
    }
}

/// What is read instead of files.
pub fn past_of(reader: impl Read + Send + 'static) -> Vec<PastFile> {
    vec![PastFile::of(PathBuf::from("-"), reader)]
}

fn files(log: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    // They are where the file is that a link leads to.
    let log = log.canonicalize().map_err(|error| (log.to_owned(), error))?;
    let (folder, name) = (parent(&log), log.file_name().unwrap_or_default());
    let names = RealDisk.list(folder).map_err(|error| (folder.to_owned(), error))?;
    let mut former: Vec<_> =
        names.iter().filter_map(|other| Some((Former::parse(name, other)?, other))).collect();
    former.sort();
    // For a moment a file is there twice: as it was, and compressed.
    former.dedup_by(|compressed, file| compressed.0.is_same_as(file.0));
    let former = former.into_iter().map(|(_, name)| folder.join(name));
    Ok(former.chain([log.clone()]).collect())
}

impl PastFile {
    /// What is read instead of a file, and what it is called.
    pub fn of(path: PathBuf, reader: impl Read + Send + 'static) -> Self {
        let (begin, read) = (Passed::default(), Arc::default());
        Self { path, reader: Box::new(reader), plain: None, begin, octets: 0, read }
    }

    /// What is no regular file may have another reader, who would miss what is read here.
    fn open(path: &Path) -> io::Result<Self> {
        let file = open_to_read(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let octets = metadata.len();
        let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
        let plain = if is_compressed { None } else { Some(file.try_clone()?) };
        let read = Arc::<AtomicU64>::default();
        let counted = Counted { file, read: Arc::clone(&read) };
        let reader: Box<dyn Read + Send> = match is_compressed {
            true => Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE_OCTETS, counted))),
            false => Box::new(counted),
        };
        Ok(Self { path: path.to_owned(), reader, plain, begin: Passed::default(), octets, read })
    }

    /// Goes to a place. None: it is not in this file.
    fn at(mut self, place: &LogPlace) -> io::Result<Option<Self>> {
        if self.plain.is_some() && self.octets < place.offset {
            return Ok(None);
        }
        let (head, tail) = (u64::from(place.head.octets), u64::from(place.tail.octets));
        let read = |reader: &mut dyn Read, octets: u64| {
            let mut content = Vec::new();
            reader.take(octets).read_to_end(&mut content).map(|_| content)
        };
        let mut begin = read(&mut self.reader, head)?;
        if Tail::of(&begin) != place.head {
            return Ok(None);
        }
        let before = if place.offset < head {
            // It was looked at what stands behind the place, too.
            let behind = begin.split_off(usize::try_from(place.offset).unwrap_or(usize::MAX));
            self.reader = Box::new(Cursor::new(behind).chain(self.reader));
            begin.clone()
        } else {
            let between = place.offset.saturating_sub(head + tail);
            match &mut self.plain {
                // It has the place in the file together with the reader.
                Some(file) => drop(file.seek(SeekFrom::Current(between.cast_signed()))?),
                None => drop(io::copy(&mut self.reader.by_ref().take(between), &mut io::sink())?),
            }
            let rest = place.offset.saturating_sub(head + between);
            let before = [&begin[..], &read(&mut self.reader, rest)?].concat();
            if before.len() as u64 + between != place.offset {
                return Ok(None);
            }
            before
        };
        if Tail::of(&before[before.len().saturating_sub(usize::from(place.tail.octets))..])
            != place.tail
        {
            return Ok(None);
        }
        let tail = before[before.len() - usize::from(place.tail.octets)..].to_vec();
        self.begin = Passed { head: begin, offset: place.offset, tail };
        Ok(Some(self))
    }

    /// How many octets it has on the disk, and how many of these were read.
    pub fn progress(&self) -> (u64, u64) {
        (self.octets, self.read.load(Ordering::Relaxed))
    }
}

/// A file, and how much was read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What `take` makes of the lines that contain one of `needles`, in order, several files at a time.
/// A line that has no end yet is none.
///
/// # Errors
/// The first file that cannot be read, and why.
pub fn lines_with<T: Send>(
    files: Vec<PastFile>,
    needles: &[String],
    take: impl Fn(&str) -> Option<T> + Sync,
) -> Result<Vec<T>, (PathBuf, io::Error)> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let results: Vec<_> = files.iter().map(|_| Mutex::new(Ok(Vec::new()))).collect();
    let files = Mutex::new(files.into_iter().zip(&results));
    thread::scope(|scope| {
        for _ in 0..threads.min(results.len()) {
            scope.spawn(|| {
                loop {
                    let next = files.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((PastFile { path, reader, .. }, result)) = next else { return };
                    let found = lines_in(reader, needles, &take).map_err(|error| (path, error));
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = found;
                }
            });
        }
    });
    let mut all = Vec::new();
    for result in results {
        all.extend(result.into_inner().unwrap_or_else(PoisonError::into_inner)?);
    }
    Ok(all)
}

fn lines_in<T>(
    mut reader: impl Read,
    needles: &[String],
    take: impl Fn(&str) -> Option<T>,
) -> io::Result<Vec<T>> {
    let finders: Vec<_> = needles.iter().map(memmem::Finder::new).collect();
    let mut piece = vec![0; PIECE_OCTETS];
    let (mut filled, mut found) = (0, Vec::new());
    loop {
        if filled == piece.len() {
            // No line of ours is as long.
            filled = 0;
        }
        let read = match reader.read(&mut piece[filled..]) {
            Ok(0) => return Ok(found),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += read;
        let Some(end) = memrchr(b'\n', &piece[..filled]) else { continue };
        let places = finders.iter().flat_map(|finder| finder.find_iter(&piece[..=end]));
        let mut starts: Vec<usize> =
            places.map(|at| memrchr(b'\n', &piece[..at]).map_or(0, |end| end + 1)).collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let length = memchr(b'\n', &piece[start..]).unwrap_or(0);
            let line = &piece[start..start + length];
            found.extend(std::str::from_utf8(line).ok().and_then(&take));
        }
        piece.copy_within(end + 1..filled, 0);
        filled -= end + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::disk::eventlog::LogReader;

    fn needles(text: &str) -> [String; 1] {
        [text.to_owned()]
    }

    fn whole(line: &str) -> Option<String> {
        Some(line.to_owned())
    }

    #[test]
    fn lines_of_all_files_in_the_order_of_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let compressed = |name: &str, text: &str| {
            let mut file = GzEncoder::new(File::create(path(name)).unwrap(), Compression::fast());
            file.write_all(text.as_bytes()).unwrap();
            file.finish().unwrap();
        };
        compressed("events.log-20190318.gz", "a 1\nb 2\n");
        fs::write(path("events.log-20190319"), "a 3\n").unwrap();
        compressed("events.log-20190319.gz", "a 3\n");
        fs::write(path("events.log-20190319.1"), "a 4\nb\n").unwrap();
        fs::write(path("events.log"), "b\nb a 5\na 6").unwrap();
        fs::write(path("events.log.1"), "a 7\n").unwrap();
        let past = open_past(&path("events.log")).unwrap();
        assert_eq!(
            lines_with(past, &needles("a "), whole).unwrap(),
            ["a 1", "a 3", "a 4", "b a 5"]
        );
        let (missing, error) = open_past(&path("other.log")).err().unwrap();
        assert_eq!((missing, error.kind()), (path("other.log"), io::ErrorKind::NotFound));
        fs::write(path("events.log-20190320.gz"), "no gzip").unwrap();
        let (broken, _) = lines_with(open_past(&path("events.log")).unwrap(), &needles("a"), whole)
            .err()
            .unwrap();
        assert_eq!(broken.file_name().unwrap(), "events.log-20190320.gz");
    }

    /// After each part that was taken, whatever becomes of the files meanwhile.
    #[test]
    fn the_rest_is_read_from_the_place_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let line = |number: u32| format!("2019-03-18 10:06:28.{number:06} Initialized 192.0.2.7\n");
        let text = |lines: std::ops::Range<u32>| lines.map(line).collect::<String>();
        fs::write(path("events.log-20190318"), text(0..3)).unwrap();
        fs::write(path("events.log-20190319"), text(3..40) + "half a li").unwrap();
        fs::write(path("events.log"), text(40..43) + "half").unwrap();
        let mut places = Vec::new();
        let mut log = LogReader::new(open_past(&path("events.log")).unwrap());
        for _ in 0..43 {
            let lines = log.lines().unwrap();
            let length = memchr(b'\n', lines).unwrap() + 1;
            places.push(log.place().unwrap());
            log.take(length);
        }
        assert!(log.lines().unwrap().is_empty());
        places.push(log.place().unwrap());
        let file = File::create(path("events.log-20190319.gz")).unwrap();
        let mut encoder = GzEncoder::new(file, Compression::fast());
        encoder.write_all(&fs::read(path("events.log-20190319")).unwrap()).unwrap();
        encoder.finish().unwrap();
        for renamed in [false, true] {
            if renamed {
                fs::remove_file(path("events.log-20190319")).unwrap();
                fs::rename(path("events.log"), path("events.log-20190320")).unwrap();
                fs::write(path("events.log"), text(43..44)).unwrap();
            }
            for (taken, place) in (0..).zip(&places) {
                assert_eq!(place.to_string().parse::<LogPlace>().unwrap(), *place);
                let past = open_past_from(&path("events.log"), Some(place)).unwrap();
                assert!(past.is_found, "{taken}");
                let mut log = LogReader::new(past.files);
                let mut rest = String::new();
                while let lines = log.lines().unwrap()
                    && !lines.is_empty()
                {
                    rest += std::str::from_utf8(lines).unwrap();
                    let length = lines.len();
                    log.take(length);
                }
                assert_eq!(rest, text(taken..if renamed { 44 } else { 43 }), "{taken} {renamed}");
            }
        }
        // What stands there is another log.
        fs::remove_file(path("events.log-20190318")).unwrap();
        assert!(!open_past_from(&path("events.log"), Some(&places[2])).unwrap().is_found);
        assert!("1/0 1".parse::<LogPlace>().is_err() && "257/0 1 1/0".parse::<LogPlace>().is_err());
    }

    #[test]
    fn lines_that_come_in_parts() {
        /// Gives an octet at a time.
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                (buffer[0], self.0) = (*first, rest);
                Ok(1)
            }
        }
        let text = "x1\ny\n\nx2 x\ny\nx3";
        assert_eq!(lines_in(Slow(text.as_bytes()), &needles("x"), whole).unwrap(), ["x1", "x2 x"]);
        let long = format!("x{}\nx4\n", "y".repeat(3 * PIECE_OCTETS));
        assert!(lines_in(long.as_bytes(), &needles("x4"), whole).unwrap().len() <= 1);
        assert_eq!(lines_in(&b"\xffx\nx5\n"[..], &needles("x"), whole).unwrap(), ["x5"]);
    }
}
