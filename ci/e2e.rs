//! End to end: real kernels, curl, nginx, dig and ping, through the gateway and the server, in
//! network namespaces: a client that has IPv6 alone, a NAT64, and the host of a service that has
//! IPv4 alone.
//!
//! ```text
//!   client                     NAT64                       server
//!   2001:db8:N::17 ────────── gateway ──────────────────── nginx, nat64handoff serve
//!                  IPv6        192.0.2.7 in 64:ff9b::/96    203.0.113.5   IPv4
//! ```
//!
//! Tests run beside each other: namespaces have no names, and are gone with the test, whatever
//! happens to it; so are the processes in them. They need root, and say so where they are skipped;
//! the Debian packages that are missing are installed by `ci/packages`.

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "harness/process.rs"]
mod child;
#[path = "judge/mod.rs"]
mod judge;
#[path = "harness/threads.rs"]
mod threads;

#[path = "harness/delivering.rs"]
mod delivering;
#[path = "e2e/field.rs"]
mod field;
#[path = "e2e/http.rs"]
mod http;
#[path = "e2e/namespace.rs"]
mod namespace;
#[path = "e2e/pcap.rs"]
mod pcap;
#[path = "harness/peers.rs"]
mod peers;
#[path = "e2e/process.rs"]
mod process;
#[path = "e2e/programs.rs"]
mod programs;
#[path = "harness/skip.rs"]
mod skip;

#[path = "e2e/annotate.rs"]
mod annotate;
#[path = "e2e/bans.rs"]
mod bans;
#[path = "e2e/capture.rs"]
mod capture;
#[path = "e2e/crowd.rs"]
mod crowd;
#[path = "e2e/device.rs"]
mod device;
#[path = "e2e/dns64.rs"]
mod dns64;
#[path = "e2e/downloads.rs"]
mod downloads;
#[path = "e2e/errors.rs"]
mod errors;
#[path = "e2e/fail2ban.rs"]
mod fail2ban;
#[path = "e2e/firewalls.rs"]
mod firewalls;
#[path = "e2e/full_pool.rs"]
mod full_pool;
#[path = "e2e/geneve.rs"]
mod geneve;
#[path = "e2e/geneve_peer.rs"]
mod geneve_peer;
#[path = "e2e/hairpin.rs"]
mod hairpin;
#[path = "e2e/host.rs"]
mod host;
#[path = "e2e/kept.rs"]
mod kept;
#[path = "e2e/limit.rs"]
mod limit;
#[path = "e2e/live.rs"]
mod live;
#[path = "e2e/mtu.rs"]
mod mtu;
#[path = "e2e/name_servers.rs"]
mod name_servers;
#[path = "e2e/native.rs"]
mod native;
#[path = "e2e/native_auto.rs"]
mod native_auto;
#[path = "e2e/native_plain.rs"]
mod native_plain;
#[path = "e2e/native_programs.rs"]
mod native_programs;
#[path = "e2e/peer_names.rs"]
mod peer_names;
#[path = "e2e/peer_programs.rs"]
mod peer_programs;
#[path = "e2e/pool.rs"]
mod pool;
#[path = "e2e/queues.rs"]
mod queues;
#[path = "e2e/reboot.rs"]
mod reboot;
#[path = "e2e/restart.rs"]
mod restart;
#[path = "e2e/slow_link.rs"]
mod slow_link;
#[path = "e2e/told.rs"]
mod told;
#[path = "e2e/translate.rs"]
mod translate;
#[path = "e2e/try_it.rs"]
mod try_it;
#[path = "e2e/tunnel.rs"]
mod tunnel;
#[path = "e2e/udp.rs"]
mod udp;
