//! What is kept: the journal's format, the state directory, the event log. All of it goes through `Disk`, so that a
//! simulated one can fail at every operation.

pub mod eventlog;
pub mod journal;
pub mod storage;
