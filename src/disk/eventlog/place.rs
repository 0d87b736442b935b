//! A position in a log file.

/// A position in a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// The file, whatever its name.
    pub file: Inode,
    /// Octets before this position.
    pub offset: u64,
    /// Whether those octets were synced: if they are missing, somebody removed them.
    pub synced: bool,
}

/// What identifies a file when it is renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// The device that the file is on.
    pub device: u64,
    /// The number of the inode on that device.
    pub inode: u64,
}
