//! The fleet's thread: it speaks for all reactors of this host with the engine and the other hosts.
//! It is where waiting is done: for answers, for what is watched, for room in a reactor's queue.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
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

use super::lines::LoggedBefore;
use super::queues::{FromSeat, KeptRequest, ThreadEnd, ToSeat};
use crate::disk::fleet::{
    FleetEngine, FleetEngineError, FleetKey, FleetValue, FleetWatch, ShardRun, WatchEnded, host_in,
    host_value,
};
use crate::handoff::change::Event;
use crate::handoff::ownership::{HostDatagram, HostId, HostRun, Outcome, PassedRequest, Revision};
use crate::handoff::secret::{FleetSecret, SECRET_LENGTH};
use crate::kernel::backend::Waker;
use crate::kernel::clock::Clock;
use crate::kernel::socket::steered_to;
use crate::kernel::stderr::{say, warn};

/// How often the others are told that this host is there: three times before they think that it is
/// gone.
const BEAT: Duration = Duration::from_millis(100);
/// The most transactions that are under way.
const TRANSACTIONS_MAX: usize = 64;
/// What fails is tried again after that.
const PAUSE: Duration = Duration::from_millis(200);
/// How soon a queue that was full is looked at again.
const ROOM_LOOKED: Duration = Duration::from_millis(1);
/// How often in a row something fails before it is said.
const SAID_AFTER: u32 = 5;
/// The most octets of a datagram.
const DATAGRAM_MAX: usize = 65_535;

/// Who this host is in its cell.
#[derive(Debug, Clone)]
pub struct FleetPlace {
    pub run: HostRun,
    /// Where the others pass requests on to.
    pub at: SocketAddrV4,
    /// What the secret of the cell becomes, if it has none.
    pub new_secret: [u8; SECRET_LENGTH],
    /// The event log, if it is a file.
    pub log: Option<LoggedBefore>,
    pub clock: Clock,
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

struct Fleet<E> {
    engine: E,
    place: FleetPlace,
    seats: Vec<SeatSide>,
    socket: UdpSocket,
    hosts: RefCell<BTreeMap<HostId, SocketAddrV4>>,
    /// The highest number that each run has sent, to tell that it is there.
    heard: RefCell<BTreeMap<HostRun, u64>>,
}

/// Lives until `stop` is set, and `notify` is notified.
pub async fn live<E: FleetEngine + 'static>(
    engine: E,
    place: FleetPlace,
    ends: Vec<ThreadEnd>,
    socket: UdpSocket,
    notify: Arc<Notify>,
    stop: Arc<AtomicBool>,
) {
    let seats = ends.into_iter().zip(0..);
    let seats = seats.map(|(end, shard)| SeatSide { end: RefCell::new(end), shard }).collect();
    let (hosts, heard) = (RefCell::default(), RefCell::default());
    let fleet = Rc::new(Fleet { engine, place, seats, socket, hosts, heard });
    let secret = fleet.begin().await;
    let key = secret.datagram_key();
    let tasks = [
        spawn_local(Rc::clone(&fleet).watches()),
        spawn_local(Rc::clone(&fleet).beats(key)),
        spawn_local(Rc::clone(&fleet).receives(key)),
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
        secret
    }

    /// All that there is, and then all that is done, to all reactors.
    async fn watches(self: Rc<Self>) {
        let mut is_first = true;
        loop {
            let (at, values) =
                self.until_done("the state of the cell", || self.engine.read()).await;
            let values = Arc::new(values);
            self.note(&values);
            if std::mem::take(&mut is_first) {
                self.complete_log(&values).await;
            }
            let tell = |seat| Self::tell(seat, ToSeat::Anew(at, Arc::clone(&values)));
            join_all(self.seats.iter().map(tell)).await;
            say(format_args!(
                "--fleet: read {} values of the cell, up to revision {}",
                values.len(),
                at.0
            ));
            self.watches_from(Revision(at.0 + 1)).await;
            warn(format_args!(
                "--fleet: what was to be watched is not kept any more: all is read anew"
            ));
        }
    }

    /// Before anything new is recorded, the event log gets what it lacks of earlier runs.
    async fn complete_log(&self, values: &[FleetValue]) {
        let Some(log) = &self.place.log else { return };
        let mut events = match log.missing(self.place.run, values, self.place.clock.now().wall) {
            Ok(events) => events,
            Err(error) => {
                let path = log.path.display();
                warn(format_args!(
                    "--fleet: {path} is not completed, as it cannot be read: {error}"
                ));
                return;
            }
        };
        if !events.is_empty() {
            say(format_args!("--fleet: {} lines of an earlier run are written now", events.len()));
        }
        for seat in &self.seats {
            let is_its = |event: &mut Event| {
                steered_to(event.table.nat64, self.seats.len()) == usize::from(seat.shard)
            };
            let its = events.extract_if(.., is_its).collect();
            seat.tell(ToSeat::Lines(its)).await;
        }
    }

    async fn tell(seat: &SeatSide, told: ToSeat) {
        seat.tell(told).await;
    }

    /// Returns when what comes next is not kept any more.
    async fn watches_from(&self, mut next: Revision) {
        let mut failed = 0_u32;
        loop {
            let ended = match self.engine.watch(next).await {
                Err(why) => Some(why.to_string()),
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(values) if values.is_empty() => failed = 0,
                        Ok(values) => {
                            failed = 0;
                            next = values.last().map_or(next, |last| Revision(last.revision.0 + 1));
                            let values = Arc::new(values);
                            self.note(&values);
                            let told = || ToSeat::Watched(Arc::clone(&values));
                            join_all(self.seats.iter().map(|seat| seat.tell(told()))).await;
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

    /// Where the other hosts are.
    fn note(&self, values: &[FleetValue]) {
        for value in values {
            let FleetKey::Host(host) = value.key else { continue };
            let there = value.value.as_deref().and_then(|value| host_in(host, value));
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

    /// Tells the other hosts that this one is there, as long as all of its reactors are.
    async fn beats(self: Rc<Self>, key: [u8; 16]) {
        let (mut each, mut number) = (interval(BEAT), 0);
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
            if !are_there {
                continue;
            }
            number += 1;
            let mut datagram = Vec::new();
            let beat = HostDatagram { from: self.place.run, number, request: None };
            beat.emit(&key, &mut datagram);
            let hosts: Vec<_> = self.hosts.borrow().values().copied().collect();
            for to in hosts {
                // One that is lost is as one that the network loses.
                let _ = self.socket.try_send_to(&datagram, to.into());
            }
        }
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
            let Some(datagram) = HostDatagram::parse(&key, &buffer[..length]) else { continue };
            if datagram.from.host == self.place.run.host {
                continue;
            }
            match datagram.request {
                None => self.heard(&datagram),
                Some(PassedRequest { table, port, passed, payload }) => {
                    let kept = KeptRequest::new(table, port, payload, Some(passed), Duration::ZERO);
                    let seat = &self.seats[steered_to(table.nat64, self.seats.len())];
                    seat.tell_if_room(ToSeat::Passed(kept));
                }
            }
        }
    }

    fn heard(&self, datagram: &HostDatagram<'_>) {
        let mut heard = self.heard.borrow_mut();
        let last = heard.get(&datagram.from).copied().unwrap_or(0);
        if datagram.number <= last {
            return;
        }
        // Of each host, the run that was heard last.
        heard.retain(|run, _| run.host != datagram.from.host);
        heard.insert(datagram.from, datagram.number);
        self.seats.iter().for_each(|seat| seat.tell_if_room(ToSeat::Heard(datagram.from)));
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
        seat.tell(ToSeat::Outcome(id, outcome)).await;
    }
}
