//! Names: epochs, their files, and `current`, which says which epoch counts. A change of names is
//! durable when a function here returns.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use super::StorageError;
use super::directory::CURRENT;
use crate::disk::fs::{Disk, TEMPORARY, read_full, write_full, write_new};
use crate::disk::journal::{FileId, FileKind};

/// Upper bound of the octets of `current`.
const CURRENT_MAX: usize = 64;

/// Epochs and files with higher numbers are not ours: nothing is counted up to there, and what is
/// one more can be written too.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// The folder of an epoch.
pub(super) fn folder(root: &Path, epoch: u64) -> PathBuf {
    root.join(folder_name(epoch))
}

fn folder_name(epoch: u64) -> String {
    format!("epoch-{epoch}")
}

/// The name of a file in its epoch's folder.
pub(super) fn file_name(id: FileId) -> String {
    let extension = match id.kind {
        FileKind::Segment => "journal",
        FileKind::Snapshot => "snapshot",
    };
    format!("{:02}-{:08}.{extension}", id.shard, id.number)
}

/// Where a file is.
pub(super) fn path(root: &Path, id: FileId) -> PathBuf {
    folder(root, id.epoch).join(file_name(id))
}

fn parse_file_name(name: &str, epoch: u64) -> Option<FileId> {
    let (stem, extension) = name.split_once('.')?;
    let (shard, number) = stem.split_once('-')?;
    let kind = match extension {
        "journal" => FileKind::Segment,
        "snapshot" => FileKind::Snapshot,
        _ => return None,
    };
    let id = FileId { kind, epoch, shard: shard.parse().ok()?, number: number.parse().ok()? };
    (id.number <= NUMBER_MAX && file_name(id) == name).then_some(id)
}

/// All epochs that have a folder, in order.
pub(super) fn epochs(disk: &dyn Disk, root: &Path) -> Result<Vec<u64>, StorageError> {
    let names = disk.list(root).map_err(StorageError::io("read", root))?;
    let mut epochs: Vec<u64> = names
        .iter()
        .filter_map(|name| {
            let name = name.to_str()?;
            let number = name.strip_prefix("epoch-")?.parse().ok()?;
            (number <= NUMBER_MAX && folder_name(number) == name).then_some(number)
        })
        .collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// A number above those of all epochs, of those put aside too.
pub(super) fn unused(disk: &dyn Disk, root: &Path) -> Result<u64, StorageError> {
    let names = disk.list(root).map_err(StorageError::io("read", root))?;
    let numbers = names.iter().filter_map(|name| {
        let rest = name.to_str()?.strip_prefix("epoch-")?;
        let digits = rest.split_once(|c: char| !c.is_ascii_digit()).map_or(rest, |(n, _)| n);
        digits.parse::<u64>().ok().filter(|&number| number <= NUMBER_MAX)
    });
    Ok(numbers.max().unwrap_or(0).saturating_add(1))
}

/// The epoch that counts.
pub(super) fn current(disk: &dyn Disk, root: &Path) -> Result<Option<u64>, StorageError> {
    let path = root.join(CURRENT);
    let file = match disk.open(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("open", &path)(error)),
    };
    let mut octets = [0; CURRENT_MAX];
    let length = read_full(&*file, &mut octets, 0).map_err(StorageError::io("read", &path))?;
    match parse_current(&octets[..length]) {
        Some(epoch) => Ok(Some(epoch)),
        None => Err(StorageError::Damaged {
            directory: root.to_owned(),
            file: path,
            offset: 0,
            what: "does not name an epoch, or its checksum is wrong".into(),
        }),
    }
}

fn format_current(epoch: u64) -> String {
    let name = folder_name(epoch);
    format!("{name} {:08x}\n", crc32c(name.as_bytes()))
}

fn parse_current(octets: &[u8]) -> Option<u64> {
    let text = str::from_utf8(octets).ok()?;
    let epoch = text.strip_prefix("epoch-")?.split_once(' ')?.0.parse().ok()?;
    (epoch <= NUMBER_MAX && format_current(epoch) == text).then_some(epoch)
}

/// Renames `current`, and returns its new path.
pub(super) fn put_current_aside(disk: &dyn Disk, root: &Path) -> Result<PathBuf, StorageError> {
    let (path, aside) = (root.join(CURRENT), root.join(format!("{CURRENT}.damaged")));
    let moved = disk.rename(&path, &aside).and_then(|()| disk.sync_dir(root));
    moved.map_err(StorageError::io("put aside", &path)).map(|()| aside)
}

/// Makes `epoch` the one that counts.
pub(super) fn set_current(disk: &dyn Disk, root: &Path, epoch: u64) -> Result<(), StorageError> {
    let path = root.join(CURRENT);
    let octets = format_current(epoch);
    let replaced = write_new(disk, &path, |file| write_full(file, octets.as_bytes(), 0));
    replaced.map_err(StorageError::io("replace", &path)).map(drop)
}

/// The files of one shard.
#[derive(Debug, Clone, Default)]
pub(super) struct ShardFiles {
    /// The numbers of its snapshots, in order.
    pub snapshots: Vec<u64>,
    /// The numbers of its segments, in order.
    pub segments: Vec<u64>,
}

impl ShardFiles {
    /// The snapshot that counts.
    pub fn snapshot(&self) -> Option<u64> {
        self.snapshots.last().copied()
    }
}

/// The files of an epoch, by shard; and those that never became whole.
#[derive(Debug, Clone, Default)]
pub(super) struct EpochFiles {
    pub shards: BTreeMap<u16, ShardFiles>,
    pub unfinished: Vec<PathBuf>,
}

pub(super) fn files(disk: &dyn Disk, root: &Path, epoch: u64) -> Result<EpochFiles, StorageError> {
    let folder = folder(root, epoch);
    let mut files = EpochFiles::default();
    for name in disk.list(&folder).map_err(StorageError::io("read", &folder))? {
        let Some(name) = name.to_str() else {
            continue;
        };
        if let Some(id) = parse_file_name(name, epoch) {
            let shard = files.shards.entry(id.shard).or_default();
            match id.kind {
                FileKind::Segment => shard.segments.push(id.number),
                FileKind::Snapshot => shard.snapshots.push(id.number),
            }
        } else if let Some(whole) = name.strip_suffix(TEMPORARY)
            && parse_file_name(whole, epoch).is_some()
        {
            files.unfinished.push(folder.join(name));
        }
    }
    for shard in files.shards.values_mut() {
        shard.snapshots.sort_unstable();
        shard.segments.sort_unstable();
    }
    Ok(files)
}

/// Removes an epoch that does not count.
pub(super) fn remove(disk: &dyn Disk, root: &Path, epoch: u64) -> Result<(), StorageError> {
    let folder = folder(root, epoch);
    for name in disk.list(&folder).map_err(StorageError::io("read", &folder))? {
        let path = folder.join(name);
        disk.remove(&path).map_err(StorageError::io("remove", &path))?;
    }
    disk.remove_dir(&folder).map_err(StorageError::io("remove", &folder))?;
    disk.sync_dir(root).map_err(StorageError::io("sync", root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        let id = FileId { kind: FileKind::Segment, epoch: 3, shard: 0, number: 5 };
        assert_eq!(file_name(id), "00-00000005.journal");
        assert_eq!(parse_file_name("00-00000005.journal", 3), Some(id));
        let id = FileId { kind: FileKind::Snapshot, epoch: 3, shard: 255, number: 123_456_789 };
        assert_eq!(parse_file_name("255-123456789.snapshot", 3), Some(id));
        let last = format!("00-{}.journal", u64::MAX);
        for other in
            [&*last, "0-5.journal", "00-00000005.journal.tmp", "log.cursor", "00-+0000005.journal"]
        {
            assert_eq!(parse_file_name(other, 3), None, "{other}");
        }
    }

    #[test]
    fn current_epoch_and_every_flipped_octet() {
        let text = format_current(17);
        assert_eq!(parse_current(text.as_bytes()), Some(17));
        for at in 0..text.len() {
            assert_eq!(parse_current(&text.as_bytes()[..at]), None);
            for flip in 1..=255 {
                let mut octets = text.clone().into_bytes();
                octets[at] ^= flip;
                assert_eq!(parse_current(&octets), None);
            }
        }
    }
}
