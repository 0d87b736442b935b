//! Reports: entries that a NAT64 made itself, or kept while the server was away (PROTOCOL.md
//! section 6).

use super::banned::quietly;
use super::channel::Channel;
use super::exchange::{Effects, Exchange};
use super::reply::emit_entry;
use crate::handoff::change::Change;
use crate::handoff::entry::{Client, Entry, MappedPort};
use crate::handoff::message::{self, ENTRY_LENGTH, MESSAGE_HEADER, MULTI_REPORT_MAX, Span};
use crate::handoff::stats::DropReason;
use crate::handoff::table::{HashedClient, Slot};

/// The most entries in a multi report.
const ENTRIES_MAX: usize = MULTI_REPORT_MAX / ENTRY_LENGTH;

/// An entry that a NAT64 reported.
#[derive(Clone, Copy)]
struct Reported {
    port: MappedPort,
    client: HashedClient,
    /// Where the table has the client's entry, probably.
    probable: Option<Slot>,
}

impl Channel {
    /// Answers a single report with the table's entry.
    pub(super) fn report(
        &mut self,
        token: Span,
        authenticator: Span,
        reported: Entry,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, wanted, probable, known_since, effects } = exchange;
        let authenticator = datagram.octets(authenticator);
        let client = wanted.reported().copied();
        let client = client.unwrap_or_else(|| self.table.hashed(reported.client));
        let sought = Reported { port: reported.port, client, probable: *probable };
        let Some((slot, told)) = self.reported_entry(authenticator, sought, effects)? else {
            return quietly(token, exchange);
        };
        let entry = self.table.entry(slot);
        let after = self.durable_before(entry.port, *known_since).max(told);
        let (index, to) = (datagram.index, datagram.source());
        effects.outbox.copy(index, to, after, |out| emit_entry(out, authenticator, entry))
    }

    /// Answers each entry that differs from the table's, or else the first. The answers together
    /// are no longer than the report, lest somebody else be flooded who has its address now.
    pub(super) fn multi_report(
        &mut self,
        token: Span,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, known_since: since, effects, .. } = exchange;
        let (payload, index, to) = (datagram.payload(), datagram.index, datagram.source());
        self.buckets.multi_report(effects.now(), payload.len())?;
        let changes = effects.outbox.changes.len();
        let mut first = None;
        let mut octets_left = payload.len();
        let mut answered = 0;
        let mut refused = None;
        let mut has_banned = false;
        let mut all = [const { None }; ENTRIES_MAX];
        let all = self.prefetch_reported(payload, &mut all);
        for (authenticator, sought) in all.iter().flatten() {
            let authenticator = authenticator.of(payload);
            let reported = Entry { port: sought.port, client: sought.client.client };
            let (slot, told) = match self.reported_entry(authenticator, *sought, effects) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    has_banned = true;
                    continue;
                }
                // The last reason is counted when it is known whether the payload got an answer.
                Err(reason) => {
                    if let Some(before) = refused.replace(reason) {
                        effects.shared.stats.count_drop(before);
                    }
                    continue;
                }
            };
            let entry = self.table.entry(slot);
            first = first.or(Some((authenticator, entry)));
            if entry != reported {
                let octets = MESSAGE_HEADER + authenticator.len() + ENTRY_LENGTH;
                if answered > 0 && octets > octets_left {
                    effects.shared.stats.count_drop(DropReason::AnswerOctets);
                    continue;
                }
                octets_left = octets_left.saturating_sub(octets);
                let after = self.durable_before(entry.port, *since).max(told);
                let emit = |out: &mut _| emit_entry(out, authenticator, entry);
                effects.outbox.copy(index, to, after, emit)?;
                answered += 1;
            }
        }
        if first.is_none() && !has_banned {
            return Err(refused.unwrap_or(DropReason::EntryInvalid));
        }
        if let Some(reason) = refused {
            effects.shared.stats.count_drop(reason);
        }
        let Some((authenticator, entry)) = first else { return quietly(token, exchange) };
        if answered > 0 {
            self.buckets.answers(effects.now(), answered);
            return Ok(());
        }
        // This one answer speaks for all of the entries, so it waits for all that they changed.
        let changed = effects.outbox.changes.len() > changes;
        let after = match changed {
            true => effects.batch.record.max(*since),
            false => self.durable_before(entry.port, *since),
        };
        effects.outbox.copy(index, to, after, |out| emit_entry(out, authenticator, entry))
    }

    /// The entries of a multi report, each with its authenticator. What answers will need of them
    /// is read, so that it is in the caches: as [`Server::prefetch`](super::Server::prefetch) does
    /// for those of a batch.
    fn prefetch_reported<'a>(
        &self,
        payload: &[u8],
        all: &'a mut [Option<(Span, Reported)>; ENTRIES_MAX],
    ) -> &'a [Option<(Span, Reported)>] {
        let mut count = 0;
        for (place, (authenticator, Entry { port, client })) in
            all.iter_mut().zip(message::multi_report(payload))
        {
            let client = self.table.hashed(client);
            *place = Some((authenticator, Reported { port, client, probable: None }));
            count += 1;
        }
        let all = &mut all[..count];
        // The sum keeps the compiler from leaving the reads out.
        let mut seen = 0;
        for (_, sought) in all.iter_mut().flatten() {
            sought.probable = self.table.probable(&sought.client);
        }
        for slot in all.iter().flatten().filter_map(|(_, sought)| sought.probable) {
            seen ^= self.table.prefetch(slot);
        }
        for slot in all.iter().flatten().filter_map(|(_, sought)| sought.probable) {
            seen ^= self.table.prefetch_client(slot);
        }
        std::hint::black_box(seen);
        all
    }

    /// The table is authoritative: it adopts what does not contradict it, and answers with what it
    /// has. Returns where that is, and the record of the conflict that its answer tells, or 0; or
    /// nothing, where its client is banned.
    fn reported_entry(
        &mut self,
        authenticator: &[u8],
        reported: Reported,
        effects: &mut Effects<'_>,
    ) -> Result<Option<(Slot, u64)>, DropReason> {
        let Reported { port, client: sought, probable } = reported;
        let client = sought.client;
        if !Client::can_have(client.address) || client.port == 0 || port.0 == 0 {
            return Err(DropReason::EntryInvalid);
        }
        if effects.bans(client.address) {
            if let Err(reason) = self.banned_report(authenticator, reported, effects) {
                effects.shared.stats.count_drop(reason);
            }
            return Ok(None);
        }
        let known = self.table.find_near(probable, &sought);
        let agrees = match known {
            Some(slot) => self.table.port(slot) == port,
            None => self.table.is_eligible(port) && self.table.find_port(port).is_none(),
        };
        let told = if agrees { 0 } else { self.conflict(port, &sought, effects)? };
        let slot = match known {
            Some(slot) => {
                self.touch(slot, effects);
                Ok(slot)
            }
            None => self.create(sought, agrees.then_some(port), effects),
        };
        // This client itself may have got it: from the entry that went for it. Replay avoids the
        // port first, and then gives it to the client: of more than are remembered, others are.
        if slot.is_ok_and(|slot| self.table.port(slot) == port) {
            self.table.forgive(port);
        } else if !agrees {
            self.table.avoid(port);
        }
        let slot = slot?;
        self.learn_at(slot, authenticator, effects);
        Ok(Some((slot, told)))
    }

    /// Takes what a NAT64 reports of a banned client as far as it contradicts nothing: it is there
    /// already, and so log, names and ban set tell whose the port is. No port is given for it, and
    /// nobody loses an entry by it.
    fn banned_report(
        &mut self,
        authenticator: &[u8],
        Reported { port, client: sought, probable }: Reported,
        effects: &mut Effects<'_>,
    ) -> Result<(), DropReason> {
        match self.table.find_near(probable, &sought) {
            Some(slot) if self.table.port(slot) == port => {
                self.table.forgive(port);
                return Ok(());
            }
            None if self.table.is_eligible(port) && self.table.find_port(port).is_none() => {
                if let Ok(slot) = self.create_or(sought, Some(port), false, effects) {
                    self.learn_at(slot, authenticator, effects);
                    return Ok(());
                }
            }
            _ => {}
        }
        self.conflict(port, &sought, effects)?;
        self.table.avoid(port);
        Ok(())
    }

    /// Records what was reported, unless it was a moment ago. Returns the record that says so.
    fn conflict(
        &mut self,
        port: MappedPort,
        client: &HashedClient,
        effects: &mut Effects<'_>,
    ) -> Result<u64, DropReason> {
        if let Some(reason) = effects.batch.frozen {
            return Err(reason);
        }
        let (now, record) = (effects.now(), effects.batch.record);
        let create_rate = effects.shared.create_rate;
        let told = self.buckets.conflict(now, create_rate, (port, client), record)?;
        if told.is_none() {
            effects.record(Change::Conflict { port, client: client.client });
        }
        Ok(told.unwrap_or(record))
    }
}
