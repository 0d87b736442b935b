//! A place in a log file.

/// A place in a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which file it is, whatever its name.
    pub file: FileId,
    /// Octets before this place.
    pub offset: u64,
    /// They were on disk before this was written: if they are not there, somebody took them away.
    pub synced: bool,
}

/// What a file keeps when it is renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The device that it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}
