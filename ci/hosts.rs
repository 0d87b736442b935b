//! Several hosts that share their tables: on a real etcd of three nodes, on loopback. Wants the
//! feature `fleet`, and Debian's etcd-server.

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

#[cfg(not(feature = "fleet"))]
#[test]
fn this_build_has_no_fleet() {
    harness::skip::cannot_run(
        "the feature fleet, for which `protoc` and its files are to be installed",
    );
}
