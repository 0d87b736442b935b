//! The fleet's thread: it speaks for all reactors of this host with the engine and the other hosts.
//! It is where waiting is done: for answers, for what is watched, for room in a reactor's queue.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{interval, sleep};

use super::folding::FleetGauges;
use super::lines::{LoggedBefore, LoggedLines};
use super::queues::{CellPage, FromSeat, KeptRequest, SeatShared, ThreadEnd, ToSeat};
use crate::disk::fleet::{
    CellReader, FleetEngine, FleetEngineError, FleetKey, FleetValue, FleetWatch, Folded, RecordKey,
    ShardRun, WatchEnded, WatchedValues, host_in, host_value, run_value,
};
use crate::handoff::change::Event;
use crate::handoff::ownership::{
    HostDatagram, HostId, HostProgress, HostRun, HostWord, Outcome, PassedRequest, Revision,
};
use crate::handoff::secret::{FleetSecret, SECRET_LENGTH};
use crate::kernel::backend::Waker;
use crate::kernel::clock::Clock;
use crate::kernel::socket::steered_to;
use crate::kernel::stderr::{say, warn};
use crate::programs::serve::live::LiveElsewhere;

/// How often the others are told that this host is there: three times before they think that it is
/// gone.
const BEAT: Duration = Duration::from_millis(100);
/// The most transactions that are under way.
const TRANSACTIONS_MAX: usize = 64;
/// What fails is tried again after that.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is told up to where lines are written.
const CURSOR_EACH: Duration = Duration::from_secs(1);
/// How often it is asked which nodes of the engine answer.
const NODES_EACH: Duration = Duration::from_secs(2);
/// A host that was heard so long ago does not fold the log any more.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// So many pages are in memory until the reactors have done with them.
const PAGES_MAX: usize = 8;
/// How soon a queue that was full is looked at again.
const ROOM_LOOKED: Duration = Duration::from_millis(1);
/// How often in a row something fails before it is said.
const SAID_AFTER: u32 = 5;
/// The most octets of a datagram.
const DATAGRAM_MAX: usize = 65_535;

/// Who this host is in its cell.
#[derive(Clone)]
pub struct FleetPlace {
    pub run: HostRun,
    /// Where the others pass requests on to.
    pub at: SocketAddrV4,
    /// What the secret of the cell becomes, if it has none.
    pub new_secret: [u8; SECRET_LENGTH],
    /// The event log, if it is a file.
    pub log: Option<LoggedBefore>,
    pub clock: Clock,
    /// What hosts tell each other of live connections.
    pub live: Arc<LiveElsewhere>,
}

/// A reactor, seen from the thread.
struct SeatSide {
    end: RefCell<ThreadEnd>,
    shard: u16,
}

impl SeatSide {
    fn wake(&self) {
        if let Some(waker) = self.end.borrow().shared.waker.get() {
            waker.wake();
        }
    }

    /// Tells the reactor, as soon as there is room.
    async fn tell(&self, told: ToSeat) {
        let mut told = told;
        loop {
            let pushed = self.end.borrow_mut().to.push(told);
            match pushed {
                Ok(()) => break,
                Err(rtrb::PushError::Full(again)) => told = again,
            }
            self.wake();
            sleep(ROOM_LOOKED).await;
        }
        self.wake();
    }

    /// Tells the reactor, if there is room: what the network could have lost as well.
    fn tell_if_room(&self, told: ToSeat) {
        let pushed = self.end.borrow_mut().to.push(told);
        if pushed.is_ok() {
            self.wake();
        }
    }
}

pub(super) struct Fleet<E> {
    engine: E,
    pub(super) place: FleetPlace,
    seats: Vec<SeatSide>,
    pub(super) socket: UdpSocket,
    pub(super) hosts: RefCell<BTreeMap<HostId, SocketAddrV4>>,
    /// Of the last datagram to other hosts.
    number: Cell<u64>,
    /// The highest number that each run has sent, to tell that it is there, and when.
    heard: RefCell<BTreeMap<HostRun, (u64, Duration)>>,
    /// The same of how far it is.
    progressed: RefCell<BTreeMap<HostRun, u64>>,
    gauges: Arc<FleetGauges>,
    /// Room for what is read and not applied yet.
    pages: Arc<Semaphore>,
}

/// Lives until `stop` is set, and `notify` is notified.
pub async fn live<E: FleetEngine + 'static>(
    engine: E,
    place: FleetPlace,
    ends: Vec<ThreadEnd>,
    socket: UdpSocket,
    gauges: Arc<FleetGauges>,
    notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
) {
    let seats = ends.into_iter().zip(0..);
    let seats = seats.map(|(end, shard)| SeatSide { end: RefCell::new(end), shard }).collect();
    let (hosts, heard, progressed) = Default::default();
    let pages = Arc::new(Semaphore::new(PAGES_MAX));
    let number = Cell::new(0);
    let fleet =
        Fleet { engine, place, seats, socket, hosts, number, heard, progressed, gauges, pages };
    let fleet = Rc::new(fleet);
    let secret = fleet.begin().await;
    let key = secret.datagram_key();
    let tasks = [
        spawn_local(Rc::clone(&fleet).watches()),
        spawn_local(Rc::clone(&fleet).keeps_cursor()),
        spawn_local(Rc::clone(&fleet).counts_nodes()),
        spawn_local(Rc::clone(&fleet).beats(key)),
        spawn_local(Rc::clone(&fleet).receives(key)),
        spawn_local(Rc::clone(&fleet).tells_live(key)),
    ];
    fleet.transacts(&notify, &stop).await;
    tasks.iter().for_each(JoinHandle::abort);
}

impl<E: FleetEngine + 'static> Fleet<E> {
    /// Tries until it is done, and says why it is not.
    async fn until_done<T, F: Future<Output = Result<T, FleetEngineError>>>(
        &self,
        what: &str,
        act: impl Fn() -> F,
    ) -> T {
        let mut failed = 0_u32;
        loop {
            match act().await {
                Ok(done) => {
                    if failed >= SAID_AFTER {
                        say(format_args!("--fleet: {what} is done"));
                    }
                    return done;
                }
                Err(why) => {
                    failed = failed.saturating_add(1);
                    let is_refused = failed == 1 && matches!(why, FleetEngineError::Unusable(_));
                    if failed == SAID_AFTER || is_refused {
                        warn(format_args!("--fleet: {what} waits: {why}"));
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// What all hosts have to know, before any request is answered.
    async fn begin(&self) -> FleetSecret {
        let FleetPlace { run, at, new_secret, .. } = self.place.clone();
        let put = || self.engine.put_first(&FleetKey::Secret(0), &new_secret);
        let secret = loop {
            let there = self.until_done("the secret of the cell", put).await;
            match <[u8; SECRET_LENGTH]>::try_from(there) {
                Ok(octets) => break FleetSecret::new(octets),
                Err(_) => warn(format_args!(
                    "--fleet: the secret of the cell has not {SECRET_LENGTH} octets: remove it (secret/0), and stop \
                     all hosts before"
                )),
            }
            sleep(PAUSE).await;
        };
        join_all(self.seats.iter().map(|seat| seat.tell(ToSeat::Secret(secret)))).await;
        let (key, value) = (FleetKey::Host(run.host), host_value(run, at));
        self.until_done("the name of this host", || self.engine.put(&key, value.as_bytes())).await;
        let (key, value) = (FleetKey::Run(run.host), run_value(run));
        self.until_done("the run of this host", || self.engine.put(&key, value.as_bytes())).await;
        for seat in &self.seats {
            let by = ShardRun { run, shard: seat.shard };
            let key = FleetKey::Record(RecordKey { by, number: 0 });
            self.until_done("the first key of the log", || self.engine.put(&key, &[])).await;
        }
        secret
    }

    /// All that there is, and then all that is done, to all reactors.
    async fn watches(self: Rc<Self>) {
        let mut is_first = true;
        loop {
            let lines = self.logged_before().filter(|_| std::mem::take(&mut is_first));
            let at = self.until_done("the state of the cell", || self.reads(lines.as_ref())).await;
            drop(lines);
            say(format_args!("--fleet: read the cell, up to revision {}", at.0));
            self.watches_from(Revision(at.0 + 1)).await;
            warn(format_args!(
                "--fleet: what was to be watched is not kept any more: all is read anew"
            ));
        }
    }

    /// All that there is, to all reactors: snapshots, and the log behind them. Before anything new
    /// is recorded, the event log gets what it lacks of earlier runs, beside these `lines`.
    async fn reads(&self, lines: Option<&LoggedLines>) -> Result<Revision, FleetEngineError> {
        let engine = &self.engine;
        let (beside, mut reader) = CellReader::open(engine).await?;
        let (beside, mut missing) = (Arc::new(beside), Vec::new());
        self.note(&beside.hosts);
        self.tell_all(|| ToSeat::Anew(Arc::clone(&beside))).await;
        while let Some(values) = reader.next(engine).await? {
            let lines = lines.iter().flat_map(|lines| {
                values.iter().flat_map(|value| lines.missing(self.place.run, value))
            });
            missing.extend(lines);
            self.tell_page(values).await;
        }
        self.complete_log(missing).await;
        self.has_watched(Some(beside.revision));
        self.gauges.log.store(reader.log_octets, Ordering::Release);
        self.gauges.snapshots.store(reader.snapshot_octets, Ordering::Release);
        self.tell_all(|| ToSeat::AnewEnds).await;
        Ok(beside.revision)
    }

    async fn tell_all(&self, told: impl Fn() -> ToSeat) {
        join_all(self.seats.iter().map(|seat| seat.tell(told()))).await;
    }

    async fn tell_page(&self, values: Vec<FleetValue>) {
        // It is never closed.
        let Ok(room) = Arc::clone(&self.pages).acquire_owned().await else { return };
        let page = Arc::new(CellPage { values, room });
        self.tell_all(|| ToSeat::AnewPage(Arc::clone(&page))).await;
    }

    fn logged_before(&self) -> Option<LoggedLines> {
        let log = self.place.log.as_ref()?;
        let read = log.read(self.place.clock.now().wall);
        let complain = |error: &io::Error| {
            let path = log.path.display();
            warn(format_args!("--fleet: {path} is not completed, as it cannot be read: {error}"));
        };
        read.inspect_err(complain).ok()
    }

    /// The event log gets what it lacks of earlier runs.
    async fn complete_log(&self, mut events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        say(format_args!("--fleet: {} lines of an earlier run are written now", events.len()));
        for seat in &self.seats {
            let is_its = |event: &mut Event| {
                steered_to(event.table.nat64, self.seats.len()) == usize::from(seat.shard)
            };
            let its = events.extract_if(.., is_its).collect();
            seat.tell(ToSeat::Lines(its)).await;
        }
    }

    /// Tells the others up to where the lines of this host's records are written.
    async fn keeps_cursor(self: Rc<Self>) {
        let key = FleetKey::Cursor(self.place.run.host);
        let mut told = 0;
        loop {
            sleep(CURSOR_EACH).await;
            let of_seats = |of: fn(&SeatShared) -> u64| {
                let read = move |seat: &SeatSide| of(&seat.end.borrow().shared);
                self.seats.iter().map(read)
            };
            // In this order: what is written later counts the next time.
            let written = of_seats(|seat| seat.written.load(Ordering::Acquire)).sum::<u64>();
            let logged = of_seats(|seat| seat.logged.load(Ordering::Acquire)).min().unwrap_or(0);
            if written != told && logged > 0 {
                let value = logged.to_string();
                if self.engine.put(&key, value.as_bytes()).await.is_ok() {
                    told = written;
                }
            }
        }
    }

    /// Returns when what comes next is not kept any more.
    async fn watches_from(&self, mut next: Revision) {
        let mut failed = 0_u32;
        loop {
            let ended = match self.engine.watch(next).await {
                Err(why) => Some(why.to_string()),
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(WatchedValues { values, revision }) if values.is_empty() => {
                            failed = 0;
                            self.has_watched(revision);
                        }
                        Ok(WatchedValues { values, revision }) => {
                            failed = 0;
                            self.has_watched(revision);
                            next = values.last().map_or(next, |last| Revision(last.revision.0 + 1));
                            let values = Arc::new(values);
                            self.note(&values);
                            self.tell_all(|| ToSeat::Watched(Arc::clone(&values))).await;
                        }
                        Err(WatchEnded::Compacted) => return,
                        Err(WatchEnded::Away(why)) => break Some(why),
                    }
                },
            };
            self.engine.leave_node();
            failed = failed.saturating_add(1);
            if failed == SAID_AFTER {
                let why = ended.unwrap_or_default();
                warn(format_args!("--fleet: nothing can be watched: {why}"));
            }
            sleep(PAUSE / 10).await;
        }
    }

    /// The watch said something, up to this revision where it is known.
    fn has_watched(&self, revision: Option<Revision>) {
        let gauges = &self.gauges;
        gauges.watched_at.store(self.now_micros(), Ordering::Release);
        if let Some(Revision(revision)) = revision {
            gauges.watched.fetch_max(revision, Ordering::AcqRel);
            gauges.newest.fetch_max(revision, Ordering::AcqRel);
        }
    }

    fn now_micros(&self) -> u64 {
        self.place.clock.monotonic().as_micros() as u64
    }

    /// How many nodes answer.
    async fn counts_nodes(self: Rc<Self>) {
        loop {
            let (answering, nodes) = self.engine.answering().await;
            self.gauges.nodes.store(nodes as u64, Ordering::Release);
            self.gauges.answering.store(answering as u64, Ordering::Release);
            sleep(NODES_EACH).await;
        }
    }

    /// Where the other hosts are, and how large the log is.
    fn note(&self, values: &[FleetValue]) {
        for value in values {
            let host = match (value.key, &value.value) {
                (FleetKey::Host(host), _) => host,
                (FleetKey::Record(_), Some(record)) => {
                    self.gauges.log.fetch_add(record.len() as u64, Ordering::AcqRel);
                    continue;
                }
                (FleetKey::Folded, Some(folded)) => {
                    Folded::parse(folded).iter().for_each(|folded| self.gauges.folded(folded));
                    continue;
                }
                _ => continue,
            };
            let there = value.value.as_deref().and_then(|value| host_in(host, value));
            self.place.live.host(host, there.map(|(run, _)| run));
            match there {
                Some((run, at)) if run.host != self.place.run.host => {
                    self.hosts.borrow_mut().insert(host, at);
                }
                Some((run, _)) if run != self.place.run => warn(format_args!(
                    "--fleet-host {}: another server has begun with this number: each host has its own",
                    host.0
                )),
                Some(_) => {}
                None => drop(self.hosts.borrow_mut().remove(&host)),
            }
        }
    }

    /// Tells the other hosts that this one is there, as long as all of its reactors are; and how
    /// far it is, also when it is there no more.
    async fn beats(self: Rc<Self>, key: [u8; 16]) {
        let mut each = interval(BEAT);
        let mut before: Vec<u64> = vec![0; self.seats.len()];
        loop {
            each.tick().await;
            let beats = self.seats.iter().map(|seat| {
                let end = seat.end.borrow();
                end.shared.beats.load(Ordering::Acquire)
            });
            let beats: Vec<u64> = beats.collect();
            let are_there = beats.iter().zip(&before).all(|(now, before)| now != before);
            before = beats;
            // Nothing is to be given to a host that gives all away.
            let are_there = are_there && !self.has_left();
            self.gauges.is_ours.store(are_there && self.is_first(), Ordering::Release);
            let progress = self.progress().map(HostWord::Progress);
            for word in are_there.then_some(HostWord::There).into_iter().chain(progress) {
                let datagram = self.datagram(&key, self.next_number(), word);
                let hosts: Vec<_> = self.hosts.borrow().values().copied().collect();
                for to in hosts {
                    // One that is lost is as one that the network loses.
                    let _ = self.socket.try_send_to(&datagram, to.into());
                }
            }
        }
    }

    /// The number of what is sent next.
    pub(super) fn next_number(&self) -> u64 {
        self.number.set(self.number.get() + 1);
        self.number.get()
    }

    /// What this host says to others.
    pub(super) fn datagram(&self, key: &[u8; 16], number: u64, word: HostWord<'_>) -> Vec<u8> {
        let mut octets = Vec::new();
        HostDatagram { from: self.place.run, number, word }.emit(key, &mut octets);
        octets
    }

    /// How far all reactors are; `None` as long as not all that there is was read, as nothing is
    /// passed on until then.
    fn progress(&self) -> Option<HostProgress> {
        let mut progress = HostProgress { watched: Revision(u64::MAX), leaves: false };
        for seat in &self.seats {
            let end = seat.end.borrow();
            let watched = Revision(end.shared.watched.load(Ordering::Acquire));
            progress.watched = progress.watched.min(watched);
            progress.leaves |= end.shared.leaves.load(Ordering::Acquire);
        }
        Some(progress).filter(|progress| progress.watched > Revision(0))
    }

    /// Whether all tables were to be given away, and are.
    fn has_left(&self) -> bool {
        self.seats.iter().all(|seat| {
            let end = seat.end.borrow();
            let owned = end.shared.owned.load(Ordering::Acquire);
            end.shared.leaves.load(Ordering::Acquire) && owned == 0
        })
    }

    /// Whether no host with a lower number was heard a short time ago.
    fn is_first(&self) -> bool {
        let now = self.place.clock.monotonic();
        let is_there = |at: Duration| now.saturating_sub(at) < HEARD_FOR;
        let heard = self.heard.borrow();
        let mut others = heard.iter().filter(|(_, (_, at))| is_there(*at));
        others.all(|(run, _)| run.host > self.place.run.host)
    }

    /// What the other hosts send.
    async fn receives(self: Rc<Self>, key: [u8; 16]) {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let Ok((length, _)) = self.socket.recv_from(&mut buffer).await else {
                // Of a host that is not there any more: the kernel tells with the next call.
                tokio::task::yield_now().await;
                continue;
            };
            let HostDatagram { from, number, word } =
                match HostDatagram::parse(&key, &buffer[..length]) {
                    Ok(datagram) if datagram.from.host == self.place.run.host => continue,
                    Ok(datagram) => datagram,
                    Err(reason) => {
                        self.gauges.count_drop(reason);
                        continue;
                    }
                };
            let live = &self.place.live;
            let taken = match word {
                HostWord::There => {
                    self.heard(from, number);
                    Ok(())
                }
                HostWord::Progress(progress) => {
                    self.progressed(from, number, progress);
                    Ok(())
                }
                HostWord::Request(PassedRequest { table, port, passed, payload }) => {
                    let kept = KeptRequest::new(table, port, payload, Some(passed), Duration::ZERO);
                    let seat = &self.seats[steered_to(table.nat64, self.seats.len())];
                    seat.tell_if_room(ToSeat::Passed(kept));
                    Ok(())
                }
                HostWord::WantsLive(tables) => live.asked(from, number, tables),
                HostWord::Live(part) => live.said(from, number, &part),
            };
            if let Err(reason) = taken {
                self.gauges.count_drop(reason);
            }
        }
    }

    fn heard(&self, from: HostRun, number: u64) {
        let mut heard = self.heard.borrow_mut();
        let last = heard.get(&from).map_or(0, |&(last, _)| last);
        if number <= last {
            return;
        }
        // Of each host, the run that was heard last.
        heard.retain(|run, _| run.host != from.host);
        heard.insert(from, (number, self.place.clock.monotonic()));
        self.place.live.heard(from);
        self.seats.iter().for_each(|seat| seat.tell_if_room(ToSeat::Heard(from)));
    }

    fn progressed(&self, from: HostRun, number: u64, progress: HostProgress) {
        let mut progressed = self.progressed.borrow_mut();
        if progressed.get(&from).is_some_and(|&last| number <= last) {
            return;
        }
        progressed.retain(|run, _| run.host != from.host);
        progressed.insert(from, number);
        // Also where it gives all away: its connections go on.
        self.place.live.heard(from);
        self.seats.iter().for_each(|seat| seat.tell_if_room(ToSeat::Progressed(from, progress)));
    }

    /// Sends what reactors want, and tells them what came of it.
    async fn transacts(self: &Rc<Self>, notify: &Notify, stop: &AtomicBool) {
        let room = Arc::new(Semaphore::new(TRANSACTIONS_MAX));
        while !stop.load(Ordering::Acquire) {
            for seat in 0..self.seats.len() {
                loop {
                    let wanted = self.seats[seat].end.borrow_mut().from.pop();
                    let Ok(wanted) = wanted else { break };
                    let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                    let fleet = Rc::clone(self);
                    spawn_local(async move {
                        fleet.transact(seat, wanted).await;
                        drop(permit);
                    });
                }
            }
            notify.notified().await;
        }
    }

    async fn transact(&self, seat: usize, wanted: FromSeat) {
        let seat = &self.seats[seat];
        let FromSeat { id, transaction, body } = wanted;
        let by = ShardRun { run: self.place.run, shard: seat.shard };
        let outcome: Outcome = self.engine.transact(by, &transaction, &body).await;
        let gauges = &self.gauges;
        match &outcome {
            Outcome::Done(Revision(revision)) => {
                gauges.done.fetch_add(1, Ordering::AcqRel);
                gauges.done_at.store(self.now_micros(), Ordering::Release);
                gauges.newest.fetch_max(*revision, Ordering::AcqRel);
            }
            Outcome::Unknown => drop(gauges.unanswered.fetch_add(1, Ordering::AcqRel)),
            Outcome::Refused(_) => {}
        }
        if matches!(&outcome, Outcome::Refused(lost) if lost.is_empty()) {
            // Another run of this host has begun, or keys were removed: nothing can be recorded.
            sleep(PAUSE).await;
        }
        seat.tell(ToSeat::Outcome(id, outcome)).await;
    }
}
