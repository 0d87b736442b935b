//! Which ports there are lines about: so a look-up opens few files where a port was nobody's, or
//! was never used.
//!
//! A file has the ports of its own lines together with those of some files before it: that of
//! number n has those of as many files as the lowest bit of n says, itself being the last (a
//! Fenwick tree). So the last file before another one that has a port is found in a number of files
//! that grows with the logarithm of all of them.
//!
//! Octets, numbers big-endian: how many NAT64s; for each its address and how many ports, 4 octets
//! each; then for each its ports, two octets each in order, or a bit for each port, where that is
//! shorter.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use super::content::ReadsAt;

/// Octets of a bit for each port.
const BITS_OCTETS: usize = 1 << 13;
/// Octets of a NAT64 before its ports.
const HEAD_OCTETS: usize = 8;

/// Ports of NAT64s.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NotedPorts {
    /// In order.
    ports: BTreeMap<Ipv4Addr, Vec<u16>>,
}

/// Where such a set stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedPlace {
    pub(super) offset: u64,
    pub(super) octets: usize,
    /// Their CRC32C: what a disk changed is not taken over into the next file.
    pub(super) crc: u32,
}

impl NotedPorts {
    pub(super) fn any(&self) -> bool {
        !self.ports.is_empty()
    }

    pub(super) fn insert(&mut self, port: SocketAddrV4) {
        let ports = self.ports.entry(*port.ip()).or_default();
        let port = port.port();
        if ports.last().is_none_or(|&last| last < port) {
            ports.push(port);
        } else if let Err(place) = ports.binary_search(&port) {
            ports.insert(place, port);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        for (nat64, mut others) in other.ports {
            let ports = self.ports.entry(nat64).or_default();
            ports.append(&mut others);
            ports.sort_unstable();
            ports.dedup();
        }
    }

    pub(super) fn to_octets(&self) -> Vec<u8> {
        // Addresses and ports are at most 2^32 and 2^16.
        let mut octets = (self.ports.len() as u32).to_be_bytes().to_vec();
        for (nat64, ports) in &self.ports {
            octets.extend(nat64.octets());
            octets.extend((ports.len() as u32).to_be_bytes());
        }
        for ports in self.ports.values() {
            if 2 * ports.len() < BITS_OCTETS {
                octets.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
            } else {
                let mut bits = vec![0; BITS_OCTETS];
                for &port in ports {
                    bits[usize::from(port / 8)] |= 1 << (port % 8);
                }
                octets.append(&mut bits);
            }
        }
        octets
    }

    /// None where these are no such octets.
    pub(super) fn of_octets(octets: &[u8]) -> Option<Self> {
        let heads = Heads::of(octets, octets.len())?;
        let mut set = Self::default();
        for (nat64, range) in heads.0 {
            let octets = &octets[range];
            let ports = match octets.len() {
                BITS_OCTETS => (0..=u16::MAX).filter(|&port| has(octets, port)).collect(),
                _ => octets.as_chunks().0.iter().map(|&port| u16::from_be_bytes(port)).collect(),
            };
            set.ports.insert(nat64, ports);
        }
        Some(set)
    }
}

impl NotedPlace {
    /// Of a set that is written from that octet on.
    pub(super) fn new(offset: u64, set: &[u8]) -> Self {
        Self { offset, octets: set.len(), crc: crc32c::crc32c(set) }
    }

    /// `1234 56 0badcafe`
    pub(super) fn to_note(self) -> String {
        format!("{} {} {:08x}", self.offset, self.octets, self.crc)
    }

    pub(super) fn of_note(note: &str) -> Option<Self> {
        let (offset, rest) = note.split_once(' ')?;
        let (octets, crc) = rest.split_once(' ')?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        Some(Self { offset: offset.parse().ok()?, octets: octets.parse().ok()?, crc })
    }

    /// Fails where it is not as it was written.
    pub(super) fn read(self, file: &impl ReadsAt) -> io::Result<NotedPorts> {
        // It is in the file, or that has an end before.
        let end = self.offset.saturating_add(self.octets as u64);
        if end > file.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut octets = vec![0; self.octets];
        file.fill_at(&mut octets, self.offset)?;
        let set = NotedPorts::of_octets(&octets).filter(|_| crc32c::crc32c(&octets) == self.crc);
        set.ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Whether a port is in it, by what has to be read for that.
    pub(super) fn has(self, file: &impl ReadsAt, port: SocketAddrV4) -> io::Result<bool> {
        let read = |range: Range<usize>| {
            let mut octets = vec![0; range.len().min(self.octets)];
            file.fill_at(&mut octets, self.offset.saturating_add(range.start as u64))?;
            Ok::<_, io::Error>(octets)
        };
        let count = read(0..4)?;
        let count = count.first_chunk().map_or(0, |count| u32::from_be_bytes(*count));
        let heads = read(0..(count as usize).saturating_mul(HEAD_OCTETS).saturating_add(4))?;
        let heads = Heads::of(&heads, self.octets).ok_or(io::ErrorKind::InvalidData)?;
        let Ok(found) = heads.0.binary_search_by_key(port.ip(), |(nat64, _)| *nat64) else {
            return Ok(false);
        };
        Ok(has(&read(heads.0[found].1.clone())?, port.port()))
    }
}

/// NAT64s, and where their ports stand.
struct Heads(Vec<(Ipv4Addr, Range<usize>)>);

impl Heads {
    /// Of the first octets of a set that has so many; None where that is not so.
    fn of(octets: &[u8], length: usize) -> Option<Self> {
        let (count, rest) = octets.split_first_chunk()?;
        let count = u32::from_be_bytes(*count) as usize;
        let heads = rest.as_chunks::<HEAD_OCTETS>().0.get(..count)?;
        let mut begin = 4 + count * HEAD_OCTETS;
        let mut all = Vec::with_capacity(count);
        for head in heads {
            let [a, b, c, d, ports @ ..] = *head;
            let ports = u32::from_be_bytes(ports) as usize;
            let end = begin.checked_add(ports.checked_mul(2)?.min(BITS_OCTETS))?;
            all.push((Ipv4Addr::new(a, b, c, d), begin..end));
            begin = end;
        }
        (begin == length).then_some(Self(all))
    }
}

/// Whether ports have one.
fn has(ports: &[u8], port: u16) -> bool {
    match ports.len() {
        BITS_OCTETS => ports[usize::from(port / 8)] & 1 << (port % 8) != 0,
        _ => ports.as_chunks().0.binary_search_by_key(&port, |&p| u16::from_be_bytes(p)).is_ok(),
    }
}

/// The number of the file behind which those begin whose ports a file of this number has.
pub(super) fn begin_of(serial: u32) -> u32 {
    serial & serial.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn port(nat64: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, nat64), port)
    }

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let mut set = NotedPorts::default();
        let few = [port(7, 0), port(7, 3719), port(7, 3700), port(7, 3719), port(9, u16::MAX)];
        few.into_iter().for_each(|port| set.insert(port));
        // One more than there is room for without bits.
        let mut others = NotedPorts::default();
        (0..=4096).for_each(|number| others.insert(port(8, 2 * number)));
        others.insert(port(7, 4000));
        set.add(others);
        let octets = set.to_octets();
        assert_eq!(octets.len(), 4 + 3 * 8 + 2 * (4 + 1) + BITS_OCTETS);
        assert_eq!(NotedPorts::of_octets(&octets).as_ref(), Some(&set));
        assert_eq!(NotedPorts::of_octets(&octets[1..]), None);
        assert_eq!(NotedPorts::of_octets(&octets[..octets.len() - 1]), None);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[&[1; 5], &octets[..]].concat()).unwrap();
        let place = NotedPlace::new(5, &octets);
        assert_eq!(NotedPlace::of_note(&place.to_note()), Some(place));
        assert_eq!(place.read(&file).unwrap(), set);
        assert!(NotedPlace { crc: place.crc ^ 1, ..place }.read(&file).is_err());
        for (nat64, number, is_there) in [
            (7, 0, true),
            (7, 4000, true),
            (7, 4001, false),
            (8, 8192, true),
            (8, 8191, false),
            (8, 9000, false),
            (9, u16::MAX, true),
            (10, 0, false),
        ] {
            assert_eq!(
                place.has(&file, port(nat64, number)).unwrap(),
                is_there,
                "{nat64} {number}"
            );
        }
        let empty = NotedPorts::default().to_octets();
        assert_eq!(NotedPorts::of_octets(&empty), Some(NotedPorts::default()));
    }

    #[test]
    fn files_together_have_all_before_them() {
        for last in 1..70 {
            let (mut end, mut steps) = (last, 0);
            while end > 0 {
                assert!(begin_of(end) < end);
                (end, steps) = (begin_of(end), steps + 1);
            }
            assert!(steps <= 7);
        }
    }
}
