//! Known clients: nothing changes, and nothing is recorded.

use crate::generator::{KNOWN, Sending};
use crate::parts::{NO_END, SETTLE, TIME, server_and_echoes};
use crate::report::{Rounds, Sample, goal};

/// NAT64s, and clients of each.
const SIZES: [(u32, u32); 3] = [(1, 4096), (16, 4096), (256, 1024)];

pub fn run(rounds: usize) -> Result<(), String> {
    for (nat64s, clients) in SIZES {
        let mut targets = server_and_echoes(nat64s, clients);
        for (sending, name, limit) in
            [(Sending::Plain, "plain", "1.15"), (Sending::Joined, "joined", "1.5")]
        {
            let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
                load.closed(KNOWN, sending, NO_END, TIME)
            });
            println!("{nat64s} NAT64s with {clients} clients each, {name}");
            samples.print();
            let what = format!("known client, {name}, {nat64s} NAT64s: CPU / echo's");
            goal(&what, limit, samples.ratio(0, Sample::micros));
        }
    }
    Ok(())
}
