//! [`DeliveredPorts`]: to which ports of this host packets are delivered.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ip::fields::protocol;
use crate::ip::transport::Transport;

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// A set of ports for each of TCP and UDP. Whoever finds out which programs listen may change it
/// while it is asked.
pub struct DeliveredPorts {
    tcp: Box<[AtomicU64]>,
    udp: Box<[AtomicU64]>,
    /// Whether pings and what is neither TCP nor UDP are delivered.
    others: bool,
    /// The ports of either transport whose packets are translated: a bit each.
    translated: Box<[u64]>,
    /// Whether pings are translated.
    translates_others: bool,
    /// Whether a port may be another's from one moment to the next.
    follows: bool,
}

impl std::fmt::Debug for DeliveredPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |set: &[AtomicU64]| -> u32 {
            set.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
        };
        let (tcp, udp) = (count(&self.tcp), count(&self.udp));
        write!(f, "DeliveredPorts {{ tcp: {tcp}, udp: {udp}, others: {} }}", self.others)
    }
}

impl DeliveredPorts {
    /// Those ports of which `delivers` says so, and whether all is that is neither TCP nor UDP.
    pub fn new(others: bool, delivers: impl Fn(Transport, u16) -> bool) -> Self {
        let set = |transport| -> Box<[AtomicU64]> {
            (0..WORDS).map(|word| bits(word, |port| delivers(transport, port)).into()).collect()
        };
        let (tcp, udp) = (set(Transport::Tcp), set(Transport::Udp));
        let translated = vec![0; WORDS].into();
        Self { tcp, udp, others, translated, translates_others: false, follows: false }
    }

    /// The same, where what is delivered to these ports is translated, and with `others` pings,
    /// too; then no other protocol is delivered.
    pub fn translating(self, others: bool, is: impl Fn(u16) -> bool) -> Self {
        let translated = (0..WORDS).map(|word| bits(word, &is)).collect();
        Self { translated, translates_others: others, ..self }
    }

    /// The same, which will be set while packets are delivered: connections to a port that is not
    /// delivered to any more go on.
    pub fn following(self) -> Self {
        Self { follows: true, ..self }
    }

    /// Whether connections may go on to a port that is not delivered to any more.
    #[inline]
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// From now on those of `transport` of which `delivers` says so.
    pub fn set(&self, transport: Transport, delivers: impl Fn(u16) -> bool) {
        for (word, bits_now) in self.of(transport).iter().enumerate() {
            bits_now.store(bits(word, &delivers), Ordering::Relaxed);
        }
    }

    /// Whether a packet to this port is delivered.
    #[inline]
    pub fn has(&self, transport: Transport, port: u16) -> bool {
        let word = &self.of(transport)[usize::from(port / 64)];
        transport != Transport::Echo && word.load(Ordering::Relaxed) & 1 << (port % 64) != 0
    }

    /// Whether what is delivered to this port is translated.
    #[inline]
    pub fn translates(&self, port: u16) -> bool {
        self.translated[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    /// Whether packets of this protocol, neither TCP nor UDP, are delivered.
    pub fn others(&self, protocol: u8) -> bool {
        self.others && (!self.translates_others || protocol == protocol::ICMPV6)
    }

    /// Whether those are translated.
    pub fn translates_others(&self) -> bool {
        self.translates_others
    }

    fn of(&self, transport: Transport) -> &[AtomicU64] {
        if transport == Transport::Tcp { &self.tcp } else { &self.udp }
    }
}

fn bits(word: usize, delivers: impl Fn(u16) -> bool) -> u64 {
    let has = |bit: usize| u64::from(delivers((word * 64 + bit) as u16)) << bit;
    (0..64).fold(0, |bits, bit| bits | has(bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_either_transport_and_no_other() {
        let ports = DeliveredPorts::new(true, |transport, port| {
            transport == Transport::Tcp && [0, 63, 64, 80, 65_535].contains(&port)
        });
        for port in 0..=u16::MAX {
            let is = [0, 63, 64, 80, 65_535].contains(&port);
            assert_eq!(ports.has(Transport::Tcp, port), is);
            assert!(!ports.has(Transport::Udp, port) && !ports.has(Transport::Echo, port));
        }
        ports.set(Transport::Udp, |port| port == 53);
        ports.set(Transport::Tcp, |_| false);
        assert!(ports.has(Transport::Udp, 53) && !ports.has(Transport::Echo, 53));
        assert!(!ports.has(Transport::Tcp, 80) && ports.others(132));
    }

    #[test]
    fn what_is_translated_is_ping_tcp_and_udp() {
        let ports = DeliveredPorts::new(true, |_, port| port >= 53);
        assert!(!ports.translates(53) && !ports.translates_others());
        let ports = ports.translating(true, |port| matches!(port, 53 | 80));
        assert_eq!((0..=u16::MAX).filter(|&port| ports.translates(port)).count(), 2);
        assert!(ports.has(Transport::Udp, 53) && ports.has(Transport::Tcp, 81));
        assert!(ports.others(protocol::ICMPV6) && !ports.others(132));
        assert!(ports.translates_others());
        assert!(!DeliveredPorts::new(false, |_, _| true).others(protocol::ICMPV6));
    }
}
