//! How far long work is: on a terminal, and nowhere else.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use crate::harness::process::wait_until;
use crate::harness::program::{SERVING, command, free_port};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;
use crate::terminal::Terminal;

const SIZE: (u16, u16) = (24, 80);
/// Less is not long.
const LONG_OCTETS: u64 = 3 << 19;

fn octets_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let octets = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => octets_in(&entry.path()),
        false => entry.metadata().map_or(0, |metadata| metadata.len()),
    });
    octets.sum()
}

/// A line that was drawn, and is gone at the end.
fn check_drawn(text: &str, what: &str) {
    let drawn = text.rfind(&format!("{what} ")).unwrap_or_else(|| panic!("{what}: {text:?}"));
    assert!(text[drawn..].contains(" MiB, "), "{text:?}");
    assert!(text[drawn..].contains("\x1b[2K"), "it is still there: {text:?}");
}

#[test]
fn section_9_progress_of_a_start_and_of_a_check() {
    let mut server = Server::start_single(&["--create-rate", "1M"]);
    let state = server.directory.path().join("state");
    let nat64 = Nat64::known(&server);
    let ports = (1024..=65535).filter(|&port| nat64.is_eligible(port)).take(60_000);
    let entries: Vec<_> =
        ports.enumerate().map(|(number, port)| Client::nth(number as u32).at(port)).collect();
    nat64.fill(&entries);
    assert!(wait_until(PATIENCE, || octets_in(&state) > LONG_OCTETS), "{}", octets_in(&state));
    server.process.signal(libc::SIGTERM);
    server.wait_exit(PATIENCE);
    let said = |text: &str| !text.contains('\x1b') && !text.contains("MiB");
    assert!(said(&server.stderr()), "{}", server.stderr());

    let state_path = state.to_str().unwrap();
    let (code, checked, stderr) = run(&["journal", "check", state_path]);
    assert_eq!((code, stderr.as_str()), (0, ""), "nothing is drawn where there is no terminal");
    let checking = ["journal", "check", state_path];
    let output = server.directory.path().join("checked");
    let stdout = Stdio::from(File::create(&output).unwrap());
    let mut terminal = Terminal::spawn(command().args(checking), SIZE, Some(stdout));
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0));
    check_drawn(&terminal.text(), "checking");
    assert_eq!(fs::read_to_string(output).unwrap(), checked);

    let mut serve = command();
    serve.args(["serve", "--state", state_path, "--listen"]);
    serve.arg(format!("127.0.0.1:{}", free_port()));
    serve.arg("--log").arg(server.log_path());
    let mut terminal = Terminal::spawn(&mut serve, SIZE, None);
    assert!(terminal.says(SERVING, PATIENCE), "{}", terminal.text());
    check_drawn(&terminal.text(), "reading the state");
    terminal.signal(libc::SIGTERM);
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0));
    let serve: Vec<_> = ["--create-rate", "1M"].into();
    let again = Server::launch(
        command(),
        std::mem::replace(&mut server.directory, tempfile::tempdir().unwrap()),
        free_port(),
        vec![std::net::Ipv4Addr::LOCALHOST],
        &serve,
    );
    assert!(said(&again.stderr()), "{}", again.stderr());
}

#[test]
fn section_8_progress_of_annotate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let line = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186\n";
    fs::write(path("events.log"), line).unwrap();
    let line = "192.0.2.7:3719 - - [18/Mar/2019:12:00:00 +0000] \"GET / HTTP/1.1\" 200 3\n";
    fs::write(path("access.log"), line.repeat(30_000)).unwrap();
    let arguments = || {
        let mut command = command();
        command.arg("annotate").arg("--log").arg(path("events.log")).arg(path("access.log"));
        command
    };
    let stdout = Stdio::from(File::create(path("annotated")).unwrap());
    let mut terminal = Terminal::spawn(&mut arguments(), SIZE, Some(stdout));
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0));
    check_drawn(&terminal.text(), "annotating");
    let annotated = fs::read_to_string(path("annotated")).unwrap();
    assert_eq!(
        annotated.lines().filter(|line| line.starts_with("2001:db8::17:53186 ")).count(),
        30_000
    );
    // With the lines on the same terminal, or without one, nothing is drawn.
    let mut terminal = Terminal::spawn(&mut arguments(), SIZE, None);
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0));
    assert_eq!(terminal.text().replace("\r\n", "\n"), annotated);
    let output = arguments().output().unwrap();
    assert_eq!((output.stderr.len(), output.stdout.len()), (0, annotated.len()));
}
