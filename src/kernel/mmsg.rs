//! [`Mmsg`]: the [`Backend`] for where io_uring is refused, as in containers: recvmmsg(2) and
//! sendmmsg(2).
//!
//! It does what the ring does, by one system call for all replies of a socket, one for each socket
//! that it receives from, and ppoll(2) where there is nothing to receive. As PROTOCOL.md section 4
//! asks, a reply leaves from the address that its request was sent to.
//!
//! A reply that does not fit in the send queue is counted and lost; answers of this host wait (see
//! `answers`). The kernel has pointers to our memory only during a system call.

use std::io::{self, Read};
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::handoff::message::PAYLOAD_MAX;
use crate::kernel::answers::{Answers, send_messages};
use crate::kernel::backend::{Arrival, BATCH_MAX, Backend, COALESCED_MAX, Losses, ReturnPath};
use crate::kernel::cmsg::{NAME, receive_space, received};
use crate::kernel::mapping::Mapping;
use crate::kernel::outgoing::{Outgoing, Way, path_from};
use crate::kernel::slot::{CONTROL_AT, NAME_AT, PAYLOAD_AT, SLOT_SIZE};
use crate::kernel::socket::ReactorSocket;
use crate::kernel::waker::EventWaker;

/// The receive buffers, and so the most datagrams or GRO batches that one turn takes.
const BUFFERS: usize = BATCH_MAX;

/// The sockets of one reactor.
pub struct Mmsg {
    sockets: Vec<ReactorSocket>,
    event: EventWaker,
    buffers: Mapping<u8>,
    /// One for each buffer, like the vectors.
    headers: Mapping<libc::mmsghdr>,
    vectors: Mapping<libc::iovec>,
    /// What else ends a turn.
    watched: Option<OwnedFd>,
    /// All sockets, what is watched, and the waker last. Kept, as rustix's poll would need a new
    /// list for each wait.
    polled: Vec<libc::pollfd>,
    arrivals: Vec<Arrival>,
    /// The arrivals are in the first buffers, up to this number.
    buffers_used: usize,
    /// The socket that the next turn receives from first, so that none is starved.
    next: usize,
    outgoing: Outgoing,
    answers: Answers,
    losses: Losses,
    /// Whether nothing more is received.
    deaf: bool,
    finished: bool,
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Whether the reactor can go on after a failed receive or wait.
///
/// | errno | meaning |
/// | --- | --- |
/// | EAGAIN | there is nothing to receive |
/// | ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EMSGSIZE | about an earlier reply |
/// | EINTR, ENOMEM, ENOBUFS | passing trouble |
/// | else (EINVAL, EBADF, EFAULT, ...) | our mistake |
fn can_go_on(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EMSGSIZE
                | libc::EINTR
                | libc::ENOMEM
                | libc::ENOBUFS
        )
    )
}

impl Mmsg {
    /// A backend for these sockets, and what wakes it.
    ///
    /// # Errors
    /// Where the kernel gives us no memory or no descriptor.
    pub fn new(sockets: Vec<ReactorSocket>) -> io::Result<(Self, EventWaker)> {
        let event = EventWaker::new()?;
        let polled = sockets
            .iter()
            .map(|socket| readable(socket.as_fd().as_raw_fd()))
            .chain([readable(event.as_fd().as_raw_fd())])
            .collect();
        let answers = Answers::new(&sockets)?;
        let mmsg = Self {
            event: event.clone(),
            buffers: Mapping::new(BUFFERS * SLOT_SIZE)?,
            headers: Mapping::new(BUFFERS)?,
            vectors: Mapping::new(BUFFERS)?,
            watched: None,
            polled,
            sockets,
            arrivals: Vec::with_capacity(BATCH_MAX + COALESCED_MAX),
            buffers_used: 0,
            next: 0,
            outgoing: Outgoing::new()?,
            answers,
            losses: Losses::default(),
            deaf: false,
            finished: false,
        };
        Ok((mmsg, event))
    }

    /// Receives what has arrived, up to a batch.
    fn receive(&mut self) -> io::Result<()> {
        for step in 0..self.sockets.len() {
            let socket = (self.next + step) % self.sockets.len();
            if self.buffers_used == BUFFERS || self.arrivals.len() >= BATCH_MAX {
                self.next = socket;
                return Ok(());
            }
            self.receive_from(socket)?;
        }
        Ok(())
    }

    fn receive_from(&mut self, socket: usize) -> io::Result<()> {
        let bound = *self.sockets[socket].local().ip();
        let (first, space) = (self.buffers_used, receive_space(bound.is_unspecified()));
        let count = (BUFFERS - first).min(BATCH_MAX - self.arrivals.len());
        for buffer in first..first + count {
            self.prepare(buffer, space);
        }
        // SAFETY: `count` headers were just written. They point to mappings of ours, to which there
        // is no reference before the call returns.
        let outcome = unsafe {
            libc::recvmmsg(
                self.sockets[socket].as_fd().as_raw_fd(),
                self.headers.at(first),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(outcome) else {
            let error = io::Error::last_os_error();
            return if can_go_on(&error) { Ok(()) } else { Err(error) };
        };
        for buffer in first..first + count {
            // SAFETY: the header is within the mapping, and the kernel has no pointer to it after
            // the call.
            let libc::mmsghdr { msg_hdr, msg_len } = unsafe { *self.headers.at(buffer) };
            let slot = self.slot(buffer);
            let name = &slot[NAME_AT..][..NAME.min(msg_hdr.msg_namelen as usize)];
            let control = &slot[CONTROL_AT..][..space.min(msg_hdr.msg_controllen)];
            let received = received(name, control, msg_hdr.msg_flags, bound);
            match received {
                Ok(received) => {
                    let payload = PAYLOAD_AT..PAYLOAD_AT + msg_len as usize;
                    received.hand_out(socket, buffer, payload, &mut self.arrivals);
                }
                Err(flaw) => flaw.count(&mut self.losses),
            }
        }
        self.buffers_used += count;
        Ok(())
    }

    /// Writes the header to receive a datagram into `buffer`.
    fn prepare(&mut self, buffer: usize, control_space: usize) {
        let slot = self.buffers.at(buffer * SLOT_SIZE);
        let vector = self.vectors.at(buffer);
        let header = self.headers.at(buffer);
        // SAFETY: all three are within their mappings. Nobody has a reference to them, and the
        // kernel no pointer. `prepare` is called only before the turn hands out the buffer.
        unsafe {
            let iov_base = slot.add(PAYLOAD_AT).cast();
            vector.write(libc::iovec { iov_base, iov_len: SLOT_SIZE - PAYLOAD_AT });
            let header = &mut (*header).msg_hdr;
            header.msg_name = slot.add(NAME_AT).cast();
            header.msg_namelen = NAME as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = slot.add(CONTROL_AT).cast();
            header.msg_controllen = control_space;
            header.msg_flags = 0;
        }
    }

    fn slot(&self, buffer: usize) -> &[u8] {
        assert!(buffer < BUFFERS);
        // SAFETY: a slot is within the mapping. The kernel writes to it only during a receive, and
        // that, like every other writer, needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffers.at(buffer * SLOT_SIZE), SLOT_SIZE) }
    }

    /// Waits until there is something to receive, or the waker was used; where answers wait, not
    /// for what is watched, but for room.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let watched =
            self.watched.as_ref().map(|watched| (self.sockets.len(), watched.as_raw_fd()));
        if let Some(socket) = self.answers.stalled() {
            self.polled[socket].events |= libc::POLLOUT;
            if let Some((at, _)) = watched {
                // Of what is not one, nothing is told.
                self.polled[at].fd = -1;
            }
        }
        let outcome = self.poll(timeout);
        if let Some(socket) = self.answers.stalled() {
            self.polled[socket].events = libc::POLLIN;
            if let Some((at, fd)) = watched {
                self.polled[at].fd = fd;
            }
        }
        outcome
    }

    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the array has the length that is given, and the timeout lives until the call
        // returns.
        let outcome = unsafe {
            libc::ppoll(
                self.polled.as_mut_ptr(),
                self.polled.len() as libc::nfds_t,
                timeout,
                ptr::null(),
            )
        };
        if outcome < 0 {
            let error = io::Error::last_os_error();
            return if can_go_on(&error) { Ok(()) } else { Err(error) };
        }
        if self.polled.last().is_some_and(|waker| waker.revents != 0) {
            // It is readable, so this does not wait.
            self.event.file().read_exact(&mut [0; 8])?;
        }
        Ok(())
    }

    /// Sends all replies.
    fn flush(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        self.send_laid_out();
        let mut all_left = true;
        while self.outgoing.retry() {
            all_left &= self.send_laid_out() == 0;
        }
        self.outgoing.learn(all_left);
        self.outgoing.clear();
    }

    /// Sends the messages that are laid out. Returns how many replies are lost.
    fn send_laid_out(&mut self) -> u64 {
        let Range { start: mut next, end } = self.outgoing.lay_out();
        let mut lost = 0;
        while next < end {
            let socket = self.outgoing.socket(next);
            let same = (next..end).take_while(|&message| self.outgoing.socket(message) == socket);
            let count = same.count();
            match send_messages(&self.outgoing, next, count, &self.sockets[socket]) {
                // If an error stopped it, the next call begins with that message and returns the
                // error.
                Ok(sent) => next += sent.max(1),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    let refused = match errno {
                        libc::EINTR => 0,
                        // The queue is full, for the others as well.
                        libc::EAGAIN => count,
                        _ => 1,
                    };
                    for message in next..next + refused {
                        lost += self.outgoing.refuse(message, errno);
                    }
                    next += refused;
                }
            }
        }
        self.losses.send_errors += lost;
        lost
    }

    fn make_room(&mut self) {
        if !self.outgoing.has_room() {
            self.flush();
        }
    }
}

impl Backend for Mmsg {
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.flush();
        self.answers.flush(&self.sockets, &mut self.losses);
        self.arrivals.clear();
        self.buffers_used = 0;
        if self.finished || self.deaf {
            return Ok(0);
        }
        self.receive()?;
        if self.arrivals.is_empty() && timeout != Some(Duration::ZERO) {
            self.wait(timeout)?;
            self.receive()?;
        }
        Ok(self.arrivals.len())
    }

    fn arrival(&mut self, index: usize) -> (&Arrival, &mut [u8]) {
        let arrival = &self.arrivals[index];
        assert!(arrival.buffer < BUFFERS);
        let slot = self.buffers.at(arrival.buffer * SLOT_SIZE);
        // SAFETY: a slot is within the mapping. The kernel writes to it only during a receive, and
        // `&mut self` excludes that and all other references.
        (arrival, unsafe { std::slice::from_raw_parts_mut(slot, SLOT_SIZE) })
    }

    fn send_in_place(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        if range.len() > PAYLOAD_MAX {
            self.losses.send_errors += 1;
            return Ok(());
        }
        self.make_room();
        let arrival = &self.arrivals[index];
        assert!(range.start <= range.end && range.end <= SLOT_SIZE);
        let payload = self.buffers.at(arrival.buffer * SLOT_SIZE).wrapping_add(range.start);
        let way = Way::back(&self.sockets, arrival.return_path());
        // SAFETY: the range is within its buffer, which is used again only after the flush at the
        // start of the next turn. The pointer comes from the mapping, so it stays good when
        // `arrival` makes a reference to the buffer.
        unsafe { self.outgoing.push(way, to, payload, range.len()) };
        Ok(())
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.slot(self.arrivals[index].buffer)
    }

    fn send_emitted(
        &mut self,
        return_path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        assert!(return_path.socket < self.sockets.len());
        if length > PAYLOAD_MAX {
            self.losses.send_errors += 1;
            return Ok(());
        }
        self.make_room();
        if !self.outgoing.has_room_for(length) {
            self.flush();
        }
        let way = Way::back(&self.sockets, return_path);
        if !self.outgoing.push_emitted(way, to, length, emit) {
            self.losses.send_errors += 1;
        }
        Ok(())
    }

    fn takes_answers(&mut self) -> bool {
        self.answers.take_more(&self.sockets, &mut self.losses)
    }

    fn send_answer(
        &mut self,
        return_path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        let way = Way::back(&self.sockets, return_path);
        self.answers.push(way, to, length, emit, &mut self.losses);
        Ok(())
    }

    fn path_from(&self, local: Ipv4Addr, port: Option<u16>) -> Option<ReturnPath> {
        path_from(&self.sockets, local, port)
    }

    fn watch(&mut self, descriptor: Option<OwnedFd>) {
        let at = self.sockets.len();
        if self.watched.is_some() {
            self.polled.remove(at);
        }
        if let Some(descriptor) = &descriptor {
            self.polled.insert(at, readable(descriptor.as_raw_fd()));
        }
        self.watched = descriptor;
    }

    /// It is not known, as a turn that receives something does not ask.
    fn is_readable(&self) -> bool {
        self.watched.is_some()
    }

    fn send_queued(&mut self) -> io::Result<()> {
        self.flush();
        Ok(())
    }

    fn take_losses(&mut self) -> Losses {
        mem::take(&mut self.losses)
    }

    fn overflowed(&mut self) -> u64 {
        self.sockets.iter_mut().map(ReactorSocket::overflowed).sum()
    }

    fn end_receives(&mut self) -> io::Result<()> {
        self.deaf = true;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        self.flush();
        self.answers.finish(&self.sockets, &mut self.losses);
        self.arrivals.clear();
        Ok(())
    }
}
