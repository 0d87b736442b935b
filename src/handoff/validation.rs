//! Which unknown identities are sent a validation packet, where more ask than `--validation-rate`
//! allows (PROTOCOL.md section 5).
//!
//! [`ValidationRate`] is the limit, shared by all reactors. [`Validation`] is what one reactor
//! knows of who asks: sketches of a fixed size, no state for any one address. A flood with forged
//! sources asks once or a few times for each identity that it invents, a NAT64 asks for its own
//! again and again. So where too many ask, those that asked the most often are first. An address
//! or network that was sent more than its share stands behind the others with that.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::handoff::entry::{ControlPort, TableKey};
use crate::handoff::random::{Random, SecretHash};
use crate::handoff::sketch::{HALVED_EVERY, Sketch};
use crate::handoff::stats::DropReason;

/// One of this many validation packets is kept for known NAT64 addresses.
const KNOWN_RESERVE: u32 = 10;
/// One of this many of the others is kept for those within their share.
const SHARE_RESERVE: u32 = 16;
/// An address that was sent more than one of this many validation packets stands behind the others;
/// likewise a /24.
const ADDRESS_SHARE: u32 = 64;
const NETWORK_SHARE: u32 = 16;
/// Shares are never smaller than this many packets in [`HALVED_EVERY`].
const SHARE_MIN: u32 = 8;
/// 512 KiB for how often each identity asked, 32 KiB for what was sent to each address and /24.
const ASKED_BITS: u32 = 16;
const SENT_BITS: u32 = 12;
/// The length of a slot of the rate.
const SLOT: Duration = Duration::from_millis(100);
/// The slots that make a second.
const SLOTS_IN_SECOND: u32 = 10;
/// These, and the current one.
const SLOTS: usize = SLOTS_IN_SECOND as usize + 1;
/// The most slots that pressure follows one by one.
const SLOTS_FOLLOWED: u64 = 100;

const _: () = assert!(SLOT.as_millis() * SLOTS_IN_SECOND as u128 == 1000);

/// What is known of whoever asks for a validation packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A NAT64 address that has a table: it has a part of the rate to itself.
    Known,
    /// An address that has none.
    Stranger,
    /// A stranger that was sent more than its share.
    Heavy,
}

const STANDINGS: [Standing; 3] = [Standing::Known, Standing::Stranger, Standing::Heavy];

/// The most validation packets in any second, from all reactors together.
///
/// Reactors change it only when a packet may leave. Their clocks are read once for each batch, so
/// two of them may count in different slots at the same moment: the limit is exceeded by one packet
/// for each reactor at most.
#[derive(Debug)]
pub struct ValidationRate {
    limit: u32,
    /// Each a slot's number, in the high half, and how many it was used for.
    slots: [AtomicU64; SLOTS],
}

impl ValidationRate {
    /// At most `limit` in any second.
    pub fn new(limit: u32) -> Self {
        Self { limit, slots: [const { AtomicU64::new(0) }; SLOTS] }
    }

    /// The limit of those with a standing: what is kept for others is not theirs to use. Rounded so
    /// that a small limit keeps something for the known; but everyone has a chance with any.
    fn limit(&self, standing: Standing) -> u32 {
        let reserve = if self.limit < 2 { 0 } else { self.limit.div_ceil(KNOWN_RESERVE) };
        let strangers = self.limit - reserve;
        match standing {
            Standing::Known => self.limit,
            Standing::Stranger => strangers,
            Standing::Heavy => strangers - strangers / SHARE_RESERVE,
        }
    }

    /// How many with a standing are welcome in one slot.
    fn quota(&self, standing: Standing) -> u32 {
        let second = match standing {
            Standing::Known => self.limit / KNOWN_RESERVE,
            _ => self.limit(standing),
        };
        (second / SLOTS_IN_SECOND).max(1)
    }

    /// Whether one more may leave now.
    fn take(&self, now: Duration, standing: Standing) -> bool {
        let slot = slot_of(now);
        let used_in = |value: u64| -> u32 {
            let recent = slot.saturating_sub(value >> 32) < SLOTS as u64;
            if recent { value as u32 } else { 0 }
        };
        let used: u32 = self.slots.iter().map(|of| used_in(of.load(Ordering::Relaxed))).sum();
        if used >= self.limit(standing) {
            return false;
        }
        let next = |value: u64| match value >> 32 {
            // Another reactor's clock may be ahead.
            of if of >= slot => value + 1,
            _ => (slot << 32) + 1,
        };
        let place = &self.slots[(slot % SLOTS as u64) as usize];
        place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(next(value))).is_ok()
    }
}

/// How often an identity must have asked, so that no more are heard than there are packets for.
#[derive(Debug, Clone, Default)]
struct Pressure {
    /// 0: nobody has to ask twice.
    asked_min: u16,
    slot: u64,
    /// How many were heard in this slot, and how many of them got nothing.
    heard: u32,
    refused: u32,
}

impl Pressure {
    /// Whether an identity that asked `asked` times is heard. The more it asked beyond what is
    /// needed, the rarer, or those that ask the most would take all.
    fn hears(&mut self, now: Duration, asked: u16, quota: u32, random: &mut Random) -> bool {
        self.follow(slot_of(now), quota);
        let beyond = match asked.checked_sub(self.asked_min) {
            None => return false,
            Some(_) if self.asked_min == 0 => 0,
            Some(beyond) => u32::from(beyond),
        };
        let heard = random.below(beyond + 1) == 0;
        self.heard += u32::from(heard);
        heard
    }

    fn follow(&mut self, slot: u64, quota: u32) {
        if slot <= self.slot {
            return;
        }
        let passed = slot - self.slot;
        if passed > SLOTS_FOLLOWED {
            self.asked_min = 0;
        }
        for _ in 0..passed.min(SLOTS_FOLLOWED) {
            let asked = self.asked_min;
            let too_many = self.heard > quota;
            // Others take what this reactor asks for.
            let in_vain = self.heard > 1 && self.refused > self.heard / 2;
            self.asked_min = if too_many || in_vain {
                asked.saturating_add(1 + asked / 16)
            } else if self.heard <= quota / 2 {
                asked.saturating_sub(1 + asked / 32)
            } else {
                asked
            };
            (self.heard, self.refused) = (0, 0);
        }
        self.slot = slot;
    }
}

/// Who asked one reactor for validation packets.
#[derive(Debug)]
pub struct Validation {
    rate: Arc<ValidationRate>,
    hash: SecretHash,
    /// How often each identity asked.
    asked: Sketch,
    /// How many packets were sent to each address and to each /24.
    sent: Sketch,
    pressures: [Pressure; STANDINGS.len()],
}

impl Validation {
    /// Nobody asked yet.
    pub fn new(rate: Arc<ValidationRate>, hash: SecretHash) -> Self {
        let (asked, sent) = (Sketch::new(ASKED_BITS), Sketch::new(SENT_BITS));
        Self { rate, hash, asked, sent, pressures: Default::default() }
    }

    /// Whether the identity may be sent a validation packet now. `known`: its address has a table.
    ///
    /// # Errors
    /// Why it may not.
    pub fn take(
        &mut self,
        now: Duration,
        known: bool,
        table: TableKey,
        port: ControlPort,
        token: &[u8],
        random: &mut Random,
    ) -> Result<(), DropReason> {
        let [address, network] = self.prefixes(table.nat64);
        let heavy = !known && {
            let second = HALVED_EVERY.as_secs() as u32 * self.rate.limit;
            let share = |part: u32| (second / part).max(SHARE_MIN);
            u32::from(self.sent.count(now, address)) >= share(ADDRESS_SHARE)
                || u32::from(self.sent.count(now, network)) >= share(NETWORK_SHARE)
        };
        let standing = match (known, heavy) {
            (true, _) => Standing::Known,
            (false, true) => Standing::Heavy,
            (false, false) => Standing::Stranger,
        };
        let addresses = u64::from(table.local.to_bits()) << 32 | u64::from(table.nat64.to_bits());
        let identity = self.hash.of_words([addresses, u64::from(port.0), self.hash.of(token), 0]);
        let asked = self.asked.add(now, identity);
        let pressure = &mut self.pressures[standing as usize];
        if !pressure.hears(now, asked, self.rate.quota(standing), random) {
            return Err(DropReason::ValidationShare);
        }
        if !self.rate.take(now, standing) {
            pressure.refused += 1;
            return Err(DropReason::ValidationRate);
        }
        if !known {
            self.sent.add(now, address);
            self.sent.add(now, network);
        }
        Ok(())
    }

    /// The hashes of an address and of its /24.
    fn prefixes(&self, nat64: Ipv4Addr) -> [u64; 2] {
        let bits = u64::from(nat64.to_bits());
        [self.hash.of_words([bits, 32]), self.hash.of_words([bits >> 8, 24])]
    }
}

fn slot_of(now: Duration) -> u64 {
    (now.as_millis() / SLOT.as_millis()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_5_a_tenth_is_reserved() {
        let rate = ValidationRate::new(100);
        let taken = |standing| (0..200).filter(|_| rate.take(Duration::ZERO, standing)).count();
        assert_eq!(taken(Standing::Heavy), 85);
        assert_eq!(taken(Standing::Stranger), 5);
        assert_eq!(taken(Standing::Known), 10);
    }

    #[test]
    fn section_5_the_rate_is_shared_and_holds_in_any_second() {
        let rate = ValidationRate::new(40);
        let mut taken = Vec::new();
        for ms in (0..5000_u64).step_by(3).chain(100_000..102_000) {
            // Two reactors, of which one is a slot behind.
            for clock in [ms, ms.saturating_sub(100)] {
                if rate.take(Duration::from_millis(clock), Standing::Stranger) {
                    taken.push(ms);
                }
            }
        }
        for &start in &taken {
            let second = taken.iter().filter(|&&ms| (start..start + 1000).contains(&ms)).count();
            assert!(second <= 40, "{second} from {start} ms on");
        }
        assert!(taken.len() >= 7 * 36 * 9 / 10, "{}", taken.len());
    }

    /// Somebody who asks `asks` times a second among `flood` forged requests a second, whose source
    /// is `forged` of a random number. Returns after how long it was sent a validation packet; the
    /// flood began five seconds before it.
    fn waits(flood: u64, asks: u64, known: bool, forged: impl Fn(u64) -> (u32, u16)) -> Duration {
        let rate = Arc::new(ValidationRate::new(10_000));
        let mut validation = Validation::new(rate, SecretHash::new([7; 16]));
        let (mut random, mut noise) = (Random::new([1; 32]), Random::new([2; 32]));
        let local = Ipv4Addr::new(203, 0, 113, 5);
        let own = TableKey { local, nat64: Ipv4Addr::new(192, 0, 2, 7) };
        let begin = Duration::from_secs(5);
        for number in 0.. {
            let now = Duration::from_nanos(number * 1_000_000_000 / flood);
            let bits = u64::from(noise.below(u32::MAX)) << 32 | u64::from(noise.below(u32::MAX));
            let (source, port) = forged(bits);
            let table = TableKey { local, nat64: Ipv4Addr::from_bits(source) };
            let is_known = known && table == own;
            // Attenuation lets 60 % pass.
            if noise.below(10) < 6 {
                let token = (bits as u32).to_be_bytes();
                let port = ControlPort(port);
                _ = validation.take(now, is_known, table, port, &token, &mut random);
            }
            let asks = now > begin && number % (flood / asks) == 0 && noise.below(10) < 6;
            let port = ControlPort(40_000);
            if asks && validation.take(now, known, own, port, b"own", &mut random).is_ok() {
                return now - begin;
            }
            if now > begin + Duration::from_secs(60) {
                break;
            }
        }
        Duration::MAX
    }

    /// A NAT64 whose clients miss its cache ten times a second, among a million requests a second
    /// with forged sources: from everywhere, from half of all addresses (which one reactor of two
    /// gets), from one network.
    #[test]
    fn section_5_a_newcomer_among_a_million_forged_requests_a_second() {
        let port = |bits: u64| (bits >> 32) as u16;
        let everywhere = waits(1_000_000, 10, false, |bits| (bits as u32, port(bits)));
        let half = waits(1_000_000, 10, false, |bits| (bits as u32 & !1, port(bits)));
        let network =
            waits(1_000_000, 10, false, |bits| (0xc633_6400 | bits as u8 as u32, port(bits)));
        let own = waits(1_000_000, 10, false, |bits| (0xc000_0207, port(bits)));
        let report = format!("{everywhere:?}, {half:?}, {network:?}, {own:?}");
        eprintln!("admitted after {report}");
        for waited in [everywhere, half, network, own] {
            assert!(waited <= Duration::from_secs(10), "{report}");
        }
    }

    /// A NAT64 that is known and was rebooted, while its own address is forged.
    #[test]
    fn section_5_a_rebooted_nat64_whose_address_is_forged() {
        let waited = waits(1_000_000, 10, true, |bits| (0xc000_0207, (bits >> 32) as u16));
        eprintln!("admitted after {waited:?}");
        assert!(waited <= Duration::from_secs(10), "{waited:?}");
    }
}
