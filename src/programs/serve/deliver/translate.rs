//! [`Translator`]: packets of clients as IPv4, for programs that know nothing else, and what these
//! answer as IPv6 (PROTOCOL.md section 11, RFC 7915).
//!
//! Each client comes from an address of the pool of its own, and from its own ports. Super-packets
//! stay what they are: headers alone change. What takes more than that goes packet by packet.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::handoff::delivery::DeliveredFlow;
use crate::handoff::pool::AddressPool;
use crate::handoff::random::Random;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, protocol};
use crate::ip::joined::join_each;
use crate::ip::offload::Offload;
use crate::ip::segments::Pieces;
use crate::nat64::translate::{
    GROWTH_MAX, Inside, Ipv4Packet, Ipv6Packet, Limits, Packets, Refused, Rewrite,
};

/// A packet grows by so many octets where headers alone change.
pub const GROWTH: usize = IPV6_HEADER - IPV4_HEADER;
/// The longest packet, and what one may grow by.
const BUFFER: usize = 65_536 + GROWTH_MAX;

/// A reactor's translator.
pub struct Translator {
    pool: Arc<AddressPool>,
    limits: Limits,
    random: Random,
    out: Box<[u8]>,
    piece: Box<[u8]>,
    /// Who sent last, and got something last, with the address and the second: what comes next is
    /// mostly theirs, and not to be looked up again in that.
    last_sender: Option<LastClient>,
    last_receiver: Option<LastClient>,
}

#[derive(Clone, Copy)]
struct LastClient {
    client: Ipv6Addr,
    address: Ipv4Addr,
    second: u64,
}

/// What this host sends to an address of the pool.
pub struct HostAnswer {
    /// Its flow, as those are known by of which packets are translated.
    pub flow: DeliveredFlow,
    /// The client's port, or the identifier of a ping; 0 where the packet has none.
    port: u16,
}

impl HostAnswer {
    /// What is to be written, where it is known as which service the client knows this host.
    pub fn rewrite(&self, service: Ipv6Addr) -> Rewrite<Ipv6Addr> {
        Rewrite { client: self.flow.client, client_port: self.port, service }
    }
}

/// Why a packet of this host cannot be an answer.
pub enum NotAnAnswer {
    /// It cannot be translated.
    Refused(Refused),
    /// Nobody has its destination.
    NobodyHas,
}

impl Translator {
    /// With clients' addresses of this pool. The device carries packets of so many octets.
    pub fn new(pool: Arc<AddressPool>, device_mtu: u16, seed: [u8; 32]) -> Self {
        // The host takes packets of any length.
        let limits = Limits::at_least(u16::MAX, device_mtu.saturating_add(GROWTH as u16));
        let [out, piece] = [(); 2].map(|()| vec![0; BUFFER].into());
        let random = Random::new(seed);
        Self { pool, limits, random, out, piece, last_sender: None, last_receiver: None }
    }

    /// The address of a client that sends, if it has one, as is recorded.
    pub fn address_of(&mut self, client: Ipv6Addr, now: Duration) -> Option<Ipv4Addr> {
        let second = now.as_secs();
        let is_it = |last: &LastClient| (last.client, last.second) == (client, second);
        if let Some(last) = self.last_sender.filter(is_it) {
            return Some(last.address);
        }
        let address = self.pool.address_of(client)?;
        self.last_sender = Some(LastClient { client, address, second });
        Some(address)
    }

    /// Gives `write` packets of a client for `service`, this host, from `address`. It is given a
    /// front, what stands behind that, and the data of the packets that were joined; `udp` is as
    /// for [`join_each`]. Returns how many were not translated.
    pub fn give_host<'a>(
        &mut self,
        address: Ipv4Addr,
        service: Ipv4Addr,
        packets: impl Iterator<Item = &'a [u8]>,
        udp: bool,
        mut write: impl FnMut(&Offload, [&[u8]; 2], &[&[u8]]),
    ) -> u64 {
        let mut refused = 0;
        join_each(packets, udp, |offload, front, data| {
            let rewrite = |port| Rewrite { client: address, client_port: port, service };
            let identification = self.random.below(1 << 16) as u16;
            let packet = match data {
                [] => Ipv6Packet::parse(front).ok(),
                _ => Ipv6Packet::of_headers(front),
            };
            let Some(packet) = packet else {
                refused += 1;
                return;
            };
            let rewrite = rewrite(port_of(&packet.inside()));
            let limits = &self.limits;
            match packet.forward_to_ipv4(offload, &rewrite, identification, limits) {
                Some(new) => write(&new.offload, [new.headers(), new.rest], data),
                None if !data.is_empty() => refused += 1,
                None => match packet.to_ipv4(&rewrite, identification, limits, &mut self.out) {
                    Ok(mut packets) => {
                        while let Some(packet) = packets.next_packet() {
                            write(&Offload::default(), [packet, &[]], &[]);
                        }
                    }
                    Err(_) => refused += 1,
                },
            }
        });
        refused
    }

    /// What a packet of this host is.
    ///
    /// # Errors
    /// It is no answer.
    pub fn answer_of(&mut self, packet: &[u8], now: Duration) -> Result<HostAnswer, NotAnAnswer> {
        let packet = Ipv4Packet::parse(packet).map_err(NotAnAnswer::Refused)?;
        let view = packet.view();
        let client = self.receiver(view.destination(), now).ok_or(NotAnAnswer::NobodyHas)?;
        let inside = packet.inside();
        let (service, protocol, service_port) = match &inside {
            Inside::Flow { flow, .. } | Inside::Error(flow) => {
                (flow.service, flow.transport.ipv6_protocol(), flow.service_port)
            }
            Inside::Later(_) => (view.source(), view.protocol(), 0),
        };
        let port = port_of(&inside);
        // A ping is of the flow of all pings.
        let client_port = if protocol == protocol::ICMPV6 { 0 } else { port };
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let flow =
            DeliveredFlow { service: unspecified, client, protocol, service_port, client_port };
        Ok(HostAnswer { flow: flow.translated(service), port })
    }

    fn receiver(&mut self, address: Ipv4Addr, now: Duration) -> Option<Ipv6Addr> {
        let second = now.as_secs();
        let is_it = |last: &LastClient| (last.address, last.second) == (address, second);
        if let Some(last) = self.last_receiver.filter(is_it) {
            return Some(last.client);
        }
        let client = self.pool.client_of(address)?;
        self.pool.touch(client, now);
        self.last_receiver = Some(LastClient { client, address, second });
        Some(client)
    }

    /// Changes the headers of the packet that `buffer` ends with, behind 20 octets or more,
    /// where it is an answer of which nothing else is to be changed. Returns where it begins and
    /// ends, and what is left to do. `None`: of that, nothing was done.
    pub fn change_headers(
        &self,
        buffer: &mut [u8],
        at: usize,
        offload: &Offload,
        rewrite: &Rewrite<Ipv6Addr>,
    ) -> Option<(Range<usize>, Offload)> {
        let packet = Ipv4Packet::parse(&buffer[at..]).ok()?;
        let end = at + packet.view().octets().len();
        let new = packet.forward_to_ipv6(offload, rewrite, &self.limits)?.in_place();
        Some((new.write(&mut buffer[..end])..end, new.offload))
    }

    /// Calls `each` with the packets that an answer becomes, which [`Self::change_headers`] did not
    /// change, and `refused` with each packet that does not become any, and why.
    pub fn in_pieces<E>(
        &mut self,
        pieces: &mut Pieces<'_>,
        rewrite: &Rewrite<Ipv6Addr>,
        mut each: impl FnMut(Packets<'_>) -> Result<(), E>,
        mut refused: impl FnMut(Refused, &[u8]),
    ) -> Result<(), E> {
        while let Some(length) = pieces.next_length() {
            let piece = &mut self.piece[..length];
            pieces.next_piece(piece);
            let packet = Ipv4Packet::parse(piece);
            let packets =
                packet.and_then(|packet| packet.to_ipv6(rewrite, &self.limits, &mut self.out));
            match packets {
                Ok(packets) => each(packets)?,
                Err(why) => refused(why, piece),
            }
        }
        Ok(())
    }
}

/// The client's port, or the identifier of a ping.
fn port_of<A>(inside: &Inside<A>) -> u16 {
    match inside {
        Inside::Flow { flow, .. } | Inside::Error(flow) => flow.client_port,
        Inside::Later(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, SocketAddrV6};

    use super::*;
    use crate::handoff::pool::{Coming, PoolSettings, PoolUnit};
    use crate::handoff::random::SecretHash;
    use crate::ip::build::{ipv4_tcp, ipv4_udp, ipv6_echo_request, ipv6_tcp, ipv6_udp};
    use crate::ip::icmp::v4;
    use crate::ip::ipv4::Ipv4;
    use crate::ip::ipv6::Ipv6;
    use crate::ip::segments::cut;

    const NOW: Duration = Duration::from_secs(5);
    const PORT: u16 = 53_186;
    const ACK: u8 = 0x10;

    fn ends6() -> (SocketAddrV6, SocketAddrV6) {
        let [client, service] = ["2001:db8::17", "64:ff9b::203.0.113.5"]
            .map(|address| address.parse::<Ipv6Addr>().unwrap());
        (SocketAddrV6::new(client, PORT, 0, 0), SocketAddrV6::new(service, 80, 0, 0))
    }

    const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 80);

    /// A translator, and the only client's address and port.
    fn translator() -> (Translator, SocketAddrV4) {
        let settings = PoolSettings {
            network: "100.64.0.0/24".parse().unwrap(),
            unit: PoolUnit::Address,
            idle: Duration::ZERO,
            names: false,
            translates: true,
        };
        let (hash, client) = (SecretHash::new([7; 16]), *ends6().0.ip());
        let (pool, mut shares, _) = AddressPool::new(settings, hash, 1, |_| 0, []);
        let coming = shares[0].come_for_packet(client, Ipv4Addr::new(192, 0, 2, 7), NOW);
        let Ok(Coming::New(address, net)) = coming else { panic!("{coming:?}") };
        let mut translator = Translator::new(pool, 1398, [1; 32]);
        let client4 = SocketAddrV4::new(address, PORT);
        let answer = ipv4_udp(SERVICE, client4, b"answer");
        assert_eq!(translator.address_of(client, NOW), None, "it is not recorded");
        let nobody = translator.answer_of(&answer, NOW);
        assert!(matches!(nobody, Err(NotAnAnswer::NobodyHas)));
        shares[0].recorded(net);
        assert_eq!(translator.address_of(client, NOW), Some(address));
        (translator, client4)
    }

    /// What the host is given of these packets, cut into what that stands for, and how many of it
    /// are super-packets.
    fn given(packets: &[Vec<u8>], refused: u64) -> (Vec<Vec<u8>>, usize) {
        let (mut translator, client) = translator();
        let (mut written, mut joined) = (Vec::new(), 0);
        let packets = packets.iter().map(Vec::as_slice);
        let not_translated = translator.give_host(
            *client.ip(),
            *SERVICE.ip(),
            packets,
            true,
            |offload, front, data| {
                let packet = [&front.concat()[..], &data.concat()].concat();
                match offload.segments {
                    None => written.push(packet),
                    Some(_) => {
                        joined += 1;
                        written.extend(cut(&packet, offload));
                    }
                }
            },
        );
        assert_eq!(not_translated, refused);
        (written, joined)
    }

    /// What stands behind the IPv4 header, whose ends and checksum are right.
    fn upper(packet: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> &[u8] {
        let view = Ipv4::whole(packet).unwrap();
        assert!(view.checksum_is_right() && view.octets().len() == packet.len());
        assert_eq!((view.source(), view.destination()), (from, to));
        view.data()
    }

    #[test]
    fn the_host_is_given_ipv4_from_the_clients_own_port() {
        let (from, to) = ends6();
        let (_, client) = translator();
        let datas = [[b'a'; 500], [b'b'; 500], [b'c'; 500]];
        let udp: Vec<_> = datas.iter().map(|data| ipv6_udp(from, to, data)).collect();
        let tcp = ipv6_tcp(from, to, ACK, b"alone");
        let ping = ipv6_echo_request(*from.ip(), *to.ip(), 7, 1, b"ping");
        let mut expired = tcp.clone();
        expired[7] = 1;
        let unknown = [&udp[0][..6], &[132], &udp[0][7..]].concat();
        let packets = [&udp[..], &[tcp, ping, expired, unknown]].concat();
        let (given, joined) = given(&packets, 2);
        assert_eq!((given.len(), joined), (5, 1));
        let behind = |number: usize| upper(&given[number], *client.ip(), *SERVICE.ip());
        for (number, data) in datas.iter().enumerate() {
            assert_eq!(behind(number), &ipv4_udp(client, SERVICE, data)[20..]);
        }
        assert_eq!(behind(3), &ipv4_tcp(client, SERVICE, ACK, b"alone")[20..]);
        let ping = behind(4);
        assert_eq!(
            (ping[0], &ping[4..6], &ping[8..]),
            (v4::ECHO_REQUEST, &[0, 7][..], &b"ping"[..])
        );
        assert_eq!(crate::ip::checksum::checksum(&[ping]), 0);
    }

    #[test]
    fn answers_are_the_clients_and_keep_their_ports() {
        let (client6, service6) = ends6();
        let (mut translator, client) = translator();
        let packet = ipv4_udp(SERVICE, client, b"answer");
        let answer = translator.answer_of(&packet, NOW).ok().unwrap();
        let flow = DeliveredFlow {
            service: *service6.ip(),
            client: *client6.ip(),
            protocol: protocol::UDP,
            service_port: 80,
            client_port: PORT,
        };
        assert_eq!(answer.flow, flow.translated(*SERVICE.ip()));
        let rewrite = answer.rewrite(*service6.ip());
        let mut buffer = [vec![0; GROWTH], packet].concat();
        let (place, left) =
            translator.change_headers(&mut buffer, GROWTH, &Offload::default(), &rewrite).unwrap();
        let view = Ipv6::whole(&buffer[place.clone()]).unwrap();
        assert_eq!((view.source(), view.destination()), (*service6.ip(), *client6.ip()));
        assert_eq!(view.octets()[40..], ipv6_udp(service6, client6, b"answer")[40..]);
        assert_eq!((left, place.end), (Offload::default(), buffer.len()));
    }

    #[test]
    fn what_is_too_long_is_told_or_cut() {
        let (client6, service6) = ends6();
        let (mut translator, client) = translator();
        let mut packet = ipv4_udp(SERVICE, client, &[7; 1400]);
        let rewrite = translator.answer_of(&packet, NOW).ok().unwrap().rewrite(*service6.ip());
        let mut pieces = |packet: &[u8]| {
            let (mut sent, mut told) = (Vec::new(), Vec::new());
            let offload = Offload::default();
            let each = |mut packets: Packets<'_>| {
                while let Some(packet) = packets.next_packet() {
                    sent.push(packet.to_vec());
                }
                Ok::<_, ()>(())
            };
            let mut all = Pieces::of(packet, &offload).unwrap();
            let refused = |why: Refused, _: &[u8]| told.extend(why.error);
            translator.in_pieces(&mut all, &rewrite, each, refused).unwrap();
            (sent, told)
        };
        let set_flags = |packet: &mut [u8], flags: u8| {
            packet[6] = flags;
            crate::ip::ipv4::set_checksum(&mut packet[..20]);
        };
        set_flags(&mut packet, 0x40);
        let (sent, told) = pieces(&packet);
        assert!(sent.is_empty() && told.len() == 1);
        assert_eq!((told[0].kind, told[0].code), (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED));
        assert_eq!(told[0].word, 1398);
        set_flags(&mut packet, 0);
        let (sent, told) = pieces(&packet);
        assert!(told.is_empty() && sent.len() == 2);
        for packet in sent {
            let view = Ipv6::whole(&packet).unwrap();
            assert!(packet.len() <= 1280 && packet[6] == protocol::FRAGMENT);
            assert_eq!(view.destination(), *client6.ip());
        }
    }
}
