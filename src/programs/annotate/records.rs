//! What is known of each port of a NAT64. A line of an access log names any of them, so they are
//! small, and found with as few looks at memory that was not looked at lately as can be.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;

use crate::handoff::change::Timestamp;

/// An address and port of a client.
pub type ClientPort = (Ipv6Addr, u16);

/// A port is a client's for a time.
#[derive(Debug, Clone, Copy)]
pub struct HeldTime {
    pub client: ClientPort,
    pub local: Option<Ipv4Addr>,
    pub from: Timestamp,
    /// From then on, perhaps not any more.
    pub doubt: Timestamp,
    /// From then on, the NAT64 uses the port for another client.
    pub conflict: Timestamp,
}

impl HeldTime {
    /// The same table, as far as the log says.
    pub fn is_at(&self, local: Option<Ipv4Addr>) -> bool {
        self.local.is_none() || local.is_none() || self.local == local
    }

    pub fn is_in_doubt(&self) -> bool {
        self.doubt != Timestamp::MAX
    }
}

/// A port has more than one holder where the NAT64 has several tables, of several addresses of the
/// server.
#[derive(Debug)]
#[repr(align(64))]
pub struct PortRecord {
    held: Option<HeldTime>,
    /// Its last place among those that ended.
    pub ended: u64,
    rare: Option<Box<RareParts>>,
}

// As much as a processor reads at once.
const _: () = assert!(size_of::<PortRecord>() == 64);

/// What few ports have.
#[derive(Debug, Default)]
struct RareParts {
    others: Vec<HeldTime>,
    /// When its NAT64 last said that it uses it for another client than the table has.
    conflict: Option<Timestamp>,
}

impl PortRecord {
    pub fn new(ended: u64) -> Self {
        Self { held: None, ended, rare: None }
    }

    /// Whether nobody has it.
    pub fn is_free(&self) -> bool {
        self.held.is_none()
    }

    pub fn all(&self) -> impl Iterator<Item = &HeldTime> {
        self.held.iter().chain(self.rare.iter().flat_map(|rare| &rare.others))
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut HeldTime> {
        self.held.iter_mut().chain(self.rare.iter_mut().flat_map(|rare| &mut rare.others))
    }

    pub fn push(&mut self, time: HeldTime) {
        if let Some(held) = self.held.replace(time) {
            self.rare.get_or_insert_default().others.push(held);
        }
    }

    pub fn take(&mut self, mut is_it: impl FnMut(&HeldTime) -> bool) -> Option<HeldTime> {
        if let Some(held) = self.held.take_if(|held| is_it(held)) {
            self.held = self.rare.as_mut().and_then(|rare| rare.others.pop());
            return Some(held);
        }
        let others = &mut self.rare.as_mut()?.others;
        let place = others.iter().position(is_it)?;
        Some(others.remove(place))
    }

    pub fn conflict(&self) -> Option<Timestamp> {
        self.rare.as_ref().and_then(|rare| rare.conflict)
    }

    pub fn set_conflict(&mut self, at: Timestamp) {
        self.rare.get_or_insert_default().conflict = Some(at);
    }
}

/// Ports of a page.
const PAGE_PORTS: u16 = 64;

/// The ports of a NAT64 that something is known of.
#[derive(Debug, Default)]
pub struct PortRecords {
    /// By the number of the page.
    pages: HashMap<u16, PortPage, RandomState>,
}

#[derive(Debug, Default)]
struct PortPage {
    /// A bit for each port that is among `records`, which are in the order of the ports.
    present: u64,
    records: Vec<PortRecord>,
}

impl PortPage {
    /// Whether a port is there, and its place.
    fn place(&self, port: u16) -> (bool, usize) {
        let bit = 1_u64 << (port % PAGE_PORTS);
        (self.present & bit != 0, (self.present & (bit - 1)).count_ones() as usize)
    }
}

impl PortRecords {
    pub fn get(&self, port: u16) -> Option<&PortRecord> {
        let page = self.pages.get(&(port / PAGE_PORTS))?;
        let (is_there, place) = page.place(port);
        if is_there { page.records.get(place) } else { None }
    }

    /// That of a port; where there is none yet, it is `new`.
    pub fn get_or_insert(&mut self, port: u16, new: PortRecord) -> &mut PortRecord {
        let page = self.pages.entry(port / PAGE_PORTS).or_default();
        let (is_there, place) = page.place(port);
        if !is_there {
            page.present |= 1 << (port % PAGE_PORTS);
            page.records.insert(place, new);
        }
        &mut page.records[place]
    }

    pub fn remove(&mut self, port: u16) {
        let number = port / PAGE_PORTS;
        let Some(page) = self.pages.get_mut(&number) else { return };
        let (is_there, place) = page.place(port);
        if is_there {
            page.present &= !(1 << (port % PAGE_PORTS));
            page.records.remove(place);
        }
        if page.present == 0 {
            self.pages.remove(&number);
        }
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut PortRecord)> {
        self.pages.iter_mut().flat_map(|(&number, page)| {
            let present = page.present;
            let ports = (0..PAGE_PORTS).filter(move |port| present & (1 << port) != 0);
            ports.map(move |port| number * PAGE_PORTS + port).zip(&mut page.records)
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.pages.values().map(|page| page.records.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// As a map of all ports has them.
    #[test]
    fn each_port_has_its_own() {
        let (mut records, mut expected) = (PortRecords::default(), BTreeMap::new());
        let mut random = 7_u64;
        for number in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let port = (random >> 40) as u16 % 1000 * 65;
            if number % 3 == 0 {
                records.remove(port);
                expected.remove(&port);
            } else {
                let record = records.get_or_insert(port, PortRecord::new(number));
                assert_eq!(record.ended, *expected.entry(port).or_insert(number));
            }
            assert_eq!(records.get(port).map(|record| record.ended), expected.get(&port).copied());
        }
        assert!(records.get(1).is_none());
        let all = records.iter_mut().map(|(port, record)| (port, record.ended));
        assert_eq!(all.collect::<BTreeMap<_, _>>(), expected);
        assert_eq!(records.len(), expected.len());
        (0..=u16::MAX).for_each(|port| records.remove(port));
        assert!(records.pages.is_empty());
    }
}
