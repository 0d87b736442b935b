//! The load: NAT64s that ask, here in a closed loop: as fast as they are answered.
//!
//! One thread, on a core of its own. It sleeps while the server is behind, and so takes nothing
//! from it.

use std::time::{Duration, Instant};

use crate::nat64::{Answer, Kind, Nat64};
use crate::net::{Burst, FLOODED, Inbox, JOINED};
use crate::tally::Tally;

/// The longest time until all clients are known.
const FILL_MAX: Duration = Duration::from_secs(30);

/// How requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Each in a datagram of its own.
    Plain,
    /// [`JOINED`] in a datagram, as GSO segments.
    Joined,
    /// [`FLOODED`] in a datagram: what costs the load least.
    Flood,
}

impl Sending {
    /// Requests in a datagram.
    pub fn each(self) -> usize {
        match self {
            Sending::Plain => 1,
            Sending::Joined => JOINED,
            Sending::Flood => FLOODED,
        }
    }
}

/// The kinds of requests that each NAT64 sends, in this order, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Mix<'a>(pub &'a [Kind]);

pub const KNOWN: Mix<'static> = Mix(&[Kind::Known]);
pub const NEW: Mix<'static> = Mix(&[Kind::New]);

pub struct Load {
    pub nat64s: Vec<Nat64>,
    /// They send every other datagram of a flood.
    pub strangers: Vec<Stranger>,
    pub burst: Burst,
    pub inbox: Inbox,
    begin: Instant,
}

impl Load {
    pub fn new(nat64s: Vec<Nat64>) -> Load {
        let (burst, inbox) = (Burst::default(), Inbox::new());
        Load { nat64s, strangers: Vec::new(), burst, inbox, begin: Instant::now() }
    }

    /// Nanoseconds since this load was made.
    pub fn now(&self) -> u64 {
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

    /// Keeps two bursts of each NAT64 under way: when one is answered, the next one is sent. Ends
    /// when at least `requests` were sent, or after `time`, and when all are answered or given up.
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

    /// Waits until at most `keep` requests have no reply. A reply that does not come in time is
    /// lost.
    fn wait(&mut self, number: usize, keep: usize, tally: &mut Tally) {
        while self.nat64s[number].asked.len() > keep {
            if !self.receive(number, true, tally) {
                let asked = &mut self.nat64s[number].asked;
                tally.lost += asked.len() as u64;
                asked.clear();
            }
        }
    }

    /// Counts the replies that are there, or says that none is.
    fn receive(&mut self, number: usize, wait: bool, tally: &mut Tally) -> bool {
        if !self.inbox.receive(&self.nat64s[number].control, wait) {
            return false;
        }
        let now = self.now();
        let nat64 = &mut self.nat64s[number];
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
}

/// A NAT64 that the server does not know. It repeats one request, and reads no answer.
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

    pub fn send(&mut self, each: usize) {
        debug_assert_eq!(each, FLOODED);
        self.burst.send(&self.nat64.control, each);
    }
}

/// Requests in a burst of one of `nat64s` NAT64s, which has two under way: at most 64 requests
/// each, and at most 1,024 in all unless they are joined.
fn burst_of(nat64s: usize, sending: Sending) -> usize {
    match sending {
        Sending::Plain => (512 / nat64s).clamp(1, 32),
        Sending::Joined => (512 / nat64s).clamp(JOINED, 2 * JOINED),
        Sending::Flood => FLOODED,
    }
}
