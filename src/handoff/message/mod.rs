//! Control payloads: the octets of PROTOCOL.md sections 2 to 4, parsed once and written in place.
//!
//! [`parse`] turns a UDP payload into a [`Request`] that is well-formed by section 3, or into the
//! reason why it is not. A request refers to its payload by [`Span`]s and borrows nothing, so that
//! the reply can be written into the very same buffer, in front of the embedded packet. What stands
//! inside an embedded packet is not looked at here: `ip` does that.

use std::net::Ipv6Addr;

use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::stats::DropReason;
use crate::ip::address::Prefix96;
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;

/// The default handoff port (PROTOCOL.md section 1).
pub const HANDOFF_PORT: u16 = 64064;
/// Where validation packets go: the discard port (RFC 863).
pub const VALIDATION_PORT: u16 = 9;
/// The most data a message can have, in octets.
pub const MESSAGE_DATA_MAX: usize = 510;
/// The most octets in a UDP payload over IPv4.
pub const PAYLOAD_MAX: usize = 65507;
/// The most octets of a multi report (PROTOCOL.md section 3).
pub const MULTI_REPORT_MAX: usize = 1232;
/// What IPv4 and UDP put in front of a payload, in octets.
pub const IPV4_UDP_HEADERS: usize = 28;
/// The octets of a whole message of type 7.
pub const ENTRY_LENGTH: usize = 34;
/// The octets of a message's own header.
pub const MESSAGE_HEADER: usize = 2;
/// What a reply can need in front of an embedded packet: an authenticator and an entry.
pub const HEAD_ROOM: usize = MESSAGE_HEADER + MESSAGE_DATA_MAX + ENTRY_LENGTH;
/// The data of a protocol identifier message.
pub const PROTOCOL_IDENTIFIER: &[u8; 144] = b"[[ This is the NAT64 handoff protocol. The client is using IPv6. To know their real IP address you need to use this protocol or support IPv6. ]]";

const _: () = assert!(MESSAGE_DATA_MAX == 2 * u8::MAX as usize);
const _: () = assert!(PAYLOAD_MAX <= u16::MAX as usize);

/// The low nibble of a message's first octet (PROTOCOL.md section 2).
pub mod message_type {
    /// Protocol identifier.
    pub const IDENTIFIER: u8 = 1;
    /// No-op.
    pub const NO_OP: u8 = 2;
    /// Token.
    pub const TOKEN: u8 = 4;
    /// Token rotation.
    pub const ROTATION: u8 = 5;
    /// Remote IPv6 address authenticator.
    pub const AUTHENTICATOR: u8 = 6;
    /// Connection tracking entry.
    pub const ENTRY: u8 = 7;
    /// Mapped port hint.
    pub const HINT: u8 = 8;
}

/// The format of handoff messages.
pub(crate) const HANDOFF_FORMAT: u8 = 3;

impl Entry {
    /// Parses the data of a message of type 7. `None` where it has another length than an entry.
    #[inline]
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let data: &[u8; ENTRY_LENGTH - MESSAGE_HEADER] = data.try_into().ok()?;
        Some(Self {
            port: MappedPort(u16::from_be_bytes([data[0], data[1]])),
            client: Client {
                prefix: Prefix96(std::array::from_fn(|i| data[2 + i])),
                address: Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| data[14 + i])),
                port: u16::from_be_bytes([data[30], data[31]]),
            },
        })
    }

    /// The whole message, header included.
    pub fn emit(&self) -> [u8; ENTRY_LENGTH] {
        let mut out = [0; ENTRY_LENGTH];
        let Client { prefix, address, port } = &self.client;
        emit_entry(&mut out, self.port, &prefix.0, &address.octets(), *port);
        out
    }
}

/// Writes the whole message of an entry whose parts lie apart.
#[inline]
pub(crate) fn emit_entry(
    out: &mut [u8; ENTRY_LENGTH],
    mapped: MappedPort,
    prefix: &[u8; 12],
    address: &[u8; 16],
    port: u16,
) {
    out[..2].copy_from_slice(&header(message_type::ENTRY, ENTRY_LENGTH - MESSAGE_HEADER));
    out[2..4].copy_from_slice(&mapped.0.to_be_bytes());
    out[4..16].copy_from_slice(prefix);
    out[16..32].copy_from_slice(address);
    out[32..].copy_from_slice(&port.to_be_bytes());
}

/// A part of a payload: where it starts and how long it is, in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// In a payload, which has at most [`PAYLOAD_MAX`] octets.
    pub fn new(start: usize, length: usize) -> Self {
        // A payload that parses has at most PAYLOAD_MAX octets.
        Self { start: start as u16, end: (start + length) as u16 }
    }

    /// The offset of its first octet in the payload.
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// The offset behind its last octet.
    pub fn end(self) -> usize {
        self.end as usize
    }

    pub fn length(self) -> usize {
        self.end() - self.start()
    }

    /// The part of `payload`, which must be the one that was parsed.
    #[inline]
    pub fn of(self, payload: &[u8]) -> &[u8] {
        &payload[self.start()..self.end()]
    }
}

/// An embedded packet, cut to the length that its own header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// An IPv4 packet: a whole header, options included, is there.
    Ipv4(Span),
    /// An IPv6 packet: a whole fixed header is there.
    Ipv6(Span),
}

impl Embedded {
    /// Where it stands in the payload.
    pub fn span(self) -> Span {
        match self {
            Embedded::Ipv4(span) | Embedded::Ipv6(span) => span,
        }
    }
}

/// A payload that is well-formed by PROTOCOL.md section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Type 4.
    pub token: Span,
    /// Type 5: the token before a rotation.
    pub rotation: Option<Span>,
    /// Type 6, the first.
    pub authenticator: Option<Span>,
    /// What is asked.
    pub kind: RequestKind,
}

/// The four shapes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A client's packet missed the NAT64's cache.
    ClientPacket(ClientPacket),
    /// A packet of the service missed it.
    ServicePacket { packet: Span },
    /// The NAT64 made an entry itself.
    Report {
        /// Type 6.
        authenticator: Span,
        /// Type 7.
        entry: Entry,
        /// A packet may come along.
        packet: Option<ReportedPacket>,
    },
    /// Entries that the NAT64 has cached: see [`multi_report`].
    MultiReport,
}

/// The parts of a client packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPacket {
    /// Type 6.
    pub authenticator: Span,
    /// Type 8.
    pub hint: Option<MappedPort>,
    pub packet: Span,
}

/// The packet that came along with a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportedPacket {
    /// As in a client packet.
    Client(ClientPacket),
    /// As in a service packet.
    Service(Span),
}

/// One message of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Handoff { kind: u8, data: Span },
    Packet(Embedded),
}

/// The messages of a payload of at most [`PAYLOAD_MAX`] octets. Ends after an embedded packet or
/// the first error.
pub(crate) fn messages(
    payload: &[u8],
) -> impl Iterator<Item = Result<Message, DropReason>> + use<'_> {
    Messages { payload, next: 0 }
}

/// The messages from `next` on. Ends after an embedded packet or the first error.
struct Messages<'a> {
    payload: &'a [u8],
    next: usize,
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, DropReason>;

    // As a call, it would return each message through memory, four times for each report.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.payload.get(self.next..).filter(|rest| !rest.is_empty())?;
        let message = match rest[0] >> 4 {
            HANDOFF_FORMAT => handoff_message(rest, self.next),
            4 => ipv4_length(rest)
                .map(|length| Message::Packet(Embedded::Ipv4(Span::new(self.next, length)))),
            6 => ipv6_length(rest)
                .map(|length| Message::Packet(Embedded::Ipv6(Span::new(self.next, length)))),
            _ => Err(DropReason::UnknownFormat),
        };
        self.next = match message {
            Ok(Message::Handoff { data, .. }) => data.end(),
            _ => self.payload.len(),
        };
        Some(message)
    }
}

fn handoff_message(rest: &[u8], start: usize) -> Result<Message, DropReason> {
    let length = 2 * usize::from(*rest.get(1).ok_or(DropReason::MessageTruncated)?);
    if rest.len() < MESSAGE_HEADER + length {
        return Err(DropReason::MessageTruncated);
    }
    Ok(Message::Handoff { kind: rest[0] & 0x0f, data: Span::new(start + MESSAGE_HEADER, length) })
}

fn ipv4_length(rest: &[u8]) -> Result<usize, DropReason> {
    Ok(Ipv4::whole(rest).ok_or(DropReason::PacketTruncated)?.octets().len())
}

fn ipv6_length(rest: &[u8]) -> Result<usize, DropReason> {
    Ok(Ipv6::whole(rest).ok_or(DropReason::PacketTruncated)?.octets().len())
}

/// Parses a payload.
///
/// # Errors
/// The reason why it is malformed (PROTOCOL.md section 2) or incomplete (section 3).
pub fn parse(payload: &[u8]) -> Result<Request, DropReason> {
    match parse_plain(payload) {
        Some(request) => Ok(request),
        None => parse_any(payload),
    }
}

/// The two shapes that nearly all requests have, `4, 6, IPv6` and `4, IPv4`, without the loop over
/// messages. `None` where it is any other or malformed: [`parse_any`] tells which.
#[inline(always)] // To avoid a store-forwarding stall on the returned struct.
pub(crate) fn parse_plain(payload: &[u8]) -> Option<Request> {
    if payload.len() > PAYLOAD_MAX {
        return None;
    }
    const TOKEN: u8 = HANDOFF_FORMAT << 4 | message_type::TOKEN;
    const AUTHENTICATOR: u8 = HANDOFF_FORMAT << 4 | message_type::AUTHENTICATOR;
    let &[TOKEN, units, ..] = payload else { return None };
    let token = Span::new(MESSAGE_HEADER, 2 * usize::from(units));
    let rest = payload.get(token.end()..)?;
    match *rest {
        [AUTHENTICATOR, units, ..] => {
            let authenticator = Span::new(token.end() + MESSAGE_HEADER, 2 * usize::from(units));
            let rest = payload.get(authenticator.end()..)?;
            if rest.first()? >> 4 != 6 {
                return None;
            }
            let packet = Span::new(authenticator.end(), ipv6_length(rest).ok()?);
            let kind =
                RequestKind::ClientPacket(ClientPacket { authenticator, hint: None, packet });
            Some(Request { token, rotation: None, authenticator: Some(authenticator), kind })
        }
        [first, ..] if first >> 4 == 4 => {
            let packet = Span::new(token.end(), ipv4_length(rest).ok()?);
            let kind = RequestKind::ServicePacket { packet };
            Some(Request { token, rotation: None, authenticator: None, kind })
        }
        _ => None,
    }
}

/// As [`parse`], for all shapes.
#[inline(never)]
pub(crate) fn parse_any(payload: &[u8]) -> Result<Request, DropReason> {
    if payload.is_empty() {
        return Err(DropReason::Empty);
    }
    if payload.len() > PAYLOAD_MAX {
        return Err(DropReason::DatagramTruncated);
    }
    let mut parts = Parts::default();
    for message in (Messages { payload, next: 0 }) {
        match message? {
            Message::Packet(embedded) => parts.packet = Some(embedded),
            Message::Handoff { kind, data } => parts.add(kind, data, payload)?,
        }
    }
    let token = parts.token.ok_or(DropReason::NoToken)?;
    let kind = parts.request_kind()?;
    Ok(Request { token, rotation: parts.rotation, authenticator: parts.authenticator, kind })
}

/// The messages of a payload that count: the first of each type.
#[derive(Default)]
struct Parts {
    token: Option<Span>,
    rotation: Option<Span>,
    authenticator: Option<Span>,
    entry: Option<Entry>,
    hint: Option<MappedPort>,
    packet: Option<Embedded>,
    /// There is a protocol identifier.
    identified: bool,
    /// How many messages of type 6 there are.
    authenticators: u32,
    /// How many messages of type 7 there are.
    entries: u32,
    /// An entry stands before the first authenticator.
    entry_first: bool,
}

impl Parts {
    #[inline]
    fn add(&mut self, kind: u8, data: Span, payload: &[u8]) -> Result<(), DropReason> {
        match kind {
            message_type::IDENTIFIER => {
                if data.of(payload) != PROTOCOL_IDENTIFIER {
                    return Err(DropReason::BadIdentifier);
                }
                self.identified = true;
            }
            message_type::TOKEN => self.token = self.token.or(Some(data)),
            message_type::ROTATION => self.rotation = self.rotation.or(Some(data)),
            message_type::AUTHENTICATOR => {
                self.authenticators += 1;
                self.authenticator = self.authenticator.or(Some(data));
                self.check_length(payload)?;
            }
            message_type::ENTRY => {
                let entry = Entry::parse(data.of(payload)).ok_or(DropReason::BadEntryLength)?;
                self.entries += 1;
                self.entry_first |= self.authenticators == 0;
                self.entry = self.entry.or(Some(entry));
                self.check_length(payload)?;
            }
            message_type::HINT => {
                let &[high, low] = data.of(payload) else {
                    return Err(DropReason::BadHintLength);
                };
                self.hint = self.hint.or(Some(MappedPort(u16::from_be_bytes([high, low]))));
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses a multi report that is too long, as soon as the messages so far are one: the rest of
    /// it is not parsed.
    fn check_length(&self, payload: &[u8]) -> Result<(), DropReason> {
        let is_long = payload.len() > MULTI_REPORT_MAX;
        if is_long && self.entries > 0 && self.entries + self.authenticators > 2 {
            return Err(DropReason::MultiReportTooLong);
        }
        Ok(())
    }

    /// Which of the shapes of section 3 the messages have.
    #[inline]
    fn request_kind(&self) -> Result<RequestKind, DropReason> {
        match (self.entry, self.packet) {
            (None, None) => Err(DropReason::NothingAsked),
            (None, Some(Embedded::Ipv4(packet))) => Ok(RequestKind::ServicePacket { packet }),
            (None, Some(Embedded::Ipv6(packet))) => {
                Ok(RequestKind::ClientPacket(self.client_packet(packet)?))
            }
            (Some(entry), packet) => self.report_kind(entry, packet),
        }
    }

    #[inline]
    fn report_kind(
        &self,
        entry: Entry,
        packet: Option<Embedded>,
    ) -> Result<RequestKind, DropReason> {
        if !self.identified {
            return Err(DropReason::NoIdentifier);
        }
        let authenticator = self.authenticator.ok_or(DropReason::NoAuthenticator)?;
        if self.authenticators == 1 && self.entries == 1 {
            let packet = match packet {
                None => None,
                Some(Embedded::Ipv4(packet)) => Some(ReportedPacket::Service(packet)),
                Some(Embedded::Ipv6(packet)) => {
                    Some(ReportedPacket::Client(self.client_packet(packet)?))
                }
            };
            Ok(RequestKind::Report { authenticator, entry, packet })
        } else if self.entry_first {
            Err(DropReason::EntryBeforeAuthenticator)
        } else if packet.is_some() {
            Err(DropReason::PacketInMultiReport)
        } else {
            Ok(RequestKind::MultiReport)
        }
    }

    fn client_packet(&self, packet: Span) -> Result<ClientPacket, DropReason> {
        let authenticator = self.authenticator.ok_or(DropReason::NoAuthenticator)?;
        Ok(ClientPacket { authenticator, hint: self.hint, packet })
    }
}

/// The entries of a multi report, each with the authenticator that it belongs to, in order.
/// `payload` is one that [`parse`] found to be a [`RequestKind::MultiReport`].
pub fn multi_report(payload: &[u8]) -> impl Iterator<Item = (Span, Entry)> {
    let mut authenticator = None;
    (Messages { payload, next: 0 }).filter_map(move |message| {
        let Ok(Message::Handoff { kind, data }) = message else {
            return None;
        };
        match kind {
            message_type::AUTHENTICATOR => {
                authenticator = Some(data);
                None
            }
            message_type::ENTRY => Some((authenticator?, Entry::parse(data.of(payload))?)),
            _ => None,
        }
    })
}

/// The two octets in front of a message's data. `length` is that of the data: even, at most
/// [`MESSAGE_DATA_MAX`].
pub fn header(kind: u8, length: usize) -> [u8; MESSAGE_HEADER] {
    debug_assert!(kind < 16 && length <= MESSAGE_DATA_MAX && length.is_multiple_of(2));
    [HANDOFF_FORMAT << 4 | kind, (length / 2) as u8]
}

/// Appends a message to `out`. `data` is an even number of octets, at most [`MESSAGE_DATA_MAX`].
pub fn emit(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    out.extend_from_slice(&header(kind, data.len()));
    out.extend_from_slice(data);
}

/// Writes a message so that it ends where `end` says, and returns where it starts. Its data is
/// moved from `from` in the same buffer, which it may overlap.
///
/// # Panics
/// Where there is no room in front of `end`: a buffer has [`HEAD_ROOM`].
#[inline]
pub fn move_before(buffer: &mut [u8], end: usize, kind: u8, from: std::ops::Range<usize>) -> usize {
    let length = from.len();
    let start = end - length - MESSAGE_HEADER;
    buffer.copy_within(from, end - length);
    buffer[start..start + MESSAGE_HEADER].copy_from_slice(&header(kind, length));
    start
}

/// As [`move_before`], with data from elsewhere.
///
/// # Panics
/// As [`move_before`].
pub fn write_before(buffer: &mut [u8], end: usize, kind: u8, data: &[u8]) -> usize {
    let start = end - data.len() - MESSAGE_HEADER;
    buffer[start..start + MESSAGE_HEADER].copy_from_slice(&header(kind, data.len()));
    buffer[start + MESSAGE_HEADER..end].copy_from_slice(data);
    start
}

#[cfg(test)]
mod tests;
