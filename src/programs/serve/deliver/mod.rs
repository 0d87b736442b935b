//! [`Deliverer`]: packets between a reactor and this host's own network stack, through a queue of a
//! TUN device (PROTOCOL.md section 11).
//!
//! Client packets go in, joined into super-packets where they are of one flow; what the host
//! answers comes out, and goes to the NAT64s as payloads of its segments. Which packets these are,
//! and where answers go, [`HostDelivery`] says. Nothing is copied on the way in, and once on the
//! way out.
//!
#![doc = include_str!("../../../DELIVERY.md")]

mod follow;
mod host;
mod keep;
mod setup;

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::handoff::delivery::{AnswerPath, DeliveredFlow, HostDelivery};
use crate::handoff::message::{MESSAGE_DATA_MAX, MESSAGE_HEADER, message_type, write_before};
use crate::handoff::rate::Rate;
use crate::handoff::server::DeliveredPacket;
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::ip::flow::{self, Class};
use crate::ip::icmp;
use crate::ip::ipv6::Ipv6;
use crate::ip::joined::{JOINED_MAX, join_each};
use crate::ip::offload::{OFFLOAD_HEADER, Offload};
use crate::ip::segments::Pieces;
use crate::kernel::backend::Backend;
use crate::kernel::tun_queue::{DevicePacket, PARTS_MAX, TunQueue};

pub use host::{HostReport, HostUser};
pub use keep::RoutesKeeping;
pub use setup::{DeliveryError, DeliverySetup, host_troubles};

/// The most packets that are taken from the device in one turn, so that requests do not wait for
/// long.
const ANSWERS_MAX: usize = 64;
/// The longest packet of a device, and what stands before it.
const BUFFER: usize = OFFLOAD_HEADER + 40 + 65_536;

const _: () = assert!(JOINED_MAX + 2 <= PARTS_MAX);

/// A reactor's end of the device.
pub struct Deliverer {
    queue: TunQueue,
    delivery: Arc<HostDelivery>,
    stats: Arc<Stats>,
    buffer: Box<[u8]>,
    authenticator: Box<[u8; MESSAGE_DATA_MAX]>,
    /// The ICMPv6 errors that the host is sent.
    icmp_rate: Rate,
    /// The device cannot be read any more.
    gone: bool,
}

impl Deliverer {
    pub fn new(queue: TunQueue, delivery: Arc<HostDelivery>, stats: Arc<Stats>) -> Self {
        Self {
            queue,
            delivery,
            stats,
            buffer: vec![0; BUFFER].into(),
            authenticator: Box::new([0; MESSAGE_DATA_MAX]),
            icmp_rate: Rate::default(),
            gone: false,
        }
    }

    /// A turn of `backend` is to end when the host answers.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn watch(&self, backend: &mut impl Backend) -> io::Result<()> {
        backend.watch(Some(self.queue.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    /// Gives the host what is `delivered`, of the batch that `backend` holds.
    pub fn deliver(&mut self, backend: &impl Backend, delivered: &[DeliveredPacket]) {
        let packets = delivered
            .iter()
            .map(|DeliveredPacket { datagram, range }| &backend.buffer(*datagram)[range.clone()]);
        let udp = self.queue.takes_udp_segments();
        join_each(packets, udp, |offload, front, rest| self.write(offload, front, rest));
    }

    fn write(&self, offload: &Offload, front: &[u8], rest: &[&[u8]]) {
        // What the host does not take is lost, as on any link: the device is down, or full.
        if self.queue.send(offload, front, rest.iter().copied()).is_err() {
            self.stats.add(Counter::DeviceErrors, 1);
        }
    }

    /// Sends what the host answers, as far as it is there.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn answer(&mut self, backend: &mut impl Backend, now: Duration) -> io::Result<()> {
        for _ in 0..ANSWERS_MAX {
            if self.gone {
                break;
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let outcome = match self.queue.receive(&mut buffer) {
                Ok(Some(packet)) => self.send(packet, backend, now).map(|()| true),
                Ok(None) => Ok(false),
                Err(_) => {
                    // Its end is waited for by nobody: it would be told again and again.
                    self.gone = true;
                    self.stats.add(Counter::DeviceErrors, 1);
                    backend.watch(None);
                    Ok(false)
                }
            };
            self.buffer = buffer;
            if !outcome? {
                break;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        received: DevicePacket<'_>,
        backend: &mut impl Backend,
        now: Duration,
    ) -> io::Result<()> {
        let DevicePacket { offload, packet } = received;
        let (Ok(offload), Some(flow)) = (offload, self.flow_of(packet)) else {
            self.stats.count_drop(DropReason::NotAnswer);
            return Ok(());
        };
        let second = now.as_secs() as u32;
        let route = self.delivery.routes.answer(&flow, second, &mut self.authenticator);
        let route = route.and_then(|(AnswerPath { table, port }, authenticator)| {
            Some((backend.path_from(table.local)?, table.nat64, port, authenticator))
        });
        let Some((path, nat64, port, authenticator)) = route else {
            self.stats.count_drop(DropReason::ClientUnknown);
            self.refuse(packet, now);
            return Ok(());
        };
        let to = SocketAddrV4::new(nat64, port.0);
        let front = MESSAGE_HEADER + authenticator.len();
        let Some(mut pieces) = Pieces::of(packet, &offload) else {
            self.stats.count_drop(DropReason::NotAnswer);
            return Ok(());
        };
        while let Some(length) = pieces.next_length() {
            self.stats.add(Counter::Answered, 1);
            backend.send_emitted(path, front + length, to, |out| {
                write_before(out, front, message_type::AUTHENTICATOR, authenticator);
                pieces.next_piece(&mut out[front..]);
            })?;
        }
        Ok(())
    }

    /// The flow that a packet of this host is of. `None` where it does not come from a service
    /// that clients have behind a NAT64.
    fn flow_of(&self, packet: &[u8]) -> Option<DeliveredFlow> {
        let view = Ipv6::whole(packet)?;
        let (service, client) = (view.source(), view.destination());
        if !self.delivery.is_service(service) || !self.delivery.can_be_client(client) {
            return None;
        }
        let walk = view.walk().ok()?;
        let (service_port, client_port) = match flow::classify_ipv6(view, &walk).ok()? {
            Class::Ports { source_port, destination_port, .. } => (source_port, destination_port),
            _ => (0, 0),
        };
        Some(DeliveredFlow { service, client, protocol: walk.protocol, service_port, client_port })
    }

    /// Tells the host that nobody has the client that a packet is for.
    fn refuse(&mut self, packet: &[u8], now: Duration) {
        let error = Ipv6::whole(packet).and_then(|about| icmp::address_unreachable(about).ok());
        if let Some(error) = error.filter(|_| self.icmp_rate.take_icmp(now).is_ok()) {
            let (front, quoted) = error.parts();
            self.write(&Offload::default(), front, &[quoted]);
        }
    }
}
