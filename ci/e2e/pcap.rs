//! UDP datagrams in a capture of tcpdump's: microseconds, little-endian, Ethernet, IPv4 without
//! options.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The header of the file, and that of each packet.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const ETHERNET_HEADER: usize = 14;
const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

#[derive(Debug)]
pub struct Datagram {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub payload: Vec<u8>,
    /// It was answered with port unreachable: nobody was there.
    pub refused: bool,
}

/// All UDP datagrams. What stands incomplete at the end is still being written, and is left out.
pub fn datagrams(file: &[u8]) -> Vec<Datagram> {
    let mut found = Vec::new();
    let Some((header, mut rest)) = file.split_at_checked(FILE_HEADER) else { return found };
    assert_eq!(header[..4], [0xd4, 0xc3, 0xb2, 0xa1], "not a capture");
    assert_eq!(header[20..], [1, 0, 0, 0], "not Ethernet");
    while let Some((header, behind)) = rest.split_at_checked(PACKET_HEADER) {
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(number(8), number(12), "only a part of a packet was captured");
        let Some((frame, behind)) = behind.split_at_checked(number(8) as usize) else { break };
        rest = behind;
        if frame[12..ETHERNET_HEADER] == [0x08, 0x00] {
            add(&frame[ETHERNET_HEADER..], &mut found);
        }
    }
    found
}

/// Adds a datagram, or says of an earlier one that it was refused.
fn add(packet: &[u8], found: &mut Vec<Datagram>) {
    const ICMP: u8 = 1;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    if let Some(datagram) = Datagram::parse(packet) {
        found.push(datagram);
    } else if packet[9] == ICMP && packet[IPV4_HEADER..].starts_with(&PORT_UNREACHABLE) {
        let about = Datagram::parse(&packet[IPV4_HEADER + ICMP_HEADER..]).unwrap();
        let is_it = |datagram: &&mut Datagram| {
            let addresses = (datagram.from, datagram.to) == (about.from, about.to);
            addresses && !datagram.refused && datagram.payload.starts_with(&about.payload)
        };
        found.iter_mut().find(is_it).expect("it was captured, too").refused = true;
    }
}

impl Datagram {
    /// From an IPv4 packet, which may be cut.
    fn parse(packet: &[u8]) -> Option<Datagram> {
        const UDP: u8 = 17;
        let (headers, payload) = packet.split_at_checked(IPV4_HEADER + UDP_HEADER)?;
        assert_eq!(headers[0], 0x45, "options");
        let number = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let address = |at: usize, port: usize| {
            let octets: [u8; 4] = headers[at..at + 4].try_into().unwrap();
            SocketAddrV4::new(Ipv4Addr::from(octets), number(port))
        };
        let length = usize::from(number(2)).saturating_sub(headers.len());
        (headers[9] == UDP).then(|| Datagram {
            from: address(12, IPV4_HEADER),
            to: address(16, IPV4_HEADER + 2),
            payload: payload[..length.min(payload.len())].to_vec(),
            refused: false,
        })
    }
}
