//! Changes on their way from files to those who replay them. Each [`Replay`] has a thread of its own, so that
//! reading and checking go on while tables are filled; and where a shard has several, the tables are dealt out
//! among them.
//!
//! The order of changes is kept for each table: it stands in the files of one shard, which one thread reads, and
//! goes to one [`Replay`] by one queue. Only what was checked comes here.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::Replay;
use crate::change::{TableKey, Timestamp};
use crate::journal::{Record, changes_in};

/// Octets of changes from which on a batch is sent off: it stays in a cache.
const BATCH_OCTETS: usize = 64 * 1024;
/// Batches that wait for one [`Replay`]. A snapshot has one table after another: so much must have room that a
/// few whole tables are in the queues, or all but one would wait for the reader.
const BATCHES_MAX: usize = 256;

/// Changes of one table at one time.
struct Run {
    table: TableKey,
    time: Timestamp,
    /// Where they end among the octets of the batch.
    end: usize,
}

/// Changes in order, encoded as they were.
#[derive(Default)]
pub(super) struct Batch {
    runs: Vec<Run>,
    octets: Vec<u8>,
}

impl Batch {
    fn replay(&self, to: &mut impl Replay) {
        let mut start = 0;
        for &Run { table, time, end } in &self.runs {
            for change in changes_in(&self.octets[start..end]) {
                to.replay(time, table, &change);
            }
            start = end;
        }
    }
}

/// The queue of one [`Replay`].
pub(super) fn queue() -> (SyncSender<Batch>, Receiver<Batch>) {
    mpsc::sync_channel(BATCHES_MAX)
}

/// Replays until all who deal are gone.
pub(super) fn replay_all(queue: Receiver<Batch>, to: &mut impl Replay) {
    queue.into_iter().for_each(|batch| batch.replay(to));
}

/// Deals out what one thread reads.
pub(super) struct Dealer<'a, F> {
    /// Of the first shard's, then the second's...
    queues: &'a [SyncSender<Batch>],
    /// ...of which each shard has so many.
    parts: usize,
    shard_of: F,
    /// Where the tables go, each where the fewest octets had gone by then.
    places: HashMap<TableKey, usize>,
    last: Option<(TableKey, usize)>,
    /// For each queue.
    batches: Vec<Batch>,
    dealt: Vec<u64>,
}

impl<'a, F: Fn(Ipv4Addr) -> usize> Dealer<'a, F> {
    pub fn new(queues: &'a [SyncSender<Batch>], parts: usize, shard_of: F) -> Self {
        let batches = queues.iter().map(|_| Batch::default()).collect();
        let dealt = vec![0; queues.len()];
        Self { queues, parts, shard_of, places: HashMap::new(), last: None, batches, dealt }
    }

    /// All changes of a record.
    pub fn deal(&mut self, record: &Record<'_>) {
        for (table, octets) in record.runs() {
            let place = self.place(table);
            self.dealt[place] += octets.len() as u64;
            let batch = &mut self.batches[place];
            batch.octets.extend_from_slice(octets);
            batch.runs.push(Run { table, time: record.time, end: batch.octets.len() });
            if batch.octets.len() >= BATCH_OCTETS {
                self.send(place);
            }
        }
    }

    /// Nothing more comes.
    pub fn finish(mut self) {
        (0..self.batches.len()).for_each(|place| self.send(place));
    }

    fn send(&mut self, place: usize) {
        let batch = std::mem::take(&mut self.batches[place]);
        // Whoever ends before us has panicked, which is passed on to who waits for its thread.
        drop(self.queues[place].send(batch));
    }

    fn place(&mut self, table: TableKey) -> usize {
        if let Some((_, place)) = self.last.filter(|&(last, _)| last == table) {
            return place;
        }
        let place = *self.places.entry(table).or_insert_with(|| {
            let first = (self.shard_of)(table.nat64) * self.parts;
            let places = first..first + self.parts;
            places.min_by_key(|&place| self.dealt[place]).unwrap_or(first)
        });
        self.last = Some((table, place));
        place
    }
}
