//! The NAT64s of a shard, by the addresses between which they send.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Nat64;
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;

/// Found by a hash that is known before the NAT64 is looked for, or by the number that it was found to have: none
/// ever goes.
#[derive(Default)]
pub struct Nat64s {
    nat64s: Vec<(TableKey, Box<Nat64>)>,
    index: HashTable<Number>,
}

/// Which NAT64 of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(usize);

/// What [`Nat64s`] are found by. A remote can choose its address, so the hash is keyed.
pub fn hash_of(hash: &SecretHash, key: TableKey) -> u64 {
    hash.of_words([key.local.to_bits().into(), key.nat64.to_bits().into()])
}

impl Nat64s {
    pub fn len(&self) -> usize {
        self.nat64s.len()
    }

    pub fn find(&self, hash: u64, key: TableKey) -> Option<Number> {
        self.index.find(hash, |number| self.nat64s[number.0].0 == key).copied()
    }

    /// # Panics
    /// Where there is none.
    pub fn get(&self, number: Number) -> &Nat64 {
        &self.nat64s[number.0].1
    }

    /// The one with `key`, which probably has this number.
    #[inline]
    pub fn find_mut(
        &mut self,
        probable: Option<Number>,
        hash: u64,
        key: TableKey,
    ) -> Option<&mut Nat64> {
        let is_it = |number: &Number| self.nat64s.get(number.0).is_some_and(|known| known.0 == key);
        let number = probable.filter(is_it).or_else(|| self.find(hash, key))?;
        Some(&mut self.nat64s[number.0].1)
    }

    /// The one with `key`, made by `make` where there is none.
    ///
    /// # Errors
    /// That of `make`.
    pub fn find_or_insert<E>(
        &mut self,
        secret: &SecretHash,
        key: TableKey,
        make: impl FnOnce() -> Result<Nat64, E>,
    ) -> Result<&mut Nat64, E> {
        let Self { nat64s, index } = self;
        let is_it = |number: &Number| nat64s[number.0].0 == key;
        let rehash = |number: &Number| hash_of(secret, nat64s[number.0].0);
        let number = match index.entry(hash_of(secret, key), is_it, rehash) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let nat64 = Box::new(make()?);
                let number = Number(nat64s.len());
                place.insert(number);
                nat64s.push((key, nat64));
                number
            }
        };
        Ok(&mut nat64s[number.0].1)
    }

    /// Adds one.
    ///
    /// # Panics
    /// Where there is one with `key`.
    pub fn adopt(&mut self, secret: &SecretHash, key: TableKey, nat64: Box<Nat64>) {
        let hash = hash_of(secret, key);
        assert!(self.find(hash, key).is_none(), "there is one already");
        let number = Number(self.nat64s.len());
        self.nat64s.push((key, nat64));
        let nat64s = &self.nat64s;
        self.index.insert_unique(hash, number, |number| hash_of(secret, nat64s[number.0].0));
    }

    pub fn iter(&self) -> impl Iterator<Item = (TableKey, &Nat64)> {
        self.nat64s.iter().map(|known| (known.0, &*known.1))
    }
}
