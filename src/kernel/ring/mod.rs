//! [`Ring`]: the io_uring [`Backend`].
//!
//! One multishot receive per socket fills buffers of one queue. A reply is sent from the buffer
//! that its request came in, and leaves during the submission itself (MSG_DONTWAIT), so that its
//! buffer can be given back right after. A turn is one system call. As PROTOCOL.md section 4 asks,
//! a reply leaves from the address that its request was sent to.
//!
//! It does not look into payloads. A reply that does not fit in the send queue is counted and lost,
//! as the network may lose it anyway. Answers of this host wait instead (see `answers`),
//! and leave by sendmmsg(2): the ring does not keep the order of what finds room and what does not.
//!
//! Who owns which memory, at any time: a receive buffer is the kernel's until a completion names
//! it, and ours, as a `HeldBuffer`, until it is given back. Replies are the kernel's only during
//! `io_uring_enter`; all completions are taken right after, so that a refused reply can be sent
//! again while its buffer is still held. A ring that is dropped ends its receives first. If the
//! kernel does not confirm that, the memory stays mapped for good.

use std::collections::VecDeque;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use crate::handoff::message::PAYLOAD_MAX;
use crate::kernel::answers::Answers;
use crate::kernel::backend::{Arrival, BATCH_MAX, Backend, COALESCED_MAX, Losses, ReturnPath};
use crate::kernel::mapping::Mapping;
use crate::kernel::outgoing::{MESSAGES_MAX, Outgoing, Way, path_from};
use crate::kernel::slot::RECEIVE_START;
use crate::kernel::socket::{ReactorSocket, bind_group};
use crate::kernel::waker::EventWaker;

use buffers::{Buffers, HeldBuffer};
use made::{build, receive, restrict};
use operation::{Operation, Remedy, can_go_on};

mod buffers;
mod made;
mod operation;
mod received;
mod refused;

pub use operation::SOCKETS_MAX;
pub use refused::RingRefused;

/// The receive buffers of a ring: at most half are handed out, the kernel fills the others
/// meanwhile. Datagrams without a buffer wait in the socket's queue, whose overflow is counted.
/// More buffers would be a second queue behind it, and would evict each other from the caches.
pub const BUFFERS: u16 = 64;

/// Enough for the replies of a batch and for arming everything.
const SUBMISSIONS: u32 = 1024;
/// Enough for a completion of every buffer and every submission, so that none overflows.
const COMPLETIONS: u32 = 4096;
/// The number of the only group of buffers.
const BUFFER_GROUP: u16 = 0;
/// The end of the receives is waited for at most this often, and this long each time.
const FINISH_ROUNDS: u32 = 100;
const FINISH_WAIT: Duration = Duration::from_millis(10);

/// The most buffers that one turn hands out.
const BATCH_BUFFERS: usize = BUFFERS as usize / 2;

const _: () = assert!(BUFFERS.is_power_of_two() && BATCH_BUFFERS > 0);
// The waker, the cancelling, what is watched and the wait for room need one submission each.
const _: () = assert!(SUBMISSIONS as usize >= MESSAGES_MAX + SOCKETS_MAX + 4);
const _: () = assert!(COMPLETIONS >= BUFFERS as u32 + SUBMISSIONS);

/// The io_uring of one reactor.
///
/// It belongs to the thread that made it (IORING_SETUP_SINGLE_ISSUER), and cannot be sent to
/// another.
pub struct Ring {
    uring: IoUring,
    sockets: Vec<ReactorSocket>,
    /// For each socket, whether its receive is under way.
    armed: Vec<bool>,
    /// Whether the read of the waker's eventfd is under way.
    wake_armed: bool,
    /// What else ends a turn, and whether the wait for it is under way.
    watched: Option<OwnedFd>,
    watch_armed: bool,
    /// Whether that ended since the turn before.
    readable: bool,
    kernel: ManuallyDrop<KernelMemory>,
    answers: Answers,
    /// Whether the wait for room for them is under way.
    room_armed: bool,
    /// What was received and not handed out yet: the socket, the buffer, and the length in octets.
    received: VecDeque<(usize, HeldBuffer, usize)>,
    arrivals: Vec<Arrival>,
    /// The buffers that the arrivals are in.
    held: Vec<HeldBuffer>,
    losses: Losses,
    /// Whether receives are no longer armed.
    deaf: bool,
    finished: bool,
}

/// The memory that the kernel has pointers to.
struct KernelMemory {
    buffers: Buffers,
    outgoing: Outgoing,
    /// Where the value of the eventfd is read to: 8 octets, which are not used.
    wakes: Mapping<u8>,
}

/// Finds out whether a [`Ring`] works on this system, by using one once.
///
/// # Errors
/// Why it does not work.
pub fn probe() -> Result<(), RingRefused> {
    // Not on loopback, which need not be up.
    let anywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let sockets = bind_group(&[anywhere], 1)
        .map_err(|error| RingRefused::Other(error.to_string()))?
        .remove(0);
    let attempt = || {
        let (mut ring, _waker) = Ring::new(sockets)?;
        ring.turn(Some(Duration::ZERO))?;
        ring.finish()
    };
    attempt().map_err(|error| RingRefused::explain(&error))
}

/// Whether to wait for a completion.
#[derive(Debug, Clone, Copy)]
enum Wait {
    No,
    UpTo(Option<Duration>),
}

impl Ring {
    /// A ring for these sockets, and what wakes it. Call it on the reactor's own thread: no other
    /// thread can use the ring.
    ///
    /// # Errors
    /// The kernel's error, which [`RingRefused::explain`] explains.
    pub fn new(sockets: Vec<ReactorSocket>) -> io::Result<(Self, EventWaker)> {
        Self::with_buffers(sockets, BUFFERS)
    }

    fn with_buffers(sockets: Vec<ReactorSocket>, buffers: u16) -> io::Result<(Self, EventWaker)> {
        if sockets.len() > SOCKETS_MAX {
            let text = format!("{} addresses for a reactor, at most {SOCKETS_MAX}", sockets.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let uring = build()?;
        let event = EventWaker::new()?;
        let kernel = KernelMemory {
            buffers: Buffers::new(buffers)?,
            outgoing: Outgoing::new()?,
            wakes: Mapping::new(8)?,
        };
        let files: Vec<_> = sockets
            .iter()
            .map(|socket| socket.as_fd().as_raw_fd())
            .chain([event.file().as_raw_fd()])
            .collect();
        let submitter = uring.submitter();
        submitter.register_files(&files)?;
        let address = kernel.buffers.queue_address();
        // SAFETY: the queue is page-aligned and has `count` entries. It stays mapped until the drop
        // of the ring, which ends all receives and unregisters it first.
        unsafe {
            submitter.register_buf_ring_with_flags(
                address,
                kernel.buffers.count(),
                BUFFER_GROUP,
                0,
            )?;
        }
        restrict(&uring)?;
        let answers = Answers::new(&sockets)?;
        let ring = Self {
            armed: vec![false; sockets.len()],
            uring,
            sockets,
            wake_armed: false,
            watched: None,
            watch_armed: false,
            readable: false,
            kernel: ManuallyDrop::new(kernel),
            answers,
            room_armed: false,
            received: VecDeque::with_capacity(usize::from(buffers)),
            arrivals: Vec::with_capacity(BATCH_MAX + COALESCED_MAX),
            held: Vec::with_capacity(BATCH_BUFFERS),
            losses: Losses::default(),
            deaf: false,
            finished: false,
        };
        Ok((ring, event))
    }

    /// Queues the receives and the wake that are not under way. Returns whether there was room for
    /// all.
    fn arm(&mut self) -> bool {
        if self.deaf {
            return true;
        }
        let mut submissions = self.uring.submission();
        for (index, socket) in self.sockets.iter().enumerate() {
            if self.armed[index] {
                continue;
            }
            let operation = Operation::Receive(index);
            let entry = receive(index, socket).user_data(operation.encode());
            // SAFETY: the entry points to a static header, which is good at any time; the buffers
            // that it selects are the ring's, and stay mapped until the kernel has ended this
            // receive.
            self.armed[index] = unsafe { submissions.push(&entry) }.is_ok();
        }
        if !self.wake_armed {
            let file = Fixed(self.sockets.len() as u32);
            let entry = opcode::Read::new(file, self.kernel.wakes.at(0), 8)
                .build()
                .user_data(Operation::Wake.encode());
            // SAFETY: the 8 octets belong to the ring and stay until this read has ended.
            self.wake_armed = unsafe { submissions.push(&entry) }.is_ok();
        }
        let stalled = self.answers.stalled();
        if let Some(socket) = stalled.filter(|_| !self.room_armed) {
            let entry = opcode::PollAdd::new(Fixed(socket as u32), libc::POLLOUT as u32)
                .build()
                .user_data(Operation::Room.encode());
            // SAFETY: the entry has no pointers.
            self.room_armed = unsafe { submissions.push(&entry) }.is_ok();
        }
        // While answers wait, nothing more is read there.
        let wanted = self.watched.as_ref().filter(|_| stalled.is_none());
        if let Some(watched) = wanted.filter(|_| !self.watch_armed) {
            let entry = opcode::PollAdd::new(Fd(watched.as_raw_fd()), libc::POLLIN as u32)
                .build()
                .user_data(Operation::Watch.encode());
            // SAFETY: the entry has no pointers.
            self.watch_armed = unsafe { submissions.push(&entry) }.is_ok();
        }
        let watches = self.watch_armed || wanted.is_none();
        let waits = self.room_armed || stalled.is_none();
        watches && waits && self.wake_armed && self.armed.iter().all(|&armed| armed)
    }

    /// Hands everything that is queued to the kernel, and takes all completions. Returns whether
    /// the kernel took everything: then every reply has left or failed, and the kernel has no
    /// pointer to a held buffer any more.
    fn submit(&mut self, wait: Wait) -> io::Result<bool> {
        self.queue_replies();
        if !self.enter(wait)? {
            self.collect()?;
            return Ok(false);
        }
        self.collect()?;
        let mut all_left = true;
        while self.kernel.outgoing.retry() {
            self.queue_replies();
            let whole = self.enter(Wait::No)?;
            all_left &= self.collect()? == 0;
            if !whole {
                return Ok(false);
            }
        }
        self.kernel.outgoing.learn(all_left);
        self.kernel.outgoing.clear();
        Ok(true)
    }

    /// Turns the replies into submissions.
    fn queue_replies(&mut self) {
        let mut submissions = self.uring.submission();
        for message in self.kernel.outgoing.lay_out() {
            let socket = Fixed(self.kernel.outgoing.socket(message) as u32);
            let entry = opcode::SendMsg::new(socket, self.kernel.outgoing.header(message))
                .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(Operation::Send(message).encode());
            // SAFETY: the header, and what it points to, is the ring's and does not change before
            // it was submitted; whoever pushed a payload promised that it can be read until then.
            unsafe { submissions.push(&entry) }.expect("room for all messages and all receives");
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<bool> {
        let (submitter, mut submissions, mut completions) = self.uring.split();
        completions.sync();
        submissions.sync();
        let mut flags = EnterFlags::empty();
        let mut arguments = SubmitArgs::new();
        let timespec;
        let mut want = 0;
        if let Wait::UpTo(timeout) = wait {
            if !completions.is_empty() && submissions.is_empty() {
                return Ok(true);
            }
            flags |= EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
            want = u32::from(completions.is_empty() && timeout != Some(Duration::ZERO));
            if let Some(timeout) = timeout {
                timespec = Timespec::from(timeout);
                arguments = arguments.timespec(&timespec);
            }
        } else if submissions.is_empty() {
            return Ok(true);
        }
        let argument = flags.contains(EnterFlags::EXT_ARG).then_some(&arguments);
        let count = submissions.len() as u32;
        // SAFETY: with EXT_ARG the argument is of the type that it asks for, and without it there
        // is none. The pointers of the submissions are good: see where each was pushed.
        let outcome = unsafe { submitter.enter(count, want, flags.bits(), argument) };
        submissions.sync();
        match outcome {
            Err(error) if !can_go_on(&error) => Err(error),
            _ => Ok(submissions.is_empty()),
        }
    }

    /// Takes all completions. Returns how many replies are lost.
    fn collect(&mut self) -> io::Result<u64> {
        let KernelMemory { buffers, outgoing, .. } = &mut *self.kernel;
        let mut lost = 0;
        for completion in self.uring.completion() {
            let operation = Operation::decode(completion.user_data());
            let ended = !cqueue::more(completion.flags());
            match operation {
                Operation::Receive(index) if ended => self.armed[index] = false,
                Operation::Wake if ended => self.wake_armed = false,
                Operation::Room => self.room_armed = false,
                Operation::Watch => (self.watch_armed, self.readable) = (false, true),
                _ => {}
            }
            let held = cqueue::buffer_select(completion.flags()).map(|id| {
                // SAFETY: with this completion the kernel hands out the buffer, and it is seen only
                // once.
                unsafe { HeldBuffer::new(id) }
            });
            match (usize::try_from(completion.result()), operation, held) {
                (Ok(length), Operation::Receive(socket), Some(held)) if !self.finished => {
                    self.received.push_back((socket, held, length));
                }
                (Ok(_), _, held) => held.into_iter().for_each(|held| buffers.give(held)),
                (Err(_), operation, held) => {
                    held.into_iter().for_each(|held| buffers.give(held));
                    let errno = -completion.result();
                    match operation.on_error(errno) {
                        Remedy::Refused(message) => lost += outgoing.refuse(message, errno),
                        // What is not armed is armed in the next turn.
                        Remedy::Ignore | Remedy::ArmAgain => {}
                        Remedy::End => return Err(io::Error::from_raw_os_error(errno)),
                    }
                }
            }
        }
        self.losses.send_errors += lost;
        Ok(lost)
    }

    /// Turns what was received into the arrivals of a batch.
    fn hand_out(&mut self) {
        let buffers = &mut self.kernel.buffers;
        while self.arrivals.len() < BATCH_MAX && self.held.len() < BATCH_BUFFERS {
            let Some((socket, held, length)) = self.received.pop_front() else {
                break;
            };
            let octets = &buffers.slot(&held)[RECEIVE_START..][..length];
            match received::parse(octets, *self.sockets[socket].local().ip()) {
                Ok((received, start)) => {
                    let payload = RECEIVE_START + start..RECEIVE_START + length;
                    received.hand_out(socket, self.held.len(), payload, &mut self.arrivals);
                    self.held.push(held);
                }
                Err(flaw) => {
                    flaw.count(&mut self.losses);
                    buffers.give(held);
                }
            }
        }
    }

    /// Makes room for one more reply. Returns false only where the kernel does not take what is
    /// queued already.
    fn make_room(&mut self) -> io::Result<bool> {
        if self.kernel.outgoing.has_room() {
            return Ok(true);
        }
        self.submit(Wait::No)
    }

    /// Whether no operation is under way.
    fn is_quiet(&self) -> bool {
        !self.wake_armed && !self.watch_armed && !self.room_armed && !self.armed.contains(&true)
    }

    /// Ends all receives, and waits until the kernel has confirmed each, for a bounded time.
    fn quiesce(&mut self) -> io::Result<()> {
        for _ in 0..FINISH_ROUNDS {
            // Replies that wait leave first, in order. A receive that this arms is cancelled next.
            let whole = self.submit(Wait::No)?;
            if whole && self.is_quiet() {
                return Ok(());
            }
            // In every round, because an operation that is just being executed is not found.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(Operation::Cancel.encode());
            // SAFETY: the entry has no pointers. Without room for it now, there is in the next
            // round.
            let _ = unsafe { self.uring.submission().push(&cancel) };
            self.submit(Wait::UpTo(Some(FINISH_WAIT)))?;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "io_uring did not end its receives"))
    }
}

impl Backend for Ring {
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.arrivals.clear();
        self.readable = false;
        if self.finished {
            self.submit(Wait::No)?;
            return Ok(0);
        }
        self.answers.flush(&self.sockets, &mut self.losses);
        // The replies first: a receive that is armed may fill the buffer of one of them.
        self.queue_replies();
        let wait = match self.arm() && self.received.is_empty() {
            true => Wait::UpTo(timeout),
            false => Wait::UpTo(Some(Duration::ZERO)),
        };
        if !self.submit(wait)? {
            // Replies still lie in the held buffers, so these are not given back yet.
            return Ok(0);
        }
        for held in self.held.drain(..) {
            self.kernel.buffers.give(held);
        }
        self.hand_out();
        Ok(self.arrivals.len())
    }

    fn arrival(&mut self, index: usize) -> (&Arrival, &mut [u8]) {
        let arrival = &self.arrivals[index];
        (arrival, self.kernel.buffers.slot_mut(&self.held[arrival.buffer]))
    }

    fn send_in_place(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        if range.len() > PAYLOAD_MAX || !self.make_room()? {
            self.losses.send_errors += 1;
            return Ok(());
        }
        let arrival = &self.arrivals[index];
        let payload = self.kernel.buffers.part(&self.held[arrival.buffer], &range);
        let way = Way::back(&self.sockets, arrival.return_path());
        // SAFETY: the range is within its buffer, which is ours until the turn that submits this
        // has done so. The pointer stays good when `arrival` makes a reference to the buffer.
        unsafe { self.kernel.outgoing.push(way, to, payload, range.len()) };
        Ok(())
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.kernel.buffers.slot(&self.held[self.arrivals[index].buffer])
    }

    fn send_emitted(
        &mut self,
        return_path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        assert!(return_path.socket < self.sockets.len());
        if length > PAYLOAD_MAX || !self.make_room()? {
            self.losses.send_errors += 1;
            return Ok(());
        }
        if !self.kernel.outgoing.has_room_for(length) {
            self.submit(Wait::No)?;
        }
        let way = Way::back(&self.sockets, return_path);
        if !self.kernel.outgoing.push_emitted(way, to, length, emit) {
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
        self.watched = descriptor;
    }

    fn is_readable(&self) -> bool {
        self.readable
    }

    fn send_queued(&mut self) -> io::Result<()> {
        self.submit(Wait::No).map(drop)
    }

    fn take_losses(&mut self) -> Losses {
        mem::take(&mut self.losses)
    }

    fn overflowed(&mut self) -> u64 {
        self.sockets.iter_mut().map(ReactorSocket::overflowed).sum()
    }

    fn end_receives(&mut self) -> io::Result<()> {
        self.deaf = true;
        self.quiesce()
    }

    /// As the trait says; the arrivals of the last turn are gone. The sockets stay open until the
    /// ring is dropped, so that their groups stay complete until then.
    fn finish(&mut self) -> io::Result<()> {
        self.arrivals.clear();
        if !self.finished {
            self.answers.finish(&self.sockets, &mut self.losses);
        }
        self.finished = true;
        for (_, held, _) in self.received.drain(..) {
            self.kernel.buffers.give(held);
        }
        self.quiesce()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.finish().is_err() || !self.is_quiet() {
            // The kernel may still write to the memory, so it must stay mapped.
            return;
        }
        // Releases the sockets and the buffers now. The kernel would do it some time after the ring
        // is closed, and does it then if this fails.
        let submitter = self.uring.submitter();
        let _ = submitter.unregister_files();
        let _ = submitter.unregister_buf_ring(BUFFER_GROUP);
        // SAFETY: `kernel` is dropped only here, and not used afterwards. The kernel has confirmed
        // the end of every operation that could refer to the memory.
        unsafe { ManuallyDrop::drop(&mut self.kernel) };
    }
}

#[cfg(test)]
mod tests;
