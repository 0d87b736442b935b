//! PROTOCOL.md section 11. Programs that know IPv4 alone have each client from an address of its
//! own, by its own port.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::judge::eventlog::Kind;
use crate::namespace::Namespace;
use crate::native::{Echo, exchange};
use crate::process::{PATIENCE, Process, run, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};

const NAT64HANDOFF: &str = env!("CARGO_BIN_EXE_nat64handoff");
/// An echo that listens for IPv4 alone.
const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(SERVICE), 7);

/// The commands by which DELIVERY.md makes the device, where nothing is delivered as it is.
fn recipe() -> Vec<String> {
    let page = include_str!("../../src/DELIVERY.md");
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let is_of_it = |line: &&str| {
        line.starts_with("ip tuntap") || line.contains("mtu 1398") || line.starts_with("ip route")
    };
    let lines = lines.filter(is_of_it).map(|line| line.replace("nat64ho", "root"));
    let mut lines: Vec<_> = lines.collect();
    // Both recipes begin alike.
    lines.dedup();
    assert_eq!(lines.len(), 3, "{lines:?}");
    lines
}

fn shell(field: &Field, lines: &str) {
    let output = run(&field.server, "sh", &["-ec", lines]);
    assert!(output.status.success(), "{}\n{lines}", String::from_utf8_lossy(&output.stderr));
}

/// A server that translates, on a host without IPv6, gateways that it knows, and nginx for IPv4.
pub fn translating(field: &Field, options: &[&str]) -> (Server, Vec<Gateway>, Nginx) {
    shell(field, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    shell(field, &recipe().join("\n"));
    let server = Server::start_with(field, options);
    let nginx = Nginx::start(field);
    let gateways = field.sites.iter().map(|site| {
        let mut gateway = Gateway::start(site);
        // The first connection of a NAT64 that does not know the server.
        curl(site, "hello").unwrap();
        gateway.wait_for("is known");
        gateway
    });
    let gateways = gateways.collect();
    (server, gateways, nginx)
}

/// The address that stands for a site's client, by the log.
pub fn address_of(server: &Server, site: &Site) -> Ipv4Addr {
    let mut found = None;
    wait_until("the log names the client", || {
        found = server.names().address_of(site.address);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn section_11_each_client_has_an_address_of_its_own() {
    let field = Field::of_two();
    let (mut server, gateways, nginx) = translating(&field, &["--deliver", "translate"]);
    // The first connection of each NAT64 is its own.
    let is_known = || server.entries(Kind::Created).len() == 2;
    wait_until("these have entries", is_known);
    let large = octets(10_000_000);
    nginx.put("large", &large);
    for site in &field.sites {
        assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
        assert!(curl(site, "large").unwrap() == large);
    }
    let addresses: Vec<_> = field.sites.iter().map(|site| address_of(&server, site)).collect();
    assert_ne!(addresses[0], addresses[1]);
    let pool: ipnet::Ipv4Net = "100.64.0.0/12".parse().unwrap();
    assert!(addresses.iter().all(|address| pool.contains(address)));
    let seen: Vec<_> = nginx.accesses(6).into_iter().map(|access| access.address).collect();
    let [one, other] = [addresses[0], addresses[1]].map(IpAddr::V4);
    assert_eq!(seen[2..], [one, one, other, other]);
    assert!(is_known());
    let log = field.path("events.log");
    for (site, address) in field.sites.iter().zip(addresses) {
        let who = ["who", &address.to_string(), "--log", log.to_str().unwrap()];
        let output = run(&field.server, NAT64HANDOFF, &who);
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{address} was {}, since ", site.address);
        assert!(said.starts_with(&expected), "{said}");
    }
    drop(gateways);
    server.stop();
}

#[test]
fn section_11_both_ways_ten_megabytes_by_the_clients_own_port() {
    let field = Field::new();
    let (mut server, _gateways, _nginx) = translating(&field, &["--deliver-port", "7=translate"]);
    let echo = Echo::start_at(&field, ECHO);
    let mut stream = echo.connect(&field);
    let from = stream.local_addr().unwrap();
    for round in 0..10 {
        exchange(&mut stream, &octets(1_000_000)[round..]);
    }
    drop(stream);
    let address = address_of(&server, &field.sites[0]);
    assert_eq!(echo.peer(), SocketAddr::from((address, from.port())));
    // What is for other ports, and pings, are as ever.
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    let service = SERVICE6.to_string();
    assert!(run(field.client(), "ping", &["-6", "-c", "1", "-W", "5", &service]).status.success());
    server.stop();
}

#[test]
fn section_11_an_address_is_kept_over_restarts_and_kills() {
    let field = Field::new();
    let options = ["--deliver", "translate", "--sync", "always"];
    let (mut server, gateways, nginx) = translating(&field, &options);
    let site = &field.sites[0];
    let echo = Echo::start_at(&field, ECHO);
    let mut stream = echo.connect(&field);
    exchange(&mut stream, b"before");
    let address = address_of(&server, site);
    gateways[0].reboot();
    exchange(&mut stream, b"after a reboot");
    server.stop();
    // The first packet has waited for its client's address to be durable.
    let said = server.said();
    assert!(!said.contains("client_unnamed"), "{said}");
    let mut server = Server::start_with(&field, &options);
    exchange(&mut stream, b"after a restart");
    server.kill();
    let mut server = Server::start_with(&field, &options);
    exchange(&mut stream, b"after a kill");
    assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V4(address));
    assert_eq!(nginx.accesses(2)[1].address, IpAddr::V4(address));
    let names = server.names();
    assert_eq!((names.address_of(site.address), names.named), (Some(address), 1));
    server.stop();
    // Where nothing is translated any more, it ends.
    let mut server = Server::start_with(&field, &[]);
    wait_until("the name ended", || server.names().len() == 0);
    server.stop();
}

#[test]
fn section_11_udp_and_pings_are_translated() {
    let field = Field::new();
    let (mut server, _gateways, _nginx) = translating(&field, &["--deliver", "translate"]);
    let service = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    // A program that knows of no addresses.
    let bound = field.server.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let client = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    for socket in [&bound, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    let port = client.local_addr().unwrap().port();
    let mut buffer = vec![0; 65_536];
    // The longest are fragments, both ways.
    let lengths = [(0, 0), (1, 1), (1000, 1000), (1370, 1370), (1371, 1371), (1452, 1452)];
    for (question, answer) in lengths.into_iter().chain([(10, 9000), (11, 60_000), (9001, 1)]) {
        // What is lost on the way is asked for again.
        let answered = (0..PATIENCE.as_secs()).any(|_| {
            client.send_to(&octets(question), service).unwrap();
            let Ok((got, from)) = bound.recv_from(&mut buffer) else { return false };
            assert!(buffer[..got] == octets(question), "{question}");
            let address = address_of(&server, &field.sites[0]);
            assert_eq!(from, SocketAddr::from((address, port)));
            bound.send_to(&octets(answer), from).unwrap();
            let Ok((got, from)) = client.recv_from(&mut buffer) else { return false };
            assert!(buffer[..got] == octets(answer), "{answer} back");
            assert_eq!(from, SocketAddr::V6(service));
            true
        });
        assert!(answered, "{question}, {answer}");
    }
    let ping = |namespace, to: &str| {
        let output = run(namespace, "ping", &["-c", "1", "-W", "5", to]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    ping(field.client(), &SERVICE6.to_string());
    ping(&field.server, &address_of(&server, &field.sites[0]).to_string());
    server.stop();
}

/// What a runtime of containers makes: a bridge's end in another namespace, and DNAT to it. And
/// filters that look whether answers leave by where packets came from.
#[test]
fn section_11_a_port_that_a_container_publishes_wants_nothing() {
    let field = Field::new();
    let options = ["--deliver-port", "8080=translate", "--deliver-port", "80=translate"];
    let (mut server, _gateways, nginx) = translating(&field, &options);
    let container = Namespace::new();
    field.server.ip(&format!(
        "link add pod type veth peer name eth0 netns {}\nlink set pod up\naddr add 10.77.0.1/24 dev pod",
        container.path()
    ));
    container
        .ip("link set eth0 up\naddr add 10.77.0.2/24 dev eth0\nroute add default via 10.77.0.1");
    shell(
        &field,
        "sysctl -qw net.ipv4.conf.all.rp_filter=1\n\
         nft add table ip nat\n\
         nft add chain ip nat in '{ type nat hook prerouting priority dstnat; }'\n\
         nft add rule ip nat in ip daddr 203.0.113.5 tcp dport 8080 dnat to 10.77.0.2:80\n\
         nft add table inet filter\n\
         nft add chain inet filter path '{ type filter hook prerouting priority raw + 10; policy accept; }'\n\
         nft add rule inet filter path meta nfproto ipv4 fib saddr . mark . iif oif missing drop\n\
         nft add chain inet filter in '{ type filter hook input priority filter; policy drop; }'\n\
         nft add rule inet filter in ct state established,related accept\n\
         nft add rule inet filter in iif lo accept\n\
         nft add rule inet filter in udp dport 64064 accept\n\
         nft add rule inet filter in tcp dport 80 ct state new accept",
    );
    let listener = container.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let program = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        from
    });
    let to = SocketAddr::from((SERVICE6, 8080));
    let connect = || TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    let mut stream = field.client().inside(connect);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut said, port) = (String::new(), stream.local_addr().unwrap().port());
    stream.read_to_string(&mut said).unwrap();
    let address = address_of(&server, &field.sites[0]);
    assert_eq!((said.as_str(), program.join().unwrap()), ("hello", (address, port).into()));
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    assert_eq!(nginx.accesses(2)[1].address, IpAddr::V4(address));
    server.stop();
}

/// A program of UDP as it is, which answers from no address of its choice.
#[test]
fn section_11_unbound_for_ipv4_alone_answers() {
    let field = Field::new();
    let (mut server, _gateways, _nginx) = translating(&field, &["--deliver-port", "53=translate"]);
    let file = field.path("unbound.conf");
    let text = "server:\n interface: 0.0.0.0\n do-ip6: no\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n \
                pidfile: \"\"\n use-syslog: no\n access-control: 100.64.0.0/12 allow\n \
                local-zone: \"example.\" static\n local-data: \"www.example. A 192.0.2.80\"\n";
    std::fs::write(&file, text).unwrap();
    let mut unbound =
        Process::start(&field.server, "unbound", &["-d", "-c", file.to_str().unwrap()]);
    unbound.wait_for("start of service");
    let at = format!("@{SERVICE6}");
    let ask = ["+short", "+tries=20", "+timeout=1", &at, "www.example."];
    let output = run(field.client(), "dig", &ask);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "192.0.2.80\n");
    unbound.stop();
    server.stop();
}

/// Beside what is delivered as it is, through the same device.
#[test]
fn section_11_one_port_is_translated_and_another_is_not() {
    let field = Field::new();
    crate::native::make_device(&field);
    shell(&field, &recipe()[1..].join("\n"));
    let options = ["--deliver", "native", "--deliver-port", "7=translate", "--reactors", "2"];
    let mut server = Server::start_with(&field, &options);
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let site = &field.sites[0];
    let mut gateway = Gateway::start(site);
    curl(site, "hello").unwrap();
    gateway.wait_for("is known");
    let echo = Echo::start_at(&field, ECHO);
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(100_000));
    assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V4(address_of(&server, site)));
    assert_eq!(nginx.accesses(2)[1].address, IpAddr::V6(site.address));
    server.stop();
}

/// A router on the way to the client tells how long packets may be, and so does one on the way to
/// the server.
#[test]
fn section_11_packets_too_big_are_honoured_both_ways_in_ipv4() {
    let field = Field::narrow(1300, 1400);
    let (mut server, _gateways, nginx) = translating(&field, &["--deliver", "translate"]);
    let large = octets(2_000_000);
    nginx.put("large", &large);
    let site = &field.sites[0];
    assert!(curl(site, "large").unwrap() == large);
    let echo = Echo::start_at(&field, ECHO);
    let mut stream = echo.connect(&field);
    (0..10).for_each(|_| exchange(&mut stream, &octets(200_000)));
    drop(stream);
    let address = IpAddr::V4(address_of(&server, site));
    assert_eq!((echo.peer().ip(), nginx.accesses(2)[1].address), (address, address));
    server.stop();
}

#[test]
fn section_11_a_route_that_is_missing_or_another_is_named() {
    let field = Field::new();
    let state = field.path("state");
    let options = ["--listen", "203.0.113.5", "--state", state.to_str().unwrap(), "--log", "-"];
    let translate = ["--deliver", "translate"];
    let tells = |command: &[&str], expected: &[&str]| {
        let arguments = [command, &options, &translate].concat();
        let output = run(&field.server, NAT64HANDOFF, &arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let is_told = |line: &&str| said.contains(*line);
        assert!(expected.iter().all(is_told), "{expected:?}: {said}");
        said
    };
    let lines = recipe();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let said = tells(&["check-config", "--host"], &lines);
    assert!(!said.contains("ip -6"), "{said}");
    shell(&field, &lines[..2].join("\n"));
    tells(&["serve"], &["no route leads to 100.64.0.0/12 by the device ho0", lines[2]]);
    shell(&field, "ip route add 100.65.1.0/24 dev lo");
    tells(&["serve"], &["this host has a route to 100.65.1.0/24 by lo", "--peer-pool"]);
    shell(&field, &format!("ip route del 100.65.1.0/24\n{}", lines[2]));
    let arguments = [&["check-config", "--host"][..], &options, &translate].concat();
    let output = run(&field.server, NAT64HANDOFF, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
