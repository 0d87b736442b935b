//! Twice what the server can carry, with a quiet time before and after.
//!
//! Two kinds: half of the requests from strangers, who never prove themselves; and known NAT64s
//! alone. A datagram has 64 requests: one core could not send twice what another can carry
//! otherwise. Where it cannot even so, this fails. What is carried is found by raising the rate
//! until requests are lost.
//!
//! The *socket buffer's worth* is the time that the server needs for a full queue. To know how many
//! datagrams fill one, a socket with the server's options, which nobody reads, is sent the same
//! datagrams until one is dropped. That number, times 64 requests, divided by the requests that the
//! server takes in a second under overload, is the worth. Behind the socket's queue, the ring holds
//! one datagram in each of its buffers, received and not yet handled. They are printed apart, and
//! count as the server's delay.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use nat64handoff::kernel::{ring, socket};

use crate::generator::{KNOWN, Sending, Stranger};
use crate::nat64::{Kind, Nat64, Peer};
use crate::net::{Burst, FLOODED};
use crate::open_loop::Phase;
use crate::process::{self, Process};
use crate::report::{Target, goal, spread};
use crate::tally::{SLICE, Slice, Tally};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
/// The time that each rate is tried, and the time of the overload.
const TRIED: Duration = Duration::from_millis(100);
const OVERLOADED: Duration = Duration::from_millis(500);
/// The time before and after, and its rate, as a part of what is carried.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_PART: f64 = 0.1;
/// The first rate that is tried, in requests a second. Each is higher than the one before by the
/// first step, and from the last that was carried on by the second.
const RATE_FIRST: f64 = 200_000.0;
const RATE_STEPS: [f64; 2] = [1.25, 1.04];
const RATES_MAX: u32 = 30;
/// A rate is carried when this part of it is sent, and this part of that answered,
const CARRIED: f64 = 0.98;
/// and when no queue is left behind: the last answers take no longer than this. The queue is long,
/// so that nothing is lost yet in the time that a rate is tried.
const LAST_MAX: Duration = Duration::from_millis(3);
/// The part of twice what is carried that the load has to send.
const SENT: f64 = 0.95;
/// A slice is back to normal when its slowest answer takes at most this many times what is usual.
const NORMAL: u64 = 2;
/// Slices in a row that have to be normal.
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
    /// Octets of the kernel's memory.
    octets: u64,
}

/// Measures the queue of a socket like the server's.
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

/// The number that each round of an overload gave.
#[derive(Default)]
struct Rounds {
    /// Of twice what is carried, the part that the load sent.
    sent: Vec<f64>,
    /// Answers, of the answers when all is carried.
    kept: Vec<f64>,
    /// The p99 of latency, in the socket buffer's worth.
    worth: Vec<f64>,
    /// Milliseconds until all is normal.
    back: Vec<f64>,
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
    print_columns();
    let resident = target.process.resident_kib();
    let mut numbers = Rounds::default();
    for _ in 0..rounds {
        round(&mut target, carried, queue, &mut numbers);
    }
    let grown = target.process.resident_kib().saturating_sub(resident);
    let dropped = target.process.socket_drops();
    let totals = target.process.stop().ok_or("overload: the server did not say what it counted")?;
    let all_queues = (queue.datagrams + u64::from(ring::BUFFERS)) as f64 / queue.datagrams as f64;
    let with_ring = spread(numbers.worth.iter().map(|part| part / all_queues));
    println!(
        "  with the {} buffers of the ring on io_uring, p99 is {:.2} of what all queues are worth",
        ring::BUFFERS,
        with_ring.median
    );
    println!(
        "  drops of full queues: the kernel counted {dropped}, the server {}; memory: {resident} KiB before, {grown} KiB more after",
        totals.socket_full()
    );
    let sent = spread(numbers.sent);
    if sent.median < SENT || dropped == 0 {
        return Err(format!(
            "overload, {name}: the load could not send it: {:.2} of twice what is carried, and the server dropped {dropped}",
            sent.median
        ));
    }
    let goal_of = |what: &str, limit, values| {
        goal(&format!("overload, {name}: {what}"), limit, spread(values))
    };
    let uncounted = dropped.abs_diff(totals.socket_full()) as f64;
    goal_of("answers / when all is carried", ">0.95", numbers.kept);
    goal_of("p99 / the socket buffer's worth", "1", numbers.worth);
    goal_of("back to normal after, ms", "100", numbers.back);
    goal_of("drops that the server did not count", "0", vec![uncounted]);
    goal_of("memory grown, KiB", "1024", vec![grown as f64]);
    Ok(())
}

fn print_columns() {
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
}

/// A quiet time, the overload, a quiet time. Prints what came of it.
fn round(target: &mut Target, carried: f64, queue: &Queue, numbers: &mut Rounds) {
    let quiet = Phase { rate: carried * QUIET_PART, time: QUIET };
    let phases = [quiet, Phase { rate: carried * 2.0, time: OVERLOADED }, quiet];
    let before = target.process.socket_drops();
    let tallies = target.load.open(KNOWN, Sending::Flood, &phases);
    let drops = target.process.socket_drops() - before;
    let [quiet, overload, after] = &tallies[..] else { unreachable!("a tally for each phase") };
    // The part of what is carried that known NAT64s ask.
    let known = if target.load.strangers.is_empty() { 1.0 } else { 0.5 };
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
    numbers.sent.push(all as f64 / seconds / carried / 2.0);
    numbers.kept.push(part);
    numbers.worth.push(overload.quantile(0.99) / queue_micros);
    numbers.back.push(normal);
}

/// The highest rate at which hardly any request is lost, strangers' requests included.
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

/// The slowest answer of the best of the last slices: something else may have had the core in one
/// of them, but not in all.
fn last_slowest(tally: &Tally) -> u64 {
    let last = tally.slices.iter().rev().filter(|slice| slice.answered > 0).take(NORMAL_SLICES);
    last.map(|slice| slice.slowest).min().unwrap_or(u64::MAX)
}

/// The time until [`NORMAL_SLICES`] slices in a row are as in the quiet time: nothing lost or slow.
fn normal_after(quiet: &Tally, after: &Tally) -> Duration {
    let mut slowest: Vec<u64> = quiet.slices.iter().map(|slice| slice.slowest).collect();
    slowest.sort_unstable();
    // Nine of ten slices are no slower.
    let usual = slowest[slowest.len() * 9 / 10];
    let is_normal = |slice: &Slice| slice.answered >= slice.sent && slice.slowest <= usual * NORMAL;
    let on_end = |slices: &[Slice]| slices.iter().all(is_normal);
    let first = after.slices.windows(NORMAL_SLICES).position(on_end);
    SLICE * first.unwrap_or(after.slices.len()) as u32
}
