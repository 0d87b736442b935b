//! What hosts of a cell send to each other: that they are there, how far they have watched, and
//! requests that they pass on.
//!
//! | octets | |
//! | --- | --- |
//! | 4 | `n64f` |
//! | 1 | 1: it is there, 2: a request, 3: how far it has watched |
//! | 4, 8 | host and run that send it |
//! | 8 | its number, higher than that of the one before |
//! | 4, 4, 2 | of a request: local address, address and port of the NAT64 |
//! | 4, 1, 8 | the host that it reached first, how often it was passed on, by which claim |
//! | | its payload |
//! | 8, 1 | of how far: the revision, and 1 where it gives all its tables away, else 0 |
//! | | what a later version may say behind that |
//! | 16 | MAC of all before |
//!
//! All numbers are in network order. A host of another version ignores a kind that it does not
//! know: so a kind never changes, but for what stands behind 3.

use std::hash::Hasher;
use std::net::Ipv4Addr;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use super::asked::PassedOn;
use super::giving::HostProgress;
use super::transaction::{HostId, HostRun, Revision};
use crate::handoff::entry::TableKey;

const MAGIC: &[u8; 4] = b"n64f";
const THERE: u8 = 1;
const REQUEST: u8 = 2;
const PROGRESS: u8 = 3;
/// The bit of a host that gives all its tables away.
const LEAVES: u8 = 1;
const COMMON: usize = 4 + 1 + 4 + 8 + 8;
const PASSED: usize = 4 + 4 + 2 + 4 + 1 + 8;
const MAC_LENGTH: usize = 16;
/// The octets of a datagram that passes a request on, beside its payload.
pub const HOST_DATAGRAM_HEADER: usize = COMMON + PASSED + MAC_LENGTH;

/// A request that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedRequest<'a> {
    pub table: TableKey,
    /// The NAT64's.
    pub port: u16,
    pub passed: PassedOn,
    pub payload: &'a [u8],
}

/// What a host sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDatagram<'a> {
    pub from: HostRun,
    /// Higher than that of the one before: one that is sent again by somebody else says nothing.
    pub number: u64,
    pub word: HostWord<'a>,
}

/// What it says with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostWord<'a> {
    /// That it is there, and reaches the engine: it may be given tables.
    There,
    /// A request that it passes on.
    Request(PassedRequest<'a>),
    /// How far it has watched, also where it is to be given nothing.
    Progress(HostProgress),
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
        });
        out.extend_from_slice(&self.from.host.0.to_be_bytes());
        out.extend_from_slice(&self.from.number.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        match &self.word {
            HostWord::There => {}
            HostWord::Request(PassedRequest { table, port, passed, payload }) => {
                out.extend_from_slice(&table.local.octets());
                out.extend_from_slice(&table.nat64.octets());
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
        }
        let mac = mac(key, &out[start..]);
        out.extend_from_slice(&mac);
    }

    /// What somebody with this key has sent.
    pub fn parse(key: &[u8; 16], octets: &'a [u8]) -> Option<Self> {
        let (said, sent_mac) = octets.split_last_chunk::<MAC_LENGTH>()?;
        if !bool::from(mac(key, said).ct_eq(sent_mac)) {
            return None;
        }
        let mut rest = said.strip_prefix(MAGIC)?;
        let [kind] = take(&mut rest)?;
        let host = HostId(u32::from_be_bytes(take(&mut rest)?));
        let from = HostRun { host, number: u64::from_be_bytes(take(&mut rest)?) };
        let number = u64::from_be_bytes(take(&mut rest)?);
        let word = match kind {
            THERE if rest.is_empty() => HostWord::There,
            REQUEST => {
                let [local, nat64] = [take::<4>(&mut rest)?, take::<4>(&mut rest)?];
                let [local, nat64] = [local, nat64].map(Ipv4Addr::from);
                let port = u16::from_be_bytes(take(&mut rest)?);
                let by = HostId(u32::from_be_bytes(take(&mut rest)?));
                let [times] = take(&mut rest)?;
                let claimed = Revision(u64::from_be_bytes(take(&mut rest)?));
                let passed = PassedOn { by, times, claimed };
                let table = TableKey { local, nat64 };
                HostWord::Request(PassedRequest { table, port, passed, payload: rest })
            }
            PROGRESS => {
                let watched = Revision(u64::from_be_bytes(take(&mut rest)?));
                let [said] = take(&mut rest)?;
                HostWord::Progress(HostProgress { watched, leaves: said & LEAVES != 0 })
            }
            _ => return None,
        };
        Some(Self { from, number, word })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

fn mac(key: &[u8; 16], octets: &[u8]) -> [u8; MAC_LENGTH] {
    let mut mac = SipHasher24::new_with_key(key);
    mac.write(octets);
    mac.finish128().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_read_by_who_has_the_key() {
        let from = HostRun { host: HostId(3), number: 0xfeed };
        let table = TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() };
        let passed = PassedOn { by: HostId(4), times: 1, claimed: Revision(17) };
        let request = PassedRequest { table, port: 4000, passed, payload: b"a request" };
        let key = [7; 16];
        let progress = |leaves| HostWord::Progress(HostProgress { watched: Revision(18), leaves });
        for (word, length) in [
            (HostWord::There, 41),
            (HostWord::Request(request), HOST_DATAGRAM_HEADER + 9),
            (HostWord::Request(PassedRequest { payload: b"", ..request }), HOST_DATAGRAM_HEADER),
            (progress(false), 50),
            (progress(true), 50),
        ] {
            let sent = HostDatagram { from, number: 9, word };
            let mut octets = Vec::new();
            sent.emit(&key, &mut octets);
            assert_eq!(octets.len(), length);
            assert_eq!(HostDatagram::parse(&key, &octets), Some(sent));
            assert_eq!(HostDatagram::parse(&[8; 16], &octets), None);
            for at in 0..octets.len() {
                assert_eq!(HostDatagram::parse(&key, &octets[..at]), None);
                let mut other = octets.clone();
                other[at] ^= 1;
                assert_eq!(HostDatagram::parse(&key, &other), None, "{at}");
            }
        }
    }

    /// What somebody with the key sends, after the host, the run and the number.
    fn sent(kind: u8, rest: &[u8]) -> Vec<u8> {
        let from = [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0xfe, 0xed];
        let number = [0, 0, 0, 0, 0, 0, 0, 9];
        let mut octets = [MAGIC.as_slice(), &[kind], &from, &number, rest].concat();
        let mac = mac(&[7; 16], &octets);
        octets.extend_from_slice(&mac);
        octets
    }

    #[test]
    fn hosts_of_other_versions_understand_what_both_know() {
        fn parsed(octets: &[u8]) -> Option<HostWord<'_>> {
            HostDatagram::parse(&[7; 16], octets).map(|said| said.word)
        }
        // What versions before the progress send, and all that they know.
        assert_eq!(parsed(&sent(1, &[])), Some(HostWord::There));
        let mut there = Vec::new();
        let from = HostRun { host: HostId(3), number: 0xfeed };
        HostDatagram { from, number: 9, word: HostWord::There }.emit(&[7; 16], &mut there);
        assert_eq!(there, sent(1, &[]));
        assert_eq!(parsed(&sent(1, &[0])), None);
        let progress = [0, 0, 0, 0, 0, 0, 0, 18, 1];
        let word = HostWord::Progress(HostProgress { watched: Revision(18), leaves: true });
        assert_eq!(parsed(&sent(3, &progress)), Some(word));
        for at in 0..progress.len() {
            assert_eq!(parsed(&sent(3, &progress[..at])), None, "{at}");
        }
        // Later ones may say more, and other things.
        assert_eq!(parsed(&sent(3, &[&progress[..], b"more"].concat())), Some(word));
        assert_eq!(parsed(&sent(4, &progress)), None);
    }
}
