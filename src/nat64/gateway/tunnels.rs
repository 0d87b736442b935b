//! [`GeneveTunnels`]: which servers have taken the tunnel that one public address offers
//! (PROTOCOL.md section 12), as a pure function of what is told.

use std::hash::Hasher;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hashbrown::HashMap;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::handoff::random::SecretHash;
use crate::ip::geneve::{LinkAddress, Vni};

/// The most servers of which something is known. No more are offered a tunnel.
pub const TUNNELS_MAX: usize = 65_536;
/// An offer is repeated so often, [`OFFER_INTERVAL`] apart.
pub const OFFERS_MAX: u8 = 3;
/// Time between two offers, or two questions whether a server is there still.
pub const OFFER_INTERVAL: Duration = Duration::from_secs(1);
/// A server that has not answered is offered a tunnel again when so much time has passed, if a
/// client wants it then.
pub const OFFER_AGAIN: Duration = Duration::from_secs(5 * 60);
/// A server of which nothing was heard for so long, while packets go to it, is asked.
pub const PROBE_AFTER: Duration = Duration::from_secs(30);
/// What nobody has used for so long is forgotten.
pub const TUNNEL_LIFETIME: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// What the numbers of tunnels, and the addresses in them, are made of.
pub type TunnelKey = [u8; 16];

/// What each frame of a server has: calculated once for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TunnelEnds {
    pub vni: Vni,
    /// Our link-layer address.
    pub own: LinkAddress,
}

/// What is to be sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// An offer, to whoever has this address.
    Offer(Ipv6Addr),
    /// A question to who had it.
    Probe(Ipv6Addr, LinkAddress),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TunnelState {
    /// It was offered, `asked` times.
    Offered,
    /// The server has this address in it, and was heard of then.
    Taken { link: LinkAddress, heard: Duration },
}

#[derive(Debug)]
struct ServerTunnel {
    state: TunnelState,
    /// The service behind the prefix that a client used.
    target: Ipv6Addr,
    /// How often the server was asked since it was heard of.
    asked: u8,
    /// When it may be asked again.
    due: Duration,
    /// When a packet was for it.
    used: Duration,
}

/// The tunnels of one public address.
#[derive(Debug)]
pub(super) struct GeneveTunnels {
    address: Ipv4Addr,
    /// Kept over restarts.
    key: TunnelKey,
    /// Another at each start.
    link_key: TunnelKey,
    known: HashMap<Ipv4Addr, ServerTunnel, SecretHash>,
    /// When anything was told last.
    now: Duration,
}

impl GeneveTunnels {
    pub fn new(address: Ipv4Addr, key: TunnelKey, link_key: TunnelKey, hash: SecretHash) -> Self {
        Self { address, key, link_key, known: HashMap::with_hasher(hash), now: Duration::ZERO }
    }

    /// The number of the tunnel to a server, which never changes.
    pub fn vni(&self, server: Ipv4Addr) -> Vni {
        let [a, b, c, ..] = self.mac(&self.key, b"vni", server);
        Vni::new([a, b, c])
    }

    /// Our link-layer address in it.
    pub fn own_link(&self, server: Ipv4Addr) -> LinkAddress {
        let [a, b, c, d, e, f, ..] = self.mac(&self.link_key, b"link", server);
        LinkAddress::local([a, b, c, d, e, f])
    }

    /// What frames of a server have.
    pub fn ends(&self, server: Ipv4Addr) -> TunnelEnds {
        TunnelEnds { vni: self.vni(server), own: self.own_link(server) }
    }

    /// The address that we ask with, which never changes.
    pub fn own_address(&self, server: Ipv4Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f, g, h, ..] = self.mac(&self.key, b"address", server);
        let low = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Ipv6Addr::from_bits(0xfe80_u128 << 112 | u128::from(low))
    }

    fn mac(&self, key: &TunnelKey, what: &[u8], server: Ipv4Addr) -> [u8; 16] {
        let mut mac = SipHasher24::new_with_key(key);
        mac.write(b"nat64handoff gateway geneve v1 ");
        mac.write(&self.address.octets());
        mac.write(&server.octets());
        mac.write(what);
        mac.finish128().as_bytes()
    }

    /// The address that the server has in its tunnel, if it has taken one. A packet is for it.
    pub fn link_of(&mut self, now: Duration, server: Ipv4Addr) -> Option<LinkAddress> {
        self.now = now;
        let tunnel = self.known.get_mut(&server)?;
        tunnel.used = now;
        match tunnel.state {
            TunnelState::Taken { link, .. } => Some(link),
            TunnelState::Offered => None,
        }
    }

    /// Whether a server has taken its tunnel.
    pub fn is_taken(&self, server: Ipv4Addr) -> bool {
        let taken = |of: &ServerTunnel| of.state != TunnelState::Offered;
        self.known.get(&server).is_some_and(taken)
    }

    /// Whether a server may be offered a tunnel now.
    pub fn may_offer(&self, now: Duration, server: Ipv4Addr) -> bool {
        self.known.get(&server).map_or(self.known.len() < TUNNELS_MAX, |tunnel| {
            tunnel.state == TunnelState::Offered && now >= tunnel.due
        })
    }

    /// A server is offered a tunnel, if it may be, as a client sends to `target` there.
    pub fn offers(&mut self, now: Duration, server: Ipv4Addr, target: Ipv6Addr) -> Option<Ask> {
        if !self.may_offer(now, server) {
            return None;
        }
        let new =
            ServerTunnel { state: TunnelState::Offered, target, asked: 0, due: now, used: now };
        let tunnel = self.known.entry(server).or_insert(new);
        if tunnel.asked >= OFFERS_MAX {
            (tunnel.asked, tunnel.target) = (0, target);
        }
        Some(tunnel.ask(now))
    }

    /// A server answers, from this link-layer address. Returns whether that is a new tunnel.
    pub fn taken(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        target: Ipv6Addr,
        link: LinkAddress,
    ) -> bool {
        let Some(tunnel) = self.known.get_mut(&server) else { return false };
        if tunnel.target != target || link.is_group() {
            return false;
        }
        let is_new = tunnel.state == TunnelState::Offered;
        tunnel.state = TunnelState::Taken { link, heard: now };
        tunnel.asked = 0;
        is_new
    }

    /// Whether a server may send from this address: it has taken the tunnel with it.
    pub fn hears(&mut self, server: Ipv4Addr, from: LinkAddress) -> bool {
        let Some(tunnel) = self.known.get_mut(&server) else { return false };
        let TunnelState::Taken { link, heard } = &mut tunnel.state else { return false };
        if *link != from {
            return false;
        }
        (*heard, tunnel.asked) = (self.now, 0);
        true
    }

    /// Its host says that nobody listens. Returns whether somebody did.
    pub fn gone(&mut self, now: Duration, server: Ipv4Addr) -> bool {
        let Some(tunnel) = self.known.get_mut(&server) else { return false };
        let was_taken = tunnel.state != TunnelState::Offered;
        tunnel.state = TunnelState::Offered;
        // One that was there may be back in a moment.
        (tunnel.asked, tunnel.due) = match was_taken {
            true => (0, now.saturating_add(OFFER_INTERVAL)),
            false => (OFFERS_MAX, now.saturating_add(OFFER_AGAIN)),
        };
        was_taken
    }

    /// Leaves in `asks` what is due, and in `lost` which servers do not answer any more. To be
    /// called about once a second.
    pub fn tick(
        &mut self,
        now: Duration,
        asks: &mut Vec<(Ipv4Addr, Ask)>,
        lost: &mut Vec<Ipv4Addr>,
    ) {
        self.now = now;
        self.known.retain(|&server, tunnel| {
            if now >= tunnel.used.saturating_add(TUNNEL_LIFETIME) {
                return false;
            }
            let is_due = now >= tunnel.due;
            match tunnel.state {
                TunnelState::Taken { heard, .. } => {
                    let is_silent = now >= heard.saturating_add(PROBE_AFTER) && tunnel.used > heard;
                    if is_silent && is_due && tunnel.asked < OFFERS_MAX {
                        asks.push((server, tunnel.ask(now)));
                    } else if is_silent && is_due {
                        lost.push(server);
                        tunnel.state = TunnelState::Offered;
                        tunnel.asked = 0;
                    }
                }
                TunnelState::Offered => {
                    if is_due && (1..OFFERS_MAX).contains(&tunnel.asked) {
                        asks.push((server, tunnel.ask(now)));
                    }
                }
            }
            true
        });
    }
}

impl ServerTunnel {
    fn ask(&mut self, now: Duration) -> Ask {
        self.asked += 1;
        let is_last = self.state == TunnelState::Offered && self.asked >= OFFERS_MAX;
        self.due = now.saturating_add(if is_last { OFFER_AGAIN } else { OFFER_INTERVAL });
        match self.state {
            TunnelState::Offered => Ask::Offer(self.target),
            TunnelState::Taken { link, .. } => Ask::Probe(self.target, link),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    const LINK: LinkAddress = LinkAddress([2, 1, 2, 3, 4, 5]);

    fn tunnels(link_key: u8) -> GeneveTunnels {
        let address = Ipv4Addr::new(192, 0, 2, 7);
        GeneveTunnels::new(address, [1; 16], [link_key; 16], SecretHash::new([3; 16]))
    }

    fn target() -> Ipv6Addr {
        "64:ff9b::203.0.113.5".parse().unwrap()
    }

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    /// What a tick leaves.
    fn tick(tunnels: &mut GeneveTunnels, at: u64) -> (Vec<(Ipv4Addr, Ask)>, Vec<Ipv4Addr>) {
        let (mut asks, mut lost) = (Vec::new(), Vec::new());
        tunnels.tick(second(at), &mut asks, &mut lost);
        (asks, lost)
    }

    #[test]
    fn section_12_what_never_changes_and_what_does_at_a_start() {
        let (one, other) = (tunnels(1), tunnels(2));
        assert_eq!(one.vni(SERVER), other.vni(SERVER));
        assert_eq!(one.own_address(SERVER), other.own_address(SERVER));
        assert!(one.own_address(SERVER).is_unicast_link_local());
        assert_ne!(one.own_link(SERVER), other.own_link(SERVER));
        assert!(!one.own_link(SERVER).is_group() && one.own_link(SERVER).0[0] & 2 != 0);
        let another = Ipv4Addr::new(203, 0, 113, 6);
        assert_ne!(one.vni(SERVER), one.vni(another));
        assert_ne!(one.own_link(SERVER), one.own_link(another));
    }

    #[test]
    fn section_12_offers_are_repeated_and_rest() {
        let mut tunnels = tunnels(1);
        let offer = Some(Ask::Offer(target()));
        assert_eq!(tick(&mut tunnels, 0), (vec![], vec![]));
        assert_eq!(tunnels.offers(second(10), SERVER, target()), offer);
        assert_eq!(tunnels.offers(second(10), SERVER, target()), None);
        assert_eq!(tick(&mut tunnels, 11).0.len(), 1);
        assert_eq!(tick(&mut tunnels, 12).0.len(), 1);
        for at in 13..312 {
            assert_eq!(tick(&mut tunnels, at), (vec![], vec![]));
            assert_eq!(tunnels.offers(second(at), SERVER, target()), None, "{at}");
        }
        // And is not repeated by itself.
        assert_eq!(tick(&mut tunnels, 312), (vec![], vec![]));
        assert_eq!(tunnels.offers(second(312), SERVER, target()), offer);
        assert!(tunnels.link_of(second(312), SERVER).is_none());
        assert!(!tunnels.gone(second(312), SERVER));
        assert_eq!(tunnels.offers(second(600), SERVER, target()), None);
        assert_eq!(tunnels.offers(second(612), SERVER, target()), offer);
    }

    #[test]
    fn section_12_a_server_that_is_silent_is_asked_and_given_up() {
        let mut tunnels = tunnels(1);
        assert!(!tunnels.taken(second(1), SERVER, target(), LINK), "nothing was offered");
        tunnels.offers(second(1), SERVER, target());
        assert!(!tunnels.taken(second(1), SERVER, Ipv6Addr::LOCALHOST, LINK), "another target");
        assert!(!tunnels.taken(second(1), SERVER, target(), LinkAddress([0xff; 6])));
        assert!(tunnels.taken(second(1), SERVER, target(), LINK));
        assert!(!tunnels.taken(second(1), SERVER, target(), LINK), "not for the first time");
        assert_eq!(tunnels.link_of(second(2), SERVER), Some(LINK));
        assert_eq!(tunnels.offers(second(2), SERVER, target()), None);
        tick(&mut tunnels, 20);
        assert!(tunnels.hears(SERVER, LINK) && !tunnels.hears(SERVER, LinkAddress([2; 6])));
        // Nothing was sent since.
        assert_eq!(tick(&mut tunnels, 60), (vec![], vec![]));
        tunnels.link_of(second(60), SERVER);
        let probe = vec![(SERVER, Ask::Probe(target(), LINK))];
        assert_eq!(tick(&mut tunnels, 60), (probe.clone(), vec![]));
        assert!(!tunnels.taken(second(60), SERVER, target(), LINK));
        assert_eq!(tick(&mut tunnels, 62), (vec![], vec![]));
        tunnels.link_of(second(100), SERVER);
        for at in [100, 101, 102] {
            assert_eq!(tick(&mut tunnels, at), (probe.clone(), vec![]));
        }
        assert_eq!(tick(&mut tunnels, 103), (vec![], vec![SERVER]));
        assert_eq!(tunnels.link_of(second(103), SERVER), None);
        assert!(tunnels.offers(second(103), SERVER, target()).is_some());
        assert!(tunnels.taken(second(103), SERVER, target(), LINK));
        assert!(tunnels.gone(second(104), SERVER));
        assert_eq!(tunnels.offers(second(104), SERVER, target()), None);
        assert!(tunnels.offers(second(105), SERVER, target()).is_some());
    }

    #[test]
    fn section_12_so_many_servers_are_offered_tunnels() {
        let mut tunnels = tunnels(1);
        for number in 0..TUNNELS_MAX as u32 + 10 {
            tunnels.offers(second(1), Ipv4Addr::from_bits(number), target());
        }
        assert_eq!(tunnels.known.len(), TUNNELS_MAX);
        tick(&mut tunnels, 1 + TUNNEL_LIFETIME.as_secs());
        assert_eq!(tunnels.known.len(), 0);
    }
}
