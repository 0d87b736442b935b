//! The state directory and all files in it (PROTOCOL.md section 9): what was announced survives.
//!
//! ```text
//! state/lock                           who uses it
//! state/current                        which epoch counts
//! state/epoch-3/00-00000005.snapshot   shard 0: the state before segment 5
//! state/epoch-3/00-00000005.journal    shard 0: segments 5, 6, ... in order
//! state/epoch-3/00-00000006.journal
//! ```
//!
//! An epoch has a fixed number of shards and a fixed handoff port. When one of them changes, a new
//! epoch is written beside it, and then `current` is replaced. What is in the files is `journal`'s.
//! Here: [`Storage::open`] reads all there is, [`Opened::start`] makes it ready to be written, a
//! [`JournalWriter`] for each shard writes, threads behind it sync, make the next segments and
//! compact. The order at start is: read everything, complete the event log, start, serve.
//!
//! A file gets its name when its header is durable, so a bad header is always damage. Not here:
//! what changes mean (`server`), and the event log and its cursor (`eventlog`).

mod check;
mod compact;
mod directory;
mod epoch;
mod new_epoch;
mod open;
mod read;
mod replay;
mod shard;
mod start;
mod sync;
mod tables;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::disk::journal::{VERSION, VERSION_WITHOUT_NAMES};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;
use crate::kernel::limits;

pub use check::{Checked, Loss, Made, Repaired, check, check_at, check_by, repair, repair_at};
pub use compact::Compacted;
pub use directory::{DirectoryError, StateDirectory};
pub use open::{Cut, Opened, ReadAhead, Report, StatePlace};
pub use replay::TableChanges;
pub use shard::{LogProgress, Wake};
pub use start::Started;
pub use sync::{CHECK_INTERVAL, JournalFigures, JournalGauge, Storage, SyncSteps};
pub use writer::{JournalError, JournalState, JournalWriter};

/// Octets at which a segment is closed.
pub const SEGMENT_MAX_DEFAULT: u64 = 32 << 20;
/// Octets of closed segments that are worth a compaction, however small the snapshot is.
pub const COMPACT_MIN_DEFAULT: u64 = 64 << 20;
/// Closed segments that are worth a compaction, however small they are.
pub const SEGMENTS_MAX_DEFAULT: usize = 64;
/// Octets of changes that a compaction holds in memory; for more it reads the segments again.
pub const COMPACT_MEMORY_DEFAULT: usize = 32 << 20;
/// Octets of all segments of a shard at which no more changes are taken, until a compaction has
/// made them fewer; or this many times the snapshot, if that is more. The snapshot is bounded by
/// the entries that there may be, by the conflicts that a table remembers, and by the addresses of
/// the pool of IPv4 peer names.
pub const JOURNAL_MAX_DEFAULT: u64 = 256 << 20;
const JOURNAL_MAX_SNAPSHOTS: u64 = 4;

// A compaction is due long before.
const _: () = assert!(JOURNAL_MAX_DEFAULT >= 4 * COMPACT_MIN_DEFAULT);

/// When the journal is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Left to the kernel.
    None,
    /// Before each reply.
    Always,
    /// At this interval.
    Interval(Duration),
}

/// As `--sync` takes it.
impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SyncPolicy::None => f.write_str("none"),
            SyncPolicy::Always => f.write_str("always"),
            SyncPolicy::Interval(interval) => {
                write!(f, "interval:{}", humantime::format_duration(interval))
            }
        }
    }
}

/// How the state is kept.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// Shards from now on: the number of reactors, at least 1.
    pub shards: usize,
    /// The handoff port from now on.
    pub handoff_port: u16,
    /// When what was written is made durable.
    pub sync: SyncPolicy,
    /// Whether names of the pool may be recorded, which earlier releases do not read.
    pub names: bool,
    /// See [`SEGMENT_MAX_DEFAULT`].
    pub segment_max: u64,
    /// See [`COMPACT_MIN_DEFAULT`].
    pub compact_min: u64,
    /// See [`SEGMENTS_MAX_DEFAULT`].
    pub segments_max: usize,
    /// See [`COMPACT_MEMORY_DEFAULT`].
    pub compact_memory: usize,
    /// See [`JOURNAL_MAX_DEFAULT`].
    pub journal_max: u64,
    /// Whether threads sync, make segments and compact. Without them, [`Storage::sync`] and
    /// [`Storage::compact`] do it when they are called, and one thread reads: for tests.
    pub threads: bool,
}

impl StorageConfig {
    /// With the default thresholds.
    pub fn new(shards: usize, handoff_port: u16, sync: SyncPolicy) -> Self {
        Self {
            shards,
            handoff_port,
            sync,
            names: false,
            segment_max: SEGMENT_MAX_DEFAULT,
            compact_min: COMPACT_MIN_DEFAULT,
            segments_max: SEGMENTS_MAX_DEFAULT,
            compact_memory: COMPACT_MEMORY_DEFAULT,
            journal_max: JOURNAL_MAX_DEFAULT,
            threads: true,
        }
    }
}

/// What replay rebuilds: the state of one shard, or of some of its tables.
pub trait Replay: Send {
    /// Applies `change`, which happened at `at`.
    fn replay(&mut self, at: Timestamp, table: TableKey, change: &Change);

    /// Before changes that let a table grow by about so many entries and client addresses: room for
    /// all of them at once costs less than growing with each.
    fn expect(&mut self, _table: TableKey, _entries: usize, _clients: usize) {}

    /// Takes changes, which come before any that it is given from now on, to apply them when the
    /// table is needed. Returns those that are to be applied now.
    fn later(&mut self, _table: TableKey, changes: TableChanges) -> Option<TableChanges> {
        Some(changes)
    }
}

impl<F: FnMut(Timestamp, TableKey, &Change) + Send> Replay for F {
    fn replay(&mut self, at: Timestamp, table: TableKey, change: &Change) {
        self(at, table, change);
    }
}

/// The version of the format of files that are made.
fn version_of(names: bool) -> u16 {
    if names { VERSION } else { VERSION_WITHOUT_NAMES }
}

/// What a user of the directory should do about a [`StorageError`].
const CHECK: &str = "see what is left with: nat64handoff journal check";

/// Why the state cannot be used. One line: where, what is wrong, what to do.
#[derive(Debug, Error)]
pub enum StorageError {
    /// What is in a file is not what was written.
    #[error("{}, offset {offset}: {what}; {CHECK} {}", file.display(), directory.display())]
    Damaged {
        directory: PathBuf,
        file: PathBuf,
        /// Octets before the damage.
        offset: u64,
        what: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "{}: written by a later version of nat64handoff (format {version}, this one knows \
         {VERSION}); use that version",
        file.display()
    )]
    Newer { file: PathBuf, version: u16 },
    /// It cannot be the state directory now.
    #[error("{0}")]
    Directory(#[source] DirectoryError),
    /// The system refused something.
    #[error("cannot {action} {}: {cause}; {}", path.display(), what_to_do(cause))]
    Io {
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

fn what_to_do(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make it writable for this user"
        }
        _ => limits::advice(cause).unwrap_or("see what the kernel's log says about the disk"),
    }
}

impl StorageError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| StorageError::Io { action, path, cause }
    }
}
