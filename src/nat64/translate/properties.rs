//! What holds of every packet: checksums that add up, nothing longer than its limit, and there and
//! back again.

use proptest::prelude::*;

use super::samples::{TO_IPV4, TO_IPV6, octets};
use super::tests::{
    CLIENT, CLIENT4, LIMITS, SERVICE, SERVICE4, mend_header, octets_of, to_ipv4, to_ipv6,
};
use super::*;
use crate::ip::checksum::checksum;
use crate::ip::fields::{protocol, put_u16, u16_at};
use crate::ip::ipv4::{self, Ipv4};
use crate::ip::ipv6::{self, Ipv6};

/// Whether the checksum of `upper` is right, whichever transport it is.
fn adds_up(addresses: &[u8], protocol: u8, upper: &[u8]) -> bool {
    let length = (upper.len() as u32).to_be_bytes();
    match protocol {
        protocol::ICMP => checksum(&[upper]) == 0,
        _ => checksum(&[addresses, &length, &[0, 0, 0, protocol], upper]) == 0,
    }
}

/// Sets the checksum of `upper` right.
fn mend_upper(addresses: &[u8], protocol: u8, upper: &mut [u8]) {
    let at = match protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    upper[at..at + 2].fill(0);
    let length = (upper.len() as u32).to_be_bytes();
    let sum = match protocol {
        protocol::ICMP => checksum(&[upper]),
        _ => checksum(&[addresses, &length, &[0, 0, 0, protocol], upper]),
    };
    let sum = if sum == 0 && protocol == protocol::UDP { 0xffff } else { sum };
    put_u16(upper, at, sum);
}

/// Puts fragments together again, which come in order, and says which protocol they are of. The
/// last may be missing.
fn reassemble4(packets: &[Vec<u8>]) -> (u8, Vec<u8>) {
    let mut data = Vec::new();
    for (n, octets) in packets.iter().enumerate() {
        let view = Ipv4::new(octets).unwrap();
        assert!(view.checksum_is_right());
        assert_eq!(view.total_length(), octets.len());
        assert_eq!(view.identification(), Ipv4::new(&packets[0]).unwrap().identification());
        let fragment = view.fragment();
        assert_eq!(fragment.map_or(0, |it| usize::from(it.offset)), data.len());
        assert_eq!(fragment.is_some_and(|it| it.more), n + 1 < packets.len());
        data.extend_from_slice(view.data());
    }
    (packets[0][9], data)
}

fn reassemble6(packets: &[Vec<u8>]) -> (u8, Vec<u8>) {
    let mut data = Vec::new();
    let mut protocol = 0;
    for (n, octets) in packets.iter().enumerate() {
        let view = Ipv6::new(octets).unwrap();
        assert_eq!(view.payload_length() + 40, octets.len());
        let walk = view.walk().unwrap();
        assert_eq!(walk.fragment.map_or(0, |it| usize::from(it.offset)), data.len());
        assert_eq!(walk.fragment.is_some_and(|it| it.more), n + 1 < packets.len());
        assert!(walk.fragment.is_some() || packets.len() == 1, "atomic fragments are not made");
        protocol = walk.protocol;
        data.extend_from_slice(&octets[walk.upper_at..]);
    }
    (protocol, data)
}

/// A transport header with data of a protocol that is translated, the checksum not yet right.
fn upper(ipv6: bool) -> impl Strategy<Value = (u8, Vec<u8>)> {
    let kinds = if ipv6 { [128_u8, 129] } else { [8, 0] };
    let data = prop_oneof![4 => 0..100_usize, 1 => 1180..1500_usize];
    let data = data.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    let icmp = if ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
    let kind = prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(icmp)];
    (kind, data, any::<[u8; 20]>(), any::<bool>()).prop_map(move |(protocol, data, head, reply)| {
        let header = if protocol == protocol::TCP { 20 } else { 8 };
        let mut upper = [&head[..header], &data].concat();
        if protocol == protocol::UDP {
            let length = upper.len() as u16;
            put_u16(&mut upper, 4, length);
        } else if protocol != protocol::TCP {
            upper[..2].copy_from_slice(&[kinds[usize::from(reply)], 0]);
        }
        (protocol, upper)
    })
}

/// A packet of the client, whole and right.
fn ipv6_packet() -> impl Strategy<Value = Vec<u8>> {
    (upper(true), any::<u8>(), 2..=255_u8).prop_map(|((protocol, mut upper), class, hop_limit)| {
        let mut packet = ipv6::header(upper.len(), protocol, hop_limit, CLIENT, SERVICE);
        packet[0] |= class >> 4;
        packet[1] |= class << 4;
        mend_upper(&packet[8..40], protocol, &mut upper);
        [&packet[..], &upper].concat()
    })
}

/// A packet of the service, whole and right.
fn ipv4_packet() -> impl Strategy<Value = Vec<u8>> {
    (upper(false), any::<[u8; 3]>(), 2..=255_u8, any::<bool>()).prop_map(
        |((protocol, mut upper), [class, high, low], ttl, dont_fragment)| {
            let length = 20 + upper.len();
            let header = ipv4::header(length, ttl, protocol, SERVICE4, CLIENT4);
            mend_upper(&header[12..20], protocol, &mut upper);
            let mut packet = [&header[..], &upper].concat();
            (packet[1], packet[4], packet[5]) = (class, high, low);
            packet[6] = if dont_fragment { 0x40 } else { 0 };
            mend_header(&mut packet);
            packet
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    (68..2000_u16, 1280..2000_u16, 1280..2000_u16).prop_map(|(ipv4, ipv6, path)| Limits {
        ipv6_path_mtu: path,
        ..Limits::new(ipv4, ipv6).unwrap()
    })
}

/// A sample with a few octets changed, its lengths and checksums of the outside mended or not.
fn mutation() -> impl Strategy<Value = Vec<u8>> {
    let samples = TO_IPV4.iter().chain(&TO_IPV6).map(|sample| octets(sample.from));
    let samples: Vec<Vec<u8>> = samples.collect();
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(samples), edits, any::<prop::sample::Index>(), any::<[bool; 2]>())
        .prop_map(|(mut packet, edits, end, [cut, mend])| {
            for (at, octet) in edits {
                let at = at.index(packet.len());
                packet[at] = octet;
            }
            if cut {
                packet.truncate(end.index(packet.len()));
            }
            if mend {
                mend_all(&mut packet);
            }
            packet
        })
}

/// As far as there is something to mend: the length of the packet, the checksums of header and ICMP
/// message.
fn mend_all(packet: &mut [u8]) {
    let length = packet.len();
    if let Some(view) = Ipv6::new(packet) {
        let Ok(walk) = view.walk() else { return };
        let addresses = packet[8..40].to_vec();
        put_u16(packet, 4, (length - 40) as u16);
        if walk.protocol == protocol::ICMPV6 && length >= walk.upper_at + 8 {
            mend_upper(&addresses, protocol::ICMPV6, &mut packet[walk.upper_at..]);
        }
    } else if let Some(view) = Ipv4::new(packet) {
        let (protocol, upper_at) = (view.protocol(), view.header_length());
        if protocol == protocol::ICMP && length >= upper_at + 8 {
            mend_upper(&[], protocol::ICMP, &mut packet[upper_at..]);
        }
        put_u16(packet, 2, length as u16);
        mend_header(packet);
    }
}

/// Whatever the octets: nothing panics, and what comes out is a packet within its limits.
fn holds_of_any(octets: &[u8], limits: &Limits) {
    match to_ipv4(octets, limits) {
        Ok(packets) => {
            assert!(!packets.is_empty());
            for packet in &packets {
                let view = Ipv4::new(packet).unwrap();
                assert!(view.checksum_is_right());
                assert_eq!(view.total_length(), packet.len());
                assert!(packet.len() <= usize::from(limits.ipv4_mtu));
                assert_eq!((view.source(), view.destination()), (CLIENT4, SERVICE4));
                assert_eq!(view.ttl(), octets[7] - 1);
            }
        }
        Err(Refused { error: Some(error), .. }) => {
            if let Some(out) = ipv6_error(error, SERVICE, octets).map(octets_of) {
                assert!(adds_up(&out[8..40], 58, &out[40..]));
                // RFC 4443 section 2.4 (e.1).
                assert_eq!(ipv6_error(error, SERVICE, &out), None);
            }
        }
        Err(_) => {}
    }
    match to_ipv6(octets, limits) {
        Ok(packets) => {
            assert!(!packets.is_empty());
            for packet in &packets {
                let view = Ipv6::new(packet).unwrap();
                assert_eq!(view.payload_length() + 40, packet.len());
                assert!(packet.len() <= usize::from(limits.ipv6_mtu));
                let dont_fragment = octets[6] & 0x40 != 0;
                let path_mtu = usize::from(limits.path_mtu());
                assert!(dont_fragment || packet.len() <= path_mtu);
                assert_eq!(view.destination(), CLIENT);
                assert_eq!(view.hop_limit(), octets[8] - 1);
            }
        }
        Err(Refused { error: Some(error), .. }) => {
            if let Some(out) = ipv4_error(error, CLIENT4, octets).map(octets_of) {
                assert_eq!(checksum(&[&out[20..]]), 0);
                assert_eq!(checksum(&[&out[..20]]), 0);
                // RFC 1122 section 3.2.2.
                assert_eq!(ipv4_error(error, CLIENT4, &out), None);
            }
        }
        Err(_) => {}
    }
}

proptest! {
    #![proptest_config(crate::cases::config())]

    /// All the receiver of an IPv4 packet can check is right, whether it came in one piece or in
    /// several.
    #[test]
    fn ipv4_checksums_add_up(packet in ipv6_packet(), limits in limits()) {
        match to_ipv4(&packet, &limits) {
            Ok(packets) => {
                let (protocol, data) = reassemble4(&packets);
                prop_assert!(adds_up(&packets[0][12..20], protocol, &data));
                prop_assert!(packets.iter().all(|it| it.len() <= usize::from(limits.ipv4_mtu)));
                prop_assert_eq!(data.len(), packet.len() - 40);
                prop_assert_ne!((protocol, &data[6..8]), (17, &[0, 0][..]));
            }
            Err(refused) => {
                prop_assert_eq!(refused.reason, Refusal::TooBig);
                prop_assert!(packet.len() > 1280);
                let mtu = refused.error.unwrap().word as usize;
                prop_assert_eq!(mtu, (usize::from(limits.ipv4_mtu) + 20).max(1280));
                prop_assert!(packet.len() > mtu, "what is named would have done");
            }
        }
    }

    #[test]
    fn ipv6_checksums_add_up(packet in ipv4_packet(), limits in limits()) {
        let dont_fragment = packet[6] & 0x40 != 0;
        match to_ipv6(&packet, &limits) {
            Ok(packets) => {
                let (protocol, data) = reassemble6(&packets);
                prop_assert!(adds_up(&packets[0][8..40], protocol, &data));
                let mtu = if dont_fragment { limits.ipv6_mtu } else { limits.path_mtu() };
                prop_assert!(packets.iter().all(|packet| packet.len() <= usize::from(mtu)));
                prop_assert!(!dont_fragment || packets.len() == 1);
            }
            Err(refused) => {
                prop_assert_eq!(refused.reason, Refusal::TooBig);
                prop_assert!(dont_fragment);
                let mtu = refused.error.unwrap().word as usize;
                prop_assert_eq!(mtu, usize::from(limits.ipv6_mtu) - 20);
                prop_assert!(packet.len() > mtu);
            }
        }
    }

    /// The client's packet reaches the service, which sends the same packet back: what the client
    /// gets is what it sent, with addresses and ports the other way round, and two hops less.
    #[test]
    fn there_and_back(packet in ipv6_packet()) {
        prop_assume!(packet[7] > 2);
        // All but the flow label comes back.
        let there = &to_ipv4(&packet, &Limits::new(65535, 65535).unwrap()).unwrap()[0];
        let mut mirrored = there.clone();
        mirrored[12..16].copy_from_slice(&there[16..20]);
        mirrored[16..20].copy_from_slice(&there[12..16]);
        if packet[6] != 58 {
            mirrored[20..22].copy_from_slice(&there[22..24]);
            mirrored[22..24].copy_from_slice(&there[20..22]);
        }
        let back = &to_ipv6(&mirrored, &Limits::new(65535, 65535).unwrap()).unwrap()[0];
        let mut expected = packet.clone();
        expected[7] -= 2;
        expected[8..24].copy_from_slice(&packet[24..40]);
        expected[24..40].copy_from_slice(&packet[8..24]);
        if packet[6] == 58 {
            put_u16(&mut expected, 44, super::tests::CLIENT_PORT);
        } else {
            expected[40..42].copy_from_slice(&packet[42..44]);
            put_u16(&mut expected, 42, super::tests::CLIENT_PORT);
        }
        let addresses = expected[8..40].to_vec();
        mend_upper(&addresses, packet[6], &mut expected[40..]);
        prop_assert_eq!(back, &expected);
    }

    /// A wrong checksum stays wrong, so that the receiver sees it.
    #[test]
    fn wrong_checksums_stay_wrong(packet in ipv6_packet(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        prop_assume!(packet.len() > 48);
        let mut wrong = packet.clone();
        let at = 48 + at.index(packet.len() - 48);
        wrong[at] ^= 1 << bit;
        let limits = Limits::new(65535, 65535).unwrap();
        let out = &to_ipv4(&wrong, &limits).unwrap()[0];
        prop_assert!(!adds_up(&out[12..20], out[9], &out[20..]));
    }

    /// A packet cut into fragments before is the same as one that was not.
    #[test]
    fn fragments_translate_like_the_whole(packet in ipv4_packet(), size in 3..12_usize) {
        prop_assume!(packet[9] != 1);
        let whole = to_ipv6(&packet, &Limits { ipv6_path_mtu: 1500, ..LIMITS });
        prop_assume!(whole.is_ok() && whole.as_ref().unwrap().len() == 1);
        let mut data = Vec::new();
        let pieces = packet[20..].chunks(8 * size).collect::<Vec<_>>();
        prop_assume!(pieces.len() > 1);
        for (n, piece) in pieces.iter().enumerate() {
            let mut fragment = [&packet[..20], piece].concat();
            let more = u16::from(n + 1 < pieces.len()) << 13;
            put_u16(&mut fragment, 2, (20 + piece.len()) as u16);
            put_u16(&mut fragment, 6, more | (n * size) as u16);
            mend_header(&mut fragment);
            for translated in to_ipv6(&fragment, &LIMITS).unwrap() {
                let walk = Ipv6::new(&translated).unwrap().walk().unwrap();
                let found = walk.fragment.unwrap();
                prop_assert_eq!(usize::from(found.offset), data.len());
                prop_assert_eq!(found.identification, u32::from(u16_at(&packet, 4)));
                data.extend_from_slice(&translated[walk.upper_at..]);
                prop_assert_eq!(found.more, data.len() < packet.len() - 20);
            }
        }
        prop_assert_eq!(&data, &whole.unwrap()[0][40..]);
    }

    #[test]
    fn no_octets_make_it_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>()) {
        if let Some(first) = octets.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        mend_all(&mut octets);
        holds_of_any(&octets, &LIMITS);
    }

    #[test]
    fn no_mutation_makes_it_panic(packet in mutation(), limits in limits()) {
        holds_of_any(&packet, &limits);
    }
}
