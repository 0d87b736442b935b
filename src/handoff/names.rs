//! [`PoolNames`]: whom the addresses of the pool stand for, as the changes that were recorded say.
//!
//! Not here: who gets an address, and for how long.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv6Net;

use crate::handoff::change::Change;
use crate::handoff::shown::shown;

/// Addresses of the pool, and whom each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolNames(BTreeMap<Ipv4Addr, Ipv6Net>);

impl PoolNames {
    /// Does what `change` says, if it is about a name. One that does not fit does nothing: an
    /// address that stands for a client stands for no other, and one that does not is not freed.
    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::Named { address, client } => {
                self.0.entry(address).or_insert(client);
            }
            Change::Unnamed { address, client } if self.0.get(&address) == Some(&client) => {
                self.0.remove(&address);
            }
            _ => {}
        }
    }

    /// Frees the address of a name that comes: what said that it is free was lost. For a repair.
    pub fn make_room(&mut self, coming: &Change) {
        if let Change::Named { address, .. } = coming {
            self.0.remove(address);
        }
    }

    /// The changes that make names like these from none.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.iter().map(|(address, client)| Change::Named { address, client })
    }

    /// In the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv6Net)> {
        self.0.iter().map(|(&address, &client)| (address, client))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those of other addresses.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

/// Whom an address of the pool stands for, as the log has it: `2001:db8::17`, or
/// `2001:db8:0:1::/64` where it is more than one address.
pub fn client_text(client: Ipv6Net) -> impl fmt::Display {
    shown(move |f| match client.prefix_len() == client.max_prefix_len() {
        true => fmt::Display::fmt(&client.addr(), f),
        false => fmt::Display::fmt(&client, f),
    })
}

/// Whether there is an address in both.
pub fn overlap(one: Ipv6Net, other: Ipv6Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(last: u8) -> Ipv6Net {
        format!("2001:db8::{last:x}/128").parse().unwrap()
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, 0, last)
    }

    #[test]
    fn changes_make_names_and_names_make_changes() {
        let named = |last, client| Change::Named { address: address(last), client: net(client) };
        let unnamed =
            |last, client| Change::Unnamed { address: address(last), client: net(client) };
        let mut names = PoolNames::default();
        assert!(names.is_empty());
        for change in [named(7, 1), named(8, 2), unnamed(8, 2), named(8, 3), named(9, 4)] {
            names.apply(&change);
        }
        // These do not fit.
        for change in [named(7, 5), unnamed(7, 5), unnamed(10, 1), Change::Initialized] {
            names.apply(&change);
        }
        let expected = [(address(7), net(1)), (address(8), net(3)), (address(9), net(4))];
        assert_eq!(names.iter().collect::<Vec<_>>(), expected);
        let mut again = PoolNames::default();
        names.changes().for_each(|change| again.apply(&change));
        assert_eq!((&again, again.len()), (&names, 3));
        let mut other = PoolNames::default();
        other.apply(&named(10, 5));
        other.make_room(&named(10, 6));
        other.apply(&named(10, 6));
        again.append(other);
        assert_eq!(again.iter().last(), Some((address(10), net(6))));
    }
}
