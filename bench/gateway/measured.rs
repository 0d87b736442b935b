//! Processes that take turns, what each costs, and the figures of all rounds.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

/// A process whose CPU time is measured.
pub struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub fn start(host: &Namespace, name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = host.inside(|| command.spawn()).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        Self { child }
    }

    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::io::Result<fs::DirEntry>| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(" ").next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(tasks.filter_map(of).sum())
    }

    /// Does something, and returns the CPU seconds for each of what it counted.
    pub fn cost(&self, work: impl FnOnce() -> u64) -> f64 {
        let before = self.cpu();
        let count = work();
        (self.cpu() - before).as_secs_f64() / count as f64
    }
}

/// The CPU seconds of the whole machine for each of what was counted: of all processes, and of what
/// the kernel does in nobody's name. True where nothing else runs.
pub fn cost_of_all(work: impl FnOnce() -> u64) -> f64 {
    let before = cpu_of_all();
    let count = work();
    (cpu_of_all() - before) / count as f64
}

/// user, nice, system, irq and softirq of all cores, in hundredths of a second each.
fn cpu_of_all() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields = text.lines().next().unwrap().split_ascii_whitespace().skip(1);
    let fields: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
    [0, 1, 2, 5, 6].map(|which| fields[which] as f64).iter().sum::<f64>() / 100.0
}

/// Runs `ip -6` in a namespace.
pub fn ip6(host: &Namespace, line: &str) {
    let mut ip = Command::new("ip");
    ip.arg("-6").args(line.split(' '));
    assert!(host.inside(|| ip.status()).unwrap().success(), "ip -6 {line}");
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One figure of each of `N` in each round, which begins with another one each time.
pub fn rounds<const N: usize>(mut measure: impl FnMut(usize) -> f64) -> Vec<[f64; N]> {
    (0..ROUNDS)
        .map(|round| {
            let mut figures = [0.0; N];
            for step in 0..N {
                let which = (round + step) % N;
                figures[which] = measure(which);
            }
            figures
        })
        .collect()
}

/// Prints each figure, and its ratio to that of `base`.
pub fn print<const N: usize>(
    what: &str,
    names: [&str; N],
    rounds: &[[f64; N]],
    base: usize,
    unit: &str,
) {
    for (which, name) in names.iter().enumerate() {
        let (low, median, high) = spread(rounds.iter().map(|round| round[which]).collect());
        let (_, ratio, _) = spread(rounds.iter().map(|round| round[which] / round[base]).collect());
        println!("  {what:8} {name:9} {median:7.3} ({low:.3}-{high:.3}) {unit:5} {ratio:6.2}");
    }
}

/// Prints the ratio of two figures as a goal.
pub fn goal<const N: usize>(
    what: &str,
    at_most: f64,
    rounds: &[[f64; N]],
    ours: usize,
    theirs: usize,
) {
    let ratios = rounds.iter().map(|round| round[ours] / round[theirs]).collect();
    let (low, median, high) = spread(ratios);
    println!("goal | {what} | {at_most:.2} | {median:.2} ({low:.2}-{high:.2})");
}

fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}
