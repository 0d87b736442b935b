//! Coalesced datagrams (GRO) and replies (GSO).

use std::os::fd::AsRawFd;

use super::*;
use crate::kernel::interface::{self, loopback_up};
use crate::kernel::outgoing::{SEGMENT_MAX, SEGMENTS_MAX};

both! {
    coalesced_datagrams_come_one_by_one
    coalesced_datagrams_of_every_shape
    replies_are_coalesced_where_the_route_takes_it
}

/// From now on the kernel cuts what `socket` sends into datagrams of `segment` octets. A local
/// receiver with UDP_GRO gets them in one piece.
fn segment_what_is_sent(socket: &UdpSocket, segment: usize) {
    let segment = segment as libc::c_int;
    // SAFETY: the value is an int of the length that is given, and is not kept.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const segment).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

fn coalesced_datagrams_come_one_by_one<B: Made>() {
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let (mut backend, _waker, local) = start::<B>(address);
        let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, local.port());
        let client = client();
        segment_what_is_sent(&client, 100);
        let all = pattern(10 * 100 + 30, 1);
        client.send_to(&all, server).unwrap();
        let mut seen = Vec::new();
        receive_all(&mut backend, 11, |backend, index| {
            let (arrival, buffer) = backend.arrival(index);
            let (source, payload, room) = (arrival.source, arrival.payload.clone(), arrival.room);
            assert_eq!(arrival.local, Ipv4Addr::LOCALHOST);
            assert!(seen.is_empty() || room == payload.start, "in front is another datagram");
            seen.extend_from_slice(&buffer[payload.clone()]);
            backend.send_in_place(index, payload, source).unwrap();
        });
        assert_eq!(seen, all);
        backend.turn(Some(Duration::ZERO)).unwrap();
        for expected in all.chunks(100) {
            let mut reply = [0; 200];
            let length = client.recv(&mut reply).unwrap();
            assert_eq!(reply[..length], *expected);
        }
        assert_eq!(backend.take_losses(), Losses::default());
    }
}

fn coalesced_datagrams_of_every_shape<B: Made>() {
    let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
    for (segment, count, last) in
        [(1, 64, 0), (2, 1, 1), (150, 60, 7), (1400, 40, 1399), (SEGMENT_MAX, SEGMENTS_MAX / 2, 1)]
    {
        let client = client();
        segment_what_is_sent(&client, segment);
        let all = pattern(segment * count + last, segment);
        client.send_to(&all, server).unwrap();
        let expected: Vec<&[u8]> = all.chunks(segment).collect();
        let mut at = 0;
        receive_all(&mut backend, expected.len(), |backend, index| {
            let (arrival, buffer) = backend.arrival(index);
            assert_eq!(&buffer[arrival.payload.clone()], expected[at]);
            at += 1;
            echo_any(backend, index);
        });
        backend.turn(Some(Duration::ZERO)).unwrap();
        for expected in expected {
            let mut reply = vec![0; segment + 1];
            let length = client.recv(&mut reply).unwrap();
            assert_eq!(reply[..length], *expected);
        }
    }
    assert_eq!(backend.take_losses(), Losses::default());
}

fn echo_any<B: Made>(backend: &mut B, index: usize) {
    let (arrival, buffer) = backend.arrival(index);
    let (source, return_path) = (arrival.source, arrival.return_path());
    let copy = buffer[arrival.payload.clone()].to_vec();
    backend.send_copy(return_path, &copy, source).unwrap();
}

/// In a network of its own, whose loopback has an MTU of 900: longer replies cannot be coalesced
/// there, and leave one by one.
fn replies_are_coalesced_where_the_route_takes_it<B: Made>() {
    let in_a_network_of_its_own = || {
        // SAFETY: no pointers; it concerns this thread alone.
        let outcome = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if outcome != 0 {
            return false;
        }
        loopback_up().unwrap();
        let (mut backend, _waker, server) = start::<B>(Ipv4Addr::LOCALHOST);
        let client = client();
        for (mtu, length) in [(65_536, 1000), (900, 1000), (900, 1000), (900, 100)] {
            set_loopback_mtu(mtu);
            client.send_to(b"x", server).unwrap();
            let reply = pattern(length, mtu as usize);
            receive_all(&mut backend, 1, |backend, index| {
                let (source, return_path) =
                    (backend.arrival(index).0.source, backend.arrival(index).0.return_path());
                (0..20).for_each(|_| backend.send_copy(return_path, &reply, source).unwrap());
            });
            backend.turn(Some(Duration::ZERO)).unwrap();
            for _ in 0..20 {
                let mut received = [0; 2000];
                let length = client.recv(&mut received).unwrap();
                assert_eq!(received[..length], reply);
            }
            assert_eq!(backend.take_losses(), Losses::default());
        }
        true
    };
    if !thread::spawn(in_a_network_of_its_own).join().unwrap() {
        crate::skip::cannot_run("a network namespace: run it as root");
    }
}

fn set_loopback_mtu(mtu: libc::c_int) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut request = interface::request("lo");
    request.ifr_ifru.ifru_mtu = mtu;
    // SAFETY: SIOCSIFMTU reads the name and the MTU in the ifreq.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &raw const request) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}
