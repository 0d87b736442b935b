//! Packets that are translated and written, each at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Done, Gateway, GatewayOutbox};
use crate::handoff::entry::{Client, TableKey};
use crate::ip::address::synthesize;
use crate::nat64::translate::{Ipv4Packet, Ipv6Packet, Packets, Rewrite};

impl Gateway {
    pub(super) fn write_ipv4(
        &mut self,
        now: Duration,
        packet: &Ipv6Packet<'_>,
        table: TableKey,
        port: u16,
        out: &mut GatewayOutbox,
    ) {
        let TableKey { local: service, nat64: client } = table;
        let rewrite = Rewrite { client, client_port: port, service };
        let identification = self.next_identification();
        let mut buffer = std::mem::take(&mut self.buffer);
        match packet.to_ipv4(&rewrite, identification, &self.limits, &mut buffer) {
            Ok(packets) => {
                push_all(packets, out);
                self.did(Done::ToIpv4);
                self.buffer = buffer;
            }
            Err(refused) => {
                self.buffer = buffer;
                self.refuse_client(now, refused, packet.view().octets(), out);
            }
        }
    }

    pub(super) fn write_ipv6(
        &mut self,
        now: Duration,
        packet: &Ipv4Packet<'_>,
        server: Ipv4Addr,
        client: Client,
        out: &mut GatewayOutbox,
    ) {
        let service = synthesize(client.prefix, server);
        let rewrite = Rewrite { client: client.address, client_port: client.port, service };
        let mut buffer = std::mem::take(&mut self.buffer);
        match packet.to_ipv6(&rewrite, &self.limits, &mut buffer) {
            Ok(packets) => {
                push_all(packets, out);
                self.did(Done::ToIpv6);
                self.buffer = buffer;
            }
            // About a client's packet to another, the error is translated as well.
            Err(refused) => {
                self.buffer = buffer;
                self.refuse_service(now, refused, packet.view().octets(), out);
            }
        }
    }

    /// An IPv4 identification for a packet that brings none. It is random, so that it tells nobody
    /// how many packets went to others (RFC 7739 section 3).
    pub(super) fn next_identification(&mut self) -> u16 {
        self.random.below(1 << 16) as u16
    }
}

pub(super) fn push_all(mut packets: Packets<'_>, out: &mut GatewayOutbox) {
    while let Some(packet) = packets.next_packet() {
        out.push(&[packet]);
    }
}
