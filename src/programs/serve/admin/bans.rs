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
use crate::handoff::change::{Now, Timestamp};
use crate::handoff::entry::{Entry, TableKey};
use crate::kernel::stderr::say;
use crate::programs::report::{
    BanReport, BanStatus, BannedEntry, BannedPort, BansReport, UnbanReport, rfc3339,
};
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::bans_followed::{self, BansFollowed, ChangedNets, each_entry};
use crate::programs::serve::admin::tables::entry_status;
use crate::programs::serve::ban_notes::BanNotesTaken;
use crate::programs::serve::bans::{BanBook, HeldBan, NotBanned, of};
use crate::programs::serve::inquiry::NoAnswer;

/// How often it is looked whether a ban has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the disk may take.
const DISK_WAIT: Duration = Duration::from_secs(10);
/// The most entries that are named in an answer.
const ENTRIES_MAX: usize = 1000;
/// The most ports whose connections are ended.
const ENDED_PORTS_MAX: usize = 65_536;
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
    pub followed: BansFollowed,
}

struct KeptBook {
    book: BanBook,
    /// The file has, or may have, other bans.
    is_file_late: bool,
    /// So have the reactors.
    are_reactors_late: bool,
    /// What was banned or unbanned since the reactors, and who follows, heard of it.
    untold: ChangedNets,
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
    pub fn new(book: BanBook, state: PathBuf, notes: BanNotesTaken, since: Timestamp) -> Self {
        let (count, bans) = (AtomicU64::new(book.count() as u64), book.bans());
        let kept = KeptBook {
            book,
            is_file_late: false,
            are_reactors_late: false,
            untold: ChangedNets::default(),
            writing: None,
            lines: BanLines::default(),
        };
        let followed = BansFollowed::new(notes, since, bans);
        Self { state, kept: Mutex::new(kept), count, followed }
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

/// Changes the bans of this network, keeps them, and has them count.
async fn change<T>(
    shared: &AdminShared,
    net: Ipv6Net,
    change: impl FnOnce(&mut BanBook, Now) -> Result<T, NotBanned>,
    line: impl FnOnce(&T) -> String,
) -> Result<T, BanError> {
    let mut kept = shared.bans.kept.lock().await;
    if kept.book.is_frozen {
        let why = "the file of before can neither be read nor be put aside";
        return Err(BanError::NotKept(io::Error::other(why)));
    }
    let mut book = kept.book.clone();
    let now = shared.clock.now();
    let (ended, _) = book.pass(now);
    let changed = change(&mut book, now)?;
    // Whoever asked may go away at any time.
    kept.is_file_late = true;
    let written = kept.write(shared.bans.state.clone(), &book).await;
    written.map_err(BanError::NotKept)?;
    kept.untold.add(ended.into_iter().chain([net]));
    (kept.book, kept.is_file_late, kept.are_reactors_late) = (book, false, true);
    shared.bans.count.store(kept.book.count() as u64, Ordering::Relaxed);
    kept.lines.tell(now.monotonic, || line(&changed));
    bring(shared, &mut kept).await?;
    Ok(changed)
}

/// Brings the bans to all reactors, and then to who follows.
async fn bring(shared: &AdminShared, kept: &mut KeptBook) -> Result<(), NoAnswer> {
    let bans = kept.book.bans();
    let pairs = shared.desks.iter().zip(&shared.wakers);
    let all = join_all(pairs.map(|(desk, waker)| desk.ban(waker, bans.clone()))).await;
    all.into_iter().collect::<Result<(), _>>()?;
    kept.are_reactors_late = false;
    shared.bans.followed.hear_of(&mut kept.untold, bans);
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
    kills: bool,
) -> Result<BanReport, BanError> {
    let held =
        change(shared, net, |book, now| book.ban(net, length, now), |held| said(net, held)).await?;
    let (mut entries_all, mut entries) = (0, Vec::new());
    let mut see = |all: &[(TableKey, Entry)]| {
        entries_all += all.len() as u64;
        let left = ENTRIES_MAX.saturating_sub(entries.len());
        entries.extend(all.iter().take(left).map(banned_entry));
    };
    let mut ports = Vec::new();
    let see = |all: &[(TableKey, Entry)]| {
        see(all);
        let left = ENDED_PORTS_MAX.saturating_sub(ports.len());
        ports.extend(all.iter().take(left).map(|(table, entry)| BannedPort::of(*table, entry)));
    };
    each_entry(shared, net, see).await?;
    entries.sort_by(|one: &BannedEntry, other| {
        (&one.nat64, one.entry.port).cmp(&(&other.nat64, other.entry.port))
    });
    let (ended, not_ended) = match kills {
        true => bans_followed::end(shared, ports)
            .await
            .map_or_else(|why| (None, Some(why)), |n| (Some(n), None)),
        false => (None, None),
    };
    Ok(BanReport { ban: ban_status(net, held), entries_all, entries, ended, not_ended })
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
    let by = change(shared, net, |book, _| book.unban(net), line).await?;
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

fn banned_entry((table, entry): &(TableKey, Entry)) -> BannedEntry {
    BannedEntry {
        nat64: table.nat64.to_string(),
        local: table.local.to_string(),
        entry: entry_status(entry),
    }
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
        kept.untold.add(ended);
        shared.bans.count.store(kept.book.count() as u64, Ordering::Relaxed);
        if kept.is_file_late && !kept.book.is_frozen {
            let book = kept.book.clone();
            // Else it is tried again.
            kept.is_file_late = kept.write(shared.bans.state.clone(), &book).await.is_err();
        }
        if kept.are_reactors_late {
            let _ = bring(shared, &mut kept).await;
        }
        drop(kept);
        shared.bans.followed.forget(now.monotonic).await;
    }
}
