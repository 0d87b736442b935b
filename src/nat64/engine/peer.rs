//! What a NAT64 keeps for one server: its state, the entries by client and by port, and the reports
//! that await an answer.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use super::ServerState;
use super::lifetime::{Lifetime, Usage};
use super::sources::Network;
use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort};

/// How many times a report is repeated (PROTOCOL.md section 10, repair 2).
pub const REPORT_REPEATS_MAX: u8 = 3;
/// How long the first answer to a report may take. The time doubles with each repetition.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two questions whether a server is there again (repair 8).
pub const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// A server that answers nothing about clients' packets for this time...
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// ...and nothing to this many requests about them has no room for this NAT64, or is not there: new
/// clients are served without it, as if nothing had been heard of it. To a NAT64 that it has, a
/// server answers all of these.
pub const UNANSWERED_MAX: u32 = 4;
/// How long connections whose packets a server delivered wait for it, when it is dead.
pub const RETURN_MAX: Duration = Duration::from_secs(60);
/// Reports are sent in bursts of this many, [`REPORT_SPACING`] apart.
const REPORTS_AT_ONCE: usize = 64;
/// Time between two bursts of [`REPORTS_AT_ONCE`].
const REPORT_SPACING: Duration = Duration::from_millis(100);

/// Who made an entry, or confirmed it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryOrigin {
    /// The server made or confirmed it.
    Server,
    /// The NAT64 made it without the server.
    Own,
}

/// An entry was made or learned, or is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerChange {
    pub entry: Entry,
    pub made: bool,
    /// It was made without the server.
    pub own: bool,
}

#[derive(Debug)]
pub(super) struct PeerEntry {
    pub port: MappedPort,
    pub origin: EntryOrigin,
    /// The service sent a packet by it.
    answered: bool,
    /// It was made without a server, and no report of it was sent.
    unreported: bool,
    lifetime: Lifetime,
    /// The report that names it, while that awaits an answer.
    report: Option<u64>,
}

/// A report that awaits an answer.
#[derive(Debug)]
struct PendingReport {
    clients: Vec<Client>,
    sent: u8,
    due: Duration,
    /// Which of them an earlier report named, and how often that was sent: so many answers about
    /// such a client may be none to this report.
    earlier: Vec<(Client, u8)>,
}

/// Section 10, repairs 3 and 6: an answer was not cached, because it contradicts an own entry in
/// use, or because the port is that of our control channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contradicted;

#[derive(Debug, Default)]
pub(super) struct Peer {
    pub state: ServerState,
    /// Whether it was alive since the NAT64 booted.
    pub has_answered: bool,
    entries: BTreeMap<Client, PeerEntry>,
    /// How many entries each network of clients has that the NAT64 made without the server. None
    /// has 0.
    own: BTreeMap<Network, usize>,
    /// What happened to entries since [`Peer::take_changes`], the oldest first.
    changes: Vec<PeerChange>,
    ports: BTreeMap<MappedPort, Client>,
    reports: BTreeMap<u64, PendingReport>,
    next_report: u64,
    /// When the server may be asked again whether it is there.
    ask_due: Duration,
    /// A question was put off.
    asks_late: bool,
    /// Requests about clients' packets since it answered anything, and when the first of them was.
    unanswered: u32,
    unanswered_since: Duration,
    /// It sent a packet of its own that no entry carries: it delivers what it is sent.
    pub delivers: bool,
    /// When it was asked, since it answered anything, whether it is there.
    asked: Option<Duration>,
    /// When it began to count as dead.
    dead_since: Duration,
}

/// What a request to a server that is alive comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It is sent.
    None,
    /// It is sent, and so is a question that any server answers.
    Asks,
    /// It is not sent: the server answers nothing any more, and counts as unknown.
    Falls,
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

    /// The number of entries.
    pub(super) fn length(&self) -> usize {
        self.entries.len()
    }

    /// Whether the server may be asked now whether it is there. If so, it is.
    pub(super) fn may_ask(&mut self, now: Duration) -> bool {
        let may = now >= self.ask_due;
        if may {
            self.ask_due = now.saturating_add(ASK_INTERVAL);
        }
        self.asks_late = !may;
        may
    }

    /// The entry whose report is a question that was put off, and that no packet has asked for an
    /// interval since: maybe none comes any more.
    pub(super) fn late_question(&mut self, now: Duration) -> Option<Entry> {
        let entry = self.entries().next()?;
        let late = now >= self.ask_due.saturating_add(ASK_INTERVAL);
        let asks = self.state == ServerState::Dead && self.asks_late && late;
        (asks && self.may_ask(now)).then_some(entry)
    }

    /// It is to be asked about a client's packet of TCP or UDP. One that delivers packets answers
    /// none of a client that only speaks, so it is asked whether it is there before it is given up.
    pub(super) fn silence(&mut self, now: Duration) -> Silence {
        if self.state != ServerState::Alive {
            return Silence::None;
        }
        if self.unanswered == 0 {
            self.unanswered_since = now;
        }
        let enough = self.unanswered >= UNANSWERED_MAX;
        self.unanswered = self.unanswered.saturating_add(1);
        let since = |time: Duration| now.saturating_sub(time);
        let silent = match self.asked {
            _ if !enough => false,
            None if self.delivers && since(self.unanswered_since) >= SILENCE_MAX / 2 => {
                self.asked = Some(now);
                return Silence::Asks;
            }
            None => !self.delivers && since(self.unanswered_since) >= SILENCE_MAX,
            Some(asked) => since(asked) >= SILENCE_MAX / 2,
        };
        if !silent {
            return Silence::None;
        }
        self.state = ServerState::Unknown;
        self.has_spoken();
        Silence::Falls
    }

    /// Its host says that nobody listens.
    pub(super) fn dies(&mut self, now: Duration) {
        if self.state != ServerState::Dead {
            self.state = ServerState::Dead;
            self.dead_since = now;
        }
        self.reports.clear();
    }

    /// Whether it is dead, but may deliver again in a moment what it delivered before.
    pub(super) fn may_return(&self, now: Duration) -> bool {
        let dead = self.state == ServerState::Dead && self.delivers;
        dead && now < self.dead_since.saturating_add(RETURN_MAX)
    }

    /// It has answered something.
    pub(super) fn has_spoken(&mut self) {
        self.unanswered = 0;
        self.asked = None;
    }

    /// Refreshes the client's entry, which a packet uses. Returns its port.
    pub(super) fn touch(
        &mut self,
        client: &Client,
        now: Duration,
        usage: Usage,
    ) -> Option<MappedPort> {
        let mapping = self.entries.get_mut(client)?;
        mapping.lifetime.refresh(now, usage);
        mapping.answered |= !usage.of_client;
        Some(mapping.port)
    }

    /// Adds an entry. The client has none, and the port is free.
    pub(super) fn insert(&mut self, entry: Entry, origin: EntryOrigin, lifetime: Lifetime) {
        let Entry { port, client } = entry;
        let (answered, unreported, report) = (false, false, None);
        let mapping = PeerEntry { port, origin, answered, unreported, lifetime, report };
        let replaced = self.entries.insert(client, mapping);
        let taken = self.ports.insert(port, client);
        assert!(replaced.is_none() && taken.is_none(), "entries are unique");
        let own = origin == EntryOrigin::Own;
        self.changes.push(PeerChange { entry, made: true, own });
        if own {
            *self.own.entry(Network::of(client.address)).or_default() += 1;
        }
    }

    /// How many entries each network of clients has that the NAT64 made without the server.
    pub(super) fn own(&self) -> impl Iterator<Item = (Network, usize)> {
        self.own.iter().map(|(&network, &count)| (network, count))
    }

    /// How many of them this one has.
    pub(super) fn own_of(&self, network: Network) -> usize {
        self.own.get(&network).copied().unwrap_or_default()
    }

    /// Whether the client has this entry, and the NAT64 made it without the server.
    pub(super) fn is_own(&self, entry: &Entry) -> bool {
        let of_client = self.entries.get(&entry.client);
        of_client.is_some_and(|of| of.origin == EntryOrigin::Own && of.port == entry.port)
    }

    /// The entries that the server made or confirmed.
    pub(super) fn learned(&self) -> impl Iterator<Item = Entry> {
        let all = self.entries.iter();
        let learned = all.filter(|(_, mapping)| mapping.origin == EntryOrigin::Server);
        learned.map(|(&client, mapping)| Entry { port: mapping.port, client })
    }

    /// Gives `keep` each entry that was made without the server, whether the service ever used it,
    /// and how long it lives.
    pub(super) fn each_own(&self, mut keep: impl FnMut(Entry, bool, &Lifetime)) {
        for (&client, mapping) in &self.entries {
            if mapping.origin == EntryOrigin::Own {
                keep(Entry { port: mapping.port, client }, mapping.answered, &mapping.lifetime);
            }
        }
    }

    /// Adds an entry of before a restart. The client has none, and the port is free.
    pub(super) fn restore(&mut self, entry: Entry, answered: bool, lifetime: Lifetime) {
        self.insert(entry, EntryOrigin::Own, lifetime);
        if let Some(mapping) = self.entries.get_mut(&entry.client) {
            mapping.answered = answered;
        }
    }

    /// Whether the client's entry is one that neither a server nor the service ever used.
    pub(super) fn is_silent(&self, client: &Client) -> bool {
        let silent = |mapping: &PeerEntry| mapping.origin == EntryOrigin::Own && !mapping.answered;
        self.entries.get(client).is_some_and(silent)
    }

    /// Remembers that no report of the client's entry was sent.
    pub(super) fn leave_unreported(&mut self, client: &Client) {
        if let Some(mapping) = self.entries.get_mut(client) {
            mapping.unreported = true;
        }
    }

    /// Whether no report of the client's entry was sent.
    pub(super) fn is_unreported(&self, client: &Client) -> bool {
        self.entries.get(client).is_some_and(|mapping| mapping.unreported)
    }

    pub(super) fn remove(&mut self, client: &Client) {
        if let Some(mapping) = self.entries.remove(client) {
            self.ports.remove(&mapping.port);
            let own = mapping.origin == EntryOrigin::Own;
            let entry = Entry { port: mapping.port, client: *client };
            self.changes.push(PeerChange { entry, made: false, own });
            if own {
                one_less(&mut self.own, client);
            }
        }
    }

    /// What happened to entries since the last call, the oldest first.
    pub(super) fn take_changes(&mut self) -> Vec<PeerChange> {
        mem::take(&mut self.changes)
    }

    /// Caches an entry that the server named. Its table is authoritative: cached entries that
    /// contradict it are removed, but not own entries, on which connections may depend. One that
    /// has our own control port cannot be used. `has_packet`: a packet came with it.
    pub(super) fn learn(
        &mut self,
        entry: Entry,
        has_packet: bool,
        now: Duration,
        usage: Option<Usage>,
        control_port: ControlPort,
    ) -> Result<(), Contradicted> {
        self.answered(entry, has_packet);
        if let Some(mapping) = self.entries.get_mut(&entry.client) {
            if mapping.port == entry.port {
                if mapping.origin == EntryOrigin::Own {
                    one_less(&mut self.own, &entry.client);
                }
                mapping.origin = EntryOrigin::Server;
                if let Some(usage) = usage {
                    mapping.lifetime.refresh(now, usage);
                }
                return Ok(());
            }
            if mapping.origin == EntryOrigin::Own {
                return Err(Contradicted);
            }
        }
        if let Some(holder) = self.client_of(entry.port) {
            if self.entries.get(&holder).is_some_and(|mapping| mapping.origin == EntryOrigin::Own) {
                return Err(Contradicted);
            }
            self.remove(&holder);
        }
        self.remove(&entry.client);
        if entry.port.0 == control_port.0 {
            return Err(Contradicted);
        }
        self.insert(entry, EntryOrigin::Server, Lifetime::new(now, usage));
        Ok(())
    }

    /// Removes the expired entries.
    pub(super) fn expire(&mut self, now: Duration) {
        self.entries.retain(|client, mapping| {
            let lives = !mapping.lifetime.has_expired(now);
            if !lives {
                self.ports.remove(&mapping.port);
                let own = mapping.origin == EntryOrigin::Own;
                let entry = Entry { port: mapping.port, client: *client };
                self.changes.push(PeerChange { entry, made: false, own });
                if own {
                    one_less(&mut self.own, client);
                }
            }
            lives
        });
    }

    /// A report of `client` alone is being sent.
    pub(super) fn sent_report(&mut self, client: Client, now: Duration) {
        let due = now.saturating_add(REPORT_INTERVAL);
        self.await_answer(PendingReport {
            clients: vec![client],
            sent: 1,
            due,
            earlier: Vec::new(),
        });
    }

    fn await_answer(&mut self, report: PendingReport) {
        let id = self.next_report;
        self.next_report += 1;
        for client in &report.clients {
            if let Some(mapping) = self.entries.get_mut(client) {
                mapping.unreported = false;
                mapping.report = Some(id);
            }
        }
        self.reports.insert(id, report);
    }

    /// Schedules reports of clients that have entries, spread over time, in the place of all that
    /// there are. [`Self::due_reports`] sends them.
    pub(super) fn report_all(&mut self, now: Duration, reports: Vec<Vec<Client>>) {
        let before = mem::take(&mut self.reports);
        let mut due = now;
        for (number, clients) in reports.into_iter().enumerate() {
            if number > 0 && number.is_multiple_of(REPORTS_AT_ONCE) {
                due = due.saturating_add(REPORT_SPACING);
            }
            let times = |client: &Client| {
                let report = before.get(&self.entries.get(client)?.report?)?;
                (report.sent > 0).then_some((*client, report.sent))
            };
            let earlier = clients.iter().filter_map(times).collect();
            self.await_answer(PendingReport { clients, sent: 0, due, earlier });
        }
    }

    /// The server named this entry. That answers the report that names the client if it is what
    /// PROTOCOL.md section 6 has a report answered with: an entry that differs, or the first one.
    /// Any other entry answers something else, and what may answer an earlier report is taken for
    /// that. One with a packet answers no multi report, but a request about that packet: maybe one
    /// that waited at the server since before it could know our token.
    fn answered(&mut self, entry: Entry, has_packet: bool) {
        let Some(mapping) = self.entries.get_mut(&entry.client) else {
            return;
        };
        let Some(report) = mapping.report.and_then(|id| self.reports.get_mut(&id)) else {
            return;
        };
        if has_packet && report.clients.len() > 1 {
            return;
        }
        let mut earlier = report.earlier.iter_mut();
        if let Some((_, left)) = earlier.find(|(of, left)| *of == entry.client && *left > 0) {
            *left -= 1;
            return;
        }
        let is_first = report.clients.first() == Some(&entry.client);
        if report.sent > 0 && (is_first || mapping.port != entry.port) {
            let id = mapping.report.take();
            id.and_then(|id| self.reports.remove(&id));
        }
    }

    /// The current entries of each report that is due. Schedules its next repetition.
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

/// An entry that the NAT64 made without the server is gone, or the server's.
fn one_less(own: &mut BTreeMap<Network, usize>, client: &Client) {
    let network = Network::of(client.address);
    if let Some(count) = own.get_mut(&network) {
        *count -= 1;
        if *count == 0 {
            own.remove(&network);
        }
    }
}
