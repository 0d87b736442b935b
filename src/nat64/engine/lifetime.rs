//! How long an entry lives (RFC 6146 sections 3.5.1, 3.5.2 and 4).
//!
//! An entry serves all sessions of one client port with one server. Usually that is one session,
//! UDP or TCP, whose state is tracked as the RFC says. Where there are several, the entry lives as
//! long as the session with the longest lifetime needs, and the end of a connection does not
//! shorten that.

use std::time::Duration;

use super::{TCP_ESTABLISHED_LIFETIME, TCP_TRANSITORY_LIFETIME, UDP_LIFETIME};
use crate::ip::fields::protocol::{TCP, UDP};
use crate::ip::fields::tcp::{FIN, RST, SYN};
use crate::ip::transport::Transport;

/// Octets of a [`Lifetime`] that is kept.
pub(super) const LIFETIME_OCTETS: usize = 9;

/// What a packet does to the entry that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub session: Session,
    pub segment: SegmentKind,
    /// It comes from the client, not from the service.
    pub of_client: bool,
}

/// One of the sessions of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub transport: Transport,
    pub service_port: u16,
}

/// What a packet means to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentKind {
    /// Not TCP.
    Udp,
    Syn,
    Fin,
    Rst,
    /// TCP with none of these flags.
    Other,
}

impl SegmentKind {
    /// `flags` are those of a TCP header, and do not matter for UDP.
    pub(super) fn of(transport: Transport, flags: u8) -> Self {
        match flags {
            _ if transport != Transport::Tcp => SegmentKind::Udp,
            flags if flags & RST != 0 => SegmentKind::Rst,
            flags if flags & SYN != 0 => SegmentKind::Syn,
            flags if flags & FIN != 0 => SegmentKind::Fin,
            _ => SegmentKind::Other,
        }
    }

    fn lifetime(self) -> Duration {
        match self {
            SegmentKind::Udp => UDP_LIFETIME,
            SegmentKind::Syn | SegmentKind::Fin | SegmentKind::Rst => TCP_TRANSITORY_LIFETIME,
            SegmentKind::Other => TCP_ESTABLISHED_LIFETIME,
        }
    }
}

/// Until when an entry lives, and the sessions that decide it.
#[derive(Debug)]
pub(super) struct Lifetime {
    expires: Duration,
    sessions: Sessions,
}

#[derive(Debug)]
enum Sessions {
    None,
    One(Session, TcpConnection),
    Several,
}

/// The tracked state of a TCP connection.
#[derive(Debug, Default)]
struct TcpConnection {
    /// Which sides sent a segment.
    client_spoke: bool,
    service_spoke: bool,
    /// Which sides sent a FIN.
    client_done: bool,
    service_done: bool,
}

impl Lifetime {
    /// Of a new entry, and of the packet that made it. Without a packet it lives as for UDP.
    pub(super) fn new(now: Duration, usage: Option<Usage>) -> Self {
        let mut lifetime = Self { expires: now, sessions: Sessions::None };
        match usage {
            Some(usage) => lifetime.refresh(now, usage),
            None => lifetime.expires = now.saturating_add(UDP_LIFETIME),
        }
        lifetime
    }

    /// As it is kept: milliseconds that are left (4 octets), how many sessions (1; 2 are several),
    /// of one its protocol (1), the service's port (2) and what was seen of it (1).
    pub(super) fn encode(&self, now: Duration) -> [u8; LIFETIME_OCTETS] {
        let left = u32::try_from(self.expires.saturating_sub(now).as_millis()).unwrap_or(u32::MAX);
        let [a, b, c, d] = left.to_be_bytes();
        match &self.sessions {
            Sessions::None => [a, b, c, d, 0, 0, 0, 0, 0],
            Sessions::One(Session { transport, service_port }, connection) => {
                let protocol = if *transport == Transport::Tcp { TCP } else { UDP };
                let [high, low] = service_port.to_be_bytes();
                [a, b, c, d, 1, protocol, high, low, connection.encode()]
            }
            Sessions::Several => [a, b, c, d, 2, 0, 0, 0, 0],
        }
    }

    /// What was kept so long before. `None` where it has expired, or is nothing that was kept.
    pub(super) fn decode(now: Duration, elapsed: Duration, octets: &[u8]) -> Option<Self> {
        let &[a, b, c, d, sessions, protocol, high, low, seen] = octets else { return None };
        let left = Duration::from_millis(u32::from_be_bytes([a, b, c, d]).into());
        let left = left.min(TCP_ESTABLISHED_LIFETIME).checked_sub(elapsed)?;
        let session = |transport| {
            let service_port = u16::from_be_bytes([high, low]);
            Sessions::One(Session { transport, service_port }, TcpConnection::decode(seen))
        };
        let sessions = match (sessions, protocol) {
            (0, _) => Sessions::None,
            (1, TCP) => session(Transport::Tcp),
            (1, UDP) => session(Transport::Udp),
            (2, _) => Sessions::Several,
            _ => return None,
        };
        (!left.is_zero()).then(|| Self { expires: now.saturating_add(left), sessions })
    }

    /// Whether no connection needs the entry any more.
    pub(super) fn has_expired(&self, now: Duration) -> bool {
        now >= self.expires
    }

    /// A packet used the entry.
    pub(super) fn refresh(&mut self, now: Duration, usage: Usage) {
        let Usage { session, segment, of_client } = usage;
        match &self.sessions {
            Sessions::None => self.sessions = Sessions::One(session, TcpConnection::default()),
            Sessions::One(one, _) if *one != session => self.sessions = Sessions::Several,
            _ => {}
        }
        let until = |lifetime| now.saturating_add(lifetime);
        let longer = self.expires.max(until(segment.lifetime()));
        self.expires = match &mut self.sessions {
            Sessions::One(_, connection) => match connection.follow(segment, of_client) {
                SessionState::Udp => longer,
                SessionState::Opening => self.expires.max(until(TCP_TRANSITORY_LIFETIME)),
                SessionState::Established => self.expires.max(until(TCP_ESTABLISHED_LIFETIME)),
                SessionState::Ending => until(TCP_TRANSITORY_LIFETIME),
                SessionState::Ended => self.expires,
            },
            Sessions::None | Sessions::Several => longer,
        };
    }
}

/// The state of a session after a packet.
enum SessionState {
    Udp,
    Opening,
    Established,
    /// This packet ends it.
    Ending,
    /// An earlier packet ended it.
    Ended,
}

impl TcpConnection {
    /// A bit of each.
    fn encode(&self) -> u8 {
        let all = [self.client_spoke, self.service_spoke, self.client_done, self.service_done];
        all.iter().fold(0, |bits, &bit| bits << 1 | u8::from(bit))
    }

    fn decode(bits: u8) -> Self {
        let [client_spoke, service_spoke, client_done, service_done] =
            [8, 4, 2, 1].map(|bit| bits & bit != 0);
        Self { client_spoke, service_spoke, client_done, service_done }
    }

    fn follow(&mut self, segment: SegmentKind, of_client: bool) -> SessionState {
        let ended = self.client_done && self.service_done;
        match segment {
            SegmentKind::Udp => return SessionState::Udp,
            SegmentKind::Rst => return SessionState::Ending,
            // A new connection between the same ports.
            SegmentKind::Syn if ended => *self = Self::default(),
            _ if ended => return SessionState::Ended,
            _ => {}
        }
        let (spoke, done) = if of_client {
            (&mut self.client_spoke, &mut self.client_done)
        } else {
            (&mut self.service_spoke, &mut self.service_done)
        };
        *spoke = true;
        *done |= segment == SegmentKind::Fin;
        if self.client_done && self.service_done {
            SessionState::Ending
        } else if self.client_spoke && self.service_spoke && segment != SegmentKind::Syn {
            SessionState::Established
        } else {
            SessionState::Opening
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: Session = Session { transport: Transport::Tcp, service_port: 80 };
    const HTTPS: Session = Session { transport: Transport::Tcp, service_port: 443 };
    const DNS: Session = Session { transport: Transport::Udp, service_port: 53 };
    const MINUTE: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_secs(240);
    const LONG: Duration = Duration::from_secs(7440);

    /// How long an entry lives after the last of these packets, which are a minute apart.
    fn left(packets: &[(Session, SegmentKind, bool)]) -> Duration {
        let mut now = Duration::from_secs(1000);
        let mut lifetime: Option<Lifetime> = None;
        for &(session, segment, of_client) in packets {
            now += MINUTE;
            let usage = Usage { session, segment, of_client };
            match &mut lifetime {
                Some(lifetime) => lifetime.refresh(now, usage),
                None => lifetime = Some(Lifetime::new(now, Some(usage))),
            }
        }
        lifetime.unwrap().expires - now
    }

    #[test]
    fn rfc_6146_section_3_5_2_a_connection() {
        use SegmentKind::{Fin, Other, Rst, Syn};
        let packets = [(Syn, true), (Syn, false), (Other, true), (Other, false), (Fin, true)];
        let closing = [(Other, false), (Fin, false), (Other, true)];
        let all: Vec<_> =
            packets.iter().chain(&closing).map(|&(segment, side)| (HTTP, segment, side)).collect();
        let expected = [SHORT, SHORT, LONG, LONG, LONG, LONG, SHORT, SHORT - MINUTE];
        for (number, &expected) in expected.iter().enumerate() {
            assert_eq!(left(&all[..=number]), expected, "{number}");
        }
        // The same ports are opened once more.
        let mut again = all.clone();
        again.extend([(HTTP, Syn, true), (HTTP, Syn, false), (HTTP, Other, true)]);
        assert_eq!(left(&again), LONG);
        // A reset ends it, unless more segments follow.
        let mut reset = all[..4].to_vec();
        reset.push((HTTP, Rst, false));
        assert_eq!(left(&reset), SHORT);
        reset.push((HTTP, Other, true));
        assert_eq!(left(&reset), LONG);
        // Without an answer it is not established.
        assert_eq!(left(&[(HTTP, Other, true), (HTTP, Other, true)]), SHORT);
        // A stray SYN does not shorten an established connection's lifetime.
        let mut stray = all[..4].to_vec();
        stray.push((HTTP, Syn, true));
        assert_eq!(left(&stray), LONG - MINUTE);
    }

    #[test]
    fn what_is_kept_goes_on() {
        use SegmentKind::{Fin, Other, Syn};
        let now = Duration::from_secs(1000);
        let usage = |segment, of_client| Usage { session: HTTP, segment, of_client };
        let mut lifetime = Lifetime::new(now, Some(usage(Syn, true)));
        lifetime.refresh(now, usage(Syn, false));
        let again = |lifetime: &Lifetime, elapsed| {
            let octets = lifetime.encode(now + MINUTE);
            Lifetime::decode(Duration::from_secs(5), elapsed, &octets)
        };
        // A connection that is opening: what is left, less the time in between.
        let half = again(&lifetime, MINUTE).unwrap();
        assert_eq!(half.expires, Duration::from_secs(5) + SHORT - 2 * MINUTE);
        assert!(again(&lifetime, SHORT - MINUTE).is_none());
        // One side was done before, so the other's FIN ends it.
        lifetime.refresh(now, usage(Other, true));
        lifetime.refresh(now, usage(Fin, true));
        let mut half = again(&lifetime, Duration::ZERO).unwrap();
        assert_eq!(half.expires, Duration::from_secs(5) + LONG - MINUTE);
        half.refresh(now, usage(Fin, false));
        assert_eq!(half.expires, now + SHORT);
        // With several, the end of one shortens nothing.
        lifetime.refresh(now, Usage { session: HTTPS, segment: Other, of_client: true });
        let mut several = again(&lifetime, Duration::ZERO).unwrap();
        several.refresh(now, usage(Fin, false));
        assert_eq!(several.expires, Duration::from_secs(5) + LONG - MINUTE);
        for octets in [&[0, 0, 1, 0, 3, 0, 0, 0, 0][..], &[0, 0, 1, 0, 1, 1, 0, 0, 0], &[0; 8]] {
            assert!(Lifetime::decode(now, Duration::ZERO, octets).is_none());
        }
    }

    #[test]
    fn several_sessions_live_as_long_as_the_longest() {
        use SegmentKind::{Fin, Other, Syn, Udp};
        let open = |session| [(session, Syn, true), (session, Syn, false), (session, Other, true)];
        let close = |session| [(session, Fin, true), (session, Fin, false)];
        let both = [&open(HTTP)[..], &open(HTTPS), &close(HTTPS)].concat();
        assert_eq!(left(&both), LONG - 2 * MINUTE);
        assert_eq!(left(&[(DNS, Udp, true)]), 5 * MINUTE);
        assert_eq!(left(&[(DNS, Udp, true), (HTTP, Syn, true)]), 4 * MINUTE);
    }
}
