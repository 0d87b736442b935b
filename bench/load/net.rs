//! Many datagrams in one system call, each way: sendmmsg and recvmmsg, with GSO (UDP_SEGMENT) and
//! GRO (UDP_GRO). All of the load's `unsafe` is here.
//!
//! Nothing here allocates any more after the longest burst was sent.

use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Requests, as segments, in a datagram of [`Sending::Joined`](crate::generator::Sending::Joined).
pub const JOINED: usize = 16;
/// Requests, as segments, in a datagram of a flood.
pub const FLOODED: usize = 64;
/// The receive buffer of each socket, in octets: more than the replies to all that is under way.
const QUEUE_OCTETS: c_int = 4 << 20;
/// The most datagrams that are received at once.
const MESSAGES: usize = 64;
/// The longest coalesced datagram, in octets.
const BUFFER: usize = 1 << 16;
/// Open files: sockets of 256 NAT64s, towards several servers.
const FILES_MAX: libc::rlim_t = 8192;

/// Room for one control message with a number in it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

// SAFETY: CMSG_SPACE only calculates.
const _: () = assert!(unsafe { libc::CMSG_SPACE(mem::size_of::<c_int>() as u32) } <= 32);

/// Lets this process open as many sockets as the parts want.
pub fn raise_files_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that lives.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    let wanted = FILES_MAX.min(limit.rlim_max).max(limit.rlim_cur);
    limit.rlim_cur = wanted;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// A large receive buffer, and GRO: coalesced replies are received as they are.
pub fn prepare(socket: &UdpSocket) {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, QUEUE_OCTETS);
    // Without the privilege, the system's limit applies.
    let _ = try_set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE_OCTETS);
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// Turns GRO off: each datagram is received by itself.
pub fn take_apart(socket: &UdpSocket) {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
}

fn set(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) {
    try_set(socket, level, name, value).expect("a socket option");
}

fn try_set(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = mem::size_of::<c_int>() as libc::socklen_t;
    let value: *const c_int = &value;
    // SAFETY: the pointer is to an int of this length that lives.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Each datagram that this socket receives has the time at which the kernel got it, which on
/// loopback is when it was sent.
pub fn stamp(socket: &UdpSocket) {
    set(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
}

/// The time by the clock of these stamps, in nanoseconds.
pub fn stamp_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_nanos() as u64
}

/// Receives one datagram of a socket with stamps, if one is there: its length, and its stamp in
/// nanoseconds.
pub fn receive_stamped(socket: &UdpSocket, octets: &mut [u8]) -> Option<(usize, u64)> {
    let mut control = Control([0; 32]);
    let mut iovec = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() };
    // SAFETY: null pointers and lengths of 0 are valid in a message header.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&mut iovec, 1);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of::<Control>() as _;
    // SAFETY: the header refers to `octets` and `control`, which live.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).ok()?;
    // SAFETY: the kernel has written the control messages and their length.
    let message = unsafe { libc::CMSG_FIRSTHDR(&header).as_ref() }?;
    assert_eq!(message.cmsg_type, libc::SCM_TIMESTAMPNS);
    // SAFETY: this control message has a timespec.
    let time = unsafe { libc::CMSG_DATA(message).cast::<libc::timespec>().read_unaligned() };
    Some((length, time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64))
}

/// Sends a datagram from this address of this host, whatever the socket is bound to.
pub fn send_from(socket: &UdpSocket, source: Ipv4Addr, to: SocketAddrV4, payload: &[u8]) {
    let mut control = Control([0; 32]);
    let mut iovec =
        libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let address = |address: Ipv4Addr| libc::in_addr { s_addr: u32::from(address).to_be() };
    let mut name = libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: to.port().to_be(),
        sin_addr: address(*to.ip()),
        sin_zero: [0; 8],
    };
    // SAFETY: null pointers and lengths of 0 are valid in a message header.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = mem::size_of_val(&name) as _;
    (header.msg_iov, header.msg_iovlen) = (&mut iovec, 1);
    header.msg_control = control.0.as_mut_ptr().cast();
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: address(source),
        ipi_addr: address(Ipv4Addr::UNSPECIFIED),
    };
    // SAFETY: these only calculate, and the room suffices for an `in_pktinfo`; sendmsg reads what
    // the header refers to, which lives.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(mem::size_of_val(&info) as u32) as _;
        let message = libc::CMSG_FIRSTHDR(&header);
        (*message).cmsg_level = libc::IPPROTO_IP;
        (*message).cmsg_type = libc::IP_PKTINFO;
        (*message).cmsg_len = libc::CMSG_LEN(mem::size_of_val(&info) as u32) as _;
        libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
        // What is lost here is not sent again.
        libc::sendmsg(socket.as_raw_fd(), &header, 0);
    }
}

/// Requests on their way out of one socket.
#[derive(Default)]
pub struct Burst {
    octets: Vec<u8>,
    requests: Vec<Range<usize>>,
    iovecs: Vec<libc::iovec>,
    controls: Vec<Control>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers within are used during `send` alone, which makes them anew.
unsafe impl Send for Burst {}

impl Burst {
    pub fn clear(&mut self) {
        self.octets.clear();
        self.requests.clear();
    }

    /// Appends a copy, which the caller may change.
    pub fn append(&mut self, request: &[u8]) -> &mut [u8] {
        let start = self.octets.len();
        self.octets.extend_from_slice(request);
        self.requests.push(start..self.octets.len());
        &mut self.octets[start..]
    }

    /// Sends all of them, `each` in one datagram. Returns the number of datagrams that the socket
    /// had no room for: 0 if it blocks.
    pub fn send(&mut self, socket: &UdpSocket, each: usize) -> usize {
        self.iovecs.clear();
        for requests in self.requests.chunks(each) {
            let (first, last) = (&requests[0], &requests[requests.len() - 1]);
            debug_assert!(requests.iter().all(|request| request.len() == first.len()));
            let octets = &mut self.octets[first.start..last.end];
            self.iovecs
                .push(libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() });
        }
        self.controls.resize(self.iovecs.len(), Control([0; 32]));
        self.headers.clear();
        let datagrams = self.iovecs.iter_mut().zip(&mut self.controls);
        for (number, (iovec, control)) in datagrams.enumerate() {
            // SAFETY: null pointers and lengths of 0 are valid in a message header.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            if each > 1 {
                let request = self.requests[number * each].len() as u16;
                header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                // SAFETY: these only calculate; that the room suffices is asserted above for an
                // int.
                unsafe {
                    header.msg_hdr.msg_controllen = libc::CMSG_SPACE(2) as _;
                    let message = libc::CMSG_FIRSTHDR(&header.msg_hdr);
                    (*message).cmsg_level = libc::SOL_UDP;
                    (*message).cmsg_type = libc::UDP_SEGMENT;
                    (*message).cmsg_len = libc::CMSG_LEN(2) as _;
                    libc::CMSG_DATA(message).cast::<u16>().write_unaligned(request);
                }
            }
            self.headers.push(header);
        }
        let mut rest = &mut self.headers[..];
        while !rest.is_empty() {
            // SAFETY: the headers refer to `iovecs` and `controls`, and these to `octets`; none of
            // them changed since.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0)
            };
            let Ok(sent) = usize::try_from(sent) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => return rest.len(),
                    _ => panic!("send: {error}"),
                }
            };
            rest = &mut rest[sent..];
        }
        0
    }
}

/// Received datagrams, of one socket at a time.
pub struct Inbox {
    octets: Vec<u8>,
    controls: Vec<Control>,
    /// These refer to one another and to the two above; neither ever moves its elements.
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    replies: Vec<Range<usize>>,
}

// SAFETY: the pointers within are to memory that goes where this goes, and stays in place.
unsafe impl Send for Inbox {}

impl Inbox {
    pub fn new() -> Inbox {
        let mut octets = vec![0; MESSAGES * BUFFER];
        let mut controls = vec![Control([0; 32]); MESSAGES];
        let mut iovecs: Vec<libc::iovec> = octets
            .chunks_exact_mut(BUFFER)
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER })
            .collect();
        let headers = iovecs.iter_mut().zip(&mut controls).map(|(iovec, control)| {
            // SAFETY: null pointers and lengths of 0 are valid in a message header.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header
        });
        let headers = headers.collect();
        Inbox { octets, controls, iovecs, headers, replies: Vec::new() }
    }

    /// Receives what is there, or, with `wait`, waits for the socket's timeout at most. Coalesced
    /// replies are taken apart. `false`: nothing came.
    pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> bool {
        self.replies.clear();
        for header in &mut self.headers {
            header.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        debug_assert_eq!(self.iovecs.len(), self.controls.len());
        // SAFETY: the headers refer to `iovecs`, `octets` and `controls`, which live and have not
        // moved.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                MESSAGES as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
            assert!(kinds.contains(&error.kind()), "receive: {error}");
            return false;
        };
        for (number, header) in self.headers[..received].iter().enumerate() {
            let length = header.msg_len as usize;
            let each = segment_of(&header.msg_hdr).unwrap_or(length).max(1);
            let (mut start, end) = (number * BUFFER, number * BUFFER + length);
            while start < end {
                let next = end.min(start + each);
                self.replies.push(start..next);
                start = next;
            }
        }
        true
    }

    /// The replies of the last receive.
    pub fn replies(&self) -> impl Iterator<Item = &[u8]> {
        self.replies.iter().map(|range| &self.octets[range.clone()])
    }
}

/// The length of the datagrams that this one is coalesced from. The last one may be shorter.
fn segment_of(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has written the control messages and their length.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    if (message.cmsg_level, message.cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: this control message has an int.
    let segment = unsafe { libc::CMSG_DATA(message).cast::<c_int>().read_unaligned() };
    usize::try_from(segment).ok()
}
