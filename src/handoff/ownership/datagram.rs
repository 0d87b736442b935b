//! What hosts of a cell send to each other: that they are there, how far they have watched,
//! requests that they pass on, and which entries of tables have live TCP connections with them.
//!
//! | octets | |
//! | --- | --- |
//! | 4 | `n64f` |
//! | 1 | 1: it is there, 2: a request, 3: how far it has watched |
//! | | 4: it wants to know live connections, 5: it has these |
//! | 4, 8 | host and run that send it |
//! | 8 | its number, higher than that of the one before; all of 4 or 5 at a time have the same |
//! | 4, 4, 2 | of a request: local address, address and port of the NAT64 |
//! | 4, 1, 8 | the host that it reached first, how often it was passed on, by which claim |
//! | | its payload |
//! | 8, 1 | of how far: the revision, and 1 where it gives all its tables away, else 0 |
//! | | what a later version may say behind that |
//! | 4, 4 | of 4, for each table: local address, address of the NAT64 |
//! | 4, 4 | of 5: local address, address of the NAT64 |
//! | 2, 2 | the first and the last port that it says something about |
//! | 1 | 1: a list, 2: a bitmap |
//! | | of a list, 2 for each live port, ascending |
//! | | of a bitmap, a bit for each port, the highest bit of an octet first |
//! | 16 | MAC of all before |
//!
//! All numbers are in network order. A host of another version drops a kind that it does not know,
//! and goes on: so a kind never changes, but for what stands behind 3. Else what is of another
//! length, or has bits beyond the last port, is malformed.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use super::asked::PassedOn;
use super::giving::HostProgress;
use super::live_part::{LivePart, WantedTables};
use super::octets::{put_table, take, take_table};
use super::transaction::{HostId, HostRun, Revision};
use crate::handoff::entry::TableKey;

const MAGIC: &[u8; 4] = b"n64f";
const THERE: u8 = 1;
const REQUEST: u8 = 2;
const PROGRESS: u8 = 3;
/// The bit of a host that gives all its tables away.
const LEAVES: u8 = 1;
const WANTS_LIVE: u8 = 4;
const LIVE: u8 = 5;
const COMMON: usize = 4 + 1 + 4 + 8 + 8;
const PASSED: usize = 4 + 4 + 2 + 4 + 1 + 8;
const MAC_LENGTH: usize = 16;
/// The octets of a datagram that passes a request on, beside its payload.
pub const HOST_DATAGRAM_HEADER: usize = COMMON + PASSED + MAC_LENGTH;

/// Why a datagram of another host is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDropReason {
    /// It is too short, or its MAC is not by the cell's key.
    Unauthenticated,
    /// It is of a kind that this version does not know.
    UnknownKind,
    /// It is not what its kind looks like.
    Malformed,
    /// The cell has no such host, or that is in another run now.
    UnknownHost,
    /// A later one came already.
    Old,
    /// Nobody here wants to know that.
    Unasked,
    /// There is no room for it.
    NoRoom,
}

impl HostDropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Unauthenticated,
        Self::UnknownKind,
        Self::Malformed,
        Self::UnknownHost,
        Self::Old,
        Self::Unasked,
        Self::NoRoom,
    ];

    /// The label of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownKind => "unknown_kind",
            Self::Malformed => "malformed",
            Self::UnknownHost => "unknown_host",
            Self::Old => "old",
            Self::Unasked => "unasked",
            Self::NoRoom => "no_room",
        }
    }
}

/// A request that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedRequest<'a> {
    pub table: TableKey,
    /// The NAT64's.
    pub port: u16,
    pub passed: PassedOn,
    pub payload: &'a [u8],
}

/// What a datagram of a host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostWord<'a> {
    /// That it is there, and reaches the engine: it may be given tables.
    There,
    /// It passes a request on.
    Request(PassedRequest<'a>),
    /// How far it has watched, also where it is to be given nothing.
    Progress(HostProgress),
    /// It wants to know the live connections with the NAT64s of these tables, which it owns.
    WantsLive(WantedTables<'a>),
    /// It has these.
    Live(LivePart<'a>),
}

/// What a host sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDatagram<'a> {
    pub from: HostRun,
    /// Higher than that of the one before: one that is sent again by somebody else says nothing.
    pub number: u64,
    pub word: HostWord<'a>,
}

impl<'a> HostDatagram<'a> {
    /// Appends it to `out`, with a MAC by this key.
    pub fn emit(&self, key: &[u8; 16], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.push(match self.word {
            HostWord::There => THERE,
            HostWord::Request(_) => REQUEST,
            HostWord::Progress(_) => PROGRESS,
            HostWord::WantsLive(_) => WANTS_LIVE,
            HostWord::Live(_) => LIVE,
        });
        out.extend_from_slice(&self.from.host.0.to_be_bytes());
        out.extend_from_slice(&self.from.number.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        match &self.word {
            HostWord::There => {}
            HostWord::Request(PassedRequest { table, port, passed, payload }) => {
                put_table(out, *table);
                out.extend_from_slice(&port.to_be_bytes());
                out.extend_from_slice(&passed.by.0.to_be_bytes());
                out.push(passed.times);
                out.extend_from_slice(&passed.claimed.0.to_be_bytes());
                out.extend_from_slice(payload);
            }
            HostWord::Progress(HostProgress { watched, leaves }) => {
                out.extend_from_slice(&watched.0.to_be_bytes());
                out.push(if *leaves { LEAVES } else { 0 });
            }
            HostWord::WantsLive(tables) => out.extend_from_slice(tables.octets()),
            HostWord::Live(part) => part.emit(out),
        }
        let mac = mac(key, &out[start..]);
        out.extend_from_slice(&mac);
    }

    /// What somebody with this key has sent.
    ///
    /// # Errors
    /// Where nobody with this key has, or what is sent is nothing that this version reads.
    pub fn parse(key: &[u8; 16], octets: &'a [u8]) -> Result<Self, HostDropReason> {
        let authentic = octets
            .split_last_chunk::<MAC_LENGTH>()
            .filter(|(said, sent_mac)| bool::from(mac(key, said).ct_eq(*sent_mac)));
        let (said, _) = authentic.ok_or(HostDropReason::Unauthenticated)?;
        let said = said.strip_prefix(MAGIC).ok_or(HostDropReason::UnknownKind)?;
        let (&kind, rest) = said.split_first().ok_or(HostDropReason::Malformed)?;
        if !(THERE..=LIVE).contains(&kind) {
            return Err(HostDropReason::UnknownKind);
        }
        Self::parse_known(kind, rest).ok_or(HostDropReason::Malformed)
    }

    fn parse_known(kind: u8, mut rest: &'a [u8]) -> Option<Self> {
        let host = HostId(u32::from_be_bytes(take(&mut rest)?));
        let from = HostRun { host, number: u64::from_be_bytes(take(&mut rest)?) };
        let number = u64::from_be_bytes(take(&mut rest)?);
        let word = match kind {
            THERE => rest.is_empty().then_some(HostWord::There)?,
            REQUEST => {
                let table = take_table(&mut rest)?;
                let port = u16::from_be_bytes(take(&mut rest)?);
                let by = HostId(u32::from_be_bytes(take(&mut rest)?));
                let [times] = take(&mut rest)?;
                let claimed = Revision(u64::from_be_bytes(take(&mut rest)?));
                let passed = PassedOn { by, times, claimed };
                HostWord::Request(PassedRequest { table, port, passed, payload: rest })
            }
            PROGRESS => {
                let watched = Revision(u64::from_be_bytes(take(&mut rest)?));
                let [said] = take(&mut rest)?;
                HostWord::Progress(HostProgress { watched, leaves: said & LEAVES != 0 })
            }
            WANTS_LIVE => HostWord::WantsLive(WantedTables::parse(rest)?),
            LIVE => HostWord::Live(LivePart::parse(rest)?),
            _ => return None,
        };
        Some(Self { from, number, word })
    }
}

fn mac(key: &[u8; 16], octets: &[u8]) -> [u8; MAC_LENGTH] {
    let mut mac = SipHasher24::new_with_key(key);
    mac.write(octets);
    mac.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [7; 16];
    const FROM: HostRun = HostRun { host: HostId(3), number: 0xfeed };
    /// `n64f`, a kind, [`FROM`], number 9.
    const HEAD: &[u8] = b"n64f\x00\0\0\0\x03\0\0\0\0\0\0\xfe\xed\0\0\0\0\0\0\0\x09";
    /// 203.0.113.5, 192.0.2.7.
    const TABLE: &[u8] = &[203, 0, 113, 5, 192, 0, 2, 7];

    /// What somebody with the key sends.
    fn authentic(kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut octets = [HEAD, rest].concat();
        octets[4] = kind;
        let mac = mac(&KEY, &octets);
        octets.extend_from_slice(&mac);
        octets
    }

    #[test]
    fn what_was_sent_is_read_by_who_has_the_key() {
        let table = TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() };
        let passed = PassedOn { by: HostId(4), times: 1, claimed: Revision(17) };
        let request = PassedRequest { table, port: 4000, passed, payload: b"a request" };
        let empty = PassedRequest { payload: b"", ..request };
        let list = [TABLE, &[0, 0, 0xff, 0xff, 1, 0x0e, 0x87]].concat();
        let bitmap = [TABLE, &[0, 8, 0, 16, 2, 0x81, 0x80]].concat();
        let progress = |leaves| HostWord::Progress(HostProgress { watched: Revision(18), leaves });
        let words = [
            (THERE, HostWord::There, vec![]),
            (PROGRESS, progress(false), b"\0\0\0\0\0\0\0\x12\0".to_vec()),
            (PROGRESS, progress(true), b"\0\0\0\0\0\0\0\x12\x01".to_vec()),
            (REQUEST, HostWord::Request(empty), {
                [TABLE, b"\x0f\xa0\0\0\0\x04\x01\0\0\0\0\0\0\0\x11"].concat()
            }),
            (REQUEST, HostWord::Request(request), {
                [TABLE, b"\x0f\xa0\0\0\0\x04\x01\0\0\0\0\0\0\0\x11a request"].concat()
            }),
            (WANTS_LIVE, HostWord::WantsLive(WantedTables::parse(TABLE).unwrap()), TABLE.to_vec()),
            (LIVE, HostWord::Live(LivePart::parse(&list).unwrap()), list.clone()),
            (LIVE, HostWord::Live(LivePart::parse(&bitmap).unwrap()), bitmap.clone()),
        ];
        for (kind, word, rest) in words {
            let sent = HostDatagram { from: FROM, number: 9, word };
            let mut octets = Vec::new();
            sent.emit(&KEY, &mut octets);
            assert_eq!(octets, authentic(kind, &rest));
            assert_eq!(HostDatagram::parse(&KEY, &octets), Ok(sent));
            let unread = Err(HostDropReason::Unauthenticated);
            assert_eq!(HostDatagram::parse(&[8; 16], &octets), unread);
            for at in 0..octets.len() {
                assert_eq!(HostDatagram::parse(&KEY, &octets[..at]), unread);
                let mut other = octets.clone();
                other[at] ^= 1;
                assert_eq!(HostDatagram::parse(&KEY, &other), unread, "{at}");
            }
        }
        assert_eq!(authentic(THERE, &[]).len(), COMMON + MAC_LENGTH);
        let mut octets = Vec::new();
        let word = HostWord::Request(request);
        HostDatagram { from: FROM, number: 9, word }.emit(&KEY, &mut octets);
        assert_eq!(octets.len(), HOST_DATAGRAM_HEADER + request.payload.len());
    }

    #[test]
    fn who_has_the_key_may_be_of_another_version_or_mistaken() {
        let read = |octets: &[u8]| HostDatagram::parse(&KEY, octets).map(|read| read.number);
        for kind in [0, 6, 255] {
            let reason = Err(HostDropReason::UnknownKind);
            assert_eq!(read(&authentic(kind, &[0; 20])), reason, "{kind}");
        }
        let mut other = authentic(THERE, &[]);
        other.truncate(COMMON);
        other[0] = b'N';
        let its_mac = mac(&KEY, &other);
        other.extend_from_slice(&its_mac);
        assert_eq!(read(&other), Err(HostDropReason::UnknownKind));
        let malformed = Err(HostDropReason::Malformed);
        // Cut off within what all have, and within what each kind has.
        for end in MAGIC.len()..COMMON {
            let mut cut = HEAD[..end].to_vec();
            if let Some(kind) = cut.get_mut(4) {
                *kind = THERE;
            }
            let its_mac = mac(&KEY, &cut);
            cut.extend_from_slice(&its_mac);
            assert_eq!(read(&cut), malformed, "{end}");
        }
        assert_eq!(read(&authentic(THERE, &[0])), malformed);
        for end in 0..PASSED {
            assert_eq!(read(&authentic(REQUEST, &[1; PASSED][..end])), malformed);
        }
        for end in 0..9 {
            assert_eq!(read(&authentic(PROGRESS, &[1; 9][..end])), malformed);
        }
        assert_eq!(read(&authentic(PROGRESS, &[1; 20])), Ok(9), "a later version says more");
        let table = |rest: &[u8]| [TABLE, rest].concat();
        for rest in [vec![], table(&[0]), table(&TABLE[..7])] {
            assert_eq!(read(&authentic(WANTS_LIVE, &rest)), malformed, "{rest:?}");
        }
        let parts: [&[u8]; 12] = [
            &[],
            &[0, 0, 0, 9],
            // Neither a list nor a bitmap.
            &[0, 0, 0, 9, 0],
            &[0, 0, 0, 9, 3, 0, 0],
            // From a port to one before it.
            &[0, 9, 0, 8, 1],
            // Half a port, one that is before or behind these, and two that do not ascend.
            &[0, 8, 0, 9, 1, 0],
            &[0, 8, 0, 9, 1, 0, 7],
            &[0, 8, 0, 9, 1, 0, 10],
            &[0, 8, 0, 9, 1, 0, 9, 0, 9],
            // A bitmap that is too short, or too long, or goes beyond the last port.
            &[0, 8, 0, 16, 2, 0],
            &[0, 8, 0, 16, 2, 0, 0, 0],
            &[0, 8, 0, 16, 2, 0, 0x40],
        ];
        for rest in parts {
            assert_eq!(read(&authentic(LIVE, &table(rest))), malformed, "{rest:?}");
        }
        for end in 0..TABLE.len() {
            assert_eq!(read(&authentic(LIVE, &TABLE[..end])), malformed);
        }
        assert_eq!(read(&authentic(LIVE, &table(&[0, 8, 0, 8, 1]))), Ok(9));
    }

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let mut names = HostDropReason::ALL.map(HostDropReason::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HostDropReason::ALL.len());
        let numbers = HostDropReason::ALL.map(|reason| reason as usize);
        assert!(numbers.into_iter().eq(0..HostDropReason::ALL.len()));
    }
}
