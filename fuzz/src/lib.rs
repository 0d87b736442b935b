//! What the fuzz targets check, free of any fuzzer, so that the corpora can be replayed by
//! `ci/corpus.rs` on a stable toolchain.
//!
//! [`payload`] is the parser of control payloads, [`packet`] the views of embedded packets and the
//! ICMP messages made from them, [`server`] a whole shard under a little program of requests,
//! [`journal`] the reader of the state directory, whatever happened to its files, [`translate`] the
//! translation of packets between IPv6 and IPv4, beside a second translator in `fuzz/src/naive.rs`,
//! [`gateway`] a whole NAT64 under a little program, [`geneve`] the frames of its tunnels.
//! [`seed`] makes the first inputs of each.
//!
//! What a result must be is said by [`judge`], the tests' own codec, which uses nothing of the
//! library.

pub mod build;
#[path = "../../ci/judge/mod.rs"]
pub mod judge;
pub mod seed;

mod gateway;
mod geneve;
mod journal;
mod naive;
mod packet;
mod payload;
mod server;
mod translate;

pub use gateway::check as gateway;
pub use geneve::check as geneve;
pub use journal::check as journal;
pub use packet::check as packet;
pub use payload::check as payload;
pub use server::check as server;
pub use translate::check as translate;

/// What is checked of an input; it panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target, with the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("payload", payload),
    ("packet", packet),
    ("server", server),
    ("journal", journal),
    ("translate", translate),
    ("gateway", gateway),
    ("geneve", geneve),
];
