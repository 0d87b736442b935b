//! The files of what delivery keeps in the state directory over a restart: routes to clients
//! (PROTOCOL.md section 11), so that a service reaches them, and gateways with a tunnel of Geneve
//! (section 12), so that these need not offer it again.
//!
//! They are written anew from time to time, and when a server stops. What is lost of them comes
//! back when a client speaks, or a gateway. A checksum (CRC-32C, 4 octets, little-endian) and a
//! version stand before what [`DeliveryRoutes`] or [`GeneveGateways`] makes.

use std::io;
use std::path::Path;

use crate::disk::fs::{Disk, read_full, write_full, write_new};
use crate::handoff::delivery::{
    DeliveryRoutes, GATEWAYS_KEPT_OCTETS_MAX, GeneveGateways, KEPT_OCTETS_MAX,
};

/// One of these files.
struct DeliveryFile {
    /// Its name in the state directory.
    name: &'static str,
    version: [u8; 8],
    octets_max: usize,
    /// What comes of its loss.
    lost: &'static str,
}

const ROUTES: DeliveryFile = DeliveryFile {
    name: "routes",
    version: *b"routes 2",
    octets_max: KEPT_OCTETS_MAX,
    lost: "services reach clients again when these speak",
};
const GATEWAYS: DeliveryFile = DeliveryFile {
    name: "gateways",
    version: *b"gateway1",
    octets_max: GATEWAYS_KEPT_OCTETS_MAX,
    lost: "gateways reach this server by Geneve again when they have offered their tunnels anew",
};
/// Octets of version and checksum.
const FRONT: usize = 8 + 4;

/// Why what was kept cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RoutesLost {
    #[error("the file of {0} is damaged: {1}")]
    Damaged(&'static str, &'static str),
    #[error("the file of {0} cannot be read ({2}): {1}")]
    Unreadable(&'static str, &'static str, io::Error),
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
    ROUTES.read(disk, state, |kept| DeliveryRoutes::decode(kept, clients, 0).ok())
}

/// Keeps these routes in place of those before.
///
/// # Errors
/// Where the disk refuses; those before stay.
pub fn write(disk: &dyn Disk, state: &Path, routes: &DeliveryRoutes) -> io::Result<()> {
    ROUTES.write(disk, state, &routes.encode())
}

/// The gateways that were kept. `None` where there are none.
///
/// # Errors
/// See [`RoutesLost`].
pub fn read_gateways(disk: &dyn Disk, state: &Path) -> Result<Option<GeneveGateways>, RoutesLost> {
    GATEWAYS.read(disk, state, |kept| GeneveGateways::decode(kept).ok())
}

/// Keeps these gateways in place of those before.
///
/// # Errors
/// Where the disk refuses; those before stay.
pub fn write_gateways(disk: &dyn Disk, state: &Path, gateways: &GeneveGateways) -> io::Result<()> {
    GATEWAYS.write(disk, state, &gateways.encode())
}

impl DeliveryFile {
    fn read<T>(
        &self,
        disk: &dyn Disk,
        state: &Path,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, RoutesLost> {
        let unreadable = |why| RoutesLost::Unreadable(self.name, self.lost, why);
        let file = match disk.open(&state.join(self.name), false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(unreadable)?,
        };
        let length = file.length().map_err(unreadable)?;
        if length > (FRONT + self.octets_max) as u64 {
            return Err(RoutesLost::Damaged(self.name, self.lost));
        }
        let mut octets = vec![0; length as usize];
        let read = read_full(&*file, &mut octets, 0).map_err(unreadable)?;
        let kept = octets[..read].strip_prefix(&self.version).and_then(|rest| {
            let (checksum, kept) = rest.split_first_chunk()?;
            let is_whole = crc32c::crc32c(kept) == u32::from_le_bytes(*checksum);
            is_whole.then(|| decode(kept))?
        });
        kept.map(Some).ok_or(RoutesLost::Damaged(self.name, self.lost))
    }

    fn write(&self, disk: &dyn Disk, state: &Path, kept: &[u8]) -> io::Result<()> {
        let front = [&self.version[..], &crc32c::crc32c(kept).to_le_bytes()].concat();
        write_new(disk, &state.join(self.name), |file| {
            write_full(file, &front, 0)?;
            write_full(file, kept, FRONT as u64)
        })
        .map(drop)
    }
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
        let path = state.path().join(ROUTES.name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut octets = whole.clone();
            octets[at] ^= 1;
            for damaged in [&octets[..], &whole[..at]] {
                fs::write(&path, damaged).unwrap();
                assert!(matches!(read(), Err(RoutesLost::Damaged(..))), "{at}");
            }
        }
        assert!(read_gateways(&RealDisk, state.path()).unwrap().is_none());
        let gateways = GeneveGateways::new([7; 16]);
        write_gateways(&RealDisk, state.path(), &gateways).unwrap();
        let again = read_gateways(&RealDisk, state.path()).unwrap().unwrap();
        assert_eq!(again.encode(), gateways.encode());
        fs::write(state.path().join(GATEWAYS.name), &whole).unwrap();
        assert!(read_gateways(&RealDisk, state.path()).is_err(), "another file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(RoutesLost::Unreadable(..))));
    }
}
