//! The parts, in the order in which they run.

mod attack;
mod compare;
mod create;
mod fleet;
mod known;
mod latency;
mod mix;
mod names;
mod overload;
mod reactors;
mod watched;

use std::time::Duration;

use crate::nat64::Peer;
use crate::process::Process;
use crate::report::Target;

/// Runs a number of rounds. An error says why there is no result.
type Part = fn(usize) -> Result<(), String>;

/// By name.
pub const PARTS: [(&str, Part); 11] = [
    ("known", known::run),
    ("create", create::run),
    ("mix", mix::run),
    ("latency", latency::run),
    ("reactors", reactors::run),
    ("overload", overload::run),
    ("attack", attack::run),
    ("compare", compare::run),
    ("watched", watched::run),
    ("names", names::run),
    ("fleet", fleet::run),
];

/// The time to settle after a load that changes nothing.
const SETTLE: Duration = Duration::from_millis(5);
/// More requests than there is time for.
const NO_END: u64 = u64::MAX;
/// The time of a measurement in which nothing changes.
const TIME: Duration = Duration::from_millis(300);

/// The server with its defaults, the echo, and the echo again. Each knows all NAT64s and clients.
fn server_and_echoes(nat64s: u32, known: u32) -> Vec<Target> {
    let target = |name, process, peer| {
        let mut target = Target::new(name, process, peer, 0..nat64s, known);
        target.load.fill();
        target
    };
    vec![
        target("server", Process::server(1, &[]), Peer::Server),
        target("echo, again", Process::echo("uring"), Peer::Echo),
        target("echo", Process::echo("uring"), Peer::Echo),
    ]
}
