//! nat64handoff: the server side of the NAT64 handoff protocol.
//!
//! A pure core and a thin shell. The core does no I/O, reads no clock and draws no randomness: all three
//! are arguments. A datagram goes straight through, and nothing calls back up:
//!
//! ```text
//!            kernel: one socket a core, steered by the NAT64's address     socket, ring
//!                │ batch of datagrams                        ▲ batch of replies
//!                ▼                                           │
//!            reactor: records changes, then sends ──► storage, eventlog
//!                │ handle(now, datagram, outbox)             ▲ replies, changes
//!                ▼                                           │
//!   parse ──► who is it ──► what is inside ──► decide ──► reply in place
//!   wire      validation    packet             table       server
//! ```
//!
//! Comments and test names cite PROTOCOL.md: the protocol as this project implements it, that is
//! draft-dupont-6man-nat64handoff-00 with every point settled that it leaves open; its sections are those
//! of payloads (2), requests (3), replies (4), validation (5), the table (6), what is done with a request
//! (7), the event log (8), what survives (9) and the NAT64's side (10).
//!
//! Six rooms, each of which uses only those above it.

pub mod ip;

pub mod handoff;

pub mod nat64;

pub mod kernel;

pub mod disk;

pub mod programs;

#[cfg(test)]
mod cases;
