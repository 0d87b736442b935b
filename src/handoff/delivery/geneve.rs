//! [`GeneveGateways`]: the NAT64s that have a tunnel of Geneve to here (PROTOCOL.md section 12),
//! and which address the server has in each tunnel.
//!
//! The server's link-layer address is a MAC over who is at the other end, of a key that is kept: so
//! whoever sends to it has got our answer to its offer, and nothing is kept of an offer. That a
//! gateway is one of ours is noted when it has proved itself so.
//!
//! As octets, for who keeps them over a restart:
//!
//! | field | octets |
//! | --- | --- |
//! | key of the server's addresses | 16 |
//! | number of gateways, little-endian | 4 |
//! | for each gateway: local address, NAT64, VNI, its link-layer address | 4, 4, 3, 6 |

use std::hash::Hasher;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use super::kept::KeptRoutesMalformed;
use super::store::{Store, Stored};
use crate::handoff::entry::TableKey;
use crate::handoff::random::SecretHash;
use crate::ip::geneve::{LinkAddress, PLAIN_FRONT, Vni, plain_front};

/// The most gateways that are known. Beyond it, the one that was not heard for longest goes: it is
/// there again with its next packet.
pub const GENEVE_GATEWAYS_MAX: usize = 1 << 16;
/// The octets of one that is kept.
const GATEWAY_OCTETS: usize = 17;
/// The most octets that there can be.
pub const GATEWAYS_KEPT_OCTETS_MAX: usize = 20 + GENEVE_GATEWAYS_MAX * GATEWAY_OCTETS;

/// What the MAC is for, so that no other use of the key could be mistaken for it.
const DOMAIN: &[u8] = b"nat64handoff geneve v1";

/// The tunnel that a frame came by last: what comes next is mostly of it, and nothing about it is
/// to be asked or noted again in the same second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastTunnel {
    pub table: TableKey,
    /// VNI and both link-layer addresses.
    pub front: [u8; PLAIN_FRONT],
    pub second: u32,
}

/// What the server's link-layer addresses are made of.
pub type GeneveKey = [u8; 16];

/// One that has proved itself.
#[derive(Debug)]
struct KnownGateway {
    hash: u64,
    table: TableKey,
    vni: Vni,
    /// The address that it had last.
    link: LinkAddress,
    used: u32,
}

impl Stored for KnownGateway {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn used(&self) -> u32 {
        self.used
    }
}

/// Those that are known, and the key of the server's addresses. Shared by all shards.
#[derive(Debug)]
pub struct GeneveGateways {
    key: GeneveKey,
    hash: SecretHash,
    known: Mutex<Store<KnownGateway>>,
    /// Since that was asked last, one came or changed.
    changed: AtomicBool,
}

impl GeneveGateways {
    /// None yet.
    pub fn new(key: GeneveKey) -> Self {
        Self {
            key,
            hash: SecretHash::new(key),
            known: Mutex::new(Store::new(GENEVE_GATEWAYS_MAX)),
            changed: AtomicBool::new(true),
        }
    }

    /// The link-layer address of this server in the tunnel `vni` of this NAT64.
    pub fn own_link(&self, table: TableKey, vni: Vni) -> LinkAddress {
        let mut mac = SipHasher24::new_with_key(&self.key);
        mac.write(DOMAIN);
        mac.write(&table.local.octets());
        mac.write(&table.nat64.octets());
        mac.write(&vni.octets());
        let [a, b, c, d, e, f, ..] = mac.finish128().as_bytes();
        LinkAddress::local([a, b, c, d, e, f])
    }

    /// Whether `to` is that address: who sends there has got our answer to its offer.
    pub fn is_proof(&self, table: TableKey, vni: Vni, to: LinkAddress) -> bool {
        self.own_link(table, vni).0.ct_eq(&to.0).into()
    }

    /// A gateway that has proved itself sent from this address.
    pub fn came(&self, table: TableKey, vni: Vni, link: LinkAddress, second: u32) {
        let hash = self.hash_of(table);
        let mut known = self.known();
        match known.find_mut(hash, |gateway| gateway.table == table) {
            Some(gateway) => {
                let before = (gateway.vni, gateway.link);
                (gateway.vni, gateway.link, gateway.used) = (vni, link, second);
                if before != (vni, link) {
                    self.changed.store(true, Ordering::Relaxed);
                }
            }
            None => {
                known.add(KnownGateway { hash, table, vni, link, used: second }, |_| false);
                self.changed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What stands before a packet to this gateway. `None` where it is not known.
    pub fn front(&self, table: TableKey) -> Option<[u8; PLAIN_FRONT]> {
        let known = self.known();
        let gateway = known.find(self.hash_of(table), |gateway| gateway.table == table)?;
        Some(plain_front(gateway.vni, gateway.link, self.own_link(table, gateway.vni)))
    }

    /// Whether one came or changed since the last call.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// The key and all gateways as octets.
    pub fn encode(&self) -> Vec<u8> {
        let known = self.known();
        let mut out = self.key.to_vec();
        out.extend_from_slice(&(known.len() as u32).to_le_bytes());
        for KnownGateway { table, vni, link, .. } in known.iter() {
            out.extend_from_slice(&table.local.octets());
            out.extend_from_slice(&table.nat64.octets());
            out.extend_from_slice(&vni.octets());
            out.extend_from_slice(&link.0);
        }
        out
    }

    /// What `octets` are of.
    ///
    /// # Errors
    /// They are not what [`GeneveGateways::encode`] makes.
    pub fn decode(octets: &[u8]) -> Result<Self, KeptRoutesMalformed> {
        let (key, rest) = octets.split_first_chunk().ok_or(KeptRoutesMalformed)?;
        let (number, rest) = rest.split_first_chunk().ok_or(KeptRoutesMalformed)?;
        let (gateways, beyond) = rest.as_chunks::<GATEWAY_OCTETS>();
        let number = u32::from_le_bytes(*number) as usize;
        if number != gateways.len() || number > GENEVE_GATEWAYS_MAX || !beyond.is_empty() {
            return Err(KeptRoutesMalformed);
        }
        let known = Self::new(*key);
        for &[a, b, c, d, e, f, g, h, i, j, k, ref link @ ..] in gateways {
            let (local, nat64) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            let link = LinkAddress(*link);
            known.came(TableKey { local, nat64 }, Vni::new([i, j, k]), link, 0);
        }
        known.changed.store(false, Ordering::Relaxed);
        Ok(known)
    }

    fn known(&self) -> MutexGuard<'_, Store<KnownGateway>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash_of(&self, table: TableKey) -> u64 {
        self.hash.of_words([table.local.to_bits().into(), table.nat64.to_bits().into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VNI: Vni = Vni::new([1, 2, 3]);
    const LINK: LinkAddress = LinkAddress([2, 9, 9, 9, 9, 9]);

    fn table(nat64: u32) -> TableKey {
        let nat64 = Ipv4Addr::from_bits(0xc000_0200 + nat64);
        TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 }
    }

    #[test]
    fn section_12_our_address_is_another_for_each_tunnel() {
        let gateways = GeneveGateways::new([7; 16]);
        let own = gateways.own_link(table(1), VNI);
        assert_eq!(own, GeneveGateways::new([7; 16]).own_link(table(1), VNI));
        assert!(!own.is_group() && own.0[0] & 2 != 0 && gateways.is_proof(table(1), VNI, own));
        let swapped = TableKey { local: table(1).nat64, nat64: table(1).local };
        assert!(!gateways.is_proof(table(2), VNI, own) && !gateways.is_proof(swapped, VNI, own));
        assert!(!gateways.is_proof(table(1), Vni::new([1, 2, 4]), own));
        assert!(!GeneveGateways::new([8; 16]).is_proof(table(1), VNI, own));
        for octet in 0..6 {
            let mut other = own;
            other.0[octet] ^= 0x40;
            assert!(!gateways.is_proof(table(1), VNI, other));
        }
    }

    #[test]
    fn section_12_what_is_kept_is_the_same_again() {
        let gateways = GeneveGateways::new([7; 16]);
        assert!(gateways.take_changed(), "the key is to be kept");
        assert_eq!(gateways.front(table(0)), None);
        for nat64 in 0..100 {
            gateways.came(table(nat64), Vni::new([1, 2, nat64 as u8]), LINK, 5);
        }
        assert!(gateways.take_changed() && !gateways.take_changed());
        gateways.came(table(5), Vni::new([1, 2, 5]), LINK, 6);
        assert!(!gateways.take_changed());
        gateways.came(table(5), VNI, LinkAddress([2; 6]), 6);
        assert!(gateways.take_changed());
        let kept = gateways.encode();
        let again = GeneveGateways::decode(&kept).unwrap();
        assert!(!again.take_changed());
        for nat64 in 0..101 {
            assert_eq!(gateways.front(table(nat64)), again.front(table(nat64)));
        }
        let own = gateways.own_link(table(5), VNI);
        assert_eq!(again.front(table(5)), Some(plain_front(VNI, LinkAddress([2; 6]), own)));
        for end in 0..kept.len() {
            assert!(GeneveGateways::decode(&kept[..end]).is_err(), "{end}");
        }
        assert!(GeneveGateways::decode(&[&kept[..], &[0; 17]].concat()).is_err());
    }

    #[test]
    fn section_12_so_many_gateways_are_known() {
        let gateways = GeneveGateways::new([7; 16]);
        for nat64 in 0..GENEVE_GATEWAYS_MAX as u32 + 1000 {
            gateways.came(table(nat64), VNI, LINK, nat64);
        }
        assert!(gateways.encode().len() == GATEWAYS_KEPT_OCTETS_MAX);
    }
}
