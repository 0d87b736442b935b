use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Instant;

use super::*;
use crate::socket::{bind_group, steered_to};
use crate::wire::HEAD_ROOM;

const SHORT: Option<Duration> = Some(Duration::from_millis(20));
/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);
/// More turns than any test needs: what has not arrived by then never will.
const TURNS_MAX: usize = 2000;
const LENGTHS: [usize; 6] = [0, 1, 150, 1472, 9000, PAYLOAD_MAX];

fn sockets(addresses: &[Ipv4Addr]) -> Vec<ReactorSocket> {
    let listen: Vec<_> = addresses.iter().map(|&address| SocketAddrV4::new(address, 0)).collect();
    bind_group(&listen, 1).unwrap().remove(0)
}

/// A ring on one address, and that.
fn ring(address: Ipv4Addr, buffers: u16) -> (Ring, EventWaker, SocketAddrV4) {
    let sockets = sockets(&[address]);
    let local = sockets[0].local();
    let (ring, waker) = Ring::with_buffers(sockets, buffers).unwrap();
    (ring, waker, local)
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

/// Turns until `count` datagrams were seen by `each`.
fn receive_all(ring: &mut Ring, count: usize, mut each: impl FnMut(&mut Ring, usize)) {
    let mut seen = 0;
    for _ in 0..TURNS_MAX {
        if seen == count {
            return;
        }
        let arrived = ring.turn(SHORT).unwrap();
        for index in 0..arrived {
            each(ring, index);
        }
        seen += arrived;
    }
    panic!("{seen} of {count} datagrams");
}

fn payload(ring: &mut Ring, index: usize) -> Vec<u8> {
    let (arrival, buffer) = ring.arrival(index);
    assert!(arrival.has_head_room());
    buffer[arrival.payload.clone()].to_vec()
}

fn echo_in_place(ring: &mut Ring, index: usize) {
    let Arrival { payload, source, .. } = ring.arrival(index).0.clone();
    ring.send_in_place(index, payload, source).unwrap();
}

fn echo_copy(ring: &mut Ring, index: usize) {
    let (source, origin) = (ring.arrival(index).0.source, ring.arrival(index).0.origin());
    let copy = payload(ring, index);
    ring.send_copy(origin, &copy, source).unwrap();
}

fn echoes_every_length(address: Ipv4Addr, echo: fn(&mut Ring, usize)) {
    let (mut ring, _waker, local) = ring(address, BUFFERS);
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, local.port());
    let client = client();
    for (seed, length) in LENGTHS.into_iter().enumerate() {
        let request = pattern(length, seed);
        client.send_to(&request, server).unwrap();
        receive_all(&mut ring, 1, |ring, index| {
            let arrival = ring.arrival(index).0.clone();
            assert_eq!(arrival.source, v4(client.local_addr().unwrap()));
            assert_eq!(arrival.local, Ipv4Addr::LOCALHOST);
            assert_eq!(arrival.socket, 0);
            echo(ring, index);
        });
        ring.turn(Some(Duration::ZERO)).unwrap();
        let mut reply = vec![0; PAYLOAD_MAX + 1];
        let (received, from) = client.recv_from(&mut reply).unwrap();
        assert_eq!(v4(from), server);
        assert!(reply[..received] == request[..], "{length} octets");
    }
    assert_eq!(ring.take_losses(), Losses::default());
}

#[test]
fn echoes_in_place() {
    echoes_every_length(Ipv4Addr::LOCALHOST, echo_in_place);
    echoes_every_length(Ipv4Addr::UNSPECIFIED, echo_in_place);
}

#[test]
fn echoes_a_copy() {
    echoes_every_length(Ipv4Addr::LOCALHOST, echo_copy);
    echoes_every_length(Ipv4Addr::UNSPECIFIED, echo_copy);
}

#[test]
fn a_reply_can_begin_in_the_head_room() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    let client = client();
    client.send_to(b"packet", server).unwrap();
    receive_all(&mut ring, 1, |ring, index| {
        let (arrival, buffer) = ring.arrival(index);
        let (source, end) = (arrival.source, arrival.payload.end);
        let start = arrival.payload.start - HEAD_ROOM;
        buffer[start..start + HEAD_ROOM].fill(b'x');
        ring.send_in_place(index, start..end, source).unwrap();
    });
    ring.finish().unwrap();
    let mut reply = [0; 2 * HEAD_ROOM];
    let length = client.recv(&mut reply).unwrap();
    assert_eq!(length, HEAD_ROOM + 6);
    assert!(reply[..HEAD_ROOM].iter().all(|&octet| octet == b'x'));
    assert_eq!(&reply[HEAD_ROOM..length], b"packet");
}

/// Sends `count` numbered datagrams before the ring turns, and sees each once, in order.
fn flood(
    ring: &mut Ring,
    server: SocketAddrV4,
    count: u32,
    mut each: impl FnMut(&mut Ring, usize),
) {
    let client = client();
    flood_from(&client, ring, server, count, &mut each);
}

/// As [`flood`], and expects each back.
fn burst(ring: &mut Ring, server: SocketAddrV4, count: u32, mut echo: fn(&mut Ring, usize)) {
    let client = client();
    flood_from(&client, ring, server, count, &mut echo);
    ring.turn(Some(Duration::ZERO)).unwrap();
    for number in 0..count {
        let mut reply = [0; 5];
        let length = client.recv(&mut reply).unwrap();
        assert_eq!(reply[..length], number.to_be_bytes());
    }
    assert_eq!(ring.take_losses(), Losses::default());
}

fn flood_from(
    client: &UdpSocket,
    ring: &mut Ring,
    server: SocketAddrV4,
    count: u32,
    each: &mut impl FnMut(&mut Ring, usize),
) {
    for number in 0..count {
        client.send_to(&number.to_be_bytes(), server).unwrap();
    }
    let mut expected = 0;
    receive_all(ring, count as usize, |ring, index| {
        // One socket and one sender: the order is kept.
        assert_eq!(payload(ring, index), u32::to_be_bytes(expected));
        expected += 1;
        each(ring, index);
    });
}

#[test]
fn a_burst_comes_through_in_order() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    // The client's own queue has room for few small datagrams.
    burst(&mut ring, server, 200, echo_in_place);
    flood(&mut ring, server, 2000, |_, _| ());
}

#[test]
fn buffers_come_back() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    for _ in 0..100 {
        burst(&mut ring, server, 150, echo_in_place);
    }
}

#[test]
fn too_few_buffers_delay_and_lose_nothing() {
    for buffers in [1, 2, 8, 64] {
        let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, buffers);
        for _ in 0..5 {
            burst(&mut ring, server, 150, echo_in_place);
            burst(&mut ring, server, 150, echo_copy);
        }
        let mut ended = 0;
        flood(&mut ring, server, 150, |ring, _| {
            ended += usize::from(!ring.armed[0]);
        });
        // The kernel brings some 32 datagrams in one turn, so more buffers than that suffice here.
        assert!(buffers > 8 || ended > 0, "the buffers never ran out");
    }
}

#[test]
fn more_arrives_than_there_are_buffers_while_nobody_turns() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::UNSPECIFIED, BUFFERS);
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.port());
    assert_eq!(ring.turn(Some(Duration::ZERO)).unwrap(), 0);
    flood(&mut ring, server, 3 * u32::from(BUFFERS), |_, _| ());
}

#[test]
fn many_replies_to_one_request() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    let client = client();
    client.send_to(b"", server).unwrap();
    // More than fit in the submission queue, and as copies more than fit in the arena. What the
    // client's queue cannot take is dropped there, and is not ours to count.
    let large = pattern(PAYLOAD_MAX, 0);
    receive_all(&mut ring, 1, |ring, index| {
        let (source, origin) = (ring.arrival(index).0.source, ring.arrival(index).0.origin());
        for _ in 0..3 * MESSAGES {
            echo_in_place(ring, index);
        }
        for _ in 0..2 * memory::ARENA_SIZE / PAYLOAD_MAX {
            ring.send_copy(origin, &large, source).unwrap();
        }
    });
    ring.finish().unwrap();
    let mut reply = [0; 1];
    assert_eq!(client.recv(&mut reply).unwrap(), 0);
}

#[test]
fn wildcard_replies_leave_from_the_address_that_was_asked() {
    let (mut ring, _waker, local) = ring(Ipv4Addr::UNSPECIFIED, BUFFERS);
    let client = client();
    for last in [1, 2, 77] {
        let server = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), local.port());
        for echo in [echo_in_place, echo_copy] {
            client.send_to(b"who", server).unwrap();
            receive_all(&mut ring, 1, |ring, index| {
                assert_eq!(ring.arrival(index).0.local, *server.ip());
                echo(ring, index);
            });
            ring.turn(Some(Duration::ZERO)).unwrap();
            let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(v4(from), server);
        }
    }
}

#[test]
fn broadcasts_are_counted_and_not_handed_out() {
    let (mut ring, _waker, local) = ring(Ipv4Addr::UNSPECIFIED, BUFFERS);
    let client = client();
    client.set_broadcast(true).unwrap();
    let everyone = SocketAddrV4::new(Ipv4Addr::new(127, 255, 255, 255), local.port());
    client.send_to(b"all", everyone).unwrap();
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, local.port());
    client.send_to(b"one", server).unwrap();
    receive_all(&mut ring, 1, |ring, index| {
        assert_eq!(payload(ring, index), b"one");
    });
    let losses = Losses { not_unicast: 1, ..Losses::default() };
    assert_eq!(ring.take_losses(), losses);
    assert_eq!(ring.take_losses(), Losses::default());
}

#[test]
fn several_sockets_share_a_ring() {
    let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let sockets = sockets(&addresses);
    let port = sockets[0].local().port();
    let (mut ring, _waker) = Ring::with_buffers(sockets, 8).unwrap();
    let client = client();
    for round in 0..50 {
        for address in addresses {
            client.send_to(&[round], (address, port)).unwrap();
        }
        let mut seen = [0; 3];
        receive_all(&mut ring, 3, |ring, index| {
            let arrival = ring.arrival(index).0.clone();
            assert_eq!(arrival.local, addresses[arrival.socket]);
            seen[arrival.socket] += 1;
            echo_in_place(ring, index);
        });
        assert_eq!(seen, [1; 3]);
        ring.turn(Some(Duration::ZERO)).unwrap();
        let mut replies = HashMap::new();
        for _ in 0..3 {
            let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
            *replies.entry(*v4(from).ip()).or_insert(0) += 1;
        }
        assert!(addresses.iter().all(|address| replies[address] == 1));
    }
}

#[test]
fn refused_replies_are_counted_and_end_nothing() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    let client = client();
    client.send_to(b"x", server).unwrap();
    receive_all(&mut ring, 1, |ring, index| {
        // From a loopback address there is no way out (EINVAL), and broadcasts are refused (EACCES).
        let out = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
        let origin = ring.arrival(index).0.origin();
        ring.send_copy(origin, b"x", out).unwrap();
        ring.send_copy(origin, b"x", SocketAddrV4::new(Ipv4Addr::BROADCAST, 9)).unwrap();
        ring.send_copy(origin, &[0; PAYLOAD_MAX + 1], out).unwrap();
        let whole = 0..ring.arrival(index).1.len();
        let back = ring.arrival(index).0.source;
        ring.send_in_place(index, whole, back).unwrap();
    });
    ring.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!(ring.take_losses().send_errors, 4);
    burst(&mut ring, server, 10, echo_in_place);
}

#[test]
fn a_closed_port_at_the_other_end_is_no_error() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    for _ in 0..10 {
        let gone = client();
        gone.send_to(b"x", server).unwrap();
        receive_all(&mut ring, 1, echo_in_place);
        drop(gone);
        ring.turn(Some(Duration::ZERO)).unwrap();
    }
    burst(&mut ring, server, 10, echo_in_place);
    assert_eq!(ring.take_losses(), Losses::default());
}

#[expect(clippy::disallowed_methods, reason = "this measures how long the kernel waits")]
fn elapsed(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

#[test]
fn a_turn_waits_as_long_as_it_was_told_to() {
    let (mut ring, _waker, _) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    let wait = Duration::from_millis(50);
    for _ in 0..3 {
        let took = elapsed(|| assert_eq!(ring.turn(Some(wait)).unwrap(), 0));
        assert!(took >= wait && took < LONG, "{took:?}");
    }
    let took = elapsed(|| assert_eq!(ring.turn(Some(Duration::ZERO)).unwrap(), 0));
    assert!(took < wait, "{took:?}");
}

#[test]
fn a_waker_ends_the_wait_from_another_thread() {
    let (mut ring, waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    for _ in 0..20 {
        let waker = waker.clone();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            waker.wake();
        });
        let took = elapsed(|| assert_eq!(ring.turn(Some(LONG)).unwrap(), 0));
        assert!(took < LONG, "{took:?}");
        other.join().unwrap();
    }
    // Before the turn, and more than once: seen in the next turn, and then no more.
    waker.wake();
    waker.wake();
    assert!(elapsed(|| assert_eq!(ring.turn(None).unwrap(), 0)) < LONG);
    let wait = Duration::from_millis(30);
    assert!(elapsed(|| assert_eq!(ring.turn(Some(wait)).unwrap(), 0)) >= wait);
    // It can outlive all others of its kind.
    drop(waker);
    burst(&mut ring, server, 10, echo_in_place);
}

#[test]
fn a_signal_ends_the_wait_and_nothing_else() {
    extern "C" fn ignore(_signal: libc::c_int) {}
    let handler = ignore as extern "C" fn(libc::c_int);
    // SAFETY: the handler does nothing, which is safe in any thread; no other test has this signal.
    unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) };
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    // SAFETY: no pointers.
    let this = unsafe { libc::pthread_self() };
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        // SAFETY: the thread joins this one before it ends.
        assert_eq!(unsafe { libc::pthread_kill(this, libc::SIGUSR1) }, 0);
    });
    // The first arms, so that the second has nothing to submit and sees the interruption itself.
    assert_eq!(ring.turn(Some(Duration::ZERO)).unwrap(), 0);
    assert!(elapsed(|| assert_eq!(ring.turn(Some(LONG)).unwrap(), 0)) < LONG);
    other.join().unwrap();
    burst(&mut ring, server, 10, echo_in_place);
}

#[test]
fn a_datagram_after_a_long_silence_is_received() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, 8);
    burst(&mut ring, server, 50, echo_in_place);
    for _ in 0..5 {
        assert_eq!(ring.turn(Some(Duration::from_millis(100))).unwrap(), 0);
    }
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        client().send_to(b"late", server).unwrap();
    });
    // Without a timeout: only the datagram can end this.
    while ring.turn(None).unwrap() == 0 {}
    assert_eq!(payload(&mut ring, 0), b"late");
    late.join().unwrap();
}

#[test]
fn finish_sends_what_is_queued_and_receives_no_more() {
    let (mut ring, _waker, server) = ring(Ipv4Addr::LOCALHOST, BUFFERS);
    let client = client();
    client.send_to(b"last", server).unwrap();
    receive_all(&mut ring, 1, |ring, index| {
        echo_in_place(ring, index);
        echo_copy(ring, index);
    });
    ring.finish().unwrap();
    for _ in 0..2 {
        let mut reply = [0; 8];
        assert_eq!(client.recv(&mut reply).unwrap(), 4);
    }
    client.send_to(b"too late", server).unwrap();
    assert_eq!(ring.turn(SHORT).unwrap(), 0);
    ring.finish().unwrap();
}

#[test]
fn rings_come_and_go_under_traffic() {
    let (first, _waker, server) = ring(Ipv4Addr::LOCALHOST, 8);
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
        // The port is free at once: the ring has let go of its sockets.
        let sockets = bind_group(&[server], 1).unwrap().remove(0);
        let (mut ring, _waker) = Ring::with_buffers(sockets, 64).unwrap();
        for _ in 0..round % 4 {
            for index in 0..ring.turn(SHORT).unwrap() {
                assert_eq!(payload(&mut ring, index), pattern(1000, 0));
                echo_in_place(&mut ring, index);
            }
        }
        if round % 2 == 0 {
            ring.finish().unwrap();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    traffic.join().unwrap();
}

#[test]
fn each_reactor_gets_its_sources() {
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
                let (mut ring, _waker) = Ring::new(sockets).unwrap();
                receive_all(&mut ring, count, |ring, index| {
                    let source = *ring.arrival(index).0.source.ip();
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

#[test]
fn user_data_tells_operations_apart() {
    for operation in [
        Operation::Receive(0),
        Operation::Receive(SOCKETS_MAX - 1),
        Operation::Send,
        Operation::Wake,
        Operation::Cancel,
    ] {
        assert_eq!(Operation::decode(operation.encode()), operation);
    }
}

#[test]
fn errors_have_their_remedies() {
    let receive = Operation::Receive(3);
    for errno in [libc::ENOBUFS, libc::ECONNREFUSED, libc::EINTR] {
        assert_eq!(receive.on_error(errno), Remedy::ArmAgain);
    }
    for errno in [libc::EINVAL, libc::EBADF, libc::EFAULT] {
        assert_eq!(receive.on_error(errno), Remedy::End);
        assert_eq!(Operation::Wake.on_error(errno), Remedy::End);
        assert_eq!(Operation::Send.on_error(errno), Remedy::Count);
        assert_eq!(Operation::Cancel.on_error(errno), Remedy::Ignore);
    }
    assert_eq!(Operation::Wake.on_error(libc::ENOBUFS), Remedy::End);
    let error = io::Error::from_raw_os_error;
    assert!(can_go_on(&error(libc::ETIME)) && can_go_on(&error(libc::EINTR)));
    assert!(!can_go_on(&error(libc::EBADR)) && !can_go_on(&error(libc::EEXIST)));
}
