//! What a gateway keeps over a restart: of each public address the entries that it made without a
//! server (`engine::kept`), one address after the other.
//!
//! | octets | |
//! | --- | --- |
//! | 4 | the public address |
//! | 2 | its control port |
//! | 4 | how many entries |
//! | | the entries |

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Gateway;
use super::pool::Which;
use crate::handoff::entry::ControlPort;
use crate::nat64::engine::{ENTRIES_MAX, KEPT_ENTRY, Restored};
use crate::nat64::gateway::ADDRESSES_MAX;

/// What stands before the entries of an address.
const SECTION: usize = 4 + 2 + 4;
/// The most octets of all.
pub const KEPT_MAX: usize = ADDRESSES_MAX * (SECTION + ENTRIES_MAX * KEPT_ENTRY);

/// Entries that are being collected, some at a time.
#[derive(Debug)]
pub struct KeptEntries {
    octets: Vec<u8>,
    /// Of which addresses they are still to be collected.
    left: Vec<Which>,
    /// Where the section of the address before those begins, and behind which server to go on.
    section: Option<(Which, usize, Option<Ipv4Addr>)>,
}

impl KeptEntries {
    /// All that was collected.
    pub fn into_octets(self) -> Vec<u8> {
        self.octets
    }
}

impl Gateway {
    /// Begins to collect all entries that are kept, in `octets`, which is emptied.
    pub fn begin_keeping(&mut self, mut octets: Vec<u8>) -> KeptEntries {
        octets.clear();
        self.pool.each_mut().for_each(|public| public.nat64.begin_keeping());
        let mut left: Vec<_> = self.pool.all().collect();
        left.reverse();
        KeptEntries { octets, left, section: None }
    }

    /// Collects some more. Returns whether that is all.
    pub fn keep_some(&self, now: Duration, keeping: &mut KeptEntries) -> bool {
        let KeptEntries { octets, left, section } = keeping;
        let Some((which, start, after)) = section.take().or_else(|| {
            let which = left.pop()?;
            let (nat64, start) = (&self.pool[which].nat64, octets.len());
            octets.extend_from_slice(&nat64.address().octets());
            octets.extend_from_slice(&nat64.control_port().0.to_be_bytes());
            octets.extend_from_slice(&[0; 4]);
            Some((which, start, None))
        }) else {
            return true;
        };
        let after = self.pool[which].nat64.keep(now, after, octets);
        if after.is_some() {
            *section = Some((which, start, after));
            return false;
        }
        let entries = (octets.len() - start - SECTION) / KEPT_ENTRY;
        octets[start + SECTION - 4..start + SECTION]
            .copy_from_slice(&(entries as u32).to_be_bytes());
        left.is_empty()
    }

    /// What was collected last is in the file, and nothing else; or there is no file.
    pub fn kept(&mut self) {
        self.pool.each_mut().for_each(|public| public.nat64.kept());
    }

    /// Takes over what was kept so long before. To be called before anything else. `None` where it
    /// is nothing that was kept: then nothing was done.
    pub fn restore(&mut self, now: Duration, elapsed: Duration, kept: &[u8]) -> Option<Restored> {
        let sections = sections(kept)?;
        let mut all = Restored::default();
        for Section { address, control_port, entries } in sections {
            let restored = match self.pool.which(address) {
                Some(which) => {
                    self.pool[which].nat64.restore(now, elapsed, control_port, entries)?
                }
                // It is none of ours any more.
                None => Restored { entries: 0, lost: entries.len() / KEPT_ENTRY },
            };
            all.entries += restored.entries;
            all.lost += restored.lost;
        }
        Some(all)
    }

    /// Adds to the changes that each entry is gone that is not kept. See
    /// [`crate::nat64::engine::Nat64::tell_stop`].
    pub fn tell_stop(&mut self) {
        self.pool.each_mut().for_each(|public| public.nat64.tell_stop());
    }
}

/// What was kept of one address.
struct Section<'a> {
    address: Ipv4Addr,
    control_port: ControlPort,
    entries: &'a [u8],
}

fn sections(mut kept: &[u8]) -> Option<Vec<Section<'_>>> {
    let mut sections = Vec::new();
    while !kept.is_empty() {
        let (&[a, b, c, d, high, low, ref count @ ..], rest) =
            kept.split_first_chunk::<SECTION>()?;
        let count = u32::from_be_bytes(*count);
        let (entries, rest) = rest.split_at_checked(KEPT_ENTRY.checked_mul(count as usize)?)?;
        let control_port = ControlPort(u16::from_be_bytes([high, low]));
        sections.push(Section { address: Ipv4Addr::new(a, b, c, d), control_port, entries });
        kept = rest;
    }
    Some(sections)
}
