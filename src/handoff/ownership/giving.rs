//! Tables that are given to other hosts: where requests come through another one, and all of them
//! when this one leaves.
//!
//! A host that leaves says so first, for [`OwnershipLimits::leaves_said`]; so hosts that leave at
//! the same time know of each other, and none gives anything to another. It may end when it has no
//! table, and all others have seen that: up to then they pass requests on to it. Each host says, a
//! few times within [`OwnershipLimits::gone_after`], up to which revision it has watched; what it
//! has passed on by what it knew before arrives before that, as far as the network keeps the order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::stand::{Stand, TableStand};
use super::transaction::{Cause, Claim, HostId, HostRun, Revision, Transaction};
use super::{OtherHost, Ownership, OwnershipLimits, ToDo};
use crate::handoff::entry::TableKey;

/// How far a host is, as it says to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProgress {
    /// What was done up to this revision decides to whom it passes requests on.
    pub watched: Revision,
    /// It gives all its tables away, and wants none.
    pub leaves: bool,
}

#[derive(Debug, Clone, Copy)]
struct OtherProgress {
    run: HostRun,
    progress: HostProgress,
    heard: Duration,
}

/// What is known of hosts that leave, this one among them.
#[derive(Debug)]
pub(super) struct Leaving {
    /// This host leaves since then.
    since: Option<Duration>,
    /// The last claim by which a table of this run became another's, and when it was watched.
    went: (Revision, Duration),
    others: BTreeMap<HostId, OtherProgress>,
}

impl Leaving {
    pub(super) fn new(now: Duration) -> Self {
        Self { since: None, went: (Revision(0), now), others: BTreeMap::new() }
    }

    /// A table of this run became another's.
    pub(super) fn went(&mut self, now: Duration, revision: Revision) {
        self.went = (revision, now);
    }

    /// What this run of a host has said.
    fn progress(&self, run: HostRun) -> Option<HostProgress> {
        self.others.get(&run.host).filter(|other| other.run == run).map(|other| other.progress)
    }
}

impl Ownership {
    /// From now on all tables are given to others, and none is claimed.
    pub fn leave(&mut self, now: Duration) {
        self.leaving.since.get_or_insert(now);
    }

    pub(super) fn leaves(&self) -> bool {
        self.leaving.since.is_some()
    }

    /// Another host said how far it is.
    pub fn progressed(&mut self, now: Duration, run: HostRun, progress: HostProgress) {
        if run.host == self.me.host {
            return;
        }
        let HostProgress { mut watched, mut leaves } = progress;
        // What it said before may come later.
        if let Some(before) = self.leaving.progress(run) {
            (watched, leaves) = (watched.max(before.watched), leaves || before.leaves);
        }
        let progress = HostProgress { watched, leaves };
        self.leaving.others.insert(run.host, OtherProgress { run, progress, heard: now });
    }

    /// Whether any other host is there that may be given tables.
    pub fn hears_others(&self, now: Duration) -> bool {
        self.heirs(now).next().is_some()
    }

    /// The hosts that may be given tables: they were heard a short time ago, and do not leave.
    pub(super) fn heirs(&self, now: Duration) -> impl Iterator<Item = (HostId, HostRun)> {
        let heirs = self.peers.iter().filter(move |(_, peer)| self.is_heir(now, peer.run));
        heirs.map(|(&host, peer)| (host, peer.run))
    }

    fn is_heir(&self, now: Duration, run: HostRun) -> bool {
        let leaves = self.leaving.progress(run).is_some_and(|progress| progress.leaves);
        !leaves && !self.is_gone(now, run)
    }

    /// Whether this host leaves, has no table any more, and all others that were heard within
    /// [`OwnershipLimits::waits_for`] have seen that: no request is passed on to it any more.
    pub fn is_followed(&self, now: Duration) -> bool {
        let Leaving { since: Some(since), went: (went, seen), others } = &self.leaving else {
            return false;
        };
        let after = |at: Duration| now.saturating_sub(at);
        if self.owned() > 0 || after(*since) < self.limits.leaves_said {
            return false;
        }
        let is_there = |heard: Duration| after(heard) < self.limits.waits_for;
        // A version that does not say how far it is takes it for gone after that.
        let has_time = after(*seen) < self.limits.gone_after;
        let is_silent = |peer: &OtherHost| self.leaving.progress(peer.run).is_none();
        let is_unknown = |peer: &OtherHost| has_time && is_there(peer.heard) && is_silent(peer);
        let is_behind =
            |other: &OtherProgress| is_there(other.heard) && other.progress.watched < *went;
        !(self.peers.values().any(is_unknown) || others.values().any(is_behind))
    }

    /// Stops what is to be given to another.
    pub(super) fn stop_if_due(&mut self, now: Duration, table: TableKey) {
        let OwnershipLimits { window, requests_least, share, leaves_said, .. } = self.limits;
        let Some(TableStand { stand: Stand::Mine(mine), .. }) = self.tables.get_mut(&table) else {
            return;
        };
        // Who gets it may delete at once.
        if now < mine.deletes_from {
            return;
        }
        let since = self.leaving.since;
        let gives_all = since.is_some_and(|since| now.saturating_sub(since) >= leaves_said);
        let most = mine.ways.most();
        let to = match mine.ways.prevailing(now, window, requests_least, share) {
            prevailing @ Some(_) => prevailing,
            None if gives_all => most,
            None => None,
        };
        let is_heir =
            |host: &HostId| self.peers.get(host).is_some_and(|peer| self.is_heir(now, peer.run));
        let any = || self.heirs(now).next().map(|(host, _)| host);
        let to = to.filter(is_heir).or_else(|| gives_all.then(any).flatten());
        let Some(to) = to else { return };
        let Some(state) = self.tables.get_mut(&table) else { return };
        if let Stand::Mine(mine) = std::mem::take(&mut state.stand) {
            state.stand = Stand::Stopping(mine, to);
        }
    }

    /// Gives what has stopped, and is recorded; or goes on with it, where who was to get it is
    /// gone, or leaves.
    pub(super) fn give_if_stopped(
        &mut self,
        now: Duration,
        table: TableKey,
        is_recorded: impl Fn(TableKey) -> bool,
        actions: &mut Vec<ToDo>,
    ) {
        let Some(TableStand { stand, .. }) = self.tables.get_mut(&table) else { return };
        if !matches!(stand, Stand::Stopping(..)) {
            return;
        }
        let Stand::Stopping(mine, to) = std::mem::take(stand) else { return };
        let peer = self.peers.get(&to).filter(|peer| self.is_heir(now, peer.run)).copied();
        let next = match peer {
            None => Stand::Mine(mine),
            Some(_) if !is_recorded(table) => Stand::Stopping(mine, to),
            Some(OtherHost { run: owner, .. }) => {
                let seen = Some(mine.claimed);
                let claim = Claim { owner, cause: Cause::Given, by: (self.me, self.next_id) };
                self.send(now, Transaction::Claim { table, seen, claim }, actions);
                Stand::Giving(mine.claimed)
            }
        };
        self.set(table, next);
    }
}
