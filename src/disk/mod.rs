//! What is kept: the journal's format, the state directory, the event log. All files of the state
//! directory go through [`fs::Disk`], so that a simulated one can fail at every operation.

pub mod eventlog;
pub mod fs;
pub mod journal;
pub mod storage;

use crate::handoff::random::SecretHash;
use crate::kernel::entropy;

/// A keyed hash, for indexes in memory whose keys a remote can choose.
fn secret_hash() -> SecretHash {
    // Where the kernel refuses randomness, the worst case is a slow start.
    SecretHash::new(entropy::octets().unwrap_or_default())
}
