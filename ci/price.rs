//! The price of requests in the pure core, against a known client's in the same run: no kind is so
//! dear that few datagrams hold up others, unless a bucket of its NAT64 bounds how many there are.
//!
//! They take turns, and what counts of each is its fastest round: a busy core can only make a time
//! longer. `cargo bench --bench core -- costly full` prints the same in full.

#![expect(clippy::disallowed_methods, reason = "a test of time reads the clock")]

#[path = "../bench/core/costly.rs"]
mod costly;
#[path = "../bench/core/full.rs"]
mod full;
#[path = "../bench/core/requests.rs"]
mod requests;
#[path = "../bench/core/shard.rs"]
mod shard;

use costly::{KINDS, PRICE_MAX, Price};
use shard::Shape;

/// What a new client of a full table may take where this many entries can go, against a table where
/// nothing is known of connections: on average, about a microsecond there; and the longest of all,
/// which is held up by a look at all entries there.
const TAKEN_MAX: [(usize, f64, f64); 5] = [
    (0, 3.0, LOOK_MAX),
    (1, 3.0, 0.5),
    (10, 3.0, 0.5),
    (1000, 3.0, LOOK_MAX),
    (10_000, 12.0, LOOK_MAX),
];
/// One round in which nobody takes the core away is enough.
const ROUNDS: usize = 8;
/// A look at all entries. A heavy /64 needs one when those of its entries that can go are gone:
/// newcomers of others take their ports, and do not pay for it.
const LOOK_MAX: f64 = 5.0;

#[test]
fn no_request_is_dear_that_is_not_charged() {
    let prices = costly::prices();
    for (kind, price) in KINDS.iter().zip(&prices) {
        let Price { nanoseconds, octets, price } = price;
        eprintln!("{}: {octets} octets, {nanoseconds:.0} ns, {price:.1}", kind.name);
    }
    for (kind, price) in KINDS.iter().zip(&prices) {
        assert!(kind.charged || price.price <= PRICE_MAX, "{}: {:.1}", kind.name, price.price);
    }
}

#[test]
fn a_new_client_is_cheap_also_where_nearly_all_entries_are_live() {
    for shape in full::SHAPES {
        for (can_go, average_max, longest_max) in TAKEN_MAX {
            let longest_max = if shape == Shape::Heavy { LOOK_MAX } else { longest_max };
            let is_cheap = || {
                let alone = full::taken(Shape::FourPorts, None);
                let taken = full::taken(shape, Some(can_go));
                let average = taken.average.as_secs_f64() / alone.average.as_secs_f64();
                let longest = taken.longest.as_secs_f64() / alone.longest.as_secs_f64();
                eprintln!(
                    "{shape:?}, {can_go} can go: {average:.1}, longest {longest:.1}: {taken:?}"
                );
                average <= average_max && longest <= longest_max
            };
            assert!((0..ROUNDS).any(|_| is_cheap()), "{shape:?}, {can_go} can go");
        }
    }
}
