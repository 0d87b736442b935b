//! `ci/try`, as README's "Try it" tells to run it.

use std::fs::{read_dir, read_to_string};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::field::Field;
use crate::judge::eventlog::{Event, Kind};
use crate::judge::names::Names;
use crate::process::{command, wait_until};

const TRY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/try");
/// What `ci/picture` has made of it.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.github/peers.svg");

/// With its files in that folder.
fn try_it(folder: &Path) -> Command {
    let mut try_it = command(TRY);
    try_it.env("NAT64HANDOFF", env!("CARGO_BIN_EXE_nat64handoff")).env("TMPDIR", folder);
    try_it
}

/// Neither files nor processes nor namespaces.
fn check_nothing_is_left(folder: &Path, id: u32) {
    assert_eq!(read_dir(folder).unwrap().count(), 0);
    let namespaces = read_dir("/run/netns").unwrap();
    let mut names = namespaces.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.find(|name| name.starts_with(&format!("try-{id}-"))), None);
    // All that it starts has a file in the folder, or is an `ip` or `sleep` that ends by itself.
    let folder = folder.to_str().unwrap();
    let processes = read_dir("/proc").unwrap().filter_map(|entry| {
        read_to_string(entry.ok()?.path().join("cmdline")).ok().filter(|line| line.contains(folder))
    });
    assert_eq!(processes.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn try_it_names_the_client_and_shows_that_an_idle_connection_lives() {
    Field::can_be();
    let folder = tempfile::tempdir().unwrap();
    let child = try_it(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert_eq!(wrong, "");

    let lines_of = |name: &str| -> Vec<&str> {
        said.lines().filter_map(|line| line.trim().strip_prefix(name)).map(str::trim).collect()
    };
    let accesses = lines_of("nginx ");
    let events: Vec<Event> =
        lines_of("event log ").iter().map(|line| Event::parse(line).unwrap()).collect();
    let [download, before, after] = accesses[..] else { panic!("{said}") };
    let [of_download, of_connection] = &events[..] else { panic!("{said}") };
    let port_of = |access: &str| -> u16 {
        let port = access.strip_prefix("192.0.2.7:").unwrap().split(' ').next().unwrap();
        port.parse().unwrap()
    };
    assert_eq!(port_of(before), port_of(after));
    for (access, event) in [(download, of_download), (after, of_connection)] {
        let (port, client, _) = event.entry.unwrap();
        assert_eq!((event.kind, port), (Kind::Created, port_of(access)));
        assert_eq!(client.to_string(), "2001:db8::17");
    }
    let who = download.split(' ').next().unwrap();
    let answers = lines_of(&format!("nat64handoff who {who}:"));
    let [answer] = answers[..] else { panic!("{said}") };
    let (_, client, port) = of_download.entry.unwrap();
    let expected = format!("{client} port {port}, since {} UTC, until now", of_download.when);
    assert_eq!(answer, expected, "the report names the client of the download");
    assert!(said.contains(&format!("who was {who}?")), "{said}");
    if !said.contains("    left out: ") {
        let lines = lines_of("its log ");
        let seen: Vec<_> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        let nat64 = "192.0.2.7";
        let clients = ["2001:db8::17", "2001:db8::2a", "2001:db8::5"];
        assert_eq!(seen, [&[nat64; 3][..], &clients].concat(), "{said}");
        // The picture shows the same, at another time.
        let shown = read_to_string(PICTURE).unwrap();
        for line in lines {
            let (before, rest) = line.split_once('[').unwrap();
            let request = rest.split('"').nth(1).unwrap();
            let is_it = |shown: &&str| shown.contains(before) && shown.contains(request);
            assert!(shown.lines().any(|shown| is_it(&shown)), "run ci/picture: {line}");
        }
    }
    let delivered = lines_of("delivered ");
    let seen: Vec<_> = delivered.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(seen, ["2001:db8::17", "2001:db8::2a", "2001:db8::5"], "{said}");
    assert!(said.contains("an answer from 64:ff9b::cb00:7105"), "{said}");
    let translated = lines_of("translated ");
    let seen: Vec<_> = translated.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let names = Names::of(&lines_of("names ").join("\n"));
    let clients = ["2001:db8::17", "2001:db8::2a", "2001:db8::5"];
    let of_clients = clients.map(|client| names.address_of(client.parse().unwrap()).unwrap());
    assert_eq!(seen, of_clients.map(|address| address.to_string()), "{said}");
    check_nothing_is_left(folder.path(), id);
}

#[test]
fn try_it_leaves_nothing_when_it_is_interrupted() {
    Field::can_be();
    let folder = tempfile::tempdir().unwrap();
    let mut try_it = try_it(folder.path());
    try_it.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = try_it.spawn().unwrap();
    // When it says so, all programs run.
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.starts_with("1.")));
    let group = i32::try_from(child.id()).unwrap();
    // SAFETY: takes numbers alone. The child leads the group and was not waited for.
    assert_eq!(unsafe { libc::kill(-group, libc::SIGINT) }, 0);
    let mut status = None;
    wait_until("ci/try ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    // 130, or what a program of it that was interrupted first has ended with.
    assert!(!status.unwrap().success());
    check_nothing_is_left(folder.path(), child.id());
}
