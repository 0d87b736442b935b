//! What one network of clients can make a gateway do (PROTOCOL.md section 10, point 11).

use super::*;
use crate::nat64::engine::{PROBE_RATE_MAX, SILENT_MAX};

/// A TCP segment of a client in network `network` to the `number`th of many hosts.
fn syn(network: u16, number: u32) -> Vec<u8> {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, 1);
    let host = synthesize(Prefix96::of(SERVICE), Ipv4Addr::from(0x0b00_0000 + number));
    let from = SocketAddrV6::new(address, 40_000, 0, 0);
    ipv6_tcp(from, SocketAddrV6::new(host, 80, 0, 0), SYN, b"")
}

fn gateway() -> Gateway {
    Gateway::new(GatewayConfig::new(Nat64Config::new(POOL), MTU), [3; 32]).unwrap()
}

/// Packets and octets that the gateway writes.
#[derive(Default)]
struct Sum {
    packets: usize,
    octets: usize,
}

impl Sum {
    fn add(&mut self, outbox: &mut GatewayOutbox) {
        self.packets += outbox.packets().count();
        self.octets += outbox.packets().map(<[u8]>::len).sum::<usize>();
        outbox.clear();
    }
}

/// Without limits it was 230,495 packets, 15 times the octets, and 115 MB.
#[test]
fn section_10_point_11_a_client_that_sends_to_65536_silent_hosts() {
    let mut gateway = gateway();
    let (mut outbox, mut written) = (GatewayOutbox::default(), Sum::default());
    let (mut sent, mut now) = (0, Duration::from_secs(100));
    for number in 0..65_536 {
        let packet = syn(0, number);
        sent += packet.len();
        gateway.packet(now, &packet, &mut outbox);
        // 60 s in all, then those in which reports are repeated.
        let before = now.as_secs();
        now += Duration::from_micros(915);
        if now.as_secs() != before {
            gateway.tick(now, &mut outbox);
        }
        written.add(&mut outbox);
    }
    for _ in 0..20 {
        now += Duration::from_secs(1);
        gateway.tick(now, &mut outbox);
        written.add(&mut outbox);
    }
    assert!(written.packets > 65_536, "each packet is translated");
    assert!(written.packets < 65_536 * 115 / 100, "{} packets", written.packets);
    assert!(written.octets < 3 * sent / 2, "{} octets for {sent}", written.octets);
    assert!(gateway.nat64().entries_held() <= SILENT_MAX);
    assert!(gateway.nat64().servers() <= SILENT_MAX);
}

#[test]
fn section_10_point_11_others_are_reported_meanwhile() {
    let mut gateway = gateway();
    let mut outbox = GatewayOutbox::default();
    let now = Duration::from_secs(100);
    for number in 0..10_000 {
        gateway.packet(now, &syn(0, number), &mut outbox);
    }
    assert_eq!(outbox.packets().count(), 10_000 + PROBE_RATE_MAX as usize);
    outbox.clear();
    gateway.packet(now, &syn(1, 20_000), &mut outbox);
    assert_eq!(outbox.packets().count(), 2, "the packet and its report");
    outbox.clear();
    // What could not be reported is, when the connection goes on.
    let later = now + Duration::from_secs(2);
    gateway.packet(later, &syn(0, 9_999), &mut outbox);
    assert_eq!(outbox.packets().count(), 2);
    outbox.clear();
    gateway.packet(later, &syn(0, 9_999), &mut outbox);
    assert_eq!(outbox.packets().count(), 1);
}

/// An entry that was answered outlives all that its network does.
#[test]
fn section_10_point_11_entries_that_were_answered_stay() {
    let mut gateway = gateway();
    let mut outbox = GatewayOutbox::default();
    let now = Duration::from_secs(100);
    gateway.packet(now, &syn(0, 70_000), &mut outbox);
    let there = outbox.packets().next().unwrap().to_vec();
    outbox.clear();
    let view = Ipv4::new(&there).unwrap();
    let (mapped, _) = ports(view.data()).unwrap();
    let from = SocketAddrV4::new(view.destination(), 80);
    let back = ipv4_tcp(from, SocketAddrV4::new(POOL, mapped), SYN | ACK, b"");
    gateway.packet(now, &back, &mut outbox);
    assert_eq!(outbox.packets().count(), 1);
    for number in 0..2 * SILENT_MAX as u32 {
        gateway.packet(now, &syn(0, number), &mut outbox);
        outbox.clear();
    }
    gateway.packet(now, &back, &mut outbox);
    assert_eq!(outbox.packets().count(), 1, "it is forwarded");
    assert_eq!(gateway.nat64().entries_held(), SILENT_MAX + 1);
    assert_eq!(gateway.ignored(Ignored::SilentLimit), SILENT_MAX as u64);
}
