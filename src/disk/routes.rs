//! The file of routes to clients whose packets are delivered here (PROTOCOL.md section 11), in the
//! state directory: so that a service reaches them after a restart, too.
//!
//! It is written anew from time to time, and when a server stops. What is lost of it comes back
//! when a client speaks. A checksum (CRC-32C, 4 octets, little-endian) and a version stand before
//! what [`DeliveryRoutes`] makes.

use std::io;
use std::path::Path;

use crate::disk::fs::{Disk, read_full, write_full, write_new};
use crate::handoff::delivery::{DeliveryRoutes, KEPT_OCTETS_MAX};

/// The name of the file in the state directory.
pub const ROUTES_FILE: &str = "routes";
const VERSION: [u8; 8] = *b"routes 2";
const FRONT: usize = VERSION.len() + 4;

/// Why routes of before cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RoutesLost {
    #[error("the file of routes is damaged: services reach clients again when these speak")]
    Damaged,
    #[error(
        "the file of routes cannot be read ({0}): services reach clients again when these speak"
    )]
    Unreadable(io::Error),
}

/// The routes that were kept, as far as there is room for `clients`. `None` where there are none.
///
/// # Errors
/// See [`RoutesLost`].
pub fn read(
    disk: &dyn Disk,
    state: &Path,
    clients: usize,
) -> Result<Option<DeliveryRoutes>, RoutesLost> {
    let file = match disk.open(&state.join(ROUTES_FILE), false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(RoutesLost::Unreadable)?,
    };
    let length = file.length().map_err(RoutesLost::Unreadable)?;
    if length > (FRONT + KEPT_OCTETS_MAX) as u64 {
        return Err(RoutesLost::Damaged);
    }
    let mut octets = vec![0; length as usize];
    let read = read_full(&*file, &mut octets, 0).map_err(RoutesLost::Unreadable)?;
    let routes = octets[..read].strip_prefix(&VERSION).and_then(|rest| {
        let (checksum, kept) = rest.split_first_chunk()?;
        let is_whole = crc32c::crc32c(kept) == u32::from_le_bytes(*checksum);
        is_whole.then(|| DeliveryRoutes::decode(kept, clients, 0).ok())?
    });
    routes.map(Some).ok_or(RoutesLost::Damaged)
}

/// Keeps these routes in place of those before.
///
/// # Errors
/// Where the disk refuses; those before stay.
pub fn write(disk: &dyn Disk, state: &Path, routes: &DeliveryRoutes) -> io::Result<()> {
    let kept = routes.encode();
    let front = [&VERSION[..], &crc32c::crc32c(&kept).to_le_bytes()].concat();
    write_new(disk, &state.join(ROUTES_FILE), |file| {
        write_full(file, &front, 0)?;
        write_full(file, &kept, FRONT as u64)
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::fs::RealDisk;

    #[test]
    fn damage_is_seen() {
        let state = tempfile::tempdir().unwrap();
        let read = || read(&RealDisk, state.path(), 9999);
        assert!(read().unwrap().is_none());
        write(&RealDisk, state.path(), &DeliveryRoutes::new([7; 16], 9999)).unwrap();
        assert!(read().unwrap().is_some());
        let path = state.path().join(ROUTES_FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut octets = whole.clone();
            octets[at] ^= 1;
            for damaged in [&octets[..], &whole[..at]] {
                fs::write(&path, damaged).unwrap();
                assert!(matches!(read(), Err(RoutesLost::Damaged)), "{at}");
            }
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(RoutesLost::Unreadable(_))));
    }
}
