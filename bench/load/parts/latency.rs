//! How long an answer takes when there is little to do: an open loop at a tenth of what the server can carry.

use std::time::Duration;

use crate::generator::{KNOWN, Sending};
use crate::parts::{NO_END, SETTLE, TIME, server_and_echoes};
use crate::report::{Rounds, goal};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
const LISTENED: Duration = Duration::from_secs(1);

pub fn run(rounds: usize) {
    let mut targets = server_and_echoes(NAT64S, CLIENTS);
    let carried = targets[0]
        .measure(SETTLE, |load| load.closed(KNOWN, Sending::Plain, NO_END, TIME))
        .tally
        .rate();
    let rate = carried / 10.0;
    let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.open(KNOWN, Sending::Plain, rate, LISTENED)
    });
    println!("{NAT64S} NAT64s, plain: {rate:.0} requests a second, a tenth of {carried:.0}");
    samples.print();
    for (quantile, name, limit) in [(0.5, "p50", ""), (0.99, "p99", "1.2"), (0.999, "p99.9", "")] {
        let ratio = samples.ratio(0, |sample| sample.tally.quantile(quantile));
        if limit.is_empty() {
            println!("{name} / echo's: {:.2} ({:.2}-{:.2})", ratio.median, ratio.low, ratio.high);
        } else {
            let what = format!("latency {name} at a tenth of saturation / echo's");
            goal(&what, limit, ratio);
        }
    }
}
