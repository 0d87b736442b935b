//! [`Reserved`]: ports that are free, but nobody else's yet, since the file of kept entries may
//! still name their last holder: a NAT64 that is killed now would give that what is another's.

use std::mem;
use std::net::Ipv4Addr;

use hashbrown::HashMap;

use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::random::SecretHash;

type ReservedPorts = HashMap<(Ipv4Addr, MappedPort), Client, SecretHash>;

#[derive(Debug)]
pub(super) struct Reserved {
    /// Those that became free since entries were last begun to be kept.
    fresh: ReservedPorts,
    /// Those before: what is being written does not name them.
    old: ReservedPorts,
}

impl Reserved {
    pub(super) fn new(hash: SecretHash) -> Self {
        Self { fresh: ReservedPorts::with_hasher(hash), old: ReservedPorts::with_hasher(hash) }
    }

    pub(super) fn add(&mut self, server: Ipv4Addr, entry: Entry) {
        self.fresh.insert((server, entry.port), entry.client);
    }

    pub(super) fn is_of_another(&self, server: Ipv4Addr, entry: &Entry) -> bool {
        let of_another = |ports: &ReservedPorts| {
            let holder = ports.get(&(server, entry.port));
            holder.is_some_and(|holder| *holder != entry.client)
        };
        of_another(&self.fresh) || of_another(&self.old)
    }

    /// How many ports there are.
    pub(super) fn ports(&self) -> usize {
        self.fresh.len() + self.old.len()
    }

    /// All entries are begun to be kept anew.
    pub(super) fn begin(&mut self) {
        let fresh = mem::replace(&mut self.fresh, ReservedPorts::with_hasher(*self.old.hasher()));
        self.old.extend(fresh);
    }

    /// They are kept: what was kept before is gone.
    pub(super) fn end(&mut self) {
        self.old = ReservedPorts::with_hasher(*self.fresh.hasher());
    }
}
