//! A NAT64 of the world: the whole gateway, and maybe a NAT before it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nat64handoff::handoff::message::HANDOFF_PORT;
use nat64handoff::ip::fields::{IPV4_HEADER, protocol};
use nat64handoff::ip::ipv4::Ipv4;
use nat64handoff::nat64::engine::Nat64Config;
use nat64handoff::nat64::gateway::{Gateway, GatewayConfig};

use crate::dice::Dice;
use crate::net::{control_ports, port_unreachable, set_port};
use crate::stranger::Control;

/// The MTU of its device.
const MTU: u16 = 1500;
/// The most payloads that a stranger has seen of it.
const SEEN_MAX: usize = 16;

/// See above.
pub struct Nat64Node {
    pub gateway: Gateway,
    pub address: Ipv4Addr,
    /// How long a packet is on its way to the host.
    pub latency: Duration,
    /// The port that a NAT gives its control channel, where there is one.
    pub outer: Option<u16>,
    pub clients: BTreeSet<Ipv6Addr>,
    /// When it forgot everything the last time.
    pub rebooted: Duration,
    /// A host said truly that nobody listens there.
    pub was_told: bool,
    /// A control payload from or to it was changed on its way.
    pub corrupted: bool,
    /// Its latest requests, as a stranger may have seen them.
    pub seen: Vec<Control>,
}

impl Nat64Node {
    pub fn new(address: Ipv4Addr, dice: &mut Dice, has_nat: bool) -> Self {
        let mut nat64 = Nat64Config::new(address);
        nat64.hints = dice.chance(5000);
        nat64.token_units = *dice.pick(&[4, 8, 8, 255]);
        nat64.authenticator_units = *dice.pick(&[4, 8, 8, 60]);
        nat64.authenticator_key = dice.chance(5000).then(|| dice.random().key());
        let config = GatewayConfig::new(nat64, MTU);
        let gateway = Gateway::new(config, dice.seed()).expect("a lawful MTU");
        let outer = has_nat.then(|| 20_000 + dice.below(20_000) as u16);
        Self {
            gateway,
            address,
            latency: dice.time(Duration::from_millis(1), Duration::from_millis(30)),
            outer,
            clients: BTreeSet::new(),
            rebooted: Duration::ZERO,
            was_told: false,
            corrupted: false,
            seen: Vec::new(),
        }
    }

    /// Whether it may have spoken for this client.
    pub fn has(&self, client: Ipv6Addr) -> bool {
        self.corrupted || self.clients.contains(&client)
    }

    /// The port that its control channel has on the way.
    pub fn control_port(&self) -> u16 {
        self.outer.unwrap_or(self.gateway.nat64().control_port().0)
    }

    /// What a stranger on the way sees.
    pub fn see(&mut self, request: &Control) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.remove(0);
        }
        self.seen.push(request.clone());
    }

    /// What the NAT makes of a packet that goes out.
    pub fn outward(&self, packet: &mut [u8]) {
        let inner = self.gateway.nat64().control_port().0;
        if let Some(outer) = self.outer
            && control_ports(packet) == Some((inner, HANDOFF_PORT))
        {
            set_port(packet, false, outer);
        }
    }

    /// What the NAT makes of a packet that comes in; none where it knows of no such port.
    pub fn inward(&self, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        let Some(outer) = self.outer else { return Some(packet) };
        let inner = self.gateway.nat64().control_port().0;
        if let Some((HANDOFF_PORT, to)) = control_ports(&packet) {
            if to == outer {
                set_port(&mut packet, true, inner);
            } else if to == inner {
                return None;
            }
        }
        let view = Ipv4::new(&packet)?;
        if view.protocol() == protocol::ICMP {
            let mut about = packet[IPV4_HEADER + 8..].to_vec();
            if control_ports(&about) == Some((outer, HANDOFF_PORT)) {
                set_port(&mut about, false, inner);
                packet = port_unreachable(view.source(), &about);
            }
        }
        Some(packet)
    }
}
