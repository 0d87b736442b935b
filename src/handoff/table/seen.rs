//! What an operator may see of a table, some entries at a time.

use std::net::Ipv6Addr;
use std::ops::Range;

use ipnet::Ipv6Net;

use super::{EntryRecord, Slot, Table};
use crate::handoff::entry::Entry;

impl Table {
    /// Adds the entries in these slots to `seen`. Returns whether there are slots behind them. An
    /// entry has the same slot as long as it is there.
    pub fn see_entries(&self, slots: Range<usize>, seen: &mut Vec<Entry>) -> bool {
        let all = self.records.slots();
        let (first, end) = (slots.start.min(all), slots.end.min(all));
        let is_there = |&slot: &Slot| self.records.try_get(slot).is_some();
        let there = (first..end).map(|slot| slot as Slot).filter(is_there);
        seen.extend(there.map(|slot| self.entry(slot)));
        end < all
    }

    /// Calls `see` for the entries of the clients in `net` that are in slots from `from` on, after
    /// a look at no more than `most` of them. Returns at how many it looked, and where to go on, if
    /// there are more.
    pub fn see_clients(
        &self,
        net: Ipv6Net,
        from: usize,
        most: usize,
        see: impl FnMut(Entry),
    ) -> (usize, Option<usize>) {
        let is_within = |record: &EntryRecord| {
            net.contains(&Ipv6Addr::from(self.clients.get(record.client).address))
        };
        if net.prefix_len() >= 64 {
            let prefix = std::array::from_fn(|i| net.network().octets()[i]);
            let Some(subnet) = self.subnets.find(&self.hash, prefix) else { return (0, None) };
            let subnet = self.subnets.get(subnet);
            let entries = usize::from(subnet.entries.get());
            if from == 0 && entries <= most {
                let members = subnet.members.iter(&self.records);
                let within = members.filter(|&slot| is_within(self.records.get(slot)));
                within.map(|slot| self.entry(slot)).for_each(see);
                return (entries, None);
            }
        }
        let end = from.saturating_add(most).min(self.records.slots());
        let slots = (from..end).map(|slot| slot as Slot);
        let there = slots.filter(|&slot| self.records.try_get(slot).is_some_and(is_within));
        there.map(|slot| self.entry(slot)).for_each(see);
        (end.saturating_sub(from), (end < self.records.slots()).then_some(end))
    }
}
