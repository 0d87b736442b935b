//! The load: NAT64s that ask, as fast as they are answered (closed) or at a rate (open).
//!
//! One thread, on a core of its own. In the closed loop it sleeps while the server is behind, and so takes
//! nothing from it; in the open loop it never sleeps, so that it is not late.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::nat64::{Answer, Kind, Nat64};
use crate::net::{Burst, FLOODED, Inbox, JOINED};

/// Latencies beyond this count as this, in nanoseconds.
const LATENCY_MAX: u64 = 10_000_000_000;
/// How long an open loop waits for the last replies.
const GRACE: Duration = Duration::from_millis(300);
/// How long it may take until all clients are known.
const FILL_MAX: Duration = Duration::from_secs(30);
/// The most datagrams that an open loop sends before it looks for replies.
const CATCH_UP_MAX: u32 = 4;
/// An open loop that is further behind than this gives up what it has not sent, and says so.
const BEHIND_MAX: Duration = Duration::from_millis(5);
/// An open loop of plain requests comes round within a few microseconds. Where it does not, something else had its
/// core, and what was under way says nothing about who answers.
const ROUND_MAX: Duration = Duration::from_micros(50);

/// How requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Each in a datagram of its own.
    Plain,
    /// [`JOINED`] in one, by UDP_SEGMENT.
    Joined,
    /// [`FLOODED`] in one: what costs the load least.
    Flood,
}

impl Sending {
    /// How many requests a datagram has.
    pub fn each(self) -> usize {
        match self {
            Sending::Plain => 1,
            Sending::Joined => JOINED,
            Sending::Flood => FLOODED,
        }
    }
}

/// A part of an open loop: so many requests a second, for so long.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    pub rate: f64,
    pub time: Duration,
}

/// What is asked, again and again: in this order, by each NAT64.
#[derive(Debug, Clone, Copy)]
pub struct Mix<'a>(pub &'a [Kind]);

pub const KNOWN: Mix<'static> = Mix(&[Kind::Known]);
pub const NEW: Mix<'static> = Mix(&[Kind::New]);

/// What a load was answered.
#[derive(Debug, Clone)]
pub struct Tally {
    pub sent: u64,
    /// By NAT64s that nobody knows; in no other number.
    pub sent_by_strangers: u64,
    pub answered: u64,
    pub lost: u64,
    /// Of those that are not lost: answered when they had been given up.
    pub late: u64,
    /// Not sent at their time, as the load was too slow.
    pub unsent: u64,
    /// Answered, but in no latency: an open loop did not run when it should have looked for these.
    pub disturbed: u64,
    pub elapsed: Duration,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
    /// What was answered in each [`SLICE`], by when it was sent.
    pub slices: Vec<Slice>,
}

/// A part of an open loop's time.
pub const SLICE: Duration = Duration::from_millis(5);
const SLICE_NANOS: u64 = SLICE.as_nanos() as u64;

/// What became of the requests that were sent in a [`SLICE`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Slice {
    pub sent: u64,
    pub answered: u64,
    /// In nanoseconds.
    pub slowest: u64,
}

impl Tally {
    fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 2).expect("bounds");
        Tally {
            sent: 0,
            sent_by_strangers: 0,
            answered: 0,
            lost: 0,
            late: 0,
            unsent: 0,
            disturbed: 0,
            elapsed: Duration::ZERO,
            latency,
            slices: Vec::new(),
        }
    }

    fn of_phase(phase: &Phase) -> Tally {
        let slices =
            vec![Slice::default(); phase.time.as_nanos().div_ceil(SLICE.as_nanos()) as usize];
        Tally { elapsed: phase.time, slices, ..Tally::new() }
    }

    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    fn count(&mut self, nanoseconds: u64) {
        self.answered += 1;
        self.latency.saturating_record(nanoseconds.max(1));
    }
}

pub struct Load {
    pub nat64s: Vec<Nat64>,
    /// They ask, too, in half of a flood's datagrams.
    pub strangers: Vec<Stranger>,
    burst: Burst,
    inbox: Inbox,
    begin: Instant,
}

impl Load {
    pub fn new(nat64s: Vec<Nat64>) -> Load {
        let (burst, inbox) = (Burst::default(), Inbox::new());
        Load { nat64s, strangers: Vec::new(), burst, inbox, begin: Instant::now() }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Makes all NAT64s, and all of their known clients, known.
    pub fn fill(&mut self) {
        self.nat64s.iter().for_each(Nat64::introduce);
        let known = self.nat64s[0].known();
        let clients = u64::from(known) * self.nat64s.len() as u64;
        // Both are powers of 2, so that each NAT64 has as many turns.
        let burst = burst_of(self.nat64s.len(), Sending::Plain).min(known as usize);
        let tally = self.in_bursts(burst, KNOWN, Sending::Plain, clients, FILL_MAX);
        assert_eq!(tally.answered, clients, "{} were lost", tally.lost);
        self.nat64s.iter().for_each(Nat64::check_ports);
    }

    /// Two bursts of each NAT64 are under way: when the replies to one are there, the next one is sent.
    /// Ends when at least `requests` were sent, or after `time`, and when all are answered or given up.
    pub fn closed(&mut self, mix: Mix, sending: Sending, requests: u64, time: Duration) -> Tally {
        self.in_bursts(burst_of(self.nat64s.len(), sending), mix, sending, requests, time)
    }

    fn in_bursts(
        &mut self,
        burst: usize,
        mix: Mix,
        sending: Sending,
        requests: u64,
        time: Duration,
    ) -> Tally {
        let mut tally = Tally::new();
        let end = self.now() + time.as_nanos() as u64;
        let begin = self.now();
        let mut more = true;
        let mut turn = 0;
        while more || self.nat64s.iter().any(|nat64| !nat64.asked.is_empty()) {
            for number in 0..self.nat64s.len() {
                // The first two turns find nothing to wait for.
                if turn >= 2 {
                    let keep = if more { burst } else { 0 };
                    self.wait(number, keep, &mut tally);
                }
                let at = self.now();
                more = more && tally.sent < requests && at < end;
                if more {
                    let burst = (burst as u64).min(requests - tally.sent) as usize;
                    self.send(number, mix, burst, at, sending, &mut tally);
                }
            }
            turn += 1;
        }
        tally.elapsed = Duration::from_nanos(self.now() - begin);
        tally
    }

    fn send(
        &mut self,
        number: usize,
        Mix(mix): Mix,
        burst: usize,
        at: u64,
        sending: Sending,
        tally: &mut Tally,
    ) {
        self.burst.clear();
        let nat64 = &mut self.nat64s[number];
        for step in 0..burst {
            let kind = mix[(tally.sent as usize + step) % mix.len()];
            nat64.ask(kind, at, &mut self.burst);
        }
        let refused = self.burst.send(&nat64.control, sending.each());
        assert_eq!(refused, 0, "a socket that blocks takes all");
        tally.sent += burst as u64;
    }

    /// Until no more than `keep` requests have no reply. What does not come in time is lost.
    fn wait(&mut self, number: usize, keep: usize, tally: &mut Tally) {
        while self.nat64s[number].asked.len() > keep {
            if !self.receive(number, true, tally) {
                let asked = &mut self.nat64s[number].asked;
                tally.lost += asked.len() as u64;
                asked.clear();
            }
        }
    }

    /// Whether anything came.
    fn receive(&mut self, number: usize, wait: bool, tally: &mut Tally) -> bool {
        let nat64 = &mut self.nat64s[number];
        if !self.inbox.receive(&nat64.control, wait) {
            return false;
        }
        let now = self.begin.elapsed().as_nanos() as u64;
        for reply in self.inbox.replies() {
            match nat64.answered(reply) {
                Answer::To(asked, _) => tally.count(now.saturating_sub(asked.at)),
                Answer::Late => {
                    tally.late += 1;
                    tally.lost = tally.lost.saturating_sub(1);
                }
            }
        }
        true
    }

    /// Asks as often as each phase says, one after the other, whether it is answered or not; a tally for each, by
    /// when a request was sent. What is sent at once is a datagram; the NAT64s take turns. Latency counts from when
    /// a request was to be sent, in a flood from when it was sent. What would be sent more than [`BEHIND_MAX`] too
    /// late, or after its phase, is not sent.
    pub fn open(&mut self, Mix(mix): Mix, sending: Sending, phases: &[Phase]) -> Vec<Tally> {
        let each = sending.each();
        let mut tallies: Vec<Tally> = phases.iter().map(Tally::of_phase).collect();
        let mut ends = Vec::with_capacity(phases.len());
        let mut end = 0;
        for phase in phases {
            end += phase.time.as_nanos() as u64;
            ends.push(end);
        }
        let phase_of = |at: u64| ends.iter().take_while(|&&end| end <= at).count();
        let begin_of = |phase: usize| if phase == 0 { 0 } else { ends[phase - 1] };
        let slice_of = |phase: usize, at: u64| ((at - begin_of(phase)) / SLICE_NANOS) as usize;
        let (behind_max, round_max) = (BEHIND_MAX.as_nanos() as u64, ROUND_MAX.as_nanos() as u64);

        let begin = self.now();
        let (mut phase, mut datagrams, mut turn, mut asked_kinds) = (0, 0_u64, 0, 0);
        let (mut before, mut undisturbed_since, mut looked) = (0, 0, 0);
        loop {
            let mut now = self.now() - begin;
            if now > end + GRACE.as_nanos() as u64 {
                break;
            }
            if now - before > round_max {
                undisturbed_since = now;
            }
            before = now;
            for _ in 0..CATCH_UP_MAX {
                let Some(Phase { rate, .. }) = phases.get(phase) else { break };
                let interval = each as f64 / rate * 1e9;
                let due = begin_of(phase) + (datagrams as f64 * interval) as u64;
                let tally = &mut tallies[phase];
                if now >= ends[phase] {
                    let rest = ends[phase].saturating_sub(due) as f64 / interval;
                    tally.unsent += rest as u64 * each as u64;
                    (phase, datagrams) = (phase + 1, 0);
                    continue;
                }
                if due > now {
                    break;
                }
                datagrams += 1;
                if now - due > behind_max {
                    tally.unsent += each as u64;
                    continue;
                }
                if !self.strangers.is_empty() && datagrams.is_multiple_of(2) {
                    let number = (datagrams / 2) as usize % self.strangers.len();
                    self.strangers[number].send(each);
                    tally.sent_by_strangers += each as u64;
                    continue;
                }
                let at = if sending == Sending::Flood { now } else { due };
                turn = (turn + 1) % self.nat64s.len();
                let nat64 = &mut self.nat64s[turn];
                self.burst.clear();
                for _ in 0..each {
                    nat64.ask(mix[asked_kinds % mix.len()], begin + at, &mut self.burst);
                    asked_kinds += 1;
                }
                self.burst.send(&nat64.control, each);
                tally.sent += each as u64;
                tally.slices[slice_of(phase, at)].sent += each as u64;
                now = self.now() - begin;
            }
            // No more of them than are asked in a round: in a flood, looking at all of them takes longer than asking.
            let mut looks = 0;
            for _ in 0..self.nat64s.len() {
                looked = (looked + 1) % self.nat64s.len();
                let nat64 = &mut self.nat64s[looked];
                if nat64.asked.is_empty() {
                    continue;
                }
                looks += 1;
                if looks > CATCH_UP_MAX {
                    break;
                }
                if !self.inbox.receive(&nat64.control, false) {
                    continue;
                }
                let now = self.begin.elapsed().as_nanos() as u64;
                for reply in self.inbox.replies() {
                    match nat64.answered(reply) {
                        Answer::To(asked, before) => {
                            // A table is answered in order: what was asked before this is lost.
                            nat64.asked.drain(..before);
                            let at = asked.at - begin;
                            let phase = phase_of(at);
                            let tally = &mut tallies[phase];
                            let latency = now.saturating_sub(asked.at);
                            if sending == Sending::Plain && at < undisturbed_since {
                                tally.answered += 1;
                                tally.disturbed += 1;
                            } else {
                                tally.count(latency);
                            }
                            let slice = &mut tally.slices[slice_of(phase, at)];
                            slice.answered += 1;
                            slice.slowest = slice.slowest.max(latency);
                        }
                        Answer::Late => tallies[phase.min(phases.len() - 1)].late += 1,
                    }
                }
            }
            if phase == phases.len() && looks == 0 {
                break;
            }
        }
        self.nat64s.iter_mut().for_each(|nat64| nat64.asked.clear());
        for tally in &mut tallies {
            tally.lost = tally.sent.saturating_sub(tally.answered + tally.late);
        }
        tallies
    }
}

/// A NAT64 that nobody knows: it asks the same again and again, and looks at no answer.
pub struct Stranger {
    nat64: Nat64,
    burst: Burst,
}

impl Stranger {
    pub fn new(mut nat64: Nat64) -> Stranger {
        let mut burst = Burst::default();
        (0..FLOODED).for_each(|_| nat64.ask(Kind::Known, 0, &mut burst));
        nat64.asked.clear();
        Stranger { nat64, burst }
    }

    fn send(&mut self, each: usize) {
        debug_assert_eq!(each, FLOODED);
        self.burst.send(&self.nat64.control, each);
    }
}

/// Half of the requests that one of so many NAT64s has under way: 64 each, but not more than 1,024 in all
/// unless they are joined.
fn burst_of(nat64s: usize, sending: Sending) -> usize {
    match sending {
        Sending::Plain => (512 / nat64s).clamp(1, 32),
        Sending::Joined => (512 / nat64s).clamp(JOINED, 2 * JOINED),
        Sending::Flood => FLOODED,
    }
}
