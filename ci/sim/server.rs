//! How the server gets time, ends, is started again, and is looked at.

use std::collections::BTreeSet;

use crate::host::{Host, Tables, client_address};
use crate::kind::Kind;
use crate::names;
use crate::people::Talker;
use crate::trace::Who;
use crate::verdict::{Property, Violation};
use crate::world::{Event, START_AGAIN, STEP_MAX, STEP_MIN, World, host_now};

impl World {
    /// The server has maybe something to do: it gets time when it has.
    pub fn wake_server(&mut self) {
        let sleeps = self.mutant.is(Kind::Pause) && self.mutant.was_paused;
        if self.state.dark || sleeps {
            return;
        }
        if !self.host.runs() {
            return;
        }
        let takes = self.dice.time(STEP_MIN, STEP_MAX);
        if self.state.step_at.is_some_and(|planned| planned <= self.now + takes) {
            return; // No earlier one can be.
        }
        let Some(due) = self.host.due() else { return };
        let at = (self.now + due.max(takes)).max(self.state.paused_until);
        if self.state.step_at.is_none_or(|planned| at < planned) {
            self.state.step_at = Some(at);
            self.at(at, Event::Step);
        }
    }

    /// It makes a step.
    pub fn step_server(&mut self) {
        if self.state.step_at != Some(self.now) {
            return; // Another one was planned since.
        }
        self.state.step_at = None;
        if self.now < self.state.paused_until {
            if !self.mutant.is(Kind::Pause) {
                self.wake_server();
            } // Else whatever was due in the pause is forgotten.
            return;
        }
        if self.dies_now() {
            return self.kill_now();
        }
        self.host.disk_failed = self.state.disk_failed;
        match self.host.step(self.now) {
            Ok(Some(actor)) => {
                self.note(Who::Server, 7, || format!("steps: {actor:?}"));
                self.carry_answers();
                self.check_names();
                if self.faults.has(Kind::PowerCut) {
                    self.judge.looked_at(&self.host.tables(), self.now);
                }
            }
            Ok(None) => {}
            Err(why) => return self.server_ended(&why),
        }
        if self.host.died() {
            self.note(Who::Server, 8, || "is killed within an operation of the disk".into());
            self.after(START_AGAIN, Event::Start);
            return;
        }
        self.wake_server();
    }

    /// Whether it is killed before this step.
    fn dies_now(&mut self) -> bool {
        let Some(left) = self.state.dies_after else { return false };
        self.state.is_dying |= self.host.waiting() > 0;
        if self.state.is_dying {
            self.state.dies_after = Some(left.saturating_sub(1));
        }
        self.state.is_dying && left == 0
    }

    fn kill_now(&mut self) {
        self.note(Who::Server, 2, || "is killed".into());
        self.end_server(Host::kill);
        let later = self.faults.dice(Kind::Kill).time(STEP_MIN, 4 * START_AGAIN);
        self.after(later, Event::Start);
    }

    /// It ends by itself: right only where its disk fails.
    fn server_ended(&mut self, why: &str) {
        self.note(Who::Server, 9, || format!("ends by itself: {why}"));
        if !self.state.disk_failed {
            self.breaks(Violation::new(Property::RunsOn, why));
        }
        self.host.stop(false);
        self.carry_answers();
        self.after(START_AGAIN, Event::Start);
    }

    /// Starts the server on what it left, if it does not run.
    pub fn start_server(&mut self) {
        if self.host.runs() || self.state.dark || self.state.closed {
            return;
        }
        self.host.set_time(host_now(self.now, &self.state));
        let reactors = self.state.reactors;
        self.state.delivered = self.host.waiting() as u64;
        self.note(Who::Server, reactors as u64, || format!("starts with {reactors} reactors"));
        if let Err(why) = self.host.start(reactors) {
            self.note(Who::Server, 10, || format!("cannot start: {why}"));
            if !self.host.died() && !self.state.disk_fails {
                return self.breaks(Violation::new(Property::RunsOn, why));
            }
            return self.after(START_AGAIN, Event::Start);
        }
        (self.state.sent, self.state.disk_failed) = (0, self.state.disk_fails);
        let lost = self.state.delivered - self.host.waiting() as u64;
        self.state.delivered -= lost; // The number of reactors is another.
        if self.host.died() {
            return self.after(START_AGAIN, Event::Start);
        }
        self.state.shards = reactors;
        if std::mem::take(&mut self.state.may_exceed) {
            self.state.found = self.host.used();
        }
        let after = self.host.tables();
        let kept = self.judge.check_kept(&self.state.before, &after);
        self.holds(kept);
        self.check_names();
        self.state.before.clear();
        self.wake_server();
    }

    /// Ends the server at once, by whatever ends it.
    pub fn end_server(&mut self, end: impl FnOnce(&mut Host)) {
        if self.host.runs() {
            // What an entry's place is given to may not be recorded, where the disk fails or waits.
            let may_lack = self.state.disk_failed || self.host.disk_waits;
            if may_lack && self.faults.has(Kind::Limits) {
                self.state.before = Tables::new();
            } else {
                self.state.before = self.host.tables();
                let log = self.log_as_told();
                let outcome = self.judge.read_log(&log, self.now);
                self.holds(outcome);
            }
            end(&mut self.host);
        }
        (self.state.dies_after, self.state.is_dying) = (None, false);
    }

    /// Ends the server as an operator does.
    pub fn stop_server(&mut self, succeeds: bool) {
        if !self.host.runs() {
            return;
        }
        // What it still has to do is done, so that all it leaves can be compared.
        let is_done = !self.host.disk_waits && self.host.settle(self.now).is_ok();
        self.carry_answers();
        let can_compare = is_done && !self.state.disk_failed && !self.host.is_to_die();
        self.state.before = if can_compare { self.host.tables() } else { Tables::new() };
        self.host.stop(succeeds);
        (self.state.dies_after, self.state.is_dying) = (None, false);
        self.carry_answers();
        if self.host.died() {
            self.state.before.clear();
        }
    }

    /// Whether nothing hinders the server, so that all of it can be looked at.
    fn is_well(&self) -> bool {
        let state = &self.state;
        let paused = self.now < state.paused_until;
        let waits = self.host.disk_waits || state.disk_fails || state.disk_failed;
        self.host.runs() && self.host.is_recording() && !(state.dark || paused || waits)
    }

    /// What must hold at any time.
    pub fn check(&mut self) {
        if !self.is_well() || self.host.is_to_die() {
            return;
        }
        if let Err(why) = self.host.settle(self.now) {
            return self.breaks(Violation::new(Property::RunsOn, why));
        }
        self.carry_answers();
        self.wake_server();
        let (tables, log) = (self.host.tables(), self.log_as_told());
        let outcome = self.judge.check(&log, &tables, self.now);
        self.holds(outcome);
        if let Some(what) = self.host.contradiction() {
            self.breaks(Violation::new(Property::BothWaysUnique, what));
        }
        let counts = self.host.counts();
        let outcome = names::check_all(&self.host.names(), &tables, counts.unnamed);
        self.holds(outcome);
        self.check_limits(tables.values().map(Vec::len).sum());
        self.check_counts();
    }

    /// No more is held than is allowed.
    ///
    /// Each shard has a journal of its own. A power cut may take from one of them that a table was
    /// given up, and leave in another that its place was given away: then both stand, as what was
    /// announced is kept, and are more than is allowed. So what the start after a power cut finds
    /// may be, if there are several journals; it becomes less, and never more.
    fn check_limits(&mut self, entries: usize) {
        let used = self.host.used();
        let found = &mut self.state.found;
        *found = (found.0.min(used.0), found.1.min(used.1));
        let nat64s_max = self.setup.nat64s_max.max(found.0);
        let entries_max = self.setup.entries_max.max(found.1);
        if used.0 > nat64s_max || used.1.max(entries) > entries_max {
            let what = format!("{entries} entries, counted as {used:?}");
            self.breaks(Violation::new(Property::WithinBudget, what));
        }
    }

    /// No name is wrong, at any instant.
    fn check_names(&mut self) {
        let may_lack_records = self.state.disk_failed || self.host.is_to_die();
        for (table, port, name) in self.host.names() {
            let client = self.host.client_at(table, port);
            let outcome = self.names.check((table, port, name), client, may_lack_records);
            self.holds(outcome);
        }
    }

    /// Each datagram was answered, or counted.
    fn check_counts(&mut self) {
        let counts = self.host.counts();
        let taken = self.state.delivered - self.host.waiting() as u64;
        if counts.datagrams != taken || counts.datagrams > self.state.sent + counts.dropped {
            let what = format!(
                "{taken} datagrams were taken; {counts:?}; {} payloads were sent",
                self.state.sent
            );
            self.breaks(Violation::new(Property::AnsweredOrCounted, what));
        }
    }

    /// All is well again: what is left of faults is over.
    pub fn well(&mut self) {
        self.note(Who::Network, 0, || "all faults are over".into());
        self.host.heal_disk();
        (self.host.disk_waits, self.state.disk_fails) = (false, false);
        self.state.paused_until = self.now;
        if self.state.disk_failed && self.host.runs() {
            // The operator starts it again, as the disk has failed.
            self.stop_server(false);
        }
        (self.state.dark, self.state.closed) = (false, false);
        self.start_server();
        for number in 0..self.talkers.len() {
            self.unban(number);
            self.talkers[number].answered = None;
        }
        self.newcomers();
    }

    /// Clients come that nobody has an entry for: so each NAT64 has something to ask.
    pub fn newcomers(&mut self) {
        let ways: BTreeSet<_> =
            self.talkers.iter().map(|talker| (talker.nat64, talker.local)).collect();
        for (nat64, local) in ways {
            for tcp in [false, true] {
                let address = client_address(nat64, 100 + self.talkers.len());
                self.nat64s[nat64].clients.insert(address);
                self.talkers.push(Talker::new(nat64, address, 41_000, local, tcp));
                self.after(STEP_MAX, Event::Speak(self.talkers.len() - 1));
            }
        }
    }

    /// The operator bans a client no more.
    pub fn unban(&mut self, number: usize) {
        let talker = &mut self.talkers[number];
        let address = talker.client.address;
        if talker.banned && !self.mutant.is(Kind::Ban) && self.host.unban(address) {
            talker.banned = false;
            self.note(Who::Operator, 2, || format!("bans client {number} no more"));
            self.wake_server();
        }
    }
}
