//! What a gateway wants its caller to write to the device and to log about servers.

use std::net::Ipv4Addr;

use super::ends::ControlEnds;
use crate::handoff::entry::TableKey;
use crate::handoff::message::IPV4_UDP_HEADERS;
use crate::ip::offload::{Offload, Segmentation};
use crate::ip::transport::Transport;

/// The most control datagrams that are written as one: what every kernel with USO takes.
pub const DATAGRAMS_MAX: usize = 64;

/// Packets, contiguous in a buffer that is reused from one input to the next, and [`Notice`]s.
#[derive(Debug)]
pub struct GatewayOutbox {
    /// Those behind `used` are of before, and stand there so that no memory is cleared for others.
    octets: Vec<u8>,
    used: usize,
    packets: Vec<OutPacket>,
    notices: Vec<Notice>,
    /// How many control datagrams may be written as one.
    datagrams_max: usize,
    /// The last packet, where it is control datagrams that clients' packets are sent in.
    open: Option<OpenDatagrams>,
}

#[derive(Debug)]
struct OutPacket {
    end: usize,
    offload: Offload,
}

/// Control datagrams to the same server that are written as one: all of equal length, but the last
/// may be shorter.
#[derive(Debug, Clone, Copy)]
struct OpenDatagrams {
    ends: ControlEnds,
    /// Where the packet starts.
    start: usize,
    /// Octets of payload in each but the last.
    size: usize,
    count: usize,
    /// The last one was shorter.
    closed: bool,
}

/// The state of a server changed, as one of the public addresses sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// That address.
    pub nat64: Ipv4Addr,
    pub server: Ipv4Addr,
    pub change: ServerChange,
}

/// The state that a server has changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerChange {
    /// It answered for the first time.
    Known,
    /// It answered again, after its host had reported that nobody listens, or it had been silent.
    Back,
    /// Its host reports that nobody listens, after it had answered.
    Down,
    /// It answers nothing any more.
    Silent,
    /// It has taken the tunnel of Geneve that it was offered.
    TunnelTaken,
    /// It answers no more in that.
    TunnelLost,
}

impl Default for GatewayOutbox {
    fn default() -> Self {
        Self {
            octets: Vec::new(),
            used: 0,
            packets: Vec::new(),
            notices: Vec::new(),
            datagrams_max: DATAGRAMS_MAX,
            open: None,
        }
    }
}

impl GatewayOutbox {
    /// One for a device that takes no super-packets of UDP.
    pub fn without_udp_segments() -> Self {
        Self { datagrams_max: 1, ..Self::default() }
    }

    /// The packets, in the order of writing.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.writes().map(|(_, packet)| packet)
    }

    /// The packets, and what is left to do about each.
    pub fn writes(&self) -> impl Iterator<Item = (&Offload, &[u8])> {
        let starts = std::iter::once(0).chain(self.packets.iter().map(|packet| packet.end));
        let write = |(start, packet): (usize, &OutPacket)| start..packet.end;
        let ranges = starts.zip(&self.packets).map(write);
        self.packets
            .iter()
            .map(|packet| &packet.offload)
            .zip(ranges.map(|range| &self.octets[range]))
    }

    /// The octets of all packets.
    pub fn length(&self) -> usize {
        self.used
    }

    /// The notices, oldest first.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Removes everything and keeps the allocations.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
        self.notices.clear();
        self.open = None;
    }

    /// Appends a packet that is the concatenation of `parts`.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        self.open = None;
        for part in parts {
            self.room(part.len()).copy_from_slice(part);
        }
        self.packets.push(OutPacket { end: self.used, offload: Offload::default() });
    }

    /// Appends a control datagram with so many octets of payload, where it can be to those of the
    /// last packet. Returns where its payload is to be written. [`Self::finish_datagrams`] is to be
    /// called behind the last one.
    pub(super) fn datagram(&mut self, ends: &ControlEnds, payload: usize) -> &mut [u8] {
        let last = self.open.filter(|open| {
            (open.ends.from, open.ends.to) == (ends.from, ends.to)
                && payload <= open.size
                && !open.closed
                && open.count < self.datagrams_max
                && self.used - open.start + payload <= usize::from(u16::MAX)
        });
        let mut open = last.unwrap_or_else(|| {
            self.finish_datagrams();
            let start = self.used;
            self.room(IPV4_UDP_HEADERS);
            self.packets.push(OutPacket { end: self.used, offload: Offload::default() });
            OpenDatagrams { ends: *ends, start, size: payload, count: 0, closed: false }
        });
        open.count += 1;
        open.closed = payload < open.size;
        self.open = Some(open);
        self.room(payload)
    }

    /// Writes the headers of the last packet, of control datagrams. More may follow.
    pub(super) fn finish_datagrams(&mut self) {
        let (Some(open), Some(packet)) = (self.open, self.packets.last_mut()) else { return };
        packet.end = self.used;
        packet.offload = Offload {
            checksum: Some(ControlEnds::CHECKSUM_LEFT),
            segments: (open.count > 1).then_some(Segmentation {
                transport: Transport::Udp,
                size: open.size as u16,
                headers: IPV4_UDP_HEADERS as u16,
                ecn: false,
            }),
        };
        let payload = self.used - open.start - IPV4_UDP_HEADERS;
        let headers = open.ends.headers(payload);
        self.octets[open.start..open.start + IPV4_UDP_HEADERS].copy_from_slice(&headers);
    }

    pub(super) fn notice(&mut self, of: TableKey, change: ServerChange) {
        self.notices.push(Notice { nat64: of.nat64, server: of.local, change });
    }

    /// So many octets more.
    fn room(&mut self, length: usize) -> &mut [u8] {
        let start = self.used;
        self.used += length;
        if self.octets.len() < self.used {
            self.octets.resize(self.used, 0);
        }
        &mut self.octets[start..self.used]
    }
}
