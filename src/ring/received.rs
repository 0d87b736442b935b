//! What a multishot receive leaves in a buffer: a header, the sender, control data, the payload.
//! Each but the payload takes its full space, whatever of it is used (io_uring_enter(2),
//! `io_uring_recvmsg_out`).

use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use crate::backend::Losses;

/// `struct io_uring_recvmsg_out`: four u32, the lengths of name, control and payload, and flags.
const HEADER: usize = 16;
/// `struct sockaddr_in`.
pub(super) const NAME: usize = size_of::<libc::sockaddr_in>();
/// `struct cmsghdr`, padded.
pub(super) const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();
/// One control message with a `struct in_pktinfo`.
// SAFETY: this only computes with its argument.
pub(super) const CONTROL: usize =
    unsafe { libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32) } as usize;
/// The most that stands in front of a payload.
pub(super) const FRONT_MAX: usize = HEADER + NAME + CONTROL;

/// A datagram, and where in the octets that were received its payload stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub source: SocketAddrV4,
    pub local: Ipv4Addr,
    pub payload: Range<usize>,
}

/// Why a datagram is not handed out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It, or what comes with it, does not fit.
    Truncated,
    /// It was sent to a broadcast or multicast address.
    NotUnicast,
}

impl Flaw {
    pub(super) fn count(self, losses: &mut Losses) {
        match self {
            Flaw::Truncated => losses.truncated += 1,
            Flaw::NotUnicast => losses.not_unicast += 1,
        }
    }
}

/// Reads `octets`, as many as the completion says, from a socket bound to `bound`.
pub(super) fn parse(octets: &[u8], bound: Ipv4Addr) -> Result<Received, Flaw> {
    let control_space = control_space(bound);
    let (header, rest) = octets.split_at_checked(HEADER).ok_or(Flaw::Truncated)?;
    let (name, rest) = rest.split_at_checked(NAME).ok_or(Flaw::Truncated)?;
    let (control, payload) = rest.split_at_checked(control_space).ok_or(Flaw::Truncated)?;
    let [name_length, control_length, payload_length, flags] =
        [0, 4, 8, 12].map(|at| u32_at(header, at));
    let cut = (libc::MSG_TRUNC | libc::MSG_CTRUNC) as u32;
    if flags & cut != 0 || name_length as usize != NAME || payload_length as usize != payload.len()
    {
        return Err(Flaw::Truncated);
    }
    let local = if control_space == 0 {
        bound
    } else {
        let control = control.get(..control_length as usize).ok_or(Flaw::Truncated)?;
        unicast_destination(control)?
    };
    // struct sockaddr_in: family, port and address in network order, padding.
    let source = SocketAddrV4::new(
        Ipv4Addr::new(name[4], name[5], name[6], name[7]),
        u16::from_be_bytes([name[2], name[3]]),
    );
    let start = octets.len() - payload.len();
    Ok(Received { source, local, payload: start..octets.len() })
}

/// The space for control data of a socket bound to `bound`: only where that does not tell the
/// destination is it asked for.
pub(super) fn control_space(bound: Ipv4Addr) -> usize {
    if bound.is_unspecified() { CONTROL } else { 0 }
}

/// `struct in_pktinfo`: interface, our address by which it came in, destination in the header. The
/// two differ where the destination is not an address of ours alone.
fn unicast_destination(control: &[u8]) -> Result<Ipv4Addr, Flaw> {
    let (header, info) = control.split_at_checked(CONTROL_HEADER).ok_or(Flaw::Truncated)?;
    let kind = [CONTROL_HEADER - 8, CONTROL_HEADER - 4].map(|at| u32_at(header, at) as i32);
    if kind != [libc::IPPROTO_IP, libc::IP_PKTINFO] || info.len() < size_of::<libc::in_pktinfo>() {
        return Err(Flaw::Truncated);
    }
    let [ours, destination] = [4, 8].map(|at| Ipv4Addr::from(u32_at(info, at).to_ne_bytes()));
    if ours != destination {
        return Err(Flaw::NotUnicast);
    }
    Ok(destination)
}

/// # Panics
/// Where `octets` is too short: all uses are of parts with a fixed length.
fn u32_at(octets: &[u8], at: usize) -> u32 {
    let octets = &octets[at..at + 4];
    u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn front(control: &[u8], payload: u32, flags: i32) -> Vec<u8> {
        let mut octets = Vec::new();
        for field in [NAME as u32, control.len() as u32, payload, flags as u32] {
            octets.extend(field.to_ne_bytes());
        }
        octets.extend((libc::AF_INET as u16).to_ne_bytes());
        octets.extend([0x12, 0x34, 198, 51, 100, 7]);
        octets.extend([0; 8]);
        octets.extend(control);
        octets
    }

    fn pktinfo(ours: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut control = Vec::new();
        control.extend((CONTROL_HEADER + 12).to_ne_bytes());
        control.extend(libc::IPPROTO_IP.to_ne_bytes());
        control.extend(libc::IP_PKTINFO.to_ne_bytes());
        control.extend(2u32.to_ne_bytes());
        control.extend(ours);
        control.extend(destination);
        control.resize(CONTROL, 0);
        control
    }

    #[test]
    fn from_a_bound_socket() {
        let mut octets = front(&[], 3, 0);
        octets.extend(b"abc");
        let source = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 0x1234);
        let received = Received { source, local: LOCAL, payload: 32..35 };
        assert_eq!(parse(&octets, LOCAL), Ok(received));
        for end in 0..octets.len() {
            assert_eq!(parse(&octets[..end], LOCAL), Err(Flaw::Truncated));
        }
        assert_eq!(parse(&front(&[], 0, 0), LOCAL).unwrap().payload, 32..32);
    }

    #[test]
    fn from_a_wildcard_socket() {
        let any = Ipv4Addr::UNSPECIFIED;
        let mut octets = front(&pktinfo([192, 0, 2, 1], [192, 0, 2, 1]), 1, 0);
        octets.push(9);
        let received = parse(&octets, any).unwrap();
        assert_eq!((received.local, received.payload), (LOCAL, 64..65));
        for end in 0..octets.len() {
            assert_eq!(parse(&octets[..end], any), Err(Flaw::Truncated));
        }
        let broadcast = front(&pktinfo([192, 0, 2, 1], [192, 0, 2, 255]), 0, 0);
        assert_eq!(parse(&broadcast, any), Err(Flaw::NotUnicast));
    }

    #[test]
    fn what_was_cut_is_said_to_be() {
        for flag in [libc::MSG_TRUNC, libc::MSG_CTRUNC] {
            assert_eq!(parse(&front(&[], 0, flag), LOCAL), Err(Flaw::Truncated));
        }
    }
}
