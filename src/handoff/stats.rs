//! Why a payload was dropped, and the counters of a shard.
//!
//! A [`DropReason`] is the error type of the whole core and the key of a counter at once, so no
//! early exit can be silent. Nothing here formats or logs: the per-packet path only counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ip::flow::Truncated;
use crate::ip::icmp::IcmpRefusal;
use crate::ip::ipv6::WalkError;

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident: $($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of their counters.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The stable name, as it stands in statistics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(crate) use counters;

counters! {
/// Why a payload, or a part of one, got no answer (PROTOCOL.md, the section in each line).
DropReason:
    /// Section 2: a payload of no octets.
    Empty = "empty",
    /// Section 2: a message of a format other than 3, 4 and 6.
    UnknownFormat = "unknown_format",
    /// Section 2: a handoff message runs past the end of the payload.
    MessageTruncated = "message_truncated",
    /// Section 2: type 1 with other content than the protocol identifier.
    BadIdentifier = "bad_identifier",
    /// Section 2: type 7 whose length is not 16 units.
    BadEntryLength = "bad_entry_length",
    /// Section 2: type 8 whose length is not 1 unit.
    BadHintLength = "bad_hint_length",
    /// Section 2: the embedded packet is shorter than its own header says, or has no whole header.
    PacketTruncated = "packet_truncated",
    /// Section 3: no token.
    NoToken = "no_token",
    /// Section 3: a token, and none of entry, IPv4 packet, IPv6 packet.
    NothingAsked = "nothing_asked",
    /// Section 3: an entry without a protocol identifier.
    NoIdentifier = "no_identifier",
    /// Section 3: an entry or an IPv6 packet without an authenticator.
    NoAuthenticator = "no_authenticator",
    /// Section 3: an entry before the first authenticator of a multi report.
    EntryBeforeAuthenticator = "entry_before_authenticator",
    /// Section 3: an IP packet in a multi report.
    PacketInMultiReport = "packet_in_multi_report",
    /// Section 3: a multi report of more than 1232 octets.
    MultiReportTooLong = "multi_report_too_long",
    /// Section 5: the request came from port 0.
    SourcePortZero = "source_port_zero",
    /// The NAT64's address is not allowed, or is denied, by configuration.
    NotAllowed = "not_allowed",
    /// The request was sent to a broadcast or multicast address.
    NotUnicast = "not_unicast",
    /// The datagram was longer than a UDP payload can be, or was cut on its way to us.
    DatagramTruncated = "datagram_truncated",
    /// The kernel dropped it before we saw it, mostly as the socket's queue was full.
    SocketFull = "socket_full",
    /// Section 5: a new NAT64, while `--max-nat64s` are known.
    Nat64sLimit = "nat64s_limit",
    /// Section 5: a new NAT64, while `--max-entries` are in the tables.
    EntriesLimit = "entries_limit",
    /// Section 5: an unknown identity, dropped by attenuation.
    Attenuated = "attenuated",
    /// Section 5: an unknown identity, beyond `--validation-rate`.
    ValidationRate = "validation_rate",
    /// Section 6: a reported entry with a client address that cannot be one, or a port 0; or a
    /// client packet from port 0.
    EntryInvalid = "entry_invalid",
    /// Section 6: no mapped port is eligible and free, and no entry can go.
    NoPort = "no_port",
    /// Section 9: a new entry or NAT64, or a conflict, that cannot be recorded now.
    JournalUnavailable = "journal_unavailable",
    /// Section 7: the source of a client packet cannot be a client.
    ClientAddress = "client_address",
    /// Section 7: more than 8 extension headers.
    ExtensionHeaders = "extension_headers",
    /// Section 7: a routing header with segments left.
    SegmentsLeft = "segments_left",
    /// Section 7: a header of the packet runs past its end.
    HeaderTruncated = "header_truncated",
    /// Section 7: a later fragment whose first fragment is not known.
    FragmentUnknown = "fragment_unknown",
    /// Section 7: a fragment of an ICMPv6 echo request.
    IcmpFragment = "icmp_fragment",
    /// Section 7: an ICMPv6 echo request whose checksum is wrong.
    EchoChecksum = "echo_checksum",
    /// Section 7: an ICMP or ICMPv6 error about a packet that belongs to no entry.
    IcmpErrorUnmatched = "icmp_error_unmatched",
    /// Section 7: an ICMP or ICMPv6 message that asks nothing of us.
    IcmpIgnored = "icmp_ignored",
    /// Section 7: RFC 4443 section 2.4 or RFC 1122 section 3.2.2 forbids an ICMP error about this
    /// packet.
    IcmpForbidden = "icmp_forbidden",
    /// Section 7: beyond 100 ICMP messages of our own a second to one NAT64.
    IcmpRate = "icmp_rate",
    /// Section 7: a packet to be returned had no time to live left.
    TtlExpired = "ttl_expired",
}

impl From<WalkError> for DropReason {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::TooMany => DropReason::ExtensionHeaders,
            WalkError::SegmentsLeft { .. } => DropReason::SegmentsLeft,
            WalkError::Truncated => DropReason::HeaderTruncated,
        }
    }
}

impl From<Truncated> for DropReason {
    fn from(_: Truncated) -> Self {
        DropReason::HeaderTruncated
    }
}

impl From<IcmpRefusal> for DropReason {
    fn from(refusal: IcmpRefusal) -> Self {
        match refusal {
            IcmpRefusal::Truncated => DropReason::HeaderTruncated,
            IcmpRefusal::Checksum => DropReason::EchoChecksum,
            IcmpRefusal::Forbidden => DropReason::IcmpForbidden,
        }
    }
}

counters! {
/// What else a shard counts.
Counter:
    /// Datagrams received.
    Datagrams = "datagrams",
    /// Client packets of known NAT64s.
    ClientPackets = "client_packets",
    /// Service packets of known NAT64s.
    ServicePackets = "service_packets",
    /// Reports of known NAT64s.
    Reports = "reports",
    /// Multi reports of known NAT64s.
    MultiReports = "multi_reports",
    /// Validation packets sent.
    ValidationPackets = "validation_packets",
    /// Identities that became known, by proof or by rotation.
    IdentitiesLearned = "identities_learned",
    /// Known identities that made room for others.
    IdentitiesForgotten = "identities_forgotten",
    /// Tables initialized.
    Initialized = "initialized",
    /// Entries created.
    Created = "created",
    /// Entries deleted.
    Deleted = "deleted",
    /// Authenticators of clients, new or replaced.
    AuthenticatorsLearned = "authenticators_learned",
    /// Entries whose use was recorded, as they had not been used for some time.
    EntriesUsed = "entries_used",
    /// Conflicting reports.
    Conflicts = "conflicts",
    /// Replies handed to the kernel.
    Replies = "replies",
    /// Replies that the kernel refused (send buffer full, no route).
    SendErrors = "send_errors",
    /// Times that a reactor waited because the queue to the event log was full.
    LogQueueWaits = "log_queue_waits",
}

/// The counters of one shard: written by its reactor alone, read by anyone.
#[derive(Debug)]
pub struct Stats {
    drops: [AtomicU64; DropReason::ALL.len()],
    counters: [AtomicU64; Counter::ALL.len()],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
            counters: [const { AtomicU64::new(0) }; Counter::ALL.len()],
        }
    }
}

impl Stats {
    /// Counts one drop.
    pub fn count_drop(&self, reason: DropReason) {
        bump(&self.drops[reason as usize], 1);
    }

    /// Counts `n` drops at once.
    pub fn count_drops(&self, reason: DropReason, n: u64) {
        bump(&self.drops[reason as usize], n);
    }

    /// Adds `n` to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        bump(&self.counters[counter as usize], n);
    }

    /// How often `reason` was counted.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// The sum of all drops.
    pub fn dropped_all(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum()
    }

    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

/// One writer, so a plain load and store suffice: no locked instruction on the packet path.
fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_under_its_own_name() {
        let stats = Stats::default();
        stats.count_drop(DropReason::NoToken);
        stats.count_drop(DropReason::NoToken);
        stats.add(Counter::Replies, 3);
        assert_eq!(stats.dropped(DropReason::NoToken), 2);
        assert_eq!(stats.dropped(DropReason::Empty), 0);
        assert_eq!(stats.dropped_all(), 2);
        assert_eq!(stats.get(Counter::Replies), 3);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.extend(Counter::ALL.iter().map(|counter| counter.name()));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
