//! [`Backend`]: what a reactor needs of the kernel, so that its loop is independent of how that is
//! done.
//!
//! io_uring is one backend (`ring`), recvmmsg and sendmmsg are the other (`mmsg`). The contract is
//! in terms of batches: one [`Backend::turn`] hands all queued replies to the kernel and returns
//! the datagrams that arrived. The kernel may have coalesced several datagrams of one sender (GRO,
//! UDP_GRO), and a backend may coalesce the replies to one NAT64 (GSO, UDP_SEGMENT). Neither is
//! visible outside, but for [`Arrival::room`].

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A turn returns at most this many datagrams, plus the rest of the last GRO batch.
pub const BATCH_MAX: usize = 256;
/// The most datagrams that the kernel coalesces (UDP_MAX_SEGMENTS).
pub const COALESCED_MAX: usize = 128;

/// The backends, to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// io_uring: [`crate::kernel::ring`].
    Uring,
    /// recvmmsg(2) and sendmmsg(2): [`crate::kernel::mmsg`].
    Mmsg,
}

impl Io {
    /// The value of the option that chooses it.
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
    /// The reactor's socket that received it: an index into the list that the backend was made
    /// with.
    pub socket: usize,
    /// The sender's address and port.
    pub source: SocketAddrV4,
    /// The local address that it was sent to: the reply leaves from there.
    pub local: Ipv4Addr,
    /// The range of the payload in its buffer.
    pub payload: Range<usize>,
    /// The buffer from here to the end of the payload belongs to this datagram alone. That includes
    /// at least [`crate::handoff::message::HEAD_ROOM`] octets in front of the payload, except for a
    /// datagram that GRO coalesced behind another: there the payload begins at `room`.
    pub room: usize,
    /// The number of its buffer in this turn.
    pub buffer: usize,
}

/// Where a datagram came in, which is where its replies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnPath {
    /// As [`Arrival::socket`].
    pub socket: usize,
    /// As [`Arrival::local`].
    pub local: Ipv4Addr,
}

impl Arrival {
    /// Where its replies leave, also after the turn.
    pub fn return_path(&self) -> ReturnPath {
        ReturnPath { socket: self.socket, local: self.local }
    }
}

/// Counts of datagrams that were not handed out, and of replies that did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Datagrams longer than a buffer.
    pub truncated: u64,
    /// Datagrams to a broadcast or multicast address.
    pub not_unicast: u64,
    /// Replies that the kernel refused, or that were too long.
    pub send_errors: u64,
    /// Times that answers began to wait for room in a send queue: those are not lost.
    pub held: u64,
}

/// The kernel, seen from a reactor. All memory that the kernel reads or writes belongs to the
/// backend.
pub trait Backend {
    /// Hands all queued replies to the kernel, gives the buffers of the last turn back, and waits
    /// until a datagram arrives, a [`Waker`] is used or `timeout` has passed. Returns the number of
    /// datagrams, less than [`BATCH_MAX`] + [`COALESCED_MAX`]. It may return 0 at any time.
    ///
    /// # Errors
    /// What cannot be recovered from: the reactor ends with it.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize>;

    /// Datagram `index` of this turn and its whole buffer, of which only the part from
    /// [`Arrival::room`] to the end of the payload belongs to this datagram.
    ///
    /// # Panics
    /// Where `index` is not less than what [`Backend::turn`] returned.
    fn arrival(&mut self, index: usize) -> (&Arrival, &mut [u8]);

    /// Queues `range` of datagram `index`'s buffer to be sent to `to`, from the address and the
    /// socket that received the datagram. The buffer must not change in that range until the next
    /// turn. May hand queued replies to the kernel, never waits. A reply that the kernel refuses is
    /// counted in [`Losses`].
    ///
    /// # Errors
    /// As [`Backend::turn`].
    ///
    /// # Panics
    /// Where `range` is not within the buffer.
    fn send_in_place(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: SocketAddrV4,
    ) -> io::Result<()>;

    /// As [`Backend::arrival`], of the whole buffer alone.
    ///
    /// # Panics
    /// As [`Backend::arrival`].
    fn buffer(&self, index: usize) -> &[u8];

    /// As [`Backend::send_in_place`], but sends a payload of `length` octets that `emit` writes,
    /// and can be called at any time.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_emitted(
        &mut self,
        return_path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()>;

    /// As [`Backend::send_emitted`], of a copy of `payload`.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_copy(
        &mut self,
        return_path: ReturnPath,
        payload: &[u8],
        to: SocketAddrV4,
    ) -> io::Result<()> {
        self.send_emitted(return_path, payload.len(), to, |out| out.copy_from_slice(payload))
    }

    /// Whether what the next packet of this host becomes finds room: [`Backend::send_answer`].
    /// Where it does not, a turn ends when there is some, and not before by what is to be read
    /// where [`Backend::watch`] says.
    fn takes_answers(&mut self) -> bool {
        true
    }

    /// As [`Backend::send_emitted`], of what a program of this host answers. It waits where there
    /// is no room in the send queue, as do those after it.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_answer(
        &mut self,
        return_path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        self.send_emitted(return_path, length, to, emit)
    }

    /// How what is sent from this address, and from this port if one is named, leaves. `None` where
    /// no socket has it.
    fn path_from(&self, local: Ipv4Addr, port: Option<u16>) -> Option<ReturnPath>;

    /// From now on a turn also ends when something can be read here; `None`: nowhere.
    fn watch(&mut self, descriptor: Option<OwnedFd>);

    /// Whether there may be something to be read where [`Backend::watch`] says, after a turn.
    fn is_readable(&self) -> bool;

    /// Hands all queued replies to the kernel. Never waits.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn send_queued(&mut self) -> io::Result<()>;

    /// What was lost since the last call.
    fn take_losses(&mut self) -> Losses;

    /// How many datagrams the kernel dropped since the last call because the sockets' queues were
    /// full. It costs a system call for each socket, too much for every turn.
    fn overflowed(&mut self) -> u64;

    /// Takes nothing more out of the sockets: what arrives from now on waits there, for another
    /// process that has them. The next turns return what was taken already.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn end_receives(&mut self) -> io::Result<()>;

    /// Hands all queued replies to the kernel and receives nothing more.
    ///
    /// # Errors
    /// As [`Backend::turn`].
    fn finish(&mut self) -> io::Result<()>;
}

/// Ends the wait of a [`Backend::turn`] from another thread.
pub trait Waker: Send + Sync {
    /// Makes the current turn, or else the next one, return at once.
    fn wake(&self);
}

#[cfg(test)]
mod tests;
