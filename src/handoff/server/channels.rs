//! The control channels of a shard, by the addresses that they are between.
//!
//! After a start, tables are filled when they are needed first, or when there is time: those of
//! NAT64s that ask have not to wait for all the others. That cannot be seen here from outside.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::channel::Channel;
use super::replayed::Unfilled;
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;

/// They are found by a hash that is known before the channel is looked for, or by the number that
/// it was found to have. When a channel is removed another one gets its number: see
/// [`Channels::find_mut`].
#[derive(Default)]
pub struct Channels {
    channels: Vec<(TableKey, OnceCell<Box<Channel>>)>,
    index: HashTable<ChannelNumber>,
    /// What makes the channels that are not there yet.
    unfilled: RefCell<BTreeMap<TableKey, Unfilled>>,
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
        let (key, channel) = &self.channels[number.0];
        channel.get_or_init(|| self.fill(*key))
    }

    /// As [`Channels::get`].
    ///
    /// # Panics
    /// As there.
    #[inline]
    fn get_mut(&mut self, number: ChannelNumber) -> &mut Channel {
        if self.channels[number.0].1.get().is_none() {
            self.get(number);
        }
        self.channels[number.0].1.get_mut().expect("it was filled")
    }

    #[cold]
    fn fill(&self, key: TableKey) -> Box<Channel> {
        let unfilled = self.unfilled.borrow_mut().remove(&key);
        unfilled.expect("what is not there is to be filled").fill()
    }

    /// How many channels are to be filled yet.
    pub fn unfilled(&self) -> usize {
        self.unfilled.borrow().len()
    }

    /// Fills the next of them, and returns how many entries that has; `None` where there are none.
    pub fn fill_next(&self, secret: &SecretHash) -> Option<usize> {
        let key = *self.unfilled.borrow().first_key_value()?.0;
        let number = self.find(hash_of(secret, key), key)?;
        Some(self.get(number).table().len())
    }

    /// All of them, and whether the table of each is nearly full, or will be when it is filled.
    pub fn nearly_full(&self) -> impl Iterator<Item = (TableKey, bool)> {
        self.channels.iter().map(|(key, channel)| {
            let will_be = || self.unfilled.borrow().get(key).is_some_and(Unfilled::is_nearly_full);
            (*key, channel.get().map_or_else(will_be, |channel| channel.is_nearly_full()))
        })
    }

    /// The channel at a place: there are as many as places.
    pub fn nth(&self, place: usize) -> Option<(TableKey, &Channel)> {
        let key = self.channels.get(place)?.0;
        Some((key, self.get(ChannelNumber(place))))
    }

    /// As [`Channels::nth`].
    pub fn nth_mut(&mut self, place: usize) -> Option<(TableKey, &mut Channel)> {
        let key = self.channels.get(place)?.0;
        Some((key, self.get_mut(ChannelNumber(place))))
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
        Some(self.get_mut(number))
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
        let Self { channels, index, .. } = self;
        let is_it = |number: &ChannelNumber| channels[number.0].0 == key;
        let rehash = |number: &ChannelNumber| hash_of(secret, channels[number.0].0);
        let number = match index.entry(hash_of(secret, key), is_it, rehash) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let channel = Box::new(make()?);
                let number = ChannelNumber(channels.len());
                place.insert(number);
                channels.push((key, channel.into()));
                number
            }
        };
        Ok(self.get_mut(number))
    }

    /// Adds a channel.
    ///
    /// # Panics
    /// Where there is a channel with `key`.
    pub fn adopt(&mut self, secret: &SecretHash, key: TableKey, channel: Box<Channel>) {
        self.insert(secret, key, channel.into());
    }

    /// Adds a channel that is to be filled yet.
    ///
    /// # Panics
    /// As [`Channels::adopt`].
    pub fn adopt_unfilled(&mut self, secret: &SecretHash, key: TableKey, unfilled: Unfilled) {
        self.insert(secret, key, OnceCell::new());
        self.unfilled.get_mut().insert(key, unfilled);
    }

    fn insert(&mut self, secret: &SecretHash, key: TableKey, channel: OnceCell<Box<Channel>>) {
        let hash = hash_of(secret, key);
        assert!(self.find(hash, key).is_none(), "there is a channel with this key already");
        let number = ChannelNumber(self.channels.len());
        self.channels.push((key, channel));
        let channels = &self.channels;
        self.index.insert_unique(hash, number, |number| hash_of(secret, channels[number.0].0));
    }

    /// Takes the channel with `key` out.
    pub fn remove(&mut self, secret: &SecretHash, key: TableKey) -> Option<Box<Channel>> {
        self.find_mut(None, hash_of(secret, key), key)?;
        let Self { channels, index, .. } = self;
        let is_it = |number: &ChannelNumber| channels[number.0].0 == key;
        let (ChannelNumber(at), _) = index.find_entry(hash_of(secret, key), is_it).ok()?.remove();
        // The last one moves to its place.
        if let Some(last) = channels.len().checked_sub(1).filter(|&last| last != at) {
            let hash = hash_of(secret, channels[last].0);
            if let Some(number) = index.find_mut(hash, |number| number.0 == last) {
                *number = ChannelNumber(at);
            }
        }
        channels.swap_remove(at).1.into_inner()
    }

    pub fn iter(&self) -> impl Iterator<Item = (TableKey, &Channel)> {
        (0..self.len()).filter_map(|place| self.nth(place))
    }
}
