//! [`Backend`]: what a reactor needs of the kernel, so that the loop does not know how it is done.
//!
//! io_uring is one backend (`ring`). The contract is in terms of batches: one [`Backend::turn`] hands all
//! queued replies to the kernel and comes back with the datagrams that arrived.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

use crate::wire::HEAD_ROOM;

/// The most datagrams that one turn hands out.
pub const BATCH_MAX: usize = 256;

/// One datagram that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Which of the reactor's sockets it came by: an index into the list that the backend was made with.
    pub socket: usize,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The local address that it was sent to: the reply leaves from there.
    pub local: Ipv4Addr,
    /// Where its payload stands in its buffer. At least [`HEAD_ROOM`] octets are free in front of it.
    pub payload: Range<usize>,
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

    /// Whether the contract about head room holds.
    pub fn has_head_room(&self) -> bool {
        self.payload.start >= HEAD_ROOM
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
    /// are, at most [`BATCH_MAX`]; 0 is possible at any time.
    ///
    /// # Errors
    /// What cannot be recovered from: the reactor ends with it.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize>;

    /// Datagram `index` of this turn, and its whole buffer.
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
