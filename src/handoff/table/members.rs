//! Lists of the entries of each /64, in no order.

use super::EntryRecord;
use super::records::{NONE, Slot, Slots};

/// The neighbours of an entry in its list.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    next: Slot,
    previous: Slot,
}

impl Default for Links {
    fn default() -> Self {
        Self { next: NONE, previous: NONE }
    }
}

/// A list of entries: the slot of the first one.
#[derive(Debug, Clone, Copy)]
pub struct Members(Slot);

impl Default for Members {
    fn default() -> Self {
        Self(NONE)
    }
}

impl Members {
    /// Adds the entry in `slot`, which is in no list.
    pub fn add(&mut self, records: &mut Slots<EntryRecord>, slot: Slot) {
        records.get_mut(slot).links = Links { next: self.0, previous: NONE };
        if self.0 != NONE {
            records.get_mut(self.0).links.previous = slot;
        }
        self.0 = slot;
    }

    /// Removes the entry in `slot`, which is in this list.
    pub fn remove(&mut self, records: &mut Slots<EntryRecord>, slot: Slot) {
        let Links { next, previous } = std::mem::take(&mut records.get_mut(slot).links);
        match previous {
            NONE => self.0 = next,
            previous => records.get_mut(previous).links.next = next,
        }
        if next != NONE {
            records.get_mut(next).links.previous = previous;
        }
    }

    pub fn iter<'a>(
        &self,
        records: &'a Slots<EntryRecord>,
    ) -> impl Iterator<Item = Slot> + use<'a> {
        let mut next = self.0;
        std::iter::from_fn(move || {
            let slot = (next != NONE).then_some(next)?;
            next = records.get(slot).links.next;
            Some(slot)
        })
    }
}
