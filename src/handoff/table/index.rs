//! Entries by the hash of their client: the first step of nearly every request, which mostly reads
//! a single cache line.
//!
//! Open addressing with linear probing and backward-shift deletion: no tombstones. A bucket has the
//! slot of an entry and half of its hash, so that an entry of another client is hardly ever read,
//! and 16 buckets share a cache line.

use super::records::{NONE, Slot};

/// The hash of a client. A remote can choose what it is made of, so it must be keyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub u32);

impl Hash {
    /// The bucket at which its search begins.
    fn home(self, mask: usize) -> usize {
        self.0 as usize & mask
    }

    /// The half of it that a bucket keeps.
    fn tag(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

#[derive(Debug, Clone, Copy)]
struct IndexBucket {
    tag: u16,
    /// [`NONE`] where it is free.
    slot: Slot,
}

const FREE: IndexBucket = IndexBucket { tag: 0, slot: NONE };
/// The buckets of the smallest index, a power of two.
const BUCKETS_MIN: usize = 8;

/// Slots of entries by the hash of their client.
#[derive(Debug, Default)]
pub struct Index {
    /// None, or a power of two. At least a quarter is free.
    buckets: Vec<IndexBucket>,
    taken: usize,
}

impl Index {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.taken
    }

    /// The slot with this hash for which `is_it` holds.
    #[inline]
    pub fn find(&self, hash: Hash, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        let is_it = |slot, tag| tag == hash.tag() && is_it(slot);
        self.search(hash, is_it).map(|(_, slot)| slot)
    }

    /// Adds a slot that the index does not have. `hash_of` tells the hash of one that it has.
    pub fn insert(&mut self, hash: Hash, slot: Slot, hash_of: impl Fn(Slot) -> Hash) {
        debug_assert_ne!(slot, NONE);
        self.reserve(1, hash_of);
        self.put(hash, slot);
        self.taken += 1;
    }

    /// Makes room for so many more slots. `hash_of` as for [`Index::insert`].
    pub fn reserve(&mut self, additional: usize, hash_of: impl Fn(Slot) -> Hash) {
        let least = 4 * (self.taken + additional);
        if least <= 3 * self.buckets.len() {
            return;
        }
        let length = least.div_ceil(3).next_power_of_two().max(BUCKETS_MIN);
        for IndexBucket { slot, .. } in std::mem::replace(&mut self.buckets, vec![FREE; length]) {
            if slot != NONE {
                self.put(hash_of(slot), slot);
            }
        }
    }

    /// Removes a slot. `hash_of` tells the hash of one that the index has.
    ///
    /// # Panics
    /// Where the index does not have it.
    pub fn remove(&mut self, hash: Hash, slot: Slot, hash_of: impl Fn(Slot) -> Hash) {
        let (mut hole, _) =
            self.search(hash, |at, _| at == slot).expect("what has a record is in the index");
        let mask = self.buckets.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let bucket = self.buckets[at];
            if bucket.slot == NONE {
                break;
            }
            // It may move up to the hole unless its search begins behind that.
            let from_home = at.wrapping_sub(hash_of(bucket.slot).home(mask)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.buckets[hole] = bucket;
                hole = at;
            }
        }
        self.buckets[hole] = FREE;
        self.taken -= 1;
    }

    /// Into the first free bucket of its search. There is one.
    fn put(&mut self, hash: Hash, slot: Slot) {
        let mask = self.buckets.len() - 1;
        let mut at = hash.home(mask);
        while self.buckets[at].slot != NONE {
            at = (at + 1) & mask;
        }
        self.buckets[at] = IndexBucket { tag: hash.tag(), slot };
    }

    #[inline]
    fn search(&self, hash: Hash, is_it: impl Fn(Slot, u16) -> bool) -> Option<(usize, Slot)> {
        let mask = self.buckets.len().checked_sub(1)?;
        let mut at = hash.home(mask);
        loop {
            let IndexBucket { tag, slot } = self.buckets[at];
            if slot == NONE {
                return None;
            }
            if is_it(slot, tag) {
                return Some((at, slot));
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What the index should be: each slot with its hash.
    type Model = BTreeMap<Slot, u32>;

    fn assert_alike(index: &Index, model: &Model) {
        assert_eq!(index.len(), model.len());
        assert!(4 * index.taken <= 3 * index.buckets.len());
        assert_eq!(index.buckets.iter().filter(|bucket| bucket.slot != NONE).count(), model.len());
        for (&slot, &hash) in model {
            assert_eq!(index.find(Hash(hash), |at| at == slot), Some(slot));
            assert_eq!(index.find(Hash(!hash), |at| at == slot), None, "of another hash");
        }
    }

    proptest! {
        /// Hashes of few bits collide all the time, in their homes, in their tags, and in both.
        #[test]
        fn like_a_model(
            steps in prop::collection::vec((0_u16..200, any::<bool>()), 0..600),
            room in 0_usize..300,
            (homes, tags) in (0_u32..9, 0_u32..3),
        ) {
            let hash_of = |slot: Slot| {
                let mixed = u32::from(slot).wrapping_mul(0x9e37_79b1);
                Hash((mixed >> 7 & ((1 << tags) - 1)) << 16 | mixed >> 20 & ((1 << homes) - 1))
            };
            let (mut index, mut model) = (Index::default(), Model::new());
            for (number, (slot, add)) in steps.into_iter().enumerate() {
                if number == room {
                    index.reserve(room, hash_of);
                    let buckets = index.buckets.len();
                    prop_assert!(3 * buckets >= 4 * (model.len() + room));
                    prop_assert!(room == 0 || buckets <= 4 * (model.len() + room).max(2));
                }
                if add && model.insert(slot, hash_of(slot).0).is_none() {
                    index.insert(hash_of(slot), slot, hash_of);
                } else if !add && model.remove(&slot).is_some() {
                    index.remove(hash_of(slot), slot, hash_of);
                }
                assert_alike(&index, &model);
            }
        }
    }

    #[test]
    fn the_search_goes_on_at_the_other_end() {
        // The last two buckets of eight are where all searches begin.
        let hash_of = |slot: Slot| Hash(6 + u32::from(slot) % 2);
        let mut index = Index::default();
        (0..6).for_each(|slot| index.insert(hash_of(slot), slot, hash_of));
        for gone in [0, 3, 1] {
            index.remove(hash_of(gone), gone, hash_of);
            assert_eq!(index.find(hash_of(gone), |at| at == gone), None);
        }
        let left = [2, 4, 5].map(|slot| index.find(hash_of(slot), |at| at == slot));
        assert_eq!(left, [Some(2), Some(4), Some(5)]);
    }

    #[test]
    fn as_many_as_a_table_has() {
        let hash_of = |slot: Slot| Hash(u32::from(slot).wrapping_mul(0x9e37_79b1).rotate_left(9));
        let mut index = Index::default();
        (0..NONE).for_each(|slot| index.insert(hash_of(slot), slot, hash_of));
        assert_eq!(index.buckets.len(), 1 << 17);
        assert_eq!(size_of::<IndexBucket>(), 4);
        for slot in 0..NONE {
            assert_eq!(index.find(hash_of(slot), |at| at == slot), Some(slot));
            index.remove(hash_of(slot), slot, hash_of);
        }
        assert_eq!(index.len(), 0);
        assert!(index.buckets.iter().all(|bucket| bucket.slot == NONE));
    }
}
