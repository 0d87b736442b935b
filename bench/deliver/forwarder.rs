//! A process that passes packets between a TUN device and a UDP peer, each in a payload, and knows
//! nothing of the protocol but how many octets stand before a packet. It has all offloads that the
//! server has. It is what delivery costs at least, and the other end of it.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nat64handoff::handoff::message::{self, VALIDATION_PORT, message_type};
use nat64handoff::ip::build;
use nat64handoff::ip::ipv6::Ipv6;
use nat64handoff::ip::joined::join_each;
use nat64handoff::ip::offload::{OFFLOAD_HEADER, Offload};
use nat64handoff::ip::segments::Pieces;
use nat64handoff::kernel::backend::{Backend, ReturnPath};
use nat64handoff::kernel::ring::Ring;
use nat64handoff::kernel::socket::bind_group;
use nat64handoff::kernel::tun_queue::TunQueue;

/// What the NAT64 made up.
const TOKEN: [u8; 16] = *b"token of 16 oct.";
const AUTHENTICATOR: [u8; 16] = *b"authenticator 16";
/// Octets of a message with either.
const MAC: usize = 18;
/// Packets that are taken from the device at once.
const PACKETS_MAX: usize = 64;

/// How often the NAT64 looks whether it is to prove itself.
const PROOF_EVERY: Duration = Duration::from_millis(20);

/// Which end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In place of the server: it takes token and authenticator off, and puts the authenticator
    /// before what goes back.
    Server,
    /// In place of the NAT64 and its client: the reverse.
    Nat64,
}

/// Passes packets on until it is killed. It answers at `own`, and sends to `other`.
pub fn run(end: End, device: &str, own: SocketAddrV4, other: SocketAddrV4) -> ! {
    let queue = TunQueue::attach(device, 1).unwrap_or_else(|error| panic!("{error}")).remove(0);
    let sockets = bind_group(&[own], 1).unwrap().remove(0);
    let (mut ring, _waker) = Ring::new(sockets).unwrap();
    ring.watch(Some(queue.as_fd().try_clone_to_owned().unwrap()));
    let path = ring.path_from(*own.ip(), None).unwrap();
    let mut front = Vec::new();
    if end == End::Nat64 {
        message::emit(&mut front, message_type::TOKEN, &TOKEN);
    }
    let proof = (end == End::Nat64).then(|| Proof::new(own));
    let wait = proof.as_ref().map(|_| PROOF_EVERY);
    message::emit(&mut front, message_type::AUTHENTICATOR, &AUTHENTICATOR);
    let off = if end == End::Nat64 { MAC } else { 2 * MAC };
    let mut buffer = vec![0; OFFLOAD_HEADER + 40 + 65_536];
    loop {
        let arrivals = ring.turn(wait).unwrap();
        if let Some(proof) = &proof {
            proof.give(&mut ring, path, other);
        }
        deliver(&queue, &mut ring, arrivals, off);
        for _ in 0..PACKETS_MAX {
            let Some(received) = queue.receive(&mut buffer).unwrap() else { break };
            let offload = received.offload.unwrap();
            send(&mut ring, path, other, &front, received.packet, &offload);
        }
    }
}

fn deliver(queue: &TunQueue, ring: &mut Ring, arrivals: usize, off: usize) {
    let ranges: Vec<_> = (0..arrivals).map(|at| ring.arrival(at).0.payload.clone()).collect();
    // What is no packet is about the NAT64 alone.
    let packets = ranges.into_iter().enumerate().filter_map(|(at, range)| {
        let octets = ring.buffer(at).get(range.start + off..range.end).unwrap_or_default();
        octets.first().is_some_and(|first| first >> 4 == 6).then_some(octets)
    });
    join_each(packets, true, |offload, front, rest| {
        let _ = queue.send(offload, front, rest.iter().copied());
    });
}

fn send(
    ring: &mut Ring,
    path: ReturnPath,
    to: SocketAddrV4,
    front: &[u8],
    packet: &[u8],
    offload: &Offload,
) {
    if Ipv6::new(packet).is_none() {
        return;
    }
    let Some(mut pieces) = Pieces::of(packet, offload) else { return };
    let behind = front.len();
    while let Some(length) = pieces.next_length() {
        let write = |out: &mut [u8]| {
            out[..behind].copy_from_slice(front);
            pieces.next_piece(&mut out[behind..]);
        };
        ring.send_emitted(path, behind + length, to, write).unwrap();
    }
}

/// Returns what the server sends to port 9: that this is the NAT64.
struct Proof {
    validation: UdpSocket,
}

impl Proof {
    fn new(own: SocketAddrV4) -> Self {
        let validation = UdpSocket::bind((*own.ip(), VALIDATION_PORT)).unwrap();
        validation.set_nonblocking(true).unwrap();
        Self { validation }
    }

    fn give(&self, ring: &mut Ring, path: ReturnPath, server: SocketAddrV4) {
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = self.validation.recv_from(&mut buffer) {
            let to = SocketAddrV4::new(path.local, VALIDATION_PORT);
            let mut payload = Vec::new();
            message::emit(&mut payload, message_type::TOKEN, &TOKEN);
            payload.extend_from_slice(&build::ipv4_udp(server, to, &buffer[..length]));
            ring.send_copy(path, &payload, server).unwrap();
        }
    }
}
