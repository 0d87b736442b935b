//! [`Store`]: records that are found by a hash, and of which there are never more than so many.

use hashbrown::HashTable;
use slab::Slab;

/// How many records are looked at for the one that goes.
const SAMPLES: u64 = 16;

/// A record of a [`Store`].
pub(super) trait Stored {
    /// The hash that it is found by, which is secret to whoever chooses the records.
    fn hash(&self) -> u64;

    /// In which second it was used last.
    fn used(&self) -> u32;
}

/// At most `most` records. Where there is no room, one that was not used for long makes it: the one
/// of some that was not for longest.
#[derive(Debug)]
pub(super) struct Store<T> {
    places: HashTable<u32>,
    records: Slab<T>,
    most: usize,
    /// Which records are looked at next.
    turn: u64,
}

impl<T: Stored> Store<T> {
    pub fn new(most: usize) -> Self {
        assert!(0 < most && most <= u32::MAX as usize);
        Self { places: HashTable::new(), records: Slab::new(), most, turn: 0 }
    }

    pub fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        let place = self.places.find(hash, |&place| is_it(&self.records[place as usize]))?;
        self.records.get(*place as usize)
    }

    pub fn find_mut(&mut self, hash: u64, is_it: impl Fn(&T) -> bool) -> Option<&mut T> {
        let place = self.places.find(hash, |&place| is_it(&self.records[place as usize]))?;
        self.records.get_mut(*place as usize)
    }

    /// Adds a record, and returns the one that made room for it. Of those that are looked at, one
    /// that `pays` goes first.
    pub fn add(&mut self, record: T, pays: impl Fn(&T) -> bool) -> Option<T> {
        let gone = if self.records.len() < self.most { None } else { self.evict(pays) };
        let hash = record.hash();
        let place = self.records.insert(record) as u32;
        let records = &self.records;
        self.places.insert_unique(hash, place, |&place| records[place as usize].hash());
        gone
    }

    fn evict(&mut self, pays: impl Fn(&T) -> bool) -> Option<T> {
        // All places are taken, and which one has what is by hashes that nobody can choose; a
        // stride that has no factor of the number of places comes by all of them.
        const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
        let samples = (1..=SAMPLES).map(|sample| {
            let number = self.turn.wrapping_add(sample).wrapping_mul(STRIDE);
            ((u128::from(number) * self.most as u128) >> 64) as usize
        });
        let order =
            |&place: &usize| self.records.get(place).map(|record| (!pays(record), record.used()));
        let goes = samples.filter(|&place| self.records.contains(place)).min_by_key(order)?;
        self.turn = self.turn.wrapping_add(SAMPLES);
        let record = self.records.try_remove(goes)?;
        if let Ok(found) = self.places.find_entry(record.hash(), |&place| place as usize == goes) {
            found.remove();
        }
        Some(record)
    }

    pub fn len(&self) -> usize {
        debug_assert_eq!(self.places.len(), self.records.len());
        self.records.len()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.records.iter().map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Numbered(u64, u32);

    impl Stored for Numbered {
        fn hash(&self) -> u64 {
            self.0.wrapping_mul(0x0123_4567_89ab_cdef)
        }

        fn used(&self) -> u32 {
            self.1
        }
    }

    #[test]
    fn what_was_not_used_for_long_goes() {
        let mut store = Store::new(1000);
        for number in 0..1000 {
            assert_eq!(store.add(Numbered(number, number as u32), |_| false), None);
        }
        let gone: Vec<_> = (1000..1500)
            .map(|number| store.add(Numbered(number, number as u32), |_| false).unwrap().0)
            .collect();
        assert_eq!(store.len(), 1000);
        let mean = gone.iter().sum::<u64>() / 500;
        assert!(mean < 400, "{mean}: by chance it would be 600 or more");
        for number in 0..1500 {
            let found = store.find(Numbered(number, 0).hash(), |record| record.0 == number);
            assert_eq!(found.is_none(), gone.contains(&number));
        }
        // One that pays goes first, if any of those does.
        let payers = (0..500).filter(|_| {
            let gone = store.add(Numbered(u64::MAX, 2000), |record| record.0 % 2 == 0).unwrap();
            gone.0.is_multiple_of(2)
        });
        assert!(payers.count() > 250);
    }
}
