//! The port never closes: no request of a known client is lost when the server restarts, is
//! upgraded, killed or has another number of reactors, and no NAT64 is told that nobody listens.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::load::{Load, Outcome};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 64064);
const NAT64S: u32 = 100;
/// Requests a second: as many as the queues of two sockets of the usual size hold for a second.
/// `NAT64HANDOFF_LOAD` is another rate, to measure.
const RATE: u32 = 500;

/// What happens to requests while `act` happens to the server, from before it until it has served
/// again for a while.
pub fn under_load(booted: &Booted, act: impl FnOnce()) -> Outcome {
    under_load_until(booted, act, Load::end)
}

/// The same, where some are not answered.
fn under_load_with_losses(booted: &Booted, act: impl FnOnce()) -> Outcome {
    under_load_until(booted, act, Load::end_with_losses)
}

fn under_load_until(
    booted: &Booted,
    act: impl FnOnce(),
    end: impl FnOnce(Load) -> Outcome,
) -> Outcome {
    let rate = std::env::var("NAT64HANDOFF_LOAD").ok().and_then(|rate| rate.parse().ok());
    let load = Load::start(booted, SERVER, NAT64S, rate.unwrap_or(RATE));
    std::thread::sleep(Duration::from_millis(300));
    act();
    std::thread::sleep(Duration::from_millis(700));
    let outcome = end(load);
    println!("{outcome:?}");
    outcome
}

pub fn nothing_is_lost(outcome: &Outcome) {
    assert_eq!((outcome.unreachable, outcome.unanswered), (0, 0), "{outcome:?}");
    assert!(outcome.sent > u64::from(RATE / 2), "{outcome:?}");
    // What waits, waits for the next process to have read the state, however busy the machine is.
    assert!(outcome.p99_of_gap < PATIENCE && outcome.longest < PATIENCE, "{outcome:?}");
}

fn serves_again(booted: &Booted, before: u32) {
    let again = wait_until(PATIENCE, || {
        let active = booted.run("systemctl is-active --quiet nat64handoff").code == 0;
        active && booted.server_now().is_some_and(|now| now != before)
    });
    assert!(again, "{}", booted.run("systemctl status nat64handoff").text);
}

#[test]
fn port_stays_open_over_restarts() {
    let booted = Booted::installed("--no-update");
    nothing_is_lost(&under_load(&booted, || {
        booted.done("systemctl restart nat64handoff");
    }));
    // One that ends by itself, and is started again.
    let killed = under_load_with_losses(&booted, || {
        let server = booted.server();
        booted.done("systemctl kill --kill-who=main --signal=KILL nat64handoff");
        serves_again(&booted, server);
    });
    assert_eq!(killed.unreachable, 0, "{killed:?}");
    // What it had taken out of the sockets and not answered: less than a batch.
    assert!(killed.unanswered < 256, "{killed:?}");
    // An upgrade: the next process starts beside this one, and is the service then.
    let process = booted.server();
    nothing_is_lost(&under_load(&booted, || {
        hand_over(&booted);
        serves_again(&booted, process);
    }));
    let said = booted.done("journalctl --no-pager --unit=nat64handoff");
    assert_eq!(said.matches("starting the program anew, beside").count(), 1, "{said}");
    assert_eq!(said.matches("executing the program anew").count(), 0, "{said}");
    assert_eq!(booted.property("NRestarts"), "1", "of the one that was killed");
    // It is restarted as the first one is: it ends its work before the next one starts.
    let stopped = |booted: &Booted| {
        let said = booted.done("journalctl --no-pager --unit=nat64handoff");
        (said.matches(": stopped: ").count(), said.matches("not our child").count())
    };
    let (before, _) = stopped(&booted);
    let process = booted.server();
    nothing_is_lost(&under_load(&booted, || {
        booted.done("systemctl restart nat64handoff");
        serves_again(&booted, process);
    }));
    assert_eq!(stopped(&booted), (before + 1, 0));
    let process = booted.server();
    hand_over(&booted);
    serves_again(&booted, process);
    booted.done("systemctl stop nat64handoff");
    assert_eq!(stopped(&booted), (before + 3, 0));
    let said = booted.done("journalctl --no-pager --unit=nat64handoff");
    assert_eq!(said.matches("not cleanly stopped").count(), 1, "the one that was killed: {said}");
    booted.done("systemctl start nat64handoff");
    let process = booted.server();
    hand_over(&booted);
    serves_again(&booted, process);
    // It is watched as the first one was, and started again where it ends by itself.
    let process = booted.server();
    booted.done("systemctl kill --kill-who=main --signal=KILL nat64handoff");
    serves_again(&booted, process);
    assert_eq!(booted.property("NRestarts"), "1", "since it was started");
}

fn hand_over(booted: &Booted) {
    booted.done("systemctl kill --kill-who=main --signal=USR2 nat64handoff");
}

/// A state that takes a while to be read.
#[test]
fn port_stays_open_with_a_million_entries() {
    const TABLES: u32 = 16;
    const OF_A_TABLE: u32 = 62_500;
    let booted = Booted::installed("--no-update");
    let network = booted.network();
    std::thread::scope(|scope| {
        for _ in 0..TABLES {
            scope.spawn(|| {
                network.enter();
                let nat64 = Nat64::known(SERVER);
                let ports = (1024..=u16::MAX).filter(|port| nat64.is_eligible(*port));
                let entries = (0..OF_A_TABLE).zip(ports);
                let entries: Vec<_> =
                    entries.map(|(number, port)| Client::nth(number).at(port)).collect();
                nat64.fill(&entries);
            });
        }
    });
    nothing_is_lost(&under_load(&booted, || {
        booted.done("systemctl restart nat64handoff");
    }));
    let process = booted.server();
    nothing_is_lost(&under_load(&booted, || {
        hand_over(&booted);
        serves_again(&booted, process);
    }));
    let lines = booted.done("grep -c ' Created ' /home/nat64ho/logs/events.log");
    // With those of the NAT64s of the load, and of the self-check.
    let expected = TABLES * OF_A_TABLE + 2 * NAT64S;
    let lines: u32 = lines.trim().parse().unwrap();
    assert!((expected + 1..expected + 5).contains(&lines), "{lines} of {expected}");
}

#[test]
fn port_stays_open_with_another_number_of_reactors() {
    let booted = Booted::installed("--no-update");
    for reactors in [4, 1, 3] {
        let outcome = under_load_with_losses(&booted, || {
            booted.done(&format!(
                "sed -i /^reactors/d /etc/nat64handoff.toml; echo 'reactors = {reactors}' >>/etc/nat64handoff.toml; \
                 systemctl restart nat64handoff"
            ));
        });
        assert_eq!(outcome.unreachable, 0, "{outcome:?}");
        let said = booted.done("journalctl --no-pager --unit=nat64handoff");
        let said = said.rsplit("Starting nat64handoff").next().unwrap_or_default();
        assert!(said.contains(&format!("with {reactors} reactors")), "{said}");
        assert_eq!(booted.property("NFileDescriptorStore"), reactors.to_string());
        // What waited for another reactor is lost, and said.
        let lost = said.contains("are lost, as the number of reactors");
        assert!(lost || outcome.unanswered == 0, "{outcome:?}\n{said}");
    }
}

#[test]
fn port_of_a_socket_unit() {
    let booted = Booted::installed("--no-update");
    booted.done(
        "systemctl stop nat64handoff; cp checkout/src/programs/service/nat64handoff.socket /etc/systemd/system/; \
         systemctl daemon-reload; systemctl start nat64handoff.socket nat64handoff.service",
    );
    nothing_is_lost(&under_load(&booted, || {
        booted.done("systemctl restart nat64handoff");
    }));
    nothing_is_lost(&under_load(&booted, || {
        booted.done("systemctl stop nat64handoff.service; systemctl start nat64handoff.service");
    }));
    let process = booted.server();
    nothing_is_lost(&under_load(&booted, || {
        hand_over(&booted);
        serves_again(&booted, process);
    }));
    assert_eq!(booted.property("NFileDescriptorStore"), "0", "the unit has them");
}

/// A stopped server is gone, and its NAT64s are told so.
#[test]
fn port_closes_when_the_service_is_stopped() {
    let booted = Booted::installed("--no-update");
    let outcome = under_load_with_losses(&booted, || {
        booted.done("systemctl stop nat64handoff");
    });
    assert!(outcome.unreachable > 0 && outcome.unanswered > 0, "{outcome:?}");
}
