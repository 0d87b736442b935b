//! Tests of what only a ring has. What every backend must do is tested in `backend`.

use std::net::{Ipv4Addr, UdpSocket};

use io_uring::types::Fd;

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
                        let return_path = ring.arrival(index).0.return_path();
                        ring.send_copy(return_path, &octets, source).unwrap();
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
        // The kernel delivers some 32 datagrams in a turn, so more buffers than that do not run
        // out.
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
    // The kernel delivers some 32 datagrams of each socket in a turn.
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (server, count) in servers.iter().zip([40, 10]) {
        (0..count).for_each(|_| assert_eq!(client.send_to(b"x", server).unwrap(), 1));
    }
    let (mut taken, mut left_over) = (0, 0);
    while taken < 50 {
        // Nothing more arrives: a turn that waited here would never end.
        let arrived = ring.turn(None).unwrap();
        assert!(arrived <= BATCH_BUFFERS);
        taken += arrived;
        left_over += usize::from(!ring.received.is_empty());
    }
    assert!(left_over > 0, "nothing was ever left over");
    assert_eq!(ring.take_losses(), Losses::default());
}

#[test]
fn a_seccomp_filter_is_recognized() {
    let filtered = std::thread::spawn(|| {
        forbid_io_uring_setup();
        probe()
    });
    assert_eq!(filtered.join().unwrap(), Err(RingRefused::Seccomp));
}

/// For this thread, io_uring_setup fails with EPERM, as with the default profile of containers.
fn forbid_io_uring_setup() {
    let instruction = |code, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    // struct seccomp_data begins with the number of the system call.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no pointers; it concerns this thread alone.
    let privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(privileges, 0);
    // SAFETY: the program and its filter are live until the call, which copies them, returns.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0);
}

#[test]
fn a_ring_works_here() {
    assert_eq!(probe(), Ok(()));
}

/// The rings of a server do nothing else, whoever gets hold of one.
#[test]
fn other_operations_are_refused() {
    let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let sockets = bind_group(&[listen], 1).unwrap().remove(0);
    let (mut ring, _waker) = Ring::new(sockets).unwrap();
    let here = Fd(libc::AT_FDCWD);
    let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
    for (what, entry) in [
        ("nop", opcode::Nop::new().build()),
        ("open", opcode::OpenAt::new(here, c"/etc/passwd".as_ptr()).build()),
        ("socket", opcode::Socket::new(libc::AF_INET, libc::SOCK_DGRAM, 0).build()),
        ("linked", cancel.flags(squeue::Flags::IO_LINK)),
    ] {
        // SAFETY: a static string is all that it points to.
        unsafe { ring.uring.submission().push(&entry.user_data(1)) }.unwrap();
        ring.uring.submit_and_wait(1).unwrap();
        let completion = ring.uring.completion().next().unwrap();
        assert_eq!(completion.result(), -libc::EACCES, "{what}");
    }
    let refused = ring.uring.submitter().register_eventfd(0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
}
