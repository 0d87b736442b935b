//! Several hosts share their tables: what drives [`Ownership`] in each reactor, and the thread that
//! speaks for all reactors with the engine and with the other hosts.
//!
//! - A [`FleetSeat`] is a reactor's part: who answers for a request, what is recorded, what was
//!   watched. It never waits: queues lead to the thread and back, and both ends wake each other.
//! - The thread has a loop of its own: transactions, what is watched, datagrams between hosts.
//!
//! Nothing is kept on this host: without a journal, all tables are read from the engine at the
//! start. One host, the first of those that are there, folds the log into snapshots ([`fold`]), in
//! a thread of its own.
//!
//! [`fold`]: crate::disk::fleet::fold
//!
//! [`Ownership`]: crate::handoff::ownership::Ownership

mod folding;
mod lines;
mod queues;
mod records;
mod seat;
mod start;
mod telling;
mod thread;
mod written;

pub use folding::{FleetGauges, folds};
pub use queues::{KeptRequest, SeatEnd, seat_ends};
pub use seat::{AskedRequest, FleetSeat, FleetTurn, RequestRoute};
pub use start::{FleetError, FleetSetup, FleetState, RunningFleet};
pub use thread::{FleetPlace, live};
