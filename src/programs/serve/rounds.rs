//! Round robin within a batch: the costly requests of one NAT64 do not hold up others.
//!
//! A NAT64 has [`COSTLY_MAX`] costly requests answered in a round. Its next one waits for the next
//! round, and so does all that it sent after that, as the order of its requests is kept. What a
//! round answers leaves before the next one begins.

use std::net::Ipv4Addr;

/// The most costly requests of one NAT64 in one round.
const COSTLY_MAX: u32 = 8;

/// Who had costly requests in this round, and what waits for the next.
#[derive(Debug, Default)]
pub struct Rounds {
    /// How many costly requests each had.
    had: Vec<(Ipv4Addr, u32)>,
    /// The numbers of datagrams, in order.
    waiting: Vec<usize>,
}

impl Rounds {
    /// Whether datagram `index` waits for the next round: it is noted then.
    #[inline]
    pub fn defers(&mut self, index: usize, nat64: Ipv4Addr, is_costly: bool) -> bool {
        (is_costly || !self.waiting.is_empty()) && self.defers_any(index, nat64, is_costly)
    }

    fn defers_any(&mut self, index: usize, nat64: Ipv4Addr, is_costly: bool) -> bool {
        let at = self.had.iter().position(|had| had.0 == nat64);
        if at.is_none() && !is_costly {
            return false;
        }
        let at = at.unwrap_or_else(|| {
            self.had.push((nat64, 0));
            self.had.len() - 1
        });
        let had = &mut self.had[at].1;
        *had += u32::from(is_costly);
        // Once it is over, everything waits.
        let waits = *had > COSTLY_MAX;
        if waits {
            self.waiting.push(index);
        }
        waits
    }

    /// Begins the next round. Returns what waited for it, in `waited`, and whether anything did.
    pub fn next(&mut self, waited: &mut Vec<usize>) -> bool {
        self.had.clear();
        waited.clear();
        std::mem::swap(&mut self.waiting, waited);
        !waited.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costly_requests_wait_for_their_turn_and_keep_their_order() {
        let mut rounds = Rounds::default();
        let [hostile, honest] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        // 100 costly ones of one NAT64, and after each tenth one of it that is not, and two of
        // another.
        let mut requests = Vec::new();
        for number in 0..100 {
            requests.push((hostile, true));
            if number % 10 == 9 {
                requests.extend([(hostile, false), (honest, false), (honest, number == 99)]);
            }
        }
        let (mut order, mut waited) = (Vec::new(), (0..requests.len()).collect::<Vec<_>>());
        let mut round = 0;
        while !waited.is_empty() {
            for &index in &waited {
                let (nat64, is_costly) = requests[index];
                if !rounds.defers(index, nat64, is_costly) {
                    order.push((round, nat64, index));
                }
            }
            rounds.next(&mut waited);
            round += 1;
        }
        assert_eq!(order.len(), requests.len());
        assert!(order.iter().all(|&(round, nat64, _)| nat64 == hostile || round == 0));
        for nat64 in [hostile, honest] {
            let of: Vec<_> = order.iter().filter(|of| of.1 == nat64).map(|of| of.2).collect();
            assert!(of.is_sorted(), "{of:?}");
        }
        assert_eq!(round, 100_u32.div_ceil(COSTLY_MAX));
    }
}
