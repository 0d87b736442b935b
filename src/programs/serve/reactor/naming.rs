//! Names of peers, and addresses of the pool, in a reactor's turn.

use std::time::Duration;

use super::{FIRST_EVERY, FIRST_MAX, RETRY_EVERY, Reactor, Shard, waits_for};
use crate::handoff::change::Now;
use crate::handoff::server::Batch;
use crate::handoff::stats::Counter;
use crate::kernel::backend::Backend;
use crate::programs::serve::names::PeerNameWriter;

impl<B: Backend, S: Shard> Reactor<B, S> {
    /// Clients that come get addresses of the pool, which are to be recorded.
    pub(super) fn give_names(&mut self) {
        if let Some(names) = &mut self.names {
            names.give(&mut self.outbox.changes);
        }
    }

    /// Names are those of the entries before any of that is announced.
    pub(super) fn name(&mut self, now: Now, written: bool, durable: u64) {
        let changes = &self.outbox.changes;
        if let Some(names) = self.names.as_mut().filter(|_| written && !changes.is_empty()) {
            names.follow(now.monotonic, changes, waits_for(self.journal.as_ref(), durable));
        }
    }

    /// How soon [`Reactor::tend_names`] has something to do.
    pub(super) fn names_due(&self) -> Option<Duration> {
        if self.first.is_empty() {
            return self.names.as_ref().and_then(PeerNameWriter::due);
        }
        Some(if self.first_waits { RETRY_EVERY } else { FIRST_EVERY })
    }

    /// Addresses of the pool end that nobody is to have, or that nobody has had for long.
    pub(super) fn tend_names(&mut self, batch: &Batch) {
        self.first_waits = batch.frozen.is_some();
        if self.first_waits {
            return;
        }
        let changes = &mut self.outbox.changes;
        let events = self.log_room.saturating_sub(changes.len()).min(FIRST_MAX);
        let rest = self.first.len().saturating_sub(events);
        self.stats.add(Counter::PoolUnnamed, (self.first.len() - rest) as u64);
        changes.extend(self.first.drain(rest..).rev());
        if let Some(names) = self.names.as_mut().filter(|_| self.first.is_empty()) {
            let events = self.log_room.saturating_sub(changes.len());
            names.take_back(batch.now.monotonic, events, changes);
        }
    }
}
