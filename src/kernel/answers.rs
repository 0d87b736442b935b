//! [`Answers`]: what programs of this host answer to clients whose packets it has (PROTOCOL.md
//! section 11), on its way to their NAT64s.
//!
//! Other replies are lost where the send queue has no room, as the network may lose them anyway.
//! Programs that send more than leaves would lose much so, and would not be slowed down: so these
//! wait, in their order, and meanwhile nothing more is read from the device. They take three
//! quarters of the queue at most: replies to requests find room at any time.
//!
//! What waits is bounded by the arena of [`Outgoing`].

use std::io;
use std::net::SocketAddrV4;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::sockopt::socket_send_buffer_size;

use crate::handoff::message::PAYLOAD_MAX;
use crate::kernel::backend::Losses;
use crate::kernel::outgoing::{ARENA_SIZE, MESSAGES_MAX, Outgoing, Way};
use crate::kernel::socket::ReactorSocket;
use crate::kernel::unacknowledged::unacknowledged;

/// The part of a send queue that they take.
const SHARE: (u64, u64) = (3, 4);
/// What there is to be room for before a packet is read from the device: a super-packet of 64 KiB,
/// and what stands before each of the packets that it becomes.
const PACKET_REPLIES: usize = 256;
const PACKET_OCTETS: usize = 65_536 + 256 * PACKET_REPLIES;

const _: () = assert!(PACKET_OCTETS <= ARENA_SIZE && PACKET_REPLIES <= MESSAGES_MAX);

/// Answers that wait to be submitted, or for room.
pub(super) struct Answers {
    outgoing: Outgoing,
    /// The octets that they may take of the send queue of each socket.
    sizes: Box<[u64]>,
    /// The messages that are laid out, and have not left.
    waiting: Range<usize>,
    /// The socket that has no room for the first of them.
    stalled: Option<usize>,
    /// The kernel had no memory for it.
    refused: bool,
    /// What was refused with GSO is sent one by one, and all of it left.
    retries: Option<bool>,
}

impl Answers {
    /// Of these sockets, whose send queues keep their size.
    pub fn new(sockets: &[ReactorSocket]) -> io::Result<Self> {
        // Where it is not known, the kernel says it when it is asked to send.
        let size = |socket| socket_send_buffer_size(socket).map_or(u64::MAX, |size| size as u64);
        let sizes = sockets.iter().map(|socket| size(socket) / SHARE.1 * SHARE.0).collect();
        let outgoing = Outgoing::new()?;
        Ok(Self { outgoing, sizes, waiting: 0..0, stalled: None, refused: false, retries: None })
    }

    /// The socket that is to have room before more is read from the device, if there is one.
    pub fn stalled(&self) -> Option<usize> {
        self.stalled
    }

    /// Whether there is room for what a packet of the device becomes, once what can leave has left.
    pub fn take_more(&mut self, sockets: &[ReactorSocket], losses: &mut Losses) -> bool {
        if !self.has_room() {
            self.flush(sockets, losses);
        }
        self.has_room()
    }

    fn has_room(&self) -> bool {
        self.stalled.is_none()
            && self.outgoing.has_room_for(PACKET_OCTETS)
            && self.outgoing.has_room_of(PACKET_REPLIES)
    }

    /// Adds one, of `length` octets that `emit` writes. It is lost where it is too long, or there
    /// is no room.
    pub fn push(
        &mut self,
        way: Way,
        to: SocketAddrV4,
        length: usize,
        emit: impl FnOnce(&mut [u8]),
        losses: &mut Losses,
    ) {
        let is_kept = length <= PAYLOAD_MAX
            && self.outgoing.has_room()
            && self.outgoing.push_emitted(way, to, length, emit);
        losses.send_errors += u64::from(!is_kept);
    }

    /// Hands them to the kernel, as far as there is room.
    pub fn flush(&mut self, sockets: &[ReactorSocket], losses: &mut Losses) {
        if self.outgoing.is_empty() {
            return;
        }
        let before = self.stalled.take();
        loop {
            self.waiting.end = self.outgoing.lay_out().end;
            let lost = self.send(sockets);
            losses.send_errors += lost;
            if let Some(all_left) = &mut self.retries {
                *all_left &= lost == 0;
            }
            if self.stalled.is_some() {
                losses.held += u64::from(before.is_none());
                return;
            }
            self.waiting = 0..0;
            if !self.outgoing.retry() {
                break;
            }
            self.retries.get_or_insert(true);
        }
        if let Some(all_left) = self.retries.take() {
            self.outgoing.learn(all_left);
        }
        self.outgoing.clear();
    }

    /// Hands over what there is room for, and gives up the rest.
    pub fn finish(&mut self, sockets: &[ReactorSocket], losses: &mut Losses) {
        self.flush(sockets, losses);
        let waiting = self.waiting.clone();
        losses.send_errors += waiting.map(|message| self.outgoing.replies(message)).sum::<u64>();
        self.outgoing.clear();
        (self.waiting, self.stalled, self.retries) = (0..0, None, None);
    }

    /// How much more they may take of the send queue of the socket with this number.
    fn room(&self, number: usize, socket: &ReactorSocket) -> u64 {
        unacknowledged(socket).map_or(u64::MAX, |taken| self.sizes[number].saturating_sub(taken))
    }

    /// Sends what waits, until there is no room. Returns how many replies are lost.
    fn send(&mut self, sockets: &[ReactorSocket]) -> u64 {
        let mut lost = 0;
        while !self.waiting.is_empty() {
            let first = self.waiting.start;
            let socket = self.outgoing.socket(first);
            let count =
                self.outgoing.fitting(self.waiting.clone(), self.room(socket, &sockets[socket]));
            let outcome = match count {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => send_messages(&self.outgoing, first, count, &sockets[socket]),
            };
            let errno = match outcome {
                Ok(sent) => {
                    // If an error stopped it, the next call begins with that message and returns
                    // the error.
                    (self.waiting.start, self.refused) = (first + sent.max(1), false);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => libc::EAGAIN,
                Err(error) => error.raw_os_error().unwrap_or(0),
            };
            match errno {
                libc::EINTR => continue,
                libc::EAGAIN => {}
                // It may have some the next time.
                libc::ENOBUFS | libc::ENOMEM if !self.refused => self.refused = true,
                errno => {
                    lost += self.outgoing.refuse(first, errno);
                    (self.waiting.start, self.refused) = (first + 1, false);
                    continue;
                }
            }
            self.stalled = Some(socket);
            break;
        }
        lost
    }
}

/// Hands `count` messages from `first` on, which are laid out and leave by this socket, to the
/// kernel. Returns how many it took: fewer where it refused the next one.
///
/// # Errors
/// Where it refused the first one.
pub(super) fn send_messages(
    outgoing: &Outgoing,
    first: usize,
    count: usize,
    socket: &ReactorSocket,
) -> io::Result<usize> {
    // SAFETY: `count` messages are laid out from `first` on. Their headers point to memory of
    // `outgoing`, and to payloads that can be read until all is cleared, as `push` demands.
    let outcome = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            outgoing.headers(first),
            count as libc::c_uint,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}
