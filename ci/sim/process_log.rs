//! What the event log's file is on: a real file system, whose calls fail when a test wants that,
//! and which forgets at a power cut what was not synced.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use nat64handoff::disk::eventlog::LogCalls;
use nat64handoff::handoff::random::Random;

/// See above. Its copies are the same disk.
#[derive(Debug, Clone, Default)]
pub struct LogDisk(Arc<Mutex<LogDiskState>>);

#[derive(Debug, Default)]
struct LogDiskState {
    /// Octets of each file that were synced, by its inode.
    synced: HashMap<u64, u64>,
    /// The error that calls end with.
    error: Option<i32>,
    is_short: bool,
    ignores_sync: bool,
}

/// What a power cut leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTear {
    /// Some of its first octets.
    Cut,
    /// The same, and zeros in place of the rest.
    Hole,
}

impl LogDisk {
    fn lock(&self) -> MutexGuard<'_, LogDiskState> {
        self.0.lock().unwrap()
    }

    /// From now on writes and syncs fail with this error, or with none.
    pub fn fail(&self, error: Option<i32>) {
        self.lock().error = error;
    }

    /// From now on each write takes a part only, or not.
    pub fn shorten(&self, is_short: bool) {
        self.lock().is_short = is_short;
    }

    /// The canary: nothing that is synced is.
    pub fn ignore_sync(&self) {
        self.lock().ignores_sync = true;
    }

    /// Whether syncs do nothing.
    pub fn is_lying(&self) -> bool {
        self.lock().ignores_sync
    }

    /// The power goes: files in `folder` keep what was synced, and what the tear leaves of the
    /// rest. Nobody may have them open.
    pub fn power_cut(&self, folder: &Path, tear: LogTear, random: &mut Random) {
        let state = self.lock();
        let mut paths: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let metadata = fs::metadata(&path).unwrap();
            let synced = state.synced.get(&metadata.ino()).copied().unwrap_or(0);
            let unsynced = metadata.len().saturating_sub(synced);
            if !metadata.is_file() || unsynced == 0 {
                continue;
            }
            let kept = match random.below(3) {
                0 => continue,
                1 => synced,
                _ => synced + u64::from(random.below(u32::try_from(unsynced).unwrap() + 1)),
            };
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(kept).unwrap();
            if tear == LogTear::Hole {
                file.set_len(metadata.len()).unwrap();
            }
        }
    }
}

impl LogCalls for LogDisk {
    fn write(&self, mut file: &File, octets: &[u8]) -> io::Result<usize> {
        let state = self.lock();
        if let Some(error) = state.error {
            return Err(io::Error::from_raw_os_error(error));
        }
        let length = if state.is_short { octets.len().div_ceil(2) } else { octets.len() };
        file.write(&octets[..length])
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(error) = state.error {
            return Err(io::Error::from_raw_os_error(error));
        }
        if !state.ignores_sync {
            let metadata = file.metadata()?;
            state.synced.insert(metadata.ino(), metadata.len());
        }
        Ok(())
    }
}
