//! Who has ports at the end of a file that was just made: the next one begins with them, and need
//! not read that file.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::handoff::change::Timestamp;
use crate::handoff::holding::Holding;
use crate::ip::address::Prefix96;

/// The most that are kept in memory, of some 50 octets each: more are read from the file.
const KEPT_MAX: usize = 1 << 20;

/// Those without an end, in the order of the file.
#[derive(Default)]
pub(super) struct OpenHoldings {
    kept: Vec<KeptHolding>,
    /// They are few.
    prefixes: Vec<Prefix96>,
    /// Whether there were more than are kept.
    is_over: bool,
}

/// One of them, small.
struct KeptHolding {
    from: Timestamp,
    perhaps_until: Timestamp,
    client: [u8; 16],
    nat64: Ipv4Addr,
    local: Ipv4Addr,
    port: u16,
    client_port: u16,
    prefix: u16,
    /// Which of them are known.
    has: KeptParts,
}

/// What is known of one.
#[derive(Clone, Copy)]
struct KeptParts {
    from: bool,
    perhaps_until: bool,
    local: bool,
    prefix: bool,
}

impl OpenHoldings {
    pub(super) fn push(&mut self, held: &Holding) {
        if self.is_over {
            return;
        }
        let prefix = held.prefix.map_or(Some(0), |prefix| self.prefix(prefix));
        let Some(prefix) = prefix.filter(|_| self.kept.len() < KEPT_MAX) else {
            *self = Self { is_over: true, ..Self::default() };
            return;
        };
        let has = KeptParts {
            from: held.from.is_some(),
            perhaps_until: held.perhaps_until.is_some(),
            local: held.local.is_some(),
            prefix: held.prefix.is_some(),
        };
        self.kept.push(KeptHolding {
            from: held.from.unwrap_or_default(),
            perhaps_until: held.perhaps_until.unwrap_or_default(),
            client: held.client.octets(),
            nat64: *held.nat64.ip(),
            local: held.local.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port: held.nat64.port(),
            client_port: held.client_port,
            prefix,
            has,
        });
    }

    fn prefix(&mut self, prefix: Prefix96) -> Option<u16> {
        let found = self.prefixes.iter().rposition(|&other| other == prefix);
        let place = found.unwrap_or(self.prefixes.len());
        if found.is_none() {
            self.prefixes.push(prefix);
        }
        // Each costs a look at all of them.
        u16::try_from(place).ok().filter(|&place| place < 1000)
    }

    /// All of them; None where there are too many.
    pub(super) fn all(&self) -> Option<impl Iterator<Item = Holding>> {
        let all = self.kept.iter().map(|kept| Holding {
            nat64: SocketAddrV4::new(kept.nat64, kept.port),
            client: Ipv6Addr::from(kept.client),
            client_port: kept.client_port,
            local: kept.has.local.then_some(kept.local),
            prefix: kept.has.prefix.then(|| self.prefixes[usize::from(kept.prefix)]),
            from: kept.has.from.then_some(kept.from),
            until: None,
            perhaps_until: kept.has.perhaps_until.then_some(kept.perhaps_until),
            ended: None,
        });
        (!self.is_over).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_kept_as_they_are() {
        let at = |micros| Some(Timestamp::from_micros(micros));
        let plain = Holding {
            nat64: "192.0.2.7:3719".parse().unwrap(),
            client: "2001:db8::17".parse().unwrap(),
            client_port: 53186,
            local: None,
            prefix: None,
            from: at(7),
            until: None,
            perhaps_until: None,
            ended: None,
        };
        let full = Holding {
            local: Some(Ipv4Addr::new(203, 0, 113, 5)),
            prefix: Some(Prefix96([7; 12])),
            perhaps_until: at(9),
            ..plain.clone()
        };
        let other = Holding { prefix: Some(Prefix96([8; 12])), from: None, ..full.clone() };
        let all = [plain, full, other];
        let mut kept = OpenHoldings::default();
        all.iter().for_each(|held| kept.push(held));
        assert_eq!(kept.all().unwrap().collect::<Vec<_>>(), all);
        (0..KEPT_MAX).for_each(|_| kept.push(&all[0]));
        assert!(kept.all().is_none());
    }
}
