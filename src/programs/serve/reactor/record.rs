//! How a reactor records changes: in the journal, and then in the event log. Where it cannot, it
//! keeps what was not written, and tries again.

use std::io;

use super::{ChangeRecorder, Reactor, Shard, waits_for};
use crate::disk::storage::JournalState;
use crate::handoff::change::Now;
use crate::handoff::stats::{Counter, DropReason};
use crate::kernel::backend::Backend;
use crate::programs::serve::deliver::Deliverer;
use crate::programs::serve::held::HeldReply;
use crate::programs::serve::journal_trouble::JournalTrouble;

impl<B: Backend, S: Shard> Reactor<B, S> {
    /// Writes the changes of a batch to the journal, and their events to the log's queue, where
    /// there is room for them: see [`Reactor::begin`]. Returns whether the journal has all changes
    /// up to now.
    pub(super) fn record(&mut self, now: Now) -> bool {
        let changes = &self.outbox.changes;
        if let Some(fleet) = &mut self.fleet {
            if !changes.is_empty() {
                fleet.take(now, changes);
            }
            return true;
        }
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

    /// Keeps a reply until its record is durable. A reply whose record is not even written is
    /// dropped: the NAT64 will ask again.
    pub(super) fn hold(&mut self, reply: HeldReply, written: bool) {
        if !written || !self.held.hold(reply) {
            self.stats.count_drop(DropReason::JournalUnavailable);
        }
    }

    /// Sends the replies whose record has become durable.
    pub(super) fn release(&mut self) -> io::Result<()> {
        if let Some(fleet) = &self.fleet {
            return self.release_up_to(fleet.durable());
        }
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let failed = journal.state() == JournalState::Failed;
        let durable = journal.durable().0;
        self.release_up_to(durable)?;
        if let Some(names) = self.names.as_mut().filter(|_| failed) {
            names.drop_held();
        }
        if failed {
            let given_up = self.held.give_up() as u64;
            self.stats.count_drops(DropReason::JournalUnavailable, given_up);
            self.deliverer.iter_mut().for_each(Deliverer::drop_held);
        }
        Ok(())
    }

    pub(super) fn release_up_to(&mut self, durable: u64) -> io::Result<()> {
        if let Some(names) = &mut self.names {
            names.release(durable);
        }
        if let Some(deliverer) = &mut self.deliverer {
            deliverer.release(durable, self.clock.monotonic());
        }
        while let Some(held) = self.held.next(durable) {
            if let Some(fleet) = &self.fleet
                && !fleet.may_answer(self.clock.monotonic(), held.table())
            {
                self.stats.count_drop(DropReason::FleetAway);
                continue;
            }
            let HeldReply { return_path, to, payload, .. } = held;
            self.stats.add(Counter::Replies, 1);
            self.backend.send_copy(return_path, &payload, to)?;
        }
        Ok(())
    }

    /// The last record whose changes may be announced.
    pub(super) fn durable(&self) -> u64 {
        match &self.fleet {
            Some(fleet) => fleet.durable(),
            None => self.journal.as_ref().map_or(u64::MAX, |journal| journal.durable().0),
        }
    }
}
