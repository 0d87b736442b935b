//! Two reactors, each with half of the NAT64s, against one with all of them.
//!
//! Throughput would take a core for each reactor and more than one for the load, which is slower
//! than two reactors. So throughput is not measured, but whether reactors get in each other's way.
//! Each has the requests of its NAT64s and the CPU time of its thread: the quotient is what its
//! core could carry, and the quotients are added. What cores share (memory, the last cache) counts
//! as far as both ran at once. On two cores, the second reactor shares its core with the load.

use std::time::Duration;

use nat64handoff::kernel::socket::steered_to;

use crate::generator::{KNOWN, Sending};
use crate::nat64::{Peer, nat64_address};
use crate::parts::{NO_END, SETTLE, TIME};
use crate::process::Process;
use crate::report::{Rounds, Sample, Target, goal};

/// Half of them for each of two reactors.
const NAT64S: usize = 16;
const CLIENTS: u32 = 4096;

pub fn run(rounds: usize) -> Result<(), String> {
    let group = |reactor| {
        (0..)
            .filter(move |&number| steered_to(nat64_address(number), 2) == reactor)
            .take(NAT64S / 2)
    };
    let nat64s: Vec<u32> = group(0).chain(group(1)).collect();
    let target = |name, reactors| {
        let process = Process::server(reactors, &[]);
        let mut target = Target::new(name, process, Peer::Server, nat64s.iter().copied(), CLIENTS);
        target.load.fill();
        target
    };
    let mut targets = vec![target("two reactors", 2), target("one reactor", 1)];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (sending, name) in [(Sending::Plain, "plain"), (Sending::Joined, "joined")] {
        let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
            load.closed(KNOWN, sending, NO_END, TIME)
        });
        println!(
            "{NAT64S} NAT64s, {name}; {}",
            match cores {
                0..3 =>
                    "the load shares a core with the second reactor: compare CPU, not requests/s",
                _ => "one core of load: compare CPU, not requests/s",
            }
        );
        samples.print();
        for (variant, target) in targets.iter().enumerate() {
            let could = samples.spread(variant, could_carry);
            println!(
                "  {}: {:.0} requests for each CPU second of a reactor, added",
                target.name, could.median
            );
        }
        let what = format!("two reactors / one, {name}: requests for each CPU second, added");
        goal(&what, ">1.8", samples.ratio(0, could_carry));
    }
    Ok(())
}

/// What the cores of the reactors could carry, in requests a second, if each had all the load that
/// it can take. All NAT64s ask equally often.
fn could_carry(sample: &Sample) -> f64 {
    let reactors = sample.threads.iter().filter(|(name, _)| name.starts_with("reactor"));
    let cpu: Vec<Duration> = reactors.map(|(_, &cpu)| cpu).collect();
    let each = sample.tally.answered as f64 / cpu.len() as f64;
    cpu.iter().map(|cpu| each / cpu.as_secs_f64()).sum()
}
