//! Black-box tests of PROTOCOL section 9, what survives what: the real binary is killed, its disk
//! is full, its journal is damaged, and what it says afterwards is compared with what it had said
//! before. Nothing here uses the library. The strict NAT64 is that of the protocol tests.
//!
//! They need root: NAT64s listen on UDP port 9 of 127.0.0.0/8, full disks are small tmpfs in a
//! mount namespace of their own. `NAT64HANDOFF_KILLS=1000` kills more often than the default;
//! `NAT64HANDOFF_SEED` repeats the choices of a run (not its timing).

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "crash/ask.rs"]
mod ask;
#[path = "protocol/clock.rs"]
mod clock;
#[path = "harness/cores.rs"]
mod cores;
#[path = "crash/dice.rs"]
mod dice;
#[path = "crash/field.rs"]
mod field;
#[path = "crash/flood.rs"]
mod flood;
#[path = "harness/mod.rs"]
mod harness;
#[path = "harness/http.rs"]
mod http;
#[path = "judge/mod.rs"]
mod judge;
#[path = "crash/manager.rs"]
mod manager;
#[path = "crash/mount.rs"]
mod mount;
#[path = "crash/newcomers.rs"]
mod newcomers;
#[allow(dead_code, reason = "no program is started in the control group")]
#[path = "harness/peers.rs"]
mod peers;
#[path = "harness/python.rs"]
mod python;
#[path = "crash/record.rs"]
mod record;
#[path = "harness/run.rs"]
mod run;
#[path = "crash/server.rs"]
mod server;
#[path = "crash/worker.rs"]
mod worker;

#[path = "crash/bans.rs"]
mod bans;
#[path = "crash/canary.rs"]
mod canary;
#[path = "crash/damage.rs"]
mod damage;
#[path = "crash/days.rs"]
mod days;
#[path = "crash/full_disk.rs"]
mod full_disk;
#[path = "crash/growth.rs"]
mod growth;
#[path = "crash/hanging_disk.rs"]
mod hanging_disk;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/kill.rs"]
mod kill;
#[path = "crash/memory.rs"]
mod memory;
#[path = "crash/odd_files.rs"]
mod odd_files;
#[path = "crash/restart.rs"]
mod restart;
#[path = "crash/stopped_reader.rs"]
mod stopped_reader;
#[path = "crash/succession.rs"]
mod succession;
