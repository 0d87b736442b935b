//! [`HeldPackets`]: packets that are to be translated from an address that is not recorded yet.

use std::collections::VecDeque;

use crate::handoff::server::Translated;

/// The most octets of them: there are few, as every client has one address.
const HELD_OCTETS_MAX: usize = 1 << 20;

#[derive(Debug)]
struct HeldPacket {
    /// The record that is to be durable.
    record: u64,
    translated: Translated,
    packet: Box<[u8]>,
}

/// They wait in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct HeldPackets {
    packets: VecDeque<HeldPacket>,
    octets: usize,
}

impl HeldPackets {
    /// Keeps a packet until this record is durable. Returns whether it does: there is a record, and
    /// room.
    pub fn hold(&mut self, record: Option<u64>, translated: Translated, packet: &[u8]) -> bool {
        let room = HELD_OCTETS_MAX - self.octets;
        let Some(record) = record.filter(|_| packet.len() <= room) else { return false };
        self.octets += packet.len();
        self.packets.push_back(HeldPacket { record, translated, packet: packet.into() });
        true
    }

    /// The next one of a record up to this one.
    pub fn next(&mut self, durable: u64) -> Option<(Translated, Box<[u8]>)> {
        self.packets.front().filter(|first| first.record <= durable)?;
        let HeldPacket { translated, packet, .. } = self.packets.pop_front()?;
        self.octets -= packet.len();
        Some((translated, packet))
    }

    /// Drops all of them, and returns how many those were.
    pub fn give_up(&mut self) -> u64 {
        self.octets = 0;
        self.packets.drain(..).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::handoff::entry::TableKey;

    #[test]
    fn they_wait_for_their_record_and_take_no_more_than_their_room() {
        let (local, nat64) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let of = Translated { client: Ipv6Addr::LOCALHOST, table: TableKey { local, nat64 } };
        let mut held = HeldPackets::default();
        assert!(!held.hold(None, of, &[1]));
        assert!(held.hold(Some(5), of, &[1]) && held.hold(Some(6), of, &[2]));
        assert!(held.next(4).is_none());
        assert_eq!(held.next(5), Some((of, [1].into())));
        assert!(held.next(5).is_none());
        assert!(held.hold(Some(7), of, &vec![0; HELD_OCTETS_MAX - 1]));
        assert!(!held.hold(Some(7), of, &[3]));
        assert_eq!((held.give_up(), held.next(9)), (2, None));
        assert!(held.hold(Some(8), of, &[4]));
    }
}
