//! What every backend must do.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::*;
use crate::handoff::message::{HEAD_ROOM, PAYLOAD_MAX};
use crate::kernel::mmsg::Mmsg;
use crate::kernel::outgoing::{ARENA_SIZE, MESSAGES_MAX};
use crate::kernel::ring::Ring;
use crate::kernel::socket::{ReactorSocket, bind_group, steered_to};
use crate::kernel::waker::EventWaker;

trait Made: Backend + Sized {
    fn make(sockets: Vec<ReactorSocket>) -> io::Result<(Self, EventWaker)>;
}

impl Made for Ring {
    fn make(sockets: Vec<ReactorSocket>) -> io::Result<(Self, EventWaker)> {
        Ring::new(sockets)
    }
}

impl Made for Mmsg {
    fn make(sockets: Vec<ReactorSocket>) -> io::Result<(Self, EventWaker)> {
        Mmsg::new(sockets)
    }
}

macro_rules! both {
    ($($test:ident)*) => {
        mod uring {
            $(#[test] fn $test() { super::$test::<super::Ring>(); })*
        }
        mod mmsg {
            $(#[test] fn $test() { super::$test::<super::Mmsg>(); })*
        }
    };
}

both! {
    echoes_in_place
    echoes_a_copy
    a_reply_can_begin_in_the_head_room
    a_burst_comes_through_in_order
    buffers_come_back
    more_arrives_than_there_are_buffers_while_nobody_turns
    many_replies_to_one_request
    wildcard_replies_leave_from_the_address_that_was_asked
    broadcasts_are_counted_and_not_handed_out
    several_sockets_share_a_backend
    refused_replies_are_counted_and_end_nothing
    a_closed_port_at_the_other_end_is_no_error
    a_turn_waits_as_long_as_it_was_told_to
    a_waker_ends_the_wait_from_another_thread
    a_waker_that_is_used_while_replies_leave_ends_the_next_wait
    a_signal_ends_the_wait_and_nothing_else
    a_datagram_after_a_long_silence_is_received
    finish_sends_what_is_queued_and_receives_no_more
    backends_come_and_go_under_traffic
    each_reactor_gets_its_sources
    what_a_full_queue_drops_is_counted
}

mod coalesced;

const SHORT: Option<Duration> = Some(Duration::from_millis(20));

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// More turns than any test needs.
const TURNS_MAX: usize = 2000;

const LENGTHS: [usize; 6] = [0, 1, 150, 1472, 9000, PAYLOAD_MAX];

fn sockets(addresses: &[Ipv4Addr]) -> Vec<ReactorSocket> {
    let listen: Vec<_> = addresses.iter().map(|&address| SocketAddrV4::new(address, 0)).collect();
    bind_group(&listen, 1).unwrap().remove(0)
}

/// A backend that listens on one address, its waker and that address.
fn start<B: Made>(address: Ipv4Addr) -> (B, EventWaker, SocketAddrV4) {
    let sockets = sockets(&[address]);
    let local = sockets[0].local();
    let (backend, waker) = B::make(sockets).unwrap();
    (backend, waker, local)
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!(),
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251 + seed) as u8).collect()
}

/// Turns until `each` has seen `count` datagrams.
fn receive_all<B: Made>(backend: &mut B, count: usize, mut each: impl FnMut(&mut B, usize)) {
    let mut seen = 0;
    for _ in 0..TURNS_MAX {
        if seen == count {
            return;
        }
        let arrived = backend.turn(SHORT).unwrap();
        for index in 0..arrived {
            each(backend, index);
        }
        seen += arrived;
    }
    panic!("{seen} of {count} datagrams");
}

fn payload<B: Made>(backend: &mut B, index: usize) -> Vec<u8> {
    let (arrival, buffer) = backend.arrival(index);
    // GRO coalesces nothing in these tests.
    assert!(arrival.payload.start >= arrival.room + HEAD_ROOM);
    buffer[arrival.payload.clone()].to_vec()
}

fn echo_in_place<B: Made>(backend: &mut B, index: usize) {
    let Arrival { payload, source, .. } = backend.arrival(index).0.clone();
    backend.send_in_place(index, payload, source).unwrap();
}

fn echo_copy<B: Made>(backend: &mut B, index: usize) {
    let (source, return_path) =
        (backend.arrival(index).0.source, backend.arrival(index).0.return_path());
    let copy = payload(backend, index);
    backend.send_copy(return_path, &copy, source).unwrap();
}

fn echoes_every_length<B: Made>(address: Ipv4Addr, echo: fn(&mut B, usize)) {
    let (mut backend, _waker, local) = start::<B>(address);
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, local.port());
    let client = client();
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let request = pattern(length, seed);
        client.send_to(&request, server).unwrap();
        receive_all(&mut backend, 1, |backend, index| {
            let arrival = backend.arrival(index).0.clone();
            assert_eq!(arrival.source, v4(client.local_addr().unwrap()));
            assert_eq!(arrival.local, Ipv4Addr::LOCALHOST);
            assert_eq!(arrival.socket, 0);
            echo(backend, index);
        });
        backend.turn(Some(Duration::ZERO)).unwrap();
        let mut reply = vec![0; PAYLOAD_MAX + 1];
        let (received, from) = client.recv_from(&mut reply).unwrap();
        assert_eq!(v4(from), server);
        assert!(reply[..received] == request[..], "{length} octets");
    }
    assert_eq!(backend.take_losses(), Losses::default());
}

fn echoes_in_place<B: Made>() {
    echoes_every_length::<B>(Ipv4Addr::LOCALHOST, echo_in_place);
    echoes_every_length::<B>(Ipv4Addr::UNSPECIFIED, echo_in_place);
}

fn echoes_a_copy<B: Made>() {
    echoes_every_length::<B>(Ipv4Addr::LOCALHOST, echo_copy);
    echoes_every_length::<B>(Ipv4Addr::UNSPECIFIED, echo_copy);
}

fn a_reply_can_begin_in_the_head_room<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    let client = client();
    client.send_to(b"packet", server).unwrap();
    receive_all(&mut backend, 1, |backend, index| {
        let (arrival, buffer) = backend.arrival(index);
        let (source, end) = (arrival.source, arrival.payload.end);
        let start = arrival.payload.start - HEAD_ROOM;
        buffer[start..start + HEAD_ROOM].fill(b'x');
        backend.send_in_place(index, start..end, source).unwrap();
    });
    backend.finish().unwrap();
    let mut reply = [0; 2 * HEAD_ROOM];
    let length = client.recv(&mut reply).unwrap();
    assert_eq!(length, HEAD_ROOM + 6);
    assert!(reply[..HEAD_ROOM].iter().all(|&octet| octet == b'x'));
    assert_eq!(&reply[HEAD_ROOM..length], b"packet");
}

/// Sends `count` numbered datagrams before the backend turns, and sees each once, in order.
fn flood<B: Made>(
    backend: &mut B,
    server: SocketAddrV4,
    count: u32,
    mut each: impl FnMut(&mut B, usize),
) {
    let client = client();
    flood_from(&client, backend, server, count, &mut each);
}

/// As [`flood`], and expects each back.
fn burst<B: Made>(backend: &mut B, server: SocketAddrV4, count: u32, mut echo: fn(&mut B, usize)) {
    let client = client();
    flood_from(&client, backend, server, count, &mut echo);
    backend.turn(Some(Duration::ZERO)).unwrap();
    for number in 0..count {
        let mut reply = [0; 5];
        let length = client.recv(&mut reply).unwrap();
        assert_eq!(reply[..length], number.to_be_bytes());
    }
    assert_eq!(backend.take_losses(), Losses::default());
}

fn flood_from<B: Made>(
    client: &UdpSocket,
    backend: &mut B,
    server: SocketAddrV4,
    count: u32,
    each: &mut impl FnMut(&mut B, usize),
) {
    for number in 0..count {
        client.send_to(&number.to_be_bytes(), server).unwrap();
    }
    let mut expected = 0;
    receive_all(backend, count as usize, |backend, index| {
        // One socket and one sender: the order is kept.
        assert_eq!(payload(backend, index), u32::to_be_bytes(expected));
        expected += 1;
        each(backend, index);
    });
}

fn a_burst_comes_through_in_order<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    // The client's own queue has room for only a few hundred small datagrams.
    burst(&mut backend, server, 200, echo_in_place);
    flood(&mut backend, server, 2000, |_, _| ());
}

fn buffers_come_back<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    for _ in 0..100 {
        burst(&mut backend, server, 150, echo_in_place);
    }
}

fn more_arrives_than_there_are_buffers_while_nobody_turns<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::UNSPECIFIED);
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port());
    assert_eq!(backend.turn(Some(Duration::ZERO)).unwrap(), 0);
    flood(&mut backend, server, 3000, |_, _| ());
}

fn many_replies_to_one_request<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    let client = client();
    client.send_to(b"", server).unwrap();
    // More than fit in the submission queue, and more copies than fit in the arena. The kernel
    // drops what the client's queue cannot take, which is none of our losses.
    let large = pattern(PAYLOAD_MAX, 0);
    receive_all(&mut backend, 1, |backend, index| {
        let (source, return_path) =
            (backend.arrival(index).0.source, backend.arrival(index).0.return_path());
        for _ in 0..3 * MESSAGES_MAX {
            echo_in_place(backend, index);
        }
        for _ in 0..2 * ARENA_SIZE / PAYLOAD_MAX {
            backend.send_copy(return_path, &large, source).unwrap();
        }
    });
    backend.finish().unwrap();
    let mut reply = [0; 1];
    assert_eq!(client.recv(&mut reply).unwrap(), 0);
}

fn wildcard_replies_leave_from_the_address_that_was_asked<B: Made>() {
    let (mut backend, _waker, local) = start::<B>(Ipv4Addr::UNSPECIFIED);
    let client = client();
    for last in [1, 2, 77] {
        let server = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), local.port());
        for echo in [echo_in_place, echo_copy] {
            client.send_to(b"who", server).unwrap();
            receive_all(&mut backend, 1, |backend, index| {
                assert_eq!(backend.arrival(index).0.local, *server.ip());
                echo(backend, index);
            });
            backend.turn(Some(Duration::ZERO)).unwrap();
            let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(v4(from), server);
        }
    }
}

fn broadcasts_are_counted_and_not_handed_out<B: Made>() {
    let (mut backend, _waker, local) = start::<B>(Ipv4Addr::UNSPECIFIED);
    let client = client();
    client.set_broadcast(true).unwrap();
    let everyone = SocketAddrV4::new(Ipv4Addr::new(127, 255, 255, 255), local.port());
    client.send_to(b"all", everyone).unwrap();
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, local.port());
    client.send_to(b"one", server).unwrap();
    receive_all(&mut backend, 1, |backend, index| {
        assert_eq!(payload(backend, index), b"one");
    });
    let losses = Losses { not_unicast: 1, ..Losses::default() };
    assert_eq!(backend.take_losses(), losses);
    assert_eq!(backend.take_losses(), Losses::default());
}

fn several_sockets_share_a_backend<B: Made>() {
    let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let sockets = sockets(&addresses);
    let port = sockets[0].local().port();
    let (mut backend, _waker) = B::make(sockets).unwrap();
    let client = client();
    for round in 0..50 {
        for address in addresses {
            client.send_to(&[round], (address, port)).unwrap();
        }
        let mut seen = [0; 3];
        receive_all(&mut backend, 3, |backend, index| {
            let arrival = backend.arrival(index).0.clone();
            assert_eq!(arrival.local, addresses[arrival.socket]);
            seen[arrival.socket] += 1;
            echo_in_place(backend, index);
        });
        assert_eq!(seen, [1; 3]);
        backend.turn(Some(Duration::ZERO)).unwrap();
        let mut replies = HashMap::new();
        for _ in 0..3 {
            let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
            *replies.entry(*v4(from).ip()).or_insert(0) += 1;
        }
        assert!(addresses.iter().all(|address| replies[address] == 1));
    }
}

fn refused_replies_are_counted_and_end_nothing<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    let client = client();
    client.send_to(b"x", server).unwrap();
    receive_all(&mut backend, 1, |backend, index| {
        // No route leads out from a loopback address (EINVAL), and broadcasts are refused (EACCES).
        let out = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
        let return_path = backend.arrival(index).0.return_path();
        backend.send_copy(return_path, b"x", out).unwrap();
        backend.send_copy(return_path, b"x", SocketAddrV4::new(Ipv4Addr::BROADCAST, 9)).unwrap();
        backend.send_copy(return_path, &[0; PAYLOAD_MAX + 1], out).unwrap();
        let whole = 0..backend.arrival(index).1.len();
        let back = backend.arrival(index).0.source;
        backend.send_in_place(index, whole, back).unwrap();
    });
    backend.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(backend.take_losses().send_errors, 4);
    burst(&mut backend, server, 10, echo_in_place);
}

fn a_closed_port_at_the_other_end_is_no_error<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    for _ in 0..10 {
        let gone = client();
        gone.send_to(b"x", server).unwrap();
        receive_all(&mut backend, 1, echo_in_place);
        drop(gone);
        backend.turn(Some(Duration::ZERO)).unwrap();
    }
    burst(&mut backend, server, 10, echo_in_place);
    assert_eq!(backend.take_losses(), Losses::default());
}

#[expect(clippy::disallowed_methods, reason = "this measures how long the kernel waits")]
fn elapsed(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

fn a_turn_waits_as_long_as_it_was_told_to<B: Made>() {
    let (mut backend, _waker, _) = start::<B>(Ipv4Addr::LOCALHOST);
    let wait = Duration::from_millis(50);
    for _ in 0..3 {
        let took = elapsed(|| assert_eq!(backend.turn(Some(wait)).unwrap(), 0));
        assert!(took >= wait && took < LONG, "{took:?}");
    }
    let took = elapsed(|| assert_eq!(backend.turn(Some(Duration::ZERO)).unwrap(), 0));
    assert!(took < wait, "{took:?}");
}

fn a_waker_ends_the_wait_from_another_thread<B: Made>() {
    let (mut backend, waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    for _ in 0..20 {
        let waker = waker.clone();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            waker.wake();
        });
        let took = elapsed(|| assert_eq!(backend.turn(Some(LONG)).unwrap(), 0));
        assert!(took < LONG, "{took:?}");
        other.join().unwrap();
    }
    // Several wakes before a turn end that turn, and no later one.
    waker.wake();
    waker.wake();
    assert!(elapsed(|| assert_eq!(backend.turn(None).unwrap(), 0)) < LONG);
    let wait = Duration::from_millis(30);
    assert!(elapsed(|| assert_eq!(backend.turn(Some(wait)).unwrap(), 0)) >= wait);
    // The backend has a waker of its own.
    drop(waker);
    burst(&mut backend, server, 10, echo_in_place);
}

/// The wake may tell that replies are durable, and nothing else would end a wait that holds them
/// back.
fn a_waker_that_is_used_while_replies_leave_ends_the_next_wait<B: Made>() {
    let (mut backend, waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    let client = client();
    let to = v4(client.local_addr().unwrap());
    let return_path = ReturnPath { socket: 0, local: *server.ip() };
    assert_eq!(backend.turn(SHORT).unwrap(), 0);
    for before in [0, 1, MESSAGES_MAX, 3 * MESSAGES_MAX] {
        // Of alternating length, so that few are coalesced: there is no room for all of them.
        for number in 0..4 * MESSAGES_MAX {
            if number == before {
                waker.wake();
            }
            backend.send_copy(return_path, &[1, 2][..1 + number % 2], to).unwrap();
        }
        assert!(elapsed(|| assert_eq!(backend.turn(Some(LONG)).unwrap(), 0)) < LONG);
        let took = elapsed(|| assert_eq!(backend.turn(SHORT).unwrap(), 0));
        assert!(Some(took) >= SHORT, "{took:?}");
    }
}

fn a_signal_ends_the_wait_and_nothing_else<B: Made>() {
    signal_hook::flag::register(libc::SIGUSR2, Arc::default()).unwrap();
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    // SAFETY: no pointers.
    let this = unsafe { libc::pthread_self() };
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        // Again and again, as the wait may not have begun yet.
        while is_over.recv_timeout(Duration::from_millis(50)).is_err() {
            // SAFETY: the thread joins this one before it ends.
            assert_eq!(unsafe { libc::pthread_kill(this, libc::SIGUSR2) }, 0);
        }
    });
    // The first turn arms the receives, so that the second only waits and is interrupted itself.
    assert_eq!(backend.turn(Some(Duration::ZERO)).unwrap(), 0);
    assert!(elapsed(|| assert_eq!(backend.turn(Some(LONG)).unwrap(), 0)) < LONG);
    over.send(()).unwrap();
    other.join().unwrap();
    burst(&mut backend, server, 10, echo_in_place);
}

fn a_datagram_after_a_long_silence_is_received<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    burst(&mut backend, server, 50, echo_in_place);
    for _ in 0..5 {
        assert_eq!(backend.turn(Some(Duration::from_millis(100))).unwrap(), 0);
    }
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        client().send_to(b"late", server).unwrap();
    });
    // There is no timeout, so only the datagram can end this.
    while backend.turn(None).unwrap() == 0 {}
    assert_eq!(payload(&mut backend, 0), b"late");
    late.join().unwrap();
}

fn finish_sends_what_is_queued_and_receives_no_more<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    let client = client();
    client.send_to(b"last", server).unwrap();
    receive_all(&mut backend, 1, |backend, index| {
        echo_in_place(backend, index);
        echo_copy(backend, index);
    });
    backend.finish().unwrap();
    for _ in 0..2 {
        let mut reply = [0; 8];
        assert_eq!(client.recv(&mut reply).unwrap(), 4);
    }
    client.send_to(b"too late", server).unwrap();
    assert_eq!(backend.turn(SHORT).unwrap(), 0);
    backend.finish().unwrap();
}

fn backends_come_and_go_under_traffic<B: Made>() {
    let (first, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    drop(first);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let traffic = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let client = client();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                client.send_to(&pattern(1000, 0), server).unwrap();
            }
        })
    };
    for round in 0..60 {
        // The backend has closed its sockets, so the port is free at once.
        let sockets = bind_group(&[server], 1).unwrap().remove(0);
        let (mut backend, _waker) = B::make(sockets).unwrap();
        for _ in 0..round % 4 {
            for index in 0..backend.turn(SHORT).unwrap() {
                assert_eq!(payload(&mut backend, index), pattern(1000, 0));
                echo_in_place(&mut backend, index);
            }
        }
        if round % 2 == 0 {
            backend.finish().unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    traffic.join().unwrap();
}

fn each_reactor_gets_its_sources<B: Made>() {
    const REACTORS: usize = 2;
    const SOURCES: u8 = 40;
    let listen = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let shards = bind_group(&[listen], REACTORS).unwrap();
    let port = shards[0][0].local().port();
    let expected: Vec<usize> = (0..REACTORS)
        .map(|reactor| {
            (0..SOURCES)
                .filter(|&i| steered_to(Ipv4Addr::new(127, 1, 2, i), REACTORS) == reactor)
                .count()
        })
        .collect();
    let reactors: Vec<_> = shards
        .into_iter()
        .enumerate()
        .map(|(reactor, sockets)| {
            let count = expected[reactor];
            thread::spawn(move || {
                let (mut backend, _waker) = B::make(sockets).unwrap();
                receive_all(&mut backend, count, |backend, index| {
                    let source = *backend.arrival(index).0.source.ip();
                    assert_eq!(steered_to(source, REACTORS), reactor);
                });
            })
        })
        .collect();
    for i in 0..SOURCES {
        let sender = UdpSocket::bind((Ipv4Addr::new(127, 1, 2, i), 0)).unwrap();
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
    }
    reactors.into_iter().for_each(|r| r.join().unwrap());
}

fn what_a_full_queue_drops_is_counted<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    assert_eq!(backend.overflowed(), 0);
    let client = client();
    let sent = 20_000;
    for _ in 0..sent {
        client.send_to(&[0; 1000], server).unwrap();
    }
    let mut received = 0;
    loop {
        match backend.turn(SHORT).unwrap() {
            0 => break,
            arrived => received += arrived,
        }
    }
    assert!(received < sent, "the queue was never full");
    assert_eq!(backend.overflowed(), (sent - received) as u64);
    assert_eq!(backend.overflowed(), 0);
}
