//! The server's side of the protocol, PROTOCOL.md sections 2 to 8: messages, identities, proofs, the table, the server.
//! Pure: the clock and randomness are arguments, and it does no I/O.

pub mod change;
pub mod fragments;
pub mod identity;
pub mod message;
pub mod ports;
pub mod random;
pub mod rate;
pub mod server;
pub mod stats;
pub mod table;
