//! Parses a server's payload (PROTOCOL.md section 4). Nothing in it is verified here.

use super::Ignored;
use crate::handoff::entry::Entry;
use crate::handoff::message::{self, Embedded, HANDOFF_FORMAT, Message, PAYLOAD_MAX, message_type};

/// The messages of a payload that matter to a NAT64. Of several of one type, the first counts.
#[derive(Debug, Default)]
pub(super) struct ServerReply<'a> {
    pub token: Option<&'a [u8]>,
    pub authenticator: Option<&'a [u8]>,
    pub entry: Option<Entry>,
    pub packet: Option<Packet<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Packet<'a> {
    Ipv4(&'a [u8]),
    Ipv6(&'a [u8]),
}

impl<'a> ServerReply<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Ignored> {
        if payload.is_empty() || payload.len() > PAYLOAD_MAX {
            return Err(Ignored::Malformed);
        }
        let mut reply = Self::default();
        for message in message::messages(payload) {
            match message.map_err(|_| Ignored::Malformed)? {
                Message::Packet(Embedded::Ipv4(span)) => {
                    reply.packet = Some(Packet::Ipv4(span.of(payload)));
                }
                Message::Packet(Embedded::Ipv6(span)) => {
                    reply.packet = Some(Packet::Ipv6(span.of(payload)));
                }
                Message::Handoff { kind, data } => reply.take(kind, data.of(payload))?,
            }
        }
        Ok(reply)
    }

    fn take(&mut self, kind: u8, data: &'a [u8]) -> Result<(), Ignored> {
        match kind {
            message_type::TOKEN => self.token = self.token.or(Some(data)),
            message_type::AUTHENTICATOR => self.authenticator = self.authenticator.or(Some(data)),
            message_type::ENTRY => {
                let entry = Entry::parse(data).ok_or(Ignored::Malformed)?;
                self.entry = self.entry.or(Some(entry));
            }
            _ => {}
        }
        Ok(())
    }
}

/// The token in the start of a request that an ICMP error quotes, which may be cut short anywhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuotedToken<'a> {
    /// What is quoted of it.
    pub start: &'a [u8],
    /// How long it is.
    pub length: usize,
}

pub(super) fn quoted_token(quoted: &[u8]) -> Option<QuotedToken<'_>> {
    let mut rest = quoted;
    while let [head, units, data @ ..] = rest
        && head >> 4 == HANDOFF_FORMAT
    {
        let length = 2 * usize::from(*units);
        if head & 0x0f == message_type::TOKEN {
            return Some(QuotedToken { start: &data[..data.len().min(length)], length });
        }
        rest = data.get(length..)?;
    }
    None
}
