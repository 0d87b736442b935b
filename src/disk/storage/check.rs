//! `nat64handoff journal check` and `repair`: what is damaged, what that costs, and a new epoch
//! from what is left. Checking changes nothing; repairing keeps the damaged files beside the new
//! ones.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::epoch::{self, EpochFiles, ShardFiles};
use super::new_epoch::NewEpoch;
use super::open::Cut;
use super::read::{Common, Damage, ShardReader, shard_count};
use super::tables::{ShardSource, Tables, any_has_names};
use super::{COMPACT_MEMORY_DEFAULT, StorageError, directory};
use crate::disk::fs::{Disk, RealDisk};
use crate::disk::journal::FileKind;
use crate::disk::secret_hash;
use crate::handoff::change::Timestamp;
use crate::handoff::message::HANDOFF_PORT;

/// A part of a journal that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub shard: usize,
    pub file: PathBuf,
    /// Offset of the damage in the file.
    pub offset: u64,
    /// Octets that cannot be read.
    pub octets: u64,
    pub what: String,
    /// The numbers of the first and last record that are lost, if that can be told.
    pub records: Option<(u64, u64)>,
    /// The times of the last change before the damage and of the first after it, if there are such.
    pub between: (Option<Timestamp>, Option<Timestamp>),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, file, offset, octets, what, records, between } = self;
        write!(f, "damaged: {}, offset {offset}: {what}; lost: ", file.display())?;
        match records {
            Some((first, last)) if first <= last => {
                write!(f, "records {first} to {last} of shard {shard}, ")?;
            }
            _ => write!(f, "of shard {shard} ")?,
        }
        write!(f, "{octets} octets")?;
        if let Some(after) = between.0 {
            write!(f, ", changes after {after}")?;
        }
        if let Some(before) = between.1 {
            write!(f, ", changes before {before}")?;
        }
        Ok(())
    }
}

/// What a check found. Prints as lines.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// The epoch that was checked, if there is any.
    pub epoch: Option<u64>,
    /// What is wrong with the file that says which epoch counts.
    pub current: Option<String>,
    /// Shards of the epoch.
    pub shards: usize,
    /// Valid records.
    pub records: u64,
    /// Octets of its files.
    pub octets: u64,
    /// Torn ends, which the next start cuts off.
    pub torn: Vec<Cut>,
    /// What only a repair passes over.
    pub losses: Vec<Loss>,
}

impl Checked {
    /// Whether a server starts with this.
    pub fn is_good(&self) -> bool {
        self.current.is_none() && self.losses.is_empty()
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(current) = &self.current {
            writeln!(f, "damaged: {current}")?;
        }
        let Some(epoch) = self.epoch else {
            return f.write_str("no state\n");
        };
        let Self { shards, records, octets, .. } = self;
        writeln!(f, "epoch {epoch}: {shards} shards, {records} valid records, {octets} octets")?;
        for Cut { file, offset, octets, .. } in &self.torn {
            let file = file.display();
            writeln!(f, "torn: {file}, offset {offset}: the next start cuts off {octets} octets")?;
        }
        self.losses.iter().try_for_each(|loss| writeln!(f, "{loss}"))?;
        match self.losses.len() {
            _ if self.is_good() => f.write_str("good\n"),
            n => writeln!(f, "{n} losses; nat64handoff journal repair keeps everything else"),
        }
    }
}

/// What a repair did. Prints as lines.
#[derive(Debug, Clone)]
pub struct Repaired {
    /// What was wrong before.
    pub checked: Checked,
    /// What was made; `None` where nothing was to be repaired.
    pub made: Option<Made>,
    /// Where the damaged files are now.
    pub aside: Option<PathBuf>,
}

/// An epoch that a repair made, and what it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    pub epoch: u64,
    pub nat64s: usize,
    pub entries: usize,
    /// Addresses of the pool that stand for clients.
    pub names: usize,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.checked.fmt(f)?;
        let (Some(made), Some(aside)) = (self.made, &self.aside) else {
            if let Some((epoch, _)) = self.checked.epoch.zip(self.checked.current.as_ref()) {
                return writeln!(f, "repaired: epoch {epoch} is current");
            }
            if let Some(aside) = &self.aside {
                let aside = aside.display();
                return writeln!(f, "repaired: there is no state; what said so is in {aside}");
            }
            return f.write_str("nothing to repair\n");
        };
        let Made { epoch, nat64s, entries, names } = made;
        write!(f, "repaired: epoch {epoch} has {nat64s} NAT64s and {entries} entries")?;
        if names > 0 {
            write!(f, ", and {names} clients with an address of the pool")?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "the damaged files are in {}; the event log is not completed from them",
            aside.display()
        )
    }
}

fn lock(directory: &Path) -> Result<Option<File>, StorageError> {
    directory::lock_existing(directory).map_err(StorageError::Directory)
}

/// Says what is damaged in a state directory that no server uses.
///
/// # Errors
/// Where it is in use, or cannot be read.
pub fn check(directory: &Path) -> Result<Checked, StorageError> {
    check_by(&RealDisk, directory)
}

/// The same, where `disk` reads the real one.
///
/// # Errors
/// Where it is in use, or cannot be read.
pub fn check_by(disk: &dyn Disk, directory: &Path) -> Result<Checked, StorageError> {
    let _lock = lock(directory)?;
    check_at(disk, directory)
}

/// As [`check`], on any disk, and without a lock.
///
/// # Errors
/// Where something cannot be read.
pub fn check_at(disk: &dyn Disk, root: &Path) -> Result<Checked, StorageError> {
    let (number, current) = which(disk, root)?;
    match number {
        Some(number) => Ok(Checked { current, ..check_epoch(disk, root, number)? }),
        None => Ok(Checked { current, ..Checked::default() }),
    }
}

/// The epoch that counts or, where `current` is wrong, most likely counts; and what is wrong with
/// `current`.
fn which(disk: &dyn Disk, root: &Path) -> Result<(Option<u64>, Option<String>), StorageError> {
    let epochs = epoch::epochs(disk, root)?;
    let wrong = match epoch::current(disk, root) {
        Ok(Some(number)) if epochs.contains(&number) => return Ok((Some(number), None)),
        Ok(Some(number)) => format!("the current epoch {number} is not there"),
        Ok(None) => "no file says which epoch is current".into(),
        Err(StorageError::Damaged { file, what, .. }) => format!("{}: {what}", file.display()),
        Err(error) => return Err(error),
    };
    // Several epochs are left by a start that was killed while it changed them: prefer one without
    // damage.
    let mut likely = None;
    for &number in &epochs {
        let checked = check_epoch(disk, root, number)?;
        let rank = (checked.losses.is_empty(), checked.records > checked.shards as u64, number);
        likely = likely.max(Some(rank));
    }
    match likely {
        Some((.., number)) => Ok((Some(number), Some(wrong))),
        // The directory was never used.
        None if epoch::current(disk, root).is_ok_and(|current| current.is_none()) => {
            Ok((None, None))
        }
        None => Ok((None, Some(wrong))),
    }
}

fn check_epoch(disk: &dyn Disk, root: &Path, number: u64) -> Result<Checked, StorageError> {
    let files = epoch::files(disk, root, number)?;
    let shards = shard_count(disk, root, number, &files)?;
    let mut checked =
        Checked { epoch: Some(number), shards: usize::from(shards), ..Checked::default() };
    let none = ShardFiles::default();
    let mut common = None;
    let boot = disk.boot();
    for shard in 0..shards {
        let files = files.shards.get(&shard).unwrap_or(&none);
        let reader = ShardReader { disk, root, epoch: number, shard, files, boot };
        let losses = RefCell::new(Vec::new());
        let last = Cell::new(None);
        let end = reader.read(
            &mut common,
            &mut |Damage { id, offset, what, octets, records }| {
                losses.borrow_mut().push(Loss {
                    shard: usize::from(shard),
                    file: epoch::path(root, id),
                    offset,
                    octets,
                    what,
                    records: records.map(|(first, last)| (first.0, last.0)),
                    between: (last.get(), None),
                });
                Ok(())
            },
            &mut |id, record| {
                // The times in a snapshot say when tables were initialized.
                if id.kind == FileKind::Segment {
                    last.set(Some(record.time));
                    let mut losses = losses.borrow_mut();
                    if let Some(Loss { between: (_, before @ None), .. }) = losses.last_mut() {
                        *before = Some(record.time);
                    }
                }
                Ok(())
            },
        )?;
        checked.records += end.records;
        checked.octets += end.snapshot_octets + end.segment_octets;
        checked.losses.extend(losses.into_inner());
        checked.torn.extend(end.tear.map(|tear| Cut {
            file: epoch::path(root, tear.id),
            offset: tear.offset,
            octets: tear.octets,
            records: tear.records,
        }));
    }
    Ok(checked)
}

/// Makes a new epoch from all that is valid in a state directory that no server uses, and puts the
/// damaged one aside. Does nothing where nothing is damaged.
///
/// # Errors
/// Where it is in use, cannot be read, or cannot be written. What there was is still there then.
pub fn repair(directory: &Path, now: Timestamp) -> Result<Repaired, StorageError> {
    let _lock = lock(directory)?;
    directory::refuse_strangers(directory).map_err(StorageError::Directory)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    repair_at(&disk, directory, now)
}

/// As [`repair`], on any disk, and without a lock.
///
/// # Errors
/// As [`repair`].
pub fn repair_at(
    disk: &Arc<dyn Disk>,
    root: &Path,
    now: Timestamp,
) -> Result<Repaired, StorageError> {
    let checked = check_at(&**disk, root)?;
    if checked.epoch.is_none() && checked.current.is_some() {
        let aside = epoch::put_current_aside(&**disk, root)?;
        return Ok(Repaired { checked, made: None, aside: Some(aside) });
    }
    let Some(number) = checked.epoch.filter(|_| !checked.is_good()) else {
        return Ok(Repaired { checked, made: None, aside: None });
    };
    if checked.losses.is_empty() {
        // Only `current` was wrong.
        epoch::set_current(&**disk, root, number)?;
        let aside = None;
        return Ok(Repaired { checked, made: None, aside });
    }
    let files = epoch::files(&**disk, root, number)?;
    let common = common_of(&**disk, root, number, &files)?;
    let mut sources = Vec::new();
    for shard in 0..common.shards {
        let source = ShardSource {
            disk: Arc::clone(disk),
            root: root.to_owned(),
            epoch: number,
            shard,
            files: files.shards.get(&shard).cloned().unwrap_or_default(),
            boot: disk.boot(),
            common,
            tolerant: true,
            hash: secret_hash(),
        };
        sources.push(Tables::new(source, COMPACT_MEMORY_DEFAULT)?);
    }
    let epoch = epoch::unused(&**disk, root)?;
    let made = Cell::new(Made { epoch, ..Made::default() });
    let names = any_has_names(&mut sources)?;
    let new = NewEpoch { disk, root, number: epoch, common, now, boot: disk.boot(), names };
    new.write(sources, &|source, table| {
        let mut with = made.get();
        with.nat64s += usize::from(!table.key.is_block());
        let (entries, names) = table.counts();
        with.entries += entries;
        with.names += names;
        made.set(with);
        source
    })?;
    // Moved aside before the new epoch counts: a start removes every other epoch.
    let folder = epoch::folder(root, number);
    let aside = root.join(format!("epoch-{number}.damaged"));
    disk.rename(&folder, &aside).map_err(StorageError::io("rename", &folder))?;
    disk.sync_dir(root).map_err(StorageError::io("sync", root))?;
    epoch::set_current(&**disk, root, epoch)?;
    Ok(Repaired { checked, made: Some(made.get()), aside: Some(aside) })
}

/// What the first readable header says, as all should.
fn common_of(
    disk: &dyn Disk,
    root: &Path,
    number: u64,
    files: &EpochFiles,
) -> Result<Common, StorageError> {
    let shards = shard_count(disk, root, number, files)?;
    let boot = disk.boot();
    let mut common = None;
    for (&shard, files) in &files.shards {
        let reader = ShardReader { disk, root, epoch: number, shard, files, boot };
        reader.read(&mut common, &mut |_| Ok(()), &mut |_, _| Ok(()))?;
        if common.is_some() {
            break;
        }
    }
    Ok(common.unwrap_or(Common { shards, handoff_port: HANDOFF_PORT }))
}
