//! One change as octets.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

use super::fields::Fields;
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use crate::handoff::opaque::{Authenticator, Token};
use crate::ip::address::Prefix96;

/// The most octets of a change with its table.
pub(super) const CHANGE_MAX: usize = 9 + 1 + 16 + 1 + 2 * u8::MAX as usize;

pub(super) mod kind {
    pub const TABLE: u8 = 1;
    pub const INITIALIZED: u8 = 2;
    pub const CREATED: u8 = 3;
    pub const DELETED: u8 = 4;
    pub const CONFLICT: u8 = 5;
    pub const IDENTITY_KNOWN: u8 = 6;
    pub const AUTHENTICATOR_LEARNED: u8 = 7;
    pub const IDENTITY_FORGOTTEN: u8 = 8;
    pub const USED: u8 = 9;
    pub const END: u8 = 10;
    pub const FORGOTTEN: u8 = 11;
    pub const NAMED: u8 = 12;
    pub const UNNAMED: u8 = 13;
}

/// Appends one change, without its table.
pub fn encode_change(out: &mut Vec<u8>, change: &Change) {
    let mut entry = |kind, port: MappedPort, client: &Client| {
        let mut octets = [0; 33];
        octets[0] = kind;
        octets[1..3].copy_from_slice(&port.0.to_be_bytes());
        octets[3..15].copy_from_slice(&client.prefix.0);
        octets[15..31].copy_from_slice(&client.address.octets());
        octets[31..].copy_from_slice(&client.port.to_be_bytes());
        out.extend_from_slice(&octets);
    };
    match change {
        Change::Initialized => out.push(kind::INITIALIZED),
        Change::Forgotten => out.push(kind::FORGOTTEN),
        Change::Created { port, client } => entry(kind::CREATED, *port, client),
        Change::Deleted { port, client } => entry(kind::DELETED, *port, client),
        Change::Conflict { port, client } => entry(kind::CONFLICT, *port, client),
        Change::IdentityKnown { port, token } => {
            encode_identity(out, kind::IDENTITY_KNOWN, *port, token);
        }
        Change::IdentityForgotten { port, token } => {
            encode_identity(out, kind::IDENTITY_FORGOTTEN, *port, token);
        }
        Change::AuthenticatorLearned { address, authenticator } => {
            out.push(kind::AUTHENTICATOR_LEARNED);
            out.extend_from_slice(&address.octets());
            encode_opaque(out, authenticator.octets());
        }
        Change::Used { port } => {
            out.push(kind::USED);
            out.extend_from_slice(&port.0.to_be_bytes());
        }
        Change::Named { address, client } => encode_name(out, kind::NAMED, *address, *client),
        Change::Unnamed { address, client } => encode_name(out, kind::UNNAMED, *address, *client),
    }
}

fn encode_name(out: &mut Vec<u8>, kind: u8, address: Ipv4Addr, client: Ipv6Net) {
    let mut octets = [0; 22];
    octets[0] = kind;
    octets[1..5].copy_from_slice(&address.octets());
    octets[5] = client.prefix_len();
    octets[6..].copy_from_slice(&client.network().octets());
    out.extend_from_slice(&octets);
}

fn encode_identity(out: &mut Vec<u8>, kind: u8, port: ControlPort, token: &Token) {
    out.push(kind);
    out.extend_from_slice(&port.0.to_be_bytes());
    encode_opaque(out, token.octets());
}

fn encode_opaque(out: &mut Vec<u8>, octets: &[u8]) {
    // A token or authenticator has an even length of at most 510.
    out.push((octets.len() / 2) as u8);
    out.extend_from_slice(octets);
}

/// A change as it stands in a record.
#[derive(Debug, Clone, Copy)]
pub struct RawChange<'a>(pub(super) &'a [u8]);

impl<'a> RawChange<'a> {
    /// Its octets: what [`encode_change`] writes.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Whether it has a line in the event log.
    pub fn is_event(self) -> bool {
        matches!(
            self.0.first(),
            Some(
                &(kind::INITIALIZED
                    | kind::CREATED
                    | kind::DELETED
                    | kind::CONFLICT
                    | kind::FORGOTTEN
                    | kind::NAMED
                    | kind::UNNAMED)
            )
        )
    }

    /// Whether it is [`Change::Initialized`].
    pub fn is_initialized(self) -> bool {
        self.0 == [kind::INITIALIZED]
    }

    /// Whether it is [`Change::Forgotten`].
    pub fn is_forgotten(self) -> bool {
        self.0 == [kind::FORGOTTEN]
    }

    /// The change, where the octets are one.
    pub fn decode(self) -> Option<Change> {
        decode_change(&mut Fields(self.0))
    }
}

/// The changes that [`encode_change`] wrote one after another. Ends before the first that it did
/// not write.
pub fn changes_in(octets: &[u8]) -> impl Iterator<Item = Change> {
    let mut fields = Fields(octets);
    std::iter::from_fn(move || decode_change(&mut fields))
}

/// What becomes of a table by changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Growth {
    /// How many entries it has more than before: below 0 where it has fewer.
    pub entries: i64,
    /// About how many client addresses it has more, as one is counted each time that an
    /// authenticator is learned for it.
    pub addresses: usize,
    /// Whether it is given up.
    pub is_forgotten: bool,
}

/// What becomes of a table by these changes.
pub fn growth_in(octets: &[u8]) -> Growth {
    let (mut fields, mut growth) = (Fields(octets), Growth::default());
    while let Some(&kind) = fields.0.first() {
        match kind {
            kind::CREATED => growth.entries += 1,
            kind::DELETED => growth.entries -= 1,
            kind::AUTHENTICATOR_LEARNED => growth.addresses += 1,
            kind::FORGOTTEN => growth.is_forgotten = true,
            _ => {}
        }
        if skip_change(&mut fields).is_none() {
            break;
        }
    }
    growth.addresses = growth.addresses.min(usize::try_from(growth.entries).unwrap_or(0));
    growth
}

/// Skips a change without decoding it. All octets of the right length are a change, but for a name
/// of what is no network.
pub(super) fn skip_change(fields: &mut Fields<'_>) -> Option<()> {
    match fields.u8()? {
        kind::INITIALIZED | kind::FORGOTTEN => {}
        kind::CREATED | kind::DELETED | kind::CONFLICT => drop(fields.slice(32)?),
        kind::IDENTITY_KNOWN | kind::IDENTITY_FORGOTTEN => {
            fields.u16()?;
            fields.opaque()?;
        }
        kind::AUTHENTICATOR_LEARNED => {
            fields.slice(16)?;
            fields.opaque()?;
        }
        kind::USED => drop(fields.u16()?),
        kind::NAMED | kind::UNNAMED => drop(fields.name()?),
        _ => return None,
    }
    Some(())
}

fn decode_change(fields: &mut Fields<'_>) -> Option<Change> {
    let change = match fields.u8()? {
        kind::INITIALIZED => Change::Initialized,
        kind::FORGOTTEN => Change::Forgotten,
        kind::CREATED => {
            let (port, client) = fields.entry()?;
            Change::Created { port, client }
        }
        kind::DELETED => {
            let (port, client) = fields.entry()?;
            Change::Deleted { port, client }
        }
        kind::CONFLICT => {
            let (port, client) = fields.entry()?;
            Change::Conflict { port, client }
        }
        kind::IDENTITY_KNOWN => {
            let port = ControlPort(fields.u16()?);
            Change::IdentityKnown { port, token: Token::new(fields.opaque()?)? }
        }
        kind::IDENTITY_FORGOTTEN => {
            let port = ControlPort(fields.u16()?);
            Change::IdentityForgotten { port, token: Token::new(fields.opaque()?)? }
        }
        kind::AUTHENTICATOR_LEARNED => {
            let address = Ipv6Addr::from(fields.take::<16>()?);
            let authenticator = Authenticator::new(fields.opaque()?)?;
            Change::AuthenticatorLearned { address, authenticator }
        }
        kind::USED => Change::Used { port: MappedPort(fields.u16()?) },
        kind::NAMED => {
            let (address, client) = fields.name()?;
            Change::Named { address, client }
        }
        kind::UNNAMED => {
            let (address, client) = fields.name()?;
            Change::Unnamed { address, client }
        }
        _ => return None,
    };
    Some(change)
}

impl Fields<'_> {
    /// Takes the table of the changes that follow, where one stands here.
    pub(super) fn tables(&mut self, table: &mut Option<TableKey>) -> Option<()> {
        while self.0.first() == Some(&kind::TABLE) {
            self.u8()?;
            let (local, nat64) = (self.take()?, self.take()?);
            let [local, nat64] = [local, nat64].map(|octets: [u8; 4]| Ipv4Addr::from(octets));
            *table = Some(TableKey { local, nat64 });
        }
        Some(())
    }

    fn name(&mut self) -> Option<(Ipv4Addr, Ipv6Net)> {
        let address = Ipv4Addr::from(self.take::<4>()?);
        let length = self.u8()?;
        let client = Ipv6Net::new(Ipv6Addr::from(self.take::<16>()?), length).ok()?;
        (client == client.trunc()).then_some((address, client))
    }

    fn entry(&mut self) -> Option<(MappedPort, Client)> {
        let port = MappedPort(self.u16()?);
        let prefix = Prefix96(self.take()?);
        let address = Ipv6Addr::from(self.take::<16>()?);
        Some((port, Client { prefix, address, port: self.u16()? }))
    }
}
