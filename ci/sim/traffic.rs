//! How packets go about: from clients through NAT64s to the host, and back.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use nat64handoff::handoff::entry::{Client, TableKey};
use nat64handoff::handoff::message::HANDOFF_PORT;
use nat64handoff::ip::address::Prefix96;
use nat64handoff::ip::build::ipv4_udp;
use nat64handoff::ip::fields::{IPV6_HEADER, TCP_HEADER, UDP_HEADER, protocol};
use nat64handoff::ip::ipv4::Ipv4;
use nat64handoff::ip::ipv6::Ipv6;
use nat64handoff::ip::transport::{Transport, ports};

use crate::kind::Kind;
use crate::net::{PAYLOAD_AT, control_ports, fragments, port_unreachable, sum_again, sum_is_right};
use crate::people::{Said, answer, answering, read, tcp};
use crate::process::{Sent, Waiting};
use crate::stranger::Control;
use crate::trace::{Who, mark};
use crate::verdict::{Astray, Property, Violation, entry_of, is_stranger};
use crate::world::{Conversation, Event, World, mapped};

/// The MTU of the way between NAT64s and host, and where fragments get lost.
const MTU: usize = 1500;
const SMALL_MTU: usize = 576;
/// After so long without an answer a client gives a connection up.
const GIVES_UP: Duration = Duration::from_secs(8);
/// A NAT64 forgets an entry of an idle client no earlier.
const IDLE: Duration = Duration::from_secs(230);

impl World {
    /// A client sends its next packet.
    pub fn speak(&mut self, number: usize) {
        let size = if self.dice.chance(1000) { 1100 } else { 25 + self.dice.below(200) };
        let closes = self.dice.chance(500);
        let now = self.now;
        let talker = &mut self.talkers[number];
        if talker.answered.is_none_or(|at| now.saturating_sub(at) > GIVES_UP) {
            talker.opened = false; // It opens another connection, from the same port.
        }
        let packet = talker.packet(number, now, size, closes);
        let (nat64, sequence) = (talker.nat64, talker.sequence);
        self.note(Who::Client(number), mark(&packet), || {
            format!("sends packet {sequence} of {size} octets")
        });
        self.with_gateway(nat64, |gateway, out| gateway.packet(now, &packet, out));
        let mean = Duration::from_secs(if now >= self.plan.faults_until { 2 } else { 3 });
        let next = Duration::from_millis(20) + self.dice.around(mean);
        self.after(next, Event::Speak(number));
    }

    /// A packet leaves a NAT64 for the host.
    pub fn leaves_nat64(&mut self, number: usize, packet: &[u8]) {
        if self.keeps_to_itself(number, packet) {
            return;
        }
        let mut packet = packet.to_vec();
        self.nat64s[number].outward(&mut packet);
        let to = Ipv4::new(&packet).map(Ipv4::destination);
        if to.is_some_and(|to| self.locals.contains(&to)) {
            self.travel(number, packet, Event::AtHost);
        }
    }

    /// A packet is on its way between a NAT64 and the host, in one direction or the other.
    pub fn travel(&mut self, number: usize, mut packet: Vec<u8>, to: impl Fn(Vec<u8>) -> Event) {
        let now = self.now;
        let who = Who::Network;
        if self.faults.has(Kind::Corruption)
            && control_ports(&packet).is_some()
            && Ipv4::new(&packet).is_some_and(|view| view.fragment().is_none())
            && packet.len() > PAYLOAD_AT
            && self.faults.strikes(Kind::Corruption, now)
        {
            let length = packet.len();
            let dice = self.faults.dice(Kind::Corruption);
            let at = PAYLOAD_AT + dice.below(length - PAYLOAD_AT);
            packet[at] ^= 1 + dice.below(255) as u8;
            sum_again(&mut packet);
            self.nat64s[number].corrupted = true;
            self.note(who, at as u64, || format!("octet {at} of a control packet changes"));
        }
        let small = self.faults.has(Kind::LostFragments) && now < self.plan.faults_until;
        let parts = fragments(packet, if small { SMALL_MTU } else { MTU });
        let lossy = parts.len() > 1;
        for part in parts {
            if lossy && small && self.faults.strikes(Kind::LostFragments, now) {
                self.note(who, 0, || "a fragment is lost".into());
                continue;
            }
            self.travel_whole(number, part, &to);
        }
    }

    fn travel_whole(&mut self, number: usize, packet: Vec<u8>, to: impl Fn(Vec<u8>) -> Event) {
        let (now, who) = (self.now, Who::Network);
        if self.faults.strikes(Kind::Loss, now) {
            self.note(who, mark(&packet), || format!("{} is lost", what(&packet)));
            return;
        }
        let mut delay = self.nat64s[number].latency;
        if self.faults.strikes(Kind::Delay, now) {
            delay += self.faults.dice(Kind::Delay).around(Duration::from_millis(500));
            self.note(who, mark(&packet), || format!("{} is delayed by {delay:?}", what(&packet)));
        }
        if self.faults.strikes(Kind::Duplication, now) {
            let later = self.faults.dice(Kind::Duplication).around(Duration::from_millis(50));
            self.note(who, mark(&packet), || format!("{} will arrive twice", what(&packet)));
            self.after(delay + later, to(packet.clone()));
        }
        self.after(delay, to(packet));
    }

    /// A packet reaches the host.
    pub fn at_host(&mut self, packet: Vec<u8>) {
        if self.state.dark {
            return;
        }
        let mark = mark(&packet);
        self.note(Who::Host, mark, || format!("gets {}", what(&packet)));
        let Some(packet) = self.state.joining.take(self.now, packet) else { return };
        let Some(view) = Ipv4::new(&packet) else { return };
        let (from, local) = (view.source(), view.destination());
        if let Some((port, HANDOFF_PORT)) = control_ports(&packet) {
            if !sum_is_right(&packet) {
                return;
            }
            let peer = SocketAddrV4::new(from, port);
            let control = Control { local, peer, payload: packet[PAYLOAD_AT..].to_vec() };
            return self.request(control, &packet);
        }
        let Some((port, _)) = ports(view.data()) else { return };
        self.at_service(TableKey { local, nat64: from }, port, view);
    }

    /// A request reaches the server's port.
    pub fn request(&mut self, mut control: Control, packet: &[u8]) {
        let nat64 = self.number_of(*control.peer.ip());
        if self.state.closed {
            if let Some(number) = nat64 {
                self.nat64s[number].was_told = true;
                self.note(Who::Host, 0, || "says that the port is closed".into());
                let error = port_unreachable(control.local, packet);
                self.travel(number, error, |packet| Event::AtNat64(number, packet));
            }
            return;
        }
        if let Some(number) = nat64 {
            self.nat64s[number].see(&control);
        }
        if self.swallows(&mut control, packet) {
            self.state.delivered += 1;
            return;
        }
        let Control { local, peer, payload } = control;
        if self.host.deliver(Waiting { from: peer, to: local, payload }) {
            self.state.delivered += 1;
            self.wake_server();
        }
    }

    /// The service gets a packet, and answers it.
    fn at_service(&mut self, table: TableKey, port: u16, view: Ipv4<'_>) {
        let Some((said, flags)) = self.content(view.octets(), view.data(), view.protocol()) else {
            return;
        };
        let tcp = flags.is_some();
        self.note(Who::Service, said.sequence.into(), || {
            format!("hears client {} by port {port}", said.talker)
        });
        let said = Said { port, heard: self.now, ..said };
        let conversation = Conversation { said, heard: self.now };
        self.conversations.insert((table, port, tcp), conversation);
        let flags = flags.map(answering);
        self.serve(table, port, said, flags);
        if self.dice.chance(1000) {
            let later = self.dice.around(Duration::from_secs(15));
            self.after(later, Event::Recall(table, port));
        }
    }

    fn serve(&mut self, table: TableKey, port: u16, said: Said, flags: Option<u8>) {
        let to = SocketAddrV4::new(table.nat64, port);
        let packet = answer(said, flags, table.local, to);
        if let Some(number) = self.number_of(table.nat64) {
            self.travel(number, packet, |packet| Event::AtNat64(number, packet));
        }
    }

    /// The service speaks first.
    pub fn recall(&mut self, table: TableKey, port: u16) {
        if self.state.dark {
            return;
        }
        for tcp in [false, true] {
            if let Some(&Conversation { said, .. }) = self.conversations.get(&(table, port, tcp)) {
                self.note(Who::Service, port.into(), || {
                    format!("speaks to client {} by port {port}", said.talker)
                });
                self.serve(table, port, said, tcp.then_some(tcp::ACK));
            }
        }
    }

    /// What a packet says, and its flags if it is TCP.
    fn content(&mut self, packet: &[u8], upper: &[u8], which: u8) -> Option<(Said, Option<u8>)> {
        let (header, flags) = match which {
            protocol::TCP => (TCP_HEADER, Transport::Tcp.tcp_flags(upper)),
            protocol::UDP => (UDP_HEADER, None),
            _ => return None,
        };
        let is_checked = packet[0] >> 4 == 4 && !self.state.joining.fills_holes;
        let right = !is_checked || sum_is_right(packet);
        let said = upper.get(header..).and_then(read).filter(|_| right);
        let corrupts = self.faults.has(Kind::Corruption);
        match said {
            Some(said) if said.talker < self.talkers.len() => Some((said, flags)),
            _ if corrupts => None,
            // Where a fragment is lost, those of a later packet may take its place that has the
            // same identification of 16 bits (RFC 4963): hosts know that by the checksum.
            _ if !right && self.faults.has(Kind::LostFragments) => None,
            _ => {
                let what = format!("{} has another content", what(packet));
                self.breaks(Violation::new(Property::ContentIsKept, what));
                None
            }
        }
    }

    /// A packet reaches a NAT64.
    pub fn at_nat64(&mut self, number: usize, packet: Vec<u8>) {
        let Some(packet) = self.nat64s[number].inward(packet) else { return };
        self.note(Who::Nat64(number), mark(&packet), || format!("gets {}", what(&packet)));
        let packet = self.believes(number, packet);
        let now = self.now;
        self.with_gateway(number, |gateway, out| gateway.packet(now, &packet, out));
    }

    /// A packet reaches a client.
    pub fn at_client(&mut self, number: usize, packet: &[u8]) {
        let Some(view) = Ipv6::new(packet) else { return };
        let Ok(walk) = view.walk() else { return };
        if ![protocol::TCP, protocol::UDP].contains(&walk.protocol) || walk.fragment.is_some() {
            return; // An ICMPv6 error.
        }
        let upper = &packet[IPV6_HEADER..];
        let Some((from, port)) = ports(upper) else { return };
        // What answers the NAT64 itself, at the port that it had before it rebooted.
        if from == HANDOFF_PORT && self.nat64s[number].rebooted > Duration::ZERO {
            return;
        }
        let Some((said, _)) = self.content(packet, upper, walk.protocol) else { return };
        let prefix = Prefix96::of(view.source());
        let client = Client { prefix, address: view.destination(), port };
        let right =
            self.talkers[said.talker].client == client && self.talkers[said.talker].nat64 == number;
        if right {
            self.note(Who::Client(said.talker), said.sequence.into(), || {
                format!("has an answer to packet {}", said.sequence)
            });
            let talker = &mut self.talkers[said.talker];
            talker.answered = talker.answered.max(Some(said.at));
            return;
        }
        self.astray(number, client, said);
    }

    /// A client got what was sent to another one. Where that was right, its port is its no more.
    fn astray(&mut self, number: usize, got_by: Client, said: Said) {
        let talker = &self.talkers[said.talker];
        let (sent_to, local) = (talker.client, talker.local);
        self.note(Who::Nat64(number), said.sequence.into(), || {
            format!("gives [{}]:{} a packet to client {}", got_by.address, got_by.port, said.talker)
        });
        let table = self.key(number, local);
        if self.faults.has(Kind::Limits) {
            // There is not room for all: its entry went for another one before the answer came.
            let talker = &mut self.talkers[said.talker];
            talker.answered = talker.answered.max(Some(said.at));
        }
        let nat64 = &self.nat64s[number];
        // Where a packet was corrupted, the times that it says are any.
        let idle = self.now.saturating_sub(said.heard);
        let excused = nat64.rebooted >= said.heard || idle > IDLE || nat64.corrupted;
        if !excused {
            let (heard, port) = (said.heard, mapped(said.port));
            self.judge.went_astray(Astray { heard, table, port, sent_to, got_by });
        }
    }

    /// Sends on what the server has sent.
    pub fn carry_answers(&mut self) {
        for Sent { to, from, payload } in self.host.take_sent() {
            self.state.sent += 1;
            let control = Control { local: from, peer: to, payload };
            let table = TableKey { local: control.local, nat64: *control.peer.ip() };
            let Some(control) = self.sends_on(control) else { continue };
            if let Some(entry) = entry_of(&control.payload) {
                self.judge.announced(table, entry, self.now);
                self.names.announced(table, entry);
            }
            self.note(Who::Server, mark(&control.payload), || {
                format!("answers {} with {} octets", control.peer, control.payload.len())
            });
            if is_stranger(*control.peer.ip()) {
                let answer = self.stranger.hears(&control);
                if let Some(packet) = answer {
                    self.after(Duration::from_millis(10), Event::AtHost(packet));
                }
                continue;
            }
            let from = SocketAddrV4::new(control.local, HANDOFF_PORT);
            let mut packet = ipv4_udp(from, control.peer, &control.payload);
            self.state.identification = self.state.identification.wrapping_add(1);
            packet[4..6].copy_from_slice(&self.state.identification.to_be_bytes());
            packet[6..8].fill(0);
            nat64handoff::ip::ipv4::set_checksum(&mut packet[..20]);
            if let Some(number) = self.number_of(*control.peer.ip()) {
                self.travel(number, packet, |packet| Event::AtNat64(number, packet));
            }
        }
    }
}

/// A packet, as people read it.
pub fn what(packet: &[u8]) -> String {
    let name = |which: u8| match which {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        _ => "ICMP",
    };
    let shown = |from: &str, to: &str, upper: &[u8], which: u8| match ports(upper) {
        Some((a, b)) if which != protocol::ICMP => {
            format!("{} {from}:{a} to {to}:{b}, {} octets", name(which), packet.len())
        }
        _ => format!("{} {from} to {to}, {} octets", name(which), packet.len()),
    };
    match (Ipv4::new(packet), Ipv6::new(packet)) {
        (Some(view), _) => {
            let ends: (Ipv4Addr, Ipv4Addr) = (view.source(), view.destination());
            let part = if view.fragment().is_some() { " (a fragment)" } else { "" };
            let shown =
                shown(&ends.0.to_string(), &ends.1.to_string(), view.data(), view.protocol());
            format!("{shown}{part}")
        }
        (None, Some(view)) => {
            let (from, to) = (view.source().to_string(), view.destination().to_string());
            let which = packet[6];
            shown(&from, &to, &packet[IPV6_HEADER..], which)
        }
        (None, None) => format!("{} octets", packet.len()),
    }
}
