//! Hosts that leave, one or all at nearly the same time, and what has to hold then: nothing is
//! given to a host that has said that it leaves, and nothing is passed on to one that has ended
//! when it might.

use std::collections::{BTreeMap, BTreeSet};

use nat64handoff::handoff::ownership::{Cause, Claim, HostId, HostProgress, HostRun, Transaction};

use super::{Event, MS, Request, SECOND, TICK, Time, World};
use crate::engine::Done;
use crate::kind::Kind;

/// How long a host that leaves waits to be followed.
const FOLLOWED_WITHIN: Time = 3 * SECOND;
/// How often it looks.
const LOOKS: Time = 10 * MS;
/// What was passed on to it before may arrive so much later.
const ECHO: Time = 50 * MS;
/// After so long all others know that a host leaves.
const KNOWN_AFTER: Time = 2 * TICK + 50 * MS;

/// Who leaves, and who did.
#[derive(Default)]
pub struct Leavers {
    since: BTreeMap<HostRun, Time>,
    /// What was given already, by who gave it and the number: it may be sent once more.
    given: BTreeSet<(HostRun, u64)>,
    /// Runs that are followed, and wait for what comes late.
    echoes: BTreeSet<HostRun>,
    /// Runs that have ended when they were followed, by host, and how much was done then, and how
    /// many runs had begun.
    followed: BTreeMap<HostId, (HostRun, usize, u64)>,
}

impl World {
    /// A fault: this host leaves, or all do.
    pub(super) fn some_leave(&mut self, id: HostId) {
        if !self.dice.chance(2500) {
            return self.leave(id);
        }
        for host in 0..self.places.len() {
            let after = self.dice.below(400) as Time * MS;
            self.push(after, Event::Leave(HostId(host as u32)));
        }
    }

    /// It ends when it is followed, or after a while in which it is at the others' service.
    pub(super) fn leave(&mut self, id: HostId) {
        let (now, left) = (self.now, super::FAULTS_UNTIL.saturating_sub(self.now));
        let place = &mut self.places[id.0 as usize];
        let local = place.local(now);
        let Some(host) = place.host.as_mut().filter(|_| left > 0) else { return };
        host.leave(local);
        let run = host.run;
        self.leavers.since.entry(run).or_insert(now);
        self.engine.leaving.insert(run);
        self.say(|| format!("{run:?} leaves"));
        match self.dice.chance(5000) {
            true => self.push(LOOKS, Event::Leaves(run, now + left.min(FOLLOWED_WITHIN))),
            false => self.push(left.min(6 * SECOND), Event::Leaves(run, 0)),
        }
    }

    /// It looks whether it may end.
    pub(super) fn leaves(&mut self, run: HostRun, until: Time) {
        let mut is_followed = false;
        self.with(run.host, Some(run), |host, now, _, _| is_followed = host.may_end(now));
        let was_followed = self.leavers.echoes.remove(&run);
        if is_followed && was_followed {
            let done = self.engine.log.len();
            self.leavers.followed.insert(run.host, (run, done, self.runs));
            self.push(0, Event::End(run));
        } else if is_followed {
            self.leavers.echoes.insert(run);
            self.push(ECHO, Event::Leaves(run, until.max(self.now + ECHO)));
        } else if self.now >= until {
            self.leavers.followed.remove(&run.host);
            self.push(0, Event::End(run));
        } else {
            self.push(LOOKS, Event::Leaves(run, until));
        }
    }

    pub(super) fn says_progress(&mut self, run: HostRun, progress: Option<HostProgress>) {
        let Some(progress) = progress else { return };
        for to in (0..self.places.len()).map(|to| HostId(to as u32)) {
            if to != run.host && !self.is_cut(run.host, to) {
                // Later than some of what it passed on after that, and sooner than other.
                let after = 100 + self.number * 7919 % 1000;
                self.push(after, Event::Progressed(to, run, progress));
            }
        }
    }

    /// Whether all hosts hear what the others say.
    fn all_hear(&self) -> bool {
        ![Kind::CutFromHosts, Kind::Pause].iter().any(|&kind| self.has(kind))
    }

    /// Who leaves is given nothing, as soon as that may be known.
    pub(super) fn judge_gift(&mut self, run: HostRun, transaction: &Transaction) {
        let Transaction::Claim { claim: Claim { owner, cause: Cause::Given, by }, .. } =
            transaction
        else {
            return;
        };
        let is_new = self.leavers.given.insert(*by);
        // One that was killed before could not say it.
        let is_there = |run: &&HostRun| {
            self.places[run.host.0 as usize].host.as_ref().is_some_and(|host| host.run == **run)
        };
        let since = Some(owner).filter(is_there).and_then(|owner| self.leavers.since.get(owner));
        let since = since.map(|since| self.now - since);
        if is_new && self.all_hear() && since.is_some_and(|since| since > KNOWN_AFTER) {
            self.fail(format!("{run:?} gives to {owner:?}, which leaves"));
        }
    }

    fn place_is_empty(&self, host: HostId) -> bool {
        self.places[host.0 as usize].host.is_none()
    }

    /// Nothing is passed on to a host that has ended when nothing was to come any more.
    pub(super) fn judge_passed(&mut self, by: Option<HostRun>, to: HostId, request: &Request) {
        let passed = request.passed.filter(|_| self.all_hear());
        let ended = self.leavers.followed.get(&to).filter(|_| self.place_is_empty(to)).copied();
        let (Some(passed), Some(by), Some((run, done, runs))) = (passed, by, ended) else { return };
        // Who has begun since has seen nothing yet, or not all.
        if by.number > runs {
            return;
        }
        // What was being given to it, and was not done as the engine was away, nobody may know.
        let claim = passed.claimed.0.checked_sub(1).map(|at| at as usize);
        let claim = claim.filter(|&at| at < done).and_then(|at| self.engine.log.get(at));
        if matches!(claim, Some(Done::Claimed(_, claim)) if claim.owner == run) {
            self.fail(format!("{run:?} has ended, and {request:?} is passed on to it"));
        }
    }
}
