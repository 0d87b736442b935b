//! [`Pool`]: records in a slab, found by their key through a keyed hash table of slots.
//!
//! Slots are 16 bits: no table has as many records of any kind as there are ports.

use hashbrown::HashTable;
use slab::Slab;

use crate::random::SecretHash;

/// The place of a record in its pool.
pub type Slot = u16;
/// No slot.
pub const NONE: Slot = Slot::MAX;

/// A record that knows its key.
pub trait Keyed {
    /// What it is found by. A remote can choose it, so the hash is keyed.
    type Key: AsRef<[u8]> + PartialEq + Copy;
    /// Its key.
    fn key(&self) -> Self::Key;
}

/// Records of one kind.
#[derive(Debug)]
pub struct Pool<T> {
    records: Slab<T>,
    index: HashTable<Slot>,
    hash: SecretHash,
}

impl<T: Keyed> Pool<T> {
    /// Empty.
    pub fn new(hash: SecretHash) -> Self {
        Self { records: Slab::new(), index: HashTable::new(), hash }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The slot of the record with `key`.
    pub fn find(&self, key: T::Key) -> Option<Slot> {
        let found =
            self.index.find(self.hash.of(key.as_ref()), |&slot| self.get(slot).key() == key);
        found.copied()
    }

    /// The record in `slot`.
    ///
    /// # Panics
    /// Where there is none.
    pub fn get(&self, slot: Slot) -> &T {
        &self.records[usize::from(slot)]
    }

    /// The record in `slot`. Its key must stay as it is.
    ///
    /// # Panics
    /// Where there is none.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.records[usize::from(slot)]
    }

    /// Adds a record, whose key must be new.
    pub fn insert(&mut self, record: T) -> Slot {
        let hash_of = self.hash.of(record.key().as_ref());
        let slot = self.records.insert(record) as Slot;
        assert_ne!(slot, NONE, "a pool never holds as many records as there are ports");
        let (records, hash) = (&self.records, self.hash);
        self.index.insert_unique(hash_of, slot, |&slot| {
            hash.of(records[usize::from(slot)].key().as_ref())
        });
        slot
    }

    /// Takes the record in `slot` out.
    ///
    /// # Panics
    /// Where there is none.
    pub fn remove(&mut self, slot: Slot) -> T {
        let record = self.records.remove(usize::from(slot));
        if let Ok(entry) =
            self.index.find_entry(self.hash.of(record.key().as_ref()), |&at| at == slot)
        {
            entry.remove();
        }
        record
    }

    /// All records, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.records.iter().map(|(slot, record)| (slot as Slot, record))
    }
}
