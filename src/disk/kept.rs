//! The file in which a gateway keeps entries over its restarts. It is written anew each time, and
//! is there whole or not at all.
//!
//! | octets | |
//! | --- | --- |
//! | 8 | `nat64gw1` |
//! | 8 | when it was made, in microseconds since 1970 |
//! | 8 | octets of what is kept |
//! | | what is kept: [`crate::nat64::gateway`] says what |
//! | 4 | CRC-32C of all before |

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};
use thiserror::Error;

use crate::disk::fs::{Disk, parent, read_full, write_full, write_new};
use crate::handoff::change::Timestamp;
use crate::nat64::gateway::KEPT_MAX;

const MAGIC: &[u8; 8] = b"nat64gw1";
const HEADER: usize = MAGIC.len() + 8 + 8;
const CHECKSUM: usize = 4;
/// What a damaged file is called from then on, behind its name.
const ASIDE: &str = ".damaged";

/// What a file has.
#[derive(Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// When it was made.
    pub at: Timestamp,
    /// What is kept.
    pub kept: Vec<u8>,
}

/// Why nothing is known of what was kept.
#[derive(Debug, Error)]
pub enum KeptLost {
    /// It is not what was written. It has another name now.
    #[error("it is damaged ({what}); it is {} now, and no entry of it is used", .aside.display())]
    Damaged { what: &'static str, aside: PathBuf },
    /// It cannot be read, or not be put aside.
    #[error("it cannot be read ({0}); make it readable, or remove it")]
    Unreadable(io::Error),
}

/// Reads the file. `None` where there is none.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<KeptFile>, KeptLost> {
    let octets = match octets_of(disk, path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeptLost::Unreadable(error)),
    };
    match decode(octets) {
        Ok(file) => Ok(Some(file)),
        Err(what) => Err(put_aside(disk, path, what)),
    }
}

/// Gives a file that is not what was written another name.
pub fn put_aside(disk: &dyn Disk, path: &Path, what: &'static str) -> KeptLost {
    let mut aside = OsString::from(path);
    aside.push(ASIDE);
    let aside = PathBuf::from(aside);
    match disk.rename(path, &aside).and_then(|()| disk.sync_dir(parent(path))) {
        Ok(()) => KeptLost::Damaged { what, aside },
        Err(error) => KeptLost::Unreadable(error),
    }
}

/// Writes the file anew.
///
/// # Errors
/// What was there before may still be there.
pub fn write(disk: &dyn Disk, path: &Path, at: Timestamp, kept: &[u8]) -> io::Result<()> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&at.as_micros().to_be_bytes());
    header.extend_from_slice(&(kept.len() as u64).to_be_bytes());
    let checksum = crc32c_append(crc32c(&header), kept).to_be_bytes();
    let behind = HEADER as u64 + kept.len() as u64;
    write_new(disk, path, |file| {
        write_full(file, &header, 0)?;
        write_full(file, kept, HEADER as u64)?;
        write_full(file, &checksum, behind)
    })?;
    Ok(())
}

/// Removes the file, if there is one.
///
/// # Errors
/// It may still be there.
pub fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    disk.sync_dir(parent(path))
}

fn octets_of(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    // One octet more is damage.
    let most = (HEADER + KEPT_MAX + CHECKSUM + 1) as u64;
    let mut octets = vec![0; file.length()?.min(most) as usize];
    let read = read_full(&*file, &mut octets, 0)?;
    octets.truncate(read);
    Ok(octets)
}

fn decode(mut octets: Vec<u8>) -> Result<KeptFile, &'static str> {
    let end = octets.len().checked_sub(CHECKSUM).ok_or("it is too short")?;
    let (covered, checksum) = octets.split_at(end);
    let (header, kept) = covered.split_first_chunk::<HEADER>().ok_or("it is too short")?;
    if header[..MAGIC.len()] != *MAGIC {
        return Err("it is no such file, or of another version");
    }
    if checksum != crc32c(covered).to_be_bytes() {
        return Err("its checksum is wrong");
    }
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| header[at + i]));
    if number(16) != kept.len() as u64 {
        return Err("it has another length than it says");
    }
    let at = Timestamp::from_micros(number(8));
    octets.truncate(end);
    octets.drain(..HEADER);
    Ok(KeptFile { at, kept: octets })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::fs::RealDisk;

    #[test]
    fn what_is_written_is_read_and_damage_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries");
        assert_eq!(read(&RealDisk, &path).unwrap(), None);
        let at = Timestamp::from_micros(1_552_903_588_436_754);
        for kept in [&b"before"[..], b"what is kept", b""] {
            write(&RealDisk, &path, at, kept).unwrap();
            let file = KeptFile { at, kept: kept.to_vec() };
            assert_eq!(read(&RealDisk, &path).unwrap(), Some(file));
        }
        write(&RealDisk, &path, at, b"what is kept").unwrap();
        let whole = fs::read(&path).unwrap();
        let aside = folder.path().join("entries.damaged");
        let mut damaged: Vec<_> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        damaged.push([&whole[..], b"more"].concat());
        for bit in 0..8 * whole.len() {
            let mut octets = whole.clone();
            octets[bit / 8] ^= 1 << (bit % 8);
            damaged.push(octets);
        }
        for octets in damaged {
            fs::write(&path, &octets).unwrap();
            let lost = read(&RealDisk, &path).unwrap_err();
            assert!(matches!(lost, KeptLost::Damaged { .. }), "{lost}");
            assert!(!path.exists());
            assert_eq!(fs::read(&aside).unwrap(), octets);
        }
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(&RealDisk, &path).unwrap_err(), KeptLost::Unreadable(_)));
        fs::remove_dir(&path).unwrap();
        remove(&RealDisk, &path).unwrap();
    }
}
