//! What becomes of the files of former days: they are compressed, and removed when they are too
//! old (`--log-keep`).
//!
//! A thread of the lowest priority does it, and neither the logger nor a reactor ever waits for it.
//! The last one of the files stays as it is until there is another: after a crash, or from a backup
//! of the state, it may have to be compared with the journal. All stay while the cursor cannot be
//! moved: it may name any of them.
//!
//! What a crash or a full disk interrupts leaves the file as it was. A compressed file has its name
//! when it is whole and on the disk; the other one is removed when both were read and are the same.
//! While a file is compressed, there has to be room for it once more at all times: the log and the
//! journal may want it.
//!
//! Not here: how a file comes to its name (`days`).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::days::{COMPRESSED, Day, Former, rename_to_new};
use crate::disk::fs::{Disk, RealDisk, TEMPORARY, parent};
use crate::kernel::priority;
use crate::kernel::stderr::Priority;

/// Octets that are read at once.
const READ_OCTETS: usize = 128 * 1024;
/// Where no file is younger than this, the clock may be wrong: nothing is removed.
const GAP_MAX: u64 = 32;

/// Who does it, as the logger sees it. Dropping a thread ends it, and waits for that: what it does
/// with one file is left undone.
pub(super) enum Archive {
    Thread {
        /// None: it is to end.
        jobs: Option<mpsc::Sender<Job>>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
    /// The logger itself.
    Here(Tidying),
}

/// All files are to be looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) today: Day,
    /// Those that are not too old are compressed.
    pub(super) compresses: bool,
}

impl Archive {
    /// `log` is the log's path, `keep_days` how many days a file is kept; 0: for ever. A thread
    /// does it if there are to be `threads`.
    pub(super) fn start(
        log: &Path,
        keep_days: u32,
        threads: bool,
        say: impl FnMut(Priority, fmt::Arguments<'_>) + Send + 'static,
    ) -> io::Result<Archive> {
        let stop = Arc::<AtomicBool>::default();
        let mut tidying =
            Tidying { log: log.to_owned(), keep_days, stop: Arc::clone(&stop), say: Box::new(say) };
        if !threads {
            return Ok(Archive::Here(tidying));
        }
        let (jobs, todo) = mpsc::channel();
        let run = move || {
            priority::lower();
            while let Ok(job) = todo.recv()
                && !tidying.stop.load(Ordering::Relaxed)
            {
                // Of several that came meanwhile, the last one does the work of all.
                tidying.tidy(todo.try_iter().last().unwrap_or(job));
            }
        };
        let thread = thread::Builder::new().name("logarchive".to_owned()).spawn(run)?;
        Ok(Archive::Thread { jobs: Some(jobs), stop, thread: Some(thread) })
    }

    /// Has all files looked at, soon.
    pub(super) fn tidy(&mut self, job: Job) {
        match self {
            Archive::Thread { jobs, .. } => {
                // Without the thread, which panicked, they stay as they are.
                let _ = jobs.as_ref().map(|jobs| jobs.send(job));
            }
            Archive::Here(tidying) => tidying.tidy(job),
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        let Archive::Thread { jobs, stop, thread } = self else { return };
        stop.store(true, Ordering::Relaxed);
        *jobs = None;
        // A panic was reported by the thread itself.
        let _ = thread.take().map(JoinHandle::join);
    }
}

pub(super) struct Tidying {
    log: PathBuf,
    keep_days: u32,
    stop: Arc<AtomicBool>,
    say: Box<dyn FnMut(Priority, fmt::Arguments<'_>) + Send>,
}

impl Tidying {
    fn tidy(&mut self, job: Job) {
        // They are where the file is that a link leads to.
        let log = fs::canonicalize(&self.log).unwrap_or_else(|_| self.log.clone());
        if let Err((path, why)) = self.tidy_beside(&log, job)
            && !self.stop.load(Ordering::Relaxed)
        {
            let path = path.display();
            (self.say)(
                Priority::Warning,
                format_args!("{path} stays as it is until tomorrow: {why}"),
            );
        }
    }

    fn tidy_beside(&mut self, log: &Path, job: Job) -> Result<(), (PathBuf, io::Error)> {
        let Job { today, compresses } = job;
        let folder = parent(log);
        let (Ok(names), Some(name)) = (RealDisk.list(folder), log.file_name()) else {
            return Ok(());
        };
        let begin = unfinished(name);
        for name in names.iter().filter(|name| is_unfinished(&begin, name)) {
            // If that fails, it fails again when the file is compressed, and is said then.
            let _ = fs::remove_file(folder.join(name));
        }
        let former = names.iter().filter_map(|other| Some((Former::parse(name, other)?, other)));
        let mut former: Vec<_> = former.map(|(file, name)| (file, folder.join(name))).collect();
        former.sort_unstable();
        let Some(last) = former.iter().rposition(|(file, _)| file.day <= today) else {
            return Ok(());
        };
        let (last, gap) = (former[last].0, today.since(former[last].0.day));
        let (keep, mut removed) = (u64::from(self.keep_days), None);
        let mut trouble = None;
        for (file, path) in former {
            let is_old = keep > 0 && today.since(file.day) > keep && gap <= GAP_MAX;
            let done = if is_old {
                removed = Some(path.clone());
                fs::remove_file(&path)
            } else if compresses && !file.is_compressed && file < last {
                // Later ones have a day that is still to come: the clock was set back.
                self.compress(&path)
            } else {
                Ok(())
            };
            if let Err(why) = done {
                trouble = trouble.or(Some((path, why)));
            }
        }
        if let Some(path) = removed.filter(|path| !path.exists()) {
            (self.say)(
                Priority::Information,
                format_args!(
                    "lines of the event log up to those in {} were removed, as they are older than \
                 {keep} days (--log-keep)",
                    path.display()
                ),
            );
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Puts a compressed file in the place of a file.
    fn compress(&self, path: &Path) -> io::Result<()> {
        let mut compressed = OsString::from(path);
        compressed.push(COMPRESSED);
        let compressed = PathBuf::from(compressed);
        if fs::symlink_metadata(&compressed).is_err() {
            self.write_compressed(path, &compressed)?;
        }
        if !self.is_same(path, &compressed)? {
            let name = compressed.display();
            return Err(io::Error::other(format!("{name} does not have the same lines")));
        }
        fs::remove_file(path)
    }

    fn write_compressed(&self, path: &Path, compressed: &Path) -> io::Result<()> {
        let name = compressed.file_name().unwrap_or_default();
        let mut temporary = unfinished(name);
        temporary.push(TEMPORARY);
        let temporary = parent(path).join(temporary);
        self.write_temporary(path, &temporary)
            .and_then(|()| rename_to_new(&temporary, compressed))
            .inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        RealDisk.sync_dir(parent(path))
    }

    fn write_temporary(&self, path: &Path, temporary: &Path) -> io::Result<()> {
        let mut from = open(path)?;
        let metadata = from.metadata()?;
        let mode = metadata.permissions().mode();
        let to = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
        // Who may read the log may read this; where that cannot be had, fewer may.
        let _ = fchown(&to, None, Some(metadata.gid()));
        let mut encoder = GzEncoder::new(to, Compression::default());
        let mut octets = vec![0; READ_OCTETS];
        loop {
            has_room(encoder.get_ref(), metadata.len())?;
            self.go_on()?;
            match from.read(&mut octets) {
                Ok(0) => break,
                Ok(length) => encoder.write_all(&octets[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let to = encoder.finish()?;
        // Sorted by time, the files are in the order of their lines.
        to.set_modified(metadata.modified()?)?;
        to.sync_all()
    }

    /// Whether a compressed file has the content of the other one.
    fn is_same(&self, path: &Path, compressed: &Path) -> io::Result<bool> {
        let mut plain = BufReader::with_capacity(READ_OCTETS, open(path)?);
        let decoder = MultiGzDecoder::new(BufReader::new(open(compressed)?));
        let mut decoded = BufReader::with_capacity(READ_OCTETS, decoder);
        loop {
            self.go_on()?;
            let (left, right) = (plain.fill_buf()?, decoded.fill_buf()?);
            let length = left.len().min(right.len());
            if length == 0 {
                return Ok(left.len() == right.len());
            }
            if left[..length] != right[..length] {
                return Ok(false);
            }
            plain.consume(length);
            decoded.consume(length);
        }
    }

    fn go_on(&self) -> io::Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the server ends")),
            false => Ok(()),
        }
    }
}

/// What the names of compressed files begin with before they are whole: no pattern that finds the
/// log's files finds them.
fn unfinished(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden
}

fn is_unfinished(begin: &OsString, name: &OsString) -> bool {
    let end = [COMPRESSED, TEMPORARY].concat();
    let (begin, name) = (begin.as_encoded_bytes(), name.as_encoded_bytes());
    name.starts_with(begin) && name.ends_with(end.as_bytes())
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Fails where the file system of `file` has less room than this.
fn has_room(file: &File, octets: u64) -> io::Result<()> {
    let room = rustix::fs::fstatvfs(file)?;
    match room.f_bavail.saturating_mul(room.f_frsize) < octets {
        true => Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "to compress it, there must be room for it once more",
        )),
        false => Ok(()),
    }
}
