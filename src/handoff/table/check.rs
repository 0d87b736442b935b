//! What contradicts itself in a table, for tests and fuzzing: the table keeps the same entries in
//! several structures.

use super::Table;
use super::records::Slot;

impl Table {
    /// The first contradiction between two of its structures, if there is any. Looks at every
    /// entry.
    pub fn contradiction(&self) -> Option<String> {
        let by_use = self.slots_by_use();
        None.or_else(|| self.wrong_counts())
            .or_else(|| self.wrong_order(&by_use))
            .or_else(|| self.wrong_queue(&by_use))
            .or_else(|| by_use.iter().find_map(|&slot| self.wrong_entry(slot)))
            .or_else(|| self.wrong_subnet())
    }

    fn wrong_counts(&self) -> Option<String> {
        let entries = self.len();
        let counts = [self.ports.taken(), self.index.len()];
        if counts != [entries; 2] {
            return Some(format!("{entries} entries; {counts:?} by ports, in the index"));
        }
        if entries > self.capacity() {
            return Some(format!("{entries} entries, capacity {}", self.capacity()));
        }
        let sum = |entries: &mut dyn Iterator<Item = u16>| entries.map(usize::from).sum::<usize>();
        let clients = sum(&mut self.clients.iter().map(|(_, client)| client.entries.get()));
        let prefixes = sum(&mut self.prefixes.iter().map(|(_, prefix)| prefix.entries.get()));
        (clients != entries || prefixes != entries)
            .then(|| format!("{entries} entries, {clients} of clients, {prefixes} of prefixes"))
    }

    fn wrong_order(&self, by_use: &[Slot]) -> Option<String> {
        let number = |slot: &Slot| self.records.get(*slot).last_use;
        let is_wrong = !by_use.is_sorted_by(|one, other| number(one) < number(other))
            || by_use.last().is_some_and(|last| number(last) > self.uses.count());
        is_wrong.then(|| "two entries have the same number, or one a number to come".into())
    }

    fn wrong_queue(&self, by_use: &[Slot]) -> Option<String> {
        let of_subnets = self.lru_of.iter().map(|(subnet, queue)| (Some(*subnet), queue));
        of_subnets.chain([(None, &self.lru)]).find_map(|(subnet, queue)| {
            let is_in =
                |slot: &&Slot| subnet.is_none_or(|of| self.records.get(**slot).subnet == of);
            let (first, oldest) =
                (queue.all.peek(&self.records), by_use.iter().find(is_in).copied());
            (first.is_some() && first != oldest)
                .then(|| format!("{subnet:?}: {first:?} would go, and {oldest:?} is older"))
        })
    }

    fn wrong_entry(&self, slot: Slot) -> Option<String> {
        let entry = self.entry(slot);
        if self.find(&entry.client) != Some(slot) || self.find_port(entry.port) != Some(slot) {
            return Some(format!("{entry:?} is not found both ways"));
        }
        (!self.is_eligible(entry.port))
            .then(|| format!("{entry:?} has a port that is not eligible"))
    }

    fn wrong_subnet(&self) -> Option<String> {
        self.subnets.iter().find_map(|(slot, subnet)| {
            let members = subnet.members.iter(&self.records);
            let entries = members.filter(|&member| self.records.get(member).subnet == slot).count();
            let may_be_heavy = self.may_be_heavy(subnet.entries.get());
            (entries != usize::from(subnet.entries.get())
                || self.heavy.contains(&slot) != may_be_heavy)
                .then(|| {
                    format!("{subnet:?}: {entries} entries, among the heavy: {}", !may_be_heavy)
                })
        })
    }
}
