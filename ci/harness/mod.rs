//! What all tests of the running program need to start and stop it. Those that need more take
//! `cores.rs`, `run.rs`, `server.rs` or `threads.rs` as well.

pub mod process;
pub mod program;
pub mod skip;
