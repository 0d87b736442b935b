//! The first inputs of each target: one for every kind of thing that PROTOCOL.md tells apart. What
//! the fuzzer made of them stands beside them in `fuzz/corpus`.
//!
//! `CORPUS_WRITE=1 cargo test --test corpus seeds` writes them.

use std::net::Ipv6Addr;

use super::build::{PACKET_KINDS, ipv4, ipv6, validation_datagram};
use super::judge::client::{Client, Entry, PREFIX};
use super::judge::wire::{entry as entry_message, identifier, message};
use super::translate::flag;

/// The last kind of packet is too large for a corpus.
const SMALL_KINDS: u8 = PACKET_KINDS - 1;

const ENTRY: Entry = Entry {
    mapped: 20_000,
    client: Client {
        prefix: PREFIX,
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        port: 53186,
    },
};

/// The seeds of the target `name`.
///
/// # Panics
/// Where there is no such target.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "payload" => payloads(),
        "packet" => packets(),
        "server" => programs(),
        "journal" => journals(),
        "translate" => translations(),
        "gateway" => gateways(),
        "geneve" => super::geneve::seeds(),
        _ => panic!("no target {name}"),
    }
}

fn packets() -> Vec<Vec<u8>> {
    let small = 0..SMALL_KINDS;
    let mut packets: Vec<_> = small.clone().map(|kind| ipv6(kind, ENTRY, 1)).collect();
    packets.extend(small.map(|kind| ipv4(kind, ENTRY.mapped)));
    packets.push(validation_datagram(&[0; 36]));
    // Longer than what is quoted of a packet.
    for (mut packet, length) in [(ipv4(8, ENTRY.mapped), 600), (ipv6(9, ENTRY, 0), 1300)] {
        packet.resize(length, 0);
        packets.push(packet);
    }
    packets
}

fn payloads() -> Vec<Vec<u8>> {
    let token = || message(4, b"token!");
    let authenticator = || message(6, b"authenticator!");
    let (hint, entry) = (message(8, &20_000_u16.to_be_bytes()), entry_message(ENTRY));
    let service = [token(), ipv4(1, ENTRY.mapped)];
    let client = [token(), authenticator(), ipv6(1, ENTRY, 0)];
    let hinted = [token(), authenticator(), hint, ipv6(0, ENTRY, 0)];
    let rotating = [token(), message(5, b"expired!"), ipv4(0, 1)];
    let report = [identifier(), token(), authenticator(), entry.clone()];
    let mixed = [entry.clone(), token(), authenticator(), identifier(), ipv6(1, ENTRY, 0)];
    let proving = [&report[..], &[validation_datagram(&[1; 36])]].concat();
    let multi = [&report[..], &[entry.clone(), authenticator(), entry.clone()]].concat();
    let other = [&report[..], &[message(6, &[]), entry.clone(), ipv4(1, 1)]].concat();
    let early = [identifier(), token(), entry.clone(), authenticator(), entry];
    let skipped = [message(15, &[]), message(2, b"noop"), message(4, &[]), ipv4(5, 1), vec![0; 3]];
    let longest = [message(4, &[7; 510]), message(6, &[9; 510]), ipv6(3, ENTRY, 1)];
    let lone = [token()];
    let payloads: [&[Vec<u8>]; 13] = [
        &service, &client, &hinted, &rotating, &report, &mixed, &proving, &multi, &other, &early,
        &skipped, &longest, &lone,
    ];
    payloads.into_iter().map(<[Vec<u8>]>::concat).collect()
}

/// Programs for the target `server`, which says what the octets mean.
fn programs() -> Vec<Vec<u8>> {
    const WHO: u8 = 0;
    /// A taken mapped port, the first.
    const TAKEN: u8 = 0x80;
    let validate = |who: u8| vec![2, who];
    let client = |who: u8, kind: u8, host: u8| vec![7, who, 1, 0, kind, 0, host, 9, 0];
    let service = |who: u8, kind: u8, port: u8| vec![10, who, kind, port, 0];
    let report = |who: u8, port: u8, host: u8| vec![5, who, 2, port, host, 9, 2, 0];
    let seconds = |n: u16| [&[0][..], &(100 * n).to_be_bytes()].concat();

    let mut programs = Vec::new();
    for kind in 0..PACKET_KINDS {
        // The second time it is known, or its first fragment is.
        let known = client(WHO, 1, 0);
        let first = [client(WHO, 3, 0), service(WHO, 3, TAKEN)].concat();
        let again = [client(WHO, kind, 0), client(WHO, kind, 1)].concat();
        programs.push([validate(WHO), known.clone(), first.clone(), again].concat());
        let again = [service(WHO, kind, TAKEN), service(WHO, kind, 0x41)].concat();
        programs.push([validate(WHO), known, first, again].concat());
    }
    // Unknown identities, and the third of them attenuated.
    programs.push([client(WHO, 1, 0), service(WHO, 1, 0), report(WHO, 0, 0)].concat());
    // Reports: adopted, agreed with, contradicted by port and by client, invalid.
    let reports = [(0x41, 0), (0x41, 0), (0x42, 0), (0x41, 1), (4, 2), (0x43, 0xe1), (7, 3)];
    let reports = reports.map(|(port, host)| report(WHO, port, host)).concat();
    programs.push([validate(WHO), reports].concat());
    // A report with either packet.
    programs.push([validate(WHO), vec![5, WHO, 1, 0x41, 0, 9, 0, 1, 0, 0, 9, 0]].concat());
    programs.push([validate(WHO), vec![5, WHO, 1, 0x41, 0, 9, 1, 1, TAKEN, 0]].concat());
    // A multi report of ten, twice: at first most are new, then most are gone again.
    let entries: Vec<u8> = (0..10).flat_map(|n| [n, 0x40 + n, n, 9, n % 3]).collect();
    let multi = [&[4, WHO, 10][..], &entries, &[0]].concat();
    programs.push([validate(WHO), multi.clone(), multi].concat());
    // More clients than entries, of one /64 and of all.
    let crowd: Vec<u8> = (0..16).flat_map(|host| client(WHO, 1, host)).collect();
    let heavy: Vec<u8> = (0..12).flat_map(|n| [7, WHO, 1, 0, 1, 0, n & 3, n, 0]).collect();
    programs.push([validate(WHO), heavy, crowd.clone(), crowd.clone()].concat());
    // More NAT64s than there may be, and more entries than in the budget.
    let everyone = |make: &dyn Fn(u8) -> Vec<u8>| (0..4).flat_map(make).collect::<Vec<_>>();
    let crowds = everyone(&|who| (0..8).flat_map(|host| client(who, 0, host)).collect());
    programs.push([everyone(&validate), crowds, validate(4)].concat());
    // A port that is mapped becomes a control port.
    programs.push([validate(8), report(8, 0, 0), validate(WHO), report(8, 0, 1)].concat());
    // A rotation from the token 0 to 1, and one from a token that is not known.
    let rotated = |who: u8, old: u8| vec![10, who, 1, 0, 8 | old << 6];
    programs.push([validate(WHO), rotated(0x40, 0), client(0x40, 1, 0), rotated(0xc0, 2)].concat());
    // Five identities of four.
    let identities: Vec<u8> = [0, 8, 16, 0x40, 0xc0, 0].into_iter().flat_map(validate).collect();
    programs.push([identities, client(WHO, 1, 0)].concat());
    // A proof that others use, then its owner: in time, at the last moment, and late.
    // The others differ in one part of the identity each: NAT64, local address, port and token.
    let others: Vec<u8> = [1, 4, 8, 0x40].into_iter().flat_map(|who| [3, who, 0]).collect();
    for (first, then) in [(50, 0), (60, 59), (110, 20), (119, 0), (125, 0)] {
        let unproven = [service(WHO, 1, 0), seconds(first), others.clone()].concat();
        programs.push([unproven, seconds(then), vec![3, WHO, 0]].concat());
    }
    // More ICMP than a second has, fragments that come late, and a payload that says nothing.
    let pings: Vec<u8> = (0..110).flat_map(|_| service(WHO, 6, 0)).collect();
    programs.push([validate(WHO), pings].concat());
    let late = [client(WHO, 3, 0), seconds(14), client(WHO, 4, 0), seconds(1), client(WHO, 4, 0)];
    programs.push([validate(WHO), late.concat()].concat());
    programs.push(vec![1, WHO, 4, 0x34, 1, 1, 2]);
    programs
}

/// Inputs of the target `journal`, which says what the octets mean.
fn journals() -> Vec<Vec<u8>> {
    // Two tables in the snapshot, and two segments with all kinds of changes; then damage.
    let snapshot = [0, 2, 3, 0, 0x10, 3, 0x21, 1, 0, 0x32];
    let record = |n: u8| {
        let change = |kind: u8| [n % 3, kind, n.wrapping_mul(37)];
        [&[0, n, 3, n % 4][..], &change(n), &change(3), &change(8 + n), &change(13)].concat()
    };
    let segment = |from: u8, end: u8| {
        [&[4][..], &(from..from + 4).flat_map(record).collect::<Vec<_>>(), &[end]].concat()
    };
    let shard = [&snapshot[..], &[1], &segment(0, 1), &segment(4, 0)].concat();
    let two = [&shard[..], &shard[..]].concat();
    let mut journals = vec![vec![0], [&[0, 1][..], &[127; 8], &[2], &[3; 33]].concat()];
    for boots in [0, 1, 6] {
        journals.push([&[1, boots][..], &shard, &[0]].concat());
        for at in [20, 90, 300] {
            for file in 0..4 {
                let flip = [1, 0, file, (at >> 8) as u8, at as u8, 4];
                journals.push([&[1, 0x20 | boots][..], &shard, &flip].concat());
            }
        }
        let flips = [2, 0, 1, 0, 200, 1, 0, 3, 1, 0, 1];
        journals.push([&[1, 0x10 | boots][..], &two, &flips].concat());
    }
    for kind in 0..8 {
        let damage = [1, 0, 1, kind, 0, 150, 0, 60, 1, 0, 20, 1];
        journals.push([&[2, 0x20 | (kind % 3)][..], &shard, &damage].concat());
    }
    // A block of the pool, before a table in the snapshot, and in records with changes of tables.
    let snapshot = [0, 2, 3, 0x09, 0x1a, 0x09, 0x33, 0];
    let record = |n: u8| [0, n, 3, 0, 3, n, 0, 1, n, 3, n ^ 0x15, 3, n];
    let records: Vec<u8> = (0..6).flat_map(record).collect();
    let named = [&snapshot[..], &[0, 6], &records, &[1]].concat();
    for (how, damage) in [(1, vec![0]), (2, vec![1, 0, 1, 3, 0, 150, 0, 60, 1, 0, 20, 1])] {
        journals.push([&[how, 0x20][..], &named, &damage].concat());
    }
    let name =
        |kind: u8, length: u8| [&[kind, 100, 64, 0, 7, length, 0x20, 1][..], &[0; 14]].concat();
    let body = [&[1, 0, 0, 0, 0, 100, 64, 0, 0][..], &name(12, 128), &name(13, 64)].concat();
    journals.push([&[0][..], &body].concat());
    journals
}

/// Packets with the options of the target `translate` in front.
fn translations() -> Vec<Vec<u8>> {
    const NARROW: [u16; 2] = [600, 1280];
    const WIDE: [u16; 2] = [1500, 1500];
    let input = |mtus: [u16; 2], flags: u8, packet: &[u8]| {
        [&mtus[0].to_be_bytes()[..], &mtus[1].to_be_bytes(), &[flags], packet].concat()
    };
    let all = flag::TRAFFIC_CLASS | flag::UDP_CHECKSUMS | flag::MEND | flag::PATH_MTU;
    let mut inputs = Vec::new();
    for kind in 0..SMALL_KINDS {
        for packet in [ipv6(kind, ENTRY, 1), ipv4(kind, ENTRY.mapped)] {
            inputs.push(input(WIDE, all, &packet));
        }
    }
    // Such as are cut into fragments, and such as must not be.
    for (mut packet, length) in [(ipv6(0, ENTRY, 1), 1280), (ipv4(0, ENTRY.mapped), 1400)] {
        packet.resize(length, 7);
        inputs.push(input(NARROW, flag::MEND, &packet));
        if packet[0] >> 4 == 4 {
            packet[6] = 0;
            inputs.push(input(NARROW, flag::MEND, &packet));
        }
        packet.resize(1500, 7);
        inputs.push(input(NARROW, flag::MEND, &packet));
    }
    let samples = super::judge::samples::TO_IPV4.iter().chain(&super::judge::samples::TO_IPV6);
    for (sample, flags) in samples.zip([all, flag::TRAFFIC_CLASS].into_iter().cycle()) {
        for packet in [sample.from, sample.to] {
            inputs.push(input(WIDE, flags, &super::judge::samples::octets(packet)));
        }
    }
    inputs
}

/// Programs for the target `gateway`, which says what the octets mean.
fn gateways() -> Vec<Vec<u8>> {
    let with = |step: u8, octets: &[u8]| {
        [&[step][..], &(octets.len() as u16).to_be_bytes(), octets].concat()
    };
    let answer = |port: u16, packet: &[u8]| {
        let ports = [port, ENTRY.client.port].map(u16::to_be_bytes).concat();
        [&[5][..], &ports, &(packet.len() as u16).to_be_bytes(), packet].concat()
    };
    let seconds = |n: u16| [&[0][..], &(10 * n).to_be_bytes()].concat();
    let client = |kind: u8| with(2, &ipv6(kind, ENTRY, 1));
    let service = |kind: u8| with(2, &ipv4(kind, ENTRY.mapped));
    // The client's first packet makes it known, so that there is an entry on a port that can be
    // foreseen.
    let known = [client(1), answer(ENTRY.mapped, &ipv6(1, ENTRY, 1))].concat();
    let mut programs = Vec::new();
    for kind in 0..SMALL_KINDS {
        programs.push([client(1), client(kind), service(kind)].concat());
        let first = [client(3), service(3)].concat();
        programs.push([known.clone(), first, client(kind), service(kind)].concat());
        let answers =
            [answer(ENTRY.mapped, &ipv6(kind, ENTRY, 1)), answer(7000, &ipv4(kind, 7000))];
        programs.push([known.clone(), answers.concat(), with(6, &ipv4(kind, 1))].concat());
    }
    // A server goes down, comes back, and its NAT64 reboots.
    let down = [known.clone(), client(1), vec![7], client(1), seconds(1), client(5), seconds(70)];
    programs
        .push([&down.concat()[..], &known, &[8, 9], &client(1), &seconds(1), &service(1)].concat());
    // Control payloads whole, in fragments, and such as mean nothing.
    let payload = [message(4, b"token!"), ipv4(1, ENTRY.mapped)].concat();
    programs.push([with(3, &payload), vec![4, 0], with(0, &payload)[1..].to_vec()].concat());
    // The longest packets, so that control datagrams are fragmented.
    for length in [1241, 1280] {
        let mut packet = ipv6(1, ENTRY, 1);
        packet.resize(length, 7);
        programs.push([known.clone(), vec![8], with(2, &packet), answer(7000, &packet)].concat());
    }
    programs.push([validation_datagram(&[1; 36])].iter().flat_map(|it| with(1, it)).collect());
    programs
}
