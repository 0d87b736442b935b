//! The target `geneve`: the reader and the writers of frames and of neighbor messages, against
//! plain ones.

use nat64handoff::ip::geneve::{self, Frame, LinkAddress, Vni};
use nat64handoff::ip::ipv6::Ipv6;
use nat64handoff::ip::neighbor::{
    ADVERTISEMENT, Advertisement, NEIGHBOR_PACKET_MAX, SOLICITATION, Solicitation, kind_of,
};

use super::judge::geneve::{Frame as Plain, Neighbor};
use super::judge::packet::icmpv6_checksum;

/// `data` is a UDP payload.
pub fn check(data: &[u8]) {
    let (frame, plain) = match (Frame::parse(data), Plain::read(data)) {
        (Ok(frame), Some(plain)) => (frame, plain),
        (Err(_), None) => return neighbor(data),
        (parsed, expected) => panic!("parsed {parsed:?}, expected {expected:?}"),
    };
    let packet = &data[frame.packet_at..];
    let [a, b, c] = frame.vni.octets();
    let read = Plain {
        vni: u32::from_be_bytes([0, a, b, c]),
        to: frame.to.0,
        from: frame.from.0,
        message: frame.message.map(<[u8]>::to_vec),
        packet: packet.to_vec(),
    };
    assert_eq!(read, plain);
    fronts(frame, &plain);
    neighbor(packet);
}

/// What is written of it is what the plain one writes.
fn fronts(frame: Frame<'_>, plain: &Plain) {
    let Frame { vni, to, from, .. } = frame;
    let front = |message: Option<&[u8]>| {
        let message = message.map(<[u8]>::to_vec);
        Plain { message, packet: Vec::new(), ..plain.clone() }.write()
    };
    assert_eq!(geneve::plain_front(vni, to, from), front(None)[..]);
    assert_eq!(geneve::bypass_front(vni, to, from), front(Some(&[]))[..]);
    let message = String::from_utf8_lossy(frame.message.unwrap_or_default());
    let mut written = vec![7];
    geneve::emit_bypass_front(&mut written, vni, to, from, &message);
    if message.len() <= geneve::LOG_MESSAGE_MAX {
        assert_eq!(written[1..], front(Some(message.as_bytes())));
    }
    let again = Frame::parse(&written[1..]).unwrap();
    assert_eq!((again.vni, again.to, again.from), (vni, to, from));
}

fn neighbor(packet: &[u8]) {
    let Some(view) = Ipv6::whole(packet) else {
        return assert_eq!(Neighbor::read(packet), None);
    };
    agree(view);
    // The fuzzer cannot be expected to find a right checksum.
    let mut mended = view.octets().to_vec();
    if let Some(message) = mended.get_mut(40..).filter(|message| message.len() >= 4) {
        message[2..4].fill(0);
        let checksum = icmpv6_checksum(view.source(), view.destination(), message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        agree(Ipv6::whole(&mended).unwrap());
    }
}

fn agree(view: Ipv6<'_>) {
    let mut out = [0; NEIGHBOR_PACKET_MAX];
    let (solicitation, advertisement) = (Solicitation::parse(view), Advertisement::parse(view));
    let (plain, length) = match (Neighbor::read(view.octets()), solicitation, advertisement) {
        (Some(plain), Ok(read), Err(_)) => {
            assert_eq!((plain.kind, kind_of(view)), (135, Some(SOLICITATION)));
            assert_eq!((plain.from, plain.to, plain.target), (read.from, read.to, read.target));
            assert_eq!(plain.link, read.link.map(|link| link.0));
            (plain, read.emit(&mut out))
        }
        (Some(plain), Err(_), Ok(read)) => {
            assert_eq!((plain.kind, kind_of(view)), (136, Some(ADVERTISEMENT)));
            assert_eq!((plain.from, plain.to, plain.target), (read.from, read.to, read.target));
            assert_eq!(plain.link, read.link.map(|link| link.0));
            assert_eq!(plain.flags & 0x40 != 0, read.solicited);
            let flags = plain.flags & 0x40 | 0x20;
            (Neighbor { flags, ..plain }, read.emit(&mut out))
        }
        (None, Err(_), Err(_)) => return,
        outcome => panic!("{outcome:?}"),
    };
    assert_eq!(out[..length], plain.write());
}

/// One of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let (from, target) = ("fe80::1".parse().unwrap(), "64:ff9b::203.0.113.5".parse().unwrap());
    let group = "ff02::1:ff00:7105".parse().unwrap();
    let asked = Neighbor { kind: 135, flags: 0, from, to: group, target, link: Some([2; 6]) };
    let told = Neighbor { kind: 136, flags: 0x60, from: target, to: from, ..asked };
    let unknown = "::".parse().unwrap();
    let packets = [
        asked.write(),
        Neighbor { link: None, to: target, ..asked }.write(),
        Neighbor { link: None, from: unknown, ..asked }.write(),
        told.write(),
        Neighbor { flags: 0x20, to: "ff02::1".parse().unwrap(), ..told }.write(),
        super::judge::packet::udp6((from, 5), (target, 53), b"a packet"),
    ];
    let frame = |packet: &Vec<u8>| {
        let message = Some(b"an offer".to_vec());
        let (to, from) = ([0x33, 0x33, 0xff, 0, 0x71, 5], [2, 1, 2, 3, 4, 5]);
        Plain { vni: 0x0012_3456, to, from, message, packet: packet.clone() }
    };
    let mut seeds: Vec<_> = packets.iter().map(|packet| frame(packet).write()).collect();
    seeds.push(Plain { message: None, ..frame(&packets[3]) }.write());
    seeds.push(Plain { message: Some(vec![]), ..frame(&packets[5]) }.write());
    // Another option before that, and one that must be understood.
    for kind in [0x10, 0x90] {
        let whole = seeds[5].clone();
        let mut other = [&whole[..8], &[0x01, 0x01, kind, 1, 1, 2, 3, 4], &whole[8..]].concat();
        other[0] += 2;
        seeds.push(other);
    }
    let vni = Vni::new([0xff; 3]);
    let front = geneve::bypass_front(vni, LinkAddress([0xff; 6]), LinkAddress([0; 6]));
    seeds.push(front.to_vec());
    seeds
}
