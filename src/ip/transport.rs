//! Transport headers, as far as a NAT64 reads them: TCP, UDP, and the echo messages of ICMP.

use super::fields::{
    ICMP_HEADER, TCP_HEADER, UDP_HEADER, icmp, ports as field, protocol, tcp, u16_at, udp,
};

/// What a NAT64 has mappings for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
    /// ICMP or ICMPv6 echo requests and replies.
    Echo,
}

impl Transport {
    /// The transport that has the same number in either IP header.
    #[inline]
    pub fn of(protocol: u8) -> Option<Self> {
        match protocol {
            protocol::TCP => Some(Self::Tcp),
            protocol::UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// The protocol number in an IPv4 header.
    pub fn ipv4_protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Echo => protocol::ICMP,
        }
    }

    /// The next header number in IPv6.
    pub fn ipv6_protocol(self) -> u8 {
        match self {
            Self::Echo => protocol::ICMPV6,
            other => other.ipv4_protocol(),
        }
    }

    /// The octets of its header without options.
    pub fn header_length(self) -> usize {
        match self {
            Self::Tcp => TCP_HEADER,
            Self::Udp => UDP_HEADER,
            Self::Echo => ICMP_HEADER,
        }
    }

    /// The offset of the checksum in its header.
    pub fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => tcp::CHECKSUM,
            Self::Udp => udp::CHECKSUM,
            Self::Echo => icmp::CHECKSUM,
        }
    }

    /// Source and destination port, or an echo's identifier and 0. `None` where `upper` ends
    /// before.
    pub fn ports(self, upper: &[u8]) -> Option<(u16, u16)> {
        match self {
            Self::Tcp | Self::Udp => ports(upper),
            Self::Echo if upper.len() < ICMP_HEADER => None,
            Self::Echo => Some((u16_at(upper, icmp::IDENTIFIER), 0)),
        }
    }

    /// The flags of a TCP segment, else 0. `None` where a segment ends before.
    pub fn tcp_flags(self, upper: &[u8]) -> Option<u8> {
        if self == Self::Tcp { upper.get(tcp::FLAGS).copied() } else { Some(0) }
    }
}

/// Whether `protocol` is a transport with ports, TCP or UDP.
#[inline]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// Source and destination port, where TCP and UDP have them. `None` where `upper` ends before.
#[inline]
pub fn ports(upper: &[u8]) -> Option<(u16, u16)> {
    let ports: &[u8; 4] = upper.first_chunk()?;
    Some((u16_at(ports, field::SOURCE), u16_at(ports, field::DESTINATION)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_flags_of_every_truncation() {
        let header: Vec<u8> = (1..=20).collect();
        for length in 0..=header.len() {
            let upper = &header[..length];
            let expected = (length >= 4).then_some((0x0102, 0x0304));
            assert_eq!(ports(upper), expected);
            assert_eq!(Transport::Tcp.ports(upper), expected);
            assert_eq!(Transport::Udp.ports(upper), expected);
            assert_eq!(Transport::Echo.ports(upper), (length >= 8).then_some((0x0506, 0)));
            assert_eq!(Transport::Tcp.tcp_flags(upper), (length >= 14).then_some(14));
            assert_eq!(Transport::Udp.tcp_flags(upper), Some(0));
        }
    }
}
