//! Packets and quoted packets that end too early.

use super::*;

/// A cut on the way is seen by the length, whatever else.
#[test]
fn every_truncation_is_refused() {
    for sample in TO_IPV4 {
        let packet = octets(sample.from);
        for length in 0..packet.len() {
            let refused = refused(to_ipv4(&packet[..length], &LIMITS));
            assert_eq!(refused, Refusal::PacketTruncated, "{} {length}", sample.name);
        }
    }
    for sample in TO_IPV6 {
        let packet = octets(sample.from);
        for length in 0..packet.len() {
            let refused = refused(to_ipv6(&packet[..length], &LIMITS));
            assert_eq!(refused, Refusal::PacketTruncated, "{} {length}", sample.name);
        }
    }
}

/// Packets that were sent shorter: refused where a header is not whole, for that reason.
#[test]
fn every_shorter_packet_is_refused_where_headers_end() {
    use Refusal::*;
    // Where headers must be whole, counted from the end of the fixed header.
    let headers = |name: &str| match name {
        "tcp" => 20,
        "later_fragment" => 0,
        _ => 8,
    };
    // The checksum may be right by chance: an IPv4 packet that is quoted whole adds up to 0.
    let of_errors = [HeaderTruncated, IcmpChecksum, QuotedTruncated];
    for sample in TO_IPV4 {
        let packet = octets(sample.from);
        let upper_at = Ipv6::new(&packet).unwrap().walk().unwrap().upper_at;
        for length in 40..packet.len() {
            let result = to_ipv4(&cut(&packet, length), &LIMITS);
            let context = format!("{} {length}", sample.name);
            if sample.name.starts_with("extension")
                && let Ok(packets) = &result
            {
                // Padding and extension add up to 0; without all of an extension there is none.
                assert_eq!(packets[0][25], 0, "{context}");
            } else if packet[upper_at] < 128 && packet[6] == 58 {
                assert!(of_errors.contains(&refused(result)), "{context}");
            } else if length < upper_at + headers(sample.name) {
                let reason = refused(result);
                let of_fragments = sample.name.ends_with("fragment") && reason == FragmentBounds;
                assert!(reason == HeaderTruncated || of_fragments, "{context}");
            } else if sample.name == "first_fragment" {
                assert_eq!(result.is_ok(), (length - 48) % 8 == 0, "{context}");
            } else {
                assert_eq!(result.unwrap()[0].len(), length - upper_at + 20, "{context}");
            }
        }
    }
    for sample in TO_IPV6 {
        let packet = octets(sample.from);
        let upper_at = Ipv4::new(&packet).unwrap().header_length();
        for length in upper_at..packet.len() {
            let result = to_ipv6(&cut(&packet, length), &LIMITS);
            let context = format!("{} {length}", sample.name);
            if sample.name.starts_with("extension")
                && let Ok(packets) = &result
            {
                assert_eq!(packets[0][44], 0, "{context}");
            } else if packet[9] == 1 && !matches!(packet[upper_at], 0 | 8) {
                assert!(of_errors.contains(&refused(result)), "{context}");
            } else if length < upper_at + headers(sample.name) {
                let reason = refused(result);
                let of_fragments = sample.name.ends_with("fragment") && reason == FragmentBounds;
                assert!(reason == HeaderTruncated || of_fragments, "{context}");
            } else if sample.name == "first_fragment" {
                assert_eq!(result.is_ok(), (length - 20) % 8 == 0, "{context}");
            } else if sample.name == "udp_without_checksum" {
                // Its length says that there is more, and what it would be summed over is not
                // there.
                assert_eq!(refused(result), HeaderTruncated, "{context}");
            } else {
                let fragment = if sample.name == "later_fragment" { 8 } else { 0 };
                let expected = length - upper_at + 40 + fragment;
                assert_eq!(result.unwrap()[0].len(), expected, "{context}");
            }
        }
    }
}

/// An error that quotes less and less: translated as long as the ports are there.
#[test]
fn every_truncation_of_a_quoted_packet() {
    for (name, ports_end) in [("quoted_udp", 44), ("quoted_tcp_cut", 44), ("quoted_echo", 48)] {
        let whole = from6(name);
        for quoted in 0..whole.len() - 48 {
            let mut packet = cut(&whole, 48 + quoted);
            let view = Ipv6::new(&whole).unwrap();
            packet[42..44].fill(0);
            let sum = checksum::icmpv6(view.source(), view.destination(), &packet[40..]);
            packet[42..44].copy_from_slice(&sum.to_be_bytes());
            let result = to_ipv4(&packet, &LIMITS);
            if quoted < ports_end {
                assert_eq!(refused(result), Refusal::QuotedTruncated, "{name} {quoted}");
            } else {
                let packets = result.unwrap();
                assert_eq!(packets[0].len(), 20 + 8 + quoted - 20, "{name} {quoted}");
                assert_eq!(checksum(&[&packets[0][20..]]), 0, "{name} {quoted}");
            }
        }
    }
    for (name, ports_end) in [("quoted_udp", 24), ("quoted_tcp_cut", 24), ("quoted_echo", 28)] {
        let whole = from4(name);
        for quoted in 0..whole.len() - 28 {
            let mut packet = cut(&whole, 28 + quoted);
            packet[22..24].fill(0);
            let sum = checksum(&[&packet[20..]]);
            packet[22..24].copy_from_slice(&sum.to_be_bytes());
            let result = to_ipv6(&packet, &LIMITS);
            if quoted < ports_end {
                assert_eq!(refused(result), Refusal::QuotedTruncated, "{name} {quoted}");
            } else {
                let packets = result.unwrap();
                assert_eq!(packets[0].len(), 40 + 8 + quoted + 20, "{name} {quoted}");
                let view = Ipv6::new(&packets[0]).unwrap();
                let (source, destination) = (view.source(), view.destination());
                let sum = checksum::icmpv6(source, destination, &packets[0][40..]);
                assert_eq!(sum, 0, "{name} {quoted}");
            }
        }
    }
}
