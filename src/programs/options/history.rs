//! Where the history is kept: `--history`.

use std::path::{Path, PathBuf};

/// Where the history of the event log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryDestination {
    /// There is none.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

impl HistoryDestination {
    pub(super) fn of(path: PathBuf) -> Self {
        if path == Path::new("off") { Self::Off } else { Self::Folder(path) }
    }

    /// As it is written.
    pub fn path(&self) -> &Path {
        match self {
            Self::Off => Path::new("off"),
            Self::Folder(folder) => folder,
        }
    }
}
