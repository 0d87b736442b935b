//! Latency at a low load: an open loop at a tenth of what the server can carry.
//!
//! On a busy machine, one moment without the core spoils the p99 of a long measurement. So there
//! are many short ones, server and echoes in turn, and the ratio is the median of theirs. The load
//! leaves out what was under way while it did not run itself. "echo, again" shows how much is
//! noise.

use std::time::Duration;

use crate::generator::{KNOWN, Sending};
use crate::open_loop::Phase;
use crate::parts::{NO_END, SETTLE, TIME, server_and_echoes};
use crate::report::{Rounds, goal};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
const LISTENED: Duration = Duration::from_millis(100);
/// Measurements of each target in a round.
const TURNS: usize = 6;

pub fn run(rounds: usize) -> Result<(), String> {
    let mut targets = server_and_echoes(NAT64S, CLIENTS);
    let carried = targets[0]
        .measure(SETTLE, |load| load.closed(KNOWN, Sending::Plain, NO_END, TIME))
        .tally
        .rate();
    let rate = carried / 10.0;
    let phase = Phase { rate, time: LISTENED };
    let samples = Rounds::measure(&mut targets, rounds * TURNS, SETTLE, |load| {
        load.open(KNOWN, Sending::Plain, &[phase]).remove(0)
    });
    println!(
        "{NAT64S} NAT64s, plain: {rate:.0} requests a second, a tenth of {carried:.0}; {} times {LISTENED:?} each",
        rounds * TURNS
    );
    samples.print();
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
        for (variant, target) in targets.iter().enumerate() {
            let micros = samples.spread(variant, |sample| sample.tally.quantile(quantile));
            let ratio = samples.ratio(variant, |sample| sample.tally.quantile(quantile));
            println!(
                "  {name} of {:12}{:>8.0} us ({:.0}-{:.0}), / echo's {:.2} ({:.2}-{:.2})",
                target.name,
                micros.median,
                micros.low,
                micros.high,
                ratio.median,
                ratio.low,
                ratio.high
            );
        }
    }
    let ratio = samples.ratio(0, |sample| sample.tally.quantile(0.99));
    goal("latency p99 at a tenth of saturation / echo's", "1.2", ratio);
    Ok(())
}
