//! [`PortHolders`]: which client has a port of the public address, whoever the server is: by that
//! other clients reach it (`hairpin`).
//!
//! Each server has a table of its own, so one port may be several clients', towards different
//! servers. It is then held by the one that had it first.

use hashbrown::HashMap;

use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::random::SecretHash;

#[derive(Debug)]
pub(super) struct PortHolders {
    ports: HashMap<MappedPort, PortHolder, SecretHash>,
    /// One of the ports that each holder has.
    clients: HashMap<Client, MappedPort, SecretHash>,
}

#[derive(Debug)]
struct PortHolder {
    client: Client,
    /// How many of its entries have the port. Not 0.
    entries: u32,
}

impl PortHolders {
    pub(super) fn new(hash: SecretHash) -> Self {
        Self { ports: HashMap::with_hasher(hash), clients: HashMap::with_hasher(hash) }
    }

    /// An entry was made, or is gone.
    pub(super) fn hear(&mut self, entry: Entry, made: bool) {
        let Entry { port, client } = entry;
        if made {
            let holder = self.ports.entry(port).or_insert(PortHolder { client, entries: 0 });
            if holder.client == client {
                holder.entries += 1;
                self.clients.entry(client).or_insert(port);
            }
            return;
        }
        let Some(holder) = self.ports.get_mut(&port).filter(|holder| holder.client == client)
        else {
            return;
        };
        holder.entries -= 1;
        if holder.entries == 0 {
            self.ports.remove(&port);
            if self.clients.get(&client) == Some(&port) {
                self.clients.remove(&client);
            }
        }
    }

    pub(super) fn client_of(&self, port: MappedPort) -> Option<Client> {
        Some(self.ports.get(&port)?.client)
    }

    pub(super) fn port_of(&self, client: &Client) -> Option<MappedPort> {
        self.clients.get(client).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat64::engine::WELL_KNOWN_PREFIX;

    fn entry(port: u16, number: u16) -> Entry {
        let address = "2001:db8::17".parse().unwrap();
        let client = Client { prefix: WELL_KNOWN_PREFIX, address, port: number };
        Entry { port: MappedPort(port), client }
    }

    #[test]
    fn the_first_holds_a_port_as_long_as_an_entry_has_it() {
        let mut holders = PortHolders::new(SecretHash::new([3; 16]));
        let (one, other) = (entry(5000, 1), entry(5000, 2));
        let holder = |holders: &PortHolders| holders.client_of(MappedPort(5000));
        for _ in 0..2 {
            holders.hear(one, true);
        }
        holders.hear(other, true);
        assert_eq!(holder(&holders), Some(one.client));
        assert_eq!(holders.port_of(&one.client), Some(MappedPort(5000)));
        assert_eq!(holders.port_of(&other.client), None);
        // It gets another port from a server: both are its own, and it keeps the first.
        holders.hear(entry(6000, 1), true);
        assert_eq!(holders.client_of(MappedPort(6000)), Some(one.client));
        assert_eq!(holders.port_of(&one.client), Some(MappedPort(5000)));
        holders.hear(other, false);
        holders.hear(one, false);
        assert_eq!(holder(&holders), Some(one.client));
        holders.hear(one, false);
        assert_eq!(holder(&holders), None);
        assert_eq!(holders.port_of(&one.client), None);
        holders.hear(other, true);
        assert_eq!(holder(&holders), Some(other.client));
        holders.hear(other, false);
        holders.hear(entry(6000, 1), false);
        assert!(holders.ports.is_empty() && holders.clients.is_empty());
    }
}
