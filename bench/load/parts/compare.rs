//! Ways to the kernel: io_uring, recvmmsg and sendmmsg, tokio; what the server adds on each.

use crate::echo::ECHOES;
use crate::generator::{KNOWN, Sending};
use crate::nat64::Peer;
use crate::parts::{NO_END, SETTLE, TIME};
use crate::process::Process;
use crate::report::{Rounds, Target};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;

pub fn run(rounds: usize) -> Result<(), String> {
    let target = |name: &str, process, peer| {
        let mut target = Target::new(name, process, peer, 0..NAT64S, CLIENTS);
        target.load.fill();
        target
    };
    let mut targets = Vec::new();
    for io in ["uring", "mmsg"] {
        let options = ["--io", io];
        let name = format!("server, --io {io}");
        targets.push(target(&name, Process::server(1, &options), Peer::Server));
    }
    // The others are compared with the last.
    for (name, what) in ECHOES.into_iter().rev() {
        println!("echo {name}: {what}");
        targets.push(target(&format!("echo {name}"), Process::echo(name), Peer::Echo));
    }
    for (sending, name) in [(Sending::Plain, "plain"), (Sending::Joined, "joined")] {
        let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
            load.closed(KNOWN, sending, NO_END, TIME)
        });
        println!("{NAT64S} NAT64s, {name}");
        samples.print();
    }
    Ok(())
}
