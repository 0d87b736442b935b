//! Copies a history to where those of several hosts are: what is there unchanged is not sent again,
//! and nothing is removed unless that is wanted.
//!
//! What is there can be asked at any time. So the files are put there in the order of the log, each
//! after those that belong to it, and last the lines of the log behind them (`rest`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::columns::Kind;
use super::name::PieceName;
use super::rest::{REST, RestNote};
use super::{FOLDER, HOST_LOG, History, HistoryPlace, Unreadable, sum};
use crate::disk::copies::{CopiedFile, CopyStore};

/// A bucket says to the second when a file was put there: so much earlier it may seem to be.
const SECOND: u64 = 1_000_000;

/// What is to be copied where.
pub struct HistoryCopying<'a> {
    pub place: &'a HistoryPlace,
    pub store: &'a dyn CopyStore,
    /// The host's folder there.
    pub host: &'a str,
    /// Whether files are removed there that the history does not have.
    pub removes: bool,
    /// Is told of how many octets how many were sent.
    pub progress: &'a dyn Fn(u64, u64),
}

/// What was done.
#[derive(Debug, Default)]
pub struct HistoryCopied {
    /// Files that were sent, and their octets.
    pub sent: usize,
    pub octets: u64,
    /// Files that were there.
    pub unchanged: usize,
    /// Files that were removed there.
    pub removed: usize,
    /// Files that were not sent, as they are damaged.
    pub damaged: Vec<Unreadable>,
}

/// What is in the way. What was copied before is there.
#[derive(Debug, Error)]
pub enum HistoryCopyError {
    /// Something cannot be read, or kept, on this machine.
    #[error("{path}: {cause}; nat64handoff history check says what is wrong with a history", path = .0.display(), cause = .1)]
    Here(PathBuf, io::Error),
    /// Something there cannot be asked, or written.
    #[error("{0}: {1}")]
    There(String, io::Error),
    /// The folder has the history of another host, or one that was made before this one.
    #[error(
        "{folder} has {files} files that are not of this history: another host has this name, or the history was made \
         anew since; name another folder by --host, or have them removed by --delete"
    )]
    Others { folder: String, files: usize },
    /// Somebody else copies.
    #[error("{path} is copied by another process: wait until that has ended", path = .0.display())]
    Busy(PathBuf),
}

/// Files of one kind, by what their names say.
type PiecesThere = BTreeMap<PieceName, CopiedFile>;

impl HistoryCopying<'_> {
    /// Copies what is not there.
    ///
    /// # Errors
    /// What is in the way.
    pub fn copy(&self) -> Result<HistoryCopied, HistoryCopyError> {
        let here = |(path, error): Unreadable| HistoryCopyError::Here(path, error);
        let _lock = self.lock()?;
        let history = History::open(self.place.clone()).map_err(here)?;
        let newest = history.as_ref().map_or(0, History::newest);
        // Of the others, all that belong to these are listed.
        let held = history.as_ref().map_or(&[][..], |history| &history.names);
        let mut there = BTreeMap::new();
        for kind in Kind::ALL {
            there.insert(kind.folder(), self.there(kind)?);
        }
        let others = others(held, &there[Kind::Held.folder()]);
        if others > 0 && !self.removes {
            return Err(HistoryCopyError::Others { folder: self.path(""), files: others });
        }
        let mut names = BTreeMap::new();
        for kind in Kind::ALL {
            let listed = self.place.names(kind).map_err(|e| self.here_failed(e))?;
            let mut its: Vec<_> = listed.into_iter().filter(|name| name.serial <= newest).collect();
            if kind == Kind::Held {
                its = held.to_vec();
            }
            names.insert(kind.folder(), its);
        }
        let mut copied = HistoryCopied::default();
        let mut wanted = Vec::new();
        for kind in Kind::ALL {
            for &name in &names[kind.folder()] {
                match self.is_there(kind, name, &there[kind.folder()])? {
                    Some(true) => copied.unchanged += 1,
                    Some(false) => wanted.push((kind, name)),
                    // It was too old, and removed just now.
                    None => {}
                }
            }
        }
        self.send(&wanted, &mut copied)?;
        let is_newest = |name: &PieceName| name.serial == newest;
        let lost = copied.damaged.iter().filter_map(|(path, _)| self.name_of(path));
        // Lines that are behind a file which is not there are of no use.
        if !lost.into_iter().any(|name| is_newest(&name)) {
            self.send_rest(history.as_ref(), &mut copied)?;
        }
        if self.removes {
            self.remove(&names, &there, &mut copied)?;
        }
        Ok(copied)
    }

    /// Only one copies at a time: what is older would come after what is newer.
    fn lock(&self) -> Result<Option<File>, HistoryCopyError> {
        let folder = match File::open(self.place.folder()) {
            // There is a log so far, and nothing else.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            folder => folder.map_err(|error| self.here_failed(error))?,
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(folder)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(HistoryCopyError::Busy(self.place.folder().to_owned()))
            }
            Err(error) => Err(self.here_failed(error.into())),
        }
    }

    fn here_failed(&self, error: io::Error) -> HistoryCopyError {
        HistoryCopyError::Here(self.place.folder().to_owned(), error)
    }

    fn there_failed(&self, error: io::Error) -> HistoryCopyError {
        HistoryCopyError::There(self.store.to_string(), error)
    }

    fn name_of(&self, path: &std::path::Path) -> Option<PieceName> {
        PieceName::parse(&self.place.name(), path.file_name()?)
    }

    /// What something of the history is called there.
    fn path(&self, within: &str) -> String {
        format!("{}/{FOLDER}/{within}", self.host)
    }

    fn there(&self, kind: Kind) -> Result<PiecesThere, HistoryCopyError> {
        let listed = self.store.list(&self.path(kind.folder()));
        let files = listed.map_err(|error| self.there_failed(error))?.into_iter();
        let parse =
            |file: &CopiedFile| PieceName::parse(OsStr::new(HOST_LOG), OsStr::new(&file.name));
        Ok(files.filter_map(|file| Some((parse(&file)?, file))).collect())
    }

    /// Whether a file is there as it is here. None: it is not here.
    fn is_there(
        &self,
        kind: Kind,
        name: PieceName,
        there: &PiecesThere,
    ) -> Result<Option<bool>, HistoryCopyError> {
        let path = self.place.path(kind, name);
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(|error| HistoryCopyError::Here(path, error))?,
        };
        // A file that was damaged, and made again, may have the same name.
        let changed = metadata.mtime().saturating_mul(1_000_000) + metadata.mtime_nsec() / 1000;
        let changed = u64::try_from(changed).unwrap_or(0);
        let is_same = |there: &CopiedFile| {
            there.octets == metadata.len() && there.modified.saturating_add(SECOND) >= changed
        };
        Ok(Some(there.get(&name).is_some_and(is_same)))
    }

    fn send(
        &self,
        wanted: &[(Kind, PieceName)],
        copied: &mut HistoryCopied,
    ) -> Result<(), HistoryCopyError> {
        let path = |&(kind, name): &(Kind, PieceName)| self.place.path(kind, name);
        let octets =
            wanted.iter().map(|file| fs::metadata(path(file)).map_or(0, |file| file.len()));
        let all = octets.sum();
        for file @ (kind, name) in wanted {
            let path = path(file);
            let content = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                content => content.map_err(|error| HistoryCopyError::Here(path.clone(), error))?,
            };
            match sum::verify(&content) {
                Err(error) if sum::is_damage(&error) => {
                    copied.damaged.push((path, error));
                    continue;
                }
                verified => verified.map_err(|error| HistoryCopyError::Here(path, error))?,
            }
            let there = name.file(OsStr::new(HOST_LOG));
            self.put(&format!("{}/{}", kind.folder(), there.display()), &content, copied)?;
            (self.progress)(all, copied.octets);
        }
        Ok(())
    }

    fn put(
        &self,
        within: &str,
        content: &File,
        copied: &mut HistoryCopied,
    ) -> Result<(), HistoryCopyError> {
        let put = self.store.put(&self.path(within), content);
        put.map_err(|error| self.there_failed(error))?;
        copied.sent += 1;
        copied.octets += content.metadata().map_or(0, |file| file.len());
        Ok(())
    }

    fn send_rest(
        &self,
        history: Option<&History>,
        copied: &mut HistoryCopied,
    ) -> Result<(), HistoryCopyError> {
        let made = RestNote::make(self.place, history);
        let (note, content) = made.map_err(|(path, error)| HistoryCopyError::Here(path, error))?;
        let there = match self.store.begin(&self.path(REST), RestNote::BEGIN_OCTETS) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            begin => RestNote::of_begin(&begin.map_err(|error| self.there_failed(error))?),
        };
        if there.as_ref() == Some(&note) {
            copied.unchanged += 1;
            return Ok(());
        }
        self.put(REST, &content, copied)
    }

    fn remove(
        &self,
        names: &BTreeMap<&str, Vec<PieceName>>,
        there: &BTreeMap<&str, PiecesThere>,
        copied: &mut HistoryCopied,
    ) -> Result<(), HistoryCopyError> {
        for kind in Kind::ALL {
            let here: BTreeSet<_> = names[kind.folder()].iter().collect();
            for (_, file) in there[kind.folder()].iter().filter(|(name, _)| !here.contains(name)) {
                let removed =
                    self.store.remove(&self.path(&format!("{}/{}", kind.folder(), file.name)));
                removed.map_err(|error| self.there_failed(error))?;
                copied.removed += 1;
            }
        }
        Ok(())
    }
}

/// How many files are there that were never of this history, as far as their names say: those of
/// numbers that it has otherwise, or has not yet.
fn others(held: &[PieceName], there: &PiecesThere) -> usize {
    let here: BTreeMap<_, _> = held.iter().map(|name| (name.serial, name)).collect();
    let newest = held.last().map_or(0, |name| name.serial);
    let is_other = |name: &&PieceName| match here.get(&name.serial) {
        Some(its) => its != name,
        None => name.serial > newest,
    };
    there.keys().filter(is_other).count()
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::disk::copies::folder::CopyFolder;
    use crate::disk::history::{Building, Due};

    /// Lets so many files be put, and then none.
    #[derive(Debug)]
    struct Broken(CopyFolder, AtomicUsize);

    impl fmt::Display for Broken {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl CopyStore for Broken {
        fn hosts(&self) -> io::Result<Vec<String>> {
            self.0.hosts()
        }
        fn list(&self, folder: &str) -> io::Result<Vec<CopiedFile>> {
            self.0.list(folder)
        }
        fn read(&self, path: &str, buffer: &mut [u8], begin: u64) -> io::Result<()> {
            self.0.read(path, buffer, begin)
        }
        fn open(&self, path: &str) -> io::Result<File> {
            self.0.open(path)
        }
        fn begin(&self, path: &str, octets: u64) -> io::Result<Vec<u8>> {
            self.0.begin(path, octets)
        }
        fn put(&self, path: &str, content: &File) -> io::Result<()> {
            match self
                .1
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            {
                Ok(_) => self.0.put(path, content),
                Err(_) => Err(io::Error::other("away")),
            }
        }
        fn remove(&self, path: &str) -> io::Result<()> {
            self.0.remove(path)
        }
    }

    struct World {
        folder: tempfile::TempDir,
        place: HistoryPlace,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (log, history) = (folder.path().join("my.log"), folder.path().join("history"));
            Self { place: HistoryPlace::new(history, log), folder }
        }

        /// Each minute somebody else has the port.
        fn log(&self, minutes: std::ops::Range<u32>) {
            let line = |minute: u32, kind: &str, client: u32| {
                format!(
                    "2019-03-18 10:{minute:02}:00.000000 {kind} 192.0.2.7:3719 [2001:db8::17]:{client} to 203.0.113.5 \
                     via 64:ff9b::/96\n"
                )
            };
            let lines = minutes.map(|minute| {
                line(minute, "Deleted", minute)
                    + &line(minute, "Created", minute + 1)
                    + &line(minute, "Conflict", 99)
            });
            let before = fs::read_to_string(self.place.log()).unwrap_or_default();
            fs::write(self.place.log(), before + &lines.collect::<String>()).unwrap();
        }

        /// Files of two minutes.
        fn build(&self) {
            let building = Building {
                place: &self.place,
                due: Due::Now,
                lines_max: Some(6),
                stop: &|| false,
                progress: &|_, _| (),
            };
            building.build().unwrap();
        }

        fn there(&self) -> std::path::PathBuf {
            self.folder.path().join("copies")
        }

        fn copy(&self, removes: bool, puts: usize) -> Result<HistoryCopied, HistoryCopyError> {
            let store = Broken(CopyFolder::new(self.there()), AtomicUsize::new(puts));
            let (place, progress) = (&self.place, &|_, _| ());
            HistoryCopying { place, store: &store, host: "a", removes, progress }.copy()
        }

        /// Files sent, and files that were there.
        fn copied(&self) -> (usize, usize) {
            let copied = self.copy(false, usize::MAX).unwrap();
            (copied.sent, copied.unchanged)
        }

        /// How many clients got the port in lines behind the copy's history.
        fn behind(&self) -> usize {
            let place = HistoryPlace::new(self.there().join("a/history"), "events.log".into());
            let history = History::open(place.clone()).unwrap();
            let rest = place.open_rest().unwrap().unwrap();
            let (file, after, gap) = rest.behind(history.as_ref()).unwrap();
            assert_eq!(gap, None);
            let is_later = |at: &_| after.is_none_or(|after| *at > after);
            let take = |line: &str| crate::handoff::logged::time_of(line).filter(is_later);
            crate::disk::eventlog::lines_with(vec![file], &["Created".to_owned()], take)
                .unwrap()
                .len()
        }

        /// The port's clients by the copy's history, and the octets and number of the rest.
        fn told(&self) -> (Vec<u16>, u64, u32) {
            let folder = self.there().join("a/history");
            let place = HistoryPlace::new(folder, "events.log".into());
            let history = History::open(place.clone()).unwrap();
            let port = "192.0.2.7:3719".parse().unwrap();
            let told = history.map(|history| history.told_of_port(port, |_| Ok(())).unwrap());
            let holdings = told.iter().flat_map(|told| &told.holdings);
            let mut clients: Vec<_> = holdings.map(|held| held.client_port).collect();
            clients.sort_unstable();
            clients.dedup();
            // As it is read where it is not on this machine.
            let store: std::sync::Arc<dyn CopyStore> =
                std::sync::Arc::new(CopyFolder::new(self.there()));
            let copied = History::open(HistoryPlace::copied(&store, "a")).unwrap();
            let by_parts = copied.map(|history| history.told_of_port(port, |_| Ok(())).unwrap());
            let by_parts = by_parts.map(|told| format!("{:?}", told.holdings));
            assert_eq!(by_parts, told.as_ref().map(|told| format!("{:?}", told.holdings)));
            let note = place.open_rest().unwrap().map(|rest| rest.note);
            note.map_or((clients.clone(), 0, 0), |note| (clients, note.octets, note.behind))
        }
    }

    fn files(folder: &Path) -> usize {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }

    #[test]
    fn what_is_there_is_not_sent_again() {
        let world = World::new();
        world.log(0..1);
        // There is no history yet: the log is all.
        assert_eq!(world.copied(), (1, 0));
        let octets = fs::metadata(world.place.log()).unwrap().len();
        assert_eq!(world.told(), (vec![], octets, 0));
        world.log(1..4);
        world.build();
        // Two files of who had ports, and two of what NAT64s said.
        assert_eq!(world.copied(), (5, 0));
        assert_eq!(world.copied(), (0, 5));
        assert_eq!(world.told(), (vec![0, 1, 2, 3, 4], 0, 2));
        // The log grew.
        world.log(4..5);
        assert_eq!(world.copied(), (1, 4));
        assert_eq!(world.told(), (vec![0, 1, 2, 3, 4], octets, 2));
        // Half a line is none.
        let whole = fs::read_to_string(world.place.log()).unwrap();
        fs::write(world.place.log(), whole + "2019-03-18 10:05:00.000000 Crea").unwrap();
        assert_eq!(world.copied(), (0, 5));
        assert_eq!(files(&world.there()), 5);
    }

    /// Wherever it is broken off, what is there is the history up to some time, and the next time
    /// goes on.
    #[test]
    fn what_is_broken_off_goes_on() {
        let world = World::new();
        world.log(0..2);
        world.build();
        world.log(2..4);
        assert_eq!(world.copied(), (3, 0));
        world.log(4..9);
        world.build();
        world.log(9..10);
        let mut before = 0;
        for puts in 0.. {
            let copied = world.copy(false, 1);
            let (clients, ..) = world.told();
            assert!(clients.len() >= before && clients.len() <= 10, "{clients:?}");
            assert_eq!(clients, (0..clients.len() as u16).collect::<Vec<_>>());
            before = clients.len();
            let is_whole = copied.is_ok();
            let rest = if is_whole { 10 } else { 4usize };
            assert_eq!(world.behind(), rest.saturating_sub(before - 1), "{before} {is_whole}");
            match copied {
                Ok(copied) => {
                    assert_eq!((copied.sent, puts), (1, 8));
                    break;
                }
                Err(error) => assert!(matches!(error, HistoryCopyError::There(..)), "{error}"),
            }
        }
        assert_eq!(before, 10);
        assert_eq!(world.behind(), 1);
        assert_eq!(world.copied(), (0, 11));
    }

    #[test]
    fn what_is_not_of_this_history_stays_unless_it_is_to_go() {
        let world = World::new();
        world.log(0..6);
        world.build();
        assert_eq!(world.copied(), (7, 0));
        // What was too old is removed here.
        for kind in [Kind::Held, Kind::Conflicts] {
            let first = world.place.names(kind).unwrap()[0];
            fs::remove_file(world.place.path(kind, first)).unwrap();
        }
        assert_eq!(world.copied(), (0, 5));
        assert_eq!(files(&world.there()), 7);
        // The history is made anew, of a log that begins later.
        fs::remove_dir_all(world.place.folder()).unwrap();
        fs::remove_file(world.place.log()).unwrap();
        world.log(7..9);
        let error = world.copy(false, usize::MAX).unwrap_err();
        assert!(matches!(error, HistoryCopyError::Others { files: 3, .. }), "{error}");
        world.build();
        let error = world.copy(false, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("a/history/ has 3 files that are not of this history"), "{error}");
        assert!(error.contains("--host") && error.contains("--delete"), "{error}");
        assert_eq!(files(&world.there()), 7);
        let copied = world.copy(true, usize::MAX).unwrap();
        assert_eq!((copied.sent, copied.removed), (3, 6));
        assert_eq!(world.told(), (vec![7, 8, 9], 0, 1));
    }

    #[test]
    fn what_is_damaged_is_not_sent() {
        let world = World::new();
        world.log(0..4);
        world.build();
        assert_eq!(world.copied(), (5, 0));
        let first = world.place.path(Kind::Held, world.place.names(Kind::Held).unwrap()[0]);
        let there = fs::read(&first).unwrap();
        let mut octets = there.clone();
        octets[100] ^= 1;
        // Later than it was sent.
        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
        let write = |octets: &[u8]| {
            fs::write(&first, octets).unwrap();
            File::options().write(true).open(&first).unwrap().set_modified(later).unwrap();
        };
        write(&octets);
        let copied = world.copy(false, usize::MAX).unwrap();
        assert_eq!((copied.sent, copied.unchanged, copied.damaged.len()), (0, 4, 1));
        // It was made again.
        write(&there);
        let copied = world.copy(false, usize::MAX).unwrap();
        assert_eq!((copied.sent, copied.unchanged), (1, 4));
    }

    #[test]
    fn one_copies_at_a_time() {
        let world = World::new();
        world.log(0..2);
        world.build();
        let folder = File::open(world.place.folder()).unwrap();
        flock(&folder, FlockOperation::NonBlockingLockExclusive).unwrap();
        let error = world.copy(false, usize::MAX).unwrap_err();
        assert!(matches!(error, HistoryCopyError::Busy(_)), "{error}");
        drop(folder);
        assert_eq!(world.copied(), (3, 0));
    }
}
