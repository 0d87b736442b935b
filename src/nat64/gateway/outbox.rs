//! What a gateway wants its caller to write to the device and to log about servers.

use std::net::Ipv4Addr;

/// Packets, contiguous in a buffer that is reused from one input to the next, and [`Notice`]s.
#[derive(Debug, Default)]
pub struct GatewayOutbox {
    octets: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
    notices: Vec<Notice>,
}

/// The state of a server changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    pub server: Ipv4Addr,
    pub change: ServerChange,
}

/// The state that a server has changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerChange {
    /// It answered for the first time.
    Known,
    /// It answered again, after its host had reported that nobody listens, or it had been silent.
    Back,
    /// Its host reports that nobody listens, after it had answered.
    Down,
    /// It answers nothing any more.
    Silent,
}

impl GatewayOutbox {
    /// The packets, in the order of writing.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.octets[start..end])
    }

    /// The notices, oldest first.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Removes everything and keeps the allocations.
    pub fn clear(&mut self) {
        self.octets.clear();
        self.ends.clear();
        self.notices.clear();
    }

    /// Appends a packet that is the concatenation of `parts`.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.octets.extend_from_slice(part));
        self.ends.push(self.octets.len());
    }

    pub(super) fn notice(&mut self, server: Ipv4Addr, change: ServerChange) {
        self.notices.push(Notice { server, change });
    }
}
