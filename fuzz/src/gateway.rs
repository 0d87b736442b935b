//! The target `gateway`: a little program of packets and payloads for a whole gateway. Nothing
//! panics, and each packet that it writes is as long as it says, fits its device, and comes from
//! where it may.
//!
//! A program is steps, one after the other: an octet that says what, then what that needs. Octets
//! with their length in front are `octets`:
//!
//! | octet | step | needs |
//! | --- | --- | --- |
//! | 0 | time passes | tenths of a second (2), then a tick |
//! | 1 | a packet | octets |
//! | 2 | a packet, its lengths and checksums mended | octets |
//! | 3 | a control payload | octets |
//! | 4 | the same, but in fragments | data in each, in eights (1), octets |
//! | 5 | an answer: authenticator, entry, packet | mapped port (2), client port (2), octets |
//! | 6 | a server's answer with token and packet | octets |
//! | 7 | nobody listens: an ICMP error about the last request | |
//! | 8 | a reboot | |
//! | 9 | a rotation | |
//! | 10 | a packet as a device with offloads gives it | its header (10), octets |

use std::net::Ipv6Addr;
use std::time::Duration;

use nat64handoff::ip::offload::{OFFLOAD_HEADER, Offload};
use nat64handoff::ip::segments::Segments;
use nat64handoff::nat64::engine::{Nat64Config, WELL_KNOWN_PREFIX};
use nat64handoff::nat64::gateway::{Done, Gateway, GatewayConfig, GatewayOutbox};

use super::build::{NAT64, SERVICE};
use super::judge::client::Client;
use super::judge::packet::{Ipv4, checksum};
use super::judge::wire::{self, PAYLOAD_MAX, message};
use super::translate::mend;

/// The MTU of the device: small, so that much is fragmented.
const MTU: u16 = 1280;
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const HANDOFF: u16 = 64064;
/// More than these are not looked at.
const STEPS_MAX: usize = 100;

/// `data` is a program.
pub fn check(data: &[u8]) {
    let nat64 = Nat64Config::new(NAT64);
    let config = GatewayConfig::new(nat64, MTU);
    let gateway = Gateway::new(config, [7; 32]).expect("the MTU is none too small");
    let mut play = Play {
        gateway,
        now: Duration::from_secs(1),
        outbox: GatewayOutbox::default(),
        request: Vec::new(),
        identification: 0,
    };
    let mut program = Program(data);
    for _ in 0..STEPS_MAX {
        if play.step(&mut program).is_none() {
            break;
        }
    }
    let held: usize = play.gateway.nat64().entries(SERVICE).count();
    assert!(held <= STEPS_MAX);
}

struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.octet()?, self.octet()?]))
    }

    /// What is left, where that is less than the length says.
    fn octets(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?).min(self.0.len());
        let (octets, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(octets)
    }
}

struct Play {
    gateway: Gateway,
    now: Duration,
    outbox: GatewayOutbox,
    /// The first packet of the last control datagram that was sent.
    request: Vec<u8>,
    identification: u16,
}

impl Play {
    fn step(&mut self, program: &mut Program<'_>) -> Option<()> {
        let what = program.octet()?;
        match if what == 10 { what } else { what % 10 } {
            0 => {
                self.now += Duration::from_millis(100) * u32::from(program.number()?);
                self.gateway.tick(self.now, &mut self.outbox);
                self.check_outbox();
            }
            1 => self.packet(program.octets()?),
            2 => {
                let mut packet = program.octets()?.to_vec();
                mend(&mut packet);
                self.packet(&packet);
            }
            3 => self.control(usize::MAX, program.octets()?),
            4 => {
                let size = 8 * (1 + usize::from(program.octet()?));
                self.control(size, program.octets()?);
            }
            5 => {
                let (port, client_port) = (program.number()?, program.number()?);
                let client =
                    Client { prefix: WELL_KNOWN_PREFIX.0, address: CLIENT, port: client_port };
                let entry = client.at(port);
                let authenticator = self.gateway.nat64().authenticator(SERVICE, CLIENT);
                let packet = program.octets()?;
                let answer = [&message(6, &authenticator), &wire::entry(entry), packet].concat();
                self.control(usize::MAX, &answer);
            }
            6 => {
                let token = self.gateway.nat64().token(SERVICE);
                self.control(usize::MAX, &[&message(4, &token), program.octets()?].concat());
            }
            7 => {
                let quoted = self.request[..self.request.len().min(548)].to_vec();
                self.packet(&icmp_port_unreachable(&quoted));
            }
            8 => self.gateway.reboot([9; 32]),
            9 => self.gateway.rotate_token(self.now),
            _ => {
                let mut header = [0; OFFLOAD_HEADER];
                for octet in &mut header {
                    *octet = program.octet()?;
                }
                let mut packet = program.octets()?.to_vec();
                if let Ok(offload) = Offload::parse(&header, &packet) {
                    self.offloaded(&mut packet, &offload);
                }
            }
        }
        Some(())
    }

    /// A control payload of the server, in fragments with that much data.
    fn control(&mut self, size: usize, payload: &[u8]) {
        let payload = &payload[..payload.len().min(PAYLOAD_MAX)];
        let length = (8 + payload.len()) as u16;
        let to = self.gateway.nat64().control_port().0;
        let header = [HANDOFF, to, length, 0].map(u16::to_be_bytes).concat();
        let datagram = [&header, payload].concat();
        self.identification += 1;
        let mut offset = 0;
        for part in datagram.chunks(size) {
            let packet = Ipv4 {
                id: self.identification,
                offset: offset as u16,
                more: offset + part.len() < datagram.len(),
                ..Ipv4::new(SERVICE, NAT64, 17, part)
            };
            self.packet(&packet.octets());
            offset += part.len();
        }
    }

    fn packet(&mut self, packet: &[u8]) {
        self.gateway.packet(self.now, packet, &mut self.outbox);
        self.check_outbox();
    }

    /// A super-packet, or one whose checksum is left. What is forwarded as such is what a device
    /// can cut.
    fn offloaded(&mut self, packet: &mut [u8], offload: &Offload) {
        let Some(forwarded) = self.gateway.forward_offloaded(self.now, packet, offload) else {
            self.gateway.in_pieces(self.now, packet, offload, &mut self.outbox);
            self.check_outbox();
            return;
        };
        let mut whole = [forwarded.headers(), forwarded.rest].concat();
        let left = forwarded.offload;
        assert_eq!(Offload::parse(&left.emit(&whole), &whole), Ok(left));
        if left.segments.is_none() {
            assert!(left.checksum.is_none_or(|left| left.make(&mut whole)));
            self.check_packet(&whole, false);
            return;
        }
        let mut segments = Segments::of(&whole, &left).expect("a super-packet");
        let mut segment = vec![0; whole.len()];
        while let Some(length) = segments.next_segment(&mut segment) {
            self.check_packet(&segment[..length], false);
        }
    }

    fn check_outbox(&mut self) {
        let delivered = self.gateway.done(Done::Delivered) > 0;
        let outbox = std::mem::take(&mut self.outbox);
        outbox.packets().for_each(|packet| self.check_packet(packet, delivered));
        self.outbox = outbox;
        self.outbox.clear();
    }

    fn check_packet(&mut self, packet: &[u8], delivered: bool) {
        assert!(packet.len() <= usize::from(MTU) || delivered, "{} octets", packet.len());
        if packet[0] >> 4 == 6 {
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            assert_eq!(40 + length, packet.len());
            assert_eq!(packet[8..20], WELL_KNOWN_PREFIX.0, "its source has the prefix");
            return;
        }
        assert_eq!(packet[0] >> 4, 4);
        let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        assert_eq!(length, packet.len());
        assert_eq!(packet[12..16], NAT64.octets(), "its source is the public address");
        assert_ne!(packet[16..20], NAT64.octets(), "nothing goes round in circles");
        if !delivered {
            assert_eq!(checksum(&[&packet[..usize::from(packet[0] & 15) * 4]]), 0);
        }
        let first = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff == 0;
        let port = packet.get(22..24).filter(|_| first && packet[9] == 17);
        if port == Some(&HANDOFF.to_be_bytes()) {
            self.request = packet.to_vec();
        }
    }
}

/// An ICMP error of the server's kernel.
fn icmp_port_unreachable(quoted: &[u8]) -> Vec<u8> {
    let icmp = Ipv4::icmp(SERVICE, NAT64, 3, 3, &[&[0; 4], quoted].concat());
    Ipv4 { id: 0, dont_fragment: true, ..icmp }.octets()
}
