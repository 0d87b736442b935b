//! Why a payload was dropped, and the counters of a shard.
//!
//! A [`DropReason`] is the error type of the whole core and the key of a counter at once, so no
//! early exit can be silent. Nothing here formats or logs: the per-packet path only counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handoff::histogram::Histogram;
use crate::ip::flow::Truncated;
use crate::ip::icmp::IcmpRefusal;
use crate::ip::ipv6::WalkError;

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident: $(
        $(#[doc = $doc:literal])* $variant:ident = $text:literal $(=> $concern:ident: $advice:literal)?,
    )*) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }

        impl $name {
            /// Every value, in the order of their counters.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The stable name, as it stands in statistics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// What is counted: a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => concat!($($doc),*),)* }
            }

            /// What it means to an operator, and what to do.
            pub const fn advice(self) -> Option<$crate::handoff::stats::Advice> {
                let mut _advice = None;
                match self {
                    $($name::$variant => {
                        $(_advice = Some($crate::handoff::stats::Advice {
                            concern: $crate::handoff::stats::Concern::$concern,
                            text: $advice,
                        });)?
                    })*
                }
                _advice
            }
        }
    };
}
pub(crate) use counters;

/// What an operator is told about a counter that rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// Whom it concerns.
    pub concern: Concern,
    /// What happened, and what to do: half a line.
    pub text: &'static str,
}

/// Whom it concerns that something was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// The operator: a limit is reached, or this machine lacks something.
    Us,
    /// The sender: nothing is wrong here, and anybody can send such requests at any time.
    Sender,
}

counters! {
/// Why a payload, or a part of one, got no answer (PROTOCOL.md, the section in each line).
DropReason:
    /// Section 2: a payload of no octets.
    Empty = "empty" => Sender:
        "payloads without content; they are no requests, and nothing is to be done here",
    /// Section 2: a message of a format other than 3, 4 and 6.
    UnknownFormat = "unknown_format" => Sender:
        "payloads that are not of this protocol; nothing is to be done here",
    /// Section 2: a handoff message runs past the end of the payload.
    MessageTruncated = "message_truncated" => Sender:
        "messages that are cut off; the sender is to be mended",
    /// Section 2: type 1 with other content than the protocol identifier.
    BadIdentifier = "bad_identifier" => Sender:
        "another protocol or version; nothing is to be done here",
    /// Section 2: type 7 whose length is not 16 units.
    BadEntryLength = "bad_entry_length" => Sender:
        "entries of a wrong length; the sender is to be mended",
    /// Section 2: type 8 whose length is not 1 unit.
    BadHintLength = "bad_hint_length" => Sender:
        "port hints of a wrong length; the sender is to be mended",
    /// Section 2: the embedded packet is shorter than its own header says, or has no whole header.
    PacketTruncated = "packet_truncated" => Sender:
        "embedded packets that are cut off; see whether the path cuts datagrams",
    /// Section 3: no token.
    NoToken = "no_token" => Sender:
        "requests without a token; the sender is to be mended",
    /// Section 3: a token, and none of entry, IPv4 packet, IPv6 packet.
    NothingAsked = "nothing_asked" => Sender:
        "requests that ask nothing; the sender is to be mended",
    /// Section 3: an entry without a protocol identifier.
    NoIdentifier = "no_identifier" => Sender:
        "reports without the protocol identifier; the sender is to be mended",
    /// Section 3: an entry or an IPv6 packet without an authenticator.
    NoAuthenticator = "no_authenticator" => Sender:
        "requests without an authenticator; the sender is to be mended",
    /// Section 3: an entry before the first authenticator of a multi report.
    EntryBeforeAuthenticator = "entry_before_authenticator" => Sender:
        "multi reports in a wrong order; the sender is to be mended",
    /// Section 3: an IP packet in a multi report.
    PacketInMultiReport = "packet_in_multi_report" => Sender:
        "packets within multi reports; the sender is to be mended",
    /// Section 3: a multi report of more than 1232 octets.
    MultiReportTooLong = "multi_report_too_long" => Sender:
        "multi reports of more than 1232 octets; the sender is to be mended",
    /// Section 5: the request came from port 0.
    SourcePortZero = "source_port_zero" => Sender:
        "requests from port 0, which nobody can be answered at; nothing is to be done here",
    /// The NAT64's address is not allowed, or is denied, by configuration.
    NotAllowed = "not_allowed" => Sender:
        "NAT64s that --allow and --deny keep out; if one of yours is among them, allow it",
    /// The request was sent to a broadcast or multicast address.
    NotUnicast = "not_unicast" => Sender:
        "requests to a broadcast or multicast address; nothing is to be done here",
    /// The datagram was longer than a UDP payload can be, or was cut on its way to us.
    DatagramTruncated = "datagram_truncated" => Us:
        "datagrams longer than fits into a buffer, or damaged; see what sends them",
    /// The kernel dropped it before we saw it, mostly as the socket's queue was full.
    SocketFull = "socket_full" => Us:
        "the queue of a socket was full, as requests came faster than they are answered; give \
         more CPUs (--reactors), or raise net.core.rmem_max",
    /// Section 5: a new NAT64 that proved itself, while `--max-nat64s` are known.
    Nat64sLimit = "nat64s_limit" => Us:
        "new NAT64s wait for others to be given up, as many as --max-nat64s allows are known; raise \
         it, or say by --allow whom to serve",
    /// Section 5: the same, as its address or network has its share of `--max-nat64s`.
    Nat64sShare = "nat64s_share" => Us:
        "new NAT64s of an address or network that has its share of --max-nat64s wait for its own to \
         be given up; raise --max-nat64s if they are genuine, or say by --deny whom not to serve",
    /// Section 5: a new NAT64, while `--max-entries` are in the tables.
    EntriesLimit = "entries_limit" => Us:
        "new clients get no answer, as --max-entries entries are in the tables; raise it if there \
         is memory",
    /// Section 5: an unknown identity, dropped by attenuation.
    Attenuated = "attenuated" => Sender:
        "requests of NAT64s that have not proved themselves yet, of which only some are answered; \
         nothing is to be done here",
    /// Section 5: an unknown identity, beyond `--validation-rate`.
    ValidationRate = "validation_rate" => Us:
        "NAT64s that are not known yet wait, as more ask than --validation-rate allows; raise it \
         if they are genuine, or say by --allow whom to serve",
    /// Section 5: an unknown identity, while others that asked more often, or that were sent less,
    /// use up `--validation-rate`.
    ValidationShare = "validation_share" => Us:
        "more strangers ask than --validation-rate allows: those that ask again are first, the \
         others wait; say by --allow whom to serve",
    /// Section 5: more identities of one NAT64 than may become known.
    IdentityRate = "identity_rate" => Sender:
        "more identities of one NAT64 than may become known; nothing is to be done here",
    /// Section 6: an entry beyond `--create-rate`.
    CreateRate = "create_rate" => Us:
        "new clients of a NAT64 get no answer, as it has more than --create-rate a second; \
         raise it if they are genuine, or say by --deny whom not to serve",
    /// Section 6: a report of a conflict beyond `--create-rate`.
    ConflictRate = "conflict_rate" => Us:
        "a NAT64 reports more conflicts than --create-rate a second; see what is wrong with \
         it, or say by --deny whom not to serve",
    /// Section 6: a multi report, when one NAT64 reports more than a whole table a second.
    ReportRate = "report_rate" => Sender:
        "multi reports of more than a whole table a second; nothing is to be done here",
    /// Section 6: an entry of a multi report whose answer would make the answers longer than it.
    AnswerOctets = "answer_octets" => Sender:
        "multi reports whose answers would be longer than they are; nothing is to be done \
         here",
    /// Section 6: a reported entry with a client address that cannot be one, or a port 0; or a
    /// client packet from port 0.
    EntryInvalid = "entry_invalid" => Sender:
        "clients whose address or port cannot be one; the sender is to be mended",
    /// Section 6: no mapped port is eligible and free, and no entry can go.
    NoPort = "no_port" => Us:
        "new clients get no answer, as their NAT64 has no port left for them; raise \
         --client-share if one network holds them all, or have the NAT64 use more addresses",
    /// Section 9: a new entry or NAT64, or a conflict, that cannot be recorded now.
    JournalUnavailable = "journal_unavailable" => Us:
        "new clients get no answer, as the journal cannot be written, or the event log not \
         completed; make room on the disks of the state directory and of the log",
    /// Section 9: the same, as the journal has as many octets as it may.
    JournalFull = "journal_full" => Us:
        "new clients get no answer, as the journal grows faster than it is compacted; see which \
         NAT64 makes so many changes (--deny), and whether the event log can be written",
    /// Section 9: the same, as the event log does not take more lines now.
    LogUnavailable = "log_unavailable" => Us:
        "new clients get no answer, as the event log does not take lines as fast as they come; see \
         whether its disk is full or its reader has stopped; no line is lost",
    /// Section 9: the table is another host's that cannot be reached, or whose it is cannot be said
    /// or confirmed now.
    FleetAway = "fleet_away" => Us:
        "requests get no answer, as the table of their NAT64 is another host's that cannot be reached, \
         or as etcd does not answer; see etcd and the other hosts of the cell",
    /// Section 7: the source of a client packet cannot be a client.
    ClientAddress = "client_address" => Sender:
        "client packets from an address that no client can have; the sender is to be mended",
    /// Section 7: more than 8 extension headers.
    ExtensionHeaders = "extension_headers" => Sender:
        "client packets with more than 8 extension headers; nothing is to be done here",
    /// Section 7: a routing header with segments left.
    SegmentsLeft = "segments_left" => Sender:
        "client packets with a routing header that is not done; nothing is to be done here",
    /// Section 7: a header of the packet runs past its end.
    HeaderTruncated = "header_truncated" => Sender:
        "packets with a header that runs past their end; nothing is to be done here",
    /// Section 7: a later fragment whose first fragment is not known.
    FragmentUnknown = "fragment_unknown" => Sender:
        "later fragments whose first one was not seen; if they are many, see what the path does \
         to fragments",
    /// Section 7: a fragment of an ICMPv6 echo request.
    IcmpFragment = "icmp_fragment" => Sender:
        "echo requests in fragments, which are not answered; nothing is to be done here",
    /// Section 7: an ICMPv6 echo request whose checksum is wrong.
    EchoChecksum = "echo_checksum" => Sender:
        "echo requests with a wrong checksum; nothing is to be done here",
    /// Section 7: an ICMP or ICMPv6 error about a packet that belongs to no entry.
    IcmpErrorUnmatched = "icmp_error_unmatched" => Sender:
        "ICMP errors about packets of no entry; nothing is to be done here",
    /// Section 7: an ICMP or ICMPv6 message that asks nothing of us.
    IcmpIgnored = "icmp_ignored" => Sender:
        "ICMP messages that ask nothing; nothing is to be done here",
    /// Section 7: RFC 4443 section 2.4 or RFC 1122 section 3.2.2 forbids an ICMP error about this
    /// packet.
    IcmpForbidden = "icmp_forbidden" => Sender:
        "packets about which no ICMP error may be sent; nothing is to be done here",
    /// Section 7: beyond 100 ICMP messages of our own a second to one NAT64.
    IcmpRate = "icmp_rate" => Sender:
        "packets that would get an ICMP message, beyond 100 a second to one NAT64; nothing is to \
         be done here",
    /// Section 11: a packet of a flow that another NAT64 opened.
    FlowOfAnother = "flow_of_another" => Sender:
        "packets of connections that came by another NAT64; see whether one of the two pretends to \
         have the other's clients",
    /// Section 11: a packet to be delivered to an address that is not the service's.
    NotService = "not_service" => Us:
        "packets for an address that this host does not have on the device of --deliver; add it \
         there, as check-config --host says",
    /// Section 11: a packet of this host on the device of `--deliver` that answers no client.
    NotAnswer = "not_answer" => Sender:
        "packets of this host on the device of --deliver that are no answers, as those that look for \
         neighbours; nothing is to be done here",
    /// Section 11: an answer of this host to a client that no NAT64 has.
    ClientUnknown = "client_unknown" => Sender:
        "answers to clients that came by no NAT64 since the start; they come when the clients speak \
         again",
    /// Section 11: a packet to be translated of a client that has no address of the pool, and
    /// cannot have an entry: it came by Geneve, or its address is being recorded.
    ClientUnnamed = "client_unnamed" => Us:
        "packets to be translated of clients that have no address of the pool; make it larger \
         (--peer-pool), where pool_full counts, too",
    /// Section 11: a packet that cannot be translated, or is not to be.
    NotTranslated = "not_translated" => Sender:
        "packets that cannot be translated (RFC 7915), as those with a hop limit of 1, or fragments \
         of a ping; nothing is to be done here",
    /// Section 12: a frame whose headers or options run past its end.
    FrameTruncated = "frame_truncated" => Sender:
        "frames of Geneve that are cut off; see whether the path cuts datagrams",
    /// Section 12: a frame of another version of Geneve, a control packet, or with an option that
    /// must be understood.
    FrameNotUnderstood = "frame_not_understood" => Sender:
        "frames of Geneve that mean something else; nothing is to be done here",
    /// Section 12: a frame that has no IPv6 packet in an Ethernet frame.
    FrameNotIpv6 = "frame_not_ipv6" => Sender:
        "frames of Geneve without an IPv6 packet in Ethernet; nothing is to be done here",
    /// Section 12: a frame that is no offer, to another link-layer address than ours in its tunnel.
    FrameUnproved = "frame_unproved" => Sender:
        "frames of Geneve of gateways that have not got our answer to their offer; they offer again, and \
         nothing is to be done here",
    /// Section 12: an offer that is no right solicitation of a neighbor.
    OfferMalformed = "offer_malformed" => Sender:
        "offers of a tunnel that are no right solicitations (RFC 4861); the sender is to be mended",
    /// Section 12: an offer that is shorter than its answer.
    OfferShort = "offer_short" => Sender:
        "offers of a tunnel that are shorter than an answer would be; the sender is to be mended",
    /// Section 7: a packet to be returned had no time to live left.
    TtlExpired = "ttl_expired" => Sender:
        "packets to be returned whose time to live is over; see whether there is a loop of routes",
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
    /// Requests passed on to the host of the fleet that has the table.
    PassedOn = "passed_on",
    /// Validation packets sent.
    ValidationPackets = "validation_packets",
    /// Identities that became known, by proof or by rotation.
    IdentitiesLearned = "identities_learned",
    /// Known identities that made room for others.
    IdentitiesForgotten = "identities_forgotten",
    /// Tables initialized.
    Initialized = "initialized",
    /// Tables given up.
    Forgotten = "forgotten" => Us:
        "NAT64s without a live connection were given up for others, as --max-nat64s is reached; raise \
         it if there is memory, or say by --allow whom to serve",
    /// Tables given up because an operator wanted that.
    TablesDropped = "tables_dropped",
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
    /// Packets of banned clients, answered with an ICMPv6 error.
    Banned = "banned",
    /// Requests about banned clients, answered so that the NAT64 alone hears it: reports, packets
    /// of services, errors, and packets of clients beyond 50 ICMPv6 errors a second to one NAT64.
    BannedQuietly = "banned_quietly",
    /// Packets of clients that were delivered on this host (`--deliver`).
    Delivered = "delivered",
    /// Offers of a tunnel of Geneve that were answered (`--geneve`).
    OffersAnswered = "offers_answered",
    /// Packets of this host that went to clients so.
    Answered = "answered",
    /// Times that these began to wait, as a send queue was full; then no more are taken from the
    /// device.
    AnswersHeld = "answers_held",
    /// Packets that the device of `--deliver` did not take, or that it is gone.
    DeviceErrors = "device_errors" => Us:
        "the device of --deliver does not take packets; see whether it is there and up (ip link)",
    /// Replies handed to the kernel.
    Replies = "replies",
    /// Replies that the kernel refused (send buffer full, no route).
    SendErrors = "send_errors" => Us:
        "the kernel refused to send answers; see whether there are routes to all NAT64s, and \
         whether a firewall here drops what goes out",
    /// Entries whose clients have no name as a peer (`--peer-names`), as there was no room.
    Unnamed = "unnamed" => Us:
        "clients are not named to programs on this host, as the map of names is full: attach a larger \
         one by peer-names attach --names-max",
    /// Addresses of the pool that were given to clients (`--peer-names ipv4`).
    PoolNamed = "pool_named",
    /// Addresses of the pool that were taken back from clients without entries.
    PoolUnnamed = "pool_unnamed",
    /// Entries whose clients have no address of the pool (`--peer-names ipv4`), as none was left,
    /// and packets that were not translated for that (`--deliver translate`).
    PoolFull = "pool_full" => Us:
        "clients have no IPv4 address of their own, as none of the pool is left, and are known by their NAT64's: \
         choose a larger --peer-pool",
    /// The same, as those who came through the same NAT64 have their share, and most are given.
    PoolShare = "pool_share" => Us:
        "clients have no IPv4 address of their own, as most of the pool is given, and their NAT64 or /64 has its \
         share: choose a larger --peer-pool, or say by --deny whom not to serve",
    /// The same, as another reactor was giving them one at that time.
    PoolUnrecorded = "pool_unrecorded",
    /// Times that the event log was so far behind that new clients had to wait for it.
    LogQueueWaits = "log_queue_waits" => Us:
        "the event log was too far behind to take more; see what is slow about the disk or the \
         program that it goes to",
}

/// Of this many batches, one is timed: to read the clock again costs as much as half a request.
pub const TIMED_EVERY: u32 = 16;

/// The counters of one shard: written by its reactor alone, read by anyone.
#[derive(Debug)]
pub struct Stats {
    drops: [AtomicU64; DropReason::ALL.len()],
    counters: [AtomicU64; Counter::ALL.len()],
    /// Datagrams of a batch.
    pub batch_sizes: Histogram,
    /// Nanoseconds from when a batch was received until its answers were handed to the kernel,
    /// without those that wait for the disk; of some batches.
    pub batch_nanos: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
            counters: [const { AtomicU64::new(0) }; Counter::ALL.len()],
            batch_sizes: Histogram::default(),
            batch_nanos: Histogram::default(),
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
    fn every_drop_has_its_advice() {
        for reason in DropReason::ALL {
            let advice = reason.advice().unwrap_or_else(|| panic!("{}", reason.name())).text;
            let (happened, next) = advice.split_once([';', ',']).unwrap_or_default();
            assert!(happened.len() > 5 && next.len() > 5, "what happened; what to do: {advice}");
            assert!(!advice.contains("  ") && !advice.ends_with('.'), "{advice}");
        }
        let known: Vec<_> = Counter::ALL.iter().filter_map(|counter| counter.advice()).collect();
        assert!(
            known.iter().all(|advice| advice.concern == Concern::Us),
            "not a drop of a request"
        );
        assert_eq!(DropReason::SocketFull.advice().unwrap().concern, Concern::Us);
        assert_eq!(DropReason::Empty.advice().unwrap().concern, Concern::Sender);
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
