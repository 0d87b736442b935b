//! Ports that are not to be given away, as their NAT64 uses them for somebody else.

use std::collections::VecDeque;

use crate::handoff::entry::MappedPort;

/// How many are remembered for a table: the last ones.
pub const AVOIDED_MAX: usize = 1024;

/// The last ports that were added, at most [`AVOIDED_MAX`].
#[derive(Debug)]
pub struct AvoidedPorts {
    /// The first one was added first.
    ports: VecDeque<u16>,
    /// A bit for each of them.
    bits: Box<[u64; 65536 / 64]>,
}

impl AvoidedPorts {
    /// No port.
    pub fn new() -> Self {
        Self { ports: VecDeque::new(), bits: Box::new([0; _]) }
    }

    /// A bit for each of them, from port 0 on.
    pub fn bits(&self) -> &[u64; 65536 / 64] {
        &self.bits
    }

    /// All of them. The first one was added first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MappedPort> {
        self.ports.iter().map(|&port| MappedPort(port))
    }

    /// Whether `port` is one of them.
    #[inline]
    pub fn contains(&self, port: MappedPort) -> bool {
        let (word, bit) = place(port);
        self.bits[word] & bit != 0
    }

    /// Adds a port. The one that was added first goes where there are too many.
    pub fn add(&mut self, port: MappedPort) {
        if self.contains(port) {
            return;
        }
        if self.ports.len() >= AVOIDED_MAX
            && let Some(&first) = self.ports.front()
        {
            self.remove(MappedPort(first));
        }
        let (word, bit) = place(port);
        self.bits[word] |= bit;
        self.ports.push_back(port.0);
    }

    /// Removes a port, if it is one of them.
    pub fn remove(&mut self, port: MappedPort) {
        if !self.contains(port) {
            return;
        }
        let (word, bit) = place(port);
        self.bits[word] &= !bit;
        if let Some(place) = self.ports.iter().position(|&other| other == port.0) {
            self.ports.remove(place);
        }
    }
}

/// The word and the bit of a port.
fn place(port: MappedPort) -> (usize, u64) {
    (usize::from(port.0) / 64, 1 << (port.0 % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let mut avoided = AvoidedPorts::new();
        let port = |number: usize| MappedPort(1024 + (number * 5 % 64_512) as u16);
        for number in 0..3 * AVOIDED_MAX {
            avoided.add(port(number));
            // Again: no change.
            avoided.add(port(number));
            assert_eq!(avoided.iter().count(), AVOIDED_MAX.min(number + 1));
            assert!(avoided.contains(port(number)));
        }
        let last: Vec<_> = (2 * AVOIDED_MAX..3 * AVOIDED_MAX).map(port).collect();
        assert!(avoided.iter().eq(last.iter().copied()));
        assert!((0..2 * AVOIDED_MAX).all(|number| !avoided.contains(port(number))));
        for gone in last.iter().step_by(3) {
            avoided.remove(*gone);
            avoided.remove(*gone);
        }
        let left: BTreeSet<_> =
            last.iter().enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, port)| port.0).collect();
        let found: BTreeSet<_> =
            (0..=u16::MAX).filter(|&port| avoided.contains(MappedPort(port))).collect();
        assert_eq!(found, left);
        assert_eq!(avoided.iter().map(|port| port.0).collect::<BTreeSet<_>>(), left);
        assert_eq!(
            avoided.bits().iter().map(|word| word.count_ones()).sum::<u32>(),
            left.len() as u32
        );
    }
}
