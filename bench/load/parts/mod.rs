//! The parts, in the order in which they run.

mod compare;
mod create;
mod known;
mod latency;
mod mix;
mod overload;
mod reactors;

use std::time::Duration;

use crate::nat64::Peer;
use crate::process::Process;
use crate::report::Target;

/// What is run for a number of rounds; or why it says nothing.
type Part = fn(usize) -> Result<(), String>;

/// By name.
pub const PARTS: [(&str, Part); 7] = [
    ("known", known::run),
    ("create", create::run),
    ("mix", mix::run),
    ("latency", latency::run),
    ("reactors", reactors::run),
    ("overload", overload::run),
    ("compare", compare::run),
];

/// What is left to do after a load that changes nothing.
const SETTLE: Duration = Duration::from_millis(5);
/// More requests than there is time for.
const NO_END: u64 = u64::MAX;
/// How long a measurement of what changes nothing takes.
const TIME: Duration = Duration::from_millis(300);

/// The server with its defaults, the echo, and the echo once more; each knows all NAT64s and their clients.
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
