//! The control channels of a shard, by the addresses that they are between.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::channel::Channel;
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;

/// They are found by a hash that is known before the channel is looked for, or by the number that
/// it was found to have. When a channel is removed another one gets its number: see
/// [`Channels::find_mut`].
#[derive(Default)]
pub struct Channels {
    channels: Vec<(TableKey, Box<Channel>)>,
    index: HashTable<ChannelNumber>,
}

/// Which channel of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelNumber(usize);

/// The hash that a channel is found by. A remote can choose its address, so the hash is keyed.
pub fn hash_of(hash: &SecretHash, key: TableKey) -> u64 {
    hash.of_words([key.local.to_bits().into(), key.nat64.to_bits().into()])
}

impl Channels {
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    pub fn find(&self, hash: u64, key: TableKey) -> Option<ChannelNumber> {
        self.index.find(hash, |number| self.channels[number.0].0 == key).copied()
    }

    /// # Panics
    /// Where no channel has this number.
    pub fn get(&self, number: ChannelNumber) -> &Channel {
        &self.channels[number.0].1
    }

    /// The channel at a place: there are as many as places.
    pub fn nth(&self, place: usize) -> Option<(TableKey, &Channel)> {
        self.channels.get(place).map(|known| (known.0, &*known.1))
    }

    /// As [`Channels::nth`].
    pub fn nth_mut(&mut self, place: usize) -> Option<(TableKey, &mut Channel)> {
        self.channels.get_mut(place).map(|known| (known.0, &mut *known.1))
    }

    /// The channel with `key`, which probably has the number `probable`.
    #[inline]
    pub fn find_mut(
        &mut self,
        probable: Option<ChannelNumber>,
        hash: u64,
        key: TableKey,
    ) -> Option<&mut Channel> {
        let is_it = |number: &ChannelNumber| {
            self.channels.get(number.0).is_some_and(|known| known.0 == key)
        };
        let number = probable.filter(is_it).or_else(|| self.find(hash, key))?;
        Some(&mut self.channels[number.0].1)
    }

    /// The channel with `key`. Where there is none, `make` makes it.
    ///
    /// # Errors
    /// That of `make`.
    pub fn find_or_insert<E>(
        &mut self,
        secret: &SecretHash,
        key: TableKey,
        make: impl FnOnce() -> Result<Channel, E>,
    ) -> Result<&mut Channel, E> {
        let Self { channels, index } = self;
        let is_it = |number: &ChannelNumber| channels[number.0].0 == key;
        let rehash = |number: &ChannelNumber| hash_of(secret, channels[number.0].0);
        let number = match index.entry(hash_of(secret, key), is_it, rehash) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let channel = Box::new(make()?);
                let number = ChannelNumber(channels.len());
                place.insert(number);
                channels.push((key, channel));
                number
            }
        };
        Ok(&mut channels[number.0].1)
    }

    /// Adds a channel.
    ///
    /// # Panics
    /// Where there is a channel with `key`.
    pub fn adopt(&mut self, secret: &SecretHash, key: TableKey, channel: Box<Channel>) {
        let hash = hash_of(secret, key);
        assert!(self.find(hash, key).is_none(), "there is a channel with this key already");
        let number = ChannelNumber(self.channels.len());
        self.channels.push((key, channel));
        let channels = &self.channels;
        self.index.insert_unique(hash, number, |number| hash_of(secret, channels[number.0].0));
    }

    /// Takes the channel with `key` out.
    pub fn remove(&mut self, secret: &SecretHash, key: TableKey) -> Option<Box<Channel>> {
        let Self { channels, index } = self;
        let is_it = |number: &ChannelNumber| channels[number.0].0 == key;
        let (ChannelNumber(at), _) = index.find_entry(hash_of(secret, key), is_it).ok()?.remove();
        // The last one moves to its place.
        if let Some(last) = channels.len().checked_sub(1).filter(|&last| last != at) {
            let hash = hash_of(secret, channels[last].0);
            if let Some(number) = index.find_mut(hash, |number| number.0 == last) {
                *number = ChannelNumber(at);
            }
        }
        Some(channels.swap_remove(at).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (TableKey, &Channel)> {
        self.channels.iter().map(|known| (known.0, &*known.1))
    }
}
