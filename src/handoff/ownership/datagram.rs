//! What hosts of a cell send to each other: that they are there, and requests that they pass on.
//!
//! | octets | |
//! | --- | --- |
//! | 4 | `n64f` |
//! | 1 | 1: it is there, 2: a request |
//! | 4, 8 | host and run that send it |
//! | 8 | its number, higher than that of the one before |
//! | 4, 4, 2 | of a request: local address, address and port of the NAT64 |
//! | 4, 1, 8 | the host that it reached first, how often it was passed on, by which claim |
//! | | its payload |
//! | 16 | MAC of all before |
//!
//! All numbers are in network order.

use std::hash::Hasher;
use std::net::Ipv4Addr;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use super::asked::PassedOn;
use super::transaction::{HostId, HostRun, Revision};
use crate::handoff::entry::TableKey;

const MAGIC: &[u8; 4] = b"n64f";
const THERE: u8 = 1;
const REQUEST: u8 = 2;
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
    /// `None`: that it is there.
    pub request: Option<PassedRequest<'a>>,
}

impl<'a> HostDatagram<'a> {
    /// Appends it to `out`, with a MAC by this key.
    pub fn emit(&self, key: &[u8; 16], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.push(if self.request.is_some() { REQUEST } else { THERE });
        out.extend_from_slice(&self.from.host.0.to_be_bytes());
        out.extend_from_slice(&self.from.number.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        if let Some(PassedRequest { table, port, passed, payload }) = &self.request {
            out.extend_from_slice(&table.local.octets());
            out.extend_from_slice(&table.nat64.octets());
            out.extend_from_slice(&port.to_be_bytes());
            out.extend_from_slice(&passed.by.0.to_be_bytes());
            out.push(passed.times);
            out.extend_from_slice(&passed.claimed.0.to_be_bytes());
            out.extend_from_slice(payload);
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
        let request = match kind {
            THERE if rest.is_empty() => None,
            REQUEST => {
                let [local, nat64] = [take::<4>(&mut rest)?, take::<4>(&mut rest)?];
                let [local, nat64] = [local, nat64].map(Ipv4Addr::from);
                let port = u16::from_be_bytes(take(&mut rest)?);
                let by = HostId(u32::from_be_bytes(take(&mut rest)?));
                let [times] = take(&mut rest)?;
                let claimed = Revision(u64::from_be_bytes(take(&mut rest)?));
                let passed = PassedOn { by, times, claimed };
                let table = TableKey { local, nat64 };
                Some(PassedRequest { table, port, passed, payload: rest })
            }
            _ => return None,
        };
        Some(Self { from, number, request })
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
        for request in [None, Some(request), Some(PassedRequest { payload: b"", ..request })] {
            let sent = HostDatagram { from, number: 9, request };
            let mut octets = Vec::new();
            sent.emit(&key, &mut octets);
            assert_eq!(HostDatagram::parse(&key, &octets), Some(sent));
            assert_eq!(HostDatagram::parse(&[8; 16], &octets), None);
            for at in 0..octets.len() {
                assert_eq!(HostDatagram::parse(&key, &octets[..at]), None);
                let mut other = octets.clone();
                other[at] ^= 1;
                assert_eq!(HostDatagram::parse(&key, &other), None, "{at}");
            }
            let payload = request.map_or(0, |request| request.payload.len());
            let length = if request.is_some() { HOST_DATAGRAM_HEADER + payload } else { 41 };
            assert_eq!(octets.len(), length);
        }
        // Who has the key may be of a later version.
        let mut later = [MAGIC.as_slice(), &[3], &[0; 20]].concat();
        let mac = mac(&key, &later);
        later.extend_from_slice(&mac);
        assert_eq!(HostDatagram::parse(&key, &later), None);
    }
}
