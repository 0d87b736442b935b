//! nat64handoff: the server side of the NAT64 handoff protocol, and a NAT64 to talk to it.
//!
//! # Six rooms
//!
//! A room uses only the rooms above it, and files do not import each other in circles. `ci/tidy.rs`
//! checks both.
//!
//! | room | may | holds |
//! | --- | --- | --- |
//! | [`ip`] | compute | what an IP packet says: headers, ICMP, checksums, flows |
//! | [`handoff`] | compute | the protocol and its server: messages, identities, table, replies |
//! | [`nat64`] | compute | the other end: the NAT64's engine, translation, gateway |
//! | [`kernel`] | system calls, `unsafe` | clock, entropy, signals, sockets, io_uring, TUN |
//! | [`disk`] | files, through one trait | journal, state directory, event log, history |
//! | [`programs`] | all of it | the options, and the programs: serve, gateway, demo |
//!
//! The first three are pure: no I/O, no clock, no randomness, no threads. All that they need to
//! know of the world is an argument. So the same code runs under the reactor, the tests, the
//! fuzzers and the benchmarks, and replay after a crash runs the code that ran live.
//!
//! The protocol is specified on the page of [`handoff`] (`src/PROTOCOL.md`). Comments, counters and
//! test names cite its sections.
//!
//! # One datagram
//!
//! It goes straight through, and nothing calls back up:
//!
//! ```text
//!   kernel     one socket a core, steered by the NAT64's address    socket, ring or mmsg
//!                │ a batch of datagrams                      ▲ a batch of replies
//!                ▼                                           │
//!   programs   the reactor: records changes, then sends ──► disk: journal, event log
//!                │ prepare, prefetch, handle                 ▲ changes, replies
//!                ▼                                           │
//!   handoff    parse ──► who is it ──► which connection ──► decide ───────► reply in place
//!              message   admission     ip::flow             channel, table  reply
//! ```
//!
//! 1. The kernel steers by the NAT64's address alone, so a NAT64's tables live in exactly one
//!    reactor.
//! 2. The reactor reads the clock once a batch. It handles a batch in two passes: first it parses
//!    all datagrams and prefetches what the tables hold for them, then it looks up, decides and
//!    replies.
//! 3. The server returns what to send and the [changes](handoff::change::Change), in order, or the
//!    [reason](handoff::stats::DropReason) for a drop. A change is what the journal keeps, the
//!    event log prints, replay applies and the metrics count.
//! 4. All changes of a batch become one write to the journal. What announces them is sent after
//!    that. This is the only ordering point, and it is in one function.

#![deny(unsafe_code)]

#[forbid(unsafe_code)]
pub mod ip;

#[forbid(unsafe_code)]
pub mod handoff;

#[forbid(unsafe_code)]
pub mod nat64;

#[expect(unsafe_code, reason = "system calls, and memory that the kernel shares")]
pub mod kernel;

#[forbid(unsafe_code)]
pub mod disk;

#[cfg(feature = "programs")]
#[forbid(unsafe_code)]
pub mod programs;

#[cfg(test)]
mod cases;

#[cfg(test)]
#[path = "../ci/harness/skip.rs"]
mod skip;
