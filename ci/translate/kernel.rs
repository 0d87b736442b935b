//! The kernel gets what is made and answers it; it drops what has a wrong checksum or length.
//!
//! Both ends are in one namespace: a client at 2001:db8::17 behind one TUN device, the service at
//! 203.0.113.5 behind another, and between them nothing but translation, so that not even the
//! kernel's own sockets have a way around it. Ports are mapped to others.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nat64handoff::ip::icmp::IcmpError;
use nat64handoff::nat64::translate::{
    GROWTH_MAX, Inside, Ipv4Packet, Ipv6Packet, Limits, Packets, Refusal, Refused, Rewrite,
    ipv4_error, ipv6_error,
};

use crate::cases::{CLIENT, CLIENT4, SERVICE4};
use crate::namespace::{PATIENCE, Tun, install, ip, private_namespace};

/// The service, with the well-known prefix.
const SERVICE: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
const LIMITS: Limits = Limits::new(1400, 1500).unwrap();
const PACKET_MAX: usize = 65_575;

/// Its own inverse, and nobody's own port.
fn mapped(port: u16) -> u16 {
    port ^ 0x0550
}

/// The translator between the two devices, in threads of its own.
struct Translator {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    refused: Arc<[AtomicU32; Refusal::ALL.len()]>,
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

impl Translator {
    fn start() -> Translator {
        let (tun6, tun4) = (Arc::new(Tun::new("tun6")), Arc::new(Tun::new("tun4")));
        for command in [
            "link set lo up",
            "link set tun6 up mtu 1500",
            "link set tun4 up mtu 1400",
            "address add 203.0.113.5/32 dev tun4",
            "route add 192.0.2.7/32 dev tun4",
            "-6 address add 2001:db8::17/128 dev tun6 nodad",
            "-6 route add 64:ff9b::/96 dev tun6",
        ] {
            ip(command);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let refused = Arc::new([const { AtomicU32::new(0) }; Refusal::ALL.len()]);
        let there = {
            let (stop, refused) = (stop.clone(), refused.clone());
            let (from, to) = (tun6.clone(), tun4.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(packet) = from.receive() else { continue };
                    if let Err(refusal) = to_ipv4(&packet, &to) {
                        refused[refusal.reason as usize].fetch_add(1, Ordering::Relaxed);
                        refusal.error.inspect(|&error| answer_ipv6(error, &packet, &from));
                    }
                }
            })
        };
        let back = {
            let (stop, refused) = (stop.clone(), refused.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(packet) = tun4.receive() else { continue };
                    if let Err(refusal) = to_ipv6(&packet, &tun6) {
                        refused[refusal.reason as usize].fetch_add(1, Ordering::Relaxed);
                        refusal.error.inspect(|&error| answer_ipv4(error, &packet, &tun4));
                    }
                }
            })
        };
        Translator { stop, threads: vec![there, back], refused }
    }

    fn refused(&self, reason: Refusal) -> u32 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }
}

fn port_of<A>(inside: Inside<A>) -> u16 {
    match inside {
        Inside::Flow { flow, .. } | Inside::Error(flow) => mapped(flow.client_port),
        Inside::Later(_) => 0,
    }
}

fn send(mut packets: Packets<'_>, to: &Tun) {
    while let Some(packet) = packets.next_packet() {
        to.send(packet);
    }
}

fn to_ipv4(packet: &[u8], to: &Tun) -> Result<(), Refused> {
    let mut out = vec![0; PACKET_MAX + GROWTH_MAX];
    let parsed = Ipv6Packet::parse(packet)?;
    let client_port = port_of(parsed.inside());
    let rewrite = Rewrite { client: CLIENT4, client_port, service: SERVICE4 };
    // Each packet another identification: the kernel puts fragments together by it.
    static IDENTIFICATION: AtomicU32 = AtomicU32::new(0);
    let identification = IDENTIFICATION.fetch_add(1, Ordering::Relaxed) as u16;
    send(parsed.to_ipv4(&rewrite, identification, &LIMITS, &mut out)?, to);
    Ok(())
}

fn to_ipv6(packet: &[u8], to: &Tun) -> Result<(), Refused> {
    let mut out = vec![0; PACKET_MAX + GROWTH_MAX];
    let parsed = Ipv4Packet::parse(packet)?;
    let client_port = port_of(parsed.inside());
    let rewrite = Rewrite { client: CLIENT, client_port, service: SERVICE };
    send(parsed.to_ipv6(&rewrite, &LIMITS, &mut out)?, to);
    Ok(())
}

fn answer_ipv6(error: IcmpError, about: &[u8], to: &Tun) {
    if let Some(told) = ipv6_error(error, SERVICE, about) {
        to.send(&[&told.headers, told.quoted].concat());
    }
}

fn answer_ipv4(error: IcmpError, about: &[u8], to: &Tun) {
    if let Some(told) = ipv4_error(error, CLIENT4, about) {
        to.send(&[&told.headers, told.quoted].concat());
    }
}

fn translator() -> Translator {
    install("ip");
    private_namespace(true);
    let translator = Translator::start();
    // What is sent while the kernel makes the devices ready may be lost.
    let (client, service) = (client_socket(), service_socket());
    for socket in [&client, &service] {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    }
    let there_and_back = || {
        let mut buffer = [0; 8];
        client.send_to(b"ready?", (SERVICE, port(&service)))?;
        let (length, from) = service.recv_from(&mut buffer)?;
        service.send_to(&buffer[..length], from)?;
        client.recv(&mut buffer)
    };
    let started = Instant::now();
    while there_and_back().is_err() {
        assert!(started.elapsed() < PATIENCE, "nothing comes through");
    }
    translator
}

/// What a socket has received instead of a datagram.
fn error_of(socket: &UdpSocket) -> io::Error {
    loop {
        let error = socket.recv(&mut [0; 100]).unwrap_err();
        if error.kind() != io::ErrorKind::Interrupted {
            return error;
        }
    }
}

fn client_socket() -> UdpSocket {
    let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn service_socket() -> UdpSocket {
    let socket = UdpSocket::bind((SERVICE4, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

fn octets(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 256) as u8).collect()
}

#[test]
fn tcp_both_ways() {
    let _translator = translator();
    const LENGTH: usize = 1 << 20;
    let listener = TcpListener::bind((SERVICE4, 0)).unwrap();
    let service = (SERVICE, listener.local_addr().unwrap().port());
    let server = thread::spawn(move || {
        let (mut connection, peer) = listener.accept().unwrap();
        let mut received = vec![0; LENGTH];
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.read_exact(&mut received).unwrap();
        connection.write_all(&received).unwrap();
        (peer, received)
    });
    let address = SocketAddr::from(service);
    let mut client = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = client.try_clone().unwrap();
    let sent = octets(LENGTH);
    writer.write_all(&sent).unwrap();
    let mut back = vec![0; LENGTH];
    client.read_exact(&mut back).unwrap();
    let (peer, received) = server.join().unwrap();
    assert!(received == sent && back == sent);
    let local = client.local_addr().unwrap();
    assert_eq!(local.ip(), CLIENT);
    assert_eq!(peer, SocketAddr::from((CLIENT4, mapped(local.port()))));
}

#[test]
fn tcp_to_a_closed_port_is_refused() {
    let _translator = translator();
    let error = TcpStream::connect_timeout(&SocketAddr::from((SERVICE, 9)), PATIENCE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "by the reset that came back");
}

/// Of every length up to where it takes fragments, and some beyond.
#[test]
fn udp_both_ways() {
    let translator = translator();
    let (client, service) = (client_socket(), service_socket());
    let mut buffer = vec![0; 65_536];
    for length in (0..1300).step_by(13).chain([1232, 1233, 1352, 1353, 1372, 3000, 9000, 60_000]) {
        let sent = octets(length);
        client.send_to(&sent, (SERVICE, port(&service))).unwrap();
        let (received, from) = service.recv_from(&mut buffer).unwrap();
        assert!(buffer[..received] == sent, "{length} octets to the service");
        assert_eq!(from, SocketAddr::from((CLIENT4, mapped(port(&client)))));
        service.send_to(&sent, from).unwrap();
        let (received, from) = client.recv_from(&mut buffer).unwrap();
        assert!(buffer[..received] == sent, "{length} octets to the client");
        assert_eq!(from, SocketAddr::from((SERVICE, port(&service))));
    }
    // 1373 octets and more do not fit into 1400: the kernel learned that from the first of them.
    assert!(translator.refused(Refusal::TooBig) <= 1);
}

/// The kernel learns the MTU of the IPv4 side, and sends in fragments what was too big.
#[test]
fn packet_too_big_is_understood() {
    let translator = translator();
    let (client, service) = (client_socket(), service_socket());
    let sent = octets(1440);
    client.send_to(&sent, (SERVICE, port(&service))).unwrap();
    let started = Instant::now();
    while translator.refused(Refusal::TooBig) == 0 {
        assert!(started.elapsed() < PATIENCE, "1488 octets are 1468 there, of 1400");
        thread::yield_now();
    }
    service.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2000];
    assert!(service.recv_from(&mut buffer).is_err(), "it was refused, and came through");
    service.set_nonblocking(false).unwrap();
    // The error of before may be reported by the first of these.
    let again = || client.send_to(&sent, (SERVICE, port(&service)));
    again().or_else(|_| again()).unwrap();
    let (received, _) = service.recv_from(&mut buffer).unwrap();
    assert!(buffer[..received] == sent);
    assert_eq!(translator.refused(Refusal::TooBig), 1);
}

/// Errors that the kernel makes of packets of ours reach the sockets that they are about.
#[test]
fn port_unreachable_is_understood() {
    let _translator = translator();
    let client = client_socket();
    client.connect((SERVICE, 9)).unwrap();
    client.send(b"is there anybody").unwrap();
    let error = error_of(&client);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    let service = service_socket();
    service.connect((CLIENT4, mapped(9))).unwrap();
    service.send(b"is there anybody").unwrap();
    let error = error_of(&service);
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
}

/// Errors of the translator's own.
#[test]
fn time_exceeded_is_understood() {
    install("ping");
    let translator = translator();
    for (arguments, expected) in [
        ("-6 -c 1 -t 1 -w 5 64:ff9b::203.0.113.5", "Time exceeded: Hop limit"),
        ("-4 -c 1 -t 1 -w 5 192.0.2.7", "Time to live exceeded"),
    ] {
        let output = Command::new("ping").args(arguments.split(' ')).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "{arguments}: {text}");
    }
    assert!(translator.refused(Refusal::HopLimit) >= 2);
}

/// Both kernels answer echo requests, which takes a right checksum each way.
#[test]
fn ping_both_ways() {
    install("ping");
    let _translator = translator();
    for arguments in [
        "-6 -c 3 -i 0.2 -w 5 64:ff9b::203.0.113.5",
        "-6 -c 2 -i 0.2 -w 5 -s 1232 64:ff9b::203.0.113.5",
        "-4 -c 3 -i 0.2 -w 5 192.0.2.7",
        // Fragments of ours, as IPv4 allows them: the request in two, the answer whole.
        "-4 -c 2 -i 0.2 -w 5 -M dont -s 1300 192.0.2.7",
    ] {
        let output = Command::new("ping").args(arguments.split(' ')).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{arguments}: {text}");
    }
}
