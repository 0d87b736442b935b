//! What a reactor drives.

use std::time::Duration;

use super::inquiry::Inquiry;
use crate::handoff::bans::Bans;
use crate::handoff::change::{Change, Now};
use crate::handoff::entry::TableKey;
use crate::handoff::secret::FleetSecret;
use crate::handoff::server::{Batch, Datagram, LiveConnections, Outbox, Prepared, Server};

/// What a reactor drives: a [`Server`]. A benchmark can drive something that does less, to measure
/// what the server adds.
pub trait Shard {
    /// What is known about a datagram before it is answered.
    type Prepared: Default;

    /// As [`Server::prepare`].
    fn prepare(&self, table: TableKey, payload: &[u8], index: usize, batch: &mut [Self::Prepared]);

    /// As [`Server::prefetch`].
    fn prefetch(&self, batch: &mut [Self::Prepared]);

    /// Whether to answer it may cost much more than most.
    fn is_costly(&self, _: &Self::Prepared) -> bool {
        false
    }

    /// Answers a datagram: leaves replies and changes in `outbox`, or counts why there are none.
    fn handle(
        &mut self,
        batch: &Batch,
        datagram: Datagram<'_>,
        prepared: &Self::Prepared,
        outbox: &mut Outbox,
    );

    /// As [`Server::handle_frame`].
    fn handle_frame(&mut self, _batch: &Batch, _datagram: Datagram<'_>, _outbox: &mut Outbox) {}

    /// As [`Server::is_late`].
    fn is_late(&self) -> bool {
        false
    }

    /// As [`Server::record_late`].
    fn record_late(&mut self, _batch: &Batch, _outbox: &mut Outbox) {}

    /// As [`Server::tend_due`].
    fn tend_due(&self) -> Option<Duration> {
        None
    }

    /// As [`Server::tend`].
    fn tend(&mut self, _batch: &Batch, _events: usize, _outbox: &mut Outbox) {}

    /// As [`Server::is_filling`].
    fn is_filling(&self) -> bool {
        false
    }

    /// As [`Server::fill_some`].
    fn fill_some(&mut self) {}

    /// As [`Server::bans`].
    fn bans(&self) -> Option<&Bans> {
        None
    }

    /// As [`Server::has_proved`].
    fn has_proved(&mut self, _: Now, _: &Datagram<'_>, _: &Self::Prepared) -> bool {
        true
    }

    /// As [`Server::replay`].
    fn replay(&mut self, _: TableKey, _: &Change) {}

    /// As [`Server::share_proofs`].
    fn share_proofs(&mut self, _: Now, _: FleetSecret) {}

    /// Begins to look which connections of a table are live, if entries of it may have to go soon.
    /// Returns whether they may.
    fn watch_live(&mut self, _: TableKey) -> bool {
        false
    }

    /// Answers what an operator asks: a part that takes no longer than a batch.
    fn inquire(&mut self, _inquiry: &mut Inquiry) {}
}

/// A server, with its view of the live connections.
pub struct ServerShard<L> {
    pub server: Server,
    /// Asked when a table is full, or nearly.
    pub live: L,
}

impl<L: LiveConnections> Shard for ServerShard<L> {
    type Prepared = Prepared;

    fn prepare(&self, table: TableKey, payload: &[u8], index: usize, batch: &mut [Prepared]) {
        self.server.prepare(table, payload, index, batch);
    }

    fn prefetch(&self, batch: &mut [Prepared]) {
        self.server.prefetch(batch);
    }

    fn is_costly(&self, prepared: &Prepared) -> bool {
        prepared.is_costly()
    }

    fn handle(
        &mut self,
        batch: &Batch,
        datagram: Datagram<'_>,
        prepared: &Prepared,
        outbox: &mut Outbox,
    ) {
        self.server.handle_prepared(batch, &mut self.live, datagram, prepared, outbox);
    }

    fn handle_frame(&mut self, batch: &Batch, datagram: Datagram<'_>, outbox: &mut Outbox) {
        self.server.handle_frame(batch, &mut self.live, datagram, outbox);
    }

    fn is_late(&self) -> bool {
        self.server.is_late()
    }

    fn record_late(&mut self, batch: &Batch, outbox: &mut Outbox) {
        self.server.record_late(batch, outbox);
    }

    fn tend_due(&self) -> Option<Duration> {
        self.server.tend_due()
    }

    fn tend(&mut self, batch: &Batch, events: usize, outbox: &mut Outbox) {
        self.server.tend(batch, events, &mut self.live, outbox);
    }

    fn is_filling(&self) -> bool {
        self.server.is_filling()
    }

    fn fill_some(&mut self) {
        self.server.fill_some();
    }

    fn bans(&self) -> Option<&Bans> {
        self.server.bans()
    }

    fn has_proved(&mut self, now: Now, datagram: &Datagram<'_>, prepared: &Prepared) -> bool {
        self.server.has_proved(now, datagram, prepared)
    }

    fn replay(&mut self, table: TableKey, change: &Change) {
        self.server.replay(table, change);
    }

    fn share_proofs(&mut self, now: Now, secret: FleetSecret) {
        self.server.share_proofs(now, secret);
    }

    fn watch_live(&mut self, table: TableKey) -> bool {
        let is_nearly_full = self.server.is_nearly_full(table);
        if is_nearly_full {
            // What is known is asked for again, when it is wanted.
            let _ = self.live.of(table);
        }
        is_nearly_full
    }

    fn inquire(&mut self, inquiry: &mut Inquiry) {
        inquiry.ask(&mut self.server);
    }
}
