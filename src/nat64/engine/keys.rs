//! Tokens and authenticators, by which a NAT64 recognizes servers and clients (PROTOCOL.md section
//! 2, types 4 to 6).
//!
//! Both are SipHash-2-4-128 over addresses with a key of the NAT64's, stretched or cut to the
//! configured length. No state is kept per server or client.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::time::Duration;

use siphasher::sip128::SipHasher24;
use subtle::ConstantTimeEq;

use crate::handoff::message::MESSAGE_DATA_MAX;
use crate::handoff::random::Random;

/// How long after a rotation requests carry the token before, and answers with it are accepted.
pub const ROTATION_LIFETIME: Duration = Duration::from_secs(60);

/// As many octets of a token as nobody guesses: those of one MAC.
const TOKEN_START_MIN: usize = 16;
/// The longest token and authenticator.
const MAC_MAX: usize = MESSAGE_DATA_MAX;
/// What one MAC has, and the most that is covered by it: an IPv4 and an IPv6 address.
const BLOCK: usize = 16;
const COVERED_MAX: usize = 4 + 16;

type Key = [u8; 16];

/// See [`super::Nat64Config::authenticator_key`].
pub type AuthenticatorKey = Key;

/// The keys of a NAT64, and the lengths of its tokens and authenticators in octets.
#[derive(Debug)]
pub(super) struct Keys {
    token: Key,
    /// The key before the last rotation, and until when it is accepted.
    token_before: Option<(Key, Duration)>,
    authenticator: Key,
    token_length: usize,
    authenticator_length: usize,
}

impl Keys {
    /// Lengths are in units of 2 octets, as on the wire.
    pub(super) fn draw(random: &mut Random, token_units: u8, authenticator_units: u8) -> Self {
        Self {
            token: random.key(),
            token_before: None,
            authenticator: random.key(),
            token_length: 2 * usize::from(token_units),
            authenticator_length: 2 * usize::from(authenticator_units),
        }
    }

    pub(super) fn use_authenticator_key(&mut self, key: AuthenticatorKey) {
        self.authenticator = key;
    }

    pub(super) fn token_length(&self) -> usize {
        self.token_length
    }

    pub(super) fn authenticator_length(&self) -> usize {
        self.authenticator_length
    }

    /// Replaces the key of tokens. That of authenticators stays: the server keeps authenticators
    /// for longer than a rotation takes.
    pub(super) fn rotate(&mut self, now: Duration, random: &mut Random) {
        let forgotten_at = now.saturating_add(ROTATION_LIFETIME);
        self.token_before = Some((self.token, forgotten_at));
        self.token = random.key();
    }

    pub(super) fn token(&self, server: Ipv4Addr) -> Mac {
        mac(&self.token, &server.octets(), self.token_length)
    }

    /// The token before the last rotation, as long as it is accepted.
    pub(super) fn token_before(&self, now: Duration, server: Ipv4Addr) -> Option<Mac> {
        let (key, forgotten_at) = self.token_before?;
        (now < forgotten_at).then(|| mac(&key, &server.octets(), self.token_length))
    }

    pub(super) fn is_token(&self, now: Duration, server: Ipv4Addr, token: &[u8]) -> bool {
        is_same(&self.token(server), token)
            || self.token_before(now, server).is_some_and(|before| is_same(&before, token))
    }

    /// Whether a token of that length that begins so is ours. One that is cut short is known by
    /// [`TOKEN_START_MIN`] octets.
    pub(super) fn begins_token(
        &self,
        now: Duration,
        server: Ipv4Addr,
        start: &[u8],
        length: usize,
    ) -> bool {
        if length != self.token_length || start.len() < length.min(TOKEN_START_MIN) {
            return false;
        }
        let begins =
            |token: &[u8]| token.get(..start.len()).is_some_and(|ours| is_same(ours, start));
        begins(&self.token(server))
            || self.token_before(now, server).is_some_and(|before| begins(&before))
    }

    pub(super) fn authenticator(&self, server: Ipv4Addr, client: Ipv6Addr) -> Mac {
        let mut covered = [0; COVERED_MAX];
        covered[..4].copy_from_slice(&server.octets());
        covered[4..].copy_from_slice(&client.octets());
        mac(&self.authenticator, &covered, self.authenticator_length)
    }

    pub(super) fn is_authenticator(
        &self,
        server: Ipv4Addr,
        client: Ipv6Addr,
        authenticator: &[u8],
    ) -> bool {
        is_same(&self.authenticator(server, client), authenticator)
    }
}

fn is_same(expected: &[u8], given: &[u8]) -> bool {
    expected.ct_eq(given).into()
}

/// A token or an authenticator.
#[derive(Debug)]
pub(super) struct Mac {
    octets: [u8; MAC_MAX],
    length: usize,
}

impl Deref for Mac {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

/// `length` octets: the concatenation of the MACs over block number and `covered`, cut.
fn mac(key: &Key, covered: &[u8], length: usize) -> Mac {
    let hasher = SipHasher24::new_with_key(key);
    let mut mac = Mac { octets: [0; MAC_MAX], length };
    let mut block = [0; 1 + COVERED_MAX];
    block[1..=covered.len()].copy_from_slice(covered);
    let blocks = mac.octets[..length].chunks_mut(BLOCK);
    for (number, octets) in (0..).zip(blocks) {
        block[0] = number;
        let whole = hasher.hash(&block[..=covered.len()]).as_bytes();
        octets.copy_from_slice(&whole[..octets.len()]);
    }
    mac
}
