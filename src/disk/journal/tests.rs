use std::net::Ipv4Addr;

use crc32c::crc32c;

use super::change::kind;
use super::*;
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use crate::handoff::opaque::{Authenticator, Token};
use crate::ip::address::Prefix96;

const SEGMENT: FileId = FileId { kind: FileKind::Segment, epoch: 3, shard: 1, number: 5 };

fn table(n: u8) -> TableKey {
    TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, n) }
}

fn client() -> Client {
    Client {
        prefix: Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
        address: "2001:db8::17".parse().unwrap(),
        port: 53186,
    }
}

fn every_change() -> Vec<(TableKey, Change)> {
    let (port, client) = (MappedPort(3719), client());
    let token = Token::new(b"token!").unwrap();
    let authenticator = Authenticator::new(&[7; 510]).unwrap();
    let control = ControlPort(4000);
    let empty = Authenticator::default();
    vec![
        (table(7), Change::Initialized),
        (table(7), Change::IdentityKnown { port: control, token: token.clone() }),
        (table(7), Change::Created { port, client }),
        (table(7), Change::AuthenticatorLearned { address: client.address, authenticator }),
        (table(8), Change::Conflict { port, client }),
        (table(8), Change::Used { port }),
        (table(7), Change::Deleted { port, client }),
        (table(7), Change::IdentityForgotten { port: control, token }),
        (table(7), Change::AuthenticatorLearned { address: client.address, authenticator: empty }),
        (table(8), Change::Forgotten),
        (block(), named("2001:db8::17/128")),
        (block(), named("2001:db8:0:1::/64")),
        (block(), Change::Unnamed { address: ADDRESS, client: "::/0".parse().unwrap() }),
    ]
}

const ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);

fn block() -> TableKey {
    TableKey::block_of(ADDRESS)
}

fn named(client: &str) -> Change {
    Change::Named { address: ADDRESS, client: client.parse().unwrap() }
}

fn header() -> Header {
    Header {
        version: VERSION,
        id: SEGMENT,
        shards: 2,
        handoff_port: 64064,
        time: Timestamp::from_micros(1_552_903_588_491_727),
        boot: [0xbb; 16],
        next_record: RecordNumber(0),
        next_event: 0,
    }
}

fn encoded(changes: &[(TableKey, Change)]) -> (Vec<u8>, Position) {
    let mut out = Vec::new();
    let mut position = Position { record: RecordNumber(9), event: 100 };
    let time = Timestamp::from_micros(1_552_903_588_491_727);
    encode(&mut out, SEGMENT.seal(&[0xbb; 16]), &mut position, RecordNumber(8), time, changes);
    (out, position)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn literal_header() {
    let octets = header().encode();
    assert_eq!(
        hex(&octets[..76]),
        concat!(
            "4e415436346a6e6c",
            "0003",
            "01",
            "00",
            "0001",
            "0002",
            "0000000000000003",
            "0000000000000005",
            "0000000000000000",
            "0000000000000000",
            "0005845b8ac331cf",
            "fa40",
            "0000",
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        )
    );
    assert_eq!(octets[76..], crc32c(&octets[..76]).to_be_bytes());
    assert_eq!(Header::decode(&octets), Ok(header()));
}

#[test]
fn literal_record() {
    let (octets, position) =
        encoded(&[(table(7), Change::Created { port: MappedPort(3719), client: client() })]);
    let body = concat!(
        "01",
        "cb007105",
        "c0000207",
        "03",
        "0e87",
        "0064ff9b0000000000000000",
        "20010db8000000000000000000000017",
        "cfc2",
    );
    assert_eq!(hex(&octets[RECORD_HEADER_LENGTH..]), body);
    assert_eq!(
        hex(&octets[..36]),
        concat!(
            "0000002a",
            "0000000000000009",
            "0000000000000064",
            "0000000000000008",
            "0005845b8ac331cf",
        )
    );
    assert_eq!(octets[36..40], crc32c(&octets[44..]).to_be_bytes());
    assert_eq!(position, Position { record: RecordNumber(10), event: 101 });
}

#[test]
fn literal_names() {
    let network = "2001:db8:0:1::/64".parse().unwrap();
    let unnamed = Change::Unnamed { address: ADDRESS, client: network };
    let (octets, position) =
        encoded(&[(block(), named("2001:db8::17/128")), (block(), unnamed.clone())]);
    let body = concat!(
        "01",
        "00000000",
        "64400000",
        "0c",
        "64400007",
        "80",
        "20010db8000000000000000000000017",
        "0d",
        "64400007",
        "40",
        "20010db8000000010000000000000000",
    );
    assert_eq!(hex(&octets[RECORD_HEADER_LENGTH..]), body);
    assert_eq!(position.event, 102);
    // Of an address within a network, the network is written.
    let within =
        Change::Unnamed { address: ADDRESS, client: "2001:db8:0:1::9/64".parse().unwrap() };
    assert_eq!(encoded(&[(block(), within)]).0, encoded(&[(block(), unnamed)]).0);
}

#[test]
fn every_kind_of_change_both_ways() {
    let changes = every_change();
    let (octets, position) = encoded(&changes);
    let record = Record::decode(&octets, SEGMENT.seal(&[0xbb; 16])).unwrap();
    assert_eq!(record.changes().collect::<Vec<_>>(), changes);
    assert_eq!((record.number.0, record.event, record.synced.0), (9, 100, 8));
    assert_eq!((record.length, record.events), (octets.len(), 8));
    assert_eq!(position.event, 108);
    let runs: Vec<_> = record
        .runs()
        .flat_map(|(table, run)| changes_in(run).map(move |change| (table, change)))
        .collect();
    assert_eq!(runs, changes);
    assert_eq!(record.runs().count(), 5);
    let raw: Vec<u8> = record.changes().raw().flat_map(|(_, raw)| raw.octets().to_vec()).collect();
    let alone: Vec<Change> = changes.into_iter().map(|(_, change)| change).collect();
    assert_eq!(changes_in(&raw).collect::<Vec<_>>(), alone);
}

#[test]
fn growth_is_what_was_created_and_not_deleted() {
    let growth = |changes: &[Change]| {
        let mut octets = Vec::new();
        changes.iter().for_each(|change| encode_change(&mut octets, change));
        let Growth { entries, addresses, is_forgotten } = growth_in(&octets);
        assert!(!is_forgotten);
        (entries, addresses)
    };
    let (port, client) = (MappedPort(1024), client());
    let created = Change::Created { port, client };
    let deleted = Change::Deleted { port, client };
    let authenticator = Authenticator::new(&[7; 16]).unwrap();
    let learned = Change::AuthenticatorLearned { address: client.address, authenticator };
    assert_eq!(growth(&[]), (0, 0));
    assert_eq!(growth(&[Change::Initialized, created.clone(), learned.clone()]), (1, 1));
    assert_eq!(growth(&[learned.clone(), learned.clone(), created.clone()]), (1, 1));
    assert_eq!(growth(&[created.clone(), created.clone(), learned]), (2, 1), "of one address");
    assert_eq!(growth(&[deleted.clone(), deleted.clone(), created.clone()]), (-1, 0));
    assert_eq!(growth(&[created.clone(), deleted, Change::Used { port }]), (0, 0));
    let mut octets = Vec::new();
    encode_change(&mut octets, &created);
    octets.push(0xff);
    let created = Growth { entries: 1, ..Growth::default() };
    assert_eq!(growth_in(&octets), created, "up to what is no change");
    octets.pop();
    encode_change(&mut octets, &Change::Forgotten);
    assert_eq!(growth_in(&octets), Growth { is_forgotten: true, ..created });
}

#[test]
fn nothing_and_the_end() {
    let (octets, position) = encoded(&[]);
    assert!(octets.is_empty());
    assert_eq!(position.record, RecordNumber(9));
    let mut out = Vec::new();
    let mut position = position;
    encode_end(
        &mut out,
        SEGMENT.seal(&[0xbb; 16]),
        &mut position,
        RecordNumber(8),
        Timestamp::default(),
    );
    let record = Record::decode(&out, SEGMENT.seal(&[0xbb; 16])).unwrap();
    assert!(record.is_end());
    assert_eq!((record.changes().count(), position.record.0, out.len()), (0, 10, 45));
}

#[test]
fn changes_that_are_too_many_become_several_records() {
    let authenticator = Authenticator::new(&[7; 510]).unwrap();
    let change = Change::AuthenticatorLearned { address: client().address, authenticator };
    let changes: Vec<_> = (0..2000).map(|n| (table((n % 2) as u8), change.clone())).collect();
    let (octets, position) = encoded(&changes);
    let (mut rest, mut found, mut number) = (&octets[..], Vec::new(), 9);
    while !rest.is_empty() {
        let record = Record::decode(rest, SEGMENT.seal(&[0xbb; 16])).unwrap();
        assert_eq!(record.number.0, number);
        assert!(record.length <= RECORD_MAX);
        found.extend(record.changes());
        number += 1;
        rest = &rest[record.length..];
    }
    assert_eq!(found, changes);
    assert_eq!(position.record.0, number);
    assert!(number > 9 + 3);
}

#[test]
fn every_truncation_and_every_flipped_bit() {
    let (octets, _) = encoded(&every_change());
    for length in 0..octets.len() {
        let needed = match Record::decode(&octets[..length], SEGMENT.seal(&[0xbb; 16])) {
            Err(Invalid::Incomplete(needed)) => needed,
            other => panic!("{length}: {other:?}"),
        };
        assert!(needed == RECORD_HEADER_LENGTH || needed == octets.len());
    }
    for at in 0..octets.len() {
        for bit in 0..8 {
            let mut flipped = octets.clone();
            flipped[at] ^= 1 << bit;
            let result = Record::decode(&flipped, SEGMENT.seal(&[0xbb; 16]));
            assert!(matches!(result, Err(Invalid::Header | Invalid::Body)), "{at}");
        }
    }
    let octets = header().encode();
    for at in 0..octets.len() {
        assert_eq!(Header::decode(&octets[..at]), Err(HeaderError::Truncated));
        for bit in 0..8 {
            let mut flipped = octets;
            flipped[at] ^= 1 << bit;
            assert_eq!(Header::decode(&flipped), Err(HeaderError::Damaged), "{at}");
        }
    }
}

#[test]
fn a_record_counts_in_its_own_file_alone() {
    let (octets, _) = encoded(&every_change());
    for other in [
        FileId { kind: FileKind::Snapshot, ..SEGMENT },
        FileId { epoch: 4, ..SEGMENT },
        FileId { shard: 0, ..SEGMENT },
        FileId { number: 6, ..SEGMENT },
    ] {
        assert_eq!(Record::decode(&octets, other.seal(&[0xbb; 16])).unwrap_err(), Invalid::Header);
    }
    assert!(Record::decode(&octets, SEGMENT.seal(&[0xbc; 16])).is_err());
}

fn with_checksum(mut octets: [u8; HEADER_LENGTH]) -> [u8; HEADER_LENGTH] {
    let checksum = crc32c(&octets[..76]);
    octets[76..].copy_from_slice(&checksum.to_be_bytes());
    octets
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let mut octets = header().encode();
    octets[9] = 4;
    let error = Header::decode(&with_checksum(octets)).unwrap_err();
    assert_eq!(error, HeaderError::Newer(4));
    assert_eq!(error.to_string(), "format version 4, of which this program knows up to 3");
    for before in [1, 2] {
        octets[9] = before;
        let expected = Header { version: before.into(), ..header() };
        assert_eq!(Header::decode(&with_checksum(octets)), Ok(expected), "one before");
        assert_eq!(expected.encode(), with_checksum(octets));
    }
    octets[9] = 0;
    assert_eq!(Header::decode(&with_checksum(octets)), Err(HeaderError::Damaged));
    for (at, value) in [(10, 3), (11, 1), (13, 2), (58, 1)] {
        let mut octets = header().encode();
        octets[at] = value;
        assert_eq!(Header::decode(&with_checksum(octets)), Err(HeaderError::Damaged), "{at}");
    }
}

#[test]
fn a_body_without_a_meaning_is_refused_whatever_its_checksum() {
    let name = |length, last| {
        let mut body = [0; 9 + 22];
        (body[0], body[9]) = (kind::TABLE, kind::NAMED);
        (body[14], body[30]) = (length, last);
        body
    };
    for body in [
        &[kind::INITIALIZED][..],
        &[kind::TABLE, 1, 2, 3, 4, 5, 6, 7, 8],
        &[kind::TABLE, 1, 2, 3, 4, 5, 6, 7, 8, 0],
        &[kind::TABLE, 1, 2, 3, 4, 5, 6, 7, 8, kind::CREATED, 1, 2],
        &[kind::TABLE, 1, 2, 3, 4, 5, 6, 7, 8, kind::INITIALIZED, kind::END],
        &[kind::END, kind::END],
        &[kind::FORGOTTEN],
        &[kind::TABLE, 1, 2, 3, 4, 5, 6, 7, 8, 14],
        &[14],
        &name(129, 0),
        &name(64, 1),
        &name(128, 1)[..29],
    ] {
        let mut out = Vec::new();
        let position = Position { record: RecordNumber(1), event: 0 };
        let none = RecordNumber(0);
        let record =
            Encoder::new(&mut out, SEGMENT.seal(&[0xbb; 16]), position, none, Timestamp::default());
        record.out.extend_from_slice(body);
        record.finish();
        let error = Record::decode(&out, SEGMENT.seal(&[0xbb; 16])).unwrap_err();
        assert_eq!(error, Invalid::Meaning, "{body:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_octets_make_it_panic(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        proptest::prop_assert!(Record::decode(&octets, SEGMENT.seal(&[0xbb; 16])).is_err());
        proptest::prop_assert!(Header::decode(&octets).is_err());
        let _ = changes_in(&octets).count();
    }
}
