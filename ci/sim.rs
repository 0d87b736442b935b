//! A simulator of everything around the server: NAT64s, clients, networks, disks, clocks,
//! operators, and their faults, all by a seed and in simulated time. `ci/simulate` runs it on many
//! seeds.

#[path = "sim/canaries.rs"]
mod canaries;
#[path = "sim/cores.rs"]
mod cores;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/former.rs"]
mod former;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/incidents.rs"]
mod incidents;
#[path = "judge/mod.rs"]
mod judge;
#[path = "sim/kind.rs"]
mod kind;
#[path = "sim/known.rs"]
mod known;
#[path = "sim/mutant.rs"]
mod mutant;
#[path = "sim/names.rs"]
mod names;
#[path = "sim/nat64.rs"]
mod nat64;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/people.rs"]
mod people;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/process.rs"]
#[allow(dead_code, reason = "it can be asked more than is asked here")]
mod process;
#[path = "sim/process_tests.rs"]
mod process_tests;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/server.rs"]
mod server;
#[path = "sim/shrink.rs"]
mod shrink;
#[path = "storage/sim.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the storage use the rest")]
mod sim;
#[path = "sim/stranger.rs"]
mod stranger;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/traffic.rs"]
mod traffic;
#[path = "sim/verdict.rs"]
mod verdict;
#[path = "sim/world.rs"]
mod world;

use std::time::Instant;

use plan::Plan;

/// How many seeds the test runs.
const SEEDS: u64 = 2000;
/// How many lines of the trace of a failing seed are printed.
const LINES: usize = 60;

/// Simulates a plan, prints its trace, and says whether all held.
fn show(plan: &Plan, lines: usize) -> bool {
    let outcome = run::simulate(plan, None, true);
    let skipped = outcome.lines.len().saturating_sub(lines);
    for line in &outcome.lines[skipped..] {
        println!("{line}");
    }
    match &outcome.broken {
        Some(broken) => {
            println!("{:?} is broken: {}", broken.property, broken.what);
            println!("again: ci/simulate {plan}");
            false
        }
        None => {
            println!("all holds; {} events, hash {:016x}", outcome.events, outcome.hash);
            true
        }
    }
}

/// Runs many seeds; the first that fails is made small and shown.
fn run_all(seeds: std::ops::Range<u64>) -> bool {
    #[expect(clippy::disallowed_methods, reason = "how long it takes is told, and decides nothing")]
    let start = Instant::now();
    println!("seeds {}..{}", seeds.start, seeds.end);
    let totals = run::all(seeds);
    println!("{totals}");
    println!("took {:.1} s", start.elapsed().as_secs_f64());
    for (seed, broken) in &totals.failures {
        println!("seed {seed}: {:?}: {}", broken.property, broken.what);
    }
    if let Some((seed, broken)) = totals.failures.first() {
        let small = shrink::shrink(&Plan::of(*seed), broken.property, None);
        show(&small, LINES);
    }
    totals.failed == 0
}

/// What `ci/simulate` runs: its arguments stand in the environment.
#[test]
fn command() {
    let Ok(arguments) = std::env::var("SIM_ARGUMENTS") else { return };
    let words: Vec<_> = arguments.split_whitespace().collect();
    if let ["--seeds", range] = words[..] {
        let (from, to) = range.split_once("..").expect("--seeds A..B");
        let number = |text: &str| text.parse().expect("a number of a seed");
        assert!(run_all(number(from)..number(to)));
        return;
    }
    let plan = Plan::parse(&words).unwrap_or_else(|why| panic!("{why}"));
    assert!(show(&plan, usize::MAX));
}

#[test]
fn seeds() {
    assert!(run_all(0..SEEDS));
}

#[test]
fn a_seed_leads_to_the_same_again() {
    for seed in 0..20 {
        let plan = Plan::of(seed);
        let (first, second) = (run::simulate(&plan, None, false), run::simulate(&plan, None, true));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

#[test]
fn a_plan_is_read_as_it_is_written() {
    for seed in 0..50 {
        let mut plan = Plan::of(seed);
        plan.kinds = Plan::of(seed + 1).kinds;
        plan.without.extend([3, 8]);
        let text = plan.to_string();
        let words: Vec<_> = text.split(' ').collect();
        assert_eq!(Plan::parse(&words).map(|read| read.to_string()), Ok(text.clone()));
    }
}
