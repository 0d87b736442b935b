//! [`Deliverer`]: packets between a reactor and this host's own network stack, through a queue of a
//! TUN device (PROTOCOL.md section 11).
//!
//! Client packets go in, joined into super-packets where they are of one flow; what the host
//! answers comes out, and goes to the NAT64s as payloads of its segments. Which packets these are,
//! and where answers go, [`HostDelivery`] says. Nothing is copied on the way in, and once on the
//! way out.
//!
#![doc = include_str!("../../../DELIVERY.md")]

mod again;
mod follow;
mod held;
mod host;
mod keep;
mod setup;
mod translate;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter};

use crate::handoff::delivery::{AnswerPath, DeliveredFlow, HostDelivery, Tunnel};
use crate::handoff::message::{MESSAGE_DATA_MAX, MESSAGE_HEADER, message_type, write_before};
use crate::handoff::rate::Rate;
use crate::handoff::server::{DeliveredPacket, Translated};
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::ip::flow::{self, Class};
use crate::ip::geneve::{GENEVE_PORT, PLAIN_FRONT};
use crate::ip::icmp::{self, IcmpError};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::ip::joined::{JOINED_MAX, join_each};
use crate::ip::offload::{OFFLOAD_HEADER, Offload, OffloadMalformed};
use crate::ip::segments::Pieces;
use crate::kernel::backend::{Backend, ReturnPath};
use crate::kernel::tun_queue::{DevicePacket, PARTS_MAX, TunQueue};
use crate::nat64::translate::{Packets, Refused, ipv4_error};

use again::DeviceAgain;
use held::HeldPackets;
pub use translate::Translator;
use translate::{GROWTH, NotAnAnswer};

pub use host::{HostReport, HostUser, StepCommand, firewall_lines, removal};
pub use keep::RoutesKeeping;
pub use setup::{DeliveryError, DeliverySetup, host_troubles};

/// The most packets that are taken from the device in one turn, so that requests do not wait for
/// long.
const ANSWERS_MAX: usize = 64;
/// Where a packet of the device stands in its buffer, so that it can grow.
const PACKET: usize = GROWTH + OFFLOAD_HEADER;
/// The longest packet of a device, and what stands before it.
const BUFFER: usize = PACKET + 40 + 65_536;
/// That nobody has a client, in IPv4.
const HOST_UNREACHABLE: IcmpError =
    IcmpError { kind: icmp::v4::UNREACHABLE, code: icmp::v4::HOST, word: 0 };

// An offload header, a front in two parts, and data.
const _: () = assert!(JOINED_MAX + 3 <= PARTS_MAX);

/// A reactor's end of the device.
pub struct Deliverer {
    host: HostQueue,
    delivery: Arc<HostDelivery>,
    /// `None`: nothing is translated.
    translator: Option<Translator>,
    /// What is to be translated when its client's address is recorded.
    held: HeldPackets,
    buffer: Box<[u8]>,
    authenticator: Box<[u8; MESSAGE_DATA_MAX]>,
    /// The ICMP errors that the host is sent.
    icmp_rate: Rate,
    /// The device cannot be read any more.
    gone: bool,
    again: Arc<DeviceAgain>,
}

/// The host, which packets are given to.
struct HostQueue {
    queue: TunQueue,
    stats: Arc<Stats>,
}

impl HostQueue {
    fn write<'a>(
        &self,
        offload: &Offload,
        front: &'a [u8],
        rest: impl IntoIterator<Item = &'a [u8]>,
    ) {
        // What the host does not take is lost, as on any link: the device is down, or full.
        if self.queue.send(offload, front, rest).is_err() {
            self.stats.add(Counter::DeviceErrors, 1);
        }
    }
}

/// Where answers to a client go.
struct AnswerWay<'a> {
    path: ReturnPath,
    to: SocketAddrV4,
    front: AnswerFront<'a>,
    /// From where the client expects them.
    service: Ipv6Addr,
}

/// What stands before an answer.
enum AnswerFront<'a> {
    Authenticator(&'a [u8]),
    /// The headers of a frame.
    Frame([u8; PLAIN_FRONT]),
}

impl AnswerFront<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Authenticator(authenticator) => MESSAGE_HEADER + authenticator.len(),
            Self::Frame(headers) => headers.len(),
        }
    }

    /// Writes it to the start of `out`.
    fn write(&self, out: &mut [u8]) {
        match self {
            Self::Authenticator(authenticator) => {
                write_before(out, self.length(), message_type::AUTHENTICATOR, authenticator);
            }
            Self::Frame(headers) => out[..PLAIN_FRONT].copy_from_slice(headers),
        }
    }
}

impl AnswerWay<'_> {
    /// Sends a packet of `length` octets that `emit` writes.
    fn send(
        &self,
        backend: &mut impl Backend,
        length: usize,
        emit: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        let front = self.front.length();
        backend.send_answer(self.path, front + length, self.to, |out| {
            self.front.write(out);
            emit(&mut out[front..]);
        })
    }

    /// Sends what a packet of the device stands for.
    fn send_all(
        &self,
        backend: &mut impl Backend,
        mut pieces: Pieces<'_>,
        stats: &Stats,
    ) -> io::Result<()> {
        while let Some(length) = pieces.next_length() {
            stats.add(Counter::Answered, 1);
            self.send(backend, length, |out| {
                pieces.next_piece(out);
            })?;
        }
        Ok(())
    }
}

impl Deliverer {
    pub fn new(
        queue: TunQueue,
        delivery: Arc<HostDelivery>,
        translator: Option<Translator>,
        stats: Arc<Stats>,
        again: Arc<DeviceAgain>,
    ) -> Self {
        Self {
            host: HostQueue { queue, stats },
            delivery,
            translator,
            held: HeldPackets::default(),
            buffer: vec![0; BUFFER].into(),
            authenticator: Box::new([0; MESSAGE_DATA_MAX]),
            icmp_rate: Rate::default(),
            gone: false,
            again,
        }
    }

    /// Whether gateways may have tunnels of Geneve to here.
    pub fn has_tunnels(&self) -> bool {
        self.delivery.geneve.is_some()
    }

    /// A turn of `backend` is to end when the host answers.
    ///
    /// # Errors
    /// Where the process may not open another descriptor.
    pub fn watch(&self, backend: &mut impl Backend) -> io::Result<()> {
        backend.watch(Some(self.host.queue.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    /// Goes on with the device that is there again, if it was gone.
    ///
    /// # Errors
    /// As [`Deliverer::watch`].
    #[inline]
    pub fn go_on(&mut self, backend: &mut impl Backend) -> io::Result<()> {
        if self.gone
            && let Some(queue) = self.again.take()
        {
            self.host.queue = queue;
            self.gone = false;
            self.watch(backend)?;
        }
        Ok(())
    }

    /// Gives the host what is `delivered`, of the batch that `backend` holds, client by client. A
    /// packet that is to be translated, and whose client has no address yet, waits for that to be
    /// recorded, if it `waits_for` a record.
    pub fn deliver(
        &mut self,
        backend: &impl Backend,
        delivered: &mut [DeliveredPacket],
        now: Duration,
        waits_for: Option<u64>,
    ) {
        // What is one client's is written together, in the order in which it came.
        if !delivered.is_sorted_by_key(|packet| packet.translated) {
            delivered.sort_unstable_by_key(|packet| {
                (packet.translated, packet.datagram, packet.range.start)
            });
        }
        for alike in delivered.chunk_by(|one, next| one.translated == next.translated) {
            let packets = alike.iter().map(|DeliveredPacket { datagram, range, .. }| {
                &backend.buffer(*datagram)[range.clone()]
            });
            let Some(translated) = alike[0].translated else {
                let Self { host, .. } = self;
                let udp = host.queue.takes_udp_segments();
                join_each(packets, udp, |offload, front, rest| {
                    host.write(offload, front, rest.iter().copied());
                });
                continue;
            };
            if let Some(packets) = self.translate(translated, packets, now) {
                for packet in packets {
                    if !self.held.hold(waits_for, translated, packet) {
                        self.host.stats.count_drop(DropReason::ClientUnnamed);
                    }
                }
            }
        }
    }

    /// Gives the host what waited for records up to this one.
    pub fn release(&mut self, durable: u64, now: Duration) {
        while let Some((translated, packet)) = self.held.next(durable) {
            if self.translate(translated, std::iter::once(&*packet), now).is_some() {
                self.host.stats.count_drop(DropReason::ClientUnnamed);
            }
        }
    }

    /// What waits will never be recorded.
    pub fn drop_held(&mut self) {
        self.host.stats.count_drops(DropReason::ClientUnnamed, self.held.give_up());
    }

    /// Gives the host packets of a client as IPv4. Returns them where the client has no address.
    fn translate<'a, P: Iterator<Item = &'a [u8]>>(
        &mut self,
        Translated { client, table }: Translated,
        packets: P,
        now: Duration,
    ) -> Option<P> {
        let Self { host, translator, .. } = self;
        let translator = translator.as_mut()?;
        let Some(address) = translator.address_of(client, now) else { return Some(packets) };
        let udp = host.queue.takes_udp_segments();
        let refused = translator.give_host(
            address,
            table.local,
            packets,
            udp,
            |offload, [front, more], data| {
                host.write(offload, front, iter::once(more).chain(data.iter().copied()));
            },
        );
        host.stats.count_drops(DropReason::NotTranslated, refused);
        None
    }

    /// Sends what the host answers, as far as it is there.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn answer(&mut self, backend: &mut impl Backend, now: Duration) -> io::Result<()> {
        for _ in 0..ANSWERS_MAX {
            // What the link does not take now waits in the device, as on any link.
            if self.gone || !backend.takes_answers() {
                break;
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let outcome = match self.host.queue.receive(&mut buffer[GROWTH..]) {
                Ok(Some(DevicePacket { offload, packet })) => {
                    let end = PACKET + packet.len();
                    self.send(offload, &mut buffer[..end], backend, now).map(|()| true)
                }
                Ok(None) => Ok(false),
                Err(_) => {
                    // Its end is waited for by nobody: it would be told again and again.
                    self.gone = true;
                    self.again.lost();
                    self.host.stats.add(Counter::DeviceErrors, 1);
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

    /// Sends the packet that `buffer` ends with, from [`PACKET`] on.
    fn send(
        &mut self,
        offload: Result<Offload, OffloadMalformed>,
        buffer: &mut [u8],
        backend: &mut impl Backend,
        now: Duration,
    ) -> io::Result<()> {
        let outcome = match (offload, buffer.get(PACKET).map(|octet| octet >> 4)) {
            (Ok(offload), Some(6)) => {
                self.send_native(&offload, &buffer[PACKET..], backend, now)?
            }
            (Ok(offload), Some(4)) => self.send_translated(&offload, buffer, backend, now)?,
            _ => Err(DropReason::NotAnswer),
        };
        if let Err(reason) = outcome {
            self.host.stats.count_drop(reason);
        }
        Ok(())
    }

    fn send_native(
        &mut self,
        offload: &Offload,
        packet: &[u8],
        backend: &mut impl Backend,
        now: Duration,
    ) -> io::Result<Result<(), DropReason>> {
        let Some(flow) = self.flow_of(packet) else { return Ok(Err(DropReason::NotAnswer)) };
        let Self { delivery, authenticator, host, .. } = self;
        let Some(way) = way(delivery, &flow, now, authenticator, backend) else {
            self.refuse(packet, now);
            return Ok(Err(DropReason::ClientUnknown));
        };
        let Some(pieces) = Pieces::of(packet, offload) else {
            return Ok(Err(DropReason::NotAnswer));
        };
        way.send_all(backend, pieces, &host.stats).map(Ok)
    }

    /// Sends the packet that `buffer` ends with as IPv6.
    fn send_translated(
        &mut self,
        offload: &Offload,
        buffer: &mut [u8],
        backend: &mut impl Backend,
        now: Duration,
    ) -> io::Result<Result<(), DropReason>> {
        let Self { delivery, authenticator, host, translator, icmp_rate, .. } = self;
        let Some(translator) = translator else { return Ok(Err(DropReason::NotAnswer)) };
        let mut tell = |error: IcmpError, about: &[u8]| {
            let from = Ipv4::new(about).map_or(Ipv4Addr::UNSPECIFIED, Ipv4::destination);
            if let Some(error) = ipv4_error(error, from, about)
                && icmp_rate.take_icmp(now).is_ok()
            {
                let (front, quoted) = error.parts();
                host.write(&Offload::default(), front, [quoted]);
            }
        };
        let answer = match translator.answer_of(&buffer[PACKET..], now) {
            Ok(answer) => answer,
            Err(NotAnAnswer::Refused(Refused { error, .. })) => {
                error.into_iter().for_each(|error| tell(error, &buffer[PACKET..]));
                return Ok(Err(DropReason::NotTranslated));
            }
            Err(NotAnAnswer::NobodyHas) => {
                tell(HOST_UNREACHABLE, &buffer[PACKET..]);
                return Ok(Err(DropReason::ClientUnknown));
            }
        };
        let Some(way) = way(delivery, &answer.flow, now, authenticator, backend) else {
            tell(HOST_UNREACHABLE, &buffer[PACKET..]);
            return Ok(Err(DropReason::ClientUnknown));
        };
        let rewrite = answer.rewrite(way.service);
        if let Some((place, offload)) = translator.change_headers(buffer, PACKET, offload, &rewrite)
        {
            let Some(pieces) = Pieces::of(&buffer[place], &offload) else {
                return Ok(Err(DropReason::NotAnswer));
            };
            return way.send_all(backend, pieces, &host.stats).map(Ok);
        }
        let Some(mut pieces) = Pieces::of(&buffer[PACKET..], offload) else {
            return Ok(Err(DropReason::NotAnswer));
        };
        let each = |mut packets: Packets<'_>| {
            while let Some(packet) = packets.next_packet() {
                host.stats.add(Counter::Answered, 1);
                way.send(backend, packet.len(), |out| out.copy_from_slice(packet))?;
            }
            Ok(())
        };
        let sent = translator.in_pieces(&mut pieces, &rewrite, each, |refused, packet| {
            host.stats.count_drop(DropReason::NotTranslated);
            refused.error.into_iter().for_each(|error| tell(error, packet));
        });
        sent.map(Ok)
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
            self.host.write(&Offload::default(), front, [quoted]);
        }
    }
}

/// Where answers of a flow go, if somebody has their client.
fn way<'a>(
    delivery: &HostDelivery,
    flow: &DeliveredFlow,
    now: Duration,
    authenticator: &'a mut [u8; MESSAGE_DATA_MAX],
    backend: &impl Backend,
) -> Option<AnswerWay<'a>> {
    let second = now.as_secs() as u32;
    let (AnswerPath { table, tunnel, service }, authenticator) =
        delivery.routes.answer(flow, second, authenticator)?;
    let (from, to, front) = match tunnel {
        Tunnel::Control(port) => (None, port.0, AnswerFront::Authenticator(authenticator)),
        Tunnel::Geneve => {
            let headers = delivery.geneve.as_ref()?.front(table)?;
            (Some(GENEVE_PORT), GENEVE_PORT, AnswerFront::Frame(headers))
        }
    };
    let path = backend.path_from(table.local, from)?;
    Some(AnswerWay { path, to: SocketAddrV4::new(table.nat64, to), front, service })
}
