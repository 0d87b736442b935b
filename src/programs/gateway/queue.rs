//! [`GatewayQueue`]: takes packets from one queue of the device, has the gateway decide about them,
//! and writes what comes of them to the same queue.
//!
//! With several queues each has a thread, and all share the [`Gateway`]: under its lock only
//! headers are read and made; reading and writing, where the kernel passes each packet on, is most
//! of the work and goes on beside each other. The kernel keeps a flow to one queue, both ways: so
//! its packets stay in order.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{LINES_MAX, say_notice};
use crate::handoff::rate::Rate;
use crate::ip::gathered::Gathered;
use crate::ip::offload::{OFFLOAD_HEADER, Offload};
use crate::kernel::backend::Waker;
use crate::kernel::clock::Clock;
use crate::kernel::tun_queue::{DevicePacket, TunQueue};
use crate::kernel::waker::EventWaker;
use crate::nat64::gateway::{Delivered, Deliveries, Dropped, Gateway, GatewayOutbox};

/// Packets that are read before anything else is looked for.
const BATCH: usize = 64;
/// Longer than any packet with its offload header.
const BUFFER: usize = OFFLOAD_HEADER + 40 + 65_536;
/// So many octets are written at once, though more may follow.
const OUTBOX_MAX: usize = 65_536;

/// What all queues share.
pub struct SharedGateway {
    decides: Mutex<Decides>,
    /// The number of packets that the kernel did not take.
    unwritten: AtomicU64,
    /// Nothing is to be taken any more.
    over: AtomicBool,
    /// Wakes the threads of other queues than the first when it is over.
    end: EventWaker,
    /// Wakes the first queue's: there are changes to be logged.
    changes: EventWaker,
    /// Whether changes are told, and not only counted.
    tells_changes: bool,
}

struct Decides {
    gateway: Gateway,
    /// The latest time that any thread came with.
    now: Duration,
    lines: Rate,
    /// The number of lines left out because of [`LINES_MAX`].
    unsaid: u64,
}

/// The gateway, as long as no other thread has it.
pub struct Locked<'a>(MutexGuard<'a, Decides>);

impl Locked<'_> {
    pub fn gateway(&mut self) -> &mut Gateway {
        &mut self.0.gateway
    }

    /// Whether another line may be said in this second. If not, that is counted.
    pub fn may_say(&mut self, now: Duration) -> bool {
        let may = self.0.lines.take(now, LINES_MAX);
        self.0.unsaid += u64::from(!may);
        may
    }

    pub fn unsaid(&self) -> u64 {
        self.0.unsaid
    }

    /// `now`, or the later time that another thread has shown the gateway: for it, time goes on
    /// alone.
    fn not_before(&mut self, now: Duration) -> Duration {
        self.0.now = self.0.now.max(now);
        self.0.now
    }
}

impl SharedGateway {
    /// # Errors
    /// The process may not open another descriptor.
    pub fn new(gateway: Gateway, tells_changes: bool) -> io::Result<Arc<Self>> {
        let decides = Decides { gateway, now: Duration::ZERO, lines: Rate::default(), unsaid: 0 };
        Ok(Arc::new(Self {
            decides: Mutex::new(decides),
            unwritten: AtomicU64::new(0),
            over: AtomicBool::new(false),
            end: EventWaker::new()?,
            changes: EventWaker::new()?,
            tells_changes,
        }))
    }

    pub fn lock(&self) -> Locked<'_> {
        // A thread that panics ends the process.
        Locked(self.decides.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many packets the kernel did not take.
    pub fn unwritten(&self) -> u64 {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Writes a packet.
    fn write<'a>(
        &self,
        queue: &TunQueue,
        offload: &Offload,
        front: &'a [u8],
        rest: impl IntoIterator<Item = &'a [u8]>,
    ) {
        if queue.send(offload, front, rest).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is to be waited for besides packets: other queues have changes for the log.
    pub fn changes(&self) -> &EventWaker {
        &self.changes
    }

    /// The threads of other queues end.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.end.wake();
    }
}

/// One queue.
pub struct GatewayQueue {
    shared: Arc<SharedGateway>,
    queue: TunQueue,
    outbox: GatewayOutbox,
    deliveries: Deliveries,
    /// What came last, as long as another datagram may be joined with it.
    gathered: Gathered,
    buffer: Vec<u8>,
}

impl GatewayQueue {
    pub fn new(shared: &Arc<SharedGateway>, queue: TunQueue) -> Self {
        let (outbox, deliveries) = if queue.takes_udp_segments() {
            (GatewayOutbox::default(), Deliveries::default())
        } else {
            (GatewayOutbox::without_udp_segments(), Deliveries::without_udp_segments())
        };
        let (shared, gathered) = (Arc::clone(shared), Gathered::default());
        Self { shared, queue, outbox, deliveries, gathered, buffer: vec![0; BUFFER] }
    }

    /// Where packets are read.
    pub fn queue(&self) -> &TunQueue {
        &self.queue
    }

    /// Takes packets on a thread of its own, until [`SharedGateway::end`], or the device is gone.
    ///
    /// # Errors
    /// The system has no other thread.
    pub fn spawn(mut self, clock: Clock, number: usize) -> io::Result<JoinHandle<()>> {
        let run = move || {
            while !self.shared.over.load(Ordering::Relaxed) {
                // The first queue, too, finds that the device is gone, and tells why.
                let Ok(idle) = self.batch(clock.monotonic()) else { return };
                if self.shared.tells_changes && self.shared.lock().gateway().has_changes() {
                    self.shared.changes.wake();
                }
                if idle && !self.wait() {
                    return;
                }
            }
        };
        thread::Builder::new().name(format!("queue-{number}")).spawn(run)
    }

    /// Waits for packets, or for the end. Returns whether that could be.
    fn wait(&self) -> bool {
        let mut polled = [self.queue.as_fd(), self.shared.end.as_fd()]
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
        matches!(poll(&mut polled, None), Ok(_) | Err(Errno::INTR))
    }

    /// Handles up to [`BATCH`] packets. Returns whether there are no more for now.
    ///
    /// # Errors
    /// The device is gone.
    pub fn batch(&mut self, now: Duration) -> io::Result<bool> {
        let mut buffer = mem::take(&mut self.buffer);
        let mut outcome = Ok(false);
        for _ in 0..BATCH {
            match self.queue.receive(&mut buffer) {
                Ok(Some(DevicePacket { offload: Ok(offload), packet })) => {
                    self.gather(now, packet, &offload);
                }
                Ok(Some(DevicePacket { offload: Err(_), .. })) => {
                    self.shared.lock().gateway().drop(Dropped::Offload);
                }
                Ok(None) => {
                    outcome = Ok(true);
                    break;
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.take_gathered(now);
        self.empty_outbox(now);
        outcome
    }

    /// Takes a packet behind those that came before, with them where it is of the same flow.
    fn gather(&mut self, now: Duration, packet: &mut [u8], offload: &Offload) {
        if self.gathered.join(packet, offload) {
            return;
        }
        self.take_gathered(now);
        if !self.queue.takes_udp_segments() || !self.gathered.begin(packet, offload) {
            self.take(now, packet, offload);
        }
    }

    fn take_gathered(&mut self, now: Duration) {
        let mut gathered = mem::take(&mut self.gathered);
        if let Some((packet, offload)) = gathered.take() {
            self.take(now, packet, &offload);
        }
        self.gathered = gathered;
    }

    fn take(&mut self, now: Duration, packet: &mut [u8], offload: &Offload) {
        let mut locked = self.shared.lock();
        let now = locked.not_before(now);
        let gateway = locked.gateway();
        if let Some(forwarded) = gateway.forward_offloaded(now, packet, offload) {
            drop(locked);
            self.shared.write(
                &self.queue,
                &forwarded.offload,
                forwarded.headers(),
                [forwarded.rest],
            );
        } else if gateway.tunnel_offloaded(now, packet, offload, &mut self.outbox) {
            drop(locked);
            // What is joined with it may follow.
            if self.outbox.length() >= OUTBOX_MAX {
                self.empty_outbox(now);
            }
        } else if gateway.deliver_offloaded(packet, offload, &mut self.deliveries) {
            drop(locked);
            for Delivered { offload, front, parts } in self.deliveries.each() {
                let parts = parts.iter().map(|part| &packet[part.clone()]);
                self.shared.write(&self.queue, &offload, front, parts);
            }
        } else {
            gateway.in_pieces(now, packet, offload, &mut self.outbox);
            drop(locked);
            self.empty_outbox(now);
        }
    }

    /// Once a second: what is due. Only of one queue.
    pub fn tick(&mut self, now: Duration) {
        let mut locked = self.shared.lock();
        let now = locked.not_before(now);
        locked.gateway().tick(now, &mut self.outbox);
        drop(locked);
        self.empty_outbox(now);
    }

    fn empty_outbox(&mut self, now: Duration) {
        for (offload, packet) in self.outbox.writes() {
            self.shared.write(&self.queue, offload, packet, []);
        }
        if !self.outbox.notices().is_empty() {
            let mut locked = self.shared.lock();
            let named = locked.gateway().nat64s().nth(1).is_some();
            for notice in self.outbox.notices() {
                if locked.may_say(now) {
                    say_notice(notice, named);
                }
            }
        }
        self.outbox.clear();
    }
}
