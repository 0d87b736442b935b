//! Which faults strike when, by a seed.

use std::time::Duration;

use crate::dice::Dice;
use crate::kind::{Kind, Place};
use crate::plan::Plan;

const KINDS: usize = Kind::ALL.len();

/// A stream of choices for each kind, how often it strikes, and how often it did.
pub struct Faults {
    plan: Plan,
    dice: Vec<Dice>,
    /// Of packets: with which probability, in parts of 10,000.
    rates: [u32; KINDS],
    /// Of incidents: the mean time between two.
    means: [Duration; KINDS],
    /// How often each kind struck.
    pub struck: [u64; KINDS],
    next: u32,
    /// The numbers of all that struck.
    pub numbers: Vec<u32>,
}

impl Faults {
    pub fn new(plan: Plan) -> Self {
        let stream = |&kind: &Kind| Dice::new(plan.seed, kind as u64);
        let mut dice: Vec<_> = Kind::ALL.iter().map(stream).collect();
        let rates = std::array::from_fn(|at| [50, 200, 1000, 3000][dice[at].below(4)]);
        let means = std::array::from_fn(|at| {
            dice[at].time(Duration::from_secs(2), Duration::from_secs(30))
        });
        Self { plan, dice, rates, means, struck: [0; KINDS], next: 0, numbers: Vec::new() }
    }

    /// Whether the kind is part of the plan at all.
    pub fn has(&self, kind: Kind) -> bool {
        self.plan.kinds.has(kind)
    }

    /// The choices of that kind.
    pub fn dice(&mut self, kind: Kind) -> &mut Dice {
        &mut self.dice[kind as usize]
    }

    /// Whether the kind strikes this packet.
    pub fn strikes(&mut self, kind: Kind, now: Duration) -> bool {
        debug_assert_eq!(kind.place(), Place::Packet);
        let at = kind as usize;
        self.has(kind)
            && now < self.plan.faults_until
            && self.dice[at].chance(self.rates[at])
            && self.counts(kind)
    }

    /// When the next incident of that kind is; none where faults are over then.
    pub fn next_incident(&mut self, kind: Kind, now: Duration) -> Option<Duration> {
        let at = kind as usize;
        let mean = self.means[at];
        let next = now + Duration::from_millis(50) + self.dice[at].around(mean);
        (next < self.plan.faults_until).then_some(next)
    }

    /// Whether what would strike now does, and not one of those that the plan leaves out.
    pub fn counts(&mut self, kind: Kind) -> bool {
        let number = self.next;
        self.next += 1;
        let strikes = !self.plan.without.contains(&number);
        if strikes {
            self.struck[kind as usize] += 1;
            self.numbers.push(number);
        }
        strikes
    }

    /// The number of what struck last.
    pub fn last(&self) -> u32 {
        self.next.saturating_sub(1)
    }
}
