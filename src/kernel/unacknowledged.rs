//! How much of what was written to a TCP connection the other end has not acknowledged, and how
//! much of what was sent by UDP has not left.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Octets that were written to a TCP socket and that its peer has not acknowledged yet (SIOCOUTQ).
/// They may never arrive. Of a UDP socket, the memory that its send queue takes.
///
/// # Errors
/// Where it is no such socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    let mut octets: c_int = 0;
    // SAFETY: the kernel writes one int to where the pointer leads, which is good for the call.
    // SIOCOUTQ has the number of TIOCOUTQ.
    let outcome =
        unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    match outcome {
        0 => Ok(u64::try_from(octets).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn what_nobody_has_taken_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        assert_eq!(unacknowledged(&stream).unwrap(), 0);
        let (mut peer, _) = listener.accept().unwrap();
        let mut written = 0;
        while let Ok(octets) = stream.write(&[0; 65536]) {
            written += octets as u64;
        }
        let waiting = unacknowledged(&stream).unwrap();
        assert!(0 < waiting && waiting < written, "{waiting} of {written}");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap() as u64, written);
        let datagrams = UnixDatagram::unbound().unwrap();
        assert_eq!(unacknowledged(&datagrams).unwrap(), 0);
        assert!(unacknowledged(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
