//! Twice what the server can carry, between a tenth of it and a tenth of it.
//!
//! Two kinds: half of the requests from strangers, who never prove themselves; and known NAT64s alone. Requests are
//! joined, 64 in a datagram, as one core could not send twice what another can carry otherwise; where it cannot
//! even so, this fails. What is carried is found by asking for more and more until requests are lost.
//!
//! The *socket buffer's worth* is how long the server needs for a full queue. How many datagrams fill one is
//! counted: a socket with the server's options, which nobody reads, gets the same datagrams until one is dropped.
//! That number, times 64 requests, divided by the requests that the server takes in a second under overload, is
//! it. As many datagrams as the ring has buffers wait behind the socket's queue, received and not looked at: they
//! are told of, and count as the server's delay.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use nat64handoff::kernel::{ring, socket};

use crate::generator::{KNOWN, Phase, SLICE, Sending, Slice, Stranger, Tally};
use crate::nat64::{Kind, Nat64, Peer};
use crate::net::{Burst, FLOODED};
use crate::process::{self, Process};
use crate::report::{Target, goal, spread};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
/// How long each rate is tried, and how long the server is overloaded.
const TRIED: Duration = Duration::from_millis(100);
const OVERLOADED: Duration = Duration::from_millis(500);
/// How long the quiet times before and after take.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_PART: f64 = 0.1;
/// The first rate, in requests a second; each is higher than the one before by the step, first a large one, then,
/// from the last that was carried, a small one.
const RATE_FIRST: f64 = 200_000.0;
const RATE_STEPS: [f64; 2] = [1.25, 1.04];
const RATES_MAX: u32 = 30;
/// Less than this part of what is asked is not carried.
const CARRIED: f64 = 0.98;
/// Nor is what leaves a queue behind, so that the last answers take longer than this.
/// The queue is long: nothing is lost yet in the time that is tried.
const LAST_MAX: Duration = Duration::from_millis(3);
/// Less than this part of twice what is carried is not twice as much.
const SENT: f64 = 0.95;
/// Within so many times what is usual in the quiet time, the slowest answer of a slice is as in the quiet time.
const NORMAL: u64 = 2;
/// So many slices on end are normal when it is all over.
const NORMAL_SLICES: usize = 4;
/// Datagrams that no queue of ours can hold.
const QUEUE_MAX: u64 = 1 << 16;

pub fn run(rounds: usize) -> Result<(), String> {
    let queue = full_queue();
    println!(
        "a full queue: {} datagrams of {FLOODED} requests, {} octets each",
        queue.datagrams,
        queue.octets / queue.datagrams
    );
    // One after the other, also when the first fails.
    let mixed = overload(rounds, &queue, NAT64S, "half from strangers");
    let known = overload(rounds, &queue, 0, "known NAT64s alone");
    mixed.and(known)
}

struct Queue {
    datagrams: u64,
    /// Of the kernel's memory.
    octets: u64,
}

/// How much fits into the queue of a socket like the server's.
fn full_queue() -> Queue {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, process::free_port());
    let sockets = socket::bind_group(&[address], 1).expect("a socket like the server's");
    let mut nat64 = Nat64::new(0, 1, Peer::Echo, address);
    let mut burst = Burst::default();
    (0..FLOODED).for_each(|_| nat64.ask(Kind::Known, 0, &mut burst));
    let drops = || process::sockets(address.port()).map(|socket| socket.drops).sum::<u64>();
    let mut sent = 0;
    while drops() == 0 && sent < QUEUE_MAX {
        burst.send(&nat64.control, FLOODED);
        sent += 1;
    }
    let octets = process::sockets(address.port()).map(|socket| socket.queued).sum();
    let datagrams = sent - drops();
    drop(sockets);
    Queue { datagrams, octets }
}

fn overload(rounds: usize, queue: &Queue, strangers: u32, name: &str) -> Result<(), String> {
    let process = Process::server(1, &[]);
    let mut target = Target::new("server", process, Peer::Server, 0..NAT64S, CLIENTS);
    target.load.fill();
    let address = target.process.address;
    let stranger = |number| Nat64::new(NAT64S + number, CLIENTS, Peer::Server, address);
    target.load.strangers = (0..strangers).map(|number| Stranger::new(stranger(number))).collect();

    let carried = carried(&mut target);
    println!(
        "{name}: {NAT64S} known NAT64s, {strangers} strangers; carried: {carried:.0} requests/s"
    );
    println!(
        "  {:>12}{:>12}{:>12}{:>14}{:>12}{:>10}{:>10}{:>10}{:>10}{:>12}{:>14}",
        "offered/s",
        "sent/s",
        "taken/s",
        "answered/s",
        "of carried",
        "p50 us",
        "p99 us",
        "p99.9",
        "drops",
        "queue's us",
        "normal after"
    );
    // Of all that is carried, known NAT64s ask this part.
    let known = if strangers > 0 { 0.5 } else { 1.0 };
    let resident = target.process.resident_kib();
    let (mut sent, mut kept, mut worth, mut back) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let quiet = Phase { rate: carried * QUIET_PART, time: QUIET };
        let phases = [quiet, Phase { rate: carried * 2.0, time: OVERLOADED }, quiet];
        let before = target.process.socket_drops();
        let tallies = target.load.open(KNOWN, Sending::Flood, &phases);
        let drops = target.process.socket_drops() - before;
        let [quiet, overload, after] = &tallies[..] else { unreachable!("a tally for each phase") };
        let seconds = OVERLOADED.as_secs_f64();
        let all = overload.sent + overload.sent_by_strangers;
        let taken = all.saturating_sub(drops * FLOODED as u64).max(1) as f64 / seconds;
        let queue_micros = (queue.datagrams * FLOODED as u64) as f64 / taken * 1e6;
        let normal = normal_after(quiet, after).as_secs_f64() * 1e3;
        let part = overload.rate() / (carried * known);
        println!(
            "  {:>12.0}{:>12.0}{taken:>12.0}{:>14.0}{part:>12.2}{:>10.0}{:>10.0}{:>10.0}{drops:>10}{:>12.0}{normal:>11.0} ms",
            carried * 2.0,
            all as f64 / seconds,
            overload.rate(),
            overload.quantile(0.5),
            overload.quantile(0.99),
            overload.quantile(0.999),
            queue_micros,
        );
        sent.push(all as f64 / seconds / carried / 2.0);
        kept.push(part);
        worth.push(overload.quantile(0.99) / queue_micros);
        back.push(normal);
    }
    let grown = target.process.resident_kib().saturating_sub(resident);
    let dropped = target.process.socket_drops();
    let totals = target.process.stop().ok_or("overload: the server did not say what it counted")?;
    let all_queues = (queue.datagrams + u64::from(ring::BUFFERS)) as f64 / queue.datagrams as f64;
    let with_ring = spread(worth.iter().map(|part| part / all_queues));
    println!(
        "  with the {} buffers of the ring on io_uring, p99 is {:.2} of what all queues are worth",
        ring::BUFFERS,
        with_ring.median
    );
    println!(
        "  drops of full queues: the kernel counted {dropped}, the server {}; memory: {resident} KiB before, {grown} KiB more after",
        totals.socket_full()
    );
    let sent = spread(sent);
    if sent.median < SENT || dropped == 0 {
        return Err(format!(
            "overload, {name}: the load could not send it: {:.2} of twice what is carried, and the server dropped {dropped}",
            sent.median
        ));
    }
    let goal_of = |what: &str, limit, values| {
        goal(&format!("overload, {name}: {what}"), limit, spread(values))
    };
    goal_of("answers / when all is carried", ">0.95", kept);
    goal_of("p99 / the socket buffer's worth", "1", worth);
    goal_of("back to normal after, ms", "100", back);
    goal_of(
        "drops that the server did not count",
        "0",
        vec![dropped.abs_diff(totals.socket_full()) as f64],
    );
    goal_of("memory grown, KiB", "1024", vec![grown as f64]);
    Ok(())
}

/// Requests a second, those of strangers among them, of which none is lost, or hardly any.
fn carried(target: &mut Target) -> f64 {
    let mut carried = RATE_FIRST;
    for step in RATE_STEPS {
        for _ in 0..RATES_MAX {
            let mut is_carried = || {
                let phase = Phase { rate: carried * step, time: TRIED };
                let drops = target.process.socket_drops();
                let tally = &target.load.open(KNOWN, Sending::Flood, &[phase])[0];
                let asked = phase.rate * TRIED.as_secs_f64();
                let sent = (tally.sent + tally.sent_by_strangers) as f64;
                target.process.socket_drops() == drops
                    && last_slowest(tally) <= LAST_MAX.as_nanos() as u64
                    && sent >= CARRIED * asked
                    && tally.answered as f64 >= CARRIED * tally.sent as f64
            };
            // What fails for a moment's noise passes the second time.
            if !is_carried() && !is_carried() {
                break;
            }
            carried *= step;
        }
    }
    carried
}

/// Of the last slices, the slowest answer of that which had the fastest: nobody took the core from all of them.
fn last_slowest(tally: &Tally) -> u64 {
    let last = tally.slices.iter().rev().filter(|slice| slice.answered > 0).take(NORMAL_SLICES);
    last.map(|slice| slice.slowest).min().unwrap_or(u64::MAX)
}

/// Until so many slices on end are as in the quiet time: nothing lost, nothing slow.
fn normal_after(quiet: &Tally, after: &Tally) -> Duration {
    let mut slowest: Vec<u64> = quiet.slices.iter().map(|slice| slice.slowest).collect();
    slowest.sort_unstable();
    // What nine of ten slices are within.
    let usual = slowest[slowest.len() * 9 / 10];
    let is_normal = |slice: &Slice| slice.answered >= slice.sent && slice.slowest <= usual * NORMAL;
    let on_end = |slices: &[Slice]| slices.iter().all(is_normal);
    let first = after.slices.windows(NORMAL_SLICES).position(on_end);
    SLICE * first.unwrap_or(after.slices.len()) as u32
}
