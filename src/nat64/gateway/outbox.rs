//! What a gateway wants written to its device, and said of its servers.

use std::net::Ipv4Addr;

/// Packets, one behind the other in a buffer that is kept from one input to the next, and [`Notice`]s.
#[derive(Debug, Default)]
pub struct Outbox {
    octets: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
    notices: Vec<Notice>,
}

/// A server became another than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Its address.
    pub server: Ipv4Addr,
    /// What became of it.
    pub change: ServerChange,
}

/// What became of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerChange {
    /// It answered for the first time.
    Known,
    /// It answered, and its host said so far that nobody listens.
    Back,
    /// It answered so far, and its host says that nobody listens.
    Down,
}

impl Outbox {
    /// The packets, in the order in which they are to be written.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.octets[start..end])
    }

    /// The notices, in the order of what happened.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Forgets all, and keeps the room.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
        self.notices.clear();
    }

    /// A packet made of `parts`.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.octets.extend_from_slice(part));
        self.ends.push(self.octets.len());
    }

    pub(super) fn notice(&mut self, server: Ipv4Addr, change: ServerChange) {
        self.notices.push(Notice { server, change });
    }
}
