//! The server's side of the protocol: messages, identities, proofs, the table, the server. Pure:
//! the clock and randomness are arguments, and it does no I/O.
//!
//! It implements sections 2 to 8 of the protocol, which the rest of this page specifies.
//!
#![doc = include_str!("../PROTOCOL.md")]

mod avoided;
pub mod bans;
pub mod change;
pub mod delivery;
pub mod entry;
pub mod fragments;
pub mod histogram;
pub mod holding;
pub mod hosts;
pub mod identity;
pub mod line;
pub mod logged;
pub mod message;
pub mod names;
pub mod naming;
pub mod opaque;
pub mod ownership;
pub mod pool;
pub mod ports;
pub mod proof;
pub mod random;
pub mod rate;
pub mod secret;
pub mod server;
mod shown;
pub mod sketch;
pub mod stats;
pub mod table;
pub mod validation;
