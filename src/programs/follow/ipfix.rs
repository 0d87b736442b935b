//! Events for an IPFIX collector: RFC 7011, with the events of RFC 8158 about a NAT64's binding
//! information base (BIB).
//!
//! A `Created` is natEvent 10 (NAT64 BIB create), a `Deleted` 11 (NAT64 BIB delete); IPFIX has no
//! word for the others, which are left out. An entry is for TCP and UDP alike, so the protocol is
//! 0. Where the log tells the server's address and the NAT64's prefix, so do the records: as what
//! the client sent to, and what became of it.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::encoder::EventEncoder;
use crate::disk::eventlog::Lost;
use crate::handoff::logged::{LoggedEntry, LoggedKind, LoggedLine};
use crate::kernel::clock;

const VERSION: u16 = 10;
const HEADER_OCTETS: usize = 16;
const TEMPLATE_SET: u16 = 2;
/// Of events of which the log tells no more than the original server's did.
const PLAIN: u16 = 256;
/// Of events of which it tells all.
const FULL: u16 = 257;
/// Information elements of IANA's registry, with their octets.
const FIELDS: [(u16, u16); 11] = [
    (323, 8), // observationTimeMilliseconds
    (152, 8), // flowStartMilliseconds, and
    (153, 8), // flowEndMilliseconds: the same, as collectors look for records by these
    (230, 1), // natEvent
    (4, 1),   // protocolIdentifier
    (27, 16), // sourceIPv6Address
    (7, 2),   // sourceTransportPort
    (225, 4), // postNATSourceIPv4Address
    (227, 2), // postNAPTSourceTransportPort
    (28, 16), // destinationIPv6Address
    (226, 4), // postNATDestinationIPv4Address
];
/// How many of them a record of [`PLAIN`] has.
const PLAIN_FIELDS: usize = 9;
const CREATE: u8 = 10;
const DELETE: u8 = 11;
/// Octets of a message, so that its datagram is not fragmented.
const MESSAGE_MAX: usize = 1200;
/// A collector forgets templates that it got over UDP.
const TEMPLATE_INTERVAL: Duration = Duration::from_secs(30);

/// Messages of IPFIX.
#[derive(Debug)]
pub struct IpfixEncoder {
    /// Records that were sent since the connection began.
    sequence: u32,
    /// When the templates were sent.
    templates: Option<Instant>,
    /// They are sent again and again.
    is_forgetful: bool,
}

impl IpfixEncoder {
    /// For datagrams, or for a stream.
    pub fn new(is_stream: bool) -> Self {
        Self { sequence: 0, templates: None, is_forgetful: !is_stream }
    }

    fn wants_templates(&self) -> bool {
        let is_old = |at: Instant| {
            let age = clock::instant().saturating_duration_since(at);
            self.is_forgetful && age >= TEMPLATE_INTERVAL
        };
        self.templates.is_none_or(is_old)
    }

    fn at(&mut self, events: &[LoggedLine], seconds: u32, out: &mut Vec<u8>) -> usize {
        let begin = out.len();
        let wants_templates = self.wants_templates();
        for number in [VERSION, 0] {
            out.extend(number.to_be_bytes());
        }
        for number in [seconds, self.sequence, 0] {
            out.extend(number.to_be_bytes());
        }
        if wants_templates {
            templates(out);
        }
        let (mut records, mut taken) = (0, 0);
        let mut set: Option<(u16, usize)> = None;
        for event in events {
            let (kind, entry) = match &event.kind {
                LoggedKind::Created(entry) => (CREATE, entry),
                LoggedKind::Deleted(entry) => (DELETE, entry),
                _ => {
                    taken += 1;
                    continue;
                }
            };
            let template = match (event.local, entry.prefix) {
                (Some(_), Some(_)) => FULL,
                _ => PLAIN,
            };
            let begins_set = set.is_none_or(|(of, _)| of != template);
            let set_octets = if begins_set { 4 } else { 0 };
            if out.len() - begin + set_octets + record_octets(template) > MESSAGE_MAX {
                break;
            }
            if begins_set {
                end_set(set, out);
                set = Some((template, out.len()));
                out.extend(template.to_be_bytes());
                out.extend([0; 2]);
            }
            record(kind, event, entry, out);
            (records, taken) = (records + 1, taken + 1);
        }
        end_set(set, out);
        if records == 0 {
            out.truncate(begin);
            return taken;
        }
        // At most MESSAGE_MAX.
        let length = (out.len() - begin) as u16;
        out[begin + 2..begin + 4].copy_from_slice(&length.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(records);
        if wants_templates {
            self.templates = Some(clock::instant());
        }
        taken
    }
}

impl EventEncoder for IpfixEncoder {
    fn connected(&mut self) {
        (self.sequence, self.templates) = (0, None);
    }

    fn message(&mut self, events: &[LoggedLine], out: &mut Vec<u8>) -> usize {
        // Until 2106, as the field has 32 bits.
        let seconds = (clock::wall().as_micros() / 1_000_000) as u32;
        self.at(events, seconds, out)
    }

    fn lost(&mut self, _: &Lost, _: &mut Vec<u8>) {}
}

fn fields(template: u16) -> &'static [(u16, u16)] {
    if template == FULL { &FIELDS } else { &FIELDS[..PLAIN_FIELDS] }
}

fn record_octets(template: u16) -> usize {
    fields(template).iter().map(|&(_, octets)| usize::from(octets)).sum()
}

fn templates(out: &mut Vec<u8>) {
    let set = Some((TEMPLATE_SET, out.len()));
    out.extend(TEMPLATE_SET.to_be_bytes());
    out.extend([0; 2]);
    for template in [PLAIN, FULL] {
        let fields = fields(template);
        out.extend(template.to_be_bytes());
        out.extend((fields.len() as u16).to_be_bytes());
        for (element, octets) in fields {
            out.extend(element.to_be_bytes());
            out.extend(octets.to_be_bytes());
        }
    }
    end_set(set, out);
}

/// Writes its length.
fn end_set(set: Option<(u16, usize)>, out: &mut [u8]) {
    if let Some((_, begin)) = set {
        // At most MESSAGE_MAX.
        let length = (out.len() - begin) as u16;
        out[begin + 2..begin + 4].copy_from_slice(&length.to_be_bytes());
    }
}

fn record(kind: u8, event: &LoggedLine, entry: &LoggedEntry, out: &mut Vec<u8>) {
    for _ in 0..3 {
        out.extend((event.at.as_micros() / 1000).to_be_bytes());
    }
    out.extend([kind, 0]);
    out.extend(entry.client.octets());
    out.extend(entry.client_port.to_be_bytes());
    out.extend(event.nat64.octets());
    out.extend(entry.port.to_be_bytes());
    if let (Some(local), Some(prefix)) = (event.local, entry.prefix) {
        let mut octets = [0; 16];
        octets[..12].copy_from_slice(&prefix.0);
        octets[12..].copy_from_slice(&local.octets());
        out.extend(Ipv6Addr::from(octets).octets());
        out.extend(local.octets());
    }
}

const _: () = assert!(HEADER_OCTETS + 4 + 2 * (4 + 4 * FIELDS.len()) + 4 + 70 <= MESSAGE_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: &str = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186";
    const FULL_CREATED: &str = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96";

    fn event(line: &str) -> LoggedLine {
        LoggedLine::parse(line).unwrap()
    }

    fn record_of(kind: u8) -> Vec<u8> {
        [
            // 1552903588491 ms
            &[0, 0, 0x01, 0x69, 0x90, 0x44, 0x4a, 0x8b].repeat(3)[..],
            &[kind, 0],
            &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17],
            &[0xcf, 0xc2, 192, 0, 2, 7, 0x0e, 0x87],
        ]
        .concat()
    }

    #[test]
    fn a_message_with_its_templates() {
        let mut encoder = IpfixEncoder::new(true);
        let mut out = Vec::new();
        let deleted = CREATED.replace("Created", "Deleted");
        let events = [event(CREATED), event(&deleted)];
        assert_eq!(encoder.at(&events, 0x5c8f_6d64, &mut out), 2);
        let templates = [
            &[0, 2, 0, 92][..],
            &[1, 0, 0, 9, 1, 67, 0, 8, 0, 152, 0, 8, 0, 153, 0, 8, 0, 230, 0, 1, 0, 4, 0, 1],
            &[0, 27, 0, 16, 0, 7, 0, 2, 0, 225, 0, 4, 0, 227, 0, 2],
            &[1, 1, 0, 11, 1, 67, 0, 8, 0, 152, 0, 8, 0, 153, 0, 8, 0, 230, 0, 1, 0, 4, 0, 1],
            &[0, 27, 0, 16, 0, 7, 0, 2],
            &[0, 225, 0, 4, 0, 227, 0, 2, 0, 28, 0, 16, 0, 226, 0, 4],
        ]
        .concat();
        let header = [0, 10, 0, 212, 0x5c, 0x8f, 0x6d, 0x64, 0, 0, 0, 0, 0, 0, 0, 0];
        let set = [1, 0, 0, 104];
        let expected =
            [&header[..], &templates, &set, &record_of(CREATE), &record_of(DELETE)].concat();
        assert_eq!(out, expected);
        // The next ones do without templates, and count on. Those that the log tells more of.
        out.clear();
        assert_eq!(encoder.at(&[event(FULL_CREATED)], 0, &mut out), 1);
        let header = [0, 10, 0, 90, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0];
        let to = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 203, 0, 113, 5, 203, 0, 113, 5];
        let expected = [&header[..], &[1, 1, 0, 74], &record_of(CREATE), &to].concat();
        assert_eq!(out, expected);
        encoder.connected();
        out.clear();
        encoder.at(&events, 0, &mut out);
        assert_eq!((out.len(), &out[8..12]), (212, &[0; 4][..]));
    }

    #[test]
    fn messages_are_bounded_and_others_are_left_out() {
        let mut encoder = IpfixEncoder::new(false);
        let other = "2019-03-18 10:06:28.491727 Initialized 192.0.2.7";
        let mut out = Vec::new();
        assert_eq!(encoder.at(&vec![event(other); 3], 0, &mut out), 3);
        assert_eq!(out, [0; 0]);
        // It has no word for an address that stands for a client either.
        let name = "2019-03-18 10:06:28.491727 Named 100.64.0.7 [2001:db8::17]";
        assert_eq!(encoder.at(&[event(name)], 0, &mut out), 1);
        assert_eq!(out, [0; 0]);
        let mut events = vec![event(CREATED), event(FULL_CREATED), event(other)];
        events.extend(vec![event(FULL_CREATED); 100]);
        let (mut taken, mut messages) = (0, 0);
        while taken < events.len() {
            out.clear();
            taken += encoder.at(&events[taken..], 0, &mut out);
            assert!(out.len() <= MESSAGE_MAX && out.len() > 60, "{}", out.len());
            assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), out.len());
            messages += 1;
        }
        assert_eq!((messages, encoder.sequence), (7, 102));
    }
}
