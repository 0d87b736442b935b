//! PROTOCOL.md section 6: entries with live TCP connections are passed over, whichever host these
//! are with.

use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::PATIENCE;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::served::ask_until_answered;
use crate::site::{SERVED, SERVICE, Site};

/// A table has no room for more: `--max-entries`.
const ENTRIES: u32 = 40;
/// How long a NAT64 looks for answers before it asks for the next client.
const PACE: Duration = Duration::from_millis(1);
const FULL: &[&str] = &["--max-entries", "40"];

/// A connection of a client, whose packets come from the NAT64's address and this port, with a
/// host: both ends. The route leads to that host from now on.
fn connected(site: &Site, nat64: &Nat64, port: u16, host: usize) -> (TcpStream, TcpStream) {
    let listener = site.hosts[host].listener();
    site.route(host);
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let client = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    bind(&client, &SocketAddrV4::new(nat64.address, port)).unwrap();
    connect(&client, &SocketAddrV4::new(*SERVICE.ip(), SERVED)).unwrap();
    (TcpStream::from(client), listener.accept().unwrap().0)
}

/// A full table, made at host 0: the ports of its clients, the one that goes first first.
fn full_table(nat64: &Nat64) -> Vec<u16> {
    nat64.introduce();
    (0..ENTRIES).map(|client| nat64.map(Client::nth(client))).collect()
}

/// Waits until a host knows of so many ports that are live elsewhere.
fn wait_until_known(site: &Site, host: usize, ports: usize) {
    let expected = format!("nat64handoff_fleet_live_elsewhere {ports}\n");
    let metrics = || site.hosts[host].asks("/metrics").1;
    assert!(wait_until(PATIENCE, || metrics().contains(&expected)), "{expected}: {}", metrics());
}

/// New clients come, from this one on: the clients from 0 on that had these ports have gone for
/// them; 0 stands for those of others.
fn replace(nat64: &Nat64, first: u32, goes: &[u16]) {
    ask_until_answered(nat64, Client::nth(first));
    for client in (first + 1..).take(goes.len() - 1) {
        nat64.map(Client::nth(client));
    }
    for &port in goes.iter().filter(|port| **port > 0) {
        let now = nat64.find(port).map(|(entry, _)| entry.client);
        let is_old = |client: Client| (0..ENTRIES).any(|old| client == Client::nth(old));
        assert!(!now.is_some_and(is_old), "{port} of {goes:?} is {now:?}");
    }
}

#[test]
fn section_6_connections_with_any_host_are_passed_over() {
    Site::with_options(2, FULL, |site| {
        let nat64 = site.nat64();
        let ports = full_table(&nat64);
        let connection = connected(site, &nat64, ports[0], 1);
        site.route(0);
        wait_until_known(site, 0, 1);
        replace(&nat64, 100, &ports[1..4]);
        // The server ends, and the host's connections do not: what it said last stands.
        site.hosts[1].kill();
        replace(&nat64, 110, &ports[4..7]);
        site.begin(1);
        site.wait_until_ready(1);
        replace(&nat64, 120, &ports[7..10]);
        assert_eq!(nat64.find(ports[0]).unwrap().0, Client::nth(0).at(ports[0]));
        site.route(1);
        drop(connection);
        wait_until_known(site, 0, 0);
        site.route(0);
        // It was used now, and goes last.
        replace(&nat64, 200, &[&ports[10..], &[0; 9], &ports[..1]].concat());
        assert!(site.hosts[1].events().is_empty(), "host 0 has the table");
    });
}

/// Who is given a table asks before it deletes anything.
#[test]
fn section_6_who_gets_a_full_table_asks_first() {
    Site::with_options(3, FULL, |site| {
        let nat64 = site.nat64();
        let ports = full_table(&nat64);
        let _connection = connected(site, &nat64, ports[0], 2);
        site.route(1);
        // Host 1 is to have it.
        nat64.fence();
        let hears = || site.hosts[0].asks("/status").1.contains("\"hears_others\":true");
        assert!(wait_until(PATIENCE, hears));
        wait_until_known(site, 0, 1);
        let host = &site.hosts[0];
        let (status, said) = std::thread::scope(|scope| {
            let drained = scope.spawn(|| host.runs(&["fleet", "drain"]));
            // New clients come all the time, also in the moment in which it is given.
            for client in (1000..).map(Client::nth).take_while(|_| !drained.is_finished()) {
                nat64.send(&nat64.client_request(&client.authenticator(), &client.udp(b"new")));
                while nat64.try_reply(PACE).is_some() {}
            }
            drained.join().unwrap()
        });
        assert_eq!(status, 0, "{said}");
        ask_until_answered(&nat64, Client::nth(1000));
        replace(&nat64, 100, &ports[1..4]);
        assert_eq!(nat64.find(ports[0]).unwrap().0, Client::nth(0).at(ports[0]));
        let has_line = || site.hosts[1..].iter().any(|host| !host.events().is_empty());
        assert!(wait_until(PATIENCE, has_line), "host 0 has the table");
    });
}
