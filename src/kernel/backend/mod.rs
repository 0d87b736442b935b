//! [`Backend`]: what a reactor needs of the kernel, so that the loop does not know how it is done.
//!
//! io_uring is one backend (`ring`), recvmmsg and sendmmsg are the other (`mmsg`). The contract is in terms of
//! batches: one [`Backend::turn`] hands all queued replies to the kernel and comes back with the datagrams that
//! arrived. The kernel may have joined several datagrams of one sender (UDP_GRO), and a backend may join the
//! replies to one NAT64 (UDP_SEGMENT): nobody else sees that, but for [`Arrival::room`].

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

/// With so many datagrams a turn has enough, or with fewer: then it hands them out. Those that were joined to the
/// last one come on top.
pub const BATCH_MAX: usize = 256;
/// The most datagrams that the kernel joins (UDP_MAX_SEGMENTS).
pub const JOINED_MAX: usize = 128;

/// The backends that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// io_uring: see [`crate::kernel::ring`].
    Uring,
    /// recvmmsg(2) and sendmmsg(2): see [`crate::kernel::mmsg`].
    Mmsg,
}

impl Io {
    /// What it is called in an option.
    pub const fn name(self) -> &'static str {
        match self {
            Io::Uring => "uring",
            Io::Mmsg => "mmsg",
        }
    }
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Io::Uring => "io_uring",
            Io::Mmsg => "recvmmsg and sendmmsg",
        })
    }
}

/// One datagram that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Which of the reactor's sockets it came by: an index into the list that the backend was made with.
    pub socket: usize,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The local address that it was sent to: the reply leaves from there.
    pub local: Ipv4Addr,
    /// Where its payload stands in its buffer.
    pub payload: Range<usize>,
    /// From here on the buffer is this datagram's, up to the end of its payload. Where it came alone, that is
    /// [`crate::handoff::message::HEAD_ROOM`] octets or more in front of the payload; where it was joined to another,
    /// there is no room in front.
    pub room: usize,
    /// Which of the turn's buffers it stands in.
    pub(crate) buffer: usize,
}

/// Which way a reply goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The socket: see [`Arrival::socket`].
    pub socket: usize,
    /// The local address.
    pub local: Ipv4Addr,
}

impl Arrival {
    /// The way that its replies go back, also after the turn.
    pub fn origin(&self) -> Origin {
        Origin { socket: self.socket, local: self.local }
    }
}

/// What came of a datagram that could not be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Cut, because it was longer than a buffer.
    pub truncated: u64,
    /// Sent to a broadcast or multicast address.
    pub not_unicast: u64,
    /// Replies that the kernel refused.
    pub send_errors: u64,
}

/// The kernel, seen from a reactor. All memory that the kernel reads or writes belongs to the backend.
pub trait Backend {
    /// Hands all queued replies to the kernel, gives the buffers of the turn before back, and waits until
    /// a datagram is there, a [`Waker`] was used or `timeout` is over. Returns how many datagrams there
    /// are, fewer than [`BATCH_MAX`] + [`JOINED_MAX`]; 0 is possible at any time.
    ///
    /// # Errors
    /// What cannot be recovered from: the reactor ends with it.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize>;

    /// Datagram `index` of this turn, and its whole buffer, of which only the part that begins at
    /// [`Arrival::room`] and ends with the payload is its own.
    ///
    /// # Panics
    /// Where `index` is not below what [`Backend::turn`] returned.
    fn arrival(&mut self, index: usize) -> (&Arrival, &mut [u8]);

    /// Queues `range` of datagram `index`'s buffer to be sent to `to`, from the address and socket that
    /// the datagram came by. The buffer must not be changed in that range until the next turn. May hand
    /// queued replies to the kernel, never waits.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_in_place(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: SocketAddrV4,
    ) -> io::Result<()>;

    /// As [`Backend::send_in_place`], but sends a copy of `payload`, at any time.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_copy(&mut self, origin: Origin, payload: &[u8], to: SocketAddrV4) -> io::Result<()>;

    /// What was lost since this was last asked.
    fn take_losses(&mut self) -> Losses;

    /// How many datagrams the kernel dropped since this was last asked, as the sockets' queues were full. A
    /// system call for each socket: not for every turn.
    fn overflowed(&mut self) -> u64;

    /// Hands all queued replies to the kernel and receives nothing more.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn finish(&mut self) -> io::Result<()>;
}

/// Ends the waiting of a [`Backend::turn`] from another thread.
pub trait Waker: Send + Sync {
    /// Makes the current turn, or else the next one, return at once.
    fn wake(&self);
}

#[cfg(test)]
mod tests;
