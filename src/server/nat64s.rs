//! The NAT64s of a shard, by the addresses between which they send.

use hashbrown::HashTable;

use super::Nat64;
use crate::change::TableKey;
use crate::random::SecretHash;

/// Found by a hash that is known before the NAT64 is looked for.
#[derive(Default)]
pub struct Nat64s(HashTable<(TableKey, Box<Nat64>)>);

/// What [`Nat64s`] are found by. A remote can choose its address, so the hash is keyed.
pub fn hash_of(hash: &SecretHash, key: TableKey) -> u64 {
    hash.of_words([key.local.to_bits().into(), key.nat64.to_bits().into()])
}

impl Nat64s {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn find(&self, hash: u64, key: TableKey) -> Option<&Nat64> {
        self.0.find(hash, |known| known.0 == key).map(|known| &*known.1)
    }

    pub fn find_mut(&mut self, hash: u64, key: TableKey) -> Option<&mut Nat64> {
        self.0.find_mut(hash, |known| known.0 == key).map(|known| &mut *known.1)
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
        let rehash = |known: &(TableKey, _)| hash_of(secret, known.0);
        let entry = match self.0.entry(hash_of(secret, key), |known| known.0 == key, rehash) {
            hashbrown::hash_table::Entry::Occupied(known) => known,
            hashbrown::hash_table::Entry::Vacant(new) => new.insert((key, Box::new(make()?))),
        };
        Ok(&mut *entry.into_mut().1)
    }

    /// Adds one.
    ///
    /// # Panics
    /// Where there is one with `key`.
    pub fn adopt(&mut self, secret: &SecretHash, key: TableKey, nat64: Box<Nat64>) {
        let hash = hash_of(secret, key);
        assert!(self.find(hash, key).is_none(), "there is one already");
        self.0.insert_unique(hash, (key, nat64), |known| hash_of(secret, known.0));
    }

    pub fn iter(&self) -> impl Iterator<Item = (TableKey, &Nat64)> {
        self.0.iter().map(|known| (known.0, &*known.1))
    }
}
