//! Routes and flows as octets, for who keeps them over a restart.
//!
//! | field | octets |
//! | --- | --- |
//! | key of the hash that flows are known by | 16 |
//! | for each part, of which there are always as many: | |
//! | number of clients, little-endian as all numbers here | 4 |
//! | for each client: prefix, address, number of routes | 12, 16, 1 |
//! | for each of its routes: local address, NAT64, service | 4, 4, 16 |
//! | and its port, or 0 for Geneve, length of the authenticator, and that | 2, 2, … |
//! | number of flows | 4 |
//! | for each flow: its hash, local address, NAT64 | 8, 4, 4 |

use std::net::{Ipv4Addr, Ipv6Addr};

use super::routes::{
    CLIENTS_MAX, DeliveryRoutes, FLOWS_EACH, FlowRecord, PARTS, ROUTES_MAX, Route, RoutedClient,
    Tunnel,
};
use crate::handoff::entry::{ControlPort, TableKey};
use crate::handoff::message::MESSAGE_DATA_MAX;
use crate::handoff::opaque::Authenticator;
use crate::ip::address::Prefix96;

/// The most octets that there can be.
pub const KEPT_OCTETS_MAX: usize =
    16 + PARTS * 8 + CLIENTS_MAX * (29 + ROUTES_MAX * (28 + MESSAGE_DATA_MAX) + FLOWS_EACH * 16);

/// In place of the port of a control payload, none of which has this one.
const GENEVE: u16 = 0;

/// What was kept is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptRoutesMalformed;

impl DeliveryRoutes {
    /// All routes and flows as octets. Others may come and go meanwhile.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.key().to_vec();
        for number in 0..PARTS {
            let part = self.part_at(number);
            out.extend_from_slice(&(part.clients.len() as u32).to_le_bytes());
            for client in part.clients.iter() {
                out.extend_from_slice(&client.prefix.0);
                out.extend_from_slice(&client.address.octets());
                out.push(client.routes().count() as u8);
                for route in client.routes() {
                    let authenticator = route.authenticator.octets();
                    put_table(&mut out, route.table);
                    out.extend_from_slice(&route.service.octets());
                    out.extend_from_slice(&port_of(route.tunnel).to_le_bytes());
                    out.extend_from_slice(&(authenticator.len() as u16).to_le_bytes());
                    out.extend_from_slice(authenticator);
                }
            }
            out.extend_from_slice(&(part.flows.len() as u32).to_le_bytes());
            for flow in part.flows.iter() {
                out.extend_from_slice(&flow.hash.to_le_bytes());
                put_table(&mut out, flow.table);
            }
        }
        out
    }

    /// Those that `octets` are of, as far as there is room for `clients`, all used in `second`.
    ///
    /// # Errors
    /// They are not what [`DeliveryRoutes::encode`] makes.
    pub fn decode(octets: &[u8], clients: usize, second: u32) -> Result<Self, KeptRoutesMalformed> {
        let mut rest = KeptRest(octets);
        let routes = Self::new(rest.array()?, clients);
        for number in 0..PARTS {
            for _ in 0..u32::from_le_bytes(rest.array()?) {
                let (prefix, address) = (Prefix96(rest.array()?), Ipv6Addr::from(rest.array()?));
                let [count] = rest.array()?;
                if usize::from(count) > ROUTES_MAX {
                    return Err(KeptRoutesMalformed);
                }
                let first =
                    (count > 0).then(|| rest.route(second)).ok_or(KeptRoutesMalformed)??;
                let others = (1..count).map(|_| rest.route(second)).collect::<Result<_, _>>()?;
                let hash = routes.client_hash(prefix, address);
                routes.put(RoutedClient { hash, prefix, address, first, others });
            }
            for _ in 0..u32::from_le_bytes(rest.array()?) {
                let hash = u64::from_le_bytes(rest.array()?);
                let flow = FlowRecord { hash, table: rest.table()?, used: second };
                routes.part_at(number).flows.add(flow, |_| false);
            }
        }
        if rest.0.is_empty() { Ok(routes) } else { Err(KeptRoutesMalformed) }
    }
}

fn port_of(tunnel: Tunnel) -> u16 {
    match tunnel {
        Tunnel::Control(ControlPort(port)) => port,
        Tunnel::Geneve => GENEVE,
    }
}

fn put_table(out: &mut Vec<u8>, table: TableKey) {
    out.extend_from_slice(&table.local.octets());
    out.extend_from_slice(&table.nat64.octets());
}

/// What was not read yet.
struct KeptRest<'a>(&'a [u8]);

impl<'a> KeptRest<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], KeptRoutesMalformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(KeptRoutesMalformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn octets(&mut self, length: usize) -> Result<&'a [u8], KeptRoutesMalformed> {
        let (octets, rest) = self.0.split_at_checked(length).ok_or(KeptRoutesMalformed)?;
        self.0 = rest;
        Ok(octets)
    }

    fn table(&mut self) -> Result<TableKey, KeptRoutesMalformed> {
        let [local, nat64] = [self.array()?, self.array()?].map(Ipv4Addr::from);
        Ok(TableKey { local, nat64 })
    }

    fn route(&mut self, used: u32) -> Result<Route, KeptRoutesMalformed> {
        let (table, service) = (self.table()?, Ipv6Addr::from(self.array()?));
        let (port, length) = (u16::from_le_bytes(self.array()?), u16::from_le_bytes(self.array()?));
        let authenticator = Authenticator::new(self.octets(usize::from(length))?);
        let authenticator = authenticator.ok_or(KeptRoutesMalformed)?;
        let tunnel =
            if port == GENEVE { Tunnel::Geneve } else { Tunnel::Control(ControlPort(port)) };
        Ok(Route { table, tunnel, authenticator, service, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::delivery::{DeliveredFlow, Via, tests::flow};

    fn came(routes: &DeliveryRoutes, nat64: u8, flow: &DeliveredFlow, authenticator: &[u8]) {
        let geneve = authenticator.is_empty();
        let tunnel = if geneve { Tunnel::Geneve } else { Tunnel::Control(ControlPort(9)) };
        let (local, nat64) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, nat64));
        let (table, service) = (TableKey { local, nat64 }, flow.service);
        let via = Via { table, tunnel, authenticator, service };
        routes.came(flow, via, 5).unwrap();
    }

    #[test]
    fn section_11_what_is_kept_is_the_same_again() {
        let routes = DeliveryRoutes::new([7; 16], CLIENTS_MAX);
        for client in 0..500 {
            came(&routes, 1, &flow(client, 1), &vec![client as u8; usize::from(client) / 2 * 2]);
            if client % 3 == 0 {
                came(&routes, 2, &flow(client, 2), b"two of these");
            }
        }
        let kept = routes.encode();
        let again = DeliveryRoutes::decode(&kept, CLIENTS_MAX, 1000).unwrap();
        let mut places = [[0; MESSAGE_DATA_MAX]; 2];
        for client in 0..501 {
            for port in 0..4 {
                let [one, two] = &mut places;
                let flow = flow(client, port);
                assert_eq!(
                    routes.answer(&flow, 5, one),
                    again.answer(&flow, 1000, two),
                    "{flow:?}"
                );
            }
        }
        assert!(again.encode().len() == kept.len());
        for end in (0..kept.len()).step_by(101) {
            assert!(DeliveryRoutes::decode(&kept[..end], 9999, 0).is_err(), "{end}");
        }
        assert!(DeliveryRoutes::decode(&[&kept[..], &[0]].concat(), 9999, 0).is_err());
    }
}
