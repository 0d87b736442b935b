//! The NAT64 is stopped, or killed, and started again. There is no handoff server: with `--state`,
//! connections go on all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::field::{Field, Site};
use crate::http::Connection;
use crate::process::{Process, wait_until};
use crate::programs::{Gateway, Nginx};

fn start(site: &Site, state: &Path) -> Gateway {
    let log = state.with_extension("log");
    let options = ["--state", state.to_str().unwrap(), "--log", log.to_str().unwrap()];
    Gateway::start_with(site, &options)
}

fn written(state: &Path) -> SystemTime {
    fs::metadata(state).map_or(SystemTime::UNIX_EPOCH, |file| file.modified().unwrap())
}

/// Waits until all is kept that is known now. What was being written may not have it yet.
fn wait_until_kept(state: &Path) {
    for _ in 0..2 {
        let before = written(state);
        wait_until("the entries are kept anew", || written(state) > before);
    }
}

/// The lines of the gateway's log of this kind.
fn lines(state: &Path, kind: &str) -> usize {
    let log = fs::read_to_string(state.with_extension("log")).unwrap();
    log.lines().filter(|line| line.contains(kind)).count()
}

fn state(field: &Field) -> PathBuf {
    field.path("entries")
}

#[test]
fn connections_go_on_after_a_stop_and_a_kill() {
    let field = Field::new();
    let (site, state) = (&field.sites[0], state(&field));
    let nginx = Nginx::start(&field);
    let mut gateway = start(site, &state);
    let mut first = Connection::open(site);
    assert_eq!(first.get("hello"), b"hello\n");

    gateway.stop();
    gateway = start(site, &state);
    gateway.wait_for("1 entries of before go on, 0 are over");
    assert_eq!(first.get("hello"), b"hello\n");
    assert_eq!((lines(&state, " Created "), lines(&state, " Deleted ")), (1, 0));

    let mut second = Connection::open(site);
    assert_eq!(second.get("hello"), b"hello\n");
    wait_until_kept(&state);
    gateway.kill();
    gateway = start(site, &state);
    gateway.wait_for("2 entries of before go on, 0 are over");
    assert_eq!(first.get("hello"), b"hello\n");
    assert_eq!(second.get("hello"), b"hello\n");
    // To nginx they are the same two connections.
    let accesses = nginx.accesses(5);
    let ports: Vec<_> = accesses.iter().map(|access| access.port).collect();
    assert_eq!(ports, [ports[0], ports[0], ports[2], ports[0], ports[2]]);

    // What it is told to forget is forgotten for good.
    gateway.reboot();
    gateway.kill();
    let gateway = start(site, &state);
    assert!(first.is_dead() && second.is_dead());
    drop(gateway);
}

#[test]
fn a_damaged_file_is_put_aside_and_nothing_of_it_is_used() {
    let field = Field::new();
    let (site, state) = (&field.sites[0], state(&field));
    let _nginx = Nginx::start(&field);
    let mut gateway = start(site, &state);
    let mut connection = Connection::open(site);
    assert_eq!(connection.get("hello"), b"hello\n");
    // Nobody else may use it meanwhile.
    let options = ["gateway", "--pool", "192.0.2.8", "--tun", "other", "--state"];
    let arguments = [&options[..], &[state.to_str().unwrap()]].concat();
    let program = env!("CARGO_BIN_EXE_nat64handoff");
    let mut other = Process::start(&site.nat64, program, &arguments);
    other.wait_for("another gateway uses it");
    gateway.stop();

    let whole = fs::read(&state).unwrap();
    let mut octets = whole.clone();
    let middle = octets.len() / 2;
    octets[middle] ^= 1;
    fs::write(&state, &octets).unwrap();
    gateway = start(site, &state);
    gateway.wait_for("is damaged (its checksum is wrong)");
    let aside = PathBuf::from(format!("{}.damaged", state.display()));
    assert_eq!(fs::read(aside).unwrap(), octets);
    assert!(connection.is_dead());
    gateway.stop();
}
