//! What starts and stops the program under test, for the protocol and crash tests.

pub mod process;
pub mod program;
pub mod skip;

pub use process::wait_until;
pub use program::run;
