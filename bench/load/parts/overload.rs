//! Twice what the server can carry, and then a tenth of it at once.
//!
//! Half of the datagrams are from strangers, who never prove themselves. Requests are joined, 16 in a datagram, as one
//! core could not send enough of them otherwise. The rate is found by asking for more and more until the known
//! NAT64s get no more answers for it.

use std::time::Duration;

use crate::generator::{KNOWN, SLICE, Sending, Tally};
use crate::nat64::{Nat64, Peer};
use crate::parts::SETTLE;
use crate::process::Process;
use crate::report::{Target, goal, spread};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
/// How long each rate is tried, and how long the server is overloaded.
const TRIED: Duration = Duration::from_millis(150);
const OVERLOADED: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(400);
/// The first rate, in requests a second; each is higher than the one before by the step.
const RATE_FIRST: f64 = 100_000.0;
const RATE_STEP: f64 = 1.25;
const RATES_MAX: u32 = 24;
/// Less than this part of what is asked is not carried.
const CARRIED: f64 = 0.98;
/// Within so many times the slowest answer of the quiet time, an answer is as in the quiet time.
const NORMAL: u64 = 2;

pub fn run(rounds: usize) {
    let process = Process::server(1, &[]);
    let mut target = Target::new("server", process, Peer::Server, 0..NAT64S, CLIENTS);
    target.load.fill();
    let address = target.process.address;
    let stranger = |number| Nat64::new(NAT64S + number, CLIENTS, Peer::Server, address);
    target.load.strangers = (0..NAT64S).map(stranger).collect();
    let mut at = |rate: f64, time: Duration| {
        let drops = target.process.socket_drops();
        let sample = target.measure(SETTLE, |load| load.open(KNOWN, Sending::Joined, rate, time));
        (sample.tally, target.process.socket_drops() - drops)
    };

    // Of all requests; half of them are from strangers.
    let mut carried = RATE_FIRST;
    for _ in 0..RATES_MAX {
        let mut is_carried = || {
            let (tally, _) = at(carried * RATE_STEP, TRIED);
            tally.answered as f64 >= CARRIED * asked(&tally)
        };
        // What fails for a moment's noise passes the second time.
        if !is_carried() && !is_carried() {
            break;
        }
        carried *= RATE_STEP;
    }
    println!(
        "{NAT64S} known NAT64s and as many strangers, joined; carried: {carried:.0} requests a second"
    );
    println!(
        "  {:>12}{:>12}{:>14}{:>14}{:>10}{:>10}{:>12}{:>12}{:>14}",
        "offered/s",
        "sent/s",
        "answered/s",
        "of carried",
        "p50 us",
        "p99 us",
        "slowest us",
        "drops, socket",
        "normal after"
    );
    let (mut kept, mut back) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (quiet, _) = at(carried / 10.0, AFTER);
        let (overload, drops) = at(carried * 2.0, OVERLOADED);
        let (after, _) = at(carried / 10.0, AFTER);
        let part = overload.rate() / (carried / 2.0);
        let normal = normal_after(&quiet, &after);
        println!(
            "  {:>12.0}{:>12.0}{:>14.0}{:>14.2}{:>10.0}{:>10.0}{:>12.0}{:>12}{:>11.0} ms",
            carried * 2.0,
            overload.sent as f64 * 2.0 / OVERLOADED.as_secs_f64(),
            overload.rate(),
            part,
            overload.quantile(0.5),
            overload.quantile(0.99),
            overload.latency.max() as f64 / 1e3,
            drops,
            normal.as_secs_f64() * 1e3,
        );
        kept.push(part);
        back.push(normal.as_secs_f64() * 1e3);
    }
    let what = "answers under twice the load that is carried / answers when all is carried";
    goal(what, ">0.95", spread(kept));
    goal("back to normal after overload, ms", "100", spread(back));
}

/// By the known NAT64s; also what the load could not send.
fn asked(tally: &Tally) -> f64 {
    (tally.sent + tally.unsent / 2) as f64
}

/// The end of the last slice in which something was lost, or slower than in the quiet time.
fn normal_after(quiet: &Tally, after: &Tally) -> Duration {
    let slow = quiet.slices.iter().map(|slice| slice.slowest).max().unwrap_or_default() * NORMAL;
    let strange =
        |slice: &crate::generator::Slice| slice.answered < slice.sent || slice.slowest > slow;
    let last = after.slices.iter().rposition(strange);
    last.map_or(Duration::ZERO, |last| SLICE * (last as u32 + 1))
}
