//! Replay: takes changes from the threads that read files to the tables. Each [`Replay`] has a
//! thread of its own, so that files are read and checked while tables are filled; where there is
//! one thread for all, it does that in between. Where a shard has several, its tables are dealt out
//! among them.
//!
//! The changes of a table stay in order: they stand in the files of one shard, which one thread
//! reads, and go to one [`Replay`] by one queue. A table may stand in the files of two shards, as
//! a reactor that ends by itself takes its socket out of the group; it still goes to one
//! [`Replay`]. Only checked records come here.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use super::Replay;
use crate::disk::journal::{Record, changes_in, growth_in};
use crate::handoff::change::Timestamp;
use crate::handoff::entry::TableKey;

/// Octets of changes at which a batch is sent. The tables of a batch are filled one after another,
/// so that the caches hold the one that is being filled: hence many changes of each.
const BATCH_OCTETS: usize = 4 << 20;
/// The octets of all batches that are in memory at the same time, at most: batches are smaller
/// where there are many [`Replay`]s, but not smaller than [`BATCH_OCTETS_MIN`].
const ALL_OCTETS: usize = 64 << 20;
const BATCH_OCTETS_MIN: usize = 128 << 10;
/// Batches that wait for one [`Replay`]; others are being filled, and one replayed. A snapshot has
/// one table after another: were there less room, all threads but one would wait for the reader.
const BATCHES_MAX: usize = 1;

/// Changes of one table at one time.
struct Run {
    table: TableKey,
    time: Timestamp,
    /// Where they are in the octets of the batch.
    octets: Range<usize>,
}

/// Changes, encoded as they were: those of each table in order.
#[derive(Default)]
pub(super) struct ReplayBatch {
    runs: Vec<Run>,
    octets: Vec<u8>,
}

impl ReplayBatch {
    fn replay(&mut self, to: &mut (impl Replay + ?Sized)) {
        // Not another order than theirs within a table: the sort is stable.
        self.runs.sort_by_key(|run| run.table);
        for runs in self.runs.chunk_by(|one, other| one.table == other.table) {
            let table = runs[0].table;
            let (mut entries, mut clients) = (0, 0);
            for Run { octets, .. } in runs {
                let growth = growth_in(&self.octets[octets.clone()]);
                (entries, clients) = (entries + growth.0, clients + growth.1);
            }
            if entries > 0 {
                to.expect(table, entries, clients);
            }
            for Run { time, octets, .. } in runs {
                for change in changes_in(&self.octets[octets.clone()]) {
                    to.replay(*time, table, &change);
                }
            }
        }
        self.runs.clear();
        self.octets.clear();
    }
}

/// Where the batches of one [`Replay`] go.
pub(super) enum To<'a> {
    /// To the thread that takes them from this queue.
    Thread(SyncSender<ReplayBatch>),
    /// At once to itself.
    Itself(Mutex<&'a mut dyn Replay>),
}

/// The queue of one [`Replay`].
pub(super) fn queue() -> (SyncSender<ReplayBatch>, Receiver<ReplayBatch>) {
    mpsc::sync_channel(BATCHES_MAX)
}

/// What all dealers share.
#[derive(Default)]
pub(super) struct Dealt {
    /// The part that each table was dealt to: the same for all dealers.
    parts: Mutex<HashMap<TableKey, usize>>,
    /// Whether a block of the pool was among the tables.
    has_names: AtomicBool,
    /// Batches that were replayed, to be filled again: memory that the kernel need not clear.
    empty: Mutex<Vec<ReplayBatch>>,
}

impl Dealt {
    /// Replays until all dealers are dropped.
    pub fn replay_all(&self, queue: Receiver<ReplayBatch>, to: &mut impl Replay) {
        for batch in queue {
            self.replay(batch, to);
        }
    }

    fn replay(&self, mut batch: ReplayBatch, to: &mut (impl Replay + ?Sized)) {
        batch.replay(to);
        self.empty.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    /// Whether a block of the pool was dealt.
    pub fn has_names(&self) -> bool {
        self.has_names.load(Ordering::Relaxed)
    }

    /// Where nothing is dealt for a while.
    pub fn give_back_memory(&self) {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn empty_batch(&self) -> ReplayBatch {
        let empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner).pop();
        empty.unwrap_or_default()
    }
}

/// Deals out what one thread reads.
pub(super) struct Dealer<'a, 'b, F> {
    /// One for each part: those of the first shard, then those of the second, and so on.
    to: &'a [To<'b>],
    /// Parts of each shard.
    parts: usize,
    shard_of: F,
    /// A table is dealt to the part that had got the fewest octets from the dealer that met it
    /// first.
    all: &'a Dealt,
    /// The parts of the tables that this dealer met.
    known_parts: HashMap<TableKey, usize>,
    last: Option<(TableKey, usize)>,
    /// One for each part.
    batches: Vec<ReplayBatch>,
    dealt: Vec<u64>,
    /// Octets at which a batch is sent.
    batch_octets: usize,
}

impl<'a, 'b, F: Fn(Ipv4Addr) -> usize> Dealer<'a, 'b, F> {
    pub fn new(
        to: &'a [To<'b>],
        parts: usize,
        all: &'a Dealt,
        dealers: usize,
        shard_of: F,
    ) -> Self {
        let batches = to.iter().map(|_| ReplayBatch::default()).collect();
        let (dealt, known_parts) = (vec![0; to.len()], HashMap::new());
        // Each dealer fills one for each part.
        let batch_octets = ALL_OCTETS / (to.len() * (dealers + BATCHES_MAX + 1));
        let batch_octets = batch_octets.clamp(BATCH_OCTETS_MIN, BATCH_OCTETS);
        Self { to, parts, shard_of, all, known_parts, last: None, batches, dealt, batch_octets }
    }

    /// Deals all changes of a record.
    pub fn deal(&mut self, record: &Record<'_>) {
        for (table, octets) in record.runs() {
            let part = self.part_of(table);
            self.dealt[part] += octets.len() as u64;
            let batch = &mut self.batches[part];
            let start = batch.octets.len();
            batch.octets.extend_from_slice(octets);
            batch.runs.push(Run { table, time: record.time, octets: start..batch.octets.len() });
            if batch.octets.len() + size_of_val(&batch.runs[..]) >= self.batch_octets {
                self.send(part);
            }
        }
    }

    /// Sends what is left.
    pub fn finish(mut self) {
        (0..self.batches.len()).for_each(|part| self.send(part));
    }

    fn send(&mut self, part: usize) {
        if self.batches[part].runs.is_empty() {
            return;
        }
        let batch = std::mem::replace(&mut self.batches[part], self.all.empty_batch());
        match &self.to[part] {
            // A receiver ends early only by a panic, which its scope passes on.
            To::Thread(queue) => drop(queue.send(batch)),
            To::Itself(to) => {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                self.all.replay(batch, &mut **to);
            }
        }
    }

    fn part_of(&mut self, table: TableKey) -> usize {
        if let Some((_, part)) = self.last.filter(|&(last, _)| last == table) {
            return part;
        }
        let part = *self.known_parts.entry(table).or_insert_with(|| {
            let mut all = self.all.parts.lock().unwrap_or_else(PoisonError::into_inner);
            if table.is_block() {
                self.all.has_names.store(true, Ordering::Relaxed);
            }
            *all.entry(table).or_insert_with(|| {
                let first = (self.shard_of)(table.nat64) * self.parts;
                let parts = first..first + self.parts;
                parts.min_by_key(|&part| self.dealt[part]).unwrap_or(first)
            })
        });
        self.last = Some((table, part));
        part
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::disk::journal::{self, FileId, FileKind, Position, RecordNumber};
    use crate::handoff::change::Change;
    use crate::handoff::entry::MappedPort;

    const SHARDS: usize = 2;
    const PARTS: usize = 3;
    const TABLES: u8 = 30;
    const CHANGES: u16 = 20_000;

    fn shard_of(nat64: Ipv4Addr) -> usize {
        usize::from(nat64.octets()[3]) % SHARDS
    }

    /// Changes of all tables through each other, in records of several sizes: more than the batches
    /// hold.
    fn records(seal: journal::Seal) -> Vec<u8> {
        let changes: Vec<_> = (0..CHANGES)
            .flat_map(|number| {
                // Not each time in the same order, and sometimes several of one table in a row.
                let table = (u32::from(number).wrapping_mul(0x9e37_79b1) >> 16) as u8 % TABLES;
                let nat64 = Ipv4Addr::new(192, 0, 2, table);
                let table = TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 };
                (0..1 + number % 9).map(move |_| (table, Change::Used { port: MappedPort(number) }))
            })
            .collect();
        let mut octets = Vec::new();
        let mut position = Position { record: RecordNumber(1), event: 0 };
        for (index, changes) in changes.chunks(777).enumerate() {
            let time = Timestamp::from_micros(index as u64);
            journal::encode(&mut octets, seal, &mut position, RecordNumber(0), time, changes);
        }
        octets
    }

    #[test]
    fn each_table_is_replayed_in_order_and_in_one_part_of_its_shard() {
        let id = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 };
        let seal = id.seal(&[7; 16]);
        let octets = records(seal);
        let mut seen: Vec<Vec<(Timestamp, TableKey, Change)>> = vec![Vec::new(); SHARDS * PARTS];
        let mut expected = Vec::new();
        let all = Dealt::default();
        thread::scope(|scope| {
            let mut queues = Vec::new();
            for seen in &mut seen {
                let (sender, queue) = queue();
                queues.push(To::Thread(sender));
                let all = &all;
                scope.spawn(move || {
                    let mut see = |time: Timestamp, table: TableKey, change: &Change| {
                        seen.push((time, table, change.clone()));
                    };
                    all.replay_all(queue, &mut see);
                });
            }
            let mut dealer = Dealer::new(&queues, PARTS, &all, 1, shard_of);
            let mut rest = &octets[..];
            while !rest.is_empty() {
                let record = Record::decode(rest, seal).unwrap();
                let changes = record.changes();
                expected.extend(changes.map(|(table, change)| (record.time, table, change)));
                dealer.deal(&record);
                rest = &rest[record.length..];
            }
            dealer.finish();
        });
        assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), expected.len());
        for table in 0..TABLES {
            let nat64 = Ipv4Addr::new(192, 0, 2, table);
            let of = |changes: &[(Timestamp, TableKey, Change)]| -> Vec<_> {
                changes.iter().filter(|(_, key, _)| key.nat64 == nat64).cloned().collect()
            };
            let places: Vec<usize> =
                (0..seen.len()).filter(|&place| !of(&seen[place]).is_empty()).collect();
            assert_eq!(places.len(), 1, "{nat64}");
            assert_eq!(places[0] / PARTS, shard_of(nat64));
            assert_eq!(of(&seen[places[0]]), of(&expected));
        }
        // Every part had something to do.
        assert!(seen.iter().all(|seen| seen.len() > expected.len() / (4 * SHARDS * PARTS)));
    }

    #[test]
    fn a_table_that_several_deal_goes_to_one_part() {
        let seal = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 1 }.seal(&[7; 16]);
        let table = |last| {
            let nat64 = Ipv4Addr::new(192, 0, 2, last);
            TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 }
        };
        let all = Dealt::default();
        let deal = |queues: &[To<'_>], tables: &[u8]| {
            let used = |&last: &u8| (table(last), Change::Used { port: MappedPort(1024) });
            let changes: Vec<_> = tables.iter().map(used).collect();
            let mut octets = Vec::new();
            let mut position = Position { record: RecordNumber(1), event: 0 };
            let time = Timestamp::from_micros(0);
            journal::encode(&mut octets, seal, &mut position, RecordNumber(0), time, &changes);
            let mut dealer = Dealer::new(queues, PARTS, &all, 1, |_| 0);
            dealer.deal(&Record::decode(&octets, seal).unwrap());
            dealer.finish();
        };
        let mut seen: Vec<Vec<TableKey>> = vec![Vec::new(); PARTS];
        thread::scope(|scope| {
            let mut queues = Vec::new();
            for seen in &mut seen {
                let (sender, queue) = queue();
                queues.push(To::Thread(sender));
                let all = &all;
                scope.spawn(move || {
                    let mut see = |_: Timestamp, table: TableKey, _: &Change| seen.push(table);
                    all.replay_all(queue, &mut see);
                });
            }
            // Each alone would put the first that it meets into the first part.
            deal(&queues, &[1, 2, 3]);
            deal(&queues, &[3, 1, 2]);
        });
        seen.iter_mut().for_each(|seen| seen.sort());
        assert_eq!(seen, [1, 2, 3].map(|last| vec![table(last); 2]));
    }
}
