//! Lines that are JSON objects: an address and a port side by side, in the object itself or in one
//! in it that tells of the request or its client. Names of headers are from outside: those objects
//! are not looked into.
//!
//! Most of an object is passed over, by its quotation marks and brackets alone.

use std::ops::Range;

use memchr::memchr2;

use super::text::{EndpointText, endpoint_at, port};
use super::{AccessLine, ClientPart, LineEdit, LineWriterKind};
use crate::programs::annotate::times::TimeReader;
use crate::programs::who::when::TimeSpan;

/// Members of a kind that are looked at: a line that has more stays as it is.
const MEMBERS_MAX: usize = 8;
/// Objects and arrays that are in each other, at most.
const DEPTH_MAX: u32 = 127;
/// No name of ours is longer.
const NAME_MAX: usize = 16;

/// The object at `start`.
pub fn find(
    line: &[u8],
    start: usize,
    times: &mut TimeReader,
    edits: &mut Vec<LineEdit>,
) -> Option<AccessLine> {
    let mut members = ClientMembers::default();
    members.read(&line[start..])?;
    let place = |text: &[u8]| {
        // The text is a part of the line.
        let at = text.as_ptr().addr() - line.as_ptr().addr();
        at..at + text.len()
    };
    let mut clients = members.addresses.iter().map(|member| {
        let beside = members.ports.iter().find(|port| port.stem == member.stem);
        let beside = beside.and_then(|member| port(member.text));
        let number = member.endpoint.port.as_ref().map(|&(port, _)| port).or(beside);
        (member.endpoint.ip, number, member.stem)
    });
    let first = clients.next()?;
    // One without a port may be what a proxy said.
    let (address, number, stem) = match first.1 {
        Some(_) => first,
        None => clients.find(|(_, port, _)| port.is_some()).unwrap_or(first),
    };
    let mut edit = |range: Range<usize>, part| edits.push(LineEdit { range, part });
    for AddressMember { endpoint, text, .. } in members.addresses.iter() {
        let same = endpoint.port.as_ref().is_none_or(|&(port, _)| Some(port) == number);
        if endpoint.ip != address || !same {
            continue;
        }
        let at = place(text).start;
        let is_bare = endpoint.port.is_some() && endpoint.address.start == 0;
        let part = if is_bare { ClientPart::InBrackets } else { ClientPart::Address };
        edit(at + endpoint.address.start..at + endpoint.address.end, part);
        if let Some((_, range)) = &endpoint.port {
            edit(at + range.start..at + range.end, ClientPart::Port);
        }
    }
    for member in members.ports.iter().filter(|member| member.stem == stem) {
        if port(member.text) == number {
            edit(place(member.text), ClientPart::Port);
        }
    }
    edits.sort_by_key(|edit| edit.range.start);
    let spans = members.times.iter().filter_map(|text| times.read(text));
    let length = |span: &TimeSpan| span.until.as_micros() - span.from.as_micros();
    let time = spans.min_by_key(length);
    Some(AccessLine { address, port: number, time, writer: LineWriterKind::Json })
}

/// What may be about the client.
#[derive(Default)]
struct ClientMembers<'a> {
    addresses: Few<AddressMember<'a>>,
    ports: Few<PortMember<'a>>,
    times: Few<&'a [u8]>,
}

struct AddressMember<'a> {
    stem: Stem,
    /// Without quotation marks.
    text: &'a [u8],
    endpoint: EndpointText,
}

struct PortMember<'a> {
    stem: Stem,
    /// Without quotation marks.
    text: &'a [u8],
}

/// A few of a kind.
struct Few<T>([Option<T>; MEMBERS_MAX]);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self([const { None }; MEMBERS_MAX])
    }
}

impl<T> Few<T> {
    /// None where there is no room.
    fn push(&mut self, one: T) -> Option<()> {
        *self.0.iter_mut().find(|place| place.is_none())? = Some(one);
        Some(())
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map_while(Option::as_ref)
    }
}

/// What a name begins with: an address and a port that begin with the same are of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stem {
    Remote,
    Client,
    Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberName {
    Address(Stem),
    Port(Stem),
    Time,
    /// An object that tells of a request, and may have any of these.
    Request,
    /// An object or address that tells of a client.
    Peer(Stem),
    /// In such an object.
    Bare {
        is_port: bool,
    },
    Other,
}

impl MemberName {
    fn of(name: &[u8]) -> Self {
        // Most names are none of ours.
        if let [first, second, ..] = name
            && !Self::may_begin(*first, *second)
        {
            return Self::Other;
        }
        let mut plain = [0; NAME_MAX];
        let mut length = 0;
        for octet in name.iter().filter(|octet| !is_between_words(**octet)) {
            let Some(place) = plain.get_mut(length) else { return Self::Other };
            *place = octet.to_ascii_lowercase();
            length += 1;
        }
        Self::of_plain(&plain[..length])
    }

    /// Whether a name of ours begins with these.
    fn may_begin(first: u8, second: u8) -> bool {
        is_between_words(first)
            || is_between_words(second)
            || matches!(
                &[first | 0x20, second | 0x20],
                b"re"
                    | b"pe"
                    | b"cl"
                    | b"sr"
                    | b"so"
                    | b"ip"
                    | b"ad"
                    | b"po"
                    | b"ht"
                    | b"ne"
                    | b"co"
                    | b"ts"
                    | b"ti"
                    | b"ms"
                    | b"da"
                    | b"st"
            )
    }

    /// In lower case, and without what stands between words.
    fn of_plain(name: &[u8]) -> Self {
        match name {
            b"remoteip" | b"remoteaddr" | b"remoteaddress" | b"remotehost" | b"peerip"
            | b"peeraddr" | b"peeraddress" => Self::Address(Stem::Remote),
            b"clientip" | b"clientaddr" | b"clientaddress" | b"clienthost" => {
                Self::Address(Stem::Client)
            }
            b"srcip" | b"srcaddr" | b"sourceip" | b"sourceaddr" | b"sourceaddress" => {
                Self::Address(Stem::Source)
            }
            b"remoteport" | b"peerport" => Self::Port(Stem::Remote),
            b"clientport" => Self::Port(Stem::Client),
            b"srcport" | b"sourceport" => Self::Port(Stem::Source),
            b"remote" | b"peer" => Self::Peer(Stem::Remote),
            b"client" => Self::Peer(Stem::Client),
            b"source" | b"src" => Self::Peer(Stem::Source),
            b"ip" | b"address" => Self::Bare { is_port: false },
            b"port" => Self::Bare { is_port: true },
            b"request" | b"req" | b"http" | b"network" | b"connection" => Self::Request,
            b"ts" | b"time" | b"timestamp" | b"timelocal" | b"timeiso8601" | b"msec" | b"date"
            | b"datetime" | b"startutc" | b"startlocal" => Self::Time,
            _ => Self::Other,
        }
    }
}

fn is_between_words(octet: u8) -> bool {
    matches!(octet, b'_' | b'-' | b'.' | b'@')
}

impl<'a> ClientMembers<'a> {
    /// None where it is no object.
    fn read(&mut self, octets: &'a [u8]) -> Option<()> {
        let mut scanner = Scanner { octets, at: 0 };
        self.object(&mut scanner, ObjectKind::Outer)?;
        scanner.peek().is_none().then_some(())
    }

    fn object(&mut self, scanner: &mut Scanner<'a>, kind: ObjectKind) -> Option<()> {
        scanner.pass(b'{')?;
        if scanner.peek()? == b'}' {
            return scanner.pass(b'}');
        }
        loop {
            let name = MemberName::of(scanner.string()?);
            scanner.pass(b':')?;
            let is_object = scanner.peek()? == b'{';
            match (kind, name) {
                (ObjectKind::Outer, MemberName::Request) if is_object => {
                    self.object(scanner, ObjectKind::Request)?;
                }
                (ObjectKind::Outer | ObjectKind::Request, MemberName::Peer(stem)) if is_object => {
                    self.object(scanner, ObjectKind::Peer(stem))?;
                }
                _ => self.take(kind, name, scanner.value()?)?,
            }
            if scanner.peek()? == b'}' {
                return scanner.pass(b'}');
            }
            scanner.pass(b',')?;
        }
    }

    /// A member that is no object to be looked into. None where there are too many.
    fn take(&mut self, kind: ObjectKind, name: MemberName, value: &'a [u8]) -> Option<()> {
        let inner = value.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
        let text = inner.unwrap_or(value);
        let (is_port, stem) = match (kind, name) {
            (ObjectKind::Peer(stem), MemberName::Bare { is_port }) => (is_port, stem),
            (ObjectKind::Peer(_), _) => return Some(()),
            // What is in the request may be from outside.
            (ObjectKind::Outer, MemberName::Time) => return self.times.push(text),
            (_, MemberName::Address(stem) | MemberName::Peer(stem)) => (false, stem),
            (_, MemberName::Port(stem)) => (true, stem),
            _ => return Some(()),
        };
        if is_port {
            return self.ports.push(PortMember { stem, text });
        }
        match endpoint_at(text, 0).filter(|endpoint| endpoint.end == text.len()) {
            Some(endpoint) => self.addresses.push(AddressMember { stem, text, endpoint }),
            None => Some(()),
        }
    }
}

/// An object that is looked into.
#[derive(Debug, Clone, Copy)]
enum ObjectKind {
    Outer,
    /// It tells of a request.
    Request,
    /// It tells of a client: `{"ip": "192.0.2.7", "port": 3719}`.
    Peer(Stem),
}

/// Goes through JSON.
struct Scanner<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    /// The next octet that is no space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.octets.get(self.at)? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                octet => return Some(octet),
            }
        }
    }

    /// That octet, behind spaces.
    fn pass(&mut self, octet: u8) -> Option<()> {
        (self.peek()? == octet).then(|| self.at += 1)
    }

    /// What is between quotation marks, as it stands there.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.pass(b'"')?;
        let start = self.at;
        loop {
            self.at += memchr2(b'"', b'\\', self.octets.get(self.at..)?)? + 1;
            match self.octets[self.at - 1] {
                b'"' => return Some(&self.octets[start..self.at - 1]),
                // What is behind it is escaped.
                _ => self.at += 1,
            }
        }
    }

    /// A value of any kind, as it stands there.
    fn value(&mut self) -> Option<&'a [u8]> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string().map(drop)?,
            b'{' | b'[' => self.nested()?,
            _ => {
                let is_part = |octet: &u8| octet.is_ascii_alphanumeric() || b"+-.".contains(octet);
                let rest = &self.octets[start..];
                self.at += rest.iter().position(|octet| !is_part(octet)).unwrap_or(rest.len());
            }
        }
        (self.at > start).then(|| &self.octets[start..self.at])
    }

    /// An object or an array, with all that is in it.
    fn nested(&mut self) -> Option<()> {
        // A bit for each that is open: whether it is an object.
        let (mut open, mut depth) = (0_u128, 0);
        loop {
            match *self.octets.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                octet @ (b'{' | b'[') => {
                    depth = Some(depth + 1).filter(|&depth| depth <= DEPTH_MAX)?;
                    open = open << 1 | u128::from(octet == b'{');
                }
                octet @ (b'}' | b']') => {
                    (open & 1 == u128::from(octet == b'}')).then_some(())?;
                    (open, depth) = (open >> 1, depth - 1);
                }
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const NAMES: &str =
        "remote_ip|Remote-Port|client|peer|ip|port|request|http|ts|@timestamp|status|x\"\\{";

    fn objects(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        let members = prop::collection::btree_map(NAMES, values, 0..10);
        members.prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    /// Any value, with names of ours and others.
    fn values() -> impl Strategy<Value = Value> {
        let text = r#"[a-z"\\{}\[\]:,\t ]{0,12}|192\.0\.2\.7(:3719)?|1552903588"#;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u16>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 40, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                objects(inner),
            ]
        })
    }

    type Found = [Vec<(Option<Stem>, String)>; 3];

    /// What is to be found, by a reader of all of it.
    fn expect(object: &Value, kind: ObjectKind, found: &mut Found) {
        for (name, value) in object.as_object().unwrap() {
            let text = value.as_str().map_or_else(
                || value.to_string(),
                |_| {
                    let text = value.to_string();
                    text[1..text.len() - 1].to_owned()
                },
            );
            let is_object = value.is_object();
            let (number, stem) = match (kind, MemberName::of(name.as_bytes())) {
                (ObjectKind::Peer(stem), MemberName::Bare { is_port }) => {
                    (usize::from(is_port), Some(stem))
                }
                (ObjectKind::Peer(_), _) => continue,
                (ObjectKind::Outer, MemberName::Time) => (2, None),
                (ObjectKind::Outer, MemberName::Request) if is_object => {
                    expect(value, ObjectKind::Request, found);
                    continue;
                }
                (_, MemberName::Peer(stem)) if is_object => {
                    expect(value, ObjectKind::Peer(stem), found);
                    continue;
                }
                (_, MemberName::Address(stem) | MemberName::Peer(stem)) => (0, Some(stem)),
                (_, MemberName::Port(stem)) => (1, Some(stem)),
                _ => continue,
            };
            let is_endpoint =
                endpoint_at(text.as_bytes(), 0).is_some_and(|at| at.end == text.len());
            if number != 0 || is_endpoint {
                found[number].push((stem, text));
            }
        }
    }

    proptest! {
        #[test]
        fn what_a_reader_of_all_finds(value in objects(values()), pretty: bool) {
            let mut expected = Found::default();
            expect(&value, ObjectKind::Outer, &mut expected);
            let line = if pretty { format!("{value:#}") } else { value.to_string() };
            let mut members = ClientMembers::default();
            let read = members.read(line.as_bytes());
            if expected.iter().any(|found| found.len() > MEMBERS_MAX) {
                prop_assert!(read.is_none());
            } else if !pretty {
                let text = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
                let found: Found = [
                    members.addresses.iter().map(|one| (Some(one.stem), text(one.text))).collect(),
                    members.ports.iter().map(|one| (Some(one.stem), text(one.text))).collect(),
                    members.times.iter().map(|one| (None, text(one))).collect(),
                ];
                prop_assert_eq!(&found, &expected, "{}", line);
            }
            prop_assert_eq!(read.is_some(), expected.iter().all(|found| found.len() <= MEMBERS_MAX));
            // What is cut off is none.
            let end = line.len() / 2;
            if line.is_char_boundary(end) {
                prop_assert!(ClientMembers::default().read(&line.as_bytes()[..end]).is_none());
            }
        }
    }

    #[test]
    fn what_is_no_object() {
        for line in [
            "",
            "{",
            "{}}",
            "{} x",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":[}]}",
            "{a:1}",
            "{\"a\":\"\\\"}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1]",
            "{,}",
        ] {
            assert!(ClientMembers::default().read(line.as_bytes()).is_none(), "{line}");
        }
        let deep = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(ClientMembers::default().read(deep(127).as_bytes()).is_some());
        assert!(ClientMembers::default().read(deep(128).as_bytes()).is_none());
    }
}
