//! What goes over the control channel, as tcpdump sees it. `ci/e2e/samples/control.pcap` is such a
//! capture, for readers (`tcpdump -r`, Wireshark); here a fresh server is asked the same again.
//!
//! `NAT64HANDOFF_RECORD=1 cargo test --test e2e session` records it anew.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nat64handoff::handoff::change::Now;
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::message::{self, HANDOFF_PORT, HEAD_ROOM, RequestKind, VALIDATION_PORT};
use nat64handoff::handoff::server::{
    Batch, Body, Budget, Datagram as Request, NoneKnown, Outbox, Server as Shard, ServerConfig,
};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::handoff::validation::ValidationRate;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::http::Connection;
use crate::pcap::{Datagram, datagrams};
use crate::process::{PATIENCE, Process, run, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/e2e/samples/control.pcap");

/// The types of a payload's messages, in order, each with its data. An embedded packet is told by
/// its version.
fn messages(payload: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = Vec::new();
    let mut rest = payload;
    while let [first, behind @ ..] = rest {
        match first >> 4 {
            3 => {
                let (data, next) = behind[1..].split_at(2 * usize::from(behind[0]));
                found.push(((first & 0x0f).to_string(), data));
                rest = next;
            }
            version @ (4 | 6) => {
                found.push((format!("ipv{version}"), rest));
                rest = &[];
            }
            other => panic!("a message of format {other}"),
        }
    }
    found
}

/// The mapped port in the first entry.
fn mapped_port(payload: &[u8]) -> Option<[u8; 2]> {
    let entry = messages(payload).into_iter().find(|(kind, _)| kind == "7")?.1;
    entry.first_chunk().copied()
}

/// A datagram of the control channel: which way it goes, and what it says (`4 6 ipv6`).
fn line(datagram: &Datagram) -> String {
    let kinds: Vec<_> = messages(&datagram.payload).into_iter().map(|(kind, _)| kind).collect();
    let shape = kinds.join(" ");
    if datagram.to.port() == HANDOFF_PORT {
        format!("> {shape}{}", if datagram.refused { ", refused" } else { "" })
    } else if datagram.to.port() == VALIDATION_PORT {
        format!("< {shape}, to port 9")
    } else {
        assert_eq!(datagram.from.port(), HANDOFF_PORT);
        format!("< {shape}")
    }
}

#[test]
fn session_has_requests_of_every_kind() {
    let field = Field::new();
    let site = &field.sites[0];
    let file = field.path("control.pcap");
    let arguments =
        ["-i", "nat64-0", "-w", file.to_str().unwrap(), "-U", "--immediate-mode", "-Z", "root"];
    let filter = format!("udp port {HANDOFF_PORT} or udp dst port {VALIDATION_PORT} or icmp");
    let mut tcpdump =
        Process::start(&field.server, "tcpdump", &[&arguments[..], &[&filter]].concat());
    tcpdump.wait_for("listening on");
    let lines =
        || -> Vec<String> { datagrams(&std::fs::read(&file).unwrap()).iter().map(line).collect() };
    let wait_for = |what: &str| {
        wait_until(&format!("{what:?} is captured"), || {
            lines().iter().any(|line| line.starts_with(what))
        });
    };
    let nginx = Nginx::start(&field);
    let mut server = Server::start(&field);
    let gateway = Gateway::start(site);

    // The NAT64 knows no server: a report, the proof, the report again.
    curl(site, "hello").unwrap();
    server.wait_until_known(site.pool);
    wait_for("< 6 7");
    // New connections, a ping.
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, 5222)).unwrap());
    let address = SocketAddr::from((SERVICE6, 5222));
    let mut client = site.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut at_service = listener.accept().unwrap().0;
    let mut connection = Connection::open(site);
    connection.get("hello");
    wait_for("< 6 7 ipv6");
    let ping = run(&site.client, "ping", &["-6", "-c", "1", "-W", "5", &SERVICE6.to_string()]);
    assert!(ping.status.success());
    wait_for("< 6 ipv6");
    // After a reboot a client speaks on an old connection, then the service on another.
    gateway.reboot();
    connection.get("hello");
    at_service.write_all(b"a message").unwrap();
    client.read_exact(&mut [0; 9]).unwrap();
    wait_for("< 6 7 ipv4");
    // The server is gone, and is told what happened meanwhile when it is back.
    server.stop();
    curl(site, "hello").unwrap();
    let server = Server::start(&field);
    curl(site, "hello").unwrap();
    wait_for("> 1 4 6 7 7");
    let accesses = nginx.accesses(5);
    for access in &accesses {
        assert_eq!(server.who(site.pool, access.port).0, site.address);
    }
    tcpdump.stop();

    for datagram in datagrams(&std::fs::read(&file).unwrap()) {
        if datagram.to.port() == HANDOFF_PORT {
            message::parse(&datagram.payload).unwrap();
        }
    }
    if std::env::var_os("NAT64HANDOFF_RECORD").is_some() {
        std::fs::copy(&file, SAMPLE).unwrap();
        println!("{}", lines().join("\n"));
    }
}

/// A server that is asked what a capture has.
struct Replay {
    shard: Shard,
    outbox: Outbox,
    time: Duration,
}

impl Replay {
    fn new() -> Replay {
        let config = ServerConfig {
            handoff_port: HANDOFF_PORT,
            limits: TableLimits::default(),
            validation_rate: Arc::new(ValidationRate::new(1000)),
            create_rate: 2000,
            budget: Arc::new(Budget::new(10, 1000)),
            access: Arc::default(),
        };
        let stats = Arc::new(Stats::default());
        let shard = Shard::new(config, [5; 32], Duration::ZERO, stats);
        Replay { shard, outbox: Outbox::default(), time: Duration::from_secs(1) }
    }

    /// What the server sends for a request.
    fn ask(&mut self, from: SocketAddrV4, payload: &[u8]) -> Vec<Datagram> {
        self.time += Duration::from_millis(10);
        let to = SocketAddrV4::new(SERVICE, HANDOFF_PORT);
        let table = TableKey { local: SERVICE, nat64: *from.ip() };
        let mut buffer = [&[0; HEAD_ROOM][..], payload].concat();
        let payload = HEAD_ROOM..buffer.len();
        self.outbox.clear();
        let batch = Batch::at(Now { wall: Default::default(), monotonic: self.time });
        let request =
            Request { index: 0, table, port: from.port(), buffer: &mut buffer, payload, room: 0 };
        self.shard.handle(&batch, &mut NoneKnown, request, &mut self.outbox);
        assert_eq!(self.shard.contradiction(), None);
        let sent = self.outbox.replies.iter().map(|reply| {
            let payload = match reply.body.clone() {
                Body::InPlace(range) => buffer[range].to_vec(),
                Body::Copied(range) => self.outbox.copies()[range].to_vec(),
            };
            Datagram { from: to, to: reply.to, payload, refused: false }
        });
        sent.collect()
    }
}

#[test]
fn sample_is_answered_alike_by_a_fresh_server() {
    let sample = datagrams(&std::fs::read(Path::new(SAMPLE)).unwrap());
    let mut replay = Replay::new();
    let mut expected =
        sample.iter().filter(|datagram| datagram.from.port() == HANDOFF_PORT).peekable();
    let mut kinds = Vec::new();
    let mut validation: Option<Datagram> = None;
    for request in sample.iter().filter(|datagram| datagram.to.port() == HANDOFF_PORT) {
        let parsed = message::parse(&request.payload).unwrap();
        if request.refused {
            kinds.push("refused");
            continue;
        }
        let mut payload = request.payload.clone();
        kinds.push(match parsed.kind {
            RequestKind::ServicePacket { packet } if is_validation(packet.of(&payload)) => {
                // It proves something to the server of the capture. Ours gets back what it sent
                // itself.
                let sent = validation.take().expect("a validation packet to return");
                payload.truncate(packet.start());
                payload.extend(ipv4_udp(&sent));
                "proof"
            }
            RequestKind::ServicePacket { .. } => "service packet",
            RequestKind::ClientPacket(client_packet) => {
                // Ports are drawn at random. By a hint, ours draws that of the capture.
                if let Some(port) = expected.peek().and_then(|reply| mapped_port(&reply.payload)) {
                    let at = client_packet.packet.start();
                    let mut hint = Vec::new();
                    message::emit(&mut hint, message::message_type::HINT, &port);
                    payload.splice(at..at, hint);
                }
                "client packet"
            }
            RequestKind::Report { .. } => "report",
            RequestKind::MultiReport => "multi report",
        });
        for reply in replay.ask(request.from, &payload) {
            let as_captured = expected.next().expect("no more replies than in the capture");
            assert_eq!(line(&reply), line(as_captured), "{kinds:?}");
            assert_eq!(reply.to, as_captured.to);
            let proves = reply.to.port() == VALIDATION_PORT || kinds.last() == Some(&"proof");
            assert!(proves || reply.payload == as_captured.payload, "{kinds:?}");
            if reply.to.port() == VALIDATION_PORT {
                validation = Some(reply);
            }
        }
    }
    assert_eq!(expected.count(), 0, "fewer replies than in the capture");
    for kind in ["report", "proof", "client packet", "service packet", "refused", "multi report"] {
        assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
}

/// Whether an IPv4 packet is a validation packet, from the handoff port to port 9.
fn is_validation(packet: &[u8]) -> bool {
    packet[9] == 17 && packet[22..24] == VALIDATION_PORT.to_be_bytes()
}

/// The IPv4 packet that a datagram arrived in. Nobody looks at its checksums.
fn ipv4_udp(datagram: &Datagram) -> Vec<u8> {
    let length = datagram.payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((28 + length).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(datagram.from.ip().octets());
    packet.extend(datagram.to.ip().octets());
    packet.extend(datagram.from.port().to_be_bytes());
    packet.extend(datagram.to.port().to_be_bytes());
    packet.extend((8 + length).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(&datagram.payload);
    packet
}
