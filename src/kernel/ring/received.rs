//! What a multishot receive leaves in a buffer: a header, the sender, control data, the payload.
//! Each but the payload takes its full space, even if only a part is used (io_uring_enter(2),
//! `io_uring_recvmsg_out`).

use std::net::Ipv4Addr;

use crate::kernel::cmsg::{self, Flaw, NAME, Received, receive_space, u32_at};
use crate::kernel::slot::RING_HEADER;

/// Parses `octets`, as many as the completion says, received by a socket bound to `bound`. Also
/// returns the offset of the payload.
pub(super) fn parse(octets: &[u8], bound: Ipv4Addr) -> Result<(Received, usize), Flaw> {
    let control_space = receive_space(bound.is_unspecified());
    let (header, rest) = octets.split_at_checked(RING_HEADER).ok_or(Flaw::Truncated)?;
    let (name, rest) = rest.split_at_checked(NAME).ok_or(Flaw::Truncated)?;
    let (control, payload) = rest.split_at_checked(control_space).ok_or(Flaw::Truncated)?;
    let [name_length, control_length, payload_length, flags] =
        [0, 4, 8, 12].map(|at| u32_at(header, at));
    let name = name.get(..name_length as usize).ok_or(Flaw::Truncated)?;
    let control = control.get(..control_length as usize).ok_or(Flaw::Truncated)?;
    if payload_length as usize != payload.len() {
        return Err(Flaw::Truncated);
    }
    let received = cmsg::received(name, control, flags as i32, bound)?;
    Ok((received, octets.len() - payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cmsg::tests::{name, pktinfo};

    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn front(control: &[u8], space: usize, payload: u32) -> Vec<u8> {
        let mut octets = Vec::new();
        for field in [NAME as u32, control.len() as u32, payload, 0] {
            octets.extend(field.to_ne_bytes());
        }
        octets.extend(name());
        octets.extend(control);
        octets.resize(RING_HEADER + NAME + space, 0);
        octets
    }

    #[test]
    fn every_part_takes_its_space() {
        for bound in [LOCAL, Ipv4Addr::UNSPECIFIED] {
            let space = receive_space(bound.is_unspecified());
            let control = pktinfo([192, 0, 2, 1], [192, 0, 2, 1]);
            let control = if bound.is_unspecified() { &control[..] } else { &[] };
            let mut octets = front(control, space, 3);
            octets.extend(b"abc");
            let (received, start) = parse(&octets, bound).unwrap();
            assert_eq!((received.local, &octets[start..]), (LOCAL, &b"abc"[..]));
            for end in 0..octets.len() {
                assert_eq!(parse(&octets[..end], bound), Err(Flaw::Truncated));
            }
            let (_, start) = parse(&front(control, space, 0), bound).unwrap();
            assert_eq!(start, RING_HEADER + NAME + space);
        }
    }
}
