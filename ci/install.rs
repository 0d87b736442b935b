//! Tests of `install` and of the service that it makes: on this machine's own system, booted once
//! more by systemd in a container, with its changes in memory. What is built there is built by a
//! stand-in for cargo, which takes the program under test: what `install` makes of it is the same.
//!
//! They want root, systemd-nspawn and an overlay file system, and a Debian or Ubuntu whose init is
//! systemd. Where one of these is missing, that is said and nothing is tested.

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "install/booted.rs"]
mod booted;
#[allow(dead_code, unused_imports, reason = "each test program needs another part of it")]
#[path = "harness/mod.rs"]
mod harness;
#[path = "judge/mod.rs"]
mod judge;
#[path = "install/load.rs"]
mod load;
#[allow(dead_code, reason = "likewise")]
#[path = "harness/threads.rs"]
mod threads;

#[path = "install/bans.rs"]
mod bans;
#[path = "install/confined.rs"]
mod confined;
#[path = "install/deb.rs"]
mod deb;
#[path = "install/deliver.rs"]
mod deliver;
#[path = "install/export.rs"]
mod export;
#[path = "install/image.rs"]
mod image;
#[path = "install/names.rs"]
mod names;
#[path = "install/port.rs"]
mod port;
#[path = "install/readme.rs"]
mod readme;
#[path = "install/script.rs"]
mod script;
#[path = "install/updates.rs"]
mod updates;
