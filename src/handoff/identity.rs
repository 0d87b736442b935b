//! Which control identities of a NAT64 are known, and how many packets of unknown ones pass
//! (PROTOCOL.md section 5).
//!
//! How an identity proves itself is `proof`; who is sent what, and when, is `server`'s.

use crate::handoff::entry::ControlPort;
use crate::handoff::opaque::Token;
use crate::handoff::ports::CONTROL_PORTS_MAX;
use crate::handoff::random::Random;

/// How many identities are known of a NAT64: the most recently used ones.
pub const IDENTITIES_MAX: usize = CONTROL_PORTS_MAX;

/// The control identities of one NAT64 that are known, the most recently used first.
#[derive(Debug, Default)]
pub struct Identities(Vec<Identity>);

#[derive(Debug)]
struct Identity {
    port: ControlPort,
    token: Token,
    /// The number of the record that says so.
    since: u64,
}

impl Identities {
    /// Whether (`port`, `token`) is known.
    pub fn is_known(&self, port: ControlPort, token: &[u8]) -> bool {
        self.position(port, token).is_some()
    }

    /// Makes (`port`, `token`), if it is known, the most recently used. Returns the number of the
    /// record that made it known.
    #[inline]
    pub fn recognize(&mut self, port: ControlPort, token: &[u8]) -> Option<u64> {
        let position = self.position(port, token)?;
        if position > 0 {
            self.0[..=position].rotate_right(1);
        }
        self.0.first().map(|identity| identity.since)
    }

    /// Makes (`port`, `token`) known, by record `since`, and the most recently used. At most
    /// [`IDENTITIES_MAX`] are kept.
    pub fn learn(&mut self, port: ControlPort, token: Token, since: u64) {
        if self.recognize(port, token.octets()).is_none() {
            self.0.truncate(IDENTITIES_MAX - 1);
            self.0.insert(0, Identity { port, token, since });
        }
    }

    /// The least recently used one, if it has to make room for the next that is learned.
    pub fn to_evict(&self) -> Option<(ControlPort, &Token)> {
        self.0.get(IDENTITIES_MAX - 1).map(|identity| (identity.port, &identity.token))
    }

    /// Forgets (`port`, `token`).
    pub fn forget(&mut self, port: ControlPort, token: &Token) {
        self.0.retain(|known| known.port != port || known.token != *token);
    }

    /// All known identities, from the least to the most recently used.
    pub fn oldest_first(&self) -> impl Iterator<Item = (ControlPort, &Token)> {
        self.0.iter().rev().map(|identity| (identity.port, &identity.token))
    }

    /// The ports of all known identities; one may come more than once.
    pub fn control_ports(&self) -> impl Iterator<Item = ControlPort> {
        self.0.iter().map(|identity| identity.port)
    }

    /// Reads the most recently used one, so that it is in the caches.
    pub fn prefetch(&self) -> u64 {
        self.0.first().map_or(0, |identity| identity.since)
    }

    fn position(&self, port: ControlPort, token: &[u8]) -> Option<usize> {
        self.0.iter().position(|known| known.port == port && known.token.is(token))
    }
}

/// Lets 60 % of the unknown pass, and never drops two in a row.
#[derive(Debug)]
pub struct Attenuation(u32);

impl Default for Attenuation {
    fn default() -> Self {
        Self(2)
    }
}

impl Attenuation {
    /// Whether the next packet passes.
    pub fn passes(&mut self, random: &mut Random) -> bool {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => {
                self.0 = 1 + random.below(2);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(octets: &[u8]) -> Token {
        Token::new(octets).unwrap()
    }

    #[test]
    fn section_5_four_most_recently_used_identities() {
        let mut identities = Identities::default();
        for i in 0..4 {
            identities.learn(ControlPort(5000 + i), token(&[i as u8, 0]), u64::from(i));
        }
        assert!(identities.recognize(ControlPort(5000), &[0, 0]).is_some());
        identities.learn(ControlPort(6000), token(&[]), 9);
        assert!(!identities.is_known(ControlPort(5001), &[1, 0]));
        assert!(identities.is_known(ControlPort(5000), &[0, 0]));
        assert!(identities.is_known(ControlPort(6000), &[]));
        assert!(!identities.is_known(ControlPort(6000), &[0, 0]));
        let ports: Vec<_> = identities.control_ports().map(|port| port.0).collect();
        assert_eq!(ports, [6000, 5000, 5003, 5002]);
        // Learning what is known only makes it the most recent.
        identities.learn(ControlPort(5003), token(&[3, 0]), 10);
        assert_eq!(identities.recognize(ControlPort(5003), &[3, 0]), Some(3));
        assert_eq!(identities.control_ports().count(), 4);
        assert_eq!(identities.control_ports().next(), Some(ControlPort(5003)));
    }

    #[test]
    fn section_5_attenuation() {
        let mut random = Random::new([3; 32]);
        let mut attenuation = Attenuation::default();
        let passed: Vec<_> = (0..10_000).map(|_| attenuation.passes(&mut random)).collect();
        assert_eq!(passed[..3], [true, true, false]);
        assert!(passed.windows(2).all(|pair| pair[0] || pair[1]), "two dropped in a row");
        assert!(passed.windows(3).all(|three| !(three[0] && three[1] && three[2])));
        let passed = passed.iter().filter(|&&passed| passed).count();
        assert!((5900..6100).contains(&passed), "{passed}");
    }
}
