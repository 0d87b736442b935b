//! How a reactor takes part in a fleet: requests go where they are answered, and what another host
//! recorded becomes the state here.

use std::io;
use std::time::Duration;

use super::{Reactor, Shard};
use crate::handoff::change::Event;
use crate::handoff::server::{Batch, Body, Datagram, Outbox, Reply, events_max};
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::kernel::backend::Backend;
use crate::programs::serve::fleet::{
    AskedRequest, FleetSeat, FleetTurn, KeptRequest, RequestRoute,
};
use crate::programs::serve::held::HeldReply;

/// How long an end waits for what is being recorded.
const END_WAITS: Duration = Duration::from_secs(2);
/// How often it looks.
const END_LOOKS: Duration = Duration::from_millis(10);

/// Answers a request here, or has it answered elsewhere.
#[inline]
pub(super) fn handle<S: Shard>(
    fleet: &mut FleetSeat,
    shard: &mut S,
    stats: &Stats,
    batch: &Batch,
    datagram: Datagram<'_>,
    prepared: &S::Prepared,
    outbox: &mut Outbox,
) {
    let since = batch.now.monotonic;
    let (table, port, payload) = (datagram.table, datagram.port, datagram.payload());
    let request = AskedRequest { table, port, payload, passed: None, since };
    if let Some(batch) = route(fleet, shard, stats, batch, request, &datagram, prepared) {
        shard.handle(&batch, datagram, prepared, outbox);
    }
}

/// By what a request is answered here; `None` where it is not.
fn route<S: Shard>(
    fleet: &mut FleetSeat,
    shard: &mut S,
    stats: &Stats,
    batch: &Batch,
    request: AskedRequest<'_>,
    datagram: &Datagram<'_>,
    prepared: &S::Prepared,
) -> Option<Batch> {
    let has_proved = || shard.has_proved(batch.now, datagram, prepared);
    match fleet.route(batch.now.monotonic, request, has_proved, stats) {
        RequestRoute::Here { keeps_all } => Some(Batch { keeps_all, ..*batch }),
        RequestRoute::Elsewhere => None,
    }
}

impl<B: Backend, S: Shard> Reactor<B, S> {
    /// Shares its tables with other hosts, if it is to.
    pub fn sharing(self, fleet: Option<Box<FleetSeat>>) -> Self {
        Self { fleet, ..self }
    }

    /// How soon [`Shard::tend`] has something to do. Tables that are shared are not given up.
    pub(super) fn tend_due(&self) -> Option<Duration> {
        if self.fleet.is_some() { None } else { self.shard.tend_due() }
    }

    /// What other hosts did, what of our own is recorded now, and what waited for that.
    #[inline]
    pub(super) fn tend_fleet(&mut self) -> io::Result<()> {
        if self.fleet.is_some() { self.turn_fleet() } else { Ok(()) }
    }

    fn turn_fleet(&mut self) -> io::Result<()> {
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        let (now, held) = (self.clock.now(), &self.held);
        let turn = fleet.turn(now, |table| held.has(table));
        let FleetTurn { events, lost, replayed, won, secret, requests } = turn;
        if let Some(secret) = secret {
            self.shard.share_proofs(now, secret);
        }
        for (table, change) in &replayed {
            self.shard.replay(*table, change);
        }
        for table in won {
            if self.shard.watch_live(table) {
                fleet.hears_first(now.monotonic, table);
            }
        }
        for table in lost {
            let dropped = self.held.give_up_of(table);
            self.stats.count_drops(DropReason::FleetAway, dropped as u64);
        }
        self.log_recorded(events);
        if let (Some(fleet), Some(log), true) =
            (&mut self.fleet, &self.log, self.unlogged.is_empty())
        {
            let (given, written) = log.progress();
            fleet.logged(given, written);
        }
        self.release()?;
        for mut request in requests {
            self.answer_kept(&mut request)?;
        }
        Ok(())
    }

    fn log_recorded(&mut self, events: Vec<Event>) {
        match &mut self.log {
            Some(log) if !events.is_empty() => {
                events.into_iter().for_each(|event| log.send(event, &self.stats));
                log.publish();
            }
            Some(_) => {}
            // There was one when they were made.
            None => self.unlogged.extend(events),
        }
    }

    /// A request that waited, or that another host passed on.
    fn answer_kept(&mut self, kept: &mut KeptRequest) -> io::Result<()> {
        let now = self.clock.now();
        let payload = kept.payload_range();
        let batch = self.begin(now, events_max(payload.len()));
        let mut prepared = [S::Prepared::default()];
        self.shard.prepare(kept.table, kept.payload(), 0, &mut prepared);
        self.shard.prefetch(&mut prepared);
        let Some(fleet) = &mut self.fleet else { return Ok(()) };
        let (table, port) = (kept.table, kept.port);
        // It is read in two places.
        let octets = kept.payload().to_vec();
        let (passed, since) = (kept.passed, kept.since);
        let request = AskedRequest { table, port, payload: &octets, passed, since };
        let buffer = &mut kept.buffer[..];
        let datagram = Datagram { index: 0, table, port, buffer, payload, room: 0 };
        let routed =
            route(fleet, &mut self.shard, &self.stats, &batch, request, &datagram, &prepared[0]);
        if let Some(batch) = routed {
            self.shard.handle(&batch, datagram, &prepared[0], &mut self.outbox);
        }
        self.record(now);
        self.send_kept(kept)?;
        self.outbox.clear();
        Ok(())
    }

    /// The answers to such a request leave as others do.
    fn send_kept(&mut self, kept: &KeptRequest) -> io::Result<()> {
        let durable = self.durable();
        // The service's address is one of this host, too.
        let return_path = self.backend.path_from(kept.table.local, None);
        for index in 0..self.outbox.replies.len() {
            let Reply { to, ref body, after, .. } = self.outbox.replies[index];
            let Some(return_path) = return_path else {
                self.stats.count_drop(DropReason::FleetAway);
                continue;
            };
            let payload = match body {
                Body::InPlace(range) => &kept.buffer[range.clone()],
                Body::Copied(range) => &self.outbox.copies()[range.clone()],
            };
            if after > durable {
                let payload = payload.into();
                self.hold(HeldReply { after, return_path, to, payload }, true);
            } else {
                self.stats.add(Counter::Replies, 1);
                self.backend.send_copy(return_path, payload, to)?;
            }
        }
        Ok(())
    }

    /// What is being recorded is recorded, if the engine is there, and what announces it leaves.
    pub(super) fn end_fleet(&mut self) -> io::Result<()> {
        let begin = self.clock.monotonic();
        let is_recording = |fleet: &FleetSeat| fleet.is_recording();
        while self.fleet.as_deref().is_some_and(is_recording)
            && self.clock.monotonic().saturating_sub(begin) < END_WAITS
        {
            self.backend.turn(Some(END_LOOKS))?;
            self.tend_fleet()?;
        }
        if self.fleet.is_some() {
            self.held.give_up();
        }
        Ok(())
    }
}
