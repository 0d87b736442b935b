//! The program `serve`: the whole server, started, supervised and stopped.
//!
//! [`command`] is what the command line calls; [`Serving`] is the server itself, which knows no
//! signals and no command line. Its configuration is the one that the table of options makes:
//! [`ServeConfig`].
//!
#![doc = include_str!("../../LIMITS.md")]
#![doc = include_str!("../../SPEED.md")]

pub mod admin;
pub mod ban_notes;
pub mod bans;
mod check;
pub mod command;
pub mod deliver;
mod drops;
pub mod fleet;
mod held;
mod history;
pub mod inquiry;
mod journal_trouble;
pub mod live;
pub mod names;
pub mod reactor;
pub mod recording;
pub mod recovery;
pub mod repeats;
mod rounds;
mod shard;
mod start;
mod stop;
pub mod supervise;
mod thread;

pub use crate::programs::options::ServeConfig;
pub use start::StartError;
pub use stop::{Serving, StopError, Totals};
