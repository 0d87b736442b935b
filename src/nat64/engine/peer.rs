//! What a NAT64 keeps for one server: whether it is alive, the entries both ways, the reports it awaits
//! an answer to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ServerState;
use super::lifetime::{Lifetime, Usage};
use crate::handoff::entry::{Client, Entry, MappedPort};

/// How often a report is repeated (PROTOCOL.md section 10, repair 2).
pub const REPORT_REPEATS_MAX: u8 = 3;
/// How long the answer to a report may take, the first time; twice as long each time after.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The reports that leave at once; the next as many follow [`REPORT_SPACING`] later.
const REPORTS_AT_ONCE: usize = 64;
/// See [`REPORTS_AT_ONCE`].
const REPORT_SPACING: Duration = Duration::from_millis(100);

/// Who made an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The server said so, or agreed.
    Server,
    /// The NAT64 did, for want of a server.
    Own,
}

#[derive(Debug)]
pub(super) struct Mapping {
    pub port: MappedPort,
    pub origin: Origin,
    lifetime: Lifetime,
    /// The report that it stands in, if that has no answer yet.
    report: Option<u64>,
}

/// A report whose answer is awaited.
#[derive(Debug)]
struct Report {
    clients: Vec<Client>,
    sent: u8,
    due: Duration,
}

/// Section 10, repair 3: an answer that is not cached, because own mappings in use contradict it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contradicted;

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub state: ServerState,
    /// It was alive once.
    pub has_answered: bool,
    entries: BTreeMap<Client, Mapping>,
    ports: BTreeMap<MappedPort, Client>,
    reports: BTreeMap<u64, Report>,
    next_report: u64,
}

impl Peer {
    pub(super) fn port_of(&self, client: &Client) -> Option<MappedPort> {
        Some(self.entries.get(client)?.port)
    }

    pub(super) fn client_of(&self, port: MappedPort) -> Option<Client> {
        self.ports.get(&port).copied()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(|(&client, mapping)| Entry { port: mapping.port, client })
    }

    /// How many entries there are.
    pub(super) fn length(&self) -> usize {
        self.entries.len()
    }

    /// The client's entry, which a packet uses.
    pub(super) fn touch(
        &mut self,
        client: &Client,
        now: Duration,
        usage: Usage,
    ) -> Option<MappedPort> {
        let mapping = self.entries.get_mut(client)?;
        mapping.lifetime.go_on(now, usage);
        Some(mapping.port)
    }

    /// Adds an entry. The client has none, and the port is free.
    pub(super) fn insert(&mut self, entry: Entry, origin: Origin, lifetime: Lifetime) {
        let Entry { port, client } = entry;
        let mapping = Mapping { port, origin, lifetime, report: None };
        let replaced = self.entries.insert(client, mapping);
        let taken = self.ports.insert(port, client);
        assert!(replaced.is_none() && taken.is_none(), "entries are unique");
    }

    fn remove(&mut self, client: &Client) {
        if let Some(mapping) = self.entries.remove(client) {
            self.ports.remove(&mapping.port);
        }
    }

    /// Takes over what the server says. Its table is authoritative: what was cached gives way, but not
    /// what connections depend on that began without it.
    pub(super) fn learn(
        &mut self,
        entry: Entry,
        now: Duration,
        usage: Option<Usage>,
    ) -> Result<(), Contradicted> {
        self.answered(entry);
        if let Some(mapping) = self.entries.get_mut(&entry.client) {
            if mapping.port == entry.port {
                mapping.origin = Origin::Server;
                if let Some(usage) = usage {
                    mapping.lifetime.go_on(now, usage);
                }
                return Ok(());
            }
            if mapping.origin == Origin::Own {
                return Err(Contradicted);
            }
        }
        if let Some(holder) = self.client_of(entry.port) {
            if self.entries.get(&holder).is_some_and(|mapping| mapping.origin == Origin::Own) {
                return Err(Contradicted);
            }
            self.remove(&holder);
        }
        self.remove(&entry.client);
        self.insert(entry, Origin::Server, Lifetime::new(now, usage));
        Ok(())
    }

    /// Forgets the entries that no connection needs.
    pub(super) fn expire(&mut self, now: Duration) {
        self.entries.retain(|_, mapping| {
            let lives = !mapping.lifetime.is_over(now);
            if !lives {
                self.ports.remove(&mapping.port);
            }
            lives
        });
    }

    /// A report of `client` alone left just now.
    pub(super) fn sent_report(&mut self, client: Client, now: Duration) {
        let due = now.saturating_add(REPORT_INTERVAL);
        self.await_answer(Report { clients: vec![client], sent: 1, due });
    }

    fn await_answer(&mut self, report: Report) {
        let id = self.next_report;
        self.next_report += 1;
        for client in &report.clients {
            if let Some(mapping) = self.entries.get_mut(client) {
                mapping.report = Some(id);
            }
        }
        self.reports.insert(id, report);
    }

    /// Reports clients, who have entries, spread over time: the first leave with [`Self::due_reports`].
    pub(super) fn report_all(&mut self, now: Duration, reports: Vec<Vec<Client>>) {
        let mut due = now;
        for (number, clients) in reports.into_iter().enumerate() {
            if number > 0 && number.is_multiple_of(REPORTS_AT_ONCE) {
                due = due.saturating_add(REPORT_SPACING);
            }
            self.await_answer(Report { clients, sent: 0, due });
        }
    }

    /// The server said this of a client. It has seen the report that the client stands in if that is how it answers
    /// one (PROTOCOL.md section 6): with what differs, or with the first. Anything else answers something else.
    fn answered(&mut self, entry: Entry) {
        let Some(mapping) = self.entries.get_mut(&entry.client) else {
            return;
        };
        let Some(report) = mapping.report.and_then(|id| self.reports.get(&id)) else {
            return;
        };
        let is_first = report.clients.first() == Some(&entry.client);
        if report.sent > 0 && (is_first || mapping.port != entry.port) {
            let id = mapping.report.take();
            id.and_then(|id| self.reports.remove(&id));
        }
    }

    /// Expects no answers any more.
    pub(super) fn forget_reports(&mut self) {
        self.reports.clear();
    }

    /// What each report that is due says by now. It is not due again before its interval is over.
    pub(super) fn due_reports(&mut self, now: Duration) -> Vec<Vec<Entry>> {
        let mut due = Vec::new();
        let entries = &self.entries;
        self.reports.retain(|_, report| {
            if now < report.due {
                return true;
            }
            if report.sent > REPORT_REPEATS_MAX {
                return false;
            }
            report.clients.retain(|client| entries.contains_key(client));
            let present: Vec<Entry> = report
                .clients
                .iter()
                .filter_map(|&client| {
                    let port = entries.get(&client)?.port;
                    Some(Entry { port, client })
                })
                .collect();
            if present.is_empty() {
                return false;
            }
            due.push(present);
            report.due = now.saturating_add(REPORT_INTERVAL * (1 << report.sent));
            report.sent += 1;
            true
        });
        due
    }
}
