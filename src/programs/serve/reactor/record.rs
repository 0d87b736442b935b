//! How a reactor records changes: in the journal, and then in the event log. Where it cannot, it
//! keeps what was not written, and tries again.

use super::{ChangeRecorder, Reactor, Shard, waits_for};
use crate::disk::storage::JournalState;
use crate::handoff::change::Now;
use crate::kernel::backend::Backend;
use crate::programs::serve::journal_trouble::JournalTrouble;

impl<B: Backend, S: Shard> Reactor<B, S> {
    /// Writes the changes of a batch to the journal, and their events to the log's queue, where
    /// there is room for them: see [`Reactor::begin`]. Returns whether the journal has all changes
    /// up to now.
    pub(super) fn record(&mut self, now: Now) -> bool {
        let changes = &self.outbox.changes;
        let Some(log) = self.log.as_mut().filter(|_| !changes.is_empty()) else {
            return self.journal_state() == JournalState::Fine;
        };
        let written = match &mut self.journal {
            Some(journal) => journal.append(now.wall, changes).is_ok(),
            None => true,
        };
        for event in changes.iter().filter_map(|(table, change)| change.event(now.wall, *table)) {
            if written {
                log.send(event, &self.stats);
            } else {
                self.unlogged.push(event);
            }
        }
        log.publish();
        written
    }

    /// Looks whether there is what records changes.
    pub fn take_recorder(&mut self) {
        if let Some(ChangeRecorder { journal, log }) = (self.recorder)() {
            self.journal = journal;
            self.log = Some(log);
        }
    }

    /// Tries again to write what the journal had no room for, or to get a journal.
    pub(super) fn retry(&mut self) {
        if self.log.is_none() {
            self.take_recorder();
        }
        if let Some(journal) = &mut self.journal
            && journal.retry().is_ok()
        {
            self.log_unlogged();
        }
    }

    pub(super) fn log_unlogged(&mut self) {
        if let Some(names) = &mut self.names {
            let durable = self.journal.as_ref().map_or(u64::MAX, |journal| journal.durable().0);
            let now = self.clock.monotonic();
            names.follow_late(now, &self.unlogged, waits_for(self.journal.as_ref(), durable));
        }
        if let Some(log) = &mut self.log {
            self.unlogged.drain(..).for_each(|event| log.send(event, &self.stats));
            log.publish();
        }
    }

    /// Whether changes can be recorded.
    pub(super) fn is_recording(&mut self) -> bool {
        let journal = self.journal.as_mut();
        self.log.is_some() && journal.is_none_or(|journal| journal.state() == JournalState::Fine)
    }

    /// The journal's state, which is reported when it has changed. Without a journal it is fine;
    /// and so is one that is full, as far as what is in it is concerned.
    pub(super) fn journal_state(&mut self) -> JournalState {
        let Some(journal) = &mut self.journal else { return JournalState::Fine };
        let state = match journal.state() {
            JournalState::Full => JournalState::Fine,
            state => state,
        };
        if state != self.told {
            self.told = state;
            (self.on_trouble)(match state {
                JournalState::Fine | JournalState::Full => JournalTrouble::Over,
                JournalState::NoSpace => JournalTrouble::NoSpace(journal.cause()),
                JournalState::Failed => JournalTrouble::Failed(journal.cause()),
            });
        }
        state
    }
}
