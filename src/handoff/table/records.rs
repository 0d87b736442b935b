//! Records in slabs, and the keyed hash tables of slots that they are found by.
//!
//! Slots are 16 bits: no table has as many records of any kind as there are ports.

use std::num::NonZeroU16;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;

use crate::handoff::random::SecretHash;

/// The index of a record in its slab.
pub type Slot = u16;
/// No slot.
pub const NONE: Slot = Slot::MAX;

/// Records of one kind.
#[derive(Debug)]
pub struct Slots<T>(Slab<T>);

impl<T> Slots<T> {
    pub fn new() -> Self {
        Self(Slab::new())
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many slots may have a record: the capacity of the slab.
    pub fn slots(&self) -> usize {
        self.0.capacity().min(usize::from(NONE))
    }

    /// The record in `slot`.
    ///
    /// # Panics
    /// Where `slot` has no record.
    pub fn get(&self, slot: Slot) -> &T {
        &self.0[usize::from(slot)]
    }

    /// The record in `slot`, if there is one.
    pub fn try_get(&self, slot: Slot) -> Option<&T> {
        self.0.get(usize::from(slot))
    }

    /// The record in `slot`.
    ///
    /// # Panics
    /// Where `slot` has no record.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.0[usize::from(slot)]
    }

    pub fn insert(&mut self, record: T) -> Slot {
        let slot = self.0.insert(record) as Slot;
        assert_ne!(slot, NONE, "there are never as many records as there are ports");
        slot
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, additional: usize) {
        self.0.reserve(additional);
    }

    /// Removes the record in `slot`, and returns it.
    ///
    /// # Panics
    /// Where `slot` has no record.
    pub fn remove(&mut self, slot: Slot) -> T {
        self.0.remove(usize::from(slot))
    }

    /// All records, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.0.iter().map(|(slot, record)| (slot as Slot, record))
    }
}

/// A record that knows its key.
pub trait Keyed {
    /// What it is found by. A remote can choose it, so the hash is keyed.
    type Key: AsRef<[u8]> + PartialEq + Copy;
    fn key(&self) -> Self::Key;
}

/// The hash of a key of at most 16 octets. All of a kind have the same length.
#[inline(always)] // A call would pass the octets through memory.
fn hash_of(hash: &SecretHash, key: impl AsRef<[u8]>) -> u64 {
    let mut octets = [0; 16];
    octets[..key.as_ref().len()].copy_from_slice(key.as_ref());
    let all = u128::from_ne_bytes(octets);
    hash.of_words([(all >> 64) as u64, all as u64])
}

/// Records of one kind, found by their key. The hash must always be the same one.
#[derive(Debug)]
pub struct Pool<T> {
    records: Slots<T>,
    /// By the hash of the key.
    index: HashTable<Slot>,
}

impl<T: Keyed> Pool<T> {
    pub fn new() -> Self {
        Self { records: Slots::new(), index: HashTable::new() }
    }

    /// The slot of the record with `key`.
    pub fn find(&self, hash: &SecretHash, key: T::Key) -> Option<Slot> {
        self.index.find(hash_of(hash, key), |&slot| self.get(slot).key() == key).copied()
    }

    /// As [`Slots::get`].
    pub fn get(&self, slot: Slot) -> &T {
        self.records.get(slot)
    }

    /// As [`Slots::try_get`].
    pub fn try_get(&self, slot: Slot) -> Option<&T> {
        self.records.try_get(slot)
    }

    /// As [`Slots::get_mut`]. The key must stay as it is.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        self.records.get_mut(slot)
    }

    /// The slot of the record with `key`. Where there is none, `make` makes it; then this is
    /// `true`.
    pub fn find_or_insert(
        &mut self,
        hash: &SecretHash,
        key: T::Key,
        make: impl FnOnce() -> T,
    ) -> (Slot, bool) {
        let Self { records, index } = self;
        let is_it = |&slot: &Slot| records.get(slot).key() == key;
        let hash_at = |&slot: &Slot| hash_of(hash, records.get(slot).key());
        match index.entry(hash_of(hash, key), is_it, hash_at) {
            Entry::Occupied(found) => (*found.get(), false),
            Entry::Vacant(vacant) => {
                let slot = records.insert(make());
                vacant.insert(slot);
                (slot, true)
            }
        }
    }

    /// As [`Slots::reserve`].
    pub fn reserve(&mut self, hash: &SecretHash, additional: usize) {
        let Self { records, index } = self;
        records.reserve(additional);
        index.reserve(additional, |&slot| hash_of(hash, records.get(slot).key()));
    }

    /// As [`Slots::remove`].
    ///
    /// About half of a full table's index is free, so that removals leave no tombstones that would
    /// have to be cleared up, however many entries come and go.
    pub fn remove(&mut self, hash: &SecretHash, slot: Slot) {
        let record = self.records.remove(slot);
        if let Ok(entry) = self.index.find_entry(hash_of(hash, record.key()), |&at| at == slot) {
            entry.remove();
        }
    }

    /// As [`Slots::iter`].
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.records.iter()
    }
}

/// How many entries share a record: it is there as long as one does.
///
/// Never 0, so that a slab needs no additional octet to mark a vacant entry.
#[derive(Debug, Clone, Copy)]
pub struct Shares(NonZeroU16);

impl Shares {
    /// The record has one entry.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// The number of entries, at least 1.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// Counts one more entry.
    pub fn add(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// Counts one entry less. `false`, and no change, where it is the last.
    pub fn take(&mut self) -> bool {
        NonZeroU16::new(self.0.get() - 1).map(|left| self.0 = left).is_some()
    }
}

/// What a slab keeps for a record: its own type is private, and is laid out like this one.
pub enum SlabEntry<T> {
    /// The index of the next vacant one.
    #[expect(dead_code, reason = "only its size matters")]
    Vacant(usize),
    #[expect(dead_code, reason = "only its size matters")]
    Occupied(T),
}
