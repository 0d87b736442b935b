//! Lines that are JSON objects: an address and a port side by side, in the object itself or in one
//! in it that tells of the request or its client. Names of headers are from outside: those objects
//! are not looked into.

use std::fmt;
use std::ops::Range;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
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
    members.read(&line[start..])?;
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
        let is_bare = endpoint.port.is_some() && endpoint.address.start == 0;
        let part = if is_bare { ClientPart::InBrackets } else { ClientPart::Address };
        edit(at + endpoint.address.start..at + endpoint.address.end, part);
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
        Self::of_plain(&plain[..length])
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

impl<'a> ClientMembers<'a> {
    /// None where it is no object.
    fn read(&mut self, octets: &'a [u8]) -> Option<()> {
        let mut read = |with_requests| {
            *self = Self::default();
            let mut deserializer = serde_json::Deserializer::from_slice(octets);
            let object = Object { members: self, is_outer: true, with_requests };
            object.deserialize(&mut deserializer).and_then(|()| deserializer.end()).ok()
        };
        // A request that is a text may have any octets in it, and is passed over then.
        read(true).or_else(|| read(false))
    }

    fn take(&mut self, name: MemberName, value: &'a str) {
        let is_object = value.starts_with('{');
        let inner = value.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let text = inner.unwrap_or(value);
        match name {
            MemberName::Address(stem) => self.addresses.push(Member { stem, text }),
            MemberName::Port(stem) => self.ports.push(Member { stem, text }),
            MemberName::Time => self.times.push(text),
            MemberName::Peer(stem) if is_object => self.peer(stem, value),
            MemberName::Peer(stem) => self.addresses.push(Member { stem, text }),
            MemberName::Bare { .. } | MemberName::Request | MemberName::Other => {}
        }
    }

    /// `{"ip": "192.0.2.7", "port": 3719}`
    fn peer(&mut self, stem: Stem, object: &'a str) {
        let Ok(members) = serde_json::from_str::<PeerMembers<'_>>(object) else { return };
        for (name, value) in members.0 {
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

/// An object, and one in it that tells of a request.
struct Object<'m, 'a> {
    members: &'m mut ClientMembers<'a>,
    is_outer: bool,
    with_requests: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.is_outer {
            true => deserializer.deserialize_map(self),
            // It may be a text as well.
            false => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Object<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key()? {
            match name {
                MemberName::Request if self.is_outer && self.with_requests => {
                    let members = &mut *self.members;
                    map.next_value_seed(Object { members, is_outer: false, ..self })?;
                }
                MemberName::Other | MemberName::Request | MemberName::Bare { .. } => {
                    let IgnoredAny = map.next_value()?;
                }
                // What is in the request may be from outside.
                MemberName::Time if !self.is_outer => {
                    let IgnoredAny = map.next_value()?;
                }
                name => self.members.take(name, map.next_value::<&RawValue>()?.get()),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        IgnoredAny.visit_seq(seq).map(drop)
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
}

/// The members of an object that tells of a client.
struct PeerMembers<'a>(Vec<(MemberName, &'a RawValue)>);

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

impl<'de> Deserialize<'de> for PeerMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeerVisitor;
        impl<'de> Visitor<'de> for PeerVisitor {
            type Value = PeerMembers<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<PeerMembers<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(PeerMembers(members))
            }
        }
        deserializer.deserialize_map(PeerVisitor)
    }
}
