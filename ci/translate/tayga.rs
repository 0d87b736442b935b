//! TAYGA (Debian's package) gets each packet, and what comes of it is compared with ours, octet by
//! octet.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nat64handoff::nat64::translate::{
    GROWTH_MAX, Inside, Ipv4Packet, Ipv6Packet, Limits, Packets, Refused, Rewrite, ipv4_error,
    ipv6_error,
};

use crate::cases::{
    CLIENT, CLIENT4, Case, SERVICE, SERVICE4, ipv4_cases, ipv6_cases, mend, other_prefix,
};
use crate::judge::samples::from6;
use crate::namespace::{PATIENCE, Wire, device_number, install, ip, private_namespace};

const TAYGA4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const TAYGA6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1);
const LIMITS: Limits = Limits::new(1500, 1500).unwrap();

struct Tayga {
    child: Child,
    wire: Wire,
    _folder: tempfile::TempDir,
}

impl Drop for Tayga {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tayga {
    fn start() -> Tayga {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("tayga.conf");
        let mut file = std::fs::File::create(&config).unwrap();
        writeln!(file, "tun-device nat64\nipv4-addr {TAYGA4}\nipv6-addr {TAYGA6}").unwrap();
        writeln!(file, "prefix {}/96\nmap {CLIENT4} {CLIENT}", prefix()).unwrap();
        writeln!(file, "data-dir {}", folder.path().display()).unwrap();
        let child = Command::new("tayga")
            .arg("--config")
            .arg(&config)
            .arg("--nodetach")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let device = loop {
            if let Some(device) = device_number("nat64") {
                break device;
            }
            assert!(started.elapsed() < PATIENCE, "TAYGA made no device");
            thread::sleep(Duration::from_millis(10));
        };
        ip("link set nat64 up");
        let tayga = Tayga { child, wire: Wire::new(device), _folder: folder };
        // What is sent while the kernel makes the device ready may be lost.
        while !tayga.answers() {
            assert!(started.elapsed() < PATIENCE, "TAYGA translates nothing");
        }
        tayga
    }

    fn answers(&self) -> bool {
        self.wire.send(&echo_request(FIRST));
        self.wire.receive(Duration::from_millis(50)).is_some_and(|packet| packet.ends_with(FIRST))
    }

    /// All that comes of a packet, which may be nothing: an echo request behind it says when that
    /// is all.
    fn translate(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.wire.send(packet);
        self.wire.send(&echo_request(LAST));
        let mut all = Vec::new();
        loop {
            let packet = self.wire.receive(PATIENCE).expect("at least the last packet");
            if packet.ends_with(LAST) && packet[9] == 1 {
                return all;
            }
            if !packet.ends_with(FIRST) {
                all.push(packet);
            }
        }
    }
}

const FIRST: &[u8] = b" are you there";
const LAST: &[u8] = b" that was all";

fn echo_request(end: &[u8]) -> Vec<u8> {
    let mut echo = from6("echo_request");
    echo.extend_from_slice(end);
    mend(&mut echo);
    other_prefix(echo)
}

fn prefix() -> Ipv6Addr {
    let mut octets = SERVICE.octets();
    octets[12..].fill(0);
    octets.into()
}

fn collect(mut packets: Packets<'_>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(packet) = packets.next_packet() {
        all.push(packet.to_vec());
    }
    all
}

fn port_of<A>(inside: Inside<A>) -> u16 {
    match inside {
        Inside::Flow { flow, .. } | Inside::Error(flow) => flow.client_port,
        Inside::Later(_) => 0,
    }
}

/// What we make of a packet, ports unchanged: translated, or an ICMP error to its sender, or
/// nothing.
fn ours(packet: &[u8], identification: u16) -> Vec<Vec<u8>> {
    let mut out = vec![0; packet.len() + GROWTH_MAX];
    if packet[0] >> 4 == 6 {
        let translated = Ipv6Packet::parse(packet).and_then(|parsed| {
            let client_port = port_of(parsed.inside());
            let rewrite = Rewrite { client: CLIENT4, client_port, service: SERVICE4 };
            parsed.to_ipv4(&rewrite, identification, &LIMITS, &mut out).map(collect)
        });
        answered(translated, |error| {
            ipv6_error(error, TAYGA6, packet).map(|told| [&told.headers, told.quoted].concat())
        })
    } else {
        let translated = Ipv4Packet::parse(packet).and_then(|parsed| {
            let client_port = port_of(parsed.inside());
            let rewrite = Rewrite { client: CLIENT, client_port, service: SERVICE };
            parsed.to_ipv6(&rewrite, &LIMITS, &mut out).map(collect)
        });
        answered(translated, |error| {
            ipv4_error(error, TAYGA4, packet).map(|told| [&told.headers, told.quoted].concat())
        })
    }
}

fn answered(
    translated: Result<Vec<Vec<u8>>, Refused>,
    answer: impl FnOnce(nat64handoff::ip::icmp::IcmpError) -> Option<Vec<u8>>,
) -> Vec<Vec<u8>> {
    match translated {
        Ok(packets) => packets,
        Err(refused) => refused.error.and_then(answer).into_iter().collect(),
    }
}

/// Where TAYGA 0.9.2 does something else, and what decides. `*` stands for any end of a case's
/// name.
const EXCEPTIONS: [(u8, &str, &str); 21] = [
    (
        6,
        "quoted_tcp_cut*",
        "RFC 7915 5.3, Figure 7: what is there of the quoted transport header is translated",
    ),
    (
        6,
        "quoted_echo*",
        "RFC 7915 5.3, RFC 6146 3.6.2: quoted echoes are translated, of routers as of the client",
    ),
    (6, "extension*", "RFC 7915 5.2, ICMP Error Payload: the length of RFC 4884 is adjusted"),
    (6, "pointer*", "RFC 7915 5.2, Figure 6: parameter problems of code 0 are translated"),
    (6, "error 4/0", "RFC 7915 5.2, Figure 6: the same"),
    (6, "error 1/3", "RFC 7915 5.2: address unreachable becomes host unreachable"),
    (6, "too big 0", "RFC 7915 5.2: any MTU is translated; 5: no IPv4 link has less than 68"),
    (6, "hop limit 0", "RFC 4443 3.3: received with 0, it is answered like one that becomes 0"),
    (6, "segments left", "RFC 7915 5.1: not translated, answered with a parameter problem"),
    (4, "udp_without_checksum", "RFC 7915 4.5, second choice: the checksum is made"),
    (4, "quoted_udp_without_checksum", "RFC 7915 4.3: quoted ones are translated like others"),
    (
        4,
        "quoted_tcp_cut",
        "RFC 7915 4.3, RFC 1122 3.2.2: eight octets are quoted at least, often no more",
    ),
    (
        4,
        "quoted_fragment",
        "RFC 7915 4.3: quoted headers are translated like others, fragments too",
    ),
    (4, "extension*", "RFC 7915 4.2, ICMP Error Payload: the length of RFC 4884 is adjusted"),
    (4, "pointer", "RFC 7915 4.2, Figure 3: parameter problems are translated"),
    (4, "pointer *", "RFC 7915 4.2, Figure 3: the same, for each pointer that has a counterpart"),
    (4, "error 12/0", "RFC 7915 4.2, Figure 3: the same"),
    (4, "error 12/2", "RFC 7915 4.2, Figure 3: the same"),
    (4, "ttl 0", "RFC 1812 5.3.1: received with 0, it is answered like one that becomes 0"),
    (4, "first fragment without checksum", "RFC 7915 4.4: what is discarded is answered with 3/13"),
    (4, "source route", "RFC 7915 4.1: an unexpired one is refused"),
];

/// What TAYGA made, but for two things that concern every packet: it sets DF where a packet has no
/// more than 1260 octets (RFC 7915 section 5.1 wants it clear), of quoted ones too, and sends ICMP
/// errors of its own without it and with identification 0 (RFC 6864 sections 4.1 and 4.3: only with
/// DF may all have the same).
fn normalized(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        return packet;
    }
    let of_its_own = packet[12..16] == TAYGA4.octets();
    clear_dont_fragment(&mut packet);
    if of_its_own {
        packet[6] |= 0x40;
        mend_header(&mut packet);
    } else if packet[9] == 1 && !matches!(packet[20], 0 | 8) {
        clear_dont_fragment(&mut packet[28..]);
    }
    packet
}

fn clear_dont_fragment(packet: &mut [u8]) {
    if u16::from_be_bytes([packet[2], packet[3]]) <= 1260 {
        packet[6] &= !0x40;
        mend_header(packet);
    }
}

fn mend_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = nat64handoff::ip::checksum::checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn hex(packets: &[Vec<u8>]) -> String {
    let line = |packet: &Vec<u8>| packet.iter().map(|octet| format!("{octet:02x}")).collect();
    packets.iter().map(line).collect::<Vec<String>>().join("\n")
}

/// Every case is translated alike, or an exception; and every exception is still one.
#[test]
fn octet_by_octet() {
    install("ip");
    install("tayga");
    private_namespace(false);
    let tayga = Tayga::start();
    let mut used = [0; EXCEPTIONS.len()];
    let (mut alike, mut wrong) = (0, 0);
    for Case { name, packet } in ipv6_cases().into_iter().chain(ipv4_cases()) {
        let version = packet[0] >> 4;
        let theirs = tayga.translate(&packet);
        let identification = theirs.first().map_or(0, |it| u16::from_be_bytes([it[4], it[5]]));
        let theirs: Vec<_> = theirs.into_iter().map(normalized).collect();
        let ours = ours(&packet, identification);
        if ours == theirs {
            alike += 1;
            continue;
        }
        let covers = |pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        match EXCEPTIONS.iter().position(|it| it.0 == version && covers(it.1)) {
            Some(exception) => used[exception] += 1,
            None => {
                wrong += 1;
                eprintln!("IPv{version} {name}: ours\n{}\nTAYGA's\n{}", hex(&ours), hex(&theirs));
            }
        }
    }
    let excepted: usize = used.iter().sum();
    println!("{alike} cases alike, {excepted} exceptions, {wrong} that differ");
    for ((version, pattern, paragraph), used) in EXCEPTIONS.iter().zip(used) {
        println!("IPv{version} {pattern}: {used} cases, {paragraph}");
        assert!(used > 0, "IPv{version} {pattern} is no exception any more");
    }
    assert_eq!(wrong, 0);
}
