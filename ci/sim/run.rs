//! Many seeds, on all cores; and what came of them.

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::cores::on_all_cores;
use crate::kind::Kind;
use crate::plan::Plan;
use crate::verdict::{Property, Violation};
use crate::world::World;

const KINDS: usize = Kind::ALL.len();
/// The most failures that are kept: more tell nothing new.
const FAILURES_MAX: usize = 10;

/// What came of one plan.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub broken: Option<Violation>,
    pub hash: u64,
    pub simulated: Duration,
    pub events: u64,
    pub struck: [u64; KINDS],
    /// The numbers of the faults that struck.
    pub numbers: Vec<u32>,
    pub lines: Vec<String>,
}

/// Simulates a plan.
pub fn simulate(plan: &Plan, mutant: Option<Kind>, keeps_trace: bool) -> Outcome {
    let mut world = None;
    let run = || {
        let world = world.insert(World::new(plan.clone(), mutant, keeps_trace));
        world.run();
    };
    let panicked = catch_unwind(AssertUnwindSafe(run)).err();
    let panicked = panicked.map(|why| {
        let said = why.downcast_ref::<String>().map(String::as_str);
        let said = said.or(why.downcast_ref::<&str>().copied()).unwrap_or("of no known reason");
        Violation::new(Property::NoPanic, said)
    });
    let Some(mut world) = world else {
        return Outcome {
            broken: panicked,
            hash: 0,
            simulated: Duration::ZERO,
            events: 0,
            struck: [0; KINDS],
            numbers: Vec::new(),
            lines: Vec::new(),
        };
    };
    Outcome {
        broken: panicked.or(world.broken.take()),
        hash: world.trace.hash,
        simulated: world.now,
        events: world.events,
        struck: world.faults.struck,
        numbers: std::mem::take(&mut world.faults.numbers),
        lines: std::mem::take(&mut world.trace.lines),
    }
}

/// What came of many seeds.
#[derive(Default)]
pub struct Totals {
    pub seeds: u64,
    pub simulated: Duration,
    pub events: u64,
    pub struck: [u64; KINDS],
    pub failed: u64,
    /// The first ones by number of seed.
    pub failures: Vec<(u64, Violation)>,
}

impl Totals {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        for (sum, one) in self.struck.iter_mut().zip(outcome.struck) {
            *sum += one;
        }
        if let Some(broken) = outcome.broken {
            self.failed += 1;
            self.failures.push((seed, broken));
            self.failures.sort_by_key(|(seed, _)| *seed);
            self.failures.truncate(FAILURES_MAX);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated.as_secs_f64() / 3600.0;
        writeln!(f, "{} seeds, {hours:.1} simulated hours, {} events", self.seeds, self.events)?;
        for kind in Kind::ALL {
            writeln!(f, "{:>12} {}", self.struck[*kind as usize], kind.name())?;
        }
        write!(f, "{} failed", self.failed)
    }
}

/// Simulates all these seeds, on all cores.
pub fn all(seeds: Range<u64>) -> Totals {
    on_all_cores(seeds, |seed| simulate(&Plan::of(seed), None, false), Totals::add)
}
