//! Which control identities of a NAT64 are known, and how many packets of unknown ones pass
//! (PROTOCOL.md section 5).
//!
//! How an identity proves itself is `proof`; who is sent what, and when, is `server`'s.

use std::time::Duration;

use crate::handoff::entry::ControlPort;
use crate::handoff::opaque::Token;
use crate::handoff::ports::CONTROL_PORTS_MAX;
use crate::handoff::random::Random;

/// How many identities are known of a NAT64: the most recently used ones.
pub const IDENTITIES_MAX: usize = CONTROL_PORTS_MAX;

/// An identity that was not used for this many seconds proves itself again: its address may be
/// another's by now.
const LIFETIME_SECONDS: u32 = 24 * 60 * 60;
/// From this many seconds after its last proof on, an identity is asked for another one while it is
/// answered: requests in its name keep it in use also where its address is another's by now...
const PROOF_DUE_SECONDS: u32 = 24 * 60 * 60;
/// ...this often...
const ASKED_EVERY_SECONDS: u32 = 60;
/// ...and this long after it, it is not known any more.
const PROOF_LIFETIME_SECONDS: u32 = 2 * PROOF_DUE_SECONDS;

/// What an operator may see of an identity: its token is its secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenIdentity {
    /// The port that it asks from.
    pub port: u16,
    /// The second in which it was used last, or the server started.
    pub used: u32,
    /// That in which it, or whom it succeeded, proved itself last, or the server started.
    pub proved: u32,
}

impl SeenIdentity {
    /// Whether it is known in this second, or has to prove itself anew.
    pub fn is_known(&self, second: u32) -> bool {
        !has_aged(self.used, self.proved, second)
    }
}

fn has_aged(used: u32, proved: u32, second: u32) -> bool {
    second.saturating_sub(used) >= LIFETIME_SECONDS
        || second.saturating_sub(proved) >= PROOF_LIFETIME_SECONDS
}

/// The control identities of one NAT64 that are known, the most recently used first.
#[derive(Debug, Default)]
pub struct Identities(Vec<Identity>);

#[derive(Debug)]
struct Identity {
    port: ControlPort,
    token: Token,
    /// The number of the record that says so.
    since: u64,
    /// The second in which it was used last.
    used: u32,
    /// That in which it, or whom it succeeded, proved itself last.
    proved: u32,
    /// That in which it was asked for another proof.
    asked: u32,
}

impl Identity {
    #[inline]
    fn is(&self, port: ControlPort, token: &[u8]) -> bool {
        self.port == port && self.token.is(token)
    }

    /// It is used, unless it has aged. Returns the number of the record that made it known.
    #[inline]
    fn used_in(&mut self, second: u32) -> Option<u64> {
        (!has_aged(self.used, self.proved, second)).then(|| {
            self.used = second;
            self.since
        })
    }
}

impl Identities {
    /// Whether (`port`, `token`) is known.
    pub fn is_known(&self, port: ControlPort, token: &[u8]) -> bool {
        self.position(port, token).is_some()
    }

    /// Makes (`port`, `token`), if it is known, the most recently used. Returns the number of the
    /// record that made it known. `None` where it was not used for a day, too, or did not prove
    /// itself for two.
    #[inline]
    pub fn recognize(&mut self, port: ControlPort, token: &[u8], second: u32) -> Option<u64> {
        match self.0.first_mut() {
            Some(first) if first.is(port, token) => first.used_in(second),
            _ => self.recognize_other(port, token, second),
        }
    }

    #[inline(never)]
    fn recognize_other(&mut self, port: ControlPort, token: &[u8], second: u32) -> Option<u64> {
        let position = self.position(port, token)?;
        let since = self.0[position].used_in(second)?;
        self.0[..=position].rotate_right(1);
        Some(since)
    }

    /// Makes (`port`, `token`) known, by record `since`, and the most recently used. It, or whom it
    /// succeeds, `proved` itself in that second. At most [`IDENTITIES_MAX`] are kept.
    pub fn learn(&mut self, port: ControlPort, token: Token, since: u64, second: u32, proved: u32) {
        if self.recognize(port, token.octets(), second).is_none() {
            self.forget(port, &token);
            self.0.truncate(IDENTITIES_MAX - 1);
            let (used, asked) = (second, second);
            self.0.insert(0, Identity { port, token, since, used, proved, asked });
        }
    }

    /// The second in which the most recently used one proved itself last.
    pub fn last_proof(&self) -> u32 {
        self.0.first().map_or(0, |identity| identity.proved)
    }

    /// Whether it is time for another proof of the most recently used one.
    #[inline]
    pub fn is_proof_due(&self, second: u32) -> bool {
        second.saturating_sub(self.last_proof()) >= PROOF_DUE_SECONDS
    }

    /// Whether the most recently used one is to be asked for that now, which it then is.
    pub fn asks(&mut self, second: u32) -> bool {
        self.0.first_mut().is_some_and(|identity| {
            let asks = second.saturating_sub(identity.asked) >= ASKED_EVERY_SECONDS;
            if asks {
                identity.asked = second;
            }
            asks
        })
    }

    /// The most recently used one proved itself again.
    pub fn prove(&mut self, second: u32) {
        if let Some(identity) = self.0.first_mut() {
            identity.proved = second;
        }
    }

    /// The least recently used one, if it has to make room for (`port`, `token`).
    pub fn to_evict(&self, port: ControlPort, token: &Token) -> Option<(ControlPort, &Token)> {
        let last = self.0.get(IDENTITIES_MAX - 1)?;
        (!self.is_known(port, token.octets())).then_some((last.port, &last.token))
    }

    /// Forgets (`port`, `token`).
    pub fn forget(&mut self, port: ControlPort, token: &Token) {
        self.0.retain(|known| known.port != port || known.token != *token);
    }

    /// All known identities, from the least to the most recently used.
    pub fn oldest_first(&self) -> impl Iterator<Item = (ControlPort, &Token)> {
        self.0.iter().rev().map(|identity| (identity.port, &identity.token))
    }

    /// All, the most recently used first, and how many there are.
    pub fn seen(&self) -> ([SeenIdentity; IDENTITIES_MAX], usize) {
        let mut seen = [SeenIdentity::default(); IDENTITIES_MAX];
        for (place, Identity { port, used, proved, .. }) in seen.iter_mut().zip(&self.0) {
            *place = SeenIdentity { port: port.0, used: *used, proved: *proved };
        }
        (seen, self.0.len().min(IDENTITIES_MAX))
    }

    /// When any of them was used last.
    pub fn last_used(&self) -> Duration {
        let second = self.0.first().map_or(0, |identity| identity.used);
        Duration::from_secs(second.into())
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
        self.0.iter().position(|known| known.is(port, token))
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

    const NOW: u32 = 7;

    fn token(octets: &[u8]) -> Token {
        Token::new(octets).unwrap()
    }

    #[test]
    fn section_5_four_most_recently_used_identities() {
        let mut identities = Identities::default();
        for i in 0..4 {
            identities.learn(ControlPort(5000 + i), token(&[i as u8, 0]), u64::from(i), NOW, NOW);
        }
        assert!(identities.recognize(ControlPort(5000), &[0, 0], NOW).is_some());
        identities.learn(ControlPort(6000), token(&[]), 9, NOW, NOW);
        assert!(!identities.is_known(ControlPort(5001), &[1, 0]));
        assert!(identities.is_known(ControlPort(5000), &[0, 0]));
        assert!(identities.is_known(ControlPort(6000), &[]));
        assert!(!identities.is_known(ControlPort(6000), &[0, 0]));
        let ports: Vec<_> = identities.control_ports().map(|port| port.0).collect();
        assert_eq!(ports, [6000, 5000, 5003, 5002]);
        // Learning what is known only makes it the most recent.
        identities.learn(ControlPort(5003), token(&[3, 0]), 10, NOW, NOW);
        assert_eq!(identities.recognize(ControlPort(5003), &[3, 0], NOW), Some(3));
        assert_eq!(identities.control_ports().count(), 4);
        assert_eq!(identities.control_ports().next(), Some(ControlPort(5003)));
    }

    #[test]
    fn section_5_an_identity_that_is_not_used_for_a_day_is_unknown() {
        let mut identities = Identities::default();
        let (port, old) = (ControlPort(5000), token(&[1, 2]));
        identities.learn(port, old.clone(), 3, NOW, NOW);
        // Each use is one, however often it is a day less a moment.
        let mut now = NOW;
        for _ in 0..3 {
            now += LIFETIME_SECONDS - 1;
            assert_eq!(identities.recognize(port, &[1, 2], now), Some(3));
            identities.prove(now);
        }
        now += LIFETIME_SECONDS;
        assert_eq!(identities.recognize(port, &[1, 2], now), None);
        assert_eq!(identities.recognize(port, &[1, 2], now + 1), None, "that was no use");
        // It is kept, so that its port stays unmapped, and becomes known by another record.
        assert_eq!(identities.control_ports().count(), 1);
        identities.learn(port, old.clone(), 8, now, now);
        assert_eq!(identities.recognize(port, &[1, 2], now), Some(8));
        assert_eq!(identities.control_ports().count(), 1);
        for i in 1..4 {
            identities.learn(ControlPort(5000 + i), old.clone(), 9, now, now);
        }
        assert_eq!(identities.to_evict(port, &old), None, "it is one of the four");
        assert_eq!(identities.to_evict(ControlPort(6000), &old), Some((port, &old)));
    }

    #[test]
    fn section_5_an_identity_in_use_is_asked_for_its_proof() {
        let mut identities = Identities::default();
        let (port, second) = (ControlPort(5000), |hour: u32| NOW + hour * 3600);
        identities.learn(port, token(&[1, 2]), 3, NOW, NOW);
        let is_known = |identities: &mut Identities, hour| {
            identities.recognize(port, &[1, 2], second(hour)).is_some()
        };
        // It proves itself when it is asked.
        for hour in 1..24 {
            assert!(is_known(&mut identities, hour) && !identities.is_proof_due(second(hour)));
        }
        for hour in 24..30 {
            assert!(is_known(&mut identities, hour) && identities.is_proof_due(second(hour)));
            assert!(identities.asks(second(hour)) && !identities.asks(second(hour) + 59));
            assert!(identities.asks(second(hour) + 60));
        }
        identities.prove(second(30));
        for hour in 30..30 + 48 {
            assert!(is_known(&mut identities, hour));
            assert_eq!(identities.is_proof_due(second(hour)), hour >= 30 + 24);
        }
        // Its uses prove nothing.
        assert_eq!(identities.last_proof(), second(30));
        assert!(!is_known(&mut identities, 30 + 48));
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
