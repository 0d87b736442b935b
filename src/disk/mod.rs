//! What is kept: the journal's format, the state directory, the event log. All files of the state
//! directory go through [`fs::Disk`], so that a simulated one can fail at every operation.

pub mod eventlog;
pub mod fs;
pub mod journal;
pub mod storage;

use crate::handoff::random::SecretHash;
use crate::kernel::entropy;

/// For indexes that only this process sees, of what remotes chose.
fn secret_hash() -> SecretHash {
    // Where the kernel refuses randomness, the worst case is a slow start.
    SecretHash::new(entropy::octets().unwrap_or_default())
}
