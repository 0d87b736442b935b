//! Finds the file that the cursor is about, after a crash.
//!
//! Not here: how a file is told from another one with the same inode (`place`).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::output::open_to_read;
use super::place::Likeness;
use crate::disk::fs::parent;

/// What became of the file that the cursor names.
#[derive(Debug)]
pub(super) enum Found {
    /// It still is the log. `proven`: it surely is this file, and not another one with its inode.
    Same { offset: u64, proven: bool },
    /// It has another name, in the same directory.
    Renamed { path: PathBuf, offset: u64, proven: bool },
    /// It is shorter than it was. `path` is its other name, if it has one.
    Short { path: Option<PathBuf>, length: u64, offset: u64, synced: bool, proven: bool },
    /// Its content is not what was written. `path` is its other name, if it has one.
    Changed { path: Option<PathBuf>, offset: u64, synced: bool },
    /// It is not in the directory.
    Gone,
    /// The log was no file, or is none now.
    Elsewhere,
    /// There is no cursor.
    Unknown,
}

impl Found {
    /// Whether the file that has the log's name surely is ours.
    pub(super) fn is_proven(&self) -> bool {
        match self {
            Found::Same { proven, .. } | Found::Short { path: None, proven, .. } => *proven,
            Found::Changed { path, .. } => path.is_none(),
            _ => false,
        }
    }

    /// Whether the log may lack what the cursor counts.
    pub(super) fn is_doubtful(&self) -> bool {
        matches!(
            self,
            Found::Short { synced: false, .. }
                | Found::Changed { synced: false, .. }
                | Found::Unknown
        )
    }

    pub(super) fn explain(&self, name: &str, say: &mut impl FnMut(fmt::Arguments<'_>)) {
        let now = |path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| format!(", now {},", path.display()));
            path.unwrap_or_default()
        };
        let taken_away = |synced| match synced {
            true => "what was taken away is not written again",
            false => "all that the journal has is compared with its end",
        };
        match self {
            Found::Renamed { path, .. } => {
                say(format_args!("{name} was renamed to {}; both are compared", path.display()));
            }
            Found::Short { path, length, offset, synced, .. } => say(format_args!(
                "{name}{} is shorter than it was, {length} octets after {offset}; {}",
                now(path),
                taken_away(*synced)
            )),
            Found::Changed { path, offset, synced } => say(format_args!(
                "{name}{} does not have the octets before {offset} that were written; {}",
                now(path),
                taken_away(*synced)
            )),
            Found::Gone => say(format_args!(
                "the file that {name} was is not in its directory any more; lines that were written \
                 just before the crash may be in both"
            )),
            Found::Same { .. } | Found::Elsewhere | Found::Unknown => {}
        }
    }
}

/// Looks for the cursor's file, first where it was.
pub(super) fn find(log: &Path, cursor: &Cursor) -> Found {
    let Some(position) = cursor.position else {
        return Found::Elsewhere;
    };
    let (offset, synced) = (position.offset, position.synced);
    // A link has the log's name only for somebody who follows it.
    let look = |file: &Path, path: Option<PathBuf>, metadata: &fs::Metadata| {
        let likeness = position.likeness(metadata, || open_to_read(file));
        let length = metadata.len();
        match (likeness, path) {
            (Likeness::Other, _) => None,
            (_, path) if length < offset => {
                let proven = likeness == Likeness::Same;
                Some(Found::Short { path, length, offset, synced, proven })
            }
            (Likeness::Changed, path) => Some(Found::Changed { path, offset, synced }),
            (likeness, path) => {
                let proven = likeness == Likeness::Same;
                Some(match path {
                    Some(path) => Found::Renamed { path, offset, proven },
                    None => Found::Same { offset, proven },
                })
            }
        }
    };
    if let Ok(metadata) = fs::metadata(log)
        && let Some(found) = look(log, None, &metadata)
    {
        return found;
    }
    let mut directories = vec![parent(log).to_owned()];
    // The target of a symbolic link is renamed in the target's directory.
    directories.extend(fs::canonicalize(log).ok().map(|path| parent(&path).to_owned()));
    for directory in directories {
        // Directory entries that vanish meanwhile are skipped.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata()
                && let Some(found) = look(&entry.path(), Some(entry.path()), &metadata)
            {
                return found;
            }
        }
    }
    Found::Gone
}
