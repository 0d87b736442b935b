//! Lines that are JSON objects: an address and a port side by side, in the object itself or in one
//! in it that tells of the request or its client. Names of headers are from outside: those objects
//! are not looked into.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{EndpointText, endpoint_at, port};
use super::{AccessLine, ClientPart, LineEdit, LineWriterKind};
use crate::programs::annotate::times::TimeReader;
use crate::programs::who::when::TimeSpan;

/// The object at `start`.
pub fn find(
    line: &[u8],
    start: usize,
    times: &mut TimeReader,
    edits: &mut Vec<LineEdit>,
) -> Option<AccessLine> {
    let mut members = ClientMembers::default();
    members.read(&line[start..], true)?;
    let place = |text: &str| {
        // The text is a part of the line.
        let at = text.as_ptr().addr() - line.as_ptr().addr();
        at..at + text.len()
    };
    let mut clients = members.addresses.iter().filter_map(|member| {
        let endpoint = whole_endpoint(member.text)?;
        let beside = members.ports.iter().find(|port| port.stem == member.stem);
        let beside = beside.and_then(|member| port(member.text.as_bytes()));
        let number = endpoint.port.as_ref().map(|&(port, _)| port).or(beside);
        Some((endpoint.ip, number, member.stem))
    });
    let first = clients.next()?;
    // One without a port may be what a proxy said.
    let (address, number, stem) = match first.1 {
        Some(_) => first,
        None => clients.find(|(_, port, _)| port.is_some()).unwrap_or(first),
    };
    let mut edit = |range: Range<usize>, part| edits.push(LineEdit { range, part });
    for member in &members.addresses {
        let Some(endpoint) = whole_endpoint(member.text) else { continue };
        let same = endpoint.port.as_ref().is_none_or(|&(port, _)| Some(port) == number);
        if endpoint.ip != address || !same {
            continue;
        }
        let at = place(member.text).start;
        edit(at + endpoint.address.start..at + endpoint.address.end, ClientPart::Address);
        if let Some((_, range)) = endpoint.port {
            edit(at + range.start..at + range.end, ClientPart::Port);
        }
    }
    for member in members.ports.iter().filter(|member| member.stem == stem) {
        if port(member.text.as_bytes()) == number {
            edit(place(member.text), ClientPart::Port);
        }
    }
    edits.sort_by_key(|edit| edit.range.start);
    let spans = members.times.iter().filter_map(|text| times.read(text.as_bytes()));
    let length = |span: &TimeSpan| span.until.as_micros() - span.from.as_micros();
    let time = spans.min_by_key(length);
    Some(AccessLine { address, port: number, time, writer: LineWriterKind::Json })
}

fn whole_endpoint(text: &str) -> Option<EndpointText> {
    endpoint_at(text.as_bytes(), 0).filter(|endpoint| endpoint.end == text.len())
}

/// What may be about the client.
#[derive(Default)]
struct ClientMembers<'a> {
    addresses: Vec<Member<'a>>,
    ports: Vec<Member<'a>>,
    times: Vec<&'a str>,
}

struct Member<'a> {
    stem: Stem,
    /// Without quotation marks.
    text: &'a str,
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

/// The names, in lower case and without what stands between their words.
const NAMES: [(&[u8], MemberName); 44] = {
    use MemberName::{Address, Bare, Peer, Port, Request, Time};
    use Stem::{Client, Remote, Source};
    [
        (b"remoteip", Address(Remote)),
        (b"remoteaddr", Address(Remote)),
        (b"remoteaddress", Address(Remote)),
        (b"remotehost", Address(Remote)),
        (b"remoteport", Port(Remote)),
        (b"remote", Peer(Remote)),
        (b"peer", Peer(Remote)),
        (b"peerip", Address(Remote)),
        (b"peeraddr", Address(Remote)),
        (b"peeraddress", Address(Remote)),
        (b"peerport", Port(Remote)),
        (b"clientip", Address(Client)),
        (b"clientaddr", Address(Client)),
        (b"clientaddress", Address(Client)),
        (b"clienthost", Address(Client)),
        (b"clientport", Port(Client)),
        (b"client", Peer(Client)),
        (b"srcip", Address(Source)),
        (b"srcaddr", Address(Source)),
        (b"srcport", Port(Source)),
        (b"sourceip", Address(Source)),
        (b"sourceaddr", Address(Source)),
        (b"sourceaddress", Address(Source)),
        (b"sourceport", Port(Source)),
        (b"source", Peer(Source)),
        (b"src", Peer(Source)),
        (b"ip", Bare { is_port: false }),
        (b"address", Bare { is_port: false }),
        (b"port", Bare { is_port: true }),
        (b"request", Request),
        (b"req", Request),
        (b"http", Request),
        (b"network", Request),
        (b"connection", Request),
        (b"ts", Time),
        (b"time", Time),
        (b"timestamp", Time),
        (b"timelocal", Time),
        (b"timeiso8601", Time),
        (b"msec", Time),
        (b"date", Time),
        (b"datetime", Time),
        (b"startutc", Time),
        (b"startlocal", Time),
    ]
};

/// No name of ours is longer.
const NAME_MAX: usize = 16;

impl MemberName {
    fn of(name: &str) -> Self {
        let mut plain = [0; NAME_MAX];
        let mut length = 0;
        for octet in name.bytes().filter(|octet| !b"_-.@".contains(octet)) {
            let Some(place) = plain.get_mut(length) else { return Self::Other };
            *place = octet.to_ascii_lowercase();
            length += 1;
        }
        let known = NAMES.iter().find(|(known, _)| *known == &plain[..length]);
        known.map_or(Self::Other, |&(_, name)| name)
    }
}

impl<'a> ClientMembers<'a> {
    /// None where it is no object.
    fn read(&mut self, octets: &'a [u8], is_outer: bool) -> Option<()> {
        let object: Object<'_> = serde_json::from_slice(octets).ok()?;
        for (name, value) in object.0 {
            let text = value.get();
            self.take(name, text, is_outer);
        }
        Some(())
    }

    fn take(&mut self, name: MemberName, value: &'a str, is_outer: bool) {
        let is_object = value.starts_with('{');
        let inner = value.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let text = inner.unwrap_or(value);
        match name {
            MemberName::Address(stem) => self.addresses.push(Member { stem, text }),
            MemberName::Port(stem) => self.ports.push(Member { stem, text }),
            MemberName::Time if is_outer => self.times.push(text),
            MemberName::Request if is_outer && is_object => {
                let _ = self.read(value.as_bytes(), false);
            }
            MemberName::Peer(stem) if is_object => self.peer(stem, value),
            MemberName::Peer(stem) => self.addresses.push(Member { stem, text }),
            _ => {}
        }
    }

    /// `{"ip": "192.0.2.7", "port": 3719}`
    fn peer(&mut self, stem: Stem, object: &'a str) {
        let Ok(object) = serde_json::from_str::<Object<'_>>(object) else { return };
        for (name, value) in object.0 {
            let value = value.get();
            let inner = value.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
            let member = Member { stem, text: inner.unwrap_or(value) };
            match name {
                MemberName::Bare { is_port: false } => self.addresses.push(member),
                MemberName::Bare { is_port: true } => self.ports.push(member),
                _ => {}
            }
        }
    }
}

/// The members that may be about the client, as they are written.
struct Object<'a>(Vec<(MemberName, &'a RawValue)>);

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = MemberName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E>(self, name: &str) -> Result<MemberName, E> {
                Ok(MemberName::of(name))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(name) = map.next_key()? {
                    match name {
                        MemberName::Other => drop(map.next_value::<IgnoredAny>()?),
                        name => members.push((name, map.next_value()?)),
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}
