//! The thread of a reactor, from its backend to its end.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::disk::storage::{SyncPolicy, Wake};
use crate::handoff::stats::Stats;
use crate::ip::geneve::GENEVE_PORT;
use crate::kernel::backend::{Backend, Io, Waker};
use crate::kernel::clock::Clock;
use crate::kernel::mmsg::Mmsg;
use crate::kernel::ring::Ring;
use crate::kernel::socket::ReactorSocket;
use crate::kernel::waker::EventWaker;
use crate::programs::serve::deliver::Deliverer;
use crate::programs::serve::fleet::FleetSeat;
use crate::programs::serve::inquiry::Inquiries;
use crate::programs::serve::journal_trouble::say_trouble;
use crate::programs::serve::live::View;
use crate::programs::serve::names::ReactorNames;
use crate::programs::serve::reactor::{ChangeRecorder, Reactor, ServerShard};

/// A reactor that has stopped checks this many times, at these intervals, whether the others have,
/// too: one of them may be stuck.
const ALL_END_TRIES: u32 = 200;
const ALL_END_INTERVAL: Duration = Duration::from_millis(1);

/// What the threads of all reactors share.
#[derive(Clone)]
pub(super) struct ThreadsShared {
    sync: Option<SyncPolicy>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    /// How many journals cannot be written.
    troubled: Arc<AtomicUsize>,
    all_end: Arc<AllEnd>,
    ready: mpsc::Sender<io::Result<ReadyReactor>>,
    ended: mpsc::Sender<io::Result<()>>,
    on_failure: Arc<dyn Fn() + Send + Sync>,
}

/// A reactor that receives.
pub(super) struct ReadyReactor {
    pub(super) number: usize,
    pub(super) waker: EventWaker,
    /// Counts the turns of its loop.
    pub(super) turns: Arc<AtomicU64>,
}

/// Where the threads of all reactors report.
pub(super) struct Reports {
    /// Each reactor sends here when it receives, or why it cannot.
    pub(super) ready: mpsc::Receiver<io::Result<ReadyReactor>>,
    /// Each reactor that was ready sends here how it ended.
    pub(super) ended: mpsc::Receiver<io::Result<()>>,
}

impl ThreadsShared {
    /// For this number of reactors, that end when `stop` is set. When one ends by itself, it calls
    /// `on_failure`.
    pub(super) fn new(
        reactors: usize,
        sync: Option<SyncPolicy>,
        clock: Clock,
        stop: Arc<AtomicBool>,
        on_failure: Arc<dyn Fn() + Send + Sync>,
    ) -> (Self, Reports) {
        let (ended_sender, ended) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let common = Self {
            sync,
            clock,
            stop,
            troubled: Arc::default(),
            all_end: Arc::new(AllEnd(AtomicUsize::new(reactors))),
            ready: ready_sender,
            ended: ended_sender,
            on_failure,
        };
        (common, Reports { ready, ended })
    }
}

/// What a reactor is made of, on its way to the reactor's thread.
pub(super) struct Seat {
    pub(super) shard: ServerShard<View>,
    /// Gives it as soon as there is room on the disk to record anything.
    pub(super) recorder: mpsc::Receiver<ChangeRecorder>,
    pub(super) stats: Arc<Stats>,
    pub(super) inquiries: Option<Inquiries>,
    pub(super) names: ReactorNames,
    pub(super) deliverer: Option<Deliverer>,
    pub(super) fleet: Option<Box<FleetSeat>>,
    pub(super) common: ThreadsShared,
}

impl Seat {
    /// Starts the threads of all reactors, each with its sockets.
    pub(super) fn spawn_all(
        seats: impl Iterator<Item = Self>,
        groups: Vec<Vec<ReactorSocket>>,
        io: Io,
    ) -> io::Result<()> {
        let mut all = seats.zip(groups).enumerate();
        all.try_for_each(|(number, (seat, sockets))| seat.spawn(number, io, sockets))
    }

    /// Starts the thread of reactor `number`.
    fn spawn(self, number: usize, io: Io, sockets: Vec<ReactorSocket>) -> io::Result<()> {
        let on_end = OnEnd {
            end: Some(self.common.ended.clone()),
            tell: Arc::clone(&self.common.on_failure),
        };
        // On the thread itself, because a ring belongs to the thread that made it.
        let has_tunnels = self.deliverer.as_ref().is_some_and(Deliverer::has_tunnels);
        let is_of_frames = |socket: &ReactorSocket| socket.local().port() == GENEVE_PORT;
        let frames_from = sockets.iter().position(is_of_frames).filter(|_| has_tunnels);
        let run = move || match io {
            Io::Uring => self.run(number, frames_from, on_end, Ring::new(sockets)),
            Io::Mmsg => self.run(number, frames_from, on_end, Mmsg::new(sockets)),
        };
        thread::Builder::new().name(format!("reactor-{number}")).spawn(run).map(drop)
    }

    /// The life of a reactor.
    fn run<B: Backend>(
        self,
        number: usize,
        frames_from: Option<usize>,
        mut on_end: OnEnd,
        backend: io::Result<(B, EventWaker)>,
    ) {
        let ThreadsShared { sync, clock, stop, troubled, all_end, ready, .. } = self.common;
        let (backend, waker) = match backend {
            Ok(made) => made,
            Err(error) => {
                // Reported by this channel, so not by the other, too.
                on_end.forget();
                return drop(ready.send(Err(error)));
            }
        };
        let wake: Option<Arc<Wake>> = (sync == Some(SyncPolicy::Always)).then(|| {
            let waker = waker.clone();
            let wake: Arc<Wake> = Arc::new(move || waker.wake());
            wake
        });
        let coming = self.recorder;
        let recorder = move || {
            let recorder = coming.try_recv().ok()?;
            if let (Some(journal), Some(wake)) = (&recorder.journal, &wake) {
                journal.set_wake(Arc::clone(wake));
            }
            Some(recorder)
        };
        let say = say_trouble(troubled);
        let reactor = Reactor::new(backend, self.shard, recorder, clock, self.stats, say);
        let reactor = reactor.naming(self.names.writer).recording_first(self.names.first);
        let reactor = reactor.with_frames_from(frames_from.unwrap_or(usize::MAX));
        let mut reactor = match reactor.delivering(self.deliverer) {
            Ok(reactor) => reactor,
            Err(error) => {
                on_end.forget();
                return drop(ready.send(Err(error)));
            }
        };
        if let Some(fleet) = &self.fleet {
            fleet.woken_by(waker.clone());
        }
        reactor = reactor.sharing(self.fleet);
        if let Some(inquiries) = self.inquiries {
            reactor = reactor.answering(inquiries);
        }
        drop(ready.send(Ok(ReadyReactor { number, waker, turns: reactor.turns() })));
        // `recv` must fail when all others have sent and one ended before it could.
        drop(ready);
        let result = reactor.run(&stop);
        all_end.wait();
        drop(reactor);
        on_end.say(result, &stop);
    }
}

/// Keeps every reactor's sockets open until none of them receives any more: the kernel steers by
/// the number of open sockets, and would send a NAT64 to a shard that does not know it.
struct AllEnd(AtomicUsize);

impl AllEnd {
    fn wait(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
        for _ in 0..ALL_END_TRIES {
            if self.0.load(Ordering::Acquire) == 0 {
                break;
            }
            thread::sleep(ALL_END_INTERVAL);
        }
    }
}

/// Reports how a reactor ended, also when it panicked.
struct OnEnd {
    end: Option<mpsc::Sender<io::Result<()>>>,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl OnEnd {
    fn forget(&mut self) {
        self.end = None;
    }

    fn say(&mut self, result: io::Result<()>, stop: &AtomicBool) {
        let by_itself = !stop.load(Ordering::Acquire);
        if let Some(end) = self.end.take() {
            // Fails where the server was dropped: then nobody waits for it.
            drop(end.send(result));
        }
        if by_itself {
            (self.tell)();
        }
    }
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.say(Err(io::Error::other("it panicked")), &AtomicBool::new(false));
        }
    }
}
