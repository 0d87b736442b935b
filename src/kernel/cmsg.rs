//! What comes with a datagram: the sender's address, and control messages with its destination
//! (IP_PKTINFO) and, where the kernel coalesced several datagrams, their length (UDP_GRO).

use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use crate::kernel::backend::{Arrival, Losses};

/// `struct sockaddr_in`, the name of the sender.
pub(crate) const NAME: usize = size_of::<libc::sockaddr_in>();
/// `struct cmsghdr`, padded.
pub(super) const HEADER: usize = size_of::<libc::cmsghdr>();
/// The space of a `struct in_pktinfo`.
pub(super) const PKTINFO_SPACE: usize = space(size_of::<libc::in_pktinfo>());
/// The space of the length of coalesced datagrams, an i32.
const GRO_SPACE: usize = space(size_of::<i32>());
/// The most space that control data takes.
pub(super) const SPACE_MAX: usize = PKTINFO_SPACE + GRO_SPACE;

const fn space(octets: usize) -> usize {
    // SAFETY: this only computes with its argument.
    unsafe { libc::CMSG_SPACE(octets as u32) as usize }
}

/// The space for the control data of a socket. The kernel tells a datagram's destination only for a
/// socket that is `bound_to_all` addresses.
pub(crate) const fn receive_space(bound_to_all: bool) -> usize {
    if bound_to_all { SPACE_MAX } else { GRO_SPACE }
}

/// What is known of a received buffer besides its payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub source: SocketAddrV4,
    pub local: Ipv4Addr,
    /// Where GRO coalesced several datagrams: the length of each but the last, which may be
    /// shorter.
    pub segment: Option<usize>,
}

/// Why a datagram is not handed out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It, or its control data, does not fit into the buffer.
    Truncated,
    /// It was sent to a broadcast or multicast address.
    NotUnicast,
}

impl Flaw {
    pub(crate) fn count(self, losses: &mut Losses) {
        match self {
            Flaw::Truncated => losses.truncated += 1,
            Flaw::NotUnicast => losses.not_unicast += 1,
        }
    }
}

/// Parses what came with a datagram that a socket bound to `bound` received: the sender's whole
/// `name` and all `control` data.
pub(crate) fn received(
    name: &[u8],
    control: &[u8],
    flags: i32,
    bound: Ipv4Addr,
) -> Result<Received, Flaw> {
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || name.len() != NAME {
        return Err(Flaw::Truncated);
    }
    let (mut destination, mut segment) = (None, None);
    let mut rest = control;
    while let Some((header, data)) = rest.split_at_checked(HEADER) {
        let length = usize::try_from(u64_at(header, 0)).unwrap_or(usize::MAX);
        let data_length = length.checked_sub(HEADER).filter(|&length| length <= data.len());
        let data = &data[..data_length.ok_or(Flaw::Truncated)?];
        match [8, 12].map(|at| u32_at(header, at) as i32) {
            [libc::IPPROTO_IP, libc::IP_PKTINFO] => destination = Some(unicast_destination(data)?),
            [libc::SOL_UDP, libc::UDP_GRO] if data.len() >= 4 => {
                segment = Some(u32_at(data, 0) as usize).filter(|&segment| segment > 0);
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(align_of::<libc::cmsghdr>())..).unwrap_or_default();
    }
    let local = match destination {
        Some(destination) => destination,
        None if bound.is_unspecified() => return Err(Flaw::Truncated),
        None => bound,
    };
    // struct sockaddr_in: family, port and address in network order, padding.
    let source = SocketAddrV4::new(
        Ipv4Addr::new(name[4], name[5], name[6], name[7]),
        u16::from_be_bytes([name[2], name[3]]),
    );
    Ok(Received { source, local, segment })
}

impl Received {
    /// Hands out the datagrams in range `payload` of `buffer`, which is its number in this turn:
    /// one, or all that GRO coalesced.
    pub(crate) fn hand_out(
        &self,
        socket: usize,
        buffer: usize,
        payload: Range<usize>,
        arrivals: &mut Vec<Arrival>,
    ) {
        let segment = self.segment.unwrap_or(usize::MAX);
        let (mut start, mut room) = (payload.start, 0);
        loop {
            let end = payload.end.min(start.saturating_add(segment));
            arrivals.push(Arrival {
                socket,
                source: self.source,
                local: self.local,
                payload: start..end,
                room,
                buffer,
            });
            if end == payload.end {
                break;
            }
            (start, room) = (end, end);
        }
    }
}

/// Parses a `struct in_pktinfo`: interface, our address that received it, destination in the
/// header. The two addresses differ where the destination is broadcast or multicast.
fn unicast_destination(info: &[u8]) -> Result<Ipv4Addr, Flaw> {
    if info.len() < size_of::<libc::in_pktinfo>() {
        return Err(Flaw::Truncated);
    }
    let [ours, destination] = [4, 8].map(|at| Ipv4Addr::from(u32_at(info, at).to_ne_bytes()));
    if ours != destination {
        return Err(Flaw::NotUnicast);
    }
    Ok(destination)
}

/// Panics where `octets` is too short, as `u64_at` does: all callers pass parts of a fixed length.
pub(crate) fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| octets[at + i]))
}

fn u64_at(octets: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    pub(crate) fn name() -> Vec<u8> {
        let mut octets = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        octets.extend([0x12, 0x34, 198, 51, 100, 7]);
        octets.extend([0; 8]);
        octets
    }

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut control = (HEADER + data.len()).to_ne_bytes().to_vec();
        control.extend(level.to_ne_bytes());
        control.extend(kind.to_ne_bytes());
        control.extend(data);
        control.resize(space(data.len()), 0);
        control
    }

    pub(crate) fn pktinfo(ours: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let data = [2u32.to_ne_bytes(), ours, destination].concat();
        message(libc::IPPROTO_IP, libc::IP_PKTINFO, &data)
    }

    fn gro(segment: i32) -> Vec<u8> {
        message(libc::SOL_UDP, libc::UDP_GRO, &segment.to_ne_bytes())
    }

    fn source() -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 0x1234)
    }

    #[test]
    fn what_comes_with_a_datagram() {
        let ours = pktinfo([192, 0, 2, 1], [192, 0, 2, 1]);
        let plain = Received { source: source(), local: LOCAL, segment: None };
        assert_eq!(received(&name(), &[], 0, LOCAL), Ok(plain));
        let coalesced = || Received { source: source(), local: LOCAL, segment: Some(150) };
        assert_eq!(received(&name(), &gro(150), 0, LOCAL), Ok(coalesced()));
        for both in [[gro(150), ours.clone()].concat(), [ours.clone(), gro(150)].concat()] {
            assert_eq!(received(&name(), &both, 0, ANY), Ok(coalesced()));
            assert_eq!(both.len(), SPACE_MAX);
        }
        // What we did not ask for is ignored.
        let other = [message(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[0; 16]), ours].concat();
        assert_eq!(received(&name(), &other, 0, ANY).unwrap().local, LOCAL);
        // A length of 0 would never end.
        assert_eq!(received(&name(), &gro(0), 0, LOCAL).unwrap().segment, None);
    }

    #[test]
    fn what_cannot_be_handed_out() {
        assert_eq!(received(&name(), &[], 0, ANY), Err(Flaw::Truncated));
        let ours = pktinfo([192, 0, 2, 1], [192, 0, 2, 1]);
        for end in 0..HEADER + 12 {
            assert_eq!(received(&name(), &ours[..end], 0, ANY), Err(Flaw::Truncated), "{end}");
        }
        let broadcast = pktinfo([192, 0, 2, 1], [192, 0, 2, 255]);
        assert_eq!(received(&name(), &broadcast, 0, ANY), Err(Flaw::NotUnicast));
        assert_eq!(received(&name()[..15], &ours, 0, ANY), Err(Flaw::Truncated));
        for flag in [libc::MSG_TRUNC, libc::MSG_CTRUNC] {
            assert_eq!(received(&name(), &ours, flag, ANY), Err(Flaw::Truncated));
        }
        let mut endless = ours;
        endless[..8].fill(0xff);
        assert_eq!(received(&name(), &endless, 0, ANY), Err(Flaw::Truncated));
    }

    #[test]
    fn coalesced_datagrams_are_handed_out_one_by_one() {
        let hand_out = |segment, payload| {
            let mut arrivals = Vec::new();
            Received { source: source(), local: LOCAL, segment }.hand_out(
                3,
                7,
                payload,
                &mut arrivals,
            );
            assert!(arrivals.iter().all(|arrival| arrival.buffer == 7 && arrival.socket == 3));
            arrivals.into_iter().map(|arrival| (arrival.room, arrival.payload)).collect::<Vec<_>>()
        };
        assert_eq!(hand_out(None, 600..600), [(0, 600..600)]);
        assert_eq!(hand_out(None, 600..750), [(0, 600..750)]);
        assert_eq!(hand_out(Some(100), 600..650), [(0, 600..650)]);
        assert_eq!(hand_out(Some(100), 600..800), [(0, 600..700), (700, 700..800)]);
        assert_eq!(
            hand_out(Some(100), 600..810),
            [(0, 600..700), (700, 700..800), (800, 800..810)]
        );
    }
}
