//! [`Change`]: what a request did to a table, and its line in the event log (PROTOCOL.md section
//! 8).
//!
//! It is the one vocabulary of state: the table applies it, the journal keeps it, the event log
//! prints it. Also here: the times that the core is given.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::handoff::entry::{Client, ControlPort, MappedPort, TableKey};
use crate::handoff::opaque::{Authenticator, Token};

/// A point in time: microseconds since 1970-01-01 00:00:00 UTC, at most the year 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 9999-12-31 23:59:59.999999, the last that can be written with four digits of year.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999_999);

    /// From microseconds since the epoch; later times than [`Timestamp::MAX`] become it.
    pub fn from_micros(micros: u64) -> Self {
        Self(micros.min(Self::MAX.0))
    }

    /// Microseconds since the epoch.
    pub fn as_micros(self) -> u64 {
        self.0
    }
}

/// The time as the core is told it: once for a batch of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For the event log. May jump when the clock is set.
    pub wall: Timestamp,
    /// Since some fixed moment, never backwards: for keys, rates and lifetimes.
    pub monotonic: Duration,
}

/// One difference in the state of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The table came into being.
    Initialized,
    /// An entry came into being.
    Created { port: MappedPort, client: Client },
    /// An entry is gone.
    Deleted { port: MappedPort, client: Client },
    /// A NAT64 reported an entry that the table contradicts. The table is as it was.
    Conflict {
        /// The mapped port that was reported.
        port: MappedPort,
        /// The client that was reported.
        client: Client,
    },
    /// A control identity proved itself (PROTOCOL.md section 5), and is the most recently used now.
    IdentityKnown {
        /// The source port of the control channel.
        port: ControlPort,
        token: Token,
    },
    /// The authenticator of a client address, new or another than before.
    AuthenticatorLearned {
        address: std::net::Ipv6Addr,
        /// What the NAT64 will recognize it by.
        authenticator: Authenticator,
    },
    /// A control identity made room for another, as the least recently used of too many.
    IdentityForgotten {
        /// The source port of the control channel.
        port: ControlPort,
        token: Token,
    },
    /// The entry on this port was used, after it had not been for some time: it is the last to go
    /// now.
    Used { port: MappedPort },
    /// The table was given up, after the deletion of each of its entries: nothing is known of its
    /// NAT64 any more.
    Forgotten,
    /// An address of the pool stands for a client from now on: programs see it as their peer. The
    /// table is [`TableKey::block_of`] it.
    Named {
        address: Ipv4Addr,
        /// One address of IPv6, or the network of all clients that it stands for, like a /64.
        client: Ipv6Net,
    },
    /// It stands for it no more. Only then may it stand for another.
    Unnamed { address: Ipv4Addr, client: Ipv6Net },
}

impl Change {
    /// Whether it has a line in the event log.
    pub fn is_event(&self) -> bool {
        matches!(
            self,
            Change::Initialized
                | Change::Created { .. }
                | Change::Deleted { .. }
                | Change::Conflict { .. }
                | Change::Forgotten
                | Change::Named { .. }
                | Change::Unnamed { .. }
        )
    }

    /// The line of the event log about this change, if it has one.
    pub fn event(&self, at: Timestamp, table: TableKey) -> Option<Event> {
        let kind = match *self {
            Change::Initialized => EventKind::Initialized,
            Change::Created { port, client } => EventKind::Created { port, client },
            Change::Deleted { port, client } => EventKind::Deleted { port, client },
            Change::Conflict { port, client } => EventKind::Conflict { port, client },
            Change::Forgotten => EventKind::Forgotten,
            Change::Named { address, client } => EventKind::Named { address, client },
            Change::Unnamed { address, client } => EventKind::Unnamed { address, client },
            Change::IdentityKnown { .. }
            | Change::AuthenticatorLearned { .. }
            | Change::IdentityForgotten { .. }
            | Change::Used { .. } => return None,
        };
        Some(Event { at, table, kind })
    }
}

/// A line of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub at: Timestamp,
    pub table: TableKey,
    pub kind: EventKind,
}

/// What a line of the event log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Initialized,
    Created { port: MappedPort, client: Client },
    Deleted { port: MappedPort, client: Client },
    Conflict { port: MappedPort, client: Client },
    Forgotten,
    Named { address: Ipv4Addr, client: Ipv6Net },
    Unnamed { address: Ipv4Addr, client: Ipv6Net },
}

impl From<EventKind> for Change {
    /// The change that has this line.
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Initialized => Change::Initialized,
            EventKind::Created { port, client } => Change::Created { port, client },
            EventKind::Deleted { port, client } => Change::Deleted { port, client },
            EventKind::Conflict { port, client } => Change::Conflict { port, client },
            EventKind::Forgotten => Change::Forgotten,
            EventKind::Named { address, client } => Change::Named { address, client },
            EventKind::Unnamed { address, client } => Change::Unnamed { address, client },
        }
    }
}

/// How much a line of the event log tells (`--log-format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Exactly what the original server wrote.
    #[default]
    Plain,
    /// The same, with ` to LOCAL` and, where there is a client, ` via PREFIX/96` appended.
    Full,
    /// All of that as a JSON object.
    Json,
}
