//! Where control groups and pinned maps are on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;

/// The kinds of file system, as `statfs` has them.
const BPFFS: u64 = 0xcafe_4a11;
const CGROUP2: u64 = 0x6367_7270;

/// The root of the control groups (v2), where there is one: also beside those of v1.
pub fn control_groups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place.replace("\\040", " ")))
    })
}

/// Whether a directory is a control group (v2).
///
/// # Errors
/// Where there is none of this name.
pub fn is_control_group(path: &Path) -> io::Result<bool> {
    is_in(path, CGROUP2)
}

/// Whether maps can be pinned in a directory.
///
/// # Errors
/// Where there is none of this name.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    is_in(path, BPFFS)
}

fn is_in(path: &Path, kind: u64) -> io::Result<bool> {
    let found = statfs(path)?.f_type;
    // A signed number on some machines, an unsigned one on others.
    Ok(found as u64 & 0xffff_ffff == kind)
}
