//! Octets, read as a header, as a file, and as the body of a record.

use std::net::Ipv4Addr;

use nat64handoff::disk::journal::{
    self, BODY_MAX, Encoder, FileId, FileKind, HEADER_LENGTH, Header, Position,
    RECORD_HEADER_LENGTH, Record, RecordNumber, changes_in, encode_change,
};
use nat64handoff::handoff::change::{Change, Timestamp};
use nat64handoff::handoff::entry::TableKey;

const BOOT: [u8; 16] = [1; 16];

/// As RFC 3720 has it, bit by bit.
pub fn crc32c(octets: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for octet in octets {
        crc ^= u32::from(*octet);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

pub fn check(octets: &[u8]) {
    if let Ok(header) = Header::decode(octets) {
        assert_eq!(octets[..HEADER_LENGTH], header.encode());
    }
    let id = FileId { kind: FileKind::Segment, epoch: 1, shard: 0, number: 0 };
    let (mut at, mut records) = (0, 0);
    while at < octets.len() {
        match Record::decode(&octets[at..], id.seal(&BOOT)) {
            Ok(record) => {
                assert!((RECORD_HEADER_LENGTH + 1..=octets.len() - at).contains(&record.length));
                at += record.length;
            }
            Err(_) => at += 1,
        }
        records += 1;
    }
    assert!(records <= octets.len());
    body(octets, id);
}

/// Behind a header that fits.
fn body(octets: &[u8], id: FileId) {
    let mut file = Vec::new();
    let position = Position { record: RecordNumber(7), event: 9 };
    let time = Timestamp::from_micros(1);
    if octets.is_empty() || octets.len() > BODY_MAX {
        return;
    }
    // Of any record, with another body, length and checksums.
    let key = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
    let mut encoder = Encoder::new(&mut file, id.seal(&BOOT), position, RecordNumber(6), time);
    encoder.add(key, &Change::Initialized);
    encoder.finish();
    file.truncate(RECORD_HEADER_LENGTH);
    file[..4].copy_from_slice(&(octets.len() as u32).to_be_bytes());
    file[36..40].copy_from_slice(&crc32c(octets).to_be_bytes());
    let sealed = [&seal_octets(id)[..], &file[..40]].concat();
    // The seal's checksum goes on into the header's.
    file[40..].copy_from_slice(&crc32c(&sealed).to_be_bytes());
    file.extend_from_slice(octets);
    let record = match Record::decode(&file, id.seal(&BOOT)) {
        Ok(record) => record,
        Err(error) => return assert_eq!(error, journal::Invalid::Meaning),
    };
    assert_eq!((record.number, record.event, record.length), (RecordNumber(7), 9, file.len()));
    let mut events = 0;
    let mut changes = record.changes();
    for (table, raw) in record.changes().raw() {
        let change = raw.decode().expect("a whole change");
        assert_eq!(changes.next(), Some((table, change.clone())));
        let mut again = Vec::new();
        encode_change(&mut again, &change);
        assert_eq!(raw.octets(), again);
        assert!(changes_in(&again).eq([change.clone()]));
        assert_eq!(raw.is_event(), change.is_event());
        assert_eq!(raw.is_initialized(), change == Change::Initialized);
        assert_eq!(raw.is_forgotten(), change == Change::Forgotten);
        events += u64::from(change.is_event());
    }
    assert_eq!(changes.next(), None);
    assert_eq!(record.events, events);
    assert!(!record.is_end() || octets == [10]);
    // Written anew, what it says is the same.
    let changes: Vec<_> = record.changes().collect();
    let (mut anew, mut position) = (Vec::new(), position);
    journal::encode(&mut anew, id.seal(&BOOT), &mut position, RecordNumber(6), time, &changes);
    if let Ok(again) = Record::decode(&anew, id.seal(&BOOT)) {
        assert!(again.changes().eq(changes.iter().cloned()) || again.length < anew.len());
    } else {
        assert!(changes.is_empty());
    }
}

/// What the doc says of a seal.
fn seal_octets(id: FileId) -> [u8; 35] {
    let mut octets = [0; 35];
    octets[0] = id.kind as u8;
    octets[1..3].copy_from_slice(&id.shard.to_be_bytes());
    octets[3..11].copy_from_slice(&id.epoch.to_be_bytes());
    octets[11..19].copy_from_slice(&id.number.to_be_bytes());
    octets[19..].copy_from_slice(&BOOT);
    octets
}
