//! The network of a process: what waits in its sockets, and what it sent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nat64handoff::handoff::message::{HEAD_ROOM, PAYLOAD_MAX};
use nat64handoff::handoff::random::Random;
use nat64handoff::kernel::backend::{Arrival, Backend, Losses, ReturnPath};

/// A datagram on its way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub from: SocketAddrV4,
    pub to: Ipv4Addr,
    pub payload: Vec<u8>,
}

/// A datagram that a server sent, from its handoff port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub to: SocketAddrV4,
    pub from: Ipv4Addr,
    pub payload: Vec<u8>,
}

/// The sockets of a process that has ended, with what waits in them: of each reactor.
#[derive(Debug, Clone, Default)]
pub struct Sockets(pub Vec<VecDeque<Waiting>>);

/// One reactor's socket, and what it sent.
#[derive(Default)]
pub struct Wire {
    pub queue: VecDeque<Waiting>,
    pub overflowed: u64,
    pub sent: Vec<Sent>,
}

/// The kernel, as a reactor sees it.
pub struct SimBackend {
    wire: Rc<RefCell<Wire>>,
    batch_max: usize,
    arrivals: Vec<Arrival>,
    buffers: Vec<Vec<u8>>,
    deaf: bool,
    random: Random,
}

impl SimBackend {
    /// Takes at most `batch_max` datagrams in a turn, and coalesces some of them.
    pub fn new(wire: Rc<RefCell<Wire>>, batch_max: usize, random: Random) -> Self {
        let (arrivals, buffers) = (Vec::new(), Vec::new());
        Self { wire, batch_max, arrivals, buffers, deaf: false, random }
    }
}

impl Backend for SimBackend {
    fn turn(&mut self, _: Option<Duration>) -> io::Result<usize> {
        self.arrivals.clear();
        let mut wire = self.wire.borrow_mut();
        while !self.deaf && self.arrivals.len() < self.batch_max {
            let Some(Waiting { from, to, payload }) = wire.queue.pop_front() else { break };
            assert!(payload.len() <= PAYLOAD_MAX);
            let (buffer, end) = (self.arrivals.len(), HEAD_ROOM + payload.len());
            if self.buffers.len() == buffer {
                self.buffers.push(Vec::new());
            }
            let octets = &mut self.buffers[buffer];
            octets.resize(octets.len().max(end), 0);
            octets[HEAD_ROOM..end].copy_from_slice(&payload);
            // Of those that the kernel coalesced, only the first one has room in front of it.
            let same = self.arrivals.last().is_some_and(|last| last.source == from);
            let room = if same && self.random.below(2) == 0 { HEAD_ROOM } else { 0 };
            let payload = HEAD_ROOM..end;
            self.arrivals.push(Arrival {
                socket: 0,
                source: from,
                local: to,
                payload,
                room,
                buffer,
            });
        }
        Ok(self.arrivals.len())
    }

    fn arrival(&mut self, index: usize) -> (&Arrival, &mut [u8]) {
        let arrival = &self.arrivals[index];
        (arrival, &mut self.buffers[arrival.buffer])
    }

    fn send_in_place(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        let Arrival { local, buffer, .. } = self.arrivals[index];
        let payload = self.buffers[buffer][range].to_vec();
        self.wire.borrow_mut().sent.push(Sent { to, from: local, payload });
        Ok(())
    }

    fn buffer(&self, index: usize) -> &[u8] {
        &self.buffers[self.arrivals[index].buffer]
    }

    fn send_emitted(
        &mut self,
        path: ReturnPath,
        length: usize,
        to: SocketAddrV4,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        let mut payload = vec![0; length];
        emit(&mut payload);
        self.wire.borrow_mut().sent.push(Sent { to, from: path.local, payload });
        Ok(())
    }

    fn path_from(&self, local: Ipv4Addr, _: Option<u16>) -> Option<ReturnPath> {
        Some(ReturnPath { socket: 0, local })
    }

    /// There is no device here.
    fn watch(&mut self, _: Option<OwnedFd>) {}

    fn is_readable(&self) -> bool {
        false
    }

    fn send_queued(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_losses(&mut self) -> Losses {
        Losses::default()
    }

    fn overflowed(&mut self) -> u64 {
        std::mem::take(&mut self.wire.borrow_mut().overflowed)
    }

    fn end_receives(&mut self) -> io::Result<()> {
        self.deaf = true;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
