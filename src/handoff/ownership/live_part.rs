//! How hosts tell each other which ports of a NAT64 have live TCP connections: in parts, each of
//! which says all about some ports, so that one that is lost spoils no other.

use super::octets::{put_table, take, take_table};
use crate::handoff::entry::TableKey;

/// The most octets about tables or ports in a datagram: with what stands around them they fit
/// any path (1280 octets).
const OCTETS_MAX: usize = 1120;
/// For how many tables a datagram asks at most.
pub const WANTED_AT_ONCE: usize = OCTETS_MAX / TABLE_OCTETS;
const TABLE_OCTETS: usize = 4 + 4;
const LIST: u8 = 1;
const BITMAP: u8 = 2;
/// A list in one part has at most this many.
const LIST_MAX: usize = OCTETS_MAX / 2;
/// A bitmap in one part has at most this many.
const BITMAP_MAX: u16 = OCTETS_MAX as u16 * 8;
/// In so many parts all is said about a table, at most.
const PARTS_MAX: usize = 8;

const _: () = assert!(PARTS_MAX * BITMAP_MAX as usize > u16::MAX as usize);

/// Tables, as they stand in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedTables<'a>(&'a [u8]);

impl<'a> WantedTables<'a> {
    /// Some tables, at most [`WANTED_AT_ONCE`], by octets that are written to `out`. `None`: there
    /// are none, or too many.
    pub fn of(tables: &[TableKey], out: &'a mut Vec<u8>) -> Option<Self> {
        out.clear();
        tables.iter().for_each(|&table| put_table(out, table));
        Self::parse(out)
    }

    pub(super) fn parse(octets: &'a [u8]) -> Option<Self> {
        let is_whole = octets.len().is_multiple_of(TABLE_OCTETS);
        (is_whole && !octets.is_empty() && octets.len() <= OCTETS_MAX).then_some(Self(octets))
    }

    pub(super) fn octets(&self) -> &'a [u8] {
        self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = TableKey> + use<'a> {
        let tables = self.0.chunks_exact(TABLE_OCTETS);
        tables.filter_map(|mut octets| take_table(&mut octets))
    }
}

/// Which ports of a NAT64 are live, of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivePart<'a> {
    pub table: TableKey,
    /// It says all about the ports from this one...
    pub first: u16,
    /// ...to this one.
    pub last: u16,
    form: u8,
    octets: &'a [u8],
}

impl<'a> LivePart<'a> {
    pub(super) fn parse(mut rest: &'a [u8]) -> Option<Self> {
        let table = take_table(&mut rest)?;
        let [first, last] = [take(&mut rest)?, take(&mut rest)?].map(u16::from_be_bytes);
        let [form] = take(&mut rest)?;
        let part = Self { table, first, last, form, octets: rest };
        (first <= last && rest.len() <= OCTETS_MAX && part.is_well_formed()).then_some(part)
    }

    fn is_well_formed(&self) -> bool {
        match self.form {
            LIST => {
                let is_in = |port: u16| (self.first..=self.last).contains(&port);
                self.octets.len().is_multiple_of(2)
                    && self.listed().all(is_in)
                    && self.listed().is_sorted_by(|one, next| one < next)
            }
            BITMAP => {
                let bits = usize::from(self.last - self.first) + 1;
                // Those beyond the last port: none in a whole octet.
                let beyond = self.octets.last().map_or(0, |octet| octet.trailing_zeros() as usize);
                self.octets.len() == bits.div_ceil(8) && beyond >= self.octets.len() * 8 - bits
            }
            _ => false,
        }
    }

    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        put_table(out, self.table);
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.last.to_be_bytes());
        out.push(self.form);
        out.extend_from_slice(self.octets);
    }

    fn listed(&self) -> impl Iterator<Item = u16> + use<'a> {
        let octets = if self.form == LIST { self.octets } else { &[] };
        octets.chunks_exact(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    /// The live ones, ascending.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<'a> {
        let (first, octets) = (self.first, if self.form == BITMAP { self.octets } else { &[] });
        let has_bit = |at: usize| octets[at / 8] & 0x80 >> (at % 8) != 0;
        let in_bitmap = (0..octets.len() * 8).filter(move |&at| has_bit(at));
        self.listed().chain(in_bitmap.map(move |at| first + at as u16))
    }

    /// Calls `each` with all parts, at most 8, that say that of this table's NAT64
    /// these ports are live, which ascend, and no others.
    pub fn each_of(table: TableKey, ports: &[u16], mut each: impl FnMut(LivePart<'_>)) {
        let (mut first, mut rest, mut octets) = (0, ports, Vec::with_capacity(OCTETS_MAX));
        loop {
            octets.clear();
            // The one before the first that has no room.
            let listed_to = rest.get(LIST_MAX).map_or(u16::MAX, |port| port - 1);
            let bitmap_to = u16::saturating_add(first, BITMAP_MAX - 1);
            let last = listed_to.max(bitmap_to);
            let (its, behind) = rest.split_at(rest.partition_point(|&port| port <= last));
            let form = if listed_to >= bitmap_to {
                octets.extend(its.iter().flat_map(|port| port.to_be_bytes()));
                LIST
            } else {
                octets.resize((usize::from(last - first) + 1).div_ceil(8), 0);
                for port in its.iter().map(|port| usize::from(port - first)) {
                    octets[port / 8] |= 0x80 >> (port % 8);
                }
                BITMAP
            };
            each(LivePart { table, first, last, form, octets: &octets });
            let Some(next) = last.checked_add(1) else { break };
            (first, rest) = (next, behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableKey {
        TableKey { local: [203, 0, 113, 5].into(), nat64: [192, 0, 2, 7].into() }
    }

    /// What is said of these ports, part by part: from where, to where, in which form, and so many.
    fn said(ports: &[u16]) -> Vec<(u16, u16, u8, usize)> {
        let (mut parts, mut all) = (Vec::new(), Vec::new());
        LivePart::each_of(table(), ports, |part| {
            let mut octets = Vec::new();
            part.emit(&mut octets);
            assert!(octets.len() <= 8 + 5 + OCTETS_MAX);
            let read = LivePart::parse(&octets).expect("it is well-formed");
            assert_eq!(read, part);
            let its: Vec<_> = read.ports().collect();
            assert!(its.iter().all(|port| (part.first..=part.last).contains(port)));
            parts.push((part.first, part.last, part.form, its.len()));
            all.extend(its);
        });
        assert_eq!(all, ports);
        // Of each port all is said once.
        assert_eq!((parts[0].0, parts[parts.len() - 1].1), (0, u16::MAX));
        assert!(parts.windows(2).all(|two| two[0].1 + 1 == two[1].0));
        assert!(parts.len() <= PARTS_MAX, "{parts:?}");
        parts
    }

    #[test]
    fn all_is_said_about_each_port_in_few_parts() {
        const END: u16 = u16::MAX;
        assert_eq!(said(&[]), [(0, END, LIST, 0)]);
        assert_eq!(said(&[0]), [(0, END, LIST, 1)]);
        assert_eq!(said(&[1024, 3719, END]), [(0, END, LIST, 3)]);
        // As many as a list has room for, and one more.
        let ports: Vec<u16> = (0..=560).map(|at| 60_000 + at).collect();
        assert_eq!(said(&ports[..560]), [(0, END, LIST, 560)]);
        assert_eq!(said(&ports), [(0, 60_559, LIST, 560), (60_560, END, LIST, 1)]);
        // One in 15, and all.
        let ports: Vec<u16> = (0..=END).step_by(15).collect();
        let parts = said(&ports);
        assert!(parts.len() == PARTS_MAX && parts.iter().take(7).all(|part| part.2 == BITMAP));
        let ports: Vec<u16> = (0..=END).collect();
        let parts = said(&ports);
        assert_eq!(parts.len(), PARTS_MAX);
        assert_eq!(parts[0], (0, 8959, BITMAP, 8960));
        // Many at one end and few at the other.
        let ports: Vec<u16> = (1024..5000).chain([40_000, END]).collect();
        assert_eq!(said(&ports), [(0, 8959, BITMAP, 3976), (8960, END, LIST, 2)]);
    }

    #[test]
    fn tables_that_are_wanted_are_written_and_read() {
        let mut octets = Vec::new();
        assert_eq!(WantedTables::of(&[], &mut octets), None);
        let tables = vec![table(); WANTED_AT_ONCE + 1];
        assert_eq!(WantedTables::of(&tables, &mut octets), None);
        let tables: Vec<_> = (0..WANTED_AT_ONCE as u8)
            .map(|last| TableKey { nat64: [192, 0, 2, last].into(), ..table() })
            .collect();
        let wanted = WantedTables::of(&tables, &mut octets).unwrap();
        assert!(wanted.iter().eq(tables.iter().copied()));
        assert_eq!(wanted.octets()[..8], [203, 0, 113, 5, 192, 0, 2, 0]);
    }
}
