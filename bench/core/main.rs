//! What the pure core costs, without any I/O: `cargo bench --bench core`. Tokens and authenticators
//! have 16 octets.
//!
//! `handle`: nanoseconds for each request of a batch, by kind, for one full table and for
//! `BENCH_TABLES` (default 1000, which need 4 GiB). NAT64s and entries are random, so that caches
//! are cold. Requests are written into their buffers before the clock starts, as the kernel would.
//! Prints the median of several rounds, the lowest and the highest.
//!
//! `costly`: the requests that cost the most, against a known client's: see `costly.rs`.
//!
//! `full`: each new client of a full table in which nearly all entries are live: see `full.rs`.
//!
//! `memory`: octets for each entry, with all that the NAT64 has: what was asked of the allocator,
//! and what became resident, the allocator's own bookkeeping included. Each line is measured in a
//! process of its own. 1000 full tables need up to 8 GiB; where there is less, there are fewer
//! tables.
//!
//! Names of parts or of kinds (`client`, `service`, `report`, `echo`, `new`) as arguments run only
//! those. `once KIND` answers a fixed number of requests of that kind at one full table, for tools
//! that count instructions, and prints the command to use.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::System;
use std::time::{Duration, Instant};

use nat64handoff::handoff::ports::TABLE_CAPACITY;
use nat64handoff::handoff::rate::ICMP_RATE_MAX;
use nat64handoff::kernel::huge_pages;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod costly;
mod full;
mod kinds;
mod memory;
mod requests;
mod shard;

use costly::{Costly, PRICE_MAX, Price, ROUNDS as COSTLY_ROUNDS};
use full::POLLED_EVERY;
use kinds::Kind;
use requests::Requests;
use shard::{Shape, Shard};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests in a batch.
const BATCHES: [usize; 3] = [1, 64, 256];
const ROUNDS: usize = 7;
/// The numbers of entries that can go. With more than some thousands, they are found as in a table
/// of which nothing is known.
const CAN_GO: [usize; 5] = [0, 1, 10, 1000, 10_000];
/// Requests of each kind in a round.
const REQUESTS: usize = 1 << 17;
/// The most ICMP requests of one NAT64 in a second: more are not answered.
const ECHOES_MAX: usize = ICMP_RATE_MAX as usize;
/// Requests of `once`.
const ONCE: usize = 1 << 16;

fn main() {
    // Arguments that begin with a hyphen are what cargo passes on.
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // As the server does; but a tool that counts instructions would not follow the exec.
    if arguments.first() != Some(&"once") {
        huge_pages::ask();
    }
    match arguments[..] {
        ["once", kind] => return once(kind),
        ["resident", shape, entries, tables] => {
            return memory::resident(shape, entries.parse().unwrap(), tables.parse().unwrap());
        }
        _ => {}
    }
    let tables = std::env::var("BENCH_TABLES").map_or(1000, |text| text.parse().expect("a number"));
    let wanted = |name: &str| arguments.is_empty() || arguments.contains(&name);
    if wanted("memory") {
        memory::memory(tables);
    }
    if wanted("costly") {
        print_costly();
    }
    if wanted("full") {
        print_full();
    }
    let named = |kind: &Kind| arguments.contains(&kind.name());
    let some: Vec<Kind> = Kind::ALL.into_iter().filter(named).collect();
    if !some.is_empty() {
        handle(tables, &some);
    } else if wanted("handle") {
        handle(tables, &Kind::ALL);
    }
}

fn handle(tables: usize, kinds: &[Kind]) {
    println!("handle: nanoseconds for each request, medians of {ROUNDS} rounds, (low-high)");
    println!("{:<30}{:>7}{:>26}{:>26}{:>26}", "", "tables", "one", "64 at once", "256 at once");
    for tables in [1, tables] {
        let mut shard = Shard::new(Shape::FourPorts, tables, TABLE_CAPACITY);
        shard.fill();
        shard.use_all();
        let mut created = 0;
        for &kind in kinds {
            print!("{:<30}{tables:>7}", kind.meaning());
            for length in BATCHES {
                if matches!(kind, Kind::Echo) && length > ECHOES_MAX * tables {
                    print!("{:>26}", "-");
                    continue;
                }
                let mut rounds: Vec<f64> = (0..ROUNDS)
                    .map(|_| nanoseconds(kind, &mut shard, length, &mut created))
                    .collect();
                rounds.sort_by(f64::total_cmp);
                let (low, high) = (rounds[0], rounds[ROUNDS - 1]);
                let text = format!("{:.0} ({low:.0}-{high:.0})", rounds[ROUNDS / 2]);
                print!("{text:>26}");
            }
            println!();
        }
    }
}

fn nanoseconds(kind: Kind, shard: &mut Shard, length: usize, created: &mut usize) -> f64 {
    let mut batch = Requests::new(length);
    let mut elapsed = Duration::ZERO;
    // Few, so that evictions do not replace the whole table.
    let requests = if matches!(kind, Kind::New | Kind::Echo) { REQUESTS / 16 } else { REQUESTS };
    for _ in 0..requests / length {
        kind.prepare(shard, &mut batch, length, created);
        let begin = Instant::now();
        shard.answer(&mut batch);
        elapsed += begin.elapsed();
        assert!(shard.outbox.replies.len() == length, "{kind:?}: not all were answered");
    }
    elapsed.as_nanos() as f64 / requests as f64
}

/// Prints what each kind takes, with a goal for `bench/run`.
fn print_costly() {
    println!(
        "costly: each kind of request against a known client, the fastest of {COSTLY_ROUNDS} rounds"
    );
    println!("{:<42}{:>8}{:>8}{:>8}  charged", "", "octets", "ns", "price");
    let prices = costly::prices();
    for (Costly { name, charged, .. }, Price { nanoseconds, octets, price }) in
        costly::KINDS.iter().zip(&prices)
    {
        let charged = if *charged { "yes" } else { "" };
        println!("{name:<42}{octets:>8}{nanoseconds:>8.0}{price:>8.1}  {charged}");
    }
    let free = costly::KINDS.iter().zip(&prices).filter(|(kind, _)| !kind.charged);
    let most = free.map(|(_, price)| price.price).fold(0.0, f64::max);
    println!(
        "goal | costly, what is not charged, for 1500 octets: known clients | {PRICE_MAX} | {most:.2}"
    );
}

/// Prints what each case takes, with the goals for `bench/run`.
fn print_full() {
    println!("full: new clients of a full table, a poll for each {POLLED_EVERY} of them");
    println!("{:<34}{:>12}{:>14}{:>14}", "", "can go", "average, us", "longest, us");
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    let mut worst = full::Taken { average: Duration::ZERO, longest: Duration::ZERO };
    for shape in full::SHAPES {
        for can_go in [None].into_iter().chain(CAN_GO.map(Some)) {
            let taken = full::taken(shape, can_go);
            let number = can_go.map_or("all".into(), |can_go| can_go.to_string());
            let (average, longest) = (micros(taken.average), micros(taken.longest));
            println!("{:<34}{number:>12}{average:>14.2}{longest:>14.1}", format!("{shape:?}"));
            worst.average = worst.average.max(taken.average);
            worst.longest = worst.longest.max(taken.longest);
        }
    }
    let (average, longest) = (micros(worst.average), micros(worst.longest));
    println!("goal | full, nearly all live: us for a new client, average | 20 | {average:.2}");
    println!("goal | full, nearly all live: us for a new client, longest | 300 | {longest:.1}");
}

/// `kind` is the name of a [`Kind`].
fn once(kind: &str) {
    let Some(kind) = Kind::ALL.into_iter().find(|known| known.name() == kind) else {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        eprintln!("once: one of {}", names.join(", "));
        std::process::exit(2);
    };
    let mut shard = Shard::new(Shape::FourPorts, 1, TABLE_CAPACITY);
    shard.fill();
    let mut batch = Requests::new(64);
    let mut created = 0;
    for _ in 0..ONCE / 64 {
        kind.prepare(&mut shard, &mut batch, 64, &mut created);
        shard.answer(&mut batch);
    }
    let program = std::env::current_exe().unwrap();
    println!(
        "{ONCE} requests ({}) at a full table, 64 at once. Instructions for each:",
        kind.meaning()
    );
    println!(
        "    valgrind --tool=callgrind --toggle-collect='core::*Shard::answer' {} once {}",
        program.display(),
        kind.name()
    );
    println!("and divide what it collected by {ONCE}.");
}
