//! Black-box tests of the server, written from the protocol's description alone: nothing here
//! uses the library. A strict NAT64 speaks to the real binary over loopback and checks every
//! octet that comes back. Test functions are named after the section that they check.
//!
//! They need to bind UDP port 9 of 127.0.0.0/8 (run as root, or with CAP_NET_BIND_SERVICE).

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "protocol/annotate.rs"]
mod annotate;
#[path = "protocol/annotate_history.rs"]
mod annotate_history;
#[path = "protocol/annotate_names.rs"]
mod annotate_names;
#[path = "protocol/bans.rs"]
mod bans;
#[path = "protocol/clock.rs"]
mod clock;
#[path = "harness/cores.rs"]
mod cores;
#[path = "protocol/export.rs"]
mod export;
#[path = "protocol/export_examples.rs"]
mod export_examples;
#[path = "protocol/export_trouble.rs"]
mod export_trouble;
#[path = "protocol/follow.rs"]
mod follow;
#[path = "harness/mod.rs"]
mod harness;
#[path = "harness/http.rs"]
mod http;
#[path = "judge/mod.rs"]
mod judge;
#[path = "judge/tests.rs"]
mod judge_tests;
#[path = "protocol/peer_pool.rs"]
mod peer_pool;
#[path = "harness/peers.rs"]
mod peers;
#[path = "protocol/progress.rs"]
mod progress;
#[path = "harness/python.rs"]
mod python;
#[path = "protocol/random.rs"]
mod random;
#[path = "harness/run.rs"]
mod run;
#[path = "harness/server.rs"]
mod server;
#[path = "harness/terminal.rs"]
mod terminal;
#[path = "harness/threads.rs"]
mod threads;
#[path = "protocol/top.rs"]
mod top;
#[path = "protocol/watched.rs"]
mod watched;
#[path = "protocol/who.rs"]
mod who;

#[path = "protocol/admin.rs"]
mod admin;
#[path = "protocol/admin_bounds.rs"]
mod admin_bounds;
#[path = "protocol/admin_metrics.rs"]
mod admin_metrics;
#[path = "protocol/command_line.rs"]
mod command_line;
#[path = "protocol/command_line_machine.rs"]
mod command_line_machine;
#[path = "protocol/events.rs"]
mod events;
#[path = "protocol/overload.rs"]
mod overload;
#[path = "protocol/peer_names.rs"]
mod peer_names;
#[path = "protocol/peer_names_ends.rs"]
mod peer_names_ends;
#[path = "protocol/peer_names_refused.rs"]
mod peer_names_refused;
#[path = "protocol/peer_names_stress.rs"]
mod peer_names_stress;
#[path = "protocol/section_2.rs"]
mod section_2;
#[path = "protocol/section_3.rs"]
mod section_3;
#[path = "protocol/section_4.rs"]
mod section_4;
#[path = "protocol/section_5.rs"]
mod section_5;
#[path = "protocol/section_5_identities.rs"]
mod section_5_identities;
#[path = "protocol/section_5_limits.rs"]
mod section_5_limits;
#[path = "protocol/section_6.rs"]
mod section_6;
#[path = "protocol/section_6_full.rs"]
mod section_6_full;
#[path = "protocol/section_6_reports.rs"]
mod section_6_reports;
#[path = "protocol/section_7_client.rs"]
mod section_7_client;
#[path = "protocol/section_7_fragments.rs"]
mod section_7_fragments;
#[path = "protocol/section_7_icmp.rs"]
mod section_7_icmp;
#[path = "protocol/section_7_service.rs"]
mod section_7_service;
#[path = "protocol/section_8.rs"]
mod section_8;
#[path = "protocol/section_8_days.rs"]
mod section_8_days;
#[path = "protocol/soak.rs"]
mod soak;
