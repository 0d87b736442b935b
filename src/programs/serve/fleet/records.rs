//! What a shard changed and the engine does not have yet: in which order it is recorded, and what
//! is taken back where the table is lost.
//!
//! Changes of one batch of the reactor have a number. They are recorded in parts, one after
//! another, each in one transaction. A part has changes of as many batches as there were meanwhile.

use std::collections::{BTreeSet, VecDeque};
use std::mem;

use crate::disk::fleet::{RecordKey, ShardRun, TimedChange, body_of};
use crate::handoff::change::{Change, Event, Timestamp};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::TABLES_MAX;

/// The most changes of a part: at 528 octets each at most, that is less than the 1.5 MiB that etcd
/// takes.
const PART_MAX: usize = 2048;
/// From this many changes that are not recorded on, no more are made.
const CHANGES_MAX: usize = 16_384;

/// What is recorded in one transaction.
#[derive(Debug, Default)]
struct FleetPart {
    /// The first batch that it has changes of.
    first: u64,
    changes: Vec<TimedChange>,
    tables: BTreeSet<TableKey>,
}

impl FleetPart {
    fn takes(&self, table: TableKey) -> bool {
        let is_another = !self.tables.contains(&table);
        self.changes.len() < PART_MAX && (!is_another || self.tables.len() < TABLES_MAX)
    }

    fn push(&mut self, change: TimedChange) {
        self.tables.insert(change.1);
        self.changes.push(change);
    }

    /// What takes back its changes of a table, in order; they stay in it.
    fn back(&self, table: TableKey, back: &mut Vec<(TableKey, Change)>) {
        let of_table = self.changes.iter().rev().filter(|change| change.1 == table);
        back.extend(of_table.filter_map(|(_, table, change)| Some((*table, inverse(change)?))));
    }

    fn remove(&mut self, table: TableKey) {
        self.tables.remove(&table);
        self.changes.retain(|change| change.1 != table);
    }
}

/// A part that the engine may have done, or not.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    part: FleetPart,
    body: Vec<u8>,
    /// It was seen among what is done.
    is_watched: bool,
    /// Tables whose changes in it were taken back: it is not done.
    void: BTreeSet<TableKey>,
    /// Tables that were lost, when it was not known whether it was done before.
    doubtful: BTreeSet<TableKey>,
}

/// What is not recorded yet.
#[derive(Debug)]
pub struct FleetRecords {
    me: ShardRun,
    /// The number of the batch whose changes come next.
    next: u64,
    under_way: Option<UnderWay>,
    waiting: VecDeque<FleetPart>,
}

impl FleetRecords {
    pub fn new(me: ShardRun) -> Self {
        Self { me, next: 1, under_way: None, waiting: VecDeque::new() }
    }

    /// The number of the batch that changes are of that are made now.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// All changes up to that batch are recorded, or void.
    pub fn durable(&self) -> u64 {
        let parts = self.under_way.iter().map(|under_way| &under_way.part).chain(&self.waiting);
        parts.map(|part| part.first).min().unwrap_or(self.next) - 1
    }

    /// How many changes are not recorded.
    pub fn len(&self) -> usize {
        let under_way = self.under_way.iter().map(|under_way| &under_way.part);
        under_way.chain(&self.waiting).map(|part| part.changes.len()).sum()
    }

    /// How many more may be made.
    pub fn room(&self) -> usize {
        CHANGES_MAX.saturating_sub(self.len())
    }

    /// Whether anything of a table is not recorded.
    pub fn has(&self, table: TableKey) -> bool {
        let under_way = self.under_way.iter().map(|under_way| &under_way.part);
        under_way.chain(&self.waiting).any(|part| part.tables.contains(&table))
    }

    /// Changes of a batch.
    pub fn take<'c>(
        &mut self,
        at: Timestamp,
        changes: impl IntoIterator<Item = &'c (TableKey, Change)>,
    ) {
        let first = self.next;
        for (table, change) in changes {
            self.next = first + 1;
            if self.waiting.back().is_none_or(|part| !part.takes(*table)) {
                self.waiting.push_back(FleetPart { first, ..FleetPart::default() });
            }
            if let Some(part) = self.waiting.back_mut() {
                part.push((at, *table, change.clone()));
            }
        }
    }

    /// The tables of the part that is to be recorded next, if none is under way.
    pub fn next_tables(&self) -> Option<Vec<TableKey>> {
        let part = self.waiting.front().filter(|_| self.under_way.is_none())?;
        Some(part.tables.iter().copied().collect())
    }

    /// The next part is under way, as the record with this number.
    pub fn begin(&mut self, number: u64) {
        let Some(part) = self.waiting.pop_front() else { return };
        let body = body_of(&RecordKey { by: self.me, number }, &part.changes);
        let (void, doubtful) = (BTreeSet::new(), BTreeSet::new());
        self.under_way = Some(UnderWay { number, part, body, is_watched: false, void, doubtful });
    }

    /// The body of the record that is under way.
    pub fn body(&self) -> Vec<u8> {
        self.under_way.as_ref().map_or_else(Vec::new, |under_way| under_way.body.clone())
    }

    /// The record with this number was seen among what is done.
    pub fn watched(&mut self, number: u64) {
        if let Some(under_way) = self.under_way.as_mut().filter(|it| it.number == number) {
            under_way.is_watched = true;
            under_way.doubtful.clear();
        }
    }

    /// The record with this number is done: returns the lines of the event log about it.
    pub fn recorded(&mut self, number: u64) -> Vec<Event> {
        let Some(under_way) = self.under_way.take_if(|it| it.number == number) else {
            return Vec::new();
        };
        let changes = under_way.part.changes.iter();
        changes.filter_map(|(at, table, change)| change.event(*at, *table)).collect()
    }

    /// It will not be done: what of it is not void is recorded with the next one. Leaves in `back`
    /// what takes back the rest.
    pub fn refused(&mut self, number: u64, back: &mut Vec<(TableKey, Change)>) {
        let Some(mut under_way) = self.under_way.take_if(|it| it.number == number) else { return };
        for table in mem::take(&mut under_way.doubtful) {
            under_way.part.back(table, back);
            under_way.part.remove(table);
        }
        under_way.void.iter().for_each(|&table| under_way.part.remove(table));
        if !under_way.part.changes.is_empty() {
            self.waiting.push_front(under_way.part);
        }
    }

    /// A table is another's. `is_watched`: its claim was seen among what is done, so that what was
    /// not seen by then was not done. Leaves in `back` what takes back what is void.
    pub fn lost(&mut self, table: TableKey, is_watched: bool, back: &mut Vec<(TableKey, Change)>) {
        // The last changes first.
        for part in self.waiting.iter_mut().rev() {
            part.back(table, back);
            part.remove(table);
        }
        self.waiting.retain(|part| !part.changes.is_empty());
        let Some(under_way) = &mut self.under_way else { return };
        let concerns = under_way.part.tables.contains(&table) && !under_way.void.contains(&table);
        if !concerns || under_way.is_watched {
            return;
        }
        if is_watched {
            under_way.doubtful.remove(&table);
            under_way.void.insert(table);
            under_way.part.back(table, back);
        } else {
            under_way.doubtful.insert(table);
        }
    }

    /// Another's claim of a table was seen among what is done.
    pub fn claim_watched(&mut self, table: TableKey, back: &mut Vec<(TableKey, Change)>) {
        let under_way = self.under_way.as_ref();
        if under_way.is_some_and(|under_way| under_way.doubtful.contains(&table)) {
            self.lost(table, true, back);
        }
    }

    /// A table is read anew: nothing of it is to be taken back.
    pub fn forget(&mut self, table: TableKey) {
        self.lost(table, true, &mut Vec::new());
    }
}

/// What takes a change back, where anything has to.
fn inverse(change: &Change) -> Option<Change> {
    Some(match change.clone() {
        Change::Initialized => Change::Forgotten,
        Change::Created { port, client } => Change::Deleted { port, client },
        Change::Deleted { port, client } => Change::Created { port, client },
        Change::IdentityKnown { port, token } => Change::IdentityForgotten { port, token },
        Change::IdentityForgotten { port, token } => Change::IdentityKnown { port, token },
        // What a client is called, and how its NAT64 knows it, is learned again; the order of use
        // is nobody's promise; and a table that is shared is not given up.
        Change::AuthenticatorLearned { .. }
        | Change::Used { .. }
        | Change::Conflict { .. }
        | Change::Forgotten
        | Change::Named { .. }
        | Change::Unnamed { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::entry::{Client, MappedPort};
    use crate::handoff::ownership::{HostId, HostRun};
    use crate::ip::address::Prefix96;

    fn records() -> FleetRecords {
        let run = HostRun { host: HostId(1), number: 11 };
        FleetRecords::new(ShardRun { run, shard: 0 })
    }

    fn table(number: u8) -> TableKey {
        TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, number].into() }
    }

    fn created(of: u8, port: u16) -> (TableKey, Change) {
        let address = "2001:db8::17".parse().unwrap();
        let client = Client { prefix: Prefix96([0; 12]), address, port };
        (table(of), Change::Created { port: MappedPort(port), client })
    }

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    /// Begins what is next, which has these tables.
    fn begin(records: &mut FleetRecords, number: u64, tables: &[u8]) {
        let expected: Vec<_> = tables.iter().map(|&number| table(number)).collect();
        assert_eq!(records.next_tables(), Some(expected));
        records.begin(number);
        assert_eq!(records.next_tables(), None);
    }

    #[test]
    fn what_comes_meanwhile_is_recorded_next() {
        let mut records = records();
        assert_eq!((records.next_number(), records.durable(), records.next_tables()), (1, 0, None));
        records.take(at(1), &[created(7, 2000)]);
        records.take(at(2), &[]);
        begin(&mut records, 1, &[7]);
        for port in [2001, 2002] {
            records.take(at(3), &[created(8, port)]);
        }
        assert_eq!((records.next_number(), records.durable(), records.len()), (4, 0, 3));
        let events = records.recorded(1);
        assert_eq!((events.len(), events[0].at, events[0].table), (1, at(1), table(7)));
        assert_eq!(records.durable(), 1);
        begin(&mut records, 2, &[8]);
        assert_eq!(records.recorded(2).len(), 2);
        assert_eq!((records.durable(), records.len()), (3, 0));
    }

    #[test]
    fn more_tables_than_a_transaction_takes_are_several_parts_of_one_batch() {
        let mut records = records();
        let changes: Vec<_> = (0..=150).map(|number| created(number, 2000)).collect();
        records.take(at(1), &changes);
        for (number, tables, durable) in [(1, TABLES_MAX, 0), (2, 51, 1)] {
            assert_eq!(records.next_tables().unwrap().len(), tables);
            records.begin(number);
            assert_eq!(records.recorded(number).len(), tables);
            assert_eq!(records.durable(), durable);
        }
        records.take(at(1), &vec![created(7, 2000); PART_MAX + 1]);
        records.begin(3);
        assert_eq!((records.recorded(3).len(), records.len()), (PART_MAX, 1));
    }

    #[test]
    fn what_was_not_recorded_of_a_lost_table_is_taken_back() {
        let mut records = records();
        records.take(at(1), &[created(7, 2000), created(8, 2000)]);
        begin(&mut records, 1, &[7, 8]);
        records.take(at(2), &[created(7, 2001), created(8, 2001)]);
        let mut back = Vec::new();
        records.lost(table(7), true, &mut back);
        let ports: Vec<_> = back
            .iter()
            .map(|(table, change)| match change {
                Change::Deleted { port, .. } => (*table, port.0),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ports, [(table(7), 2001), (table(7), 2000)]);
        back.clear();
        records.refused(1, &mut back);
        assert_eq!(back, []);
        // What is not lost comes before what came later.
        begin(&mut records, 2, &[8]);
        assert_eq!((records.durable(), records.recorded(2).len()), (0, 1));
        begin(&mut records, 3, &[8]);
        assert_eq!(records.recorded(3).len(), 1);
        assert_eq!(records.durable(), 2);
    }

    /// A confirmation was refused while nobody knows of the record before.
    #[test]
    fn what_may_have_been_recorded_is_taken_back_when_it_is_known() {
        let begun = || {
            let (mut records, mut back) = (records(), Vec::new());
            records.take(at(1), &[created(7, 2000)]);
            records.begin(1);
            records.lost(table(7), false, &mut back);
            assert_eq!(back, []);
            (records, back)
        };
        let (mut done, mut back) = begun();
        done.watched(1);
        done.claim_watched(table(7), &mut back);
        assert_eq!((done.recorded(1).len(), back.len()), (1, 0));

        let (mut answered, _) = begun();
        assert_eq!(answered.recorded(1).len(), 1);

        let (mut refused, mut back) = begun();
        refused.refused(1, &mut back);
        assert_eq!((refused.len(), back.len()), (0, 1));

        let (mut watched, mut back) = begun();
        watched.claim_watched(table(7), &mut back);
        assert_eq!(back.len(), 1);
        watched.refused(1, &mut back);
        assert_eq!((watched.len(), back.len()), (0, 1));
    }
}
