//! Several hosts that share their tables, on a real etcd of three nodes. Wants the feature `fleet`,
//! and Debian's etcd-server; bird2 where routes are announced, and Python's moto where histories
//! are copied to a bucket.
//!
//! ```text
//!   site: NAT64s at 192.0.2.N                              hosts, each in a network of its own
//!   a route to 203.0.113.5 leads to one host or another ── 198.51.100.4N+2, and all 203.0.113.5
//!                                                          nodes of etcd, each in its own
//!                                                       ── 198.51.100.4N+2, N from 40 on
//! ```

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[allow(dead_code, reason = "other tests start programs in more ways")]
mod harness;
mod judge;

#[cfg(feature = "fleet")]
#[path = "hosts/cluster.rs"]
mod cluster;
#[cfg(feature = "fleet")]
#[path = "hosts/engine.rs"]
mod engine;
#[cfg(feature = "fleet")]
#[path = "hosts/folded.rs"]
mod folded;

/// How long anything may take on a machine that does much else.
#[cfg(feature = "fleet")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(feature = "fleet")]
#[path = "hosts/asker.rs"]
mod asker;
#[cfg(feature = "fleet")]
#[path = "hosts/bucket.rs"]
mod bucket;
#[cfg(feature = "fleet")]
#[path = "hosts/copied.rs"]
mod copied;
#[cfg(feature = "fleet")]
#[path = "crash/dice.rs"]
mod dice;
#[cfg(feature = "fleet")]
#[path = "hosts/gaps.rs"]
mod gaps;
#[cfg(feature = "fleet")]
#[allow(dead_code, reason = "hosts are asked at their sockets alone")]
#[path = "harness/http.rs"]
mod http;
#[cfg(feature = "fleet")]
#[path = "hosts/kill.rs"]
mod kill;
#[cfg(feature = "fleet")]
#[path = "hosts/lines.rs"]
mod lines;
#[cfg(feature = "fleet")]
#[path = "hosts/live.rs"]
mod live;
#[cfg(feature = "fleet")]
#[path = "e2e/namespace.rs"]
mod namespace;
#[cfg(feature = "fleet")]
#[path = "harness/python.rs"]
mod python;
#[cfg(feature = "fleet")]
#[path = "hosts/routed.rs"]
mod routed;
#[cfg(feature = "fleet")]
#[path = "harness/run.rs"]
mod run;
#[cfg(feature = "fleet")]
#[path = "hosts/secured.rs"]
mod secured;
#[cfg(feature = "fleet")]
#[path = "hosts/served.rs"]
mod served;
#[cfg(feature = "fleet")]
#[path = "harness/server.rs"]
#[allow(dead_code, reason = "other tests start it in more ways")]
mod server;
#[cfg(feature = "fleet")]
#[path = "hosts/site.rs"]
mod site;
#[cfg(feature = "fleet")]
#[path = "hosts/strikes.rs"]
mod strikes;

#[cfg(not(feature = "fleet"))]
#[test]
fn this_build_has_no_fleet() {
    harness::skip::cannot_run(
        "the feature fleet, for which `protoc` and its files are to be installed",
    );
}
