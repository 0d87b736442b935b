//! Reassembly of control datagrams (RFC 791 section 3.2, RFC 815).
//!
//! Only packets whose first fragment is to the control port, and was seen, are kept: later ones
//! that arrive before it wait in `waiting`. At most [`PACKETS_MAX`] packets are incomplete at once,
//! each for at most [`PACKET_LIFETIME`] and of at most [`FRAGMENTS_MAX`] fragments; the oldest is
//! evicted for a new one. So together they never take more than `PACKETS_MAX` times 64 KiB. A
//! duplicate fragment is ignored; one that overlaps another discards the whole packet, as RFC 5722
//! has it for IPv6.

use std::time::Duration;

use super::Dropped;
use crate::ip::fragment::{Fragment, FragmentKey};

/// The maximum number of packets that are incomplete at once.
pub const PACKETS_MAX: usize = 64;
/// The maximum number of fragments of one packet: more than the longest has at an MTU of 576.
pub const FRAGMENTS_MAX: usize = 128;
/// How long a packet may be incomplete before it is discarded.
pub const PACKET_LIFETIME: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Reassembly {
    /// Oldest first.
    packets: Vec<Partial>,
}

#[derive(Debug)]
struct Partial {
    key: FragmentKey,
    expires: Duration,
    data: Vec<u8>,
    /// Start and end of each fragment's data, in ascending order.
    parts: Vec<(usize, usize)>,
    /// The length of all data, once the last fragment has arrived.
    length: Option<usize>,
}

impl Reassembly {
    /// Whether the packet `key` is being reassembled.
    pub(super) fn knows(&self, now: Duration, key: FragmentKey) -> bool {
        self.packets.iter().any(|packet| packet.key == key && now < packet.expires)
    }

    pub(super) fn clear(&mut self) {
        self.packets.clear();
    }

    /// Adds a fragment. Returns the data of the whole packet when that completes it.
    ///
    /// # Errors
    /// The fragment is out of bounds or overlaps another. The packet is discarded.
    pub(super) fn take(
        &mut self,
        now: Duration,
        key: FragmentKey,
        fragment: Fragment,
        data: &[u8],
    ) -> Result<Option<Vec<u8>>, Dropped> {
        self.packets.retain(|packet| now < packet.expires);
        let at = match self.packets.iter().position(|packet| packet.key == key) {
            Some(at) => at,
            None => self.begin(now, key),
        };
        match self.packets[at].add(fragment, data) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(self.packets.remove(at).data)),
            Err(dropped) => {
                self.packets.remove(at);
                Err(dropped)
            }
        }
    }

    fn begin(&mut self, now: Duration, key: FragmentKey) -> usize {
        if self.packets.len() == PACKETS_MAX {
            self.packets.remove(0);
        }
        let expires = now.saturating_add(PACKET_LIFETIME);
        let (data, parts) = (Vec::new(), Vec::new());
        self.packets.push(Partial { key, expires, data, parts, length: None });
        self.packets.len() - 1
    }
}

impl Partial {
    /// Adds a fragment. Returns whether the packet is complete.
    fn add(&mut self, fragment: Fragment, data: &[u8]) -> Result<bool, Dropped> {
        let start = usize::from(fragment.offset);
        let end = start + data.len();
        let has_room = self.parts.len() < FRAGMENTS_MAX;
        if data.is_empty() || !fragment.can_have(data.len()) || !has_room {
            return Err(Dropped::FragmentBounds);
        }
        let at = self.parts.partition_point(|&(before, _)| before < start);
        if self.parts.get(at) == Some(&(start, end)) {
            return Ok(false);
        }
        let overlaps_before = at > 0 && self.parts[at - 1].1 > start;
        let overlaps_after = self.parts.get(at).is_some_and(|&(after, _)| after < end);
        if overlaps_before || overlaps_after {
            return Err(Dropped::FragmentOverlap);
        }
        let last = self.parts.last().map_or(0, |&(_, end)| end).max(end);
        let length = if fragment.more { self.length } else { Some(end) };
        let twice = !fragment.more && self.length.is_some();
        if twice || length.is_some_and(|length| last > length) {
            return Err(Dropped::FragmentBounds);
        }
        self.length = length;
        self.parts.insert(at, (start, end));
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(data);
        // There are no overlaps, so there is no hole if the lengths add up.
        let there: usize = self.parts.iter().map(|(start, end)| end - start).sum();
        Ok(self.length == Some(there))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ip::fragment::IPV4_DATA_MAX as DATA_MAX;

    fn key(identification: u32) -> FragmentKey {
        let (source, destination) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, 7));
        FragmentKey::Ipv4 { source, destination, protocol: 17, identification }
    }

    fn fragment(offset: u16, more: bool) -> Fragment {
        Fragment { identification: 0, first: offset == 0, more, offset }
    }

    const AT: Duration = Duration::from_secs(1);

    #[test]
    fn fragments_in_any_order_make_the_packet_once() {
        let whole: Vec<u8> = (0..40).collect();
        let parts = [(0, 16, true), (16, 24, true), (24, 40, false)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut reassembly = Reassembly::default();
            for (number, &part) in order.iter().enumerate() {
                let (start, end, more) = parts[part];
                let fragment = fragment(start as u16, more);
                // A duplicate changes nothing. One of the last fragment would begin a new packet.
                for _ in 0..if number < 2 { 2 } else { 1 } {
                    let taken = reassembly.take(AT, key(1), fragment, &whole[start..end]);
                    let expected = (number == 2).then(|| whole.clone());
                    assert_eq!(taken, Ok(expected), "{order:?} {number}");
                }
            }
            assert!(!reassembly.knows(AT, key(1)));
        }
    }

    #[test]
    fn what_overlaps_or_runs_past_the_end_ends_the_packet() {
        type Part = (u16, usize, bool);
        let cases: [(&[Part], Dropped); 8] = [
            (&[(0, 16, true), (8, 16, true)], Dropped::FragmentOverlap),
            (&[(0, 16, true), (0, 8, true)], Dropped::FragmentOverlap),
            (&[(8, 16, true), (0, 16, true)], Dropped::FragmentOverlap),
            (&[(0, 12, true)], Dropped::FragmentBounds),
            (&[(0, 8, true), (65_528, 8, true)], Dropped::FragmentBounds),
            (&[(0, 8, true), (32, 8, false), (48, 8, true)], Dropped::FragmentBounds),
            (&[(0, 8, true), (32, 8, true), (24, 8, false)], Dropped::FragmentBounds),
            (&[(0, 8, true), (32, 8, false), (24, 8, false)], Dropped::FragmentBounds),
        ];
        for (parts, expected) in cases {
            let mut reassembly = Reassembly::default();
            for (number, &(start, length, more)) in parts.iter().enumerate() {
                let taken = reassembly.take(AT, key(1), fragment(start, more), &vec![7; length]);
                let last = number + 1 == parts.len();
                assert_eq!(taken, if last { Err(expected) } else { Ok(None) }, "{parts:?}");
            }
            assert!(!reassembly.knows(AT, key(1)), "{parts:?}");
        }
    }

    #[test]
    fn a_packet_is_awaited_for_15_seconds() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.take(AT, key(1), fragment(0, true), &[0; 8]), Ok(None));
        let before = AT + PACKET_LIFETIME - Duration::from_nanos(1);
        assert!(reassembly.knows(before, key(1)));
        let after = AT + PACKET_LIFETIME;
        assert!(!reassembly.knows(after, key(1)));
        assert_eq!(reassembly.take(after, key(1), fragment(8, false), &[0; 8]), Ok(None));
    }

    #[test]
    fn packets_and_fragments_are_bounded() {
        let mut reassembly = Reassembly::default();
        for number in 0..1000 {
            reassembly.take(AT, key(number), fragment(0, true), &[0; 8]).unwrap();
            assert!(reassembly.packets.len() <= PACKETS_MAX);
        }
        // The oldest were evicted.
        assert!(reassembly.knows(AT, key(999)) && !reassembly.knows(AT, key(0)));
        let mut reassembly = Reassembly::default();
        for number in 0..FRAGMENTS_MAX {
            let fragment = fragment(16 * number as u16, true);
            assert_eq!(reassembly.take(AT, key(1), fragment, &[0; 8]), Ok(None));
        }
        let one_more = fragment(16 * FRAGMENTS_MAX as u16, true);
        let taken = reassembly.take(AT, key(1), one_more, &[0; 8]);
        assert_eq!(taken, Err(Dropped::FragmentBounds));
    }

    #[test]
    fn the_longest_packet() {
        let mut reassembly = Reassembly::default();
        let whole: Vec<u8> = (0..DATA_MAX).map(|i| (i % 251) as u8).collect();
        let mut taken = None;
        for (number, part) in whole.chunks(1480).enumerate() {
            let more = (number + 1) * 1480 < DATA_MAX;
            let fragment = fragment((number * 1480) as u16, more);
            taken = reassembly.take(AT, key(1), fragment, part).unwrap();
        }
        assert_eq!(taken, Some(whole));
    }
}
