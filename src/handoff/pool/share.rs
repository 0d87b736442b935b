//! [`PoolShare`]: what a reactor gives and takes back of a [`AddressPool`].

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv6Net;

use super::addresses::{Nameless, OwnAddresses};
use super::{AddressPool, Name, Recorded, some};

/// What becomes of an entry that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coming {
    /// Its client has this address.
    Has(Ipv4Addr),
    /// It has it from now on: that is to be recorded before the entry is.
    New(Ipv4Addr, Ipv6Net),
}

/// A [`PoolShare`] that is both the server's, which gives addresses to clients whose packets are
/// translated, and that of whoever names entries and records it all. Both are of one thread:
/// neither waits for the other.
#[derive(Clone)]
pub struct PoolShareOfBoth(Arc<Mutex<PoolShare>>);

impl PoolShareOfBoth {
    pub fn new(share: PoolShare) -> Self {
        Self(Arc::new(Mutex::new(share)))
    }

    /// For a call or some.
    pub fn lock(&self) -> MutexGuard<'_, PoolShare> {
        // Nothing panics while it is held; if it did, what is in it is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What gives clients addresses whose packets are translated.
pub struct ClientAddresses {
    pub share: PoolShareOfBoth,
    /// Who had one last, and in which second: nothing more is to be done for him in that.
    pub last: Option<(Ipv6Addr, u32)>,
}

/// Of one reactor.
pub struct PoolShare {
    pool: Arc<AddressPool>,
    number: u16,
    own: OwnAddresses,
    /// The address that is looked at next, for whether it is idle.
    hand: usize,
}

impl PoolShare {
    pub(super) fn new(pool: Arc<AddressPool>, number: usize, own: OwnAddresses) -> Self {
        Self { pool, number: number as u16, own, hand: 0 }
    }

    /// What all share.
    pub fn pool(&self) -> &AddressPool {
        &self.pool
    }

    /// How many addresses this one can give in all.
    pub fn capacity(&self) -> usize {
        self.own.capacity()
    }

    /// At the start: whose address this is has an entry through this NAT64.
    pub fn found_via(&mut self, address: Ipv4Addr, nat64: Ipv4Addr) {
        self.own.found_via(address, nat64);
    }

    /// An entry comes, through a NAT64. It counts also where its client gets no address.
    ///
    /// # Errors
    /// Why the entry is not to be named by an address.
    pub fn come(&mut self, client: Ipv6Addr, nat64: Ipv4Addr) -> Result<Coming, Nameless> {
        let Self { pool, number, own, .. } = self;
        let unit = pool.settings.unit;
        let key = unit.key(client);
        let mut coming = Err(Nameless::Unrecorded);
        pool.with(key, |clients| {
            clients.entries = clients.entries.saturating_add(1);
            coming = match (some(clients.address), clients.recorded) {
                (Some(address), Recorded::Named) => Ok(Coming::Has(address)),
                // In an earlier record of the same journal.
                (Some(address), Recorded::NotYet(by)) if by == *number => Ok(Coming::Has(address)),
                (Some(_), _) => Err(Nameless::Unrecorded),
                (None, _) => own.give(key, nat64).map(|address| {
                    clients.address = address.to_bits();
                    clients.recorded = Recorded::NotYet(*number);
                    Coming::New(address, unit.net(key))
                }),
            };
        });
        if matches!(coming, Ok(Coming::New(..))) {
            pool.named.fetch_add(1, Ordering::Relaxed);
        }
        coming
    }

    /// A packet comes that is to be translated, through a NAT64.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn come_for_packet(
        &mut self,
        client: Ipv6Addr,
        nat64: Ipv4Addr,
        now: Duration,
    ) -> Result<Coming, Nameless> {
        let coming = self.come(client, nat64);
        // Not as an entry.
        self.go(client, now);
        coming
    }

    /// Whether a client has an address, or will when what this reactor gave is recorded.
    pub fn has(&self, client: Ipv6Addr) -> bool {
        let mut has = false;
        self.pool.with_found(self.pool.settings.unit.key(client), |clients| {
            has = clients.address != 0
                && match clients.recorded {
                    Recorded::Named => true,
                    Recorded::NotYet(by) => by == self.number,
                    Recorded::Ends => false,
                };
            false
        });
        has
    }

    /// An entry comes whose client is to get no address.
    pub fn come_without(&self, client: Ipv6Addr) {
        self.pool.found_entry(client);
    }

    /// An address that was [`Coming::New`] is recorded, as durably as it is to be.
    pub fn recorded(&self, client: Ipv6Net) {
        let key = client.network().to_bits();
        let mut address = 0;
        self.pool.with_found(key, |clients| {
            clients.recorded = Recorded::Named;
            address = clients.address;
            false
        });
        self.pool.hold(address, key);
    }

    /// An entry is gone, and its name with it.
    pub fn go(&self, client: Ipv6Addr, now: Duration) {
        self.pool.with_found(self.pool.settings.unit.key(client), |clients| {
            clients.entries = clients.entries.saturating_sub(1);
            clients.idle_since = now.as_secs() as u32;
            clients.entries == 0 && clients.address == 0
        });
    }

    /// Looks at some of the addresses in turn, and takes back at most `most` that are idle: for
    /// long enough; or for less, where most addresses are given, and those who came through the
    /// same NAT64, or from the same /64, have more than their share. `each` is told those, to
    /// record it; until [`PoolShare::freed`] nobody gets them, and their clients get no others.
    pub fn take_back(
        &mut self,
        now: Duration,
        looks: usize,
        most: usize,
        mut each: impl FnMut(Name),
    ) {
        let Self { pool, own, hand, .. } = self;
        let mut left = most;
        for _ in 0..looks.min(own.given.len()) {
            if left == 0 {
                break;
            }
            if *hand >= own.given.len() {
                *hand = 0;
            }
            let Some(given) = own.given.get(*hand) else { break };
            let name = (given.address.into(), pool.settings.unit.net(given.key));
            let idle = match own.is_above_share(given) {
                true => pool.settings.idle_crowded(),
                false => pool.settings.idle(),
            };
            let mut is_idle = false;
            pool.with_found(given.key, |clients| {
                is_idle = clients.entries == 0
                    && clients.recorded == Recorded::Named
                    && now.as_secs().saturating_sub(u64::from(clients.idle_since))
                        >= idle.as_secs();
                if is_idle {
                    clients.recorded = Recorded::Ends;
                }
                false
            });
            if is_idle {
                pool.let_go(given.address);
                own.take_back(*hand);
                pool.named.fetch_sub(1, Ordering::Relaxed);
                each(name);
                left -= 1;
            } else {
                *hand += 1;
            }
        }
    }

    /// It is recorded, as durably as it is to be, that this address stands for these clients no
    /// more.
    pub fn freed(&mut self, (address, client): Name) {
        self.pool.with_found(client.network().to_bits(), |clients| {
            let is_its = clients.recorded == Recorded::Ends && clients.address == address.to_bits();
            if is_its {
                (clients.address, clients.recorded) = (0, Recorded::Named);
            }
            is_its && clients.entries == 0
        });
        // It may be of another pool.
        if self.pool.settings.has(address) {
            self.own.free(address);
        }
    }

    /// Whether most addresses stand for somebody.
    pub fn is_crowded(&self) -> bool {
        self.own.is_crowded()
    }

    /// How many stand for somebody.
    pub fn given(&self) -> usize {
        self.own.given.len()
    }
}
