//! A second translator, to compare with ours: RFC 7915 read again, octet by octet, with nothing of
//! the library. It copies, allocates, and sums every checksum's change modulo 65535.
//!
//! What the RFC leaves open is as `src/nat64/translate` documents it. Section numbers are of RFC
//! 7915.

/// What a translator knows beside the packet.
pub struct Setting {
    pub ipv4_mtu: usize,
    pub ipv6_mtu: usize,
    /// The smallest MTU that is known of the IPv6 network.
    pub path_mtu: usize,
    pub copy_traffic_class: bool,
    pub make_udp_checksums: bool,
    /// Of an IPv4 packet that has none of its own.
    pub identification: u16,
    /// The client, seen over IPv6.
    pub client6: [u8; 16],
    pub client6_port: u16,
    /// The NAT64's address, which is the client seen over IPv4.
    pub client4: [u8; 4],
    pub client4_port: u16,
    pub service6: [u8; 16],
    pub service4: [u8; 4],
}

/// Why there are no packets: the type, code and word of an error that must be sent, or `None` where
/// this reading leaves open whether there is one.
pub type Told = Option<(u8, u8, u32)>;
/// The packets, where there are any.
pub type Translated = Result<Vec<Vec<u8>>, Told>;

const SILENT: Told = None;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

fn word(octets: &[u8], at: usize) -> usize {
    256 * usize::from(octets[at]) + usize::from(octets[at + 1])
}

fn octets(word: usize) -> [u8; 2] {
    [(word / 256) as u8, (word % 256) as u8]
}

/// The sum of all words, the last one filled up with a zero.
fn words(octets: &[u8]) -> u64 {
    let padded = octets.chunks(2).map(|pair| [pair[0], *pair.get(1).unwrap_or(&0)]);
    padded.map(|[high, low]| 256 * u64::from(high) + u64::from(low)).sum()
}

/// The pseudo-header of IPv6 (RFC 8200 section 8.1), addresses of either version in front.
fn pseudo(addresses: &[u8], length: usize, protocol: u8) -> Vec<u8> {
    [addresses, &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// Whether all words, a checksum among them, sum up to nothing but ones.
fn is_right(octets: &[u8]) -> bool {
    let sum = words(octets);
    sum > 0 && sum.is_multiple_of(65535)
}

/// Sets the checksum at `at`, over all of `message` with `front` before it.
fn sum_up(message: &mut [u8], at: usize, front: &[u8]) {
    message[at..at + 2].fill(0);
    let sum = (words(front) + words(message)) % 65535;
    message[at..at + 2].copy_from_slice(&octets((65535 - sum as usize) % 65535));
}

/// Changes the checksum at `at` for words that sum up to `new` where they summed up to `old`.
fn change(message: &mut [u8], at: usize, old: u64, new: u64, udp: bool) {
    let Some(&[high, low]) = message.get(at..).and_then(|rest| rest.first_chunk()) else {
        return;
    };
    let sum = u64::from(high) * 256 + u64::from(low) + old + 65535 - new % 65535;
    let checksum = match (sum % 65535) as usize {
        0 if udp => 65535,
        checksum => checksum,
    };
    message[at..at + 2].copy_from_slice(&octets(checksum));
}

/// A transport header and its data, with the new addresses and the new port at `port_at`.
fn transport(
    mut upper: Vec<u8>,
    protocol: u8,
    port_at: usize,
    port: u16,
    old: &[u8],
    new: &[u8],
) -> Vec<u8> {
    let at = if protocol == TCP { 16 } else { 6 };
    let (before, after) = (words(old) + word(&upper, port_at) as u64, words(new) + u64::from(port));
    upper[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
    let absent = protocol == UDP && upper.get(6..8) == Some(&[0, 0]);
    if !absent {
        change(&mut upper, at, before, after, protocol == UDP);
    }
    upper
}

/// An echo message with another type and identifier; pseudo-headers go or come.
fn echo(mut upper: Vec<u8>, kind: u8, identifier: u16, old: &[u8], new: &[u8]) -> Vec<u8> {
    let before = words(old) + words(&upper[..2]) + words(&upper[4..6]);
    upper[0] = kind;
    upper[4..6].copy_from_slice(&identifier.to_be_bytes());
    let after = words(new) + words(&upper[..2]) + words(&upper[4..6]);
    change(&mut upper, 2, before, after, false);
    upper
}

/// Where the upper layer of an IPv6 packet begins, its protocol, and the fragment header before it.
struct Chain {
    at: usize,
    protocol: u8,
    fragment: Option<Part>,
}

/// What a fragment says of itself, offset in octets.
#[derive(Clone, Copy)]
struct Part {
    offset: usize,
    more: bool,
    identification: u32,
}

/// Section 5.1: hop-by-hop options, destination options and routing headers that are used up are
/// skipped. Section 5.1.1: within fragments there are none.
fn chain(packet: &[u8]) -> Option<Chain> {
    let mut chain = Chain { at: 40, protocol: packet[6], fragment: None };
    for passed in 0.. {
        let length = match chain.protocol {
            // Not of the RFC: more than eight are refused.
            0 | 43 | 44 | 60 if passed == 8 => return None,
            0 | 43 | 60 => 8 + 8 * usize::from(*packet.get(chain.at + 1)?),
            44 => 8,
            _ => return Some(chain),
        };
        let header = packet.get(chain.at..chain.at + length)?;
        if chain.protocol == 43 && header[3] != 0 {
            return None;
        }
        if chain.protocol == 44 {
            chain.fragment = Some(Part {
                offset: word(header, 2) / 8 * 8,
                more: header[3] % 2 == 1,
                identification: (word(header, 4) * 65536 + word(header, 6)) as u32,
            });
        }
        (chain.at, chain.protocol) = (chain.at + length, header[0]);
        if chain.fragment.is_some() {
            return (!matches!(chain.protocol, 0 | 43 | 44 | 51 | 60)).then_some(chain);
        }
    }
    None
}

fn part4(packet: &[u8]) -> Option<Part> {
    let (offset, more) = (word(packet, 6) % 8192 * 8, packet[6] & 0x20 > 0);
    let identification = word(packet, 4) as u32;
    (offset > 0 || more).then_some(Part { offset, more, identification })
}

fn fits(part: Part, length: usize) -> bool {
    (!part.more || length.is_multiple_of(8)) && part.offset + length <= 65515
}

/// A header of IPv4, without its checksum where it is quoted with another length.
fn header4(class: u8, length: usize, middle: [u8; 4], ttl: u8, protocol: u8) -> Vec<u8> {
    let [high, low] = octets(length);
    [&[0x45, class, high, low], &middle[..], &[ttl, protocol, 0, 0]].concat()
}

fn header6(class: u8, length: usize, next: u8, hop_limit: u8) -> Vec<u8> {
    let [high, low] = octets(length);
    vec![0x60 + class / 16, class % 16 * 16, 0, 0, high, low, next, hop_limit]
}

fn fragment_header(part: Part, next: u8) -> Vec<u8> {
    let [high, low] = octets(part.offset + usize::from(part.more));
    [&[next, 0, high, low][..], &part.identification.to_be_bytes()].concat()
}

/// Which addresses a client does not have, as no router passes them on.
fn no_client(address: &[u8]) -> bool {
    let nothing = address[..15].iter().all(|&octet| octet == 0) && address[15] < 2;
    let mapped = address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255];
    nothing || mapped || address[0] == 255 || (address[0] == 0xfe && address[1] / 64 == 2)
}

fn no_host(address: &[u8]) -> bool {
    matches!(address[0], 0 | 127 | 224..=255) || address[..2] == [169, 254]
}

/// Section 5: a packet of the client. What `octets` start with is not longer than IPv6 says.
pub fn to_ipv4(octets: &[u8], set: &Setting) -> Translated {
    let whole = octets.len() >= 40 && octets[0] / 16 == 6;
    let length = if whole { 40 + word(octets, 4) } else { 0 };
    if !whole || octets.len() < length || no_client(&octets[8..24]) || octets[24] == 255 {
        return Err(SILENT);
    }
    let packet = &octets[..length];
    let chain = chain(packet).ok_or(SILENT)?;
    let upper = packet[chain.at..].to_vec();
    let later = chain.fragment.is_some_and(|part| part.offset > 0);
    if chain.fragment.is_some_and(|part| !fits(part, upper.len())) {
        return Err(SILENT);
    }
    let (old, new) = (&packet[8..40], [set.client4, set.service4].concat());
    let class = if set.copy_traffic_class { (word(packet, 0) / 16 % 256) as u8 } else { 0 };
    let hop_limit = packet[7];
    let over = Err(Some((3, 0, 0)));
    let (protocol, data) = match (chain.protocol, upper.len()) {
        (TCP | UDP, _) if later => (chain.protocol, upper),
        (TCP, 20..) => (TCP, transport(upper, TCP, 0, set.client4_port, old, &new)),
        (UDP, 8..) if upper[6..8] != [0, 0] => {
            (UDP, transport(upper, UDP, 0, set.client4_port, old, &new))
        }
        (ICMP6, _) if chain.fragment.is_some_and(|part| part.more || later) => return Err(SILENT),
        (ICMP6, 8..) if upper[0] / 2 == 64 => {
            let kind = if upper[0] == 128 { 8 } else { 0 };
            let old = pseudo(old, upper.len(), ICMP6);
            (ICMP4, echo(upper, kind, set.client4_port, &old, &[]))
        }
        (ICMP6, 8..) if upper[0] < 128 => {
            let quoted = error_to_ipv4(&upper, old, set)?;
            if hop_limit > 1 {
                (ICMP4, quoted.ok_or(SILENT)?)
            } else {
                return over;
            }
        }
        _ => return Err(SILENT),
    };
    if hop_limit <= 1 {
        return over;
    }
    let total = 20 + data.len();
    let may_fragment = chain.fragment.is_some() || total <= 1260;
    if total > set.ipv4_mtu && !may_fragment {
        return Err(Some((2, 0, (set.ipv4_mtu + 20).clamp(1280, 65535) as u32)));
    }
    let part = chain.fragment.unwrap_or(Part {
        offset: 0,
        more: false,
        identification: u32::from(set.identification),
    });
    let pieces = pieces(&data, set.ipv4_mtu - 20, part);
    let packets = pieces.into_iter().map(|(part, data)| {
        let flags = usize::from(part.more) * 0x2000 + usize::from(!may_fragment) * 0x4000;
        let [high, low] = self::octets(flags + part.offset / 8);
        let [.., a, b] = part.identification.to_be_bytes();
        let middle = [a, b, high, low];
        let mut header = header4(class, 20 + data.len(), middle, hop_limit - 1, protocol);
        header.extend_from_slice(&new);
        sum_up(&mut header, 10, &[]);
        [header, data].concat()
    });
    Ok(packets.collect())
}

/// What a link that takes `room` octets of data gets, each with what it says of itself.
fn pieces(data: &[u8], room: usize, part: Part) -> Vec<(Part, Vec<u8>)> {
    if data.len() <= room {
        return vec![(part, data.to_vec())];
    }
    let size = room / 8 * 8;
    let cut = data.chunks(size).enumerate().map(|(n, piece)| {
        let more = part.more || size * n + piece.len() < data.len();
        (Part { offset: part.offset + size * n, more, ..part }, piece.to_vec())
    });
    cut.collect()
}

/// An IPv4 packet cut to its own length, and that of its header, whose checksum is right.
fn whole4(octets: &[u8]) -> Option<(&[u8], usize)> {
    let start = 4 * usize::from(octets.first()? % 16);
    if octets.len() < start || start < 20 || octets[0] / 16 != 4 || !is_right(&octets[..start]) {
        return None;
    }
    let packet = octets.get(..word(octets, 2))?;
    (packet.len() >= start).then_some((packet, start))
}

/// Section 4: a packet for the client.
pub fn to_ipv6(octets: &[u8], set: &Setting) -> Translated {
    let (packet, start) = whole4(octets).ok_or(SILENT)?;
    let (upper, part) = (packet[start..].to_vec(), part4(packet));
    let error = packet[9] == ICMP4 && matches!(upper.first(), Some(3 | 4 | 5 | 11 | 12));
    let link_local = packet[12..14] == [169, 254];
    if (no_host(&packet[12..16]) && (!error || link_local)) || no_host(&packet[16..20]) {
        return Err(SILENT);
    }
    if let Some(refused) = source_route(&packet[20..start]) {
        return Err(refused);
    }
    if part.is_some_and(|part| packet[9] == ICMP4 || !fits(part, upper.len())) {
        return Err(SILENT);
    }
    let class = if set.copy_traffic_class { packet[1] } else { 0 };
    let later = part.is_some_and(|part| part.offset > 0);
    let without = packet[9] == UDP && !later && upper.len() >= 8 && upper[6..8] == [0, 0];
    match (packet[9], upper.len()) {
        (TCP | UDP, _) if later => {}
        (TCP, 20..) => {}
        (UDP, 8..) if !without || part.is_none() => {}
        (ICMP4, 8..) if matches!(upper[0], 0 | 8) => {}
        (ICMP4, 8..) if error => {
            let translated = error_to_ipv6(&upper, &packet[12..20], set)?;
            if packet[8] <= 1 {
                return Err(Some((11, 0, 0)));
            }
            let (source, message) = translated.ok_or(SILENT)?;
            let mut whole = header6(class, message.len(), ICMP6, packet[8] - 1);
            whole.extend([&source[..], &set.client6, &message].concat());
            return Ok(vec![whole]);
        }
        _ => return Err(SILENT),
    }
    if packet[8] <= 1 {
        return Err(Some((11, 0, 0)));
    }
    let dont_fragment = packet[6] & 0x40 > 0;
    let mtu = if dont_fragment { set.ipv6_mtu } else { set.path_mtu };
    let more = if part.is_some() { 8 } else { 0 };
    let too_big = 40 + more + upper.len() > mtu;
    if too_big && dont_fragment {
        return Err(Some((3, 4, (set.ipv6_mtu - 20 - more) as u32)));
    }
    let (old, new) = (&packet[12..20], [set.service6, set.client6].concat());
    let (protocol, data) = match packet[9] {
        protocol if later => (protocol, upper),
        ICMP4 => {
            let kind = if upper[0] == 8 { 128 } else { 129 };
            let new = pseudo(&new, upper.len(), ICMP6);
            (ICMP6, echo(upper, kind, set.client6_port, &[], &new))
        }
        protocol => (protocol, transport(upper, protocol, 2, set.client6_port, old, &new)),
    };
    let data = if without { with_udp_checksum(data, &new, set)? } else { data };
    let whole = (!too_big).then_some(()).and(part.is_none().then_some(()));
    if whole.is_some() {
        let header = header6(class, data.len(), protocol, packet[8] - 1);
        return Ok(vec![[header, new, data].concat()]);
    }
    let identification = word(packet, 4) as u32;
    let part = part.unwrap_or(Part { offset: 0, more: false, identification });
    let packets = pieces(&data, mtu - 48, part).into_iter().map(|(part, data)| {
        let header = header6(class, 8 + data.len(), 44, packet[8] - 1);
        [header, new.clone(), fragment_header(part, protocol), data].concat()
    });
    Ok(packets.collect())
}

/// Section 4.5: over IPv6 there is always one.
fn with_udp_checksum(mut data: Vec<u8>, addresses: &[u8], set: &Setting) -> Result<Vec<u8>, Told> {
    let length = word(&data, 4);
    if !set.make_udp_checksums || length < 8 || length > data.len() {
        return Err(SILENT);
    }
    sum_up(&mut data[..length], 6, &pseudo(addresses, length, UDP));
    if data[6..8] == [0, 0] {
        data[6..8].fill(255);
    }
    Ok(data)
}

/// Section 4.1: what is sent back where a source route is not used up. Options that cannot be told
/// apart may hide one.
fn source_route(mut options: &[u8]) -> Option<Told> {
    while !options.is_empty() && options[0] != 0 {
        if options[0] == 1 {
            options = &options[1..];
            continue;
        }
        let length = usize::from(*options.get(1).unwrap_or(&0));
        if length < 2 || length > options.len() {
            return Some(SILENT);
        }
        if matches!(options[0], 131 | 137) {
            if length < 3 {
                return Some(SILENT);
            }
            if usize::from(options[2]) <= length {
                return Some(Some((3, 5, 0)));
            }
        }
        options = &options[length..];
    }
    None
}

/// The quoted packet and what stands behind it (RFC 4884): `units` of `unit` octets are the packet.
fn quote(message: &[u8], units: u8, unit: usize) -> (&[u8], &[u8]) {
    let length = usize::from(units) * unit;
    let behind = &message[8..];
    if length == 0 || length > behind.len() { (behind, &[]) } else { behind.split_at(length) }
}

/// The message, its word still zeros, of at most `room` octets, and the length of RFC 4884.
fn requote(quoted: Vec<u8>, extension: &[u8], unit: usize, room: usize) -> (Vec<u8>, u8) {
    let fits = room.saturating_sub(8 + extension.len()) / unit * unit;
    let mut message = [vec![0; 8], quoted].concat();
    if extension.is_empty() || fits < 128 {
        message.truncate(room);
        return (message, 0);
    }
    let longest = fits.min(255 * unit);
    let length = (message.len() - 8).max(128).div_ceil(unit) * unit;
    message.resize(8 + length.min(longest), 0);
    let units = (message.len() - 8) / unit;
    (([message, extension.to_vec()]).concat(), units as u8)
}

/// Sections 5.2 and 5.3: the ICMP message; `None` where its type or code has no counterpart.
fn error_to_ipv4(message: &[u8], addresses: &[u8], set: &Setting) -> Result<Option<Vec<u8>>, Told> {
    let front = pseudo(addresses, message.len(), ICMP6);
    let has_length = matches!(message[0], 1 | 3);
    let (quoted, extension) = quote(message, if has_length { message[4] } else { 0 }, 8);
    if !is_right(&[&front, message].concat()) || quoted.len() < 40 || quoted[0] / 16 != 6 {
        return Err(SILENT);
    }
    let chain = chain(quoted).ok_or(SILENT)?;
    let end = 40 + word(quoted, 4);
    let upper = quoted[..quoted.len().min(end)].get(chain.at..).ok_or(SILENT)?.to_vec();
    let length = end - chain.at;
    let protocol = about(&upper, chain.protocol, chain.fragment, ICMP6, [128, 129])?;
    if quoted[8..24] != addresses[16..32] || 20 + length > 65535 {
        return Err(SILENT);
    }
    let (old, new) = (&quoted[8..40], [set.service4, set.client4].concat());
    let upper = if protocol == ICMP6 {
        let kind = if upper[0] == 128 { 8 } else { 0 };
        echo(upper, kind, set.client4_port, &pseudo(old, length, ICMP6), &[])
    } else {
        transport(upper, protocol, 2, set.client4_port, old, &new)
    };
    let class = if set.copy_traffic_class { (word(quoted, 0) / 16 % 256) as u8 } else { 0 };
    let middle = match chain.fragment {
        Some(part) => {
            let [.., a, b] = part.identification.to_be_bytes();
            [a, b, u8::from(part.more) * 0x20, 0]
        }
        None => [0, 0, if 20 + length > 1260 { 0x40 } else { 0 }, 0],
    };
    let protocol = if protocol == ICMP6 { ICMP4 } else { protocol };
    let mut packet = header4(class, 20 + length, middle, quoted[7], protocol);
    packet.extend_from_slice(&new);
    sum_up(&mut packet, 10, &[]);
    packet.extend_from_slice(&upper);
    let named = word(message, 4) * 65536 + word(message, 6);
    let less = if chain.fragment.is_some() { 28 } else { 20 };
    let mtu = named.min(set.ipv6_mtu).saturating_sub(less).min(set.ipv4_mtu).max(68);
    let pointers = [(0, 0), (1, 1), (4, 2), (5, 2), (6, 9), (7, 8)];
    let pointer = match named {
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => pointers.iter().find(|(six, _)| *six == named).map(|(_, four)| *four),
    };
    let (kind, code, rest, extends) = match (message[0], message[1]) {
        (1, 0 | 2 | 3) => (3, 1, [0; 4], true),
        (1, 1) => (3, 10, [0; 4], true),
        (1, 4) => (3, 3, [0; 4], true),
        (2, _) => (3, 4, [0, 0, octets(mtu)[0], octets(mtu)[1]], false),
        (3, code) => (11, code, [0; 4], true),
        (4, 0) if pointer.is_some() => (12, 0, [pointer.unwrap_or(0), 0, 0, 0], false),
        (4, 1) => (3, 2, [0; 4], true),
        _ => return Ok(None),
    };
    let extension = if extends { extension } else { &[] };
    let (mut told, units) = requote(packet, extension, 4, set.ipv4_mtu - 20);
    told[..2].copy_from_slice(&[kind, code]);
    told[4..8].copy_from_slice(&rest);
    told[5] = units;
    sum_up(&mut told, 2, &[]);
    Ok(Some(told))
}

/// Source and message of an ICMPv6 error.
type Told6 = ([u8; 16], Vec<u8>);

/// Sections 4.2 and 4.3: source and message; `None` where type or code have no counterpart.
fn error_to_ipv6(message: &[u8], addresses: &[u8], set: &Setting) -> Result<Option<Told6>, Told> {
    let has_length = matches!(message[0], 3 | 11 | 12);
    let (quoted, extension) = quote(message, if has_length { message[5] } else { 0 }, 4);
    let start = 4 * usize::from(quoted.first().map_or(0, |first| first % 16));
    if !is_right(message) || start < 20 || quoted.len() < start || quoted[0] / 16 != 4 {
        return Err(SILENT);
    }
    let total = word(quoted, 2);
    let upper = quoted[..quoted.len().min(total)].get(start..).ok_or(SILENT)?.to_vec();
    let part = part4(quoted);
    let protocol = about(&upper, quoted[9], part, ICMP4, [8, 0])?;
    if quoted[12..16] != addresses[4..8] || no_host(&quoted[16..20]) {
        return Err(SILENT);
    }
    let (old, new) = (&quoted[12..20], [set.client6, set.service6].concat());
    let length = total - start;
    let (protocol, upper) = if protocol == ICMP4 {
        let kind = if upper[0] == 8 { 128 } else { 129 };
        (ICMP6, echo(upper, kind, set.client6_port, &[], &pseudo(&new, length, ICMP6)))
    } else {
        (protocol, transport(upper, protocol, 0, set.client6_port, old, &new))
    };
    let class = if set.copy_traffic_class { quoted[1] } else { 0 };
    let packet = match part {
        None => [header6(class, length, protocol, quoted[8]), new, upper].concat(),
        Some(part) => {
            let header = header6(class, 8 + length, 44, quoted[8]);
            [header, new, fragment_header(part, protocol), upper].concat()
        }
    };
    let named = match word(message, 6) {
        0 => plateau(total),
        named => named,
    };
    let mtu = (named + 20).min(set.ipv6_mtu).min(set.ipv4_mtu + 20).max(1280);
    let pointer = pointer6(message[4]);
    let (kind, code, rest, extends) = match (message[0], message[1]) {
        (3, 0 | 1 | 5 | 6 | 7 | 8 | 11 | 12) => (1, 0, 0, true),
        (3, 2) => (4, 1, 6, false),
        (3, 3) => (1, 4, 0, true),
        (3, 4) => (2, 0, mtu as u32, false),
        (3, 9 | 10 | 13 | 15) => (1, 1, 0, true),
        (11, code) => (3, code, 0, true),
        (12, 0 | 2) if pointer.is_some() => (4, 0, pointer.unwrap_or(0), false),
        _ => return Ok(None),
    };
    let extension = if extends { extension } else { &[] };
    let (mut told, units) = requote(packet, extension, 8, 1240);
    told[..2].copy_from_slice(&[kind, code]);
    told[4..8].copy_from_slice(&rest.to_be_bytes());
    if extends {
        told[4] = units;
    }
    // What is not from the service is from a router, and known by the service's prefix.
    let mut source = set.service6;
    if addresses[..4] != quoted[16..20] {
        source[12..].copy_from_slice(&addresses[..4]);
    }
    let front = pseudo(&[source, set.client6].concat(), told.len(), ICMP6);
    sum_up(&mut told, 2, &front);
    Ok(Some((source, told)))
}

/// RFC 1191 section 7.1: the likely MTU of who refused a packet of `total` octets.
fn plateau(total: usize) -> usize {
    let plateaus = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
    *plateaus.iter().find(|plateau| **plateau < total).unwrap_or(&68)
}

/// Figure 3.
fn pointer6(pointer: u8) -> Option<u32> {
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

/// The protocol of a quoted packet that can be one of ours: TCP or UDP with its ports, or an echo
/// that is whole.
fn about(
    upper: &[u8],
    protocol: u8,
    part: Option<Part>,
    icmp: u8,
    echoes: [u8; 2],
) -> Result<u8, Told> {
    let first = part.is_none_or(|part| part.offset == 0 && !(part.more && protocol == icmp));
    let known = match protocol {
        TCP | UDP => upper.len() >= 4,
        other => other == icmp && upper.len() >= 8 && echoes.contains(&upper[0]),
    };
    if first && known { Ok(protocol) } else { Err(SILENT) }
}
