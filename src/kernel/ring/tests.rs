//! What is peculiar to a ring; what every backend must do is tested in `backend`.

use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::kernel::socket::bind_group;

#[test]
fn too_few_buffers_delay_and_lose_nothing() {
    const COUNT: u32 = 150;
    for buffers in [1, 2, 8, 64] {
        let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let sockets = bind_group(&[listen], 1).unwrap().remove(0);
        let server = sockets[0].local();
        let (mut ring, _waker) = Ring::with_buffers(sockets, buffers).unwrap();
        let mut ended = 0;
        for in_place in [true, false, true] {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            for number in 0..COUNT {
                client.send_to(&number.to_be_bytes(), server).unwrap();
            }
            let mut expected = 0;
            while expected < COUNT {
                let arrived = ring.turn(Some(Duration::from_secs(30))).unwrap();
                for index in 0..arrived {
                    let (arrival, buffer) = ring.arrival(index);
                    let Arrival { source, payload, .. } = arrival.clone();
                    let octets = buffer[payload.clone()].to_vec();
                    assert_eq!(octets, u32::to_be_bytes(expected));
                    expected += 1;
                    if in_place {
                        ring.send_in_place(index, payload, source).unwrap();
                    } else {
                        let origin = ring.arrival(index).0.origin();
                        ring.send_copy(origin, &octets, source).unwrap();
                    }
                }
                ended += usize::from(!ring.armed[0]);
            }
            ring.turn(Some(Duration::ZERO)).unwrap();
            for number in 0..COUNT {
                let mut reply = [0; 5];
                let length = client.recv(&mut reply).unwrap();
                assert_eq!(reply[..length], number.to_be_bytes());
            }
        }
        assert_eq!(ring.take_losses(), Losses::default());
        // The kernel brings some 32 datagrams in one turn, so more buffers than that suffice here.
        assert!(buffers > 8 || ended > 0, "the buffers never ran out");
    }
}

#[test]
fn what_is_left_over_is_handed_out_next_and_at_once() {
    let listen = [1, 2].map(|last| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0));
    let sockets = bind_group(&listen, 1).unwrap().remove(0);
    let servers: Vec<_> = sockets.iter().map(|socket| socket.local()).collect();
    let (mut ring, _waker) = Ring::new(sockets).unwrap();
    assert_eq!(ring.turn(Some(Duration::ZERO)).unwrap(), 0);
    // In one turn the kernel brings some 32 datagrams of each socket.
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (server, count) in servers.iter().zip([40, 10]) {
        (0..count).for_each(|_| assert_eq!(client.send_to(b"x", server).unwrap(), 1));
    }
    let (mut taken, mut left_over) = (0, 0);
    while taken < 50 {
        // Nothing more arrives: who waits here waits for ever.
        let arrived = ring.turn(None).unwrap();
        assert!(arrived <= BATCH_BUFFERS);
        taken += arrived;
        left_over += usize::from(!ring.received.is_empty());
    }
    assert!(left_over > 0, "nothing was ever left over");
    assert_eq!(ring.take_losses(), Losses::default());
}

#[test]
fn user_data_tells_operations_apart() {
    for operation in [
        Operation::Receive(0),
        Operation::Receive(SOCKETS_MAX - 1),
        Operation::Send(0),
        Operation::Send(MESSAGES_MAX - 1),
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
        assert_eq!(Operation::Send(7).on_error(errno), Remedy::Refused(7));
        assert_eq!(Operation::Cancel.on_error(errno), Remedy::Ignore);
    }
    assert_eq!(Operation::Wake.on_error(libc::ENOBUFS), Remedy::End);
    let error = io::Error::from_raw_os_error;
    assert!(can_go_on(&error(libc::ETIME)) && can_go_on(&error(libc::EINTR)));
    assert!(!can_go_on(&error(libc::EBADR)) && !can_go_on(&error(libc::EEXIST)));
}
