//! The way to a collector: datagrams or a stream, written without waiting for longer than a signal
//! takes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_linger, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};

use crate::kernel::signals::EndSignal;
use crate::kernel::unacknowledged::unacknowledged;
use crate::programs::options::CollectorPlace;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// After this time without a word, the kernel asks whether the other end is there,
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// again after this time,
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(10);
/// and so often, before it gives the connection up.
const KEEP_ALIVE_COUNT: u32 = 3;
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
    ///
    /// # Errors
    /// Where it cannot be had, or a signal came: that does not wait for a server of names, nor for
    /// the collector. They are asked by a thread, which is left behind then.
    pub(super) fn open(
        place: &CollectorPlace,
        first: usize,
        stop: &EndSignal,
    ) -> Result<Self, Unsent> {
        let (ours, theirs) = UnixStream::pair()?;
        let place = place.clone();
        let opening = move || {
            let opened = Self::open_now(&place, first);
            drop(theirs);
            opened
        };
        let thread = thread::Builder::new().name("connect".to_owned()).spawn(opening)?;
        let done = Some((ours.as_fd(), PollFlags::IN));
        while !wait_for(stop, done, Duration::MAX)? {}
        // It ended itself only by an assertion that failed.
        let opened = thread.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
        Ok(opened?)
    }

    fn open_now(place: &CollectorPlace, first: usize) -> io::Result<Self> {
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
                set_tcp_keepintvl(&stream, KEEP_ALIVE_AGAIN)?;
                set_tcp_keepcnt(&stream, KEEP_ALIVE_COUNT)?;
                Ok(Self::Tcp(stream))
            }),
        }
    }

    /// Sends of a message what there is room for: how much that was, 0 where there is none now.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self {
                Self::Unix(socket) => socket.send(message),
                Self::Udp { socket, .. } => socket.send(message),
                Self::Tcp(stream) => stream.write(message),
            };
            match written {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                written => return written,
            }
        }
    }

    /// A message was sent: the next one may have to wait.
    pub(super) fn pace(&mut self, stop: &EndSignal) -> Result<(), Unsent> {
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

    /// Gives up what the other end's kernel has not taken: it is not sent behind the end of the
    /// connection.
    pub(super) fn abort(self) {
        if let Self::Tcp(stream) = self {
            // Where that cannot be, it is sent as long as the kernel tries.
            let _ = set_socket_linger(&stream, Some(Duration::ZERO));
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

/// Waits until something is so. Whether it is: false where `patience` was over before.
///
/// # Errors
/// A signal came.
pub(super) fn wait_for(
    stop: &EndSignal,
    what: Option<(BorrowedFd<'_>, PollFlags)>,
    patience: Duration,
) -> Result<bool, Unsent> {
    let mut polled = vec![PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    polled.extend(what.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    // One that is too long for the kernel has no end.
    let timeout = Timespec::try_from(patience).ok();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) if !polled[0].revents().is_empty() => Err(Unsent::Stopped),
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
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
