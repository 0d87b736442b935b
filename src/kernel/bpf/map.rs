//! A map that the programs in the kernel and this process share.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::call::{self, BpfError, BpfStep, MapShape, bpf};

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
const DELETE_BATCH: libc::c_long = 27;

/// Of the number by which the kernel knows how far a walk is.
const PLACE_OCTETS: usize = size_of::<u32>();

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

#[repr(C)]
struct BatchCall {
    before: u64,
    after: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
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

    /// Sets many. Returns how many of them, from the first on, are set.
    ///
    /// The other is why the next one is not: the map is full, or the kernel refuses.
    ///
    /// # Panics
    /// Where keys or values are not whole, or not as many.
    pub fn set_all(&self, keys: &[u8], values: &[u8]) -> (usize, Option<BpfError>) {
        let count = self.count(keys);
        assert_eq!(values.len(), count * self.shape.value_octets);
        if count == 0 {
            return (0, None);
        }
        let mut attribute = self.batch(keys.as_ptr() as u64, values.as_ptr() as u64, count);
        // SAFETY: keys and values are as many as it says, of the map's sizes; the kernel only reads
        // them.
        match unsafe { bpf(UPDATE_BATCH, &mut attribute) } {
            Some(_) => (count, None),
            None => (done_of(&attribute, count), Some(BpfError::last(BpfStep::Change))),
        }
    }

    /// Removes many; what is not there is passed over.
    ///
    /// # Errors
    /// Where the kernel refuses: how many were removed or passed over before.
    ///
    /// # Panics
    /// Where keys are not whole.
    pub fn remove_all(&self, mut keys: &[u8]) -> Result<(), BpfError> {
        while !keys.is_empty() {
            let count = self.count(keys);
            let mut attribute = self.batch(keys.as_ptr() as u64, 0, count);
            // SAFETY: keys are as many as it says, of the map's size; the kernel only reads them.
            if unsafe { bpf(DELETE_BATCH, &mut attribute) }.is_some() {
                return Ok(());
            }
            if !is_missing() {
                return Err(BpfError::last(BpfStep::Change));
            }
            // It stopped at one that is not there.
            keys = &keys[(done_of(&attribute, count) + 1).min(count) * self.shape.key_octets..];
        }
        Ok(())
    }

    /// Calls `each` with keys and values of all entries that stay during the walk, a part at a
    /// time. Entries that come or go meanwhile may be among them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn walk(&self, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), BpfError> {
        // A bucket of a hash map has to fit: the kernel says where it does not.
        let mut room = 4096_usize;
        let mut place = vec![0_u8; self.shape.key_octets.max(PLACE_OCTETS)];
        let mut before = None;
        loop {
            let mut keys = vec![0_u8; room * self.shape.key_octets];
            let mut values = vec![0_u8; room * self.shape.value_octets];
            let mut next = place.clone();
            let mut attribute =
                self.batch(keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, room);
            attribute.before = before.map_or(0, |()| place.as_ptr() as u64);
            attribute.after = next.as_mut_ptr() as u64;
            // SAFETY: keys and values have room for as many as it says; both places have room for
            // a key and for a number, which is what the kernel puts there.
            let done = unsafe { bpf(LOOKUP_BATCH, &mut attribute) };
            let ended = done.is_none() && is_missing();
            if done.is_none() && !ended {
                let error = BpfError::last(BpfStep::Look);
                if error.cause.raw_os_error() == Some(libc::ENOSPC)
                    && room < self.entries_max as usize
                {
                    room *= 2;
                    continue;
                }
                return Err(error);
            }
            let found = (attribute.count as usize).min(room);
            let found = keys
                .chunks(self.shape.key_octets)
                .zip(values.chunks(self.shape.value_octets))
                .take(found);
            found.for_each(|(key, value)| each(key, value));
            if ended {
                return Ok(());
            }
            place = next;
            before = Some(());
        }
    }

    fn count(&self, keys: &[u8]) -> usize {
        assert_eq!(keys.len() % self.shape.key_octets, 0);
        keys.len() / self.shape.key_octets
    }

    fn batch(&self, keys: u64, values: u64, count: usize) -> BatchCall {
        BatchCall {
            before: 0,
            after: 0,
            keys,
            values,
            count: count as u32,
            map: self.map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        }
    }
}

impl AsFd for BpfMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// How many were done, after an error. Where the kernel refuses at once, it leaves the count alone.
fn done_of(batch: &BatchCall, count: usize) -> usize {
    if batch.count as usize >= count { 0 } else { batch.count as usize }
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
        let not_preallocated = MapShape { flags: 1, ..NAMES };
        assert!(opened(not_preallocated, NAMES).unwrap_err().is_of_another_version());
    }
}
