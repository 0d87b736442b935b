//! [`FleetSeat`]: a reactor's part of the fleet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::queues::{FromSeat, KeptRequest, SeatEnd, ToSeat};
use super::records::FleetRecords;
use super::written::WrittenLines;
use crate::disk::fleet::{
    BodyDamaged, CellBeside, FleetKey, FleetValue, ShardRun, TimedChange, changes_in_part,
    changes_of, claim_in, host_in,
};
use crate::handoff::change::{Change, Event, Now};
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{
    HostDatagram, HostId, HostWord, Ownership, OwnershipLimits, PassedOn, PassedRequest, Revision,
    ToDo, Transaction, WhoAnswers,
};
use crate::handoff::secret::FleetSecret;
use crate::handoff::stats::{Counter, DropReason, Stats};
use crate::kernel::socket::steered_to;
use crate::kernel::stderr::warn;
use crate::kernel::waker::EventWaker;

/// How long a reactor waits for a datagram at most: [`Ownership::tick`] is to be called.
const TICK: Duration = Duration::from_millis(50);
/// The most requests that wait until it is known who answers them...
const KEPT_MAX: usize = 1024;
/// ...and how long: a NAT64 asks again.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// Who was given a table that is nearly full deletes nothing for so long: first the other hosts say
/// which connections are live there.
const HEARS_FIRST: Duration = Duration::from_millis(500);

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestRoute {
    /// It is answered here.
    Here {
        /// Without deleting any entry.
        keeps_all: bool,
    },
    /// That is done.
    Elsewhere,
}

/// What a turn of the fleet leaves to the reactor.
#[derive(Debug, Default)]
pub struct FleetTurn {
    /// Lines about what is recorded now.
    pub events: Vec<Event>,
    /// Tables that this host does not answer for any more: what waits for them is void.
    pub lost: Vec<TableKey>,
    /// What tables are to become, in order.
    pub replayed: Vec<(TableKey, Change)>,
    /// Tables that this host answers for from now on, as they are after that.
    pub won: Vec<TableKey>,
    /// The secret of the fleet is known now.
    pub secret: Option<FleetSecret>,
    /// Requests that are to be looked at, perhaps once more.
    pub requests: Vec<KeptRequest>,
}

/// What is read anew.
struct Anew {
    beside: Arc<CellBeside>,
    /// The tables that are as they are read: those of this run.
    kept: Vec<TableKey>,
    /// There may be more at once.
    has_more: bool,
}

/// A reactor's part of the fleet.
pub struct FleetSeat {
    me: ShardRun,
    /// How many there are.
    shards: usize,
    ownership: Ownership,
    records: FleetRecords,
    end: SeatEnd,
    /// What found no room in the queue.
    unsent: VecDeque<FromSeat>,
    actions: Vec<ToDo>,
    turned: FleetTurn,
    anew: Option<Anew>,
    /// All was read.
    is_loaded: bool,
    /// Tables that were read or watched.
    known: BTreeSet<TableKey>,
    lines: WrittenLines,
    /// Those that were won a short time ago and are nearly full, until when nothing is deleted.
    hears_first: Vec<(TableKey, Duration)>,
    kept: VecDeque<KeptRequest>,
    /// Something may have changed for them.
    looks_again: bool,
    hosts: BTreeMap<HostId, SocketAddrV4>,
    /// Never waits.
    socket: UdpSocket,
    datagram_key: [u8; 16],
    /// The number of the next datagram to another host.
    datagram: u64,
    datagrams: Vec<u8>,
    /// When it is to tick again.
    tick_due: Duration,
    damage_said: bool,
}

impl FleetSeat {
    /// Of this shard, of so many. `socket` must not block.
    pub fn new(
        me: ShardRun,
        shards: usize,
        now: Duration,
        end: SeatEnd,
        socket: UdpSocket,
    ) -> Self {
        Self {
            me,
            shards,
            ownership: Ownership::new(me.run, OwnershipLimits::default(), now),
            records: FleetRecords::new(me),
            end,
            unsent: VecDeque::new(),
            actions: Vec::new(),
            turned: FleetTurn::default(),
            anew: None,
            is_loaded: false,
            known: BTreeSet::new(),
            lines: WrittenLines::default(),
            hears_first: Vec::new(),
            kept: VecDeque::new(),
            looks_again: false,
            hosts: BTreeMap::new(),
            socket,
            datagram_key: [0; 16],
            datagram: 1,
            datagrams: Vec::new(),
            tick_due: now,
            damage_said: false,
        }
    }

    /// By that the thread wakes the reactor.
    pub fn woken_by(&self, waker: EventWaker) {
        // There is one reactor.
        let _ = self.end.shared.waker.set(waker);
    }

    /// How long the reactor may wait.
    pub fn wait(&self) -> Duration {
        let has_more = self.anew.as_ref().is_some_and(|anew| anew.has_more);
        if has_more { Duration::ZERO } else { TICK }
    }

    pub fn next_number(&self) -> u64 {
        self.records.next_number()
    }

    pub fn durable(&self) -> u64 {
        self.records.durable()
    }

    /// For how many more changes there is room.
    pub fn room(&self) -> usize {
        self.records.room()
    }

    /// How many changes are not recorded: their lines come into the log's queue later.
    pub fn unrecorded(&self) -> usize {
        self.records.len()
    }

    /// Whether an answer about a table may leave now.
    pub fn may_answer(&self, now: Duration, table: TableKey) -> bool {
        self.ownership.may_answer(now, table)
    }

    /// Where a request goes that came now.
    pub fn route(
        &mut self,
        now: Duration,
        request: AskedRequest<'_>,
        has_proved: impl FnOnce() -> bool,
        stats: &Stats,
    ) -> RequestRoute {
        let AskedRequest { table, port, payload, passed, since } = request;
        if !self.is_loaded {
            stats.count_drop(DropReason::FleetAway);
            return RequestRoute::Elsewhere;
        }
        // Any host asks who has not proved itself for a proof.
        if !self.ownership.is_owned(table) && !has_proved() {
            return RequestRoute::Here { keeps_all: true };
        }
        let answers = self.ownership.asked(now, table, passed, &mut self.actions);
        if !self.actions.is_empty() {
            self.act(now, true);
        }
        match answers {
            WhoAnswers::Answer { deletes } => {
                let hears = self.hears_first.iter().any(|&(of, until)| of == table && now < until);
                return RequestRoute::Here { keeps_all: !deletes || hears };
            }
            WhoAnswers::PassOn(host, claimed) => {
                let passed = PassedOn::on(passed, self.me.run.host, claimed);
                let request = PassedRequest { table, port, passed, payload };
                if self.pass_on(host, request) {
                    stats.add(Counter::PassedOn, 1);
                } else {
                    stats.count_drop(DropReason::FleetAway);
                }
            }
            WhoAnswers::Wait if self.kept.len() < KEPT_MAX => {
                self.kept.push_back(KeptRequest::new(table, port, payload, passed, since));
            }
            WhoAnswers::Wait | WhoAnswers::Silent(_) => stats.count_drop(DropReason::FleetAway),
        }
        RequestRoute::Elsewhere
    }

    /// A table was won, and is nearly full.
    pub fn hears_first(&mut self, now: Duration, table: TableKey) {
        self.hears_first.push((table, now + HEARS_FIRST));
    }

    fn pass_on(&mut self, host: HostId, request: PassedRequest<'_>) -> bool {
        let Some(&to) = self.hosts.get(&host) else { return false };
        let number = self.datagram;
        self.datagram += 1;
        let word = HostWord::Request(request);
        let datagram = HostDatagram { from: self.me.run, number, word };
        self.datagrams.clear();
        datagram.emit(&self.datagram_key, &mut self.datagrams);
        self.socket.send_to(&self.datagrams, to).is_ok()
    }

    /// Changes of a batch, which are to be recorded. What was put off and is of a table that was
    /// lost meanwhile is not.
    pub fn take(&mut self, now: Now, changes: &[(TableKey, Change)]) {
        let is_owned = |change: &&(TableKey, Change)| self.ownership.is_owned(change.0);
        self.records.take(now.wall, changes.iter().filter(is_owned));
        self.record(now.monotonic);
    }

    /// Records what waits, if nothing is under way.
    fn record(&mut self, now: Duration) {
        let Some(tables) = self.records.next_tables() else { return };
        if let Some(number) = self.ownership.record(now, tables, &mut self.actions) {
            self.records.begin(number);
        }
        self.send_all();
    }

    /// There is nothing but that to be done.
    fn send_all(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            if let ToDo::Send { id, transaction } = action {
                self.send(id, transaction);
            }
        }
    }

    fn send(&mut self, id: u64, transaction: Transaction) {
        let body = match transaction {
            Transaction::Record { .. } => self.records.body(),
            Transaction::Claim { .. } | Transaction::Confirm { .. } => Vec::new(),
        };
        self.unsent.push_back(FromSeat { id, transaction, body });
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(next) = self.unsent.pop_front() {
            if let Err(rtrb::PushError::Full(next)) = self.end.to.push(next) {
                self.unsent.push_front(next);
                break;
            }
        }
        self.end.notify.notify_one();
    }

    /// Takes what the thread tells, and does what there is to do at this time. To be called with
    /// each turn of the reactor; `holds`: whether answers about a table wait.
    pub fn turn(&mut self, now: Now, holds: impl Fn(TableKey) -> bool) -> FleetTurn {
        let at = now.monotonic;
        // A page is enough for one turn.
        let mut is_page = false;
        while !is_page {
            let Ok(told) = self.end.from.pop() else { break };
            is_page = matches!(told, ToSeat::AnewPage(_));
            self.told(at, told);
        }
        if let Some(anew) = &mut self.anew {
            anew.has_more = is_page;
        }
        if at >= self.tick_due {
            self.tick(at, holds);
        }
        if !self.unsent.is_empty() {
            self.flush();
        }
        self.record(at);
        while self.kept.front().is_some_and(|kept| at.saturating_sub(kept.since) > KEPT_FOR) {
            self.kept.pop_front();
        }
        if std::mem::take(&mut self.looks_again) {
            self.turned.requests.extend(self.kept.drain(..));
        }
        std::mem::take(&mut self.turned)
    }

    fn tick(&mut self, at: Duration, holds: impl Fn(TableKey) -> bool) {
        self.tick_due = at + TICK;
        self.hears_first.retain(|&(_, until)| at < until);
        let shared = Arc::clone(&self.end.shared);
        if shared.leaves.load(Ordering::Acquire) {
            self.ownership.leave(at);
        }
        let records = &self.records;
        self.ownership.tick(at, |table| !records.has(table) && !holds(table), &mut self.actions);
        self.act(at, false);
        self.looks_again |= !self.kept.is_empty();
        if self.is_loaded && self.ownership.is_there(at) {
            shared.beats.fetch_add(1, Ordering::AcqRel);
        }
        let is_ready = self.is_loaded && self.ownership.is_ready(at);
        shared.is_ready.store(is_ready, Ordering::Release);
        shared.owned.store(self.ownership.owned() as u64, Ordering::Release);
        shared.hears_others.store(self.ownership.hears_others(at), Ordering::Release);
        let is_followed = self.ownership.is_followed(at) && self.kept.is_empty();
        shared.is_followed.store(is_followed, Ordering::Release);
    }

    fn told(&mut self, at: Duration, told: ToSeat) {
        match told {
            ToSeat::Secret(secret) => {
                self.datagram_key = secret.datagram_key();
                self.turned.secret = Some(secret);
            }
            ToSeat::Lines(events) => {
                self.lines.watched(0, Revision(0));
                self.turned.events.extend(events);
            }
            ToSeat::Anew(beside) => self.begin_anew(beside),
            ToSeat::AnewPage(page) => self.go_on_anew(&page.values),
            ToSeat::AnewEnds => self.end_anew(at),
            ToSeat::Watched(values) => {
                for value in values.iter() {
                    self.watched(at, value);
                }
            }
            ToSeat::Outcome(id, outcome) => {
                self.ownership.outcome(at, id, outcome, &mut self.actions);
                self.act(at, false);
                self.looks_again |= !self.kept.is_empty();
            }
            ToSeat::Heard(run) => self.ownership.heard(at, run),
            ToSeat::Progressed(run, progress) => self.ownership.progressed(at, run, progress),
            ToSeat::Passed(mut request) => {
                request.since = at;
                self.turned.requests.push(request);
            }
        }
    }

    /// Whether a table belongs to this shard.
    fn is_mine(&self, table: TableKey) -> bool {
        steered_to(table.nat64, self.shards) == usize::from(self.me.shard)
    }

    fn begin_anew(&mut self, beside: Arc<CellBeside>) {
        let claims = beside.claims.iter().filter(|claim| self.is_mine(claim.0));
        let kept = claims.filter(|&&(table, at, _)| self.ownership.is_owned_by(table, at));
        let kept: Vec<_> = kept.map(|&(table, ..)| table).collect();
        let claimed = self.ownership.claimed_tables().map(|(table, _)| table);
        let mut known: BTreeSet<_> = std::mem::take(&mut self.known);
        known.extend(claimed);
        for table in known.into_iter().filter(|table| !kept.contains(table)) {
            self.records.forget(table);
            self.turned.replayed.push((table, Change::Forgotten));
            self.turned.lost.push(table);
        }
        self.known.extend(&kept);
        for value in &beside.hosts {
            if let FleetKey::Host(host) = value.key {
                self.host(host, value);
            }
        }
        self.anew = Some(Anew { beside, kept, has_more: true });
    }

    fn go_on_anew(&mut self, values: &[FleetValue]) {
        let Some(Anew { beside, kept, .. }) = self.anew.take() else { return };
        for value in values {
            let Some(octets) = &value.value else { continue };
            let read = match &value.key {
                FleetKey::Record(key) => changes_of(key, octets),
                FleetKey::Part(key) => changes_in_part(key, octets),
                _ => continue,
            };
            self.apply(&value.key, read, |table| {
                !kept.contains(&table) && beside.is_new(value, table)
            });
        }
        self.anew = Some(Anew { beside, kept, has_more: true });
    }

    fn end_anew(&mut self, at: Duration) {
        let Some(Anew { beside, .. }) = self.anew.take() else { return };
        let claims = beside.claims.iter().filter(|claim| self.is_mine(claim.0)).copied();
        let claims: Vec<_> = claims.collect();
        self.ownership.read_anew(at, beside.revision, claims, &mut self.actions);
        self.end.shared.watched.store(beside.revision.0, Ordering::Release);
        self.is_loaded = true;
        self.act(at, true);
        self.looks_again |= !self.kept.is_empty();
    }

    fn watched(&mut self, at: Duration, value: &FleetValue) {
        let mut claim = None;
        match &value.key {
            FleetKey::Owner(table) if self.is_mine(*table) => {
                claim = value.value.as_deref().and_then(claim_in).map(|claim| (*table, claim));
                if claim.is_some_and(|(_, claim)| claim.by.0 != self.me.run) {
                    self.records.claim_watched(*table, &mut self.turned.replayed);
                }
            }
            FleetKey::Record(key) if key.by == self.me && value.value.is_some() => {
                self.records.watched(key.number);
                self.lines.watched(key.number, value.revision);
            }
            FleetKey::Record(key) => {
                if let Some(octets) = &value.value {
                    self.apply(&value.key, changes_of(key, octets), |_| true);
                }
            }
            FleetKey::Host(host) => self.host(*host, value),
            _ => {}
        }
        self.ownership.watched(at, value.revision, claim, &mut self.actions);
        // From now on requests go by that.
        self.end.shared.watched.store(value.revision.0, Ordering::Release);
        self.act(at, true);
        self.looks_again |= !self.kept.is_empty();
    }

    /// Tables become what another shard has recorded, as far as that is wanted.
    fn apply(
        &mut self,
        key: &FleetKey,
        read: Result<Vec<TimedChange>, BodyDamaged>,
        wants: impl Fn(TableKey) -> bool,
    ) {
        match read {
            Ok(changes) => {
                for changes in changes.chunk_by(|one, next| one.1 == next.1) {
                    let table = changes[0].1;
                    if self.is_mine(table) && wants(table) {
                        self.known.insert(table);
                        let changes =
                            changes.iter().map(|(_, table, change)| (*table, change.clone()));
                        self.turned.replayed.extend(changes);
                    }
                }
            }
            Err(damage) if !self.damage_said => {
                self.damage_said = true;
                warn(format_args!(
                    "{key} in etcd is not what was recorded: {damage}; see whether something else writes there"
                ));
            }
            Err(_) => {}
        }
    }

    fn host(&mut self, host: HostId, value: &FleetValue) {
        match value.value.as_deref().and_then(|value| host_in(host, value)) {
            Some((run, at)) if run != self.me.run => drop(self.hosts.insert(host, at)),
            Some(_) => {}
            None => drop(self.hosts.remove(&host)),
        }
    }

    /// Does what ownership wants done. `is_watched`: it wants that because of what was watched.
    fn act(&mut self, at: Duration, is_watched: bool) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    ToDo::Send { id, transaction } => self.send(id, transaction),
                    ToDo::Won(table) => self.turned.won.push(table),
                    ToDo::Lost(table) => {
                        self.records.lost(table, is_watched, &mut self.turned.replayed);
                        self.turned.lost.push(table);
                    }
                    ToDo::Recorded(number) => {
                        self.turned.events.extend(self.records.recorded(number));
                        self.lines.recorded(number);
                    }
                    ToDo::Refused(number) => {
                        self.records.refused(number, &mut self.turned.replayed);
                    }
                }
            }
            self.record(at);
        }
    }

    /// So many lines of this reactor were given to the event log, and so many are in it.
    pub fn logged(&mut self, given: u64, written: u64) {
        if self.is_loaded {
            let shared = &self.end.shared;
            let watched = Revision(shared.watched.load(Ordering::Acquire));
            let upto = self.lines.written(given, written, watched);
            shared.logged.store(upto.0, Ordering::Release);
            shared.written.store(self.lines.records, Ordering::Release);
        }
    }

    /// Whether anything is not recorded yet.
    pub fn is_recording(&self) -> bool {
        self.records.len() > 0
    }
}

/// A request, before it is known where it goes.
#[derive(Debug, Clone, Copy)]
pub struct AskedRequest<'a> {
    pub table: TableKey,
    pub port: u16,
    pub payload: &'a [u8],
    /// Where another host passed it on.
    pub passed: Option<PassedOn>,
    /// When it came.
    pub since: Duration,
}
