//! Counters of what a gateway did and dropped.

use super::Gateway;
use crate::handoff::stats::counters;
use crate::nat64::engine::{Ignored, Nat64};
use crate::nat64::translate::Refusal;

counters! {
/// Why a gateway dropped a packet. The engine's reasons are [`Ignored`], those of translation are
/// [`Refusal`].
Dropped:
    /// A packet that is not what the device says of it: its offload header.
    Offload = "offload",
    /// Neither IPv4 nor IPv6, or less than a header.
    NotIp = "not_ip",
    /// To none of the prefixes and to no public address: mostly what a kernel sends to its
    /// neighbors.
    NotOurs = "elsewhere",
    /// From a client to a public address, where no client has that port, or no TCP, UDP, nor an
    /// error about these.
    Hairpin = "hairpin",
    /// A packet that would loop forever: from a client with an address behind one of the prefixes
    /// (RFC 6146 sections 3.5 and 5.4), or from a public address to one, or an error about
    /// such a packet.
    Loop = "loop",
    /// From a client to an IPv4 address that is not one of a single host, or link-local.
    Destination = "destination",
    /// An echo request for which no identifier is free.
    NoIdentifier = "no_identifier",
    /// An echo request for which the client's /64 would have more identifiers than its share.
    EchoShare = "echo_share",
    /// An echo message, or an error about one, for which there is no mapping.
    NoEcho = "no_echo",
    /// A later fragment whose first fragment was not seen within [`super::WAITING_LIFETIME`].
    FragmentUnknown = "fragment_unknown",
    /// A later fragment that was evicted while it waited for the first: beyond
    /// [`super::WAITING_SHARER_MAX`] or [`super::WAITING_MAX`].
    FragmentsWaiting = "fragments_waiting_limit",
    /// A fragment of a control datagram that exceeds the datagram, or the number of its fragments.
    FragmentBounds = "fragment_bounds",
    /// A fragment of a control datagram that overlaps another.
    FragmentOverlap = "fragment_overlap",
    /// A control datagram that is shorter than it says, or has a wrong checksum.
    ControlChecksum = "control_checksum",
    /// A frame of Geneve that is none of a tunnel that a server has taken, or not of what it may
    /// send.
    Frame = "frame",
    /// An ICMP error about a control datagram of ours that is not a sign that nobody listens.
    ControlError = "control_error",
    /// A packet for which neither this NAT64 nor the server has an entry.
    Unmapped = "unmapped",
    /// An unsolicited packet beyond [`super::UNSOLICITED_RATE_MAX`].
    UnsolicitedRate = "unsolicited_rate",
    /// An ICMP error of our own beyond [`super::ICMP_RATE_MAX`]. Its cause is counted as well.
    IcmpRate = "icmp_rate",
}

counters! {
/// What a gateway did.
Done:
    /// Packets of clients translated to IPv4, before fragmentation. A super-packet is one.
    ToIpv4 = "to_ipv4",
    /// Packets translated to IPv6, before fragmentation. A super-packet is one.
    ToIpv6 = "to_ipv6",
    /// Super-packets translated as such, either way.
    Super = "super_packets",
    /// Packets of clients that translation refuses, sent to a server that may deliver them.
    Tunnelled = "tunnelled",
    /// Packets of clients sent by a tunnel of Geneve. A super-packet is as many as it stands for.
    Framed = "framed",
    /// Tunnels offered, and servers asked whether they are there still.
    Offers = "offers",
    /// Control payloads sent.
    Requests = "requests",
    /// Control payloads received.
    Answers = "answers",
    /// Packets sent as a server made them.
    Delivered = "delivered",
    /// ICMP and ICMPv6 errors of our own.
    Errors = "errors",
}

/// All counters of a gateway.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    done: [u64; Done::ALL.len()],
    dropped: [u64; Dropped::ALL.len()],
    refused: [u64; Refusal::ALL.len()],
    /// Counted by the engine before reboots, which reset its own counters.
    ignored_before: [u64; Ignored::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            done: [0; Done::ALL.len()],
            dropped: [0; Dropped::ALL.len()],
            refused: [0; Refusal::ALL.len()],
            ignored_before: [0; Ignored::ALL.len()],
        }
    }
}

impl Counts {
    pub(super) fn did(&mut self, done: Done) {
        self.done[done as usize] += 1;
    }

    pub(super) fn drop(&mut self, reason: Dropped) {
        self.dropped[reason as usize] += 1;
    }

    pub(super) fn drop_several(&mut self, reason: Dropped, packets: usize) {
        self.dropped[reason as usize] += packets as u64;
    }

    pub(super) fn refuse(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }

    /// Adds the counters of an engine that is about to reboot.
    pub(super) fn keep(&mut self, nat64: &Nat64) {
        for (&reason, count) in Ignored::ALL.iter().zip(&mut self.ignored_before) {
            *count += nat64.ignored(reason);
        }
    }
}

impl Gateway {
    /// How many times it did this.
    pub fn done(&self, done: Done) -> u64 {
        self.counts.done[done as usize]
    }

    /// How many packets it dropped for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.counts.dropped[reason as usize]
    }

    /// How many packets translation refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.counts.refused[reason as usize]
    }

    /// How many inputs the engine ignored for this reason, those before reboots included.
    pub fn ignored(&self, reason: Ignored) -> u64 {
        let engines = self.pool.each().map(|public| public.nat64.ignored(reason));
        engines.sum::<u64>() + self.counts.ignored_before[reason as usize]
    }

    /// All drops by name, except those that never happened.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let dropped = Dropped::ALL.iter().map(|&reason| (reason.name(), self.dropped(reason)));
        let refused = Refusal::ALL.iter().map(|&reason| (reason.name(), self.refused(reason)));
        let ignored = Ignored::ALL.iter().map(|&reason| (reason.name(), self.ignored(reason)));
        dropped.chain(refused).chain(ignored).filter(|&(_, count)| count > 0)
    }
}
