//! [`Proof`]: how an identity proves that it receives what is sent to it (PROTOCOL.md section 5).
//!
//! A NAT64 has no state here before it has proved that. What it is asked to return is a MAC that
//! only we can make and that we can check without having kept anything. Who is sent a validation
//! packet, and when, is `server`'s.
//!
//! Keys are drawn; or those of a fleet are derived from its secret and the time, so that one host
//! checks what another has made.

use std::hash::Hasher;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use crate::handoff::change::Now;
use crate::handoff::entry::{ControlPort, TableKey};
use crate::handoff::message::{self, MESSAGE_HEADER, message_type};
use crate::handoff::random::Random;
use crate::handoff::secret::FleetSecret;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, protocol};
use crate::ip::{ipv4, ipv6};

/// The octets of a proof.
const PROOF_LENGTH: usize = 16;
/// How long a key makes proofs. It checks them for as long again.
const KEY_LIFETIME: Duration = Duration::from_secs(60);

/// What the MAC is for, so that no other use of the key could be mistaken for it.
const DOMAIN: &[u8] = b"nat64handoff proof v1";
/// The source and destination of the IPv6 form (RFC 6666).
const DISCARD_ADDRESS: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);
/// The source and destination of the IPv4 form (RFC 7600).
const DUMMY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A MAC over who asked: local address, NAT64 address, NAT64 port and token.
pub type Proof = [u8; PROOF_LENGTH];

/// The keys that make and check proofs.
#[derive(Debug)]
pub struct ProofKeys {
    current: [u8; 16],
    previous: [u8; 16],
    /// When the lifetime of `current` ends; of those of a fleet: when the time is looked at again.
    expires: Duration,
    /// What they are derived from, and the next one: a host whose clock is ahead has it already.
    fleet: Option<(FleetSecret, [u8; 16])>,
}

/// How often a host of a fleet looks which minute it is: its clock may be set.
const LOOKED_EVERY: Duration = Duration::from_secs(1);

impl ProofKeys {
    /// Draws new keys, whose lifetime begins `now`.
    pub fn new(now: Duration, random: &mut Random) -> Self {
        let (current, previous) = (random.key(), random.key());
        Self { current, previous, expires: now + KEY_LIFETIME, fleet: None }
    }

    /// Those that all hosts with this secret have.
    pub fn of_fleet(now: Now, secret: FleetSecret) -> Self {
        let mut keys =
            Self { current: [0; 16], previous: [0; 16], expires: Duration::ZERO, fleet: None };
        keys.derive(now, secret);
        keys
    }

    /// Those of this minute, and of the ones beside it.
    fn derive(&mut self, now: Now, secret: FleetSecret) {
        let minute = now.wall.as_micros() / KEY_LIFETIME.as_micros() as u64;
        self.previous = secret.proof_key(minute.saturating_sub(1));
        self.current = secret.proof_key(minute);
        let next = secret.proof_key(minute + 1);
        self.expires = now.monotonic + LOOKED_EVERY;
        self.fleet = Some((secret, next));
    }

    /// Replaces what has had its time.
    #[inline]
    pub fn renew(&mut self, now: Now, random: &mut Random) {
        if now.monotonic >= self.expires {
            self.replace(now, random);
        }
    }

    #[cold]
    fn replace(&mut self, now: Now, random: &mut Random) {
        if let Some((secret, _)) = self.fleet.take() {
            return self.derive(now, secret);
        }
        let now = now.monotonic;
        // Where nothing came in for a while, the new key is as old as if it had been made in time:
        // else the one before it would check proofs for longer.
        let in_time = now < self.expires + KEY_LIFETIME;
        (self.previous, self.expires) = if in_time {
            (self.current, self.expires + KEY_LIFETIME)
        } else {
            (random.key(), now + KEY_LIFETIME)
        };
        self.current = random.key();
    }

    /// The proof that whoever sent `token` from `port` can return.
    pub fn proof(&self, table: TableKey, port: ControlPort, token: &[u8]) -> Proof {
        mac(&self.current, table, port, token)
    }

    /// Whether the last octets of `data` are such a proof, made with the current or the previous
    /// key; in a fleet, also with the next one.
    pub fn verify(&self, table: TableKey, port: ControlPort, token: &[u8], data: &[u8]) -> bool {
        let Some(proof) = data.last_chunk::<PROOF_LENGTH>() else {
            return false;
        };
        let current = mac(&self.current, table, port, token).ct_eq(proof);
        let previous = mac(&self.previous, table, port, token).ct_eq(proof);
        let next = self.fleet.as_ref().map(|(_, next)| mac(next, table, port, token));
        let next = next.map_or(0.into(), |next| next.ct_eq(proof));
        (current | previous | next).into()
    }
}

/// All fields but the last have a fixed length, and SipHash takes the length of the whole in.
fn mac(key: &[u8; 16], table: TableKey, port: ControlPort, token: &[u8]) -> Proof {
    let mut mac = SipHasher24::new_with_key(key);
    mac.write(DOMAIN);
    mac.write(&table.local.octets());
    mac.write(&table.nat64.octets());
    mac.write(&port.0.to_be_bytes());
    mac.write(&(token.len() as u16).to_be_bytes());
    mac.write(token);
    mac.finish128().as_bytes()
}

/// Appends the payload of a validation packet to `out`: the first of the three forms that is not
/// longer than the request's payload, which has `request_length` octets and is well-formed.
pub fn emit_validation_packet(
    out: &mut Vec<u8>,
    request_length: usize,
    token: &[u8],
    authenticator: Option<&[u8]>,
    proof: &Proof,
) {
    let fits = |data: &[u8], header: usize| {
        MESSAGE_HEADER + data.len() + header + PROOF_LENGTH <= request_length
    };
    if let Some(authenticator) = authenticator.filter(|data| fits(data, IPV6_HEADER)) {
        message::emit(out, message_type::AUTHENTICATOR, authenticator);
        let address = DISCARD_ADDRESS;
        let header = ipv6::header(PROOF_LENGTH, protocol::NO_NEXT_HEADER, 1, address, address);
        out.extend_from_slice(&header);
        out.extend_from_slice(proof);
        return;
    }
    message::emit(out, message_type::TOKEN, token);
    if fits(token, IPV4_HEADER) {
        let (length, address) = (IPV4_HEADER + PROOF_LENGTH, DUMMY_ADDRESS);
        let header = ipv4::header(length, 1, protocol::NO_NEXT_HEADER, address, address);
        out.extend_from_slice(&header);
        out.extend_from_slice(proof);
    } else {
        message::emit(out, message_type::NO_OP, proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::change::Timestamp;
    use crate::ip::checksum::checksum;

    fn key() -> TableKey {
        TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, 7) }
    }

    fn at(seconds: u64) -> Now {
        let wall = Timestamp::from_micros(seconds * 1_000_000);
        Now { wall, monotonic: Duration::from_secs(seconds) }
    }

    /// Two hosts of a fleet, whose clocks differ by less than a minute, and other hosts.
    #[test]
    fn section_5_a_proof_is_good_at_each_host_with_the_secret() {
        let (port, mut random) = (ControlPort(5000), Random::new([1; 32]));
        let keys = |seconds| ProofKeys::of_fleet(at(seconds), FleetSecret::new([7; 32]));
        let proof = keys(6000).proof(key(), port, &[1, 2]);
        for (seconds, good) in
            [(5939, false), (5940, true), (6000, true), (6119, true), (6120, false)]
        {
            let mut later = keys(0);
            later.renew(at(seconds), &mut random);
            for keys in [keys(seconds), later] {
                assert_eq!(keys.verify(key(), port, &[1, 2], &proof), good, "{seconds}");
            }
        }
        let other = ProofKeys::of_fleet(at(6000), FleetSecret::new([8; 32]));
        assert!(!other.verify(key(), port, &[1, 2], &proof));
    }

    #[test]
    fn section_5_a_proof_is_for_one_identity() {
        let mut random = Random::new([1; 32]);
        let keys = ProofKeys::new(Duration::ZERO, &mut random);
        let port = ControlPort(5000);
        let mut data = vec![0xee; 11];
        data.extend_from_slice(&keys.proof(key(), port, &[1, 2]));
        assert!(keys.verify(key(), port, &[1, 2], &data));
        assert!(!keys.verify(key(), ControlPort(5001), &[1, 2], &data));
        assert!(!keys.verify(key(), port, &[1, 3], &data));
        assert!(!keys.verify(key(), port, &[], &data));
        assert!(!keys.verify(key(), port, &[1, 2, 0, 0], &data));
        let swapped = TableKey { local: key().nat64, nat64: key().local };
        assert!(!keys.verify(swapped, port, &[1, 2], &data));
        assert!(!keys.verify(key(), port, &[1, 2], &data[..26]));
        assert!(!keys.verify(key(), port, &[1, 2], &data[12..]));
        assert!(!ProofKeys::new(Duration::ZERO, &mut random).verify(key(), port, &[1, 2], &data));
    }

    #[test]
    fn section_5_a_key_checks_for_two_minutes_at_most() {
        let port = ControlPort(5000);
        let accepted_after = |seconds: &[u64]| {
            let mut random = Random::new([1; 32]);
            let mut keys = ProofKeys::new(Duration::ZERO, &mut random);
            let proof = keys.proof(key(), port, &[]);
            seconds.iter().for_each(|&s| keys.renew(at(s), &mut random));
            keys.verify(key(), port, &[], &proof)
        };
        assert!(accepted_after(&[59]));
        assert!(accepted_after(&[60]));
        assert!(accepted_after(&[60, 119]));
        assert!(!accepted_after(&[60, 120]));
        assert!(accepted_after(&[119]));
        assert!(!accepted_after(&[119, 120]));
        assert!(!accepted_after(&[61, 119, 178]));
        assert!(!accepted_after(&[120]));
        assert!(!accepted_after(&[100_000]));
    }

    #[test]
    #[rustfmt::skip]
    fn section_5_the_three_forms() {
        let proof: Proof = std::array::from_fn(|i| 0xa0 + i as u8);
        let emit = |length: usize, authenticator: Option<&[u8]>| {
            let mut out = Vec::new();
            emit_validation_packet(&mut out, length, &[1, 2], authenticator, &proof);
            assert!(out.len() <= length);
            out
        };
        let ipv6 = [
            0x36, 2, 9, 8, 7, 6,
            0x60, 0, 0, 0, 0, 16, 59, 1,
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(emit(62, Some(&[9, 8, 7, 6])), [&ipv6[..], &proof].concat());
        let ipv4 = [
            0x34, 1, 1, 2,
            0x45, 0, 0, 36, 0, 0, 0x40, 0, 1, 59, 0xf9, 0x8e, 192, 0, 0, 8, 192, 0, 0, 8,
        ];
        assert_eq!(emit(61, Some(&[9, 8, 7, 6])), [&ipv4[..], &proof].concat());
        assert_eq!(emit(40, None), [&ipv4[..], &proof].concat());
        let no_op = [0x34, 1, 1, 2, 0x32, 8];
        assert_eq!(emit(39, Some(&[])), [&no_op[..], &proof].concat());
        assert_eq!(emit(22 + 2, None), [&no_op[..], &proof].concat());
        assert_eq!(checksum(&[&ipv4[4..]]), 0);
    }
}
