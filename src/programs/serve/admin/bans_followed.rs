//! Who follows the ports of banned clients, to keep them out: `GET /bans/ports`.
//!
//! One task hears what the reactors note and which bans changed, and looks for the ports of those
//! that are new: nobody who goes away ends that half-way. Who asks is told what it has heard.

use std::pin::pin;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::Ipv6Net;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::handoff::bans::Bans;
use crate::handoff::change::Timestamp;
use crate::handoff::entry::{Entry, TableKey};
use crate::handoff::server::ClientsPlace;
use crate::kernel::stderr::warn;
use crate::programs::report::{BannedPort, BannedPortsReport};
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::ban_ports::{
    BanPorts, EndOrders, FORGOTTEN_AFTER, ORDER_WAIT, PORTS_MAX,
};
use crate::programs::serve::ban_notes::BanNotesTaken;
use crate::programs::serve::inquiry::{NoAnswer, Question};

/// Who asks for what changed is answered after this time, also where nothing has.
const NEWS_WAIT: Duration = Duration::from_secs(2);
/// Nobody follows who has not asked for so long.
const FOLLOWS_FOR: Duration = Duration::from_secs(5);
/// After a reactor did not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// To look at all entries once takes less than to look for more networks than this.
const LOOKED_FOR_MAX: usize = 4096;
/// Clients in networks of at least this length are looked for; for others, all entries are.
const LOOKED_FOR_LENGTH: u8 = 64;

/// Networks that were banned or unbanned. For too many, all is looked at anew.
#[derive(Debug, Default)]
pub struct ChangedNets {
    nets: Vec<Ipv6Net>,
    are_too_many: bool,
}

impl ChangedNets {
    pub fn add(&mut self, nets: impl IntoIterator<Item = Ipv6Net>) {
        self.nets.extend(nets);
        if self.nets.len() > LOOKED_FOR_MAX {
            self.are_too_many = true;
            self.nets.clear();
        }
    }

    fn add_all(&mut self, others: &mut Self) {
        self.are_too_many |= std::mem::take(&mut others.are_too_many);
        self.add(others.nets.drain(..));
    }
}

/// What who follows is told.
pub struct BansFollowed {
    inner: Mutex<Followed>,
    /// What the reactors have by now.
    news: StdMutex<BanNews>,
    /// There is something to hear.
    wake: Notify,
    /// Something new was heard.
    changed: Notify,
    /// An order was carried out.
    carried_out: Notify,
    /// Another one for each process.
    instance: u64,
}

struct BanNews {
    bans: Option<Arc<Bans>>,
    changed: ChangedNets,
}

struct Followed {
    notes: BanNotesTaken,
    /// None while nobody follows, and until all were looked at.
    ports: Option<BanPorts>,
    /// The last version that is not of these.
    before: u64,
    /// When somebody asked last.
    asked: Option<Duration>,
    orders: EndOrders,
    /// It was said that some are missing.
    was_cut: bool,
}

impl BansFollowed {
    /// By these notes, of a process that began to serve at this time, with these bans.
    pub fn new(notes: BanNotesTaken, since: Timestamp, bans: Option<Arc<Bans>>) -> Self {
        let orders = EndOrders::default();
        let inner = Followed { notes, ports: None, before: 0, asked: None, orders, was_cut: false };
        Self {
            inner: Mutex::new(inner),
            news: StdMutex::new(BanNews { bans, changed: ChangedNets::default() }),
            wake: Notify::new(),
            changed: Notify::new(),
            carried_out: Notify::new(),
            instance: since.as_micros(),
        }
    }

    fn news(&self) -> MutexGuard<'_, BanNews> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All reactors have these bans now, which differ in these networks.
    pub fn hear_of(&self, changed: &mut ChangedNets, bans: Option<Arc<Bans>>) {
        let mut news = self.news();
        news.bans = bans;
        news.changed.add_all(changed);
        drop(news);
        self.wake.notify_one();
    }

    /// What came of an order to end connections.
    pub async fn ended(&self, order: u64, result: Result<u64, String>) {
        self.inner.lock().await.orders.done(order, result);
        self.carried_out.notify_waiters();
    }

    /// Nobody has asked for a while: nothing is noted any more.
    pub async fn forget(&self, now: Duration) {
        // Who looks at entries now was asked a moment ago.
        let Ok(mut followed) = self.inner.try_lock() else { return };
        let is_old = |asked: Duration| now.saturating_sub(asked) > FORGOTTEN_AFTER;
        if followed.asked.is_some_and(is_old) {
            followed.notes.set_wanted(false);
            followed.drop_ports();
            followed.asked = None;
        }
    }
}

impl Followed {
    /// They are to be looked at anew.
    fn drop_ports(&mut self) {
        if let Some(ports) = self.ports.take() {
            self.before = ports.version();
        }
    }

    /// All that the reactors noted, and which bans changed, until now.
    async fn hear(&mut self, shared: &AdminShared) -> Result<(), NoAnswer> {
        let (bans, changed) = {
            let mut news = shared.bans.followed.news();
            (news.bans.clone(), std::mem::take(&mut news.changed))
        };
        let Self { notes, ports, .. } = self;
        let are_missing = notes.take(|note| {
            if let Some(ports) = ports {
                ports.note(note);
            }
        });
        if are_missing || changed.are_too_many {
            self.drop_ports();
        }
        let now = shared.clock.monotonic();
        match &mut self.ports {
            Some(ports) => {
                for &net in &changed.nets {
                    ports.unban(net, bans.as_deref(), now);
                }
                look(shared, &changed.nets, bans.as_deref(), ports).await?;
            }
            None => {
                // From here on, what comes and goes is noted.
                self.notes.set_wanted(true);
                let nets: Vec<_> = bans.iter().flat_map(|bans| bans.nets()).collect();
                let mut ports = BanPorts::after(self.before);
                look(shared, &nets, bans.as_deref(), &mut ports).await?;
                self.ports = Some(ports);
            }
        }
        self.orders.heard();
        let is_cut = self.ports.as_ref().is_some_and(|ports| ports.is_cut);
        if is_cut && !std::mem::replace(&mut self.was_cut, is_cut) {
            warn(format_args!(
                "banned clients have more than {PORTS_MAX} ports: those of some are not kept out by ban-set; ban \
                 fewer networks"
            ));
        }
        Ok(())
    }
}

/// Adds the ports of banned clients in these networks.
async fn look(
    shared: &AdminShared,
    nets: &[Ipv6Net],
    bans: Option<&Bans>,
    ports: &mut BanPorts,
) -> Result<(), NoAnswer> {
    let Some(bans) = bans.filter(|_| !nets.is_empty()) else { return Ok(()) };
    let is_long = |net: &Ipv6Net| net.prefix_len() >= LOOKED_FOR_LENGTH;
    let everybody = [Ipv6Net::default()];
    let are_few = nets.len() <= LOOKED_FOR_MAX && nets.iter().all(is_long);
    let now = shared.clock.monotonic();
    for &net in if are_few { nets } else { &everybody } {
        let add = |all: &[(TableKey, Entry)]| {
            for (table, entry) in all {
                if bans.has(entry.client.address, now) {
                    ports.add(BannedPort::of(*table, entry), entry.client.address);
                }
            }
        };
        each_entry(shared, net, add).await?;
    }
    Ok(())
}

/// What changed since the version that was heard. Waits until something has, but not for long.
pub async fn ports(shared: &AdminShared, heard: Option<(u64, u64)>) -> BannedPortsReport {
    let this = &shared.bans.followed;
    let version = heard.filter(|heard| heard.0 == this.instance).map(|heard| heard.1);
    let (instance, known) = heard.unwrap_or_default();
    let nothing = BannedPortsReport { instance, version: known, ..BannedPortsReport::default() };
    let end = Instant::now() + NEWS_WAIT;
    loop {
        let mut changed = pin!(this.changed.notified());
        // What changes from here on is told.
        changed.as_mut().enable();
        let Ok(mut followed) = timeout_at(end, this.inner.lock()).await else { return nothing };
        followed.asked = Some(shared.clock.monotonic());
        if let Some(ports) = &followed.ports {
            let mut report = ports.since(version);
            (report.instance, report.orders) = (this.instance, followed.orders.waiting());
            let has_news = report.is_all
                || !report.added.is_empty()
                || !report.removed.is_empty()
                || !report.orders.is_empty();
            drop(followed);
            if has_news || timeout_at(end, changed).await.is_err() {
                return report;
            }
        } else {
            drop(followed);
            this.wake.notify_one();
            if timeout_at(end, changed).await.is_err() {
                return nothing;
            }
        }
    }
}

/// Has who follows end the TCP connections of these ports. Returns how many.
///
/// # Errors
/// Why they were not ended.
pub async fn end(shared: &AdminShared, ports: Vec<BannedPort>) -> Result<u64, String> {
    let this = &shared.bans.followed;
    let now = shared.clock.monotonic();
    let order = {
        let mut followed = this.inner.lock().await;
        let is_new = |asked: Duration| now.saturating_sub(asked) < FOLLOWS_FOR;
        if !followed.asked.is_some_and(is_new) {
            return Err("nobody does that here; start nat64handoff ban-set".to_owned());
        }
        followed.orders.add(ports, now)
    };
    let order = order.ok_or("too many are to be ended already; ask again in a while")?;
    this.wake.notify_one();
    let wait = async {
        loop {
            let mut carried_out = pin!(this.carried_out.notified());
            carried_out.as_mut().enable();
            if let Some(result) = this.inner.lock().await.orders.result(order, false) {
                return result;
            }
            carried_out.await;
        }
    };
    match timeout(ORDER_WAIT, wait).await {
        Ok(result) => result,
        Err(_) => {
            let last = this.inner.lock().await.orders.result(order, true);
            let late = "nat64handoff ban-set does not answer; see what it says";
            last.unwrap_or_else(|| Err(late.to_owned()))
        }
    }
}

/// Calls `see` with the entries of these clients, some at a time.
pub async fn each_entry(
    shared: &AdminShared,
    net: Ipv6Net,
    mut see: impl FnMut(&[(TableKey, Entry)]),
) -> Result<(), NoAnswer> {
    for reactor in 0..shared.desks.len() {
        let mut from = Some(ClientsPlace::START);
        while let Some(place) = from {
            let question = Question::Clients(net, place);
            from = shared
                .ask(reactor, question, |inquiry| {
                    see(&inquiry.client_entries);
                    inquiry.next_place
                })
                .await?;
        }
    }
    Ok(())
}

/// Hears what reactors note and which bans changed, while somebody follows. Does not return.
pub async fn hear_all(shared: &AdminShared) {
    let this = &shared.bans.followed;
    let told = this.inner.lock().await.notes.told();
    let told = told.map(UnixStream::from_std).and_then(Result::ok);
    let Some(mut told) = told else {
        warn(format_args!("nobody is told of the ports of banned clients: no descriptor"));
        return std::future::pending().await;
    };
    let mut octets = [0; 64];
    loop {
        tokio::select! {
            read = told.read(&mut octets) => if !read.is_ok_and(|length| length > 0) {
                return std::future::pending().await;
            },
            () = this.wake.notified() => {}
        }
        let mut followed = this.inner.lock().await;
        if followed.asked.is_none() {
            continue;
        }
        let heard = followed.hear(shared).await;
        if heard.is_err() {
            // What was taken of the news is seen when all is looked at.
            followed.drop_ports();
        }
        drop(followed);
        this.changed.notify_waiters();
        if heard.is_err() {
            sleep(AGAIN).await;
            this.wake.notify_one();
        }
    }
}
