//! Who is banned: kept on the disk first, then brought to all reactors, then answered.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::Ipv6Net;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::disk::bans;
use crate::disk::fs::RealDisk;
use crate::handoff::bans::BANS_MAX;
use crate::handoff::entry::{Entry, TableKey};
use crate::handoff::server::ClientsPlace;
use crate::kernel::stderr::say;
use crate::programs::report::{
    BanReport, BanStatus, BannedEntry, BansReport, UnbanReport, rfc3339,
};
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::tables::entry_status;
use crate::programs::serve::bans::{BanBook, HeldBan, NotBanned, of};
use crate::programs::serve::inquiry::{NoAnswer, Question};

/// How often it is looked whether a ban has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the disk may take.
const DISK_WAIT: Duration = Duration::from_secs(10);
/// The most entries that are named in an answer.
const ENTRIES_MAX: usize = 1000;
/// The most bans that are told on standard error in a minute; the others are counted there.
const LINES_MAX: u32 = 30;
const LINES_EVERY: Duration = Duration::from_mins(1);

/// Why a client is not banned, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum BanError {
    #[error(transparent)]
    NotBanned(#[from] NotBanned),
    /// It cannot be kept.
    #[error(
        "nothing is changed, as the bans cannot be kept in the state directory: {0}; see its disk"
    )]
    NotKept(io::Error),
    /// It is kept, but not known to count.
    #[error(
        "the bans are kept, but a reactor does not answer: they count there as soon as it does; see \
         what keeps it busy"
    )]
    Late(#[from] NoAnswer),
}

/// The bans, as the operator changes them.
pub struct BanDesk {
    state: PathBuf,
    kept: Mutex<KeptBook>,
    count: AtomicU64,
}

struct KeptBook {
    book: BanBook,
    /// The file has, or may have, other bans.
    is_file_late: bool,
    /// So have the reactors.
    are_reactors_late: bool,
    /// What writes the file, until it is done: the disk may hang.
    writing: Option<JoinHandle<io::Result<()>>>,
    lines: BanLines,
}

/// How much was told in this minute.
#[derive(Default)]
struct BanLines {
    since: Duration,
    told: u32,
    untold: u32,
}

impl BanDesk {
    /// For the bans in `book`, which are kept in the directory `state`, and known to all reactors.
    pub fn new(book: BanBook, state: PathBuf) -> Self {
        let count = AtomicU64::new(book.count() as u64);
        let kept = KeptBook {
            book,
            is_file_late: false,
            are_reactors_late: false,
            writing: None,
            lines: BanLines::default(),
        };
        Self { state, kept: Mutex::new(kept), count }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl KeptBook {
    /// Writes the file of `book`.
    async fn write(&mut self, state: PathBuf, book: &BanBook) -> io::Result<()> {
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
        if let Some(before) = &mut self.writing {
            // What became of it does not matter: it is written anew.
            drop(timeout(DISK_WAIT, before).await.map_err(|_| hangs())?);
        }
        let octets = book.file();
        let write = spawn_blocking(move || bans::write(&RealDisk, &state, &octets));
        let written = timeout(DISK_WAIT, self.writing.insert(write)).await.map_err(|_| hangs())?;
        self.writing = None;
        written.map_err(io::Error::other)?
    }
}

/// Changes the bans, keeps them, and has them count.
async fn change<T>(
    shared: &AdminShared,
    change: impl FnOnce(&mut BanBook) -> Result<T, NotBanned>,
    line: impl FnOnce(&T) -> String,
) -> Result<T, BanError> {
    let mut kept = shared.bans.kept.lock().await;
    let mut book = kept.book.clone();
    let changed = change(&mut book)?;
    // Whoever asked may go away at any time.
    kept.is_file_late = true;
    let written = kept.write(shared.bans.state.clone(), &book).await;
    written.map_err(BanError::NotKept)?;
    (kept.book, kept.is_file_late, kept.are_reactors_late) = (book, false, true);
    shared.bans.count.store(kept.book.count() as u64, Ordering::Relaxed);
    kept.lines.tell(shared.clock.monotonic(), || line(&changed));
    bring(shared, &mut kept).await?;
    Ok(changed)
}

/// Brings the bans to all reactors.
async fn bring(shared: &AdminShared, kept: &mut KeptBook) -> Result<(), NoAnswer> {
    let bans = kept.book.bans();
    let pairs = shared.desks.iter().zip(&shared.wakers);
    let all = join_all(pairs.map(|(desk, waker)| desk.ban(waker, bans.clone()))).await;
    all.into_iter().collect::<Result<(), _>>()?;
    kept.are_reactors_late = false;
    Ok(())
}

impl BanLines {
    fn tell(&mut self, now: Duration, line: impl FnOnce() -> String) {
        self.pass(now);
        if self.told < LINES_MAX {
            self.told += 1;
            say(format_args!("{}", line()));
        } else {
            self.untold += 1;
        }
    }

    fn pass(&mut self, now: Duration) {
        if now.saturating_sub(self.since) < LINES_EVERY {
            return;
        }
        if self.untold > 0 {
            say(format_args!("and {} more clients were banned or unbanned", self.untold));
        }
        *self = Self { since: now, told: 0, untold: 0 };
    }
}

/// Bans clients, for this time or for good.
///
/// # Errors
/// Why they are not banned.
pub async fn ban(
    shared: &AdminShared,
    net: Ipv6Net,
    length: Option<Duration>,
) -> Result<BanReport, BanError> {
    let now = shared.clock.now();
    let held = change(shared, |book| book.ban(net, length, now), |held| said(net, held)).await?;
    let (entries_all, entries) = entries(shared, net).await?;
    Ok(BanReport { ban: ban_status(net, held), entries_all, entries })
}

fn said(net: Ipv6Net, held: &HeldBan) -> String {
    let until = held.end.map_or_else(|| "unban".to_owned(), rfc3339);
    format!("{} is banned until {until}", of(net))
}

/// Bans clients no more.
///
/// # Errors
/// Why they still are.
pub async fn unban(shared: &AdminShared, net: Ipv6Net) -> Result<UnbanReport, BanError> {
    let line = |_: &Option<Ipv6Net>| format!("{} is not banned any more", of(net));
    let by = change(shared, |book| book.unban(net), line).await?;
    Ok(UnbanReport { client: of(net), banned_as_part_of: by.map(of) })
}

/// All bans.
pub async fn all(shared: &AdminShared) -> BansReport {
    let kept = shared.bans.kept.lock().await;
    let bans = kept.book.held().map(|(net, held)| ban_status(net, held)).collect();
    BansReport { time: rfc3339(shared.clock.now().wall), bans_max: BANS_MAX as u64, bans }
}

fn ban_status(net: Ipv6Net, held: HeldBan) -> BanStatus {
    BanStatus { client: of(net), since: rfc3339(held.since), until: held.end.map(rfc3339) }
}

/// How many entries these clients have, and the first of them.
async fn entries(shared: &AdminShared, net: Ipv6Net) -> Result<(u64, Vec<BannedEntry>), NoAnswer> {
    let (mut count, mut first) = (0, Vec::new());
    let see = |all: &[(TableKey, Entry)]| {
        count += all.len() as u64;
        let left = ENTRIES_MAX.saturating_sub(first.len());
        first.extend(all.iter().take(left).map(banned_entry));
    };
    each_entry(shared, net, see).await?;
    first.sort_by(|one: &BannedEntry, other| {
        (&one.nat64, one.entry.port).cmp(&(&other.nat64, other.entry.port))
    });
    Ok((count, first))
}

fn banned_entry((table, entry): &(TableKey, Entry)) -> BannedEntry {
    BannedEntry {
        nat64: table.nat64.to_string(),
        local: table.local.to_string(),
        entry: entry_status(entry),
    }
}

/// Calls `see` with the entries of these clients, some at a time.
async fn each_entry(
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

/// Forgets bans that have ended, and does again what could not be done. Does not return.
pub async fn keep_all(shared: &AdminShared) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let mut kept = shared.bans.kept.lock().await;
        let now = shared.clock.now();
        let (ended, is_changed) = kept.book.pass(now);
        kept.lines.pass(now.monotonic);
        kept.is_file_late |= is_changed;
        kept.are_reactors_late |= !ended.is_empty();
        shared.bans.count.store(kept.book.count() as u64, Ordering::Relaxed);
        if kept.is_file_late {
            let book = kept.book.clone();
            // Else it is tried again.
            kept.is_file_late = kept.write(shared.bans.state.clone(), &book).await.is_err();
        }
        if kept.are_reactors_late {
            let _ = bring(shared, &mut kept).await;
        }
    }
}
