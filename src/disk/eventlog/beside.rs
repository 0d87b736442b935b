//! Files beside the log that were the log before it: known by the beginning of their names and by
//! the times when they were written last.
//!
//! What is compressed is not compared: nobody compresses what was the log a moment ago. Lines that
//! the journal lost may stand there, where it could not be synced for long.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::days::COMPRESSED;
use crate::disk::fs::parent;

/// The most of them that are read: the latest ones. Somebody may rename the log every minute, and
/// the cursor may be stuck for hours.
const FILES_MAX: usize = 1024;

/// Those that were the log after `renamed`, which the cursor names, and before the one that is now.
/// The cursor was never moved to them, as the disk refused that. Earliest first.
pub(super) fn between(renamed: &Path, log: &Path) -> Vec<PathBuf> {
    let found = beside(log, &[renamed, log], false, |written, its| written >= its);
    let mut found = found.unwrap_or_default();
    found.reverse();
    found
}

/// Those that were the log before `file`. Latest first.
pub(super) fn before(file: &Path, log: &Path) -> Vec<PathBuf> {
    beside(log, &[file, log], false, |written, its| written <= its).unwrap_or_default()
}

/// The same, with those that are compressed.
pub(super) fn all_before(file: &Path, log: &Path) -> Vec<PathBuf> {
    beside(log, &[file, log], true, |written, its| written <= its).unwrap_or_default()
}

pub(super) fn is_compressed(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(COMPRESSED.as_bytes())
}

/// Whether a file beside the log is compressed, or that is not known.
pub(super) fn has_compressed(log: &Path) -> bool {
    let name = log.file_name().unwrap_or_default().as_encoded_bytes();
    let is_one = |entry: io::Result<fs::DirEntry>| {
        entry.map_or(true, |entry| {
            let named = entry.file_name();
            named.as_encoded_bytes().starts_with(name) && is_compressed(Path::new(&named))
        })
    };
    fs::read_dir(parent(log)).map_or(true, |mut all| all.any(is_one))
}

/// The regular files beside the log, without these, whose time is right beside that of the first
/// of these; also `compressed` ones, or not.
fn beside(
    log: &Path,
    without: &[&Path],
    compressed: bool,
    is_right: impl Fn(SystemTime, SystemTime) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let without: Vec<_> = without.iter().map(fs::metadata).collect::<Result<_, _>>()?;
    let its = without[0].modified()?;
    let is = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let name = log.file_name().unwrap_or_default().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir(parent(log))?.flatten() {
        let named = entry.file_name();
        // A link is not followed.
        if named.as_encoded_bytes().starts_with(name)
            && (compressed || !is_compressed(Path::new(&named)))
            && let Ok(there) = entry.metadata()
            && let Ok(written) = there.modified()
            && there.is_file()
            && !without.iter().any(|other| is(other, &there))
            && is_right(written, its)
        {
            found.push((written, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().take(FILES_MAX).map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    #[test]
    fn files_before_and_between_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = |name: &str, second: u64| {
            let path = directory.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(begin + Duration::from_secs(second)).unwrap();
            path
        };
        let (renamed, log) = (file("events.log.3", 5), file("events.log", 9));
        for (name, second) in [("events.log.0.gz", 6), ("other", 6), ("log", 6)] {
            file(name, second);
        }
        std::os::unix::fs::symlink(&log, directory.path().join("events.log.link")).unwrap();
        fs::create_dir(directory.path().join("events.log.d")).unwrap();
        assert_eq!(between(&renamed, &log), [] as [PathBuf; 0]);
        assert_eq!(before(&renamed, &log), [] as [PathBuf; 0]);
        assert_eq!(before(&log, &log), [&*renamed]);
        let (oldest, same) = (file("events.log.4", 3), file("events.log.2", 5));
        let latest = file("events.log.1", 8);
        assert_eq!(between(&renamed, &log), [&*same, &*latest]);
        assert_eq!(before(&renamed, &log), [&*same, &*oldest]);
        assert_eq!(before(&log, &log), [&*latest, &*renamed, &*same, &*oldest]);
        let compressed = directory.path().join("events.log.0.gz");
        assert!(is_compressed(&compressed) && !is_compressed(&log));
        assert_eq!(all_before(&log, &log), [&*latest, &*compressed, &*renamed, &*same, &*oldest]);
        for number in 10..10 + FILES_MAX {
            file(&format!("events.log.{number}"), 6);
        }
        let found = between(&renamed, &log);
        assert_eq!((found.len(), found.last()), (FILES_MAX, Some(&latest)));
        assert_eq!(between(&directory.path().join("gone"), &log), [] as [PathBuf; 0]);
    }
}
