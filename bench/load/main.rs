//! The whole server under load, against an echo: `cargo bench --bench load` (root, for UDP port 9).
//!
//! A load on the last core, a process under test on the first; both on loopback. What is compared
//! alternates within each round, each ratio is that of one round, and what is printed is the median
//! of the ratios, with the lowest and the highest. CPU time is that of all threads of the process,
//! from /proc/PID/task/*/schedstat, for each request that was answered. An echo that stands in a
//! table twice shows how much is noise.
//!
//! | part | what is measured |
//! | --- | --- |
//! | `known` | known clients; 1, 16, 256 NAT64s; plain, and 16 requests as GSO segments |
//! | `create` | new clients: journal and event log in files |
//! | `mix` | known clients, service packets, new clients, reports |
//! | `latency` | at a tenth of what the server can carry |
//! | `reactors` | two reactors against one |
//! | `overload` | twice what the server can carry, with strangers and without |
//! | `attack` | how long an honest NAT64 waits while others attack |
//! | `compare` | io_uring and tokio, without the protocol |
//! | `watched` | what pages, Prometheus, history and an exporter add |
//! | `names` | new and known clients with `--peer-names`, against the same without |
//! | `fleet` | a host of a fleet, against one that is alone: `--features fleet`, and etcd |
//!
//! Names of parts as arguments run only those. `BENCH_ROUNDS` changes how many rounds there are
//! (default 5). With `BENCH_FIFO` set, `attack` gives reactor and load a real-time priority, so
//! that other programs of this machine do not add to latencies.
//!
//! | file | what it is |
//! | --- | --- |
//! | `net` | many datagrams in one system call; the `unsafe` |
//! | `nat64` | a NAT64 of the load: requests, and what their replies must be |
//! | `newcomers` | NAT64s that prove themselves where there is no room |
//! | `generator` | the load, and the closed loop |
//! | `open_loop` | the open loop |
//! | `tally` | loss and latency |
//! | `process` | starts what is measured, reads its CPU time |
//! | `echo` | servers without a protocol; this program again, as a child |
//! | `report` | rounds, ratios, tables, goals |
//! | `parts` | the parts |

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::process::ExitCode;
use std::thread;

mod echo;
mod generator;
mod nat64;
mod net;
mod newcomers;
mod open_loop;
mod parts;
mod process;
mod report;
mod tally;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, name, address] = &arguments[..]
        && mode == "echo"
    {
        let address = address.parse().expect("an address to listen on");
        let (name, thread) = (name.clone(), thread::Builder::new().name("echo".into()));
        let echo = thread.spawn(move || echo::run(&name, address)).expect("a thread");
        echo.join().expect("an echo that ends well").expect("an echo");
        return ExitCode::SUCCESS;
    }
    // Arguments that begin with a hyphen are what cargo passes on.
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|name| !name.starts_with('-')).collect();
    for name in &wanted {
        let known = parts::PARTS.iter().any(|(part, _)| part == name);
        assert!(known, "{name}: no such part; there are {:?}", parts::PARTS.map(|(part, _)| part));
    }
    let rounds =
        std::env::var("BENCH_ROUNDS").map_or(5, |text| text.parse().expect("BENCH_ROUNDS"));
    net::raise_files_limit();
    let cores = process::pin_to_last_core();
    assert!(rounds > 0 && cores > 1, "a round at least, and two cores");
    let mut failed = false;
    for (name, part) in parts::PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            println!("== {name}");
            if let Err(why) = part(rounds) {
                println!("FAILED: {why}");
                failed = true;
            }
            println!();
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
