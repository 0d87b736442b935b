//! Two reactors, each with half of the NAT64s, against one with all of them.
//!
//! Throughput in the open would take three cores: two and one for the load. What is asked here is whether reactors
//! get in each other's way: each has the requests of its NAT64s and the CPU time of its thread, so its core could
//! carry the one divided by the other; their sum is the throughput that the load's core does not limit.

use std::time::Duration;

use nat64handoff::socket::steered_to;

use crate::generator::{KNOWN, Sending};
use crate::nat64::{Peer, nat64_address};
use crate::parts::{NO_END, SETTLE, TIME};
use crate::process::Process;
use crate::report::{Rounds, Sample, Target, goal};

/// Half of them for each of two reactors.
const NAT64S: usize = 16;
const CLIENTS: u32 = 4096;

pub fn run(rounds: usize) {
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
                0..3 => "the load shares a core with the second reactor",
                _ => "the load has a core of its own",
            }
        );
        samples.print();
        for (variant, target) in targets.iter().enumerate() {
            let could = samples.spread(variant, could_carry);
            println!("  {} could carry {:.0} requests/s", target.name, could.median);
        }
        if sending == Sending::Joined {
            let what = "two reactors / one: throughput, load permitting";
            goal(what, ">1.8", samples.ratio(0, could_carry));
        }
    }
}

/// What the cores of the reactors could carry, if each had all the load that it can take. All NAT64s ask equally
/// often.
fn could_carry(sample: &Sample) -> f64 {
    let reactors = sample.threads.iter().filter(|(name, _)| name.starts_with("reactor"));
    let cpu: Vec<Duration> = reactors.map(|(_, &cpu)| cpu).collect();
    let each = sample.tally.answered as f64 / cpu.len() as f64;
    cpu.iter().map(|cpu| each / cpu.as_secs_f64()).sum()
}
