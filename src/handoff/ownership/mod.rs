//! [`Ownership`]: which host of a cell answers for a table, when several hosts have the same
//! service address and share their tables through an engine.
//!
//! One host owns a table: it alone makes and deletes entries of it, and answers. Each change is
//! recorded in the engine before it is announced, on the condition that the table is owned still:
//! so what two hosts do to a table can never mix, whatever they believe. All hosts watch what is
//! recorded, and have every table; so another one goes on where the owner is lost.
//!
//! - A host that is asked about a table that nobody has, or whose owner was not heard for
//!   [`OwnershipLimits::gone_after`], claims it, and answers when it has seen its claim in what it
//!   watches: then it has seen all that was recorded before. One that was taken a short time ago is
//!   not taken again for twice as long each time.
//! - Asked about another's table, it passes the request on, and the owner answers directly.
//! - An owner to which nearly all requests come through one other host gives the table to that one:
//!   it stops, records what it changed, and only then puts the other's name there. A host that
//!   leaves gives all of them away (`giving`).
//!
//! Nothing here depends on what time it is, and only one thing on how fast time passes: an owner
//! that has lost its table and does not know it may still answer. Its answers are right as long as
//! nobody deletes what it knows; but for that nobody has a port, where that was given since. So it
//! answers nothing that it could not confirm within [`OwnershipLimits::silent_after`], and who took
//! the table deletes nothing for [`OwnershipLimits::keeps_all`], which is longer. An answer that is
//! decided, and leaves the host later than that, as the process was stopped in between, is like one
//! that the network delays.
//!
//! The caller sends what [`ToDo::Send`] says, applies what it watches to the tables that it does
//! not own, and keeps all that is not recorded apart from what is. Not here: who may ask at all
//! (`identity`), what is in a table (`table`).

mod asked;
mod cell_live;
mod datagram;
mod giving;
mod live_part;
mod octets;
mod stand;
mod transaction;
mod ways;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::handoff::entry::TableKey;

pub use asked::{PassedOn, Unanswerable, WhoAnswers};
pub use cell_live::CellLive;
pub use datagram::{HOST_DATAGRAM_HEADER, HostDatagram, HostDropReason, HostWord, PassedRequest};
pub use giving::HostProgress;
use giving::Leaving;
pub use live_part::{LivePart, WANTED_AT_ONCE, WantedTables};
use stand::{Mine, Stand, TableStand};
pub use transaction::{
    Cause, Claim, HostId, HostRun, Outcome, Owned, Revision, TABLES_MAX, Transaction,
};
use ways::Ways;

/// How long what takes. All hosts of a cell have the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnershipLimits {
    /// An owner answers nothing that was not confirmed for so long.
    pub silent_after: Duration,
    /// Who took a table from another deletes nothing for so long. Longer than `silent_after`, by
    /// more than clocks of hosts differ in speed.
    pub keeps_all: Duration,
    /// How often an owner confirms its tables.
    pub confirm_each: Duration,
    /// A host that was not heard for so long is gone. It says that it is there three times as
    /// often.
    pub gone_after: Duration,
    /// Without an answer of the engine for so long, the network should send requests elsewhere.
    /// Shorter than `silent_after`.
    pub unready_after: Duration,
    /// How long requests are counted before a table is given away: it moves no more often.
    pub window: Duration,
    /// Fewer requests in that time say nothing.
    pub requests_least: u32,
    /// The part of the requests that has to come through another host for a table to be given to
    /// it.
    pub share: f64,
    /// Who leaves says so for so long before it gives any table away: so that others that leave as
    /// well are known. As long as two datagrams that say it are apart, and longer.
    pub leaves_said: Duration,
    /// Who leaves waits for hosts that were heard so short a time ago to see that its tables are
    /// others'.
    pub waits_for: Duration,
}

impl Default for OwnershipLimits {
    fn default() -> Self {
        Self {
            silent_after: Duration::from_secs(2),
            keeps_all: Duration::from_secs(3),
            confirm_each: Duration::from_millis(500),
            gone_after: Duration::from_millis(300),
            unready_after: Duration::from_secs(1),
            window: Duration::from_secs(10),
            requests_least: 20,
            share: 0.9,
            leaves_said: Duration::from_millis(200),
            waits_for: Duration::from_secs(1),
        }
    }
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDo {
    /// To send this to the engine, and to call [`Ownership::outcome`] once, with this number.
    Send { id: u64, transaction: Transaction },
    /// This run owns the table, which is as it was watched until now.
    Won(TableKey),
    /// This run does not own the table any more: what of it is not recorded is void, and what was
    /// watched is what it is.
    Lost(TableKey),
    /// The changes of the record with this number are recorded. What announces them may be sent
    /// where [`Ownership::may_answer`] says so still.
    Recorded(u64),
    /// They are not, and never will be: those of tables that are not lost are to be recorded with
    /// the next one, which has this number.
    Refused(u64),
}

#[derive(Debug)]
struct Sent {
    transaction: Transaction,
    /// When it was sent first.
    began: Duration,
}

#[derive(Debug, Clone, Copy)]
struct OtherHost {
    run: HostRun,
    heard: Duration,
}

/// The part of one run of a host in the ownership of all tables of a cell.
#[derive(Debug)]
pub struct Ownership {
    me: HostRun,
    limits: OwnershipLimits,
    tables: BTreeMap<TableKey, TableStand>,
    peers: BTreeMap<HostId, OtherHost>,
    sent: BTreeMap<u64, Sent>,
    next_id: u64,
    /// The record that is under way.
    recording: Option<u64>,
    next_record: u64,
    /// What was watched last.
    watched: Revision,
    /// Others are heard since then, without a pause.
    listens_since: Duration,
    ticked: Duration,
    /// The engine answered what was sent then.
    reached: Duration,
    leaving: Leaving,
}

impl Ownership {
    /// Of a run that begins now, and knows of no table yet.
    pub fn new(me: HostRun, limits: OwnershipLimits, now: Duration) -> Self {
        Self {
            me,
            limits,
            tables: BTreeMap::new(),
            peers: BTreeMap::new(),
            sent: BTreeMap::new(),
            next_id: 1,
            recording: None,
            next_record: 1,
            watched: Revision(0),
            listens_since: now,
            ticked: now,
            reached: now,
            leaving: Leaving::new(now),
        }
    }

    /// Another host was heard.
    pub fn heard(&mut self, now: Duration, run: HostRun) {
        if run.host != self.me.host {
            self.peers.insert(run.host, OtherHost { run, heard: now });
        }
    }

    /// How many tables are owned, or are about to be.
    pub fn owned(&self) -> usize {
        let is_mine = |table: &&TableStand| !matches!(table.stand, Stand::Other | Stand::Behind);
        self.tables.values().filter(is_mine).count()
    }

    /// Whether the network should send requests here.
    pub fn is_ready(&self, now: Duration) -> bool {
        !self.leaves() && self.is_there(now)
    }

    /// Whether it is to say to the others that it is there: not without the engine, so that one
    /// that reaches it claims what belongs to this run.
    pub fn is_there(&self, now: Duration) -> bool {
        now.saturating_sub(self.reached) < self.limits.unready_after
    }

    /// Whether an answer about a table may leave now: also one that waited for a record.
    pub fn may_answer(&self, now: Duration, table: TableKey) -> bool {
        let mine = self.tables.get(&table).and_then(|table| table.stand.owned());
        mine.is_some_and(|mine| mine.is_confirmed(now, &self.limits))
    }

    /// Whether changes of a table can be recorded, and so may be made.
    pub fn is_owned(&self, table: TableKey) -> bool {
        self.tables.get(&table).is_some_and(|table| table.stand.owned().is_some())
    }

    /// The same, by this claim.
    pub fn is_owned_by(&self, table: TableKey, claimed: Revision) -> bool {
        let mine = self.tables.get(&table).and_then(|table| table.stand.owned());
        mine.is_some_and(|mine| mine.claimed == claimed)
    }

    /// The tables that somebody has claimed, as far as that was watched, with the run of whoever
    /// has each.
    pub fn claimed_tables(&self) -> impl Iterator<Item = (TableKey, HostRun)> {
        let claim = |(&table, state): (&TableKey, &TableStand)| Some((table, state.claim?.1.owner));
        self.tables.iter().filter_map(claim)
    }

    /// A request about a table came, from a NAT64 that has proved itself; or from another host that
    /// passed it on.
    pub fn asked(
        &mut self,
        now: Duration,
        table: TableKey,
        passed: Option<PassedOn>,
        actions: &mut Vec<ToDo>,
    ) -> WhoAnswers {
        let state = self.tables.entry(table).or_default();
        let (claim, was_taken) = (state.claim, state.was_taken(now, &self.limits));
        match &mut state.stand {
            Stand::Mine(mine) => {
                mine.ways.count(passed.map(|passed| passed.by).filter(|&by| by != self.me.host));
                return match mine.confirmed {
                    None => WhoAnswers::Wait,
                    Some(_) if mine.is_confirmed(now, &self.limits) => {
                        WhoAnswers::Answer { deletes: now >= mine.deletes_from }
                    }
                    Some(_) => WhoAnswers::Silent(Unanswerable::Unconfirmed),
                };
            }
            Stand::Other => {}
            _ => return WhoAnswers::Wait,
        }
        // Who passed it on knows more.
        if passed.is_some_and(|passed| passed.claimed > self.watched) {
            return WhoAnswers::Wait;
        }
        let too_often = passed.is_some_and(|passed| passed.times >= PassedOn::TIMES_MAX);
        let (seen, cause) = match claim {
            None => (None, Cause::New),
            Some((revision, claim))
                if !self.is_gone(now, claim.owner)
                    || (claim.owner.host != self.me.host && was_taken) =>
            {
                return match too_often {
                    false => WhoAnswers::PassOn(claim.owner.host, revision),
                    true => WhoAnswers::Silent(Unanswerable::PassedOnTooOften),
                };
            }
            Some((revision, _)) => (Some(revision), Cause::Lost),
        };
        if self.leaves() {
            return match self.heirs(now).next() {
                None => WhoAnswers::Silent(Unanswerable::NobodyElse),
                Some(_) if too_often => WhoAnswers::Silent(Unanswerable::PassedOnTooOften),
                Some((host, _)) => WhoAnswers::PassOn(host, Revision(0)),
            };
        }
        let id = self.next_id;
        let claim = Claim { owner: self.me, cause, by: (self.me, id) };
        self.send(now, Transaction::Claim { table, seen, claim }, actions);
        self.set(table, Stand::Claiming(id));
        WhoAnswers::Wait
    }

    /// Whether a run is over, or was not heard for too long.
    fn is_gone(&self, now: Duration, run: HostRun) -> bool {
        if run.host == self.me.host {
            return run != self.me;
        }
        match self.peers.get(&run.host) {
            Some(peer) if now.saturating_sub(peer.heard) < self.limits.gone_after => {
                peer.run != run
            }
            // Nobody is heard by who does not listen.
            _ => now.saturating_sub(self.listens_since) >= self.limits.gone_after,
        }
    }

    fn set(&mut self, table: TableKey, stand: Stand) {
        self.tables.entry(table).or_default().stand = stand;
    }

    fn send(&mut self, now: Duration, transaction: Transaction, actions: &mut Vec<ToDo>) {
        let id = self.next_id;
        self.next_id += 1;
        actions.push(ToDo::Send { id, transaction: transaction.clone() });
        self.sent.insert(id, Sent { transaction, began: now });
    }

    /// Begins to record changes of these tables. Returns the number of the record; `None`, and
    /// nothing begins, where one is under way, or a table is not owned, or there are more than
    /// [`TABLES_MAX`].
    pub fn record(
        &mut self,
        now: Duration,
        tables: impl IntoIterator<Item = TableKey>,
        actions: &mut Vec<ToDo>,
    ) -> Option<u64> {
        if self.recording.is_some() {
            return None;
        }
        let tables: Option<Vec<Owned>> = tables
            .into_iter()
            .map(|table| Some((table, self.tables.get(&table)?.stand.owned()?.claimed)))
            .collect();
        let tables = tables.filter(|tables| (1..=TABLES_MAX).contains(&tables.len()))?;
        let number = self.next_record;
        self.next_record += 1;
        self.recording = Some(self.next_id);
        self.send(now, Transaction::Record { number, tables }, actions);
        Some(number)
    }

    /// The engine answered, or did not in time.
    pub fn outcome(&mut self, now: Duration, id: u64, outcome: Outcome, actions: &mut Vec<ToDo>) {
        let Some(Sent { transaction, began }) = self.sent.remove(&id) else { return };
        let is_confirm = matches!(transaction, Transaction::Confirm { .. });
        if outcome == Outcome::Unknown {
            // What only asks is asked anew, in its time.
            if !is_confirm {
                actions.push(ToDo::Send { id, transaction: transaction.clone() });
                self.sent.insert(id, Sent { transaction, began });
            }
            return;
        }
        self.reached = self.reached.max(began);
        if self.recording == Some(id) {
            self.recording = None;
        }
        match (transaction, outcome) {
            (Transaction::Claim { table, seen, claim }, outcome) => {
                self.claimed(table, seen, &claim, began, &outcome, actions);
            }
            (Transaction::Record { number, tables }, Outcome::Done(_)) => {
                self.confirmed(&tables, began);
                actions.push(ToDo::Recorded(number));
            }
            (Transaction::Record { number, tables }, Outcome::Refused(lost)) => {
                // Each wants the one before it to be there. No try of this one can be done any
                // more: what was claimed is not claimed again at that revision.
                self.next_record = number;
                self.lose(&tables, &lost, actions);
                actions.push(ToDo::Refused(number));
            }
            (Transaction::Confirm { tables }, Outcome::Done(_)) => self.confirmed(&tables, began),
            (Transaction::Confirm { tables }, Outcome::Refused(lost)) => {
                self.lose(&tables, &lost, actions);
            }
            (_, Outcome::Unknown) => {}
        }
        if is_confirm {
            self.confirm(now, actions);
        }
    }

    /// What became of a claim that this run put, for itself or for whom it gives the table to.
    fn claimed(
        &mut self,
        table: TableKey,
        seen: Option<Revision>,
        claim: &Claim,
        began: Duration,
        outcome: &Outcome,
        actions: &mut Vec<ToDo>,
    ) {
        let Some(state) = self.tables.get_mut(&table) else { return };
        match (&state.stand, outcome) {
            (Stand::Claiming(id), Outcome::Done(at)) if claim.by.1 == *id => {
                // One that was not kept to be watched has another's behind it.
                let is_over = *at <= self.watched;
                state.stand = if is_over { Stand::Other } else { Stand::Claimed(*at, began) };
            }
            (Stand::Claiming(id), _) if claim.by.1 == *id => {
                state.stand = state.stand_after(seen);
            }
            (Stand::Giving(claimed), Outcome::Refused(lost)) => {
                let was = (table, *claimed);
                self.lose(&[was], lost, actions);
            }
            // That it was given is known when it is watched.
            _ => {}
        }
    }

    fn confirmed(&mut self, tables: &[Owned], at: Duration) {
        for &(table, revision) in tables {
            let mine = self.tables.get_mut(&table).and_then(|table| table.stand.owned_mut());
            if let Some(mine) = mine.filter(|mine| mine.claimed == revision) {
                mine.confirmed = mine.confirmed.max(Some(at));
            }
        }
    }

    /// The engine says that some of these tables have another claim.
    fn lose(&mut self, tables: &[Owned], lost: &[TableKey], actions: &mut Vec<ToDo>) {
        for (table, was) in tables.iter().filter(|(table, _)| lost.contains(table)) {
            let Some(state) = self.tables.get_mut(table) else { continue };
            let claimed = match &state.stand {
                Stand::Mine(mine) | Stand::Stopping(mine, _) => mine.claimed,
                Stand::Giving(claimed) => *claimed,
                _ => continue,
            };
            // It may have been claimed again since.
            if claimed == *was {
                state.stand = state.stand_after(Some(claimed));
                actions.push(ToDo::Lost(*table));
            }
        }
    }

    /// What was done in the cell up to this revision was watched, and was applied: with a claim, if
    /// it was one. Each is told once, in the order of revisions.
    pub fn watched(
        &mut self,
        now: Duration,
        revision: Revision,
        claim: Option<(TableKey, Claim)>,
        actions: &mut Vec<ToDo>,
    ) {
        debug_assert!(revision >= self.watched);
        self.watched = revision;
        let Some((table, claim)) = claim else { return };
        let state = self.tables.entry(table).or_default();
        let was_mine = state.claim.is_some_and(|(_, before)| before.owner == self.me);
        if was_mine && claim.owner != self.me {
            self.leaving.went(now, revision);
        }
        state.claimed(now, revision, claim, self.limits.window);
        let confirmed = match &state.stand {
            // Its own says so, or is refused.
            Stand::Claiming(_) if claim.owner != self.me => return,
            Stand::Claiming(id) if claim.by == (self.me, *id) => {
                self.sent.get(id).map(|sent| sent.began)
            }
            Stand::Claimed(at, began) if *at == revision => Some(*began),
            Stand::Mine(_) | Stand::Stopping(..) | Stand::Giving(_) => {
                actions.push(ToDo::Lost(table));
                None
            }
            _ => None,
        };
        if claim.owner != self.me {
            state.stand = Stand::Other;
            return;
        }
        let keeps_all = match claim.cause {
            Cause::Lost => self.limits.keeps_all,
            Cause::New | Cause::Given => Duration::ZERO,
        };
        let (deletes_from, ways) = (now + keeps_all, Ways::since(now));
        state.stand = Stand::Mine(Mine { claimed: revision, deletes_from, confirmed, ways });
        actions.push(ToDo::Won(table));
        if confirmed.is_none() {
            let tables = vec![(table, revision)];
            self.send(now, Transaction::Confirm { tables }, actions);
        }
    }

    /// As [`Ownership::watched`], where what was to be watched is not kept any more: all claims
    /// that there are at this revision. All tables are as they were read with them.
    pub fn read_anew(
        &mut self,
        now: Duration,
        revision: Revision,
        claims: impl IntoIterator<Item = (TableKey, Revision, Claim)>,
        actions: &mut Vec<ToDo>,
    ) {
        let mut claims: Vec<_> = claims.into_iter().collect();
        claims.sort_unstable_by_key(|&(_, revision, _)| revision);
        for (table, at, claim) in claims {
            let known = self.tables.get(&table).and_then(|table| table.claim);
            if known.is_none_or(|(revision, _)| revision != at) {
                self.watched(now, at.max(self.watched), Some((table, claim)), actions);
            }
        }
        self.watched = revision;
    }

    /// To be called three times within [`OwnershipLimits::gone_after`]. `is_recorded`: whether
    /// nothing of a table waits to be recorded, or to be answered.
    pub fn tick(
        &mut self,
        now: Duration,
        is_recorded: impl Fn(TableKey) -> bool,
        actions: &mut Vec<ToDo>,
    ) {
        // Without the engine the others may be as silent as this run is.
        let paused = now.saturating_sub(self.ticked) >= self.limits.gone_after / 2;
        if paused || !self.is_there(now) {
            self.listens_since = now;
        }
        self.ticked = now;
        let owned = self.tables.iter().filter(|(_, state)| state.stand.owned().is_some());
        for table in owned.map(|(&table, _)| table).collect::<Vec<_>>() {
            self.stop_if_due(now, table);
            self.give_if_stopped(now, table, &is_recorded, actions);
        }
        let has_confirm = |sent: &Sent| matches!(sent.transaction, Transaction::Confirm { .. });
        if !self.sent.values().any(has_confirm) {
            self.confirm(now, actions);
        }
    }

    /// Confirms the tables that were not for [`OwnershipLimits::confirm_each`], the longest ago
    /// first; or, where there is none, asks the engine whether it is there.
    fn confirm(&mut self, now: Duration, actions: &mut Vec<ToDo>) {
        let is_due = |at: Duration| now.saturating_sub(at) >= self.limits.confirm_each;
        let mut due: Vec<_> = self
            .tables
            .iter()
            .filter_map(|(&table, state)| Some((table, state.stand.owned()?)))
            .filter(|(_, mine)| mine.confirmed.is_none_or(is_due))
            .map(|(table, mine)| (mine.confirmed, (table, mine.claimed)))
            .collect();
        if due.is_empty() && !is_due(self.reached) {
            return;
        }
        due.sort_unstable();
        due.truncate(TABLES_MAX);
        let tables = due.into_iter().map(|(_, owned)| owned).collect();
        self.send(now, Transaction::Confirm { tables }, actions);
    }
}
