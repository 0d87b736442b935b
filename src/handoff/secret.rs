//! [`FleetSecret`]: what the hosts of a fleet know and nobody else, and the keys that they derive
//! from it.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

/// The octets of a secret.
pub const SECRET_LENGTH: usize = 32;

/// What each key is for: none is mistaken for another.
const PROOFS: &[u8] = b"nat64handoff fleet proofs v1";
const DATAGRAMS: &[u8] = b"nat64handoff fleet datagrams v1";

/// What the hosts of a fleet have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FleetSecret([u8; SECRET_LENGTH]);

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret")
    }
}

impl FleetSecret {
    pub fn new(octets: [u8; SECRET_LENGTH]) -> Self {
        Self(octets)
    }

    /// The key of the proofs that are made in a minute since 1970.
    pub fn proof_key(&self, minute: u64) -> [u8; 16] {
        self.key(PROOFS, minute)
    }

    /// The key of what hosts send to each other.
    pub fn datagram_key(&self) -> [u8; 16] {
        self.key(DATAGRAMS, 0)
    }

    fn key(&self, of: &[u8], number: u64) -> [u8; 16] {
        let (first, rest) = self.0.split_at(16);
        let mut key = SipHasher24::new_with_key(&std::array::from_fn(|i| first[i]));
        key.write(rest);
        key.write(&number.to_be_bytes());
        key.write(of);
        key.finish128().as_bytes()
    }
}
