//! Samples, ratios of one round, medians, tables, and the lines that `bench/run` collects.

use std::thread;
use std::time::Duration;

use crate::generator::Load;
use crate::nat64::{Nat64, Peer};
use crate::process::{Cpu, Process};
use crate::tally::Tally;

/// A process, and the load that is sent to it.
pub struct Target {
    pub name: String,
    pub process: Process,
    pub load: Load,
}

impl Target {
    /// With these NAT64s, each with `known` clients. The process does not know them yet.
    pub fn new(
        name: &str,
        process: Process,
        peer: Peer,
        nat64s: impl IntoIterator<Item = u32>,
        known: u32,
    ) -> Target {
        let nat64 = |number| Nat64::new(number, known, peer, process.address);
        let load = Load::new(nat64s.into_iter().map(nat64).collect());
        Target { name: name.to_owned(), process, load }
    }

    /// Measures what a load costs. `settle` is the time for what follows the last reply: log,
    /// syncs.
    pub fn measure(&mut self, settle: Duration, load: impl FnOnce(&mut Load) -> Tally) -> Sample {
        let before = self.process.cpu();
        let tally = load(&mut self.load);
        thread::sleep(settle);
        let threads = self.process.cpu_since(&before);
        Sample { tally, cpu: threads.values().sum(), threads }
    }
}

/// The replies to a load, and what they cost.
pub struct Sample {
    pub tally: Tally,
    pub cpu: Duration,
    pub threads: Cpu,
}

impl Sample {
    /// CPU time of all threads, for each request that was answered.
    pub fn micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.tally.answered.max(1) as f64
    }

    fn thread_micros(&self, name: &str) -> f64 {
        let cpu = self.threads.get(name).copied().unwrap_or_default();
        cpu.as_secs_f64() * 1e6 / self.tally.answered.max(1) as f64
    }
}

/// The samples of each variant, by round. The others are compared with the last variant.
pub struct Rounds {
    names: Vec<String>,
    samples: Vec<Vec<Sample>>,
}

/// A median, the lowest value and the highest.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

pub fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[0], values[values.len() - 1]);
    Spread { median: values[values.len() / 2], low, high }
}

impl Rounds {
    pub fn new(names: impl IntoIterator<Item = String>) -> Rounds {
        let names: Vec<_> = names.into_iter().collect();
        let samples = names.iter().map(|_| Vec::new()).collect();
        Rounds { names, samples }
    }

    pub fn push(&mut self, variant: usize, sample: Sample) {
        self.samples[variant].push(sample);
    }

    /// Measures the targets one after the other, and begins each round with another one.
    pub fn measure(
        targets: &mut [Target],
        rounds: usize,
        settle: Duration,
        mut load: impl FnMut(&mut Load) -> Tally,
    ) -> Rounds {
        let mut samples = Rounds::new(targets.iter().map(|target| target.name.clone()));
        for round in 0..rounds {
            for step in 0..targets.len() {
                let variant = (round + step) % targets.len();
                samples.push(variant, targets[variant].measure(settle, &mut load));
            }
        }
        samples
    }

    pub fn spread(&self, variant: usize, what: impl Fn(&Sample) -> f64) -> Spread {
        spread(self.samples[variant].iter().map(what))
    }

    /// The ratio of `what` to that of the last variant in the same round.
    pub fn ratio(&self, variant: usize, what: impl Fn(&Sample) -> f64) -> Spread {
        let last = self.samples.len() - 1;
        let pairs = self.samples[variant].iter().zip(&self.samples[last]);
        spread(pairs.map(|(own, base)| what(own) / what(base)))
    }

    /// A line for each variant.
    pub fn print(&self) {
        let last = &self.names[self.names.len() - 1];
        println!(
            "  {:26}{:>8}{:>9} {:13}{:>11}{:>7}{:>9}{:>8}{:>8}  threads, us",
            "", "CPU us", "ratio", "(low-high)", "requests/s", "lost", "p50 us", "p99", "p99.9"
        );
        for (variant, name) in self.names.iter().enumerate() {
            let own = &self.samples[variant];
            let of = |what: &dyn Fn(&Sample) -> f64| spread(own.iter().map(what)).median;
            let ratio = self.ratio(variant, Sample::micros);
            let lost: u64 = own.iter().map(|sample| sample.tally.lost).sum();
            let threads = own[0].threads.keys().filter_map(|thread| {
                let micros = of(&|sample| sample.thread_micros(thread));
                (micros >= 0.005).then(|| format!("{thread} {micros:.2}"))
            });
            let threads: Vec<_> = threads.collect();
            println!(
                "  {name:26}{:>8.3}{:>9.2} {:13}{:>11.0}{lost:>7}{:>9.0}{:>8.0}{:>8.0}  {}",
                of(&Sample::micros),
                ratio.median,
                format!("({:.2}-{:.2})", ratio.low, ratio.high),
                of(&|sample| sample.tally.rate()),
                of(&|sample| sample.tally.quantile(0.5)),
                of(&|sample| sample.tally.quantile(0.99)),
                of(&|sample| sample.tally.quantile(0.999)),
                threads.join(", ")
            );
            let late: u64 = own.iter().map(|sample| sample.tally.late).sum();
            if late > 0 {
                println!("  {:26}{late} replies came when they had been given up", "");
            }
            let disturbed: u64 = own.iter().map(|sample| sample.tally.disturbed).sum();
            let unsent: u64 = own.iter().map(|sample| sample.tally.unsent).sum();
            if disturbed + unsent > 0 {
                println!(
                    "  {:26}the load did not run: {disturbed} answers in no latency, {unsent} not asked",
                    ""
                );
            }
        }
        println!("  (ratio: CPU to that of \"{last}\" in the same round)");
    }
}

/// Prints a line from which `bench/run` makes its last table. `limit` is an upper bound, or a lower
/// one if it begins with `>`.
pub fn goal(what: &str, limit: &str, measured: Spread) {
    let Spread { median, low, high } = measured;
    println!("goal | {what} | {limit} | {median:.2} ({low:.2}-{high:.2})");
}
