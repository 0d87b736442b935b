//! [`HostDelivery`]: which client packets are delivered on this host, and who gets the answers
//! (PROTOCOL.md section 11).
//!
//! A packet that is delivered needs no entry and no mapped port: the NAT64 tunnels it here, the
//! host's own network stack takes it from the client's own address, and what it answers goes back
//! through the NAT64 that the connection came by. Shared by all shards, as an answer may come out
//! of the device at any of them.
//!
//! Not here: the device, and how packets get to it and from it.

mod geneve;
mod kept;
mod last;
mod ports;
mod routes;
mod store;

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};

pub use geneve::{
    GATEWAYS_KEPT_OCTETS_MAX, GENEVE_GATEWAYS_MAX, GeneveGateways, GeneveKey, LastTunnel,
};
pub use kept::{KEPT_OCTETS_MAX, KeptRoutesMalformed};
pub use last::LastFlow;
pub use ports::DeliveredPorts;
pub use routes::{
    AnswerPath, CLIENTS_MAX, DeliveredFlow, DeliveryRoutes, FLOW_HELD, FLOWS_EACH, ROUTES_MAX,
    Tunnel, Via,
};

use crate::handoff::stats::DropReason;
use crate::ip::address::Prefix96;

/// What is delivered, and the flows of it.
#[derive(Debug)]
pub struct HostDelivery {
    /// Which ports.
    pub ports: DeliveredPorts,
    /// The addresses that this host has behind prefixes of NAT64s: nothing else is delivered to.
    services: Vec<Ipv6Addr>,
    /// Who gets the answers.
    pub routes: DeliveryRoutes,
    /// The NAT64s that have a tunnel of Geneve to here. `None`: none is to.
    pub geneve: Option<GeneveGateways>,
    /// The device is gone.
    away: AtomicBool,
}

impl HostDelivery {
    /// Of these ports, to these addresses.
    pub fn new(ports: DeliveredPorts, services: Vec<Ipv6Addr>, routes: DeliveryRoutes) -> Self {
        Self { ports, services, routes, geneve: None, away: AtomicBool::new(false) }
    }

    /// With tunnels of Geneve, if there are to be any.
    pub fn with_geneve(self, geneve: Option<GeneveGateways>) -> Self {
        Self { geneve, ..self }
    }

    /// Whether there is no device: then nothing new is delivered, and what was goes on when there
    /// is one again.
    #[inline]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Says so. Returns whether it was said before.
    pub fn set_away(&self, away: bool) -> bool {
        self.away.swap(away, Ordering::Relaxed)
    }

    /// Whether packets to this address are delivered.
    #[inline]
    pub fn is_service(&self, address: Ipv6Addr) -> bool {
        self.services.contains(&address)
    }

    /// As [`Self::is_service`].
    ///
    /// # Errors
    /// [`DropReason::NotService`] where they are not.
    pub fn check_service(&self, address: Ipv6Addr) -> Result<(), DropReason> {
        self.is_service(address).then_some(()).ok_or(DropReason::NotService)
    }

    /// Whether a client can have this address: one behind the prefix of a service would be a
    /// service, or an IPv4 host that pretends to be a client.
    pub fn can_be_client(&self, address: Ipv6Addr) -> bool {
        let prefix = Prefix96::of(address);
        self.services.iter().all(|&service| Prefix96::of(service) != prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow of TCP to port 80, of one of many clients.
    pub fn flow(client: u16, port: u16) -> DeliveredFlow {
        DeliveredFlow {
            service: "64:ff9b::203.0.113.5".parse().unwrap(),
            client: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, client),
            protocol: 6,
            service_port: 80,
            client_port: port,
        }
    }
}
