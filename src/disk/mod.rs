//! What is kept: the journal's format, the state directory, the event log and its history. All
//! files of the state directory go through [`fs::Disk`], so that a simulated one can fail at every
//! operation.
//!
#![doc = include_str!("../STATE.md")]

pub mod bans;
#[cfg(feature = "programs")]
pub mod copies;
pub mod counted;
pub mod eventlog;
#[cfg(feature = "programs")]
pub mod fleet;
mod folded;
pub mod fs;
#[cfg(feature = "programs")]
pub mod history;
pub mod journal;
pub mod kept;
pub mod routes;
pub mod storage;

use crate::handoff::random::SecretHash;
use crate::kernel::entropy;

/// The events of a shard that the event log may lack at most, durably: no more are made until it
/// has some of them. So these are all that a start has to compare with it, and to hold in memory
/// for that: at about 120 octets each, 16 MB for a shard.
const UNLOGGED_MAX: u64 = 1 << 17;

/// A keyed hash, for indexes in memory whose keys a remote can choose.
fn secret_hash() -> SecretHash {
    // Where the kernel refuses randomness, the worst case is a slow start.
    SecretHash::new(entropy::octets().unwrap_or_default())
}
