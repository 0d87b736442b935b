//! README's commands do what README says. Each is run here as it is printed, or by another test,
//! which is named here.

use crate::booted::{Booted, CHECKOUT};

const README: &str = include_str!("../../README.md");

enum Run {
    /// As printed, in the installed system: what it must say.
    Here(&'static str),
    /// By another part of `ci/test`, on what this machine has.
    Elsewhere,
}

/// In README's order.
const COMMANDS: &[(&str, Run)] = &[
    ("cargo run --release -- demo", Run::Elsewhere), // demo
    ("sudo env \"PATH=$PATH\" \"HOME=$HOME\" ci/test", Run::Elsewhere), // the one that this is of
    ("sudo env \"PATH=$PATH\" \"HOME=$HOME\" ci/try", Run::Elsewhere), // e2e
    ("sudo ./install", Run::Here("took the proof that came back")),
    ("/home/nat64ho/install --status", Run::Here("Active: active (running)")),
    ("tail -f /home/nat64ho/logs/events.log", Run::Here("Initialized 127.64.64.9")),
    ("nat64handoff check-config", Run::Here("# good: nothing here keeps it from starting")),
    ("man nat64handoff", Run::Here("NAT64")),
    (ABUSE, Run::Here("2001:db8::64 port ")),
    ("sudo systemctl enable --now nat64handoff-export@journald", Run::Here("")), // export
    (FLOWS, Run::Here("")),                                                      // export
    (ANNOTATE, Run::Here("2001:db8::64 - - [")),
    (ANALYSE, Run::Elsewhere), // e2e
    ("sudo nat64handoff status", Run::Here("new clients are answered")),
    ("sudo nat64handoff top", Run::Elsewhere), // protocol
    ("sudo nat64handoff table 192.0.2.7", Run::Here("[2001:db8::64]:")),
    ("sudo nat64handoff identities", Run::Here("127.64.64.9:")),
    ("sudo nat64handoff drop-table 192.0.2.7", Run::Here("has gone, with ")),
    ("sudo nat64handoff ban 2001:db8::17 --for 10m", Run::Here("2001:db8::17 is banned since ")),
    ("cp -a /home/nat64ho/state /home/nat64ho/logs /var/backups/", Run::Here("")),
    ("cargo build --release", Run::Elsewhere), // build
    ("mkdir -p /var/log/nat64handoff", Run::Here("")),
    (SERVE, Run::Here("serving 0.0.0.0:64064")),
    (FLEET, Run::Elsewhere),         // hosts
    (WHO_OF_FLEET, Run::Elsewhere),  // protocol
    (COPY, Run::Elsewhere),          // hosts
    (WHO_OF_BUCKET, Run::Elsewhere), // hosts
    ("sudo target/release/nat64handoff gateway --pool 192.0.2.7", Run::Elsewhere), // e2e
];
const ABUSE: &str = "sudo nat64handoff who 192.0.2.7:3719 --at '2019-03-18 12:00 +01:00'";
const ABUSE_HERE: &str = "nat64handoff who 192.0.2.7:3719 --at '2019-03-18 12:00 +01:00'";
const ANNOTATE: &str = "sudo cat /var/log/nginx/access.log | sudo nat64handoff annotate";
const ANALYSE: &str = "sudo tail -F /var/log/nginx/access.log | sudo nat64handoff annotate | \
    goaccess --log-format=COMBINED -";
const FLOWS: &str = "sudo systemctl enable --now \"$(systemd-escape \
    --template=nat64handoff-export@.service ipfix+udp://192.0.2.1:4739)\"";
const SERVE: &str = "target/release/nat64handoff serve --state /var/lib/nat64handoff --log \
    /var/log/nat64handoff/events.log";
const FLEET: &str = "nat64handoff serve --listen 203.0.113.5 --fleet \
    http://etcd1:2379,http://etcd2:2379,http://etcd3:2379 --fleet-host 1 --fleet-address \
    198.51.100.1:64065";

const WHO_OF_FLEET: &str =
    "nat64handoff who 192.0.2.7:3719 --at '2019-03-18 12:00' --fleet /var/log/fleet";
const COPY: &str = "nat64handoff history copy --to s3://histories/site1";
const WHO_OF_BUCKET: &str =
    "nat64handoff who 192.0.2.7:3719 --at '2019-03-18 12:00' --fleet s3://histories/site1";

/// What is indented and not within a fence, without comments and output. A line that ends in a pipe
/// or a backslash goes on.
fn commands() -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let (mut fenced, mut goes_on) = (false, false);
    for line in README.lines() {
        fenced ^= line.starts_with("```");
        let command = line.strip_prefix("    ").filter(|_| !fenced);
        let Some(command) = command.filter(|line| !line.starts_with("2019-")) else { continue };
        let command = command.split("  #").next().unwrap_or_default().trim();
        match commands.last_mut() {
            Some(before) if goes_on => {
                *before = format!("{} {command}", before.trim_end_matches([' ', '\\']));
            }
            _ => commands.push(command.to_owned()),
        }
        goes_on = command.ends_with(['|', '\\']);
    }
    commands
}

/// What ends by itself or with what it must say first, about what happened here.
fn as_run_here(command: &str, entry: &str) -> String {
    let command = command.strip_prefix("sudo ").unwrap_or(command);
    if format!("sudo {command}") == ANNOTATE {
        let (address, port) = entry.split_once(':').unwrap();
        let line =
            format!("{address} - - [-] \"GET / HTTP/1.1\" 200 3 \"-\" \"-\" port={port} time=");
        let command = command.replace("sudo ", "");
        return format!(
            "mkdir -p /var/log/nginx; echo '{line}'\"$(date +%s.%3N)\" >/var/log/nginx/access.log; {command}"
        );
    }
    match command {
        ABUSE_HERE => {
            command.replace("2019-03-18 12:00 +01:00", "now").replace("192.0.2.7:3719", entry)
        }
        _ if command.starts_with("nat64handoff table") => {
            command.replace("192.0.2.7", "127.64.64.9")
        }
        _ if command.starts_with("nat64handoff drop-table") => {
            command.replace("192.0.2.7", "127.64.64.9 --yes")
        }
        _ if command.starts_with("tail -f") => format!("head -n 1 < <({command} 2>/dev/null)"),
        // Its port is taken by the service.
        SERVE => format!(
            "systemctl stop nat64handoff; {command} >/tmp/said 2>&1 & \
             for _ in $(seq 300); do grep serving /tmp/said && break; sleep 0.1; done; kill $!; wait $!"
        ),
        _ => format!("{command} | cat"),
    }
}

#[test]
fn readme_commands_do_what_it_says() {
    let expected: Vec<_> = COMMANDS.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(commands(), expected, "a command without a test, or one that is not there");
    let booted = Booted::new();
    booted.done(&format!(
        "mkdir -p {CHECKOUT}/target/release && ln -s /usr/lib/under-test/nat64handoff {CHECKOUT}/target/release/"
    ));
    for (command, run) in COMMANDS {
        let Run::Here(expected) = run else {
            continue;
        };
        let entry = "awk '/Created 127.64.64.9/ { print $4; exit }' /home/nat64ho/logs/events.log";
        let entry = booted.run(entry).text;
        let said = booted.run(&format!("cd {CHECKOUT}; {}", as_run_here(command, entry.trim())));
        assert!(said.text.contains(expected) && said.code == 0, "{command}: {}", said.text);
    }
}
