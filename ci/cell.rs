//! A simulator of a cell: the real ownership of tables on several hosts, a model of the engine that
//! they share, and their faults, all by a seed and in simulated time. `ci/simulate --cells` runs it
//! on many seeds.
//!
//! What has to hold at every moment: what an answer says is recorded, and so still, whatever the
//! others did meanwhile; what is recorded fits what was recorded before, so that no port is given
//! twice and nothing is deleted that is not there; a table moves no more often than it may. And
//! when faults have ended: each request is answered, and each table has one owner.
//!
//! And of how the cell's log is folded into snapshots, while hosts record, start and are ended.

#[path = "cell/engine.rs"]
mod engine;
#[cfg(feature = "programs")]
#[path = "cell/folding.rs"]
mod folding;
#[path = "cell/host.rs"]
mod host;
#[path = "cell/kind.rs"]
mod kind;
#[cfg(feature = "programs")]
#[path = "cell/store.rs"]
mod store;
#[path = "cell/world.rs"]
mod world;

#[path = "sim/cores.rs"]
mod cores;
#[path = "sim/dice.rs"]
#[allow(dead_code, reason = "the simulator of the server draws more")]
mod dice;

use cores::on_all_cores;
use dice::Dice;
#[cfg(feature = "programs")]
use folding::Figures;
use kind::{Canary, Kind};
#[cfg(feature = "programs")]
use store::StoreCanary;
use world::{Verdict, World};

/// How many seeds the test runs.
const SEEDS: u64 = 1000;
/// Within so many seeds a canary is caught.
const SEEDS_OF_CANARY: u64 = 300;
/// How many lines of the trace of a failing seed are printed.
const LINES: usize = 150;

/// The kinds of faults of a seed.
fn kinds_of(seed: u64) -> Vec<Kind> {
    let mut dice = Dice::new(seed, 3);
    // None at all in some, and all in others.
    let chance = 2500 * dice.below(5) as u32;
    Kind::ALL.iter().copied().filter(|_| dice.chance(chance)).collect()
}

fn simulate(seed: u64, canary: Option<Canary>, traces: bool) -> Verdict {
    World::new(seed, &kinds_of(seed), canary, traces).run()
}

#[derive(Default)]
struct Totals {
    answers: u64,
    passed_on: u64,
    moves: u64,
    failures: Vec<(u64, String)>,
}

impl Totals {
    fn add(&mut self, seed: u64, verdict: Verdict) {
        self.answers += verdict.answers;
        self.passed_on += verdict.passed_on;
        self.moves += verdict.moves;
        self.failures.extend(verdict.broken.map(|what| (seed, what)));
    }
}

fn run_all(seeds: std::ops::Range<u64>) {
    let count = seeds.end - seeds.start;
    let totals = on_all_cores(seeds, |seed| simulate(seed, None, false), Totals::add);
    let Totals { answers, passed_on, moves, mut failures } = totals;
    println!(
        "{count} seeds: {answers} answers, {passed_on} requests passed on, {moves} moves of tables"
    );
    failures.sort_unstable();
    for (seed, what) in failures.iter().take(20) {
        println!("seed {seed}: {what}");
    }
    if let Some(&(seed, _)) = failures.first() {
        let trace = simulate(seed, None, true).trace;
        println!("seed {seed}, {:?}", kinds_of(seed));
        trace[trace.len().saturating_sub(LINES)..].iter().for_each(|line| println!("{line}"));
    }
    assert_eq!(failures.len(), 0);
}

#[test]
fn seeds() {
    run_all(seeds_wanted(SEEDS));
}

/// `CELL_SEEDS=A..B`, or so many.
fn seeds_wanted(count: u64) -> std::ops::Range<u64> {
    let range = std::env::var("CELL_SEEDS").ok();
    let range = range.as_deref().map(|range| range.split_once("..").expect("CELL_SEEDS=A..B"));
    let number = |text: &str| text.parse().expect("a number of a seed");
    range.map_or(0..count, |(from, to)| number(from)..number(to))
}

/// They found, one each: a request that was passed back to a host that did not know yet that it has
/// the table; hosts that took a table from each other with each request; a table that was lost
/// with what an earlier claim of it had to record; a claim that was over before it could be
/// watched, and was waited for.
#[test]
fn seeds_that_found_something() {
    for seed in [1, 1313, 2182, 37_959] {
        assert_eq!(simulate(seed, None, false).broken, None, "seed {seed}");
    }
}

/// As large as a cell is to be, with hosts that are killed: what is asked of the engine then.
#[test]
fn a_cell_of_32_hosts_with_1000_tables() {
    let Verdict { broken, moves, transactions, .. } =
        World::sized(1, &[Kind::Kill], 32, 1000).run();
    assert_eq!(broken, None);
    let [claims, records, confirmations] = transactions.map(|count| count / world::SECONDS);
    println!(
        "a second: {claims} claims, {records} records, {confirmations} confirmations; {moves} moves in all"
    );
}

#[test]
fn a_seed_leads_to_the_same_again() {
    for seed in 0..10 {
        let [first, second] = [(); 2].map(|()| simulate(seed, None, true).trace);
        assert_eq!(first, second);
    }
}

/// Each thing that can be done wrong is found.
#[test]
fn canaries() {
    for &canary in Canary::ALL {
        let caught = (0..SEEDS_OF_CANARY).find_map(|seed| {
            let broken = simulate(seed, Some(canary), false).broken?;
            // A slow clock makes answers late, too; what counts is that one is wrong.
            let counts = canary != Canary::SlowClock || broken.contains(" says that ");
            counts.then_some((seed, broken))
        });
        match caught {
            Some((seed, what)) => println!("{canary:?}: seed {seed}: {what}"),
            None => panic!("{canary:?} is not found"),
        }
    }
}

/// How many seeds of folding the test runs.
#[cfg(feature = "programs")]
const FOLDING_SEEDS: u64 = 200;

#[cfg(feature = "programs")]
#[test]
fn what_is_folded_while_hosts_end_is_what_was_recorded() {
    let range = seeds_wanted(FOLDING_SEEDS);
    let count = range.end - range.start;
    let add =
        |totals: &mut (Figures, Vec<(u64, String)>), seed, verdict: Result<Figures, String>| {
            match verdict {
                Ok(figures) => {
                    totals.0.records += figures.records;
                    totals.0.reads += figures.reads;
                    totals.0.compacted += figures.compacted;
                    totals.0.ends += figures.ends;
                    totals.0.compactions += figures.compactions;
                }
                Err(what) => totals.1.push((seed, what)),
            }
        };
    let (figures, mut failures) = on_all_cores(range, |seed| folding::simulate(seed, None), add);
    let Figures { records, reads, compacted, ends, compactions } = figures;
    println!(
        "{count} seeds: {records} records, read {reads} times and {compacted} times in vain, {ends} hosts ended, \
         compacted {compactions} times"
    );
    failures.sort_unstable();
    failures.iter().take(20).for_each(|(seed, what)| println!("seed {seed}: {what}"));
    assert_eq!(failures.len(), 0);
    assert!(reads > count && ends > count && compactions > count, "it does too little");
}

#[cfg(feature = "programs")]
#[test]
fn what_is_folded_wrong_is_found() {
    for &canary in StoreCanary::ALL {
        let caught = (0..SEEDS_OF_CANARY)
            .find_map(|seed| Some((seed, folding::simulate(seed, Some(canary)).err()?)));
        match caught {
            Some((seed, what)) => println!("{canary:?}: seed {seed}: {what}"),
            None => panic!("{canary:?} is not found"),
        }
    }
}
