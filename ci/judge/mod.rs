//! The judge of what the server does: a codec of messages, packets and event log lines, and a
//! strict NAT64. All of it is written from the protocol's description alone and uses nothing of the
//! library.

#![allow(dead_code, reason = "each test program needs another part of the one judge")]

pub mod client;
pub mod eventlog;
pub mod geneve;
pub mod names;
pub mod nat64;
pub mod packet;
#[path = "../../src/nat64/translate/samples.rs"]
pub mod samples;
pub mod wire;

use std::time::Duration;

/// How long to wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for what is done when nobody else wants the cores or the disk.
pub const LEISURE: Duration = Duration::from_secs(120);
/// How long to wait for what must not come.
pub const SHORT: Duration = Duration::from_millis(250);
