//! PROTOCOL.md section 12. Clients reach a server through a tunnel of Geneve, here by a gateway
//! that knows nothing else; what stands in a capture, tshark reads without a complaint.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::thread;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::geneve_peer::{Peer, forge};
use crate::judge::eventlog::Kind;
use crate::native::{Echo, exchange, make_device};
use crate::process::{PATIENCE, Process, command, run, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};

const OPTIONS: [&str; 3] = ["--deliver", "native", "--geneve"];
const LINK: [u8; 6] = [2, 0x64, 1, 2, 3, 4];

fn initialized(server: &Server) -> usize {
    server.events().iter().filter(|event| event.kind == Kind::Initialized).count()
}

#[test]
fn section_12_a_gateway_of_geneve_alone_reaches_programs() {
    let field = Field::new();
    make_device(&field);
    let mut server = Server::start_with(&field, &OPTIONS);
    let site = &field.sites[0];
    let capture = field.path("geneve.pcap");
    let mut tcpdump = Process::start(
        &field.server,
        "tcpdump",
        &["-i", "nat64-0", "-w", capture.to_str().unwrap(), "-U", "-Z", "root", "udp port 6081"],
    );
    tcpdump.wait_for("listening on");
    let peer = Peer::start(site, LINK);
    peer.offer();
    assert_eq!(initialized(&server), 0, "nothing is kept of an offer");

    // TCP, to a program that sees the client; many segments, both ways.
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE6, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(500_000));
    server.wait_until_known(site.pool);
    let from = stream.local_addr().unwrap();
    drop(stream);
    assert_eq!((echo.peer(), from.ip()), (from, site.address.into()));
    // UDP, whole and in fragments, and ping.
    let service = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    let here = field.server.inside(|| UdpSocket::bind(service).unwrap());
    let there = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = vec![0; 10_000];
    for length in [10, 1300, 5000] {
        let question = octets(length);
        wait_until("the path's MTU is known", || there.send_to(&question, service).is_ok());
        let (got, client) = here.recv_from(&mut buffer).unwrap();
        assert!(buffer[..got] == question && client.ip() == site.address);
        here.send_to(&buffer[..got], client).unwrap();
        let (got, from) = there.recv_from(&mut buffer).unwrap();
        assert!(buffer[..got] == question && from == service.into());
    }
    let ping = run(field.client(), "ping", &["-6", "-c", "3", "-i", "0.2", &SERVICE6.to_string()]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    peer.probe();

    assert_eq!((initialized(&server), server.entries(Kind::Created)), (1, vec![]));
    assert_eq!(peer.wrong(), [""; 0]);
    tcpdump.stop();
    server.stop();
    check_capture(capture.to_str().unwrap());
}

/// tshark takes each datagram for what it is, and finds nothing to complain of.
fn check_capture(capture: &str) {
    let read = |filter: &str, fields: &[&str]| -> Vec<String> {
        let fields = fields.iter().flat_map(|field| ["-e", field]);
        let mut tshark = command("tshark");
        // Checksums are left to a device that makes none.
        tshark.args([
            "-r",
            capture,
            "-o",
            "udp.check_checksum:FALSE",
            "-Y",
            filter,
            "-T",
            "fields",
        ]);
        let output = tshark.args(fields).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    let all = read("udp.port == 6081", &["ip.src", "geneve.vni", "geneve.option.class"]);
    assert!(all.len() > 200, "{} datagrams", all.len());
    for line in &all {
        let words: Vec<_> = line.split(['\t', ',']).collect();
        assert_eq!(words[1].trim_start_matches("0x").trim_start_matches('0'), "c0ffee", "{line}");
        // The option is the gateway's alone.
        let class = words[2].trim_start_matches("0x");
        let from_server = words[0] == SERVICE.to_string();
        assert_eq!(class, if from_server { "" } else { "0162" }, "{line}");
    }
    let inside = read("udp.port == 6081 && eth.type == 0x86dd && ipv6", &["frame.number"]);
    assert_eq!(inside.len(), all.len(), "each has a packet of IPv6");
    let bad = "_ws.malformed || icmpv6.checksum.status == 0 || geneve.option.length.invalid || \
               _ws.expert.group == \"Malformed\"";
    assert_eq!(read(bad, &["frame.number", "_ws.col.Info"]), [""; 0]);
    let offers = read("icmpv6.type == 135", &["icmpv6.nd.ns.target_address"]);
    let answers = read("icmpv6.type == 136", &["icmpv6.nd.na.target_address", "icmpv6.opt.type"]);
    assert!(!offers.is_empty() && offers.iter().all(|target| *target == SERVICE6.to_string()));
    assert!(!answers.is_empty() && answers.iter().all(|line| line.ends_with("\t2")), "{answers:?}");
}

#[test]
fn section_12_a_restart_under_traffic_and_a_kill_keep_connections_and_addresses() {
    let field = Field::new();
    make_device(&field);
    let mut server = Server::start_with(&field, &OPTIONS);
    let peer = Peer::start(&field.sites[0], LINK);
    peer.offer();
    let link = peer.server_link();
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE6, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(10_000));
    server.wait_until_known(field.sites[0].pool);
    for ends in [Server::stop as fn(&mut Server), Server::kill] {
        let (mut writes, reads) = (stream.try_clone().unwrap(), &mut stream);
        thread::scope(|scope| {
            let sent = octets(2_000_000);
            let expected = sent.clone();
            scope.spawn(move || std::io::Write::write_all(&mut writes, &sent).unwrap());
            let mut got = vec![0; expected.len()];
            let (first, rest) = got.split_at_mut(200_000);
            std::io::Read::read_exact(reads, first).unwrap();
            ends(&mut server);
            server = Server::start_with(&field, &OPTIONS);
            std::io::Read::read_exact(reads, rest).unwrap();
            assert!(got == expected, "other octets came back");
        });
        // The same tunnel goes on: it was not offered again.
        assert_eq!((initialized(&server), peer.server_link()), (1, link));
        peer.probe();
        assert_eq!(peer.server_link(), link);
    }
    assert_eq!(peer.wrong(), [""; 0]);
    server.stop();
}

#[test]
fn section_12_forged_offers_make_no_nat64_and_hinder_nobody() {
    let field = Field::new();
    make_device(&field);
    let mut server =
        Server::start_with(&field, &[&OPTIONS[..], &["--validation-rate", "200"]].concat());
    let site = &field.sites[0];
    let peer = Peer::start(site, LINK);
    peer.offer();
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE6, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(1000));
    forge(site, 20_000);
    exchange(&mut stream, &octets(100_000));
    server.stop();
    let said = server.said();
    let line = said.lines().find(|line| line.contains("stopped: ")).unwrap();
    println!("{line}");
    assert_eq!(initialized(&server), 1);
    assert!(line.contains("validation_"), "some offers were not answered: {line}");
    assert_eq!(peer.wrong(), [""; 0]);
}

#[test]
fn section_12_what_a_tunnel_needs_is_said_at_the_start() {
    let field = Field::new();
    let state = field.path("state");
    let refused = |options: &[&str]| {
        let state = state.to_str().unwrap();
        let arguments = ["serve", "--listen", "203.0.113.5", "--state", state, "--admin", "off"];
        let arguments = [&arguments[..], options].concat();
        let output = run(&field.server, env!("CARGO_BIN_EXE_nat64handoff"), &arguments);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--geneve"]).contains("--geneve: what comes by a tunnel is delivered"));
    let said = refused(&["--geneve", "--deliver", "native", "--port", "6081"]);
    assert!(said.contains("port 6081 is that of Geneve; choose another --port"), "{said}");
    let said = refused(&OPTIONS);
    assert!(said.contains("ip tuntap add dev ho0 mode tun"), "{said}");
    make_device(&field);
    let _taken = field.server.inside(|| UdpSocket::bind((SERVICE, 6081)).unwrap());
    let said = refused(&OPTIONS);
    assert!(said.contains("port 6081 is taken"), "{said}");
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, 6081)));
    assert!(listener.is_ok(), "of TCP it is another");
}

/// A server that takes tunnels, our gateway that has offered it one, and nginx.
fn tunnelled(field: &Field) -> (Server, Gateway, Nginx) {
    make_device(field);
    let server = Server::start_with(field, &OPTIONS);
    let nginx = Nginx::start_at(field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let secret = field.sites[0].secret.to_str().unwrap();
    let mut gateway = Gateway::start_with(&field.sites[0], &["--secret", secret, "--geneve"]);
    // The first connection of a NAT64 that does not know the server.
    curl(&field.sites[0], "hello").unwrap();
    gateway.wait_for("server 203.0.113.5 takes packets by Geneve");
    (server, gateway, nginx)
}

#[test]
fn section_12_our_gateway_sends_connections_datagrams_and_pings_by_a_tunnel() {
    let field = Field::new();
    let (mut server, mut gateway, nginx) = tunnelled(&field);
    let site = &field.sites[0];
    let large = octets(10_000_000);
    nginx.put("large", &large);
    let entries = server.entries(Kind::Created).len();
    assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
    assert!(curl(site, "large").unwrap() == large);
    let seen: Vec<_> = nginx.accesses(3).into_iter().map(|access| access.address).collect();
    let client = IpAddr::V6(site.address);
    assert_eq!(seen, [IpAddr::V4(site.pool), client, client]);
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE6, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(2_000_000));
    drop(stream);
    assert_eq!(echo.peer().ip(), client);
    let service = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    let here = field.server.inside(|| UdpSocket::bind(service).unwrap());
    let there = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 2000];
    there.send_to(b"a question", service).unwrap();
    let (length, from) = here.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip()), (&b"a question"[..], client));
    here.send_to(b"an answer", from).unwrap();
    let (length, from) = there.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"an answer"[..], service.into()));
    let ping = run(field.client(), "ping", &["-6", "-c", "3", "-i", "0.2", &SERVICE6.to_string()]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    assert_eq!(server.entries(Kind::Created).len(), entries);
    assert_eq!(initialized(&server), 1);
    gateway.stop();
    assert!(gateway.counted("framed") > 100 && gateway.counted("super_packets") > 100);
    assert!(gateway.counted("delivered") > 7000);
    server.stop();
}

#[test]
fn section_12_a_restart_of_server_or_gateway_under_traffic() {
    let field = Field::new();
    let (mut server, mut gateway, _nginx) = tunnelled(&field);
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE6, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(10_000));
    server.stop();
    server = Server::start_with(&field, &OPTIONS);
    exchange(&mut stream, &octets(1_000_000));
    server.kill();
    server = Server::start_with(&field, &OPTIONS);
    exchange(&mut stream, &octets(1_000_000));
    gateway.reboot();
    exchange(&mut stream, &octets(1_000_000));
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V6(field.sites[0].address));
    assert_eq!(initialized(&server), 1);
    gateway.stop();
    server.stop();
}

#[test]
fn section_12_where_nobody_takes_a_tunnel_all_is_as_without() {
    let field = Field::new();
    let (mut server, mut gateway, nginx) = tunnelled(&field);
    server.stop();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    let site = &field.sites[0];
    wait_until("nginx is reached again", || curl(site, "hello").is_ok());
    gateway.wait_for("takes no packets by Geneve any more");
    server.stop();
    let mut server = Server::start(&field);
    wait_until("nginx is reached again", || curl(site, "hello").is_ok());
    server.stop();
    wait_until("nginx is reached without a server", || curl(site, "hello").is_ok());
    drop(nginx);
    gateway.stop();
}

#[test]
fn section_12_a_connection_by_an_entry_outlives_a_reboot_though_there_is_a_tunnel() {
    let field = Field::new();
    make_device(&field);
    let server = Server::start(&field);
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let (site, secret) = (&field.sites[0], field.sites[0].secret.to_str().unwrap());
    let mut gateway = Gateway::start_with(site, &["--secret", secret, "--geneve"]);
    curl(site, "hello").unwrap();
    gateway.wait_for("is known");
    let echo = Echo::start_at(&field, SocketAddr::from((SERVICE, 5222)));
    let mut stream = echo.connect(&field);
    exchange(&mut stream, &octets(10_000));
    drop(server);
    let mut server = Server::start_with(&field, &OPTIONS);
    gateway.reboot();
    wait_until("the gateway has a tunnel again", || {
        let _ = curl(site, "hello");
        gateway.said().contains("takes packets by Geneve")
    });
    curl(site, "hello").unwrap();
    let before = nginx.accesses_so_far();
    exchange(&mut stream, &octets(100_000));
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V4(site.pool), "it was begun by an entry");
    assert!(before.iter().any(|access| access.address == IpAddr::V6(site.address)));
    gateway.stop();
    server.stop();
}
