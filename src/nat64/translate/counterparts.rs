//! The types and codes of ICMP errors and their counterparts: the tables of RFC 7915 sections 4.2
//! and 5.2.

use crate::ip::fields::ipv6::NEXT_HEADER;
use crate::ip::icmp::{v4, v6};

use super::{HEADER_DIFFERENCE, IPV4_MTU_MIN, IPV6_MTU_MIN, Limits, Refusal};

/// Likely MTUs (RFC 1191 section 7.1), for routers that name none.
const PLATEAUS: [u16; 11] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// What an error says beyond type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Nothing; an extension may follow (RFC 4884).
    Nothing,
    /// This octet of the quoted packet's header is wrong.
    Pointer(u8),
    /// The packet was too big; one of this size would have fitted.
    Mtu(u16),
}

/// An error in the ICMP of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counterpart {
    pub kind: u8,
    pub code: u8,
    pub detail: Detail,
}

impl Counterpart {
    const fn new(kind: u8, code: u8, detail: Detail) -> Self {
        Self { kind, code, detail }
    }

    /// What remains of an extension: in ICMPv6, errors with an MTU or a pointer have none (RFC 4884
    /// section 4.6).
    pub(super) fn extension(self, extension: &[u8]) -> &[u8] {
        if self.detail == Detail::Nothing { extension } else { &[] }
    }
}

/// The ICMP counterpart of an ICMPv6 error. `word` follows its checksum; `fragment_header` says
/// whether the quoted packet has one.
///
/// # Errors
/// What section 5.2 drops.
pub(super) fn to_ipv4(
    kind: u8,
    code: u8,
    word: u32,
    fragment_header: bool,
    limits: &Limits,
) -> Result<Counterpart, Refusal> {
    let unreachable = |code| Counterpart::new(v4::UNREACHABLE, code, Detail::Nothing);
    Ok(match (kind, code) {
        (v6::UNREACHABLE, 0 | 2 | 3) => unreachable(v4::HOST),
        (v6::UNREACHABLE, 1) => unreachable(v4::HOST_PROHIBITED),
        (v6::UNREACHABLE, 4) => unreachable(v4::PORT),
        (v6::PACKET_TOO_BIG, _) => {
            let named = u16::try_from(word).unwrap_or(u16::MAX);
            let longer = if fragment_header { HEADER_DIFFERENCE + 8 } else { HEADER_DIFFERENCE };
            let ipv6_mtu = named.min(limits.ipv6_mtu).saturating_sub(longer);
            let mtu = Detail::Mtu(ipv6_mtu.min(limits.ipv4_mtu).max(IPV4_MTU_MIN));
            Counterpart::new(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED, mtu)
        }
        (v6::TIME_EXCEEDED, code) => Counterpart::new(v4::TIME_EXCEEDED, code, Detail::Nothing),
        (v6::PARAMETER_PROBLEM, v6::HEADER_FIELD) => {
            let pointer = ipv4_pointer(word).ok_or(Refusal::IcmpPointer)?;
            Counterpart::new(v4::PARAMETER_PROBLEM, 0, Detail::Pointer(pointer))
        }
        (v6::PARAMETER_PROBLEM, v6::NEXT_HEADER) => unreachable(v4::PROTOCOL),
        (v6::UNREACHABLE | v6::PARAMETER_PROBLEM, _) => return Err(Refusal::IcmpCode),
        _ => return Err(Refusal::IcmpType),
    })
}

/// Figure 6.
fn ipv4_pointer(pointer: u32) -> Option<u8> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

/// The ICMPv6 counterpart of an ICMP error. `word` follows its checksum; `quoted_length` is the
/// total length that the quoted packet's header says.
///
/// # Errors
/// What section 4.2 drops.
pub(super) fn to_ipv6(
    kind: u8,
    code: u8,
    word: u32,
    quoted_length: usize,
    limits: &Limits,
) -> Result<Counterpart, Refusal> {
    let unreachable = |code| Counterpart::new(v6::UNREACHABLE, code, Detail::Nothing);
    Ok(match (kind, code) {
        (v4::UNREACHABLE, v4::PROTOCOL) => {
            let pointer = Detail::Pointer(NEXT_HEADER as u8);
            Counterpart::new(v6::PARAMETER_PROBLEM, v6::NEXT_HEADER, pointer)
        }
        (v4::UNREACHABLE, v4::PORT) => unreachable(v6::PORT),
        (v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED) => {
            let named = match word as u16 {
                0 => plateau(quoted_length),
                named => named,
            };
            let ipv4_mtu = named.min(limits.ipv4_mtu).saturating_add(HEADER_DIFFERENCE);
            let mtu = Detail::Mtu(ipv4_mtu.min(limits.ipv6_mtu).max(IPV6_MTU_MIN));
            Counterpart::new(v6::PACKET_TOO_BIG, 0, mtu)
        }
        (v4::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => unreachable(v6::NO_ROUTE),
        (v4::UNREACHABLE, 9 | 10 | 13 | 15) => unreachable(v6::PROHIBITED),
        (v4::TIME_EXCEEDED, code) => Counterpart::new(v6::TIME_EXCEEDED, code, Detail::Nothing),
        (v4::PARAMETER_PROBLEM, 0 | 2) => {
            let [pointer, ..] = word.to_be_bytes();
            let pointer = ipv6_pointer(pointer).ok_or(Refusal::IcmpPointer)?;
            let pointer = Detail::Pointer(pointer);
            Counterpart::new(v6::PARAMETER_PROBLEM, v6::HEADER_FIELD, pointer)
        }
        (v4::UNREACHABLE | v4::PARAMETER_PROBLEM, _) => return Err(Refusal::IcmpCode),
        _ => return Err(Refusal::IcmpType),
    })
}

/// Figure 3.
fn ipv6_pointer(pointer: u8) -> Option<u8> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// The greatest plateau below `length` (section 4.2). The caller raises it to the minimum MTU of
/// IPv6.
fn plateau(length: usize) -> u16 {
    let below = |&plateau: &u16| usize::from(plateau) < length;
    PLATEAUS.into_iter().find(below).unwrap_or(IPV4_MTU_MIN)
}

/// Where an extension may follow: the octet of the ICMP error that says how long the quoted packet
/// is, padding included, and the unit of that in octets (RFC 4884 section 4).
pub(super) fn extension_length_v4(kind: u8) -> Option<(usize, usize)> {
    matches!(kind, v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM).then_some((5, 4))
}

/// The same of an ICMPv6 error.
pub(super) fn extension_length_v6(kind: u8) -> Option<(usize, usize)> {
    matches!(kind, v6::UNREACHABLE | v6::TIME_EXCEEDED).then_some((4, 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::new(1400, 1500).unwrap();

    fn v6(kind: u8, code: u8, word: u32) -> Result<(u8, u8, Detail), Refusal> {
        to_ipv4(kind, code, word, false, &LIMITS).map(|it| (it.kind, it.code, it.detail))
    }

    fn v4(kind: u8, code: u8, word: u32) -> Result<(u8, u8, Detail), Refusal> {
        to_ipv6(kind, code, word, 1500, &LIMITS).map(|it| (it.kind, it.code, it.detail))
    }

    /// Section 5.2, line by line.
    #[test]
    fn rfc7915_5_2_types_and_codes() {
        let codes = [Ok(1), Ok(10), Ok(1), Ok(1), Ok(3)];
        for code in 0..=255 {
            let expected = codes.get(usize::from(code)).copied().unwrap_or(Err(Refusal::IcmpCode));
            assert_eq!(v6(1, code, 0), expected.map(|code| (3, code, Detail::Nothing)), "{code}");
            assert_eq!(v6(3, code, 0), Ok((11, code, Detail::Nothing)));
        }
        assert_eq!(v6(4, 1, 40), Ok((3, 2, Detail::Nothing)));
        assert_eq!(v6(4, 2, 0), Err(Refusal::IcmpCode));
        for kind in [0, 5, 100, 127, 130, 137, 255] {
            assert_eq!(v6(kind, 0, 0), Err(Refusal::IcmpType), "{kind}");
        }
    }

    /// Figure 6, each pointer of an IPv6 header and some behind.
    #[test]
    fn rfc7915_figure_6() {
        let figure = |pointer| match pointer {
            0 => Some(0),
            1 => Some(1),
            4 | 5 => Some(2),
            6 => Some(9),
            7 => Some(8),
            8..24 => Some(12),
            24..40 => Some(16),
            _ => None,
        };
        for pointer in (0..50).chain([256, 1 << 24, u32::MAX]) {
            let expected = figure(pointer).map(|pointer| (12, 0, Detail::Pointer(pointer)));
            assert_eq!(v6(4, 0, pointer), expected.ok_or(Refusal::IcmpPointer), "{pointer}");
        }
    }

    /// min(named - 20, MTU of IPv4, MTU of IPv6 - 20).
    #[test]
    fn rfc7915_5_2_packet_too_big() {
        let mtu = |named, fragment_header, ipv4, ipv6| {
            let limits = Limits::new(ipv4, ipv6).unwrap();
            to_ipv4(2, 0, named, fragment_header, &limits).unwrap()
        };
        for (named, fragment_header, ipv4, ipv6, expected) in [
            (1400, false, 1500, 1500, 1380),
            (1400, true, 1500, 1500, 1372),
            (1500, false, 1300, 1500, 1300),
            (9000, false, 9000, 1500, 1480),
            (1280, false, 1500, 1500, 1260),
            (576, false, 1500, 1500, 556),
            (88, false, 1500, 1500, 68),
            (87, false, 1500, 1500, 68),
            (0, true, 1500, 1500, 68),
            (u32::MAX, false, 65535, 65535, 65515),
            (1280, true, 68, 1280, 68),
        ] {
            let counterpart = mtu(named, fragment_header, ipv4, ipv6);
            assert_eq!(counterpart, Counterpart::new(3, 4, Detail::Mtu(expected)), "{named}");
        }
    }

    /// Section 4.2, line by line.
    #[test]
    fn rfc7915_4_2_types_and_codes() {
        for code in 0..=255 {
            let expected = match code {
                2 => Ok((4, 1, Detail::Pointer(6))),
                3 => Ok((1, 4, Detail::Nothing)),
                4 => Ok((2, 0, Detail::Mtu(1420))),
                0 | 1 | 5 | 6 | 7 | 8 | 11 | 12 => Ok((1, 0, Detail::Nothing)),
                9 | 10 | 13 | 15 => Ok((1, 1, Detail::Nothing)),
                _ => Err(Refusal::IcmpCode),
            };
            assert_eq!(v4(3, code, 1492), expected, "{code}");
            assert_eq!(v4(11, code, 0), Ok((3, code, Detail::Nothing)));
        }
        assert_eq!(v4(12, 1, 0), Err(Refusal::IcmpCode));
        assert_eq!(v4(12, 3, 0), Err(Refusal::IcmpCode));
        for kind in [1, 2, 4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 19, 255] {
            assert_eq!(v4(kind, 0, 0), Err(Refusal::IcmpType), "{kind}");
        }
    }

    /// Figure 3, each pointer of an IPv4 header and some behind.
    #[test]
    fn rfc7915_figure_3() {
        let na = None;
        let figure = [
            Some(0),
            Some(1),
            Some(4),
            Some(4),
            na,
            na,
            na,
            na,
            Some(7),
            Some(6),
            na,
            na,
            Some(8),
            Some(8),
            Some(8),
            Some(8),
            Some(24),
            Some(24),
            Some(24),
            Some(24),
        ];
        for pointer in 0..=255_u8 {
            let expected = figure.get(usize::from(pointer)).copied().flatten();
            let expected = expected.map(|pointer| (4, 0, Detail::Pointer(pointer)));
            for code in [0, 2] {
                let word = u32::from(pointer) << 24 | 0xff_ffff;
                assert_eq!(v4(12, code, word), expected.ok_or(Refusal::IcmpPointer), "{pointer}");
            }
        }
    }

    /// max(1280, min(named + 20, MTU of IPv6, MTU of IPv4 + 20)), the named one a plateau where it
    /// is 0.
    #[test]
    fn rfc7915_4_2_fragmentation_needed() {
        for (named, quoted_length, ipv4, ipv6, expected) in [
            (1400, 1500, 1500, 1500, 1420),
            (1500, 1500, 1400, 1500, 1420),
            (9000, 9000, 9000, 1500, 1500),
            (576, 1500, 1500, 1500, 1280),
            (65535, 65535, 65535, 65535, 65535),
            (0, 1500, 1500, 1600, 1512),
            (0, 1492, 1500, 1600, 1280),
            (0, 1493, 1500, 1600, 1512),
            (0, 4352, 9000, 9000, 2022),
            (0, 65535, 65535, 65535, 32020),
            (0, 100, 1500, 1500, 1280),
            // The high-order half is not the MTU's (RFC 1191 section 4).
            (0xffff_0578, 1500, 1500, 1500, 1420),
        ] {
            let limits = Limits::new(ipv4, ipv6).unwrap();
            let counterpart = to_ipv6(3, 4, named, quoted_length, &limits).unwrap();
            assert_eq!(counterpart, Counterpart::new(2, 0, Detail::Mtu(expected)), "{named}");
        }
    }
}
