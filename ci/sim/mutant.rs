//! The canaries: worlds that are wrong in a way that one kind of fault alone reveals.

use std::collections::{BTreeMap, BTreeSet};

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::message::HANDOFF_PORT;
use nat64handoff::ip::fields::{IPV4_HEADER, protocol};
use nat64handoff::ip::ipv4::Ipv4;
use nat64handoff::nat64::engine::ServerState;

use crate::kind::Kind;
use crate::net::{PAYLOAD_AT, control_ports, port_unreachable, sum_again};
use crate::stranger::{Control, VALIDATION_PORT};
use crate::trace::mark;
use crate::verdict::entry_of;
use crate::world::World;

/// A message of type 4, 6 and 7.
const TOKEN: u8 = 0x34;
const AUTHENTICATOR: u8 = 0x36;
const ENTRY: u8 = 0x37;

/// What the canary of a kind has seen.
#[derive(Default)]
pub struct Mutant {
    /// The kind whose canary it is; none: all is right.
    pub of: Option<Kind>,
    marks: BTreeSet<u64>,
    /// In which order datagrams were sent.
    sent: BTreeMap<u64, u64>,
    arrived: BTreeMap<TableKey, u64>,
    /// What NAT64s said first of themselves.
    ports: BTreeMap<TableKey, u16>,
    tokens: BTreeMap<TableKey, Vec<u8>>,
    /// What a NAT64 reported falsely, as the data of a message.
    pub reported: BTreeMap<TableKey, Vec<u8>>,
    /// There was a pause.
    pub was_paused: bool,
}

impl Mutant {
    pub fn of(kind: Option<Kind>) -> Self {
        Self { of: kind, ..Self::default() }
    }

    /// Whether the canary of that kind is on.
    pub fn is(&self, kind: Kind) -> bool {
        self.of == Some(kind)
    }
}

/// Where the data of the first message of that kind stands.
fn data_of(payload: &[u8], kind: u8) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while payload.get(at).is_some_and(|head| head >> 4 == 3) {
        let end = at + 2 + 2 * usize::from(*payload.get(at + 1)?);
        if payload[at] == kind {
            return (end <= payload.len()).then_some(at + 2..end);
        }
        at = end;
    }
    None
}

impl World {
    /// A NAT64 sends a control packet. Whether it does not, by a canary.
    pub fn keeps_to_itself(&mut self, number: usize, packet: &[u8]) -> bool {
        if control_ports(packet).is_none() {
            return false;
        }
        if self.mutant.is(Kind::Delay) {
            let order = self.mutant.sent.len() as u64 + 1;
            self.mutant.sent.insert(mark(&packet[PAYLOAD_AT.min(packet.len())..]), order);
        }
        // It never asks a server again that was dead once.
        let to = Ipv4::new(packet).map(Ipv4::destination);
        let state = to.map(|to| self.nat64s[number].gateway.nat64().state(to));
        self.mutant.is(Kind::Unreachable) && state == Some(ServerState::Dead)
    }

    /// A request reaches the server. Whether it is lost there and not counted, by a canary, which
    /// may change it as well.
    pub fn swallows(&mut self, control: &mut Control, packet: &[u8]) -> bool {
        let mutant = &mut self.mutant;
        let table = TableKey { local: control.local, nat64: *control.peer.ip() };
        match mutant.of {
            // It takes what it had before for the same.
            Some(Kind::Duplication) => !mutant.marks.insert(mark(packet)),
            // It takes what was sent earlier for outdated.
            Some(Kind::Delay) => {
                let Some(&order) = mutant.sent.get(&mark(&control.payload)) else { return false };
                let latest = mutant.arrived.entry(table).or_default();
                let is_late = order < *latest;
                *latest = order;
                is_late
            }
            // It knows one port of a NAT64 for good.
            Some(Kind::Rebinding) => {
                *mutant.ports.entry(table).or_insert(control.peer.port()) != control.peer.port()
            }
            // It knows one token of a NAT64 for good.
            Some(Kind::Rotation | Kind::Reboot) => {
                let Some(range) = data_of(&control.payload, TOKEN) else { return false };
                let token = control.payload[range].to_vec();
                *mutant.tokens.entry(table).or_insert_with(|| token.clone()) != token
            }
            // It believes whoever has the address.
            Some(Kind::Strangers) => {
                let Some(range) = data_of(&control.payload, TOKEN) else { return false };
                let token = &mut control.payload[range];
                let known = mutant.tokens.entry(table).or_insert_with(|| token.to_vec());
                if token.len() == known.len() {
                    token.copy_from_slice(known);
                }
                false
            }
            _ => false,
        }
    }

    /// What becomes of an answer behind the server, by a canary.
    pub fn sends_on(&mut self, mut control: Control) -> Option<Control> {
        let mutant = &mut self.mutant;
        let table = TableKey { local: control.local, nat64: *control.peer.ip() };
        match mutant.of {
            // It sends one validation packet to a NAT64, and no other.
            Some(Kind::Loss) if control.peer.port() == VALIDATION_PORT => {
                let is_first = mutant.ports.insert(table, VALIDATION_PORT).is_none();
                is_first.then_some(control)
            }
            // It tells a NAT64 that it has what that has reported.
            Some(Kind::FalseReports) if entry_of(&control.payload).is_some() => {
                if let Some(reported) = mutant.reported.remove(&table)
                    && let Some(range) = data_of(&control.payload, ENTRY)
                {
                    control.payload[range].copy_from_slice(&reported);
                }
                Some(control)
            }
            _ => Some(control),
        }
    }

    /// What becomes of a packet before a NAT64 has it, by a canary: the NAT64 believes whatever it
    /// is told.
    pub fn believes(&mut self, number: usize, mut packet: Vec<u8>) -> Vec<u8> {
        let nat64 = self.nat64s[number].gateway.nat64();
        let Some(view) = Ipv4::new(&packet) else { return packet };
        let server = view.source();
        if self.mutant.is(Kind::ForgedUnreachable) && view.protocol() == protocol::ICMP {
            let mut about = packet[IPV4_HEADER + 8..].to_vec();
            about.truncate(PAYLOAD_AT);
            about.extend_from_slice(&[TOKEN, (nat64.token(server).len() / 2) as u8]);
            about.extend_from_slice(&nat64.token(server));
            return port_unreachable(server, &about);
        }
        let is_control = matches!(control_ports(&packet), Some((HANDOFF_PORT, _)));
        if self.mutant.is(Kind::Corruption) && is_control && view.fragment().is_none() {
            let payload = &packet[PAYLOAD_AT..];
            if let (Some(entry), Some(range)) = (entry_of(payload), data_of(payload, AUTHENTICATOR))
            {
                let right = nat64.authenticator(server, entry.client.address);
                if right.len() == range.len() {
                    packet[PAYLOAD_AT..][range].copy_from_slice(&right);
                    sum_again(&mut packet);
                }
            }
        }
        packet
    }

    /// The log, as a canary has it.
    pub fn log_as_told(&mut self) -> String {
        let log = self.host.log();
        match self.mutant.of {
            // Its lines are in the order of their times.
            Some(Kind::WallJump) => {
                let mut lines: Vec<_> = log.lines().collect();
                lines.sort_by_key(|line| line.get(..26).unwrap_or(line).to_owned());
                lines.into_iter().flat_map(|line| [line, "\n"]).collect()
            }
            // What happens to a table as a whole has no lines.
            Some(Kind::DropTable) => {
                let lines = log.lines().filter(|line| !line.contains(" Forgotten "));
                lines.flat_map(|line| [line, "\n"]).collect()
            }
            _ => log,
        }
    }
}
