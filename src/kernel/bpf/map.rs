//! A map that the programs in the kernel and this process share.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::call::{self, BpfError, BpfStep, MapShape, bpf};

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;

/// A map of keys and values of fixed sizes.
#[derive(Debug)]
pub struct BpfMap {
    map: OwnedFd,
    shape: MapShape,
    entries_max: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl BpfMap {
    /// Makes one. Memory for all entries is taken now. `types` describes key and value to the
    /// kernel, where it wants to know.
    ///
    /// # Errors
    /// Without CAP_BPF, or without memory.
    pub(super) fn create(
        shape: MapShape,
        entries_max: u32,
        types: Option<(BorrowedFd<'_>, u32, u32)>,
    ) -> Result<Self, BpfError> {
        let map = call::create_map(shape, entries_max, types)?;
        Ok(Self { map, shape, entries_max })
    }

    /// Opens one that is pinned at `path`. That takes no capability, but leave to write the file.
    ///
    /// # Errors
    /// Where there is none, or none of this shape and version.
    pub fn open(path: &Path, shape: MapShape) -> Result<Self, BpfError> {
        Self::open_such(path, |found| *found == shape)
    }

    /// The same for one of any shape that is ours.
    ///
    /// # Errors
    /// Where there is none, or none of such a shape.
    pub fn open_such(path: &Path, is_ours: impl Fn(&MapShape) -> bool) -> Result<Self, BpfError> {
        Self::of(call::open(path)?, is_ours)
    }

    fn of(map: OwnedFd, is_ours: impl Fn(&MapShape) -> bool) -> Result<Self, BpfError> {
        let information = call::map_information(map.as_fd())?;
        let found = MapShape {
            name: information.name,
            kind: information.kind,
            key_octets: information.key_octets as usize,
            value_octets: information.value_octets as usize,
            flags: information.flags,
        };
        if !is_ours(&found) {
            let cause = io::Error::other("attached by another version");
            return Err(BpfError { step: BpfStep::Open, cause, verifier: None });
        }
        Ok(Self { map, shape: found, entries_max: information.entries_max })
    }

    /// How many entries it takes.
    pub fn entries_max(&self) -> u32 {
        self.entries_max
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// Where the kernel refuses.
    ///
    /// # Panics
    /// Where the key is not of the map's size.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BpfError> {
        assert_eq!(key.len(), self.shape.key_octets);
        let mut value = vec![0_u8; self.shape.value_octets];
        let mut attribute = self.element(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value are of the map's sizes, and live on.
        match unsafe { bpf(MAP_LOOKUP, &mut attribute) } {
            Some(_) => Ok(Some(value)),
            None if is_missing() => Ok(None),
            None => Err(BpfError::last(BpfStep::Look)),
        }
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// Where the map is full, or the kernel refuses.
    ///
    /// # Panics
    /// Where key or value are not of the map's sizes.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), BpfError> {
        assert_eq!((key.len(), value.len()), (self.shape.key_octets, self.shape.value_octets));
        let mut attribute = self.element(key, value.as_ptr() as u64);
        // SAFETY: key and value are of the map's sizes, and live on; the kernel only reads them.
        let done = unsafe { bpf(MAP_UPDATE, &mut attribute) };
        done.map(drop).ok_or_else(|| BpfError::last(BpfStep::Change))
    }

    fn element(&self, key: &[u8], value: u64) -> Element {
        Element {
            map: self.map.as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        }
    }
}

impl AsFd for BpfMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

fn is_missing() -> bool {
    io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::super::layout::{NAMES, STATE};
    use super::*;

    #[test]
    fn maps_of_other_versions_are_not_opened() {
        let opened = |made: MapShape, wanted: MapShape| {
            let map = BpfMap::create(made, 1, None).unwrap().map;
            BpfMap::of(map, |found| *found == wanted).map(|map| map.entries_max)
        };
        for shape in [NAMES, STATE] {
            assert_eq!(opened(shape, shape).unwrap(), 1);
            let mut name = shape.name;
            name[10] += 1;
            let other_names = MapShape { name, ..shape };
            let other_sizes = MapShape { value_octets: shape.value_octets + 8, ..shape };
            for other in [other_names, other_sizes] {
                let refused = opened(other, shape).unwrap_err();
                assert!(refused.is_of_another_version(), "{refused}");
            }
        }
        let not_mapped = MapShape { flags: 0, ..NAMES };
        assert!(opened(not_mapped, NAMES).unwrap_err().is_of_another_version());
    }
}
