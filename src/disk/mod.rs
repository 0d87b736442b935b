//! What is kept: the journal's format, the state directory, the event log. All files of the state directory
//! go through [`fs::Disk`], so that a simulated one can fail at every operation.

pub mod eventlog;
pub mod fs;
pub mod journal;
pub mod storage;
