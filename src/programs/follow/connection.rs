//! The way to a collector: datagrams or a stream, written without waiting for longer than a signal
//! takes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};

use crate::kernel::signals::EndSignal;
use crate::kernel::unacknowledged::unacknowledged;
use crate::programs::options::CollectorPlace;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// After this time without a word, the kernel asks whether the other end is there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// So many datagrams leave at once: a collector's buffer, of 200 kB by default, has room for them.
const BURST: u32 = 16;
/// Then this time passes.
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// An open way.
pub(super) enum CollectorConnection {
    Unix(UnixDatagram),
    Udp {
        socket: UdpSocket,
        /// Datagrams since the last pause.
        burst: u32,
    },
    Tcp(TcpStream),
}

/// Why something was not sent.
pub(super) enum Unsent {
    /// A signal came.
    Stopped,
    Failed(io::Error),
}

impl From<io::Error> for Unsent {
    fn from(error: io::Error) -> Self {
        Unsent::Failed(error)
    }
}

impl CollectorConnection {
    /// A name is looked up each time. Of its addresses, the first one that can be had from number
    /// `first` on, which goes round: of datagrams it is known only later that nobody takes them.
    pub(super) fn open(place: &CollectorPlace, first: usize) -> io::Result<Self> {
        match place {
            CollectorPlace::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(socket))
            }
            CollectorPlace::Udp(host) => first_of(host, first, |address| {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp { socket, burst: 0 })
            }),
            CollectorPlace::Tcp(host) => first_of(host, first, |address| {
                let stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                set_socket_keepalive(&stream, true)?;
                set_tcp_keepidle(&stream, KEEP_ALIVE)?;
                Ok(Self::Tcp(stream))
            }),
        }
    }

    /// Sends all of a message. Calls `is_stuck` each time that nothing was taken for `patience`.
    pub(super) fn send(
        &mut self,
        mut message: &[u8],
        stop: &EndSignal,
        patience: Duration,
        mut is_stuck: impl FnMut(),
    ) -> Result<(), Unsent> {
        loop {
            let written = match self {
                Self::Unix(socket) => socket.send(message),
                Self::Udp { socket, .. } => socket.send(message),
                Self::Tcp(stream) => stream.write(message),
            };
            match written {
                Ok(octets) if octets >= message.len() => break,
                Ok(octets) => message = &message[octets..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !wait_for(stop, Some(self.as_fd()), patience)? {
                        is_stuck();
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Self::Udp { burst, .. } = self {
            *burst += 1;
            if *burst >= BURST {
                *burst = 0;
                wait_for(stop, None, BURST_PAUSE)?;
            }
        }
        Ok(())
    }

    /// Octets that were sent and may never arrive, as far as the way tells.
    pub(super) fn unacknowledged(&self) -> io::Result<u64> {
        match self {
            Self::Tcp(stream) => unacknowledged(stream),
            Self::Unix(_) | Self::Udp { .. } => Ok(0),
        }
    }

    /// Whether what was sent before may still turn out not to have been taken: a host says so of
    /// datagrams to a port that nobody has.
    pub(super) fn is_doubtful(&self) -> bool {
        matches!(self, Self::Udp { .. })
    }

    /// Passes over what the collector says.
    ///
    /// # Errors
    /// Where it is gone.
    pub(super) fn check(&mut self) -> io::Result<()> {
        let mut scrap = [0; 4096];
        loop {
            let read = match self {
                Self::Unix(socket) => socket.recv(&mut scrap),
                Self::Udp { socket, .. } => socket.recv(&mut scrap),
                Self::Tcp(stream) => match stream.read(&mut scrap) {
                    Ok(0) => Err(io::Error::new(ErrorKind::ConnectionReset, "it hung up")),
                    read => read,
                },
            };
            match read {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for CollectorConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp { socket, .. } => socket.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// The first of a host's addresses for which that works, from number `first` on.
fn first_of<T>(
    host: &str,
    first: usize,
    open: impl Fn(std::net::SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    let mut addresses: Vec<_> = host.to_socket_addrs()?.collect();
    let begin = first % addresses.len().max(1);
    addresses.rotate_left(begin);
    for address in addresses {
        match open(address) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until it can be written to. Whether it can: false where `patience` was over before.
///
/// # Errors
/// A signal came.
pub(super) fn wait_for(
    stop: &EndSignal,
    writable: Option<BorrowedFd<'_>>,
    patience: Duration,
) -> Result<bool, Unsent> {
    let mut polled = vec![PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    polled.extend(writable.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
    let timeout = Timespec::try_from(patience).unwrap_or_default();
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) if !polled[0].revents().is_empty() => Err(Unsent::Stopped),
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(Unsent::Failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_address_of_a_name_has_its_turn() {
        let tried = RefCell::new(Vec::new());
        let refused = |address: std::net::SocketAddr| -> io::Result<()> {
            tried.borrow_mut().push(address);
            Err(ErrorKind::ConnectionRefused.into())
        };
        assert!(first_of("localhost:9", 0, refused).is_err());
        let all = tried.take();
        for first in 0..2 * all.len() {
            assert!(first_of("localhost:9", first, refused).is_err());
            let mut expected = all.clone();
            expected.rotate_left(first % all.len());
            assert_eq!(tried.take(), expected);
        }
        assert!(first_of("192.0.2.1:9", 5, |_| Ok(())).is_ok());
    }
}
