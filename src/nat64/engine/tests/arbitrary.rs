//! Arbitrary input.

use super::*;
use proptest::prelude::*;

/// What is done to a packet or payload that was in order.
#[derive(Debug, Clone)]
struct Damage {
    flips: Vec<(usize, u8)>,
    cut: Option<usize>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = prop::collection::vec((any::<usize>(), any::<u8>()), 0..3);
    (flips, prop::option::weighted(0.1, any::<usize>()))
        .prop_map(|(flips, cut)| Damage { flips, cut })
}

fn damaged(mut octets: Vec<u8>, damage: &Damage) -> Vec<u8> {
    for &(at, bits) in &damage.flips {
        let at = at % octets.len();
        octets[at] ^= bits;
    }
    octets.truncate(damage.cut.map_or(usize::MAX, |cut| cut % 200));
    octets
}

proptest! {
    /// No input panics, and the entries stay unique both ways.
    #[test]
    fn no_input_breaks_it(
        steps in prop::collection::vec((0_u8..8, 0_u16..8, 1024_u16..1032, damage()), 1..60),
    ) {
        let mut nat64 = nat64();
        let mut now = NOW;
        let mut actions = Vec::new();
        for (kind, host, port, damage) in steps {
            let one = client(host, 1 + port % 3);
            let with = |octets| damaged(octets, &damage);
            match kind {
                0 => nat64.client_packet(now, &with(segment(one, SYN)), &mut actions),
                1 => nat64.client_packet(now, &with(segment(one, ACK)), &mut actions),
                2 => nat64.service_packet(now, &with(service_segment(port)), &mut actions),
                3 => {
                    let payload = with(answer(&nat64, entry(port, one), &segment(one, ACK)));
                    nat64.control_payload(now, FROM, &payload, &mut actions);
                }
                4 => {
                    let payload = with(returned(&nat64, &service_segment(port)));
                    nat64.control_payload(now, FROM, &payload, &mut actions);
                }
                5 => {
                    let payload = with(returned(&nat64, &service_segment(port)));
                    nat64.port_unreachable(now, SERVER, &payload);
                }
                6 => nat64.service_packet(now, &with(icmp_error(&service_segment(port))), &mut actions),
                _ => {
                    now += Duration::from_secs(u64::from(port - 1024) * 60);
                    nat64.tick(now, &mut actions);
                }
            }
            for action in actions.drain(..) {
                if let Action::Request { payload, .. } = action {
                    prop_assert!(parse(&payload).is_ok());
                }
            }
            let entries: Vec<Entry> = nat64.entries(SERVER).collect();
            for entry in entries {
                prop_assert_eq!(nat64.client_of(SERVER, entry.port), Some(entry.client));
            }
        }
    }
}
