//! Several hosts that share their tables, on a real etcd of three nodes. Wants the feature `fleet`,
//! and Debian's etcd-server.
//!
//! ```text
//!   site: NAT64s at 192.0.2.N, etcd at 198.51.100.254      hosts, each in a network of its own
//!   a route to 203.0.113.5 leads to one host or another ── 198.51.100.4N+2, and all 203.0.113.5
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

/// How long anything may take on a machine that does much else.
#[cfg(feature = "fleet")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(feature = "fleet")]
#[path = "e2e/namespace.rs"]
mod namespace;
#[cfg(feature = "fleet")]
#[path = "hosts/served.rs"]
mod served;
#[cfg(feature = "fleet")]
#[path = "hosts/site.rs"]
mod site;

#[cfg(not(feature = "fleet"))]
#[test]
fn this_build_has_no_fleet() {
    harness::skip::cannot_run(
        "the feature fleet, for which `protoc` and its files are to be installed",
    );
}
