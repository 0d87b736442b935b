//! Many seeds at once.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Simulates all these seeds, on all cores, and adds up what comes of each: in any order.
pub fn on_all_cores<O, T: Default + Send>(
    seeds: Range<u64>,
    simulate: impl Fn(u64) -> O + Sync,
    add: impl Fn(&mut T, u64, O) + Sync,
) -> T {
    let (next, totals) = (AtomicU64::new(seeds.start), Mutex::new(T::default()));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = simulate(seed);
                    add(&mut totals.lock().expect("no panic while it is held"), seed, outcome);
                }
            });
        }
    });
    totals.into_inner().expect("no panic while it was held")
}
