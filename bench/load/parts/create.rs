//! New clients: each is an entry, a record in the journal and a line in the event log.

use std::time::Duration;

use crate::generator::{NEW, Sending};
use crate::nat64::Peer;
use crate::process::Process;
use crate::report::{Rounds, Sample, Target, goal};

const NAT64S: u32 = 16;
/// In each round; each round has processes of its own, as tables grow.
const CLIENTS: u64 = 16 * 8192;
/// The time for the event log, syncs and compaction to finish, which is measured too.
const SETTLE: Duration = Duration::from_millis(250);
const TIME_MAX: Duration = Duration::from_secs(10);

/// The last is the echo.
const VARIANTS: [(&str, Option<&[&str]>); 5] = [
    ("--no-journal", Some(&["--no-journal"])),
    ("--sync none", Some(&["--sync", "none"])),
    ("--sync interval:100ms", Some(&["--sync", "interval:100ms"])),
    ("--sync always", Some(&["--sync", "always"])),
    ("echo", None),
];
const INTERVAL: usize = 2;

pub fn run(rounds: usize) -> Result<(), String> {
    let mut samples = Rounds::new(VARIANTS.map(|(name, _)| name.to_owned()));
    for round in 0..rounds {
        for step in 0..VARIANTS.len() {
            let variant = (round + step) % VARIANTS.len();
            let (name, options) = VARIANTS[variant];
            let (process, peer) = match options {
                Some(options) => (Process::server(1, options), Peer::Server),
                None => (Process::echo("uring"), Peer::Echo),
            };
            let mut target = Target::new(name, process, peer, 0..NAT64S, 1);
            target.load.fill();
            let sample =
                target.measure(SETTLE, |load| load.closed(NEW, Sending::Plain, CLIENTS, TIME_MAX));
            if sample.tally.lost > 0 {
                print!("{name}: {} lost; {}", sample.tally.lost, target.process.messages());
            }
            samples.push(variant, sample);
        }
    }
    println!("{NAT64S} NAT64s, {CLIENTS} new clients a round, journal and event log in files");
    samples.print();
    let ratio = samples.ratio(INTERVAL, Sample::micros);
    goal("new client, --sync interval: CPU of all threads / echo's", "2.5", ratio);
    Ok(())
}
