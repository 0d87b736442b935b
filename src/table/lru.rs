//! Lists of entries in the order of their last use. Each entry stands in two: its table's and its /64's.

use super::Record;
use super::pool::{NONE, Slot, Slots};

/// Which of an entry's two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The list of the whole table.
    Table = 0,
    /// The list of the client's /64.
    Subnet = 1,
}

/// The neighbours of an entry in one list.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    newer: Slot,
    older: Slot,
}

impl Links {
    /// The neighbour that was used later, or [`NONE`].
    pub fn newer(self) -> Slot {
        self.newer
    }

    /// The neighbour that was used earlier, or [`NONE`].
    pub fn older(self) -> Slot {
        self.older
    }
}

impl Default for Links {
    fn default() -> Self {
        Self { newer: NONE, older: NONE }
    }
}

/// The two ends of a list.
#[derive(Debug, Clone, Copy)]
pub struct List {
    newest: Slot,
    oldest: Slot,
}

impl Default for List {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE }
    }
}

impl List {
    /// The entry at the new end, or [`NONE`].
    pub fn newest(self) -> Slot {
        self.newest
    }

    /// The entry at the old end, or [`NONE`].
    pub fn oldest(self) -> Slot {
        self.oldest
    }

    /// Puts the entry in `slot`, which is in no such list, at the new end.
    #[inline]
    pub fn push(&mut self, records: &mut Slots<Record>, which: Which, slot: Slot) {
        records.get_mut(slot).links[which as usize] = Links { newer: NONE, older: self.newest };
        match self.newest {
            NONE => self.oldest = slot,
            newest => records.get_mut(newest).links[which as usize].newer = slot,
        }
        self.newest = slot;
    }

    /// Takes the entry in `slot` out of this list, which it is in.
    #[inline]
    pub fn unlink(&mut self, records: &mut Slots<Record>, which: Which, slot: Slot) {
        let Links { newer, older } =
            std::mem::take(&mut records.get_mut(slot).links[which as usize]);
        match newer {
            NONE => self.newest = older,
            newer => records.get_mut(newer).links[which as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => records.get_mut(older).links[which as usize].newer = newer,
        }
    }

    /// Moves the entry in `slot`, which is in this list, to the new end.
    #[inline]
    pub fn touch(&mut self, records: &mut Slots<Record>, which: Which, slot: Slot) {
        if self.newest != slot {
            self.unlink(records, which, slot);
            self.push(records, which, slot);
        }
    }

    /// The entries from the least to the most recently used.
    pub fn oldest_first<'a>(
        &self,
        records: &'a Slots<Record>,
        which: Which,
    ) -> impl Iterator<Item = Slot> + use<'a> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = (next != NONE).then_some(next)?;
            next = records.get(slot).links[which as usize].newer;
            Some(slot)
        })
    }
}
