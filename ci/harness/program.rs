//! The program under test: its command line, and a port for it to serve on.

use super::process::Process;
use super::skip::cannot_run;
use crate::judge::nat64::DISCARD;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// What it says when it serves.
pub const SERVING: &str = "nat64handoff: serving";

/// A port that nobody has, of UDP or TCP: below the ephemeral ones, which control sockets use, and
/// above those that tests map by name.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) + 97 * std::process::id();
        let port = 24_000 + (step % 8_000) as u16;
        let is_free = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if is_free {
            return port;
        }
    }
}

pub fn command() -> Command {
    without_variables(Command::new(env!("CARGO_BIN_EXE_nat64handoff")))
}

/// Of what could change what the program does.
pub fn without_variables(mut command: Command) -> Command {
    for variable in [
        "STATE_DIRECTORY",
        "LOGS_DIRECTORY",
        "RUNTIME_DIRECTORY",
        "LISTEN_FDS",
        "NOTIFY_SOCKET",
        "GLIBC_TUNABLES",
    ] {
        command.env_remove(variable);
    }
    // But how it receives and sends: whoever runs the tests says that.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("NAT64HANDOFF_") && name != "NAT64HANDOFF_IO" {
            command.env_remove(&variable);
        }
    }
    command
}

/// Where NAT64s listen on their port. A test that has one cannot run without.
pub fn wants_discard_port() {
    let bound = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, 255), DISCARD));
    if bound.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
        cannot_run(
            "UDP port 9 of loopback addresses: run it as root, or with CAP_NET_BIND_SERVICE",
        );
    }
}

/// Waits until a server serves, also new clients: where the disk is slow, that comes later.
pub fn serves(process: &mut Process, patience: Duration) -> bool {
    let serves = process.says(SERVING, patience);
    if serves && process.stderr.contains("the event log is not complete yet") {
        process.says("new clients are served", patience);
    }
    serves
}
