//! A server that delivers, as plain as can be: it believes every NAT64, keeps no table, and gives
//! packets to a TUN device of its host and back. For tests of a NAT64, and what that costs.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, mem, ptr, thread};

use nat64handoff::ip::joined::Joined;
use nat64handoff::ip::offload::{OFFLOAD_HEADER, Offload};
use nat64handoff::ip::segments::Segments;
use nat64handoff::kernel::tun::Tun;
use nat64handoff::kernel::tun_queue::TunQueue;

/// Where it listens.
const PORT: u16 = 64064;
/// Its device, of which no packet becomes a datagram in fragments on a path of 1500 octets.
const DEVICE: &str = "ho0";
const MTU: u16 = 1418;
/// The device needs a route; nobody uses this one.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);
/// A datagram with all that may be joined to it.
const DATAGRAMS: usize = 65_536;
const UDP_GRO: libc::c_int = 104;
const UDP_SEGMENT: libc::c_int = 103;
/// The most datagrams that are sent as one.
const SEGMENTS_MAX: usize = 64;

/// Where answers to a client go, and the message before them.
type Clients = Arc<Mutex<HashMap<Ipv6Addr, (SocketAddr, Vec<u8>)>>>;

/// Delivers what is sent to `service` in the calling thread's network namespace, where it is
/// `service6`, for as long as the process lives.
pub fn deliver(service: Ipv4Addr, service6: Ipv6Addr) {
    let (tun, mut queues) = Tun::open(DEVICE, 1).unwrap();
    tun.set_up(MTU, &[NOBODY], &[]).unwrap();
    for line in [
        &format!("address add {service6}/128 dev {DEVICE} nodad preferred_lft 0 noprefixroute"),
        &format!("route add ::/0 dev {DEVICE} table 6464"),
        &format!("rule add from {service6}/128 lookup 6464 priority 6464"),
    ] {
        let status = Command::new("ip").arg("-6").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip -6 {line}");
    }
    let socket = UdpSocket::bind((service, PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
    set(&socket, UDP_GRO, 1);
    let (clients, tun) = (Clients::default(), Arc::new(queues.remove(0)));
    let (to_host, to_nat64) = (socket.try_clone().unwrap(), socket);
    let (of_host, of_nat64) = (Arc::clone(&tun), Arc::clone(&clients));
    thread::spawn(move || while take(&to_host, &of_host, &of_nat64).is_ok() {});
    thread::spawn(move || answer(&tun, &to_nat64, &clients));
}

/// Gives the host what a NAT64 sends.
fn take(socket: &UdpSocket, tun: &TunQueue, clients: &Clients) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAMS];
    let (length, size, from) = receive(socket, &mut buffer)?;
    let mut joined: Option<(Joined, Vec<std::ops::Range<usize>>)> = None;
    let mut at = 0;
    for payload in buffer[..length].chunks(size) {
        let start = at;
        at += payload.len();
        let Some((authenticator, packet)) = packet_of(payload) else {
            send(socket, &answer_to_report(payload), 0, from);
            continue;
        };
        let source =
            Ipv6Addr::from(<[u8; 16]>::try_from(&payload[packet + 8..packet + 24]).unwrap());
        let mut known = clients.lock().unwrap();
        if known.get(&source).is_none_or(|(to, before)| *to != from || before != authenticator) {
            known.insert(source, (from, authenticator.to_vec()));
        }
        drop(known);
        let inner = &payload[packet..];
        let place =
            |data: std::ops::Range<usize>| start + packet + data.start..start + packet + data.end;
        if let Some((joined, parts)) = &mut joined
            && let Some(data) = joined.join(inner)
        {
            parts.push(place(data));
            continue;
        }
        write(tun, &buffer, joined.take());
        match Joined::begin(inner, true) {
            Some((begun, data)) => joined = Some((begun, vec![place(data)])),
            None => drop(tun.send(&Offload::default(), inner, [])),
        }
    }
    write(tun, &buffer, joined);
    Ok(())
}

fn write(tun: &TunQueue, buffer: &[u8], joined: Option<(Joined, Vec<std::ops::Range<usize>>)>) {
    if let Some((mut joined, parts)) = joined {
        let (front, offload) = joined.finish();
        // What the kernel does not take is lost, as on any link.
        drop(tun.send(&offload, front, parts.into_iter().map(|part| &buffer[part])));
    }
}

/// Gives NAT64s what the host answers.
fn answer(tun: &TunQueue, socket: &UdpSocket, clients: &Clients) {
    let mut buffer = vec![0; OFFLOAD_HEADER + 40 + 65_536];
    let mut segment = vec![0; 65_536];
    loop {
        let Some(received) = tun.receive(&mut buffer).unwrap() else {
            wait(tun.as_fd().as_raw_fd());
            continue;
        };
        let (offload, packet) = (received.offload.unwrap(), received.packet);
        if packet[0] >> 4 != 6 || packet.len() < 40 {
            continue;
        }
        let to = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap());
        let known = clients.lock().unwrap().get(&to).cloned();
        let Some((nat64, authenticator)) = known else { continue };
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        if let Some(mut segments) = Segments::of(packet, &offload) {
            while let Some(length) = segments.next_segment(&mut segment) {
                datagrams.push([&authenticator, &segment[..length]].concat());
            }
        } else {
            if let Some(left) = offload.checksum {
                assert!(left.make(packet));
            }
            datagrams.push([&authenticator, &*packet].concat());
        }
        let size = datagrams[0].len();
        for together in datagrams.chunks((65_507 / size).min(SEGMENTS_MAX)) {
            send(socket, &together.concat(), size, nat64);
        }
    }
}

/// The authenticator, message and all, and where the packet is, of what holds a client's packet.
fn packet_of(payload: &[u8]) -> Option<(&[u8], usize)> {
    let (mut at, mut authenticator) = (0, None);
    while payload[at] >> 4 == 3 {
        let end = at + 2 + 2 * usize::from(payload[at + 1]);
        if payload[at] == 0x36 {
            authenticator = Some(&payload[at..end]);
        }
        at = end;
        if at == payload.len() {
            return None;
        }
    }
    (payload[at] >> 4 == 6).then_some((authenticator?, at))
}

/// Of a report: authenticator and entry, as they came. Of a packet of ours: that, with the token.
fn answer_to_report(payload: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut at = 0;
    while at < payload.len() && payload[at] >> 4 == 3 {
        let end = at + 2 + 2 * usize::from(payload[at + 1]);
        if matches!(payload[at], 0x36 | 0x37) {
            answer.extend_from_slice(&payload[at..end]);
        } else if payload[at] == 0x34 && payload.get(end).is_some_and(|octet| octet >> 4 == 4) {
            answer.extend_from_slice(&payload[at..]);
        }
        at = end;
    }
    answer
}

/// Sends datagrams of so many octets, the last of which may be shorter; 0: it is one.
fn send(socket: &UdpSocket, octets: &[u8], size: usize, to: SocketAddr) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap();
    set(socket, UDP_SEGMENT, size as libc::c_int);
    // What the kernel does not take is lost, as on any link.
    let _ = socket.send_to(octets, to);
}

fn set(socket: &UdpSocket, option: libc::c_int, value: libc::c_int) {
    let (at, length) = ((&raw const value).cast(), size_of::<libc::c_int>() as u32);
    // SAFETY: the kernel reads one int.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, option, at, length) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn wait(descriptor: libc::c_int) {
    let mut polled = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, which is ours.
    unsafe { libc::poll(&raw mut polled, 1, 1000) };
}

/// How many octets of datagrams there are, of how many each but the last is, and from whom.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, usize, SocketAddr)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0_u64; 8];
    // SAFETY: all zeros is a value of both.
    let (mut message, mut from): (libc::msghdr, libc::sockaddr_in) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: each pointer is to as many octets as is said.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut size = length.max(1);
    // SAFETY: the kernel wrote the control messages, and says how many octets they have.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == UDP_GRO {
            size = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<libc::c_int>()) as usize;
        }
    }
    let address = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
    Ok((length, size, SocketAddr::from((address, u16::from_be(from.sin_port)))))
}
