//! `--peer-names`: how names end, and with whose tables they are compared at a start.

use super::peer_names::{Service, again, connect, start};
use crate::harness::process::wait_until;
use crate::harness::program::LOCAL;
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::peers::Place;
use crate::run::run;
use crate::server::Server;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

fn attached() -> Place {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let (code, said) = place.attach("1000");
    assert_eq!(code, 0, "{said}");
    place
}

/// The names of a server that is gone for good end by themselves, and at once where one starts with
/// its state that keeps no names.
#[test]
fn names_end_with_their_server() {
    let place = attached();
    let mut service = place.service();
    let mut server = start(&place, &["--max-entries", "1000"]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    let itself = (from.ip().to_string(), from.port());
    service.names(from, client);
    let maps = place.maps();
    server = again(server, &["--reactors", "1", "--peer-maps", &maps], |_| ());
    assert_eq!(service.sees(from), itself, "nobody keeps them");
    let options = ["--reactors", "1", "--peer-names", "ipv6", "--peer-maps", &maps];
    server = again(server, &options, |_| ());
    service.names(from, client);
    server.process.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    // Nobody keeps its sockets, and the NAT64 hears that at once.
    let (code, said, _) = run(&["peer-names", "status", "--json", "--maps", &maps]);
    assert_eq!(code, 0, "{said}");
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    let left = status["valid_seconds"].as_f64().unwrap_or_default();
    assert!(left <= 0.3, "{said}");
    assert!(wait_until(PATIENCE, || service.sees(from) == itself), "of a server that is gone");
}

/// Connects to itself from an address and port, and prints who that is.
const OTHER_HOST: &str = "
import socket, sys
listener = socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)
to = ('127.0.0.1', listener.getsockname()[1])
connection = socket.create_connection(to, source_address=(sys.argv[1], int(sys.argv[2])))
print(*listener.accept()[1][:2])
";

/// Another network namespace may have the same addresses, for other hosts: there, nobody has a
/// name.
#[test]
fn names_are_of_the_network_namespace_of_the_server() {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let (code, said) = place.attach("1000");
    assert_eq!(code, 0, "{said}");
    if said.contains("cannot tell network namespaces apart") {
        cannot_run("programs that know their network namespace: Linux 5.15");
    }
    let mut service = place.service();
    let server = start(&place, &[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    let script = place.path("other.py");
    std::fs::write(&script, OTHER_HOST).unwrap();
    let seen = |within: &str| {
        let line = format!("python3 {} {} {}", script.display(), from.ip(), from.port());
        let line = place.within(&within.replace("LINE", &line));
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{wrong}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let named = format!("{} {}", client.address, client.port);
    service.names(from, client);
    assert!(wait_until(PATIENCE, || seen("LINE") == named), "in the server's own");
    let there = seen("unshare --net sh -c 'ip link set lo up && exec LINE'");
    assert_eq!(there, format!("::ffff:{} {}", from.ip(), from.port()), "in another one");
    service.names(from, client);
}

/// Maps that mean something else are not written to, and attaching makes them anew.
#[test]
fn names_are_not_given_to_another_version() {
    let place = attached();
    let mut service = place.service();
    // Any other map stands for one.
    std::fs::rename(place.path("bpf/maps/peers"), place.path("bpf/maps/state")).unwrap();
    let server = start(&place, &[]);
    let told = || server.stderr().contains("attached by another version; as root, run ./install");
    assert!(wait_until(PATIENCE, told), "{}", server.stderr());
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    assert_eq!(service.sees(from), (from.ip().to_string(), from.port()));
    let (code, _, said) = run(&["peer-names", "status", "--maps", &place.maps()]);
    assert!(code == 1 && said.contains("another version"), "{said}");
    let (code, said) = place.attach("1000");
    assert!(code == 0 && said.contains("the maps are new"), "{said}");
    let maps = place.maps();
    let options = ["--reactors", "1", "--peer-names", "ipv6", "--peer-maps", &maps];
    let _server = again(server, &options, |_| ());
    service.names(from, client);
}

/// The first of two servers with the same maps gives them up, and none of its names counts.
#[test]
fn names_are_of_one_server() {
    let place = attached();
    let mut service = place.service();
    let [first, second] = [1, 2].map(Client::nth);
    let server = start(&place, &[]);
    let nat64 = Nat64::known(&server);
    let from = SocketAddrV4::new(nat64.address, nat64.map(first));
    service.names(from, first);
    let other = start(&place, &[]);
    let its = Nat64::known(&other);
    let its_from = SocketAddrV4::new(its.address, its.map(second));
    service.names(its_from, second);
    assert_eq!(service.sees(from), (from.ip().to_string(), from.port()));
    let told = wait_until(PATIENCE, || server.stderr().contains("another server writes"));
    assert!(told, "{}", server.stderr());
    // What it does not know of is not another's either.
    let late = nat64.map(Client::nth(3));
    let late = SocketAddrV4::new(nat64.address, late);
    assert_eq!(service.sees(late), (late.ip().to_string(), late.port()));
    service.names(its_from, second);
}

/// A state that was restored names nobody at a port that another client had later, as the maps
/// tell, before the port is given to somebody anew.
#[test]
fn names_are_those_of_the_state() {
    let place = attached();
    let mut service = place.service();
    let maps = place.maps();
    let options =
        ["--reactors", "1", "--max-entries", "10", "--peer-names", "ipv6", "--peer-maps", &maps];
    let server = start(&place, &["--max-entries", "10"]);
    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..10).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    let state = server.directory.path().join("state");
    let copied = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(done.success());
    };
    let copy = place.path("copy");
    copied(&state, &copy);
    // Five of them go.
    let newcomers: Vec<_> = (10..15).map(Client::nth).collect();
    let theirs: Vec<_> = newcomers.iter().map(|client| nat64.map(*client)).collect();
    service.names(SocketAddrV4::new(nat64.address, theirs[4]), newcomers[4]);
    let server = again(server, &options, |directory| {
        let state = directory.join("state");
        for entry in std::fs::read_dir(&state).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
        copied(&copy, &state);
    });
    let at = |port| SocketAddrV4::new(nat64.address, port);
    let check = |service: &mut Service| {
        for (client, port) in clients.iter().zip(&ports).filter(|(_, port)| !theirs.contains(port))
        {
            service.names(at(*port), *client);
        }
        for port in &theirs {
            assert_eq!(service.sees(at(*port)), (nat64.address.to_string(), *port));
        }
    };
    check(&mut service);
    // As before after another start.
    let _server = again(server, &options, |_| ());
    check(&mut service);
    let newest = Client::nth(20);
    service.names(at(nat64.map(newest)), newest);
}

/// Two NAT64s, and two addresses of the service: each has ports of its own. Nothing changes by a
/// hand-over, and nothing is named any more after a detach, while connections are open.
#[test]
fn names_of_two_addresses_and_two_nat64s_over_a_hand_over() {
    let place = attached();
    let mut service = place.service();
    let addresses = [LOCAL, Ipv4Addr::new(127, 0, 0, 2)];
    let maps = place.maps();
    let options = ["--peer-names", "ipv6", "--peer-maps", &maps];
    let mut server = Server::start_on(&addresses, &options);
    // Its lines do not tell the addresses.
    server.check_log = false;
    let port = server.port;
    let mut expected = Vec::new();
    for number in 0..2 {
        let nat64 = Nat64::known(SocketAddrV4::new(addresses[0], port));
        let towards = nat64.towards(SocketAddrV4::new(addresses[1], port));
        towards.introduce();
        for (nat64, address) in [(&nat64, addresses[0]), (&towards, addresses[1])] {
            let client = Client::within(number, u64::from(address.octets()[3]));
            let from = SocketAddrV4::new(nat64.address, nat64.map(client));
            expected.push((from, address, client));
        }
    }
    let check = |service: &mut Service| {
        for (from, address, client) in &expected {
            service.names_at(*from, *address, *client);
        }
    };
    check(&mut service);
    server.process.signal(libc::SIGUSR2);
    let serves = || server.stderr().matches("nat64handoff: serving ").count() == 2;
    assert!(wait_until(PATIENCE, serves), "{}", server.stderr());
    check(&mut service);
    let (from, _, client) = expected[0];
    let held = connect(from, SocketAddrV4::new(LOCAL, service.port));
    let (code, ..) = run(&["peer-names", "detach", "--maps", &maps]);
    assert_eq!(code, 0);
    let itself = (from.ip().to_string(), from.port());
    let [accepted, now] = service.told(&held);
    assert!(accepted.0 == client.address.to_string() || accepted == itself, "{accepted:?}");
    assert_eq!(now, itself);
    drop(held);
    for (from, ..) in &expected {
        let itself = (from.ip().to_string(), from.port());
        assert_eq!(service.sees(*from), itself, "detached");
    }
    let told = wait_until(PATIENCE, || server.stderr().contains("removed, or made anew"));
    assert!(told, "{}", server.stderr());
}
