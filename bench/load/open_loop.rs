//! The open loop: requests at a rate, whether they are answered or not.
//!
//! It never sleeps, so that it is not late.

use std::time::Duration;

use crate::generator::{Load, Mix, Sending};
use crate::nat64::{Answer, Kind};
use crate::tally::{SLICE, Tally};

/// How long the loop waits for the last replies, in nanoseconds.
const GRACE: u64 = 300_000_000;
/// Datagrams that are sent, and NAT64s whose replies are read, at most, before the loop does the
/// other. In a flood, reading from all NAT64s takes longer than sending.
const CATCH_UP_MAX: u32 = 4;
/// Requests that are later than this, in nanoseconds, are not sent, and counted.
const BEHIND_MAX: u64 = 5_000_000;
/// With plain requests, the loop comes round within a few microseconds. Where it takes longer than
/// this, in nanoseconds, something else had its core, and the latency of what was under way then
/// says nothing about the server.
const ROUND_MAX: u64 = 50_000;

/// A part of an open loop.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Requests a second.
    pub rate: f64,
    pub time: Duration,
}

impl Load {
    /// Sends at the rate of each phase, one after the other, and returns a tally for each, by the
    /// time of sending. The NAT64s take turns, a datagram each. Latency counts from when a request
    /// was due, in a flood from when it was sent. A request is not sent when it is more than
    /// [`BEHIND_MAX`] late, or when its phase is over.
    pub fn open(&mut self, Mix(mix): Mix, sending: Sending, phases: &[Phase]) -> Vec<Tally> {
        let begin = self.now();
        let counts = Counts::new(sending, phases);
        let cursor = Cursor::default();
        OpenLoop { load: self, mix, sending, phases, begin, counts, cursor }.run()
    }
}

/// Where an open loop is.
#[derive(Default)]
struct Cursor {
    phase: usize,
    /// Sent in this phase.
    datagrams: u64,
    requests: usize,
    /// The NAT64 that sent last, and the one whose replies were read last.
    sender: usize,
    reader: usize,
}

/// A run of an open loop. Times are in nanoseconds since its begin.
struct OpenLoop<'a> {
    load: &'a mut Load,
    mix: &'a [Kind],
    sending: Sending,
    phases: &'a [Phase],
    begin: u64,
    counts: Counts,
    cursor: Cursor,
}

impl OpenLoop<'_> {
    fn run(mut self) -> Vec<Tally> {
        let mut before = 0;
        loop {
            let now = self.now();
            if now > self.counts.end() + GRACE {
                break;
            }
            if now - before > ROUND_MAX {
                self.counts.undisturbed_since = now;
            }
            before = now;
            self.send(now);
            let waiting = self.receive();
            if self.cursor.phase == self.phases.len() && !waiting {
                break;
            }
        }
        self.load.nat64s.iter_mut().for_each(|nat64| nat64.asked.clear());
        self.counts.finish()
    }

    fn now(&self) -> u64 {
        self.load.now() - self.begin
    }

    /// Sends what is due.
    fn send(&mut self, mut now: u64) {
        for _ in 0..CATCH_UP_MAX {
            match self.send_next(now) {
                Some(later) => now = later,
                None => break,
            }
        }
    }

    /// Sends, or gives up, one datagram, or goes on to the next phase. Returns the time after that,
    /// or none if nothing is due.
    fn send_next(&mut self, now: u64) -> Option<u64> {
        let phase = self.cursor.phase;
        let rate = self.phases.get(phase)?.rate;
        let each = self.sending.each();
        let interval = each as f64 / rate * 1e9;
        let due = self.counts.begin_of(phase) + (self.cursor.datagrams as f64 * interval) as u64;
        let end = self.counts.ends[phase];
        let tally = &mut self.counts.tallies[phase];
        if now >= end {
            let rest = end.saturating_sub(due) as f64 / interval;
            tally.unsent += rest as u64 * each as u64;
            (self.cursor.phase, self.cursor.datagrams) = (phase + 1, 0);
            return Some(now);
        }
        if due > now {
            return None;
        }
        self.cursor.datagrams += 1;
        let datagrams = self.cursor.datagrams;
        if now - due > BEHIND_MAX {
            tally.unsent += each as u64;
            return Some(now);
        }
        let strangers = &mut self.load.strangers;
        if !strangers.is_empty() && datagrams.is_multiple_of(2) {
            let number = (datagrams / 2) as usize % strangers.len();
            strangers[number].send(each);
            tally.sent_by_strangers += each as u64;
            return Some(now);
        }
        self.send_at(if self.sending == Sending::Flood { now } else { due });
        Some(self.now())
    }

    /// Sends a datagram of the next NAT64, whose latency counts from `at`.
    fn send_at(&mut self, at: u64) {
        let each = self.sending.each();
        let Load { nat64s, burst, .. } = &mut *self.load;
        self.cursor.sender = (self.cursor.sender + 1) % nat64s.len();
        let nat64 = &mut nat64s[self.cursor.sender];
        burst.clear();
        for _ in 0..each {
            let kind = self.mix[self.cursor.requests % self.mix.len()];
            nat64.ask(kind, self.begin + at, burst);
            self.cursor.requests += 1;
        }
        burst.send(&nat64.control, each);
        self.counts.sent(self.cursor.phase, at, each as u64);
    }

    /// Reads the replies of the next NAT64s that wait for some. Returns whether any waits.
    fn receive(&mut self) -> bool {
        let mut waiting = 0;
        for _ in 0..self.load.nat64s.len() {
            self.cursor.reader = (self.cursor.reader + 1) % self.load.nat64s.len();
            if self.load.nat64s[self.cursor.reader].asked.is_empty() {
                continue;
            }
            waiting += 1;
            if waiting > CATCH_UP_MAX {
                break;
            }
            self.receive_of(self.cursor.reader);
        }
        waiting > 0
    }

    fn receive_of(&mut self, number: usize) {
        if !self.load.inbox.receive(&self.load.nat64s[number].control, false) {
            return;
        }
        let now = self.load.now();
        let Load { nat64s, inbox, .. } = &mut *self.load;
        let nat64 = &mut nat64s[number];
        for reply in inbox.replies() {
            match nat64.answered(reply) {
                Answer::To(asked, before) => {
                    // A table is answered in order: what was asked before this is lost.
                    nat64.asked.drain(..before);
                    self.counts.answered(asked.at - self.begin, now.saturating_sub(asked.at));
                }
                Answer::Late => self.counts.late(self.cursor.phase),
            }
        }
    }
}

/// The tallies of the phases.
struct Counts {
    tallies: Vec<Tally>,
    /// When each phase ends.
    ends: Vec<u64>,
    /// Whether requests are plain: then latencies of those before `undisturbed_since` are left out.
    plain: bool,
    undisturbed_since: u64,
}

impl Counts {
    fn new(sending: Sending, phases: &[Phase]) -> Self {
        let mut end = 0;
        let ends = phases.iter().map(|phase| {
            end += phase.time.as_nanos() as u64;
            end
        });
        let ends = ends.collect();
        let tallies = phases.iter().map(|phase| Tally::of_slices(phase.time)).collect();
        Self { tallies, ends, plain: sending == Sending::Plain, undisturbed_since: 0 }
    }

    fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn begin_of(&self, phase: usize) -> u64 {
        if phase == 0 { 0 } else { self.ends[phase - 1] }
    }

    fn slice_of(&self, phase: usize, at: u64) -> usize {
        ((at - self.begin_of(phase)) / SLICE.as_nanos() as u64) as usize
    }

    fn sent(&mut self, phase: usize, at: u64, requests: u64) {
        let slice = self.slice_of(phase, at);
        self.tallies[phase].sent += requests;
        self.tallies[phase].slices[slice].sent += requests;
    }

    /// Counts the answer to a request that was sent at `at`.
    fn answered(&mut self, at: u64, latency: u64) {
        let phase = self.ends.iter().take_while(|&&end| end <= at).count();
        let slice = self.slice_of(phase, at);
        let tally = &mut self.tallies[phase];
        if self.plain && at < self.undisturbed_since {
            tally.answered += 1;
            tally.disturbed += 1;
        } else {
            tally.count(latency);
        }
        let slice = &mut tally.slices[slice];
        slice.answered += 1;
        slice.slowest = slice.slowest.max(latency);
    }

    fn late(&mut self, phase: usize) {
        let last = self.tallies.len() - 1;
        self.tallies[phase.min(last)].late += 1;
    }

    /// What has no answer by now is lost.
    fn finish(mut self) -> Vec<Tally> {
        for tally in &mut self.tallies {
            tally.lost = tally.sent.saturating_sub(tally.answered + tally.late);
        }
        self.tallies
    }
}
