//! Geneve frames and neighbor messages, read and written from RFC 8926, RFC 4861 and what the
//! author of the protocol publishes of its bypass: octet by octet, and with no care for speed.

use std::net::Ipv6Addr;

use super::packet::{ICMPV6, icmpv6_checksum, ipv6};

pub const PORT: u16 = 6081;
/// Of the gateway's side of all tunnels here.
pub const VNI: u32 = 0x00c0_ffee;
pub const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x64);
const MESSAGE: &[u8] = b"a tunnel to a client of IPv6";

/// A frame of the gateway.
pub fn frame(to: [u8; 6], from: [u8; 6], packet: Vec<u8>) -> Frame {
    Frame { vni: VNI, to, from, message: Some(MESSAGE.to_vec()), packet }
}

/// What the gateway at this link-layer address asks for the service's.
pub fn solicitation(service: Ipv6Addr, link: [u8; 6]) -> Neighbor {
    let group = u128::from(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0));
    let to = Ipv6Addr::from(group | (u128::from(service) & 0x00ff_ffff));
    Neighbor { kind: 135, flags: 0, from: FROM, to, target: service, link: Some(link) }
}

/// An offer of a tunnel from this link-layer address.
pub fn offer(service: Ipv6Addr, link: [u8; 6]) -> Frame {
    let [.., a, b, c] = service.octets();
    frame([0x33, 0x33, 0xff, a, b, c], link, solicitation(service, link).write())
}

/// A frame that may be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub vni: u32,
    pub to: [u8; 6],
    pub from: [u8; 6],
    /// What the first option of class 0x0162 and type 0 has.
    pub message: Option<Vec<u8>>,
    pub packet: Vec<u8>,
}

impl Frame {
    /// `None` where RFC 8926 or the bypass has it discarded.
    pub fn read(payload: &[u8]) -> Option<Frame> {
        let mut octets = payload.iter().copied();
        let first = octets.next()?;
        let flags = octets.next()?;
        let protocol = [octets.next()?, octets.next()?];
        let vni = u32::from_be_bytes([0, octets.next()?, octets.next()?, octets.next()?]);
        octets.next()?;
        if first >= 64 || flags >= 128 {
            return None;
        }
        let mut message = None;
        let mut words = usize::from(first);
        while words > 0 {
            let option = [octets.next()?, octets.next()?, octets.next()?, octets.next()?];
            let length = usize::from(option[3] % 32);
            words = words.checked_sub(1 + length)?;
            let mut data = Vec::new();
            for _ in 0..4 * length {
                data.push(octets.next()?);
            }
            if option[..3] == [0x01, 0x62, 0] {
                for _ in 0..3 {
                    if data.last() == Some(&0xff) {
                        data.pop();
                    }
                }
                message = message.or(Some(data));
            } else if option[2] >= 128 {
                return None;
            }
        }
        let mut link = [0; 14];
        for octet in &mut link {
            *octet = octets.next()?;
        }
        let is_ours = protocol == [0x65, 0x58] && link[12..] == [0x86, 0xdd];
        is_ours.then(|| Frame {
            vni,
            to: link[..6].try_into().unwrap(),
            from: link[6..12].try_into().unwrap(),
            message,
            packet: octets.collect(),
        })
    }

    /// The UDP payload. A message is padded as the author says.
    pub fn write(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if let Some(message) = &self.message {
            let mut message = message.clone();
            while message.len() % 4 > 0 {
                message.push(0xff);
            }
            options.extend([0x01, 0x62, 0, (message.len() / 4) as u8]);
            options.extend(message);
        }
        let mut payload = vec![(options.len() / 4) as u8, 0, 0x65, 0x58];
        payload.extend(&self.vni.to_be_bytes()[1..]);
        payload.push(0);
        payload.extend(options);
        payload.extend(self.to);
        payload.extend(self.from);
        payload.extend([0x86, 0xdd]);
        payload.extend(&self.packet);
        payload
    }
}

/// What a neighbor message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// 135: a solicitation; 136: an advertisement.
    pub kind: u8,
    /// Of an advertisement: router, solicited, override, from the highest bit on.
    pub flags: u8,
    pub from: Ipv6Addr,
    pub to: Ipv6Addr,
    pub target: Ipv6Addr,
    pub link: Option<[u8; 6]>,
}

impl Neighbor {
    /// `None` where RFC 4861 section 7.1 has it discarded.
    pub fn read(packet: &[u8]) -> Option<Neighbor> {
        let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
        let packet = packet.get(..40 + length)?;
        let address = |from: usize| -> Option<Ipv6Addr> {
            Some(<[u8; 16]>::try_from(packet.get(from..from + 16)?).ok()?.into())
        };
        let (from, to, message) = (address(8)?, address(24)?, packet.get(40..)?);
        let is_whole = packet[0] >> 4 == 6 && packet[6] == ICMPV6 && packet[7] == 255;
        if !is_whole || message.len() < 24 || icmpv6_checksum(from, to, message) != 0 {
            return None;
        }
        let (kind, target) = (message[0], address(48)?);
        if !matches!(kind, 135 | 136) || message[1] != 0 || target.is_multicast() {
            return None;
        }
        let mut link = None;
        let mut rest = &message[24..];
        while !rest.is_empty() {
            let length = 8 * usize::from(*rest.get(1)?);
            if length == 0 || length > rest.len() {
                return None;
            }
            if (rest[0], length) == (kind - 134, 8) && link.is_none() {
                link = Some(rest[2..8].try_into().unwrap());
            }
            rest = &rest[length..];
        }
        if kind == 135 && from.is_unspecified() {
            let solicited = (u128::from(to) >> 24, u128::from(to) << 104);
            let group = (0x00ff_0200_0000_0000_0000_0000_01ff_u128, u128::from(target) << 104);
            if solicited != group || link.is_some() {
                return None;
            }
        }
        let solicited = message[4] & 0x40 != 0;
        if kind == 136 && solicited && to.is_multicast() {
            return None;
        }
        let flags = if kind == 136 { message[4] & 0xe0 } else { 0 };
        Some(Neighbor { kind, flags, from, to, target, link })
    }

    pub fn write(&self) -> Vec<u8> {
        let mut message = vec![self.kind, 0, 0, 0, self.flags, 0, 0, 0];
        message.extend(self.target.octets());
        if let Some(link) = self.link {
            message.extend([self.kind - 134, 1]);
            message.extend(link);
        }
        let sum = icmpv6_checksum(self.from, self.to, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut packet = ipv6(self.from, self.to, ICMPV6, &message);
        packet[7] = 255;
        packet
    }
}
