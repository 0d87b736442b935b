//! Replay: takes changes from the threads that read files to the tables. Each [`Replay`] has a
//! thread of its own, so that files are read and checked while tables are filled; where there is
//! one thread for all, it does that in between. Where a shard has several, its tables are dealt out
//! among them.
//!
//! Tables are filled one after another, each at once, and as many at a time as there are cores: so
//! the caches hold those that are being filled, and each has its size from the beginning. Hence
//! the changes of a table are collected: in a snapshot until the next table begins, in segments,
//! which have all tables in turn, until everything was read, or there is no more memory for them.
//!
//! The changes of a table stay in order: they stand in the files of one shard, which one thread
//! reads, and go to one [`Replay`] by one queue. A table may stand in the files of two shards, as
//! a reactor that ends by itself takes its socket out of the group; it still goes to one
//! [`Replay`]. Only checked records come here.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Replay;
use crate::disk::journal::{Growth, Record, changes_in, growth_in};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// Octets of changes that are collected in memory by all dealers together: those of two million
/// entries. For more, those of the tables that have the most are sent before the others.
const COLLECTED_OCTETS: usize = 128 << 20;
/// Octets of changes that were sent and are not yet replayed, at most, but for the last batch.
const SENT_OCTETS: usize = 64 << 20;
/// Octets of changes that wait in memory until their tables are needed, at most: those of two
/// million entries.
const WAITING_OCTETS: usize = 128 << 20;
/// Octets of changes of one table at which they are sent: more than a full table's in a snapshot,
/// where authenticators have the usual length.
const TABLE_OCTETS: usize = 8 << 20;
/// Octets at which tables are sent together, where there are many small ones.
const TOGETHER_OCTETS: usize = 128 << 10;
/// Octets of memory that the changes of a table take beside themselves.
const TABLE_OVERHEAD: usize = 192;

/// Changes at one time.
struct Run {
    time: Timestamp,
    /// Where they are in the octets of their table.
    octets: Range<usize>,
}

/// Changes of one table, encoded as they were, in order.
#[derive(Default)]
pub struct TableChanges {
    runs: Vec<Run>,
    octets: Vec<u8>,
}

impl TableChanges {
    fn add(&mut self, time: Timestamp, octets: &[u8]) {
        let start = self.octets.len();
        self.octets.extend_from_slice(octets);
        let end = self.octets.len();
        match self.runs.last_mut() {
            Some(last) if last.time == time => last.octets.end = end,
            _ => self.runs.push(Run { time, octets: start..end }),
        }
    }

    /// Octets of memory.
    fn size(&self) -> usize {
        self.octets.len() + size_of_val(&self.runs[..]) + TABLE_OVERHEAD
    }

    /// What becomes of the table.
    pub fn growth(&self) -> Growth {
        growth_in(&self.octets)
    }

    /// All of them, with the time of each.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, Change)> {
        self.runs.iter().flat_map(|Run { time, octets }| {
            changes_in(&self.octets[octets.clone()]).map(|change| (*time, change))
        })
    }

    fn replay(&self, table: TableKey, to: &mut (impl Replay + ?Sized)) {
        let Growth { entries, addresses, .. } = self.growth();
        if let Ok(entries @ 1..) = usize::try_from(entries) {
            to.expect(table, entries, addresses);
        }
        self.iter().for_each(|(time, change)| to.replay(time, table, &change));
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.octets.clear();
    }
}

/// Tables that go to a [`Replay`] together.
#[derive(Default)]
struct DealtTables {
    tables: Vec<(TableKey, TableChanges)>,
    /// Octets of memory.
    size: usize,
}

/// Tables that were sent.
pub(super) struct SentTables<'a> {
    all: &'a Dealt,
    sent: DealtTables,
}

impl SentTables<'_> {
    fn replay(&mut self, to: &mut (impl Replay + ?Sized)) {
        for (table, changes) in &mut self.sent.tables {
            let size = changes.size();
            if self.all.may_wait(size) {
                let Some(now) = to.later(*table, std::mem::take(changes)) else { continue };
                self.all.do_not_wait(size);
                *changes = now;
            }
            changes.replay(*table, to);
        }
    }
}

impl Drop for SentTables<'_> {
    fn drop(&mut self) {
        let mut work = self.all.work();
        work.sent -= self.sent.size;
        work.empty.extend(self.sent.tables.drain(..).map(|(_, mut changes)| {
            changes.clear();
            changes
        }));
        drop(work);
        self.all.less.notify_all();
    }
}

/// Where the tables of one [`Replay`] go.
pub(super) enum To<'a, 'b> {
    /// To the thread that takes them from this queue.
    Thread(Sender<SentTables<'a>>),
    /// At once to itself.
    Itself(Mutex<&'b mut dyn Replay>),
}

/// The queue of one [`Replay`]. What is in all of them is bounded by [`SENT_OCTETS`].
pub(super) fn queue<'a>() -> (Sender<SentTables<'a>>, Receiver<SentTables<'a>>) {
    mpsc::channel()
}

/// What all dealers share.
pub(super) struct Dealt {
    /// The part that each table was dealt to: the same for all dealers.
    parts: Mutex<HashMap<TableKey, usize>>,
    /// Whether a block of the pool was among the tables.
    has_names: AtomicBool,
    /// Octets of changes that wait until their tables are needed.
    waiting: AtomicUsize,
    work: Mutex<Work>,
    /// There is less work than there was.
    less: Condvar,
}

#[derive(Default)]
struct Work {
    /// How many may replay beside those that do.
    free: usize,
    /// Octets that were sent, and not yet replayed.
    sent: usize,
    /// What was replayed, to be filled again: memory that the kernel need not clear.
    empty: Vec<TableChanges>,
}

/// One of those that replay at the same time.
struct ReplayTurn<'a>(&'a Dealt);

impl Drop for ReplayTurn<'_> {
    fn drop(&mut self) {
        self.0.work().free += 1;
        self.0.less.notify_all();
    }
}

impl Dealt {
    /// To be replayed on so many cores.
    pub fn new(cores: usize) -> Self {
        let work = Mutex::new(Work { free: cores.max(1), ..Work::default() });
        let (parts, has_names, waiting, less) = Default::default();
        Self { parts, has_names, waiting, work, less }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as `is_too_much`.
    fn work_unless(&self, is_too_much: impl FnMut(&mut Work) -> bool) -> MutexGuard<'_, Work> {
        self.less.wait_while(self.work(), is_too_much).unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> ReplayTurn<'_> {
        self.work_unless(|work| work.free == 0).free -= 1;
        ReplayTurn(self)
    }

    /// Replays until all dealers are dropped.
    pub fn replay_all(&self, queue: Receiver<SentTables<'_>>, to: &mut impl Replay) {
        for mut tables in queue {
            let _turn = self.turn();
            tables.replay(to);
        }
    }

    /// Whether changes of this size may wait until they are needed. Then they do, unless that is
    /// taken back by [`Dealt::do_not_wait`].
    fn may_wait(&self, size: usize) -> bool {
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let may = before + size <= WAITING_OCTETS;
        if !may {
            self.do_not_wait(size);
        }
        may
    }

    fn do_not_wait(&self, size: usize) {
        self.waiting.fetch_sub(size, Ordering::Relaxed);
    }

    /// Whether a block of the pool was dealt.
    pub fn has_names(&self) -> bool {
        self.has_names.load(Ordering::Relaxed)
    }

    /// Where nothing is dealt for a while.
    pub fn give_back_memory(&self) {
        self.work().empty = Vec::new();
    }
}

/// Deals out what one thread reads.
pub(super) struct Dealer<'a, 'b, 'c, F> {
    /// One for each part: those of the first shard, then those of the second, and so on.
    to: &'c [To<'a, 'b>],
    /// Parts of each shard.
    parts: usize,
    shard_of: F,
    /// A table is dealt to the part that had got the fewest octets from the dealer that sent it
    /// first.
    all: &'a Dealt,
    /// What is collected, and its octets of memory.
    tables: HashMap<TableKey, TableChanges>,
    collected: usize,
    collected_max: usize,
    /// The table of the last record, if that was in a snapshot.
    in_snapshot: Option<TableKey>,
    /// For each part what is sent next.
    next: Vec<DealtTables>,
    /// For each part the octets of all that was dealt to it.
    dealt: Vec<u64>,
}

impl<'a, 'b, 'c, F: Fn(Ipv4Addr) -> usize> Dealer<'a, 'b, 'c, F> {
    pub fn new(
        to: &'c [To<'a, 'b>],
        parts: usize,
        all: &'a Dealt,
        dealers: usize,
        shard_of: F,
    ) -> Self {
        Self {
            to,
            parts,
            shard_of,
            all,
            tables: HashMap::new(),
            collected: 0,
            collected_max: COLLECTED_OCTETS / dealers,
            in_snapshot: None,
            next: to.iter().map(|_| DealtTables::default()).collect(),
            dealt: vec![0; to.len()],
        }
    }

    /// Deals all changes of a record.
    pub fn deal(&mut self, record: &Record<'_>, is_snapshot: bool) {
        for (table, octets) in record.runs() {
            if let Some(ended) = self.in_snapshot.filter(|&last| !is_snapshot || last != table) {
                self.end_table(ended);
            }
            self.in_snapshot = is_snapshot.then_some(table);
            if self.collect(table, record.time, octets) >= TABLE_OCTETS {
                self.end_table(table);
            }
        }
        if self.collected > self.collected_max {
            self.end_tables(self.collected_max / 2);
        }
    }

    /// Sends what is left.
    pub fn finish(mut self) {
        self.end_tables(0);
        (0..self.next.len()).for_each(|part| self.send(part));
    }

    /// Returns the octets of memory of all that was collected for this table.
    fn collect(&mut self, table: TableKey, time: Timestamp, octets: &[u8]) -> usize {
        let mut before = None;
        let changes = self.tables.entry(table).and_modify(|changes| before = Some(changes.size()));
        let empty = || self.all.work().empty.pop().unwrap_or_default();
        let changes = changes.or_insert_with(empty);
        changes.add(time, octets);
        self.collected += changes.size() - before.unwrap_or(0);
        changes.size()
    }

    /// Ends the largest tables until no more than these octets are collected: the largest first,
    /// so that all parts end at about the same time.
    fn end_tables(&mut self, octets: usize) {
        let sizes = self.tables.iter().map(|(&table, changes)| (Reverse(changes.size()), table));
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort_unstable();
        for (_, table) in sizes {
            if self.collected <= octets {
                break;
            }
            self.end_table(table);
        }
    }

    /// Nothing more is collected for this table before what there is goes to its part.
    fn end_table(&mut self, table: TableKey) {
        let Some(changes) = self.tables.remove(&table) else { return };
        let size = changes.size();
        self.collected -= size;
        let part = self.part_of(table);
        self.dealt[part] += size as u64;
        let next = &mut self.next[part];
        next.size += size;
        next.tables.push((table, changes));
        if next.size >= TOGETHER_OCTETS {
            self.send(part);
        }
    }

    fn send(&mut self, part: usize) {
        let sent = std::mem::take(&mut self.next[part]);
        if sent.tables.is_empty() {
            return;
        }
        // Nothing waits here where it goes to itself.
        self.all.work_unless(|work| work.sent >= SENT_OCTETS).sent += sent.size;
        let mut tables = SentTables { all: self.all, sent };
        match &self.to[part] {
            // A receiver ends early only by a panic, which its scope passes on.
            To::Thread(queue) => drop(queue.send(tables)),
            To::Itself(to) => {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                tables.replay(&mut **to);
            }
        }
    }

    fn part_of(&self, table: TableKey) -> usize {
        let mut all = self.all.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if table.is_block() {
            self.all.has_names.store(true, Ordering::Relaxed);
        }
        *all.entry(table).or_insert_with(|| {
            let first = (self.shard_of)(table.nat64) * self.parts;
            let parts = first..first + self.parts;
            parts.min_by_key(|&part| self.dealt[part]).unwrap_or(first)
        })
    }
}
