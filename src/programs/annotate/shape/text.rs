//! Addresses and ports in octets.

use std::net::Ipv4Addr;
use std::ops::Range;

/// What an IPv4 address begins with where a program has it as an IPv6 one.
const MAPPED: &[u8] = b"::ffff:";

/// An address, and a port if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointText {
    pub ip: Ipv4Addr,
    /// Where the address stands, without brackets.
    pub address: Range<usize>,
    pub port: Option<(u16, Range<usize>)>,
    /// Where it is over.
    pub end: usize,
}

/// `192.0.2.7`, `::ffff:192.0.2.7`, each also in brackets, and with `:3719` behind it.
pub fn endpoint_at(line: &[u8], at: usize) -> Option<EndpointText> {
    let bracket = line.get(at) == Some(&b'[');
    let start = at + usize::from(bracket);
    let (ip, mut end) = address_at(line, start)?;
    let address = start..end;
    if bracket {
        (*line.get(end)? == b']').then_some(())?;
        end += 1;
    }
    let port = match line.get(end) {
        Some(b':') => number_at(line, end + 1).map(|(port, over)| (port, end + 1..over)),
        _ => None,
    };
    let end = port.as_ref().map_or(end, |(_, range)| range.end);
    // What goes on like this is something else.
    let is_over =
        line.get(end).is_none_or(|&octet| !octet.is_ascii_alphanumeric() && octet != b'.');
    is_over.then_some(EndpointText { ip, address, port, end })
}

/// An address, and where it is over.
pub fn address_at(line: &[u8], at: usize) -> Option<(Ipv4Addr, usize)> {
    let mapped = line.get(at..at + MAPPED.len());
    let is_mapped = mapped.is_some_and(|begin| begin.eq_ignore_ascii_case(MAPPED));
    let mut at = at + if is_mapped { MAPPED.len() } else { 0 };
    let mut octets = [0; 4];
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            (*line.get(at)? == b'.').then_some(())?;
            at += 1;
        }
        let digits = line.get(at..)?.iter().take(4).take_while(|digit| digit.is_ascii_digit());
        let length = digits.count();
        let number = line[at..at + length]
            .iter()
            .fold(0, |number, digit| 10 * number + u16::from(digit & 0xf));
        *octet = u8::try_from(number).ok().filter(|_| (1..=3).contains(&length))?;
        at += length;
    }
    Some((octets.into(), at))
}

/// A port, and where it is over.
pub fn number_at(line: &[u8], at: usize) -> Option<(u16, usize)> {
    let digits = line.get(at..)?.iter().take(6).take_while(|digit| digit.is_ascii_digit()).count();
    let number =
        line[at..at + digits].iter().fold(0, |number, digit| 10 * number + u32::from(digit & 0xf));
    let port = u16::try_from(number).ok().filter(|_| (1..=5).contains(&digits))?;
    Some((port, at + digits))
}

/// A number that is all of it.
pub fn port(text: &[u8]) -> Option<u16> {
    number_at(text, 0).filter(|&(_, end)| end == text.len()).map(|(port, _)| port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Option<(String, &str, Option<u16>, &str)> {
        let EndpointText { ip, address, port, end } = endpoint_at(text.as_bytes(), 0)?;
        Some((ip.to_string(), &text[address], port.map(|(port, _)| port), &text[end..]))
    }

    #[test]
    fn addresses_with_and_without_a_port() {
        let ip = || "192.0.2.7".to_owned();
        let mapped = "::ffff:192.0.2.7";
        for (text, expected) in [
            ("192.0.2.7", ("192.0.2.7", None, "")),
            ("192.0.2.7 - -", ("192.0.2.7", None, " - -")),
            ("192.0.2.7:3719 - -", ("192.0.2.7", Some(3719), " - -")),
            ("192.0.2.7:66000", ("192.0.2.7", None, ":66000")),
            ("192.0.2.7: x", ("192.0.2.7", None, ": x")),
            ("::ffff:192.0.2.7", (mapped, None, "")),
            ("::FFFF:192.0.2.7 -", ("::FFFF:192.0.2.7", None, " -")),
            ("::ffff:192.0.2.7:3719,", (mapped, Some(3719), ",")),
            ("[::ffff:192.0.2.7]:3719 -", (mapped, Some(3719), " -")),
            ("[192.0.2.7]:3719;", ("192.0.2.7", Some(3719), ";")),
        ] {
            let (address, port, rest) = expected;
            assert_eq!(endpoint(text), Some((ip(), address, port, rest)), "{text}");
        }
        for text in [
            "",
            "192.0.2",
            "192.0.2.",
            "192.0.2.7.8",
            "192.0.2.256",
            "1920.0.2.7",
            "192.0.2.7x",
            "[192.0.2.7:1",
            "2001:db8::17",
            "::ffff:2001",
            "x192.0.2.7",
            "192.0.2.7:37190x",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
        assert_eq!(
            (port(b"3719"), port(b"3719 "), port(b""), port(b"65536")),
            (Some(3719), None, None, None)
        );
    }
}
