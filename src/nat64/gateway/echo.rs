//! Mappings of ICMP echo (RFC 6146 sections 3.1 and 3.5.3): from an identifier of the public
//! address to a client and its identifier.
//!
//! Like the ports of TCP and UDP they are kept per server address, so only the host that a client
//! pings can use the client's mapping. There are at most [`ECHOES_MAX`]; beyond it none are made.

use std::net::Ipv4Addr;
use std::time::Duration;

use hashbrown::HashMap;

use crate::handoff::entry::Client;
use crate::handoff::random::{Random, SecretHash};
use crate::nat64::engine::Network;
use crate::nat64::gateway::counts::Dropped;

/// The maximum number of mappings.
pub const ECHOES_MAX: usize = 65_536;
/// How long a mapping lives after a packet used it (RFC 6146 section 4: ICMP_DEFAULT).
pub const ECHO_LIFETIME: Duration = Duration::from_secs(60);
/// Time between two searches for expired mappings.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// Identifiers that are drawn before giving up. With half of them taken, that fails once in 2^32
/// times.
const DRAWS: u32 = 32;

#[derive(Debug)]
pub(super) struct Echoes {
    /// In place of the [`Client`]'s port stands its identifier.
    clients: HashMap<(Ipv4Addr, Client), EchoMapping, SecretHash>,
    identifiers: HashMap<(Ipv4Addr, u16), Client, SecretHash>,
    /// How many each network of clients has. None has 0.
    networks: HashMap<Network, usize, SecretHash>,
    /// How many each may have.
    share: usize,
    expiry_due: Duration,
}

#[derive(Debug)]
struct EchoMapping {
    identifier: u16,
    expires: Duration,
}

impl Echoes {
    /// Of which a network of clients may have that share.
    pub(super) fn new(hash: SecretHash, client_share: f64) -> Self {
        Self {
            clients: HashMap::with_hasher(hash),
            identifiers: HashMap::with_hasher(hash),
            networks: HashMap::with_hasher(hash),
            share: (ECHOES_MAX as f64 * client_share) as usize,
            expiry_due: Duration::ZERO,
        }
    }

    /// The mapped identifier of a client towards `server`. Where there is none it is made: the
    /// client's own if that is free, else a random one.
    ///
    /// # Errors
    /// No identifier is free, or the client's network has its share.
    pub(super) fn identifier(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        client: Client,
        random: &mut Random,
    ) -> Result<u16, Dropped> {
        let expires = now.saturating_add(ECHO_LIFETIME);
        if let Some(mapping) = self.clients.get_mut(&(server, client)) {
            mapping.expires = expires;
            return Ok(mapping.identifier);
        }
        if self.clients.len() >= ECHOES_MAX {
            return Err(Dropped::NoIdentifier);
        }
        let network = Network::of(client.address);
        if self.networks.get(&network).is_some_and(|&count| count >= self.share) {
            return Err(Dropped::EchoShare);
        }
        let free = |identifier: &u16| !self.identifiers.contains_key(&(server, *identifier));
        let identifier = Some(client.port).filter(free).or_else(|| {
            (0..DRAWS).map(|_| random.below(1 << 16) as u16).find(|identifier| free(identifier))
        });
        let identifier = identifier.ok_or(Dropped::NoIdentifier)?;
        *self.networks.entry(network).or_default() += 1;
        self.clients.insert((server, client), EchoMapping { identifier, expires });
        self.identifiers.insert((server, identifier), client);
        Ok(identifier)
    }

    /// The client to which a message of `server` with that identifier is sent. Refreshes the
    /// mapping if `used`.
    pub(super) fn client(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        identifier: u16,
        used: bool,
    ) -> Option<Client> {
        let client = *self.identifiers.get(&(server, identifier))?;
        if used && let Some(mapping) = self.clients.get_mut(&(server, client)) {
            mapping.expires = now.saturating_add(ECHO_LIFETIME);
        }
        Some(client)
    }

    /// The mapped identifier of a client towards `server`, where there is one. Does not refresh it.
    pub(super) fn identifier_of(&self, server: Ipv4Addr, client: Client) -> Option<u16> {
        Some(self.clients.get(&(server, client))?.identifier)
    }

    /// Removes expired mappings.
    pub(super) fn tick(&mut self, now: Duration) {
        if now < self.expiry_due {
            return;
        }
        self.expiry_due = now.saturating_add(EXPIRY_INTERVAL);
        let (identifiers, networks) = (&mut self.identifiers, &mut self.networks);
        self.clients.retain(|&(server, client), mapping| {
            let lives = now < mapping.expires;
            if !lives {
                identifiers.remove(&(server, mapping.identifier));
                let network = Network::of(client.address);
                if let Some(count) = networks.get_mut(&network) {
                    *count -= 1;
                    if *count == 0 {
                        networks.remove(&network);
                    }
                }
            }
            lives
        });
    }
}
