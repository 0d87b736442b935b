//! What only a reactor knows is asked of it: an [`Inquiry`] goes to the reactor and comes back with
//! a part of the answer.
//!
//! A reactor never waits for whoever asks, allocates nothing and frees nothing: it takes an inquiry
//! from a queue between two batches, at most one a turn, adds what it sees to vectors that have
//! room for it, and returns the inquiry by another queue. While nobody asks, that is one look a
//! turn at whether the queue is empty.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use rtrb::{Consumer, Producer, RingBuffer};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use crate::disk::eventlog::Sender;
use crate::disk::storage::{JournalState, JournalWriter};
use crate::handoff::bans::Bans;
use crate::handoff::change::Change;
use crate::handoff::entry::{Entry, TableKey};
use crate::handoff::server::{
    ClientsPlace, DroppedTable, EVENTS_BESIDE, SEEN_ENTRIES_MAX, SEEN_TABLES_MAX, SeenTable, Server,
};
use crate::handoff::stats::DropReason;
use crate::kernel::backend::Waker;
use crate::kernel::waker::EventWaker;
use crate::programs::serve::ban_notes::BanNotes;

/// The most inquiries on their way to a reactor, or back. Only those that nobody waits for any more
/// are more than one.
const INQUIRIES_MAX: usize = 4;
/// How long a reactor may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Tables of one NAT64 for which there is room beforehand: a host has few addresses.
const FOUND_EXPECTED: usize = 64;

/// What a reactor is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Nothing but whether it makes turns.
    Alive,
    /// What tables there are, below this place: see [`Server::see_tables`].
    Tables(usize),
    /// What tables a NAT64 has, below this place: see [`Server::find_tables`].
    Find(Ipv4Addr, usize),
    /// What entries a table has, from this place on: see [`Server::see_entries`].
    Entries(TableKey, usize),
    /// What entries some clients have, from this place on: see [`Server::see_clients`].
    Clients(Ipv6Net, ClientsPlace),
    /// That [`Inquiry::bans`] count from now on.
    Bans,
    /// That a table is given up.
    Drop(TableKey),
    /// What came of that.
    Dropped(u64),
    /// That it is not, if nothing was done yet.
    Revoke(u64),
}

/// A question, and its answer.
#[derive(Debug)]
pub struct Inquiry {
    number: u64,
    pub question: Question,
    pub tables: Vec<SeenTable>,
    pub found: Vec<TableKey>,
    pub entries: Vec<Entry>,
    pub client_entries: Vec<(TableKey, Entry)>,
    /// Where to go on with clients, if there is more.
    pub next_place: Option<ClientsPlace>,
    /// The bans that are to count. In the answer: those that did, to be freed by whoever asked.
    pub bans: Option<Arc<Bans>>,
    /// Where to go on, if there is more.
    pub next: Option<usize>,
    /// The number of the order to drop a table; none where too many wait.
    pub order: Option<u64>,
    pub dropped: Option<DroppedTable>,
    /// The last record of changes that may be announced.
    pub durable: u64,
    /// The order was taken back before anything was done.
    pub revoked: bool,
    /// Why nothing can be recorded now, where that is so.
    pub frozen: Option<DropReason>,
}

impl Inquiry {
    /// The server's part of the answer.
    pub fn ask(&mut self, server: &mut Server) {
        match self.question {
            Question::Alive => {}
            Question::Tables(below) => self.next = server.see_tables(below, &mut self.tables),
            Question::Find(nat64, below) => {
                self.next = server.find_tables(nat64, below, &mut self.found);
            }
            Question::Entries(table, from) => {
                self.next = server.see_entries(table, from, &mut self.entries);
            }
            Question::Clients(net, place) => {
                self.next_place = server.see_clients(net, place, &mut self.client_entries);
            }
            Question::Bans => self.bans = server.set_bans(self.bans.take()),
            Question::Drop(table) => self.order = server.drop_table(table),
            Question::Dropped(order) => self.dropped = server.dropped_table(order),
            Question::Revoke(order) => self.revoked = server.revoke_drop(order),
        }
    }
}

/// Why a reactor with these can record nothing now, where that is so.
pub fn frozen(log: Option<&Sender>, journal: Option<&mut JournalWriter>) -> Option<DropReason> {
    let Some(log) = log else { return Some(DropReason::JournalUnavailable) };
    let log_waits = || (!log.takes(EVENTS_BESIDE)).then_some(DropReason::LogUnavailable);
    match journal.map(JournalWriter::state) {
        None | Some(JournalState::Fine) => log_waits(),
        Some(JournalState::Full) => Some(DropReason::JournalFull),
        Some(JournalState::NoSpace | JournalState::Failed) => Some(DropReason::JournalUnavailable),
    }
}

/// Where a reactor finds its inquiries.
pub struct Inquiries {
    asked: Consumer<Box<Inquiry>>,
    answered: Producer<Box<Inquiry>>,
    /// Never waits.
    tell: UnixStream,
    notes: BanNotes,
}

impl Inquiries {
    /// Notes which entries of banned clients come and go, for whoever wants to know.
    pub fn note(&mut self, changes: &[(TableKey, Change)], bans: &Bans, now: Duration) {
        self.notes.note(changes, bans, now);
    }

    /// The next one.
    #[inline]
    pub fn take(&mut self) -> Option<Box<Inquiry>> {
        self.asked.pop().ok()
    }

    /// Returns one that is answered.
    pub fn answer(&mut self, inquiry: Box<Inquiry>) {
        // There are never more than there is room for: whoever asks takes them from the same ones.
        if self.answered.push(inquiry).is_ok() {
            // Where it is full, whoever asks has something to read anyway.
            let _ = (&self.tell).write(&[0]);
        }
    }
}

/// Where a reactor is asked, by one thread.
pub struct Desk(Mutex<AskingEnd>);

struct AskingEnd {
    ask: Producer<Box<Inquiry>>,
    answers: Consumer<Box<Inquiry>>,
    /// Readable when there are answers.
    told: Option<UnixStream>,
    /// The same, in the runtime of whoever asks.
    readable: Option<tokio::net::UnixStream>,
    /// The last inquiry.
    number: u64,
    /// One that came back, for the next question.
    spare: Option<Box<Inquiry>>,
}

/// A reactor that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reactor does not answer; see what keeps it busy")]
pub struct NoAnswer;

/// Both ends for one reactor, which leaves its notes in `notes`.
///
/// # Errors
/// Where the process may not open another descriptor.
pub fn pair(notes: BanNotes) -> io::Result<(Desk, Inquiries)> {
    let (ask, asked) = RingBuffer::new(INQUIRIES_MAX);
    let (answered, answers) = RingBuffer::new(INQUIRIES_MAX);
    let (tell, told) = UnixStream::pair()?;
    tell.set_nonblocking(true)?;
    told.set_nonblocking(true)?;
    let told = Some(told);
    let end = AskingEnd { ask, answers, told, readable: None, number: 0, spare: None };
    Ok((Desk(Mutex::new(end)), Inquiries { asked, answered, tell, notes }))
}

impl Desk {
    /// Asks the reactor that `waker` wakes, and has `read` look at the answer.
    ///
    /// # Errors
    /// Where it does not answer in time.
    pub async fn ask<T>(
        &self,
        waker: &EventWaker,
        question: Question,
        read: impl FnOnce(&Inquiry) -> T,
    ) -> Result<T, NoAnswer> {
        self.ask_about(waker, question, None, read).await
    }

    /// Has these bans count there from now on.
    ///
    /// # Errors
    /// Where it does not answer in time: it may do so later.
    pub async fn ban(&self, waker: &EventWaker, bans: Option<Arc<Bans>>) -> Result<(), NoAnswer> {
        self.ask_about(waker, Question::Bans, bans, |_| ()).await
    }

    /// Asks without waiting: for whoever makes the turns of the reactor on the same thread.
    ///
    /// # Errors
    /// Where too many wait for an answer already.
    pub fn put(&self, question: Question, bans: Option<Arc<Bans>>) -> Result<(), NoAnswer> {
        self.0.try_lock().map_err(|_| NoAnswer)?.put(question, bans)
    }

    /// Has `read` look at the answer to what was put last, if there is one.
    pub fn answered<T>(&self, read: impl FnOnce(&Inquiry) -> T) -> Option<T> {
        let mut end = self.0.try_lock().ok()?;
        let mut inquiry = end.answered()?;
        let read = read(&inquiry);
        inquiry.bans = None;
        end.spare = Some(inquiry);
        Some(read)
    }

    async fn ask_about<T>(
        &self,
        waker: &EventWaker,
        question: Question,
        bans: Option<Arc<Bans>>,
        read: impl FnOnce(&Inquiry) -> T,
    ) -> Result<T, NoAnswer> {
        let mut end = self.0.lock().await;
        let answer = end.ask(waker, question, bans);
        let mut inquiry =
            tokio::time::timeout(ANSWER_WAIT, answer).await.map_err(|_| NoAnswer)??;
        let read = read(&inquiry);
        inquiry.bans = None;
        end.spare = Some(inquiry);
        Ok(read)
    }
}

impl AskingEnd {
    async fn ask(
        &mut self,
        waker: &EventWaker,
        question: Question,
        bans: Option<Arc<Bans>>,
    ) -> Result<Box<Inquiry>, NoAnswer> {
        self.put(question, bans)?;
        waker.wake();
        loop {
            if let Some(answer) = self.answered() {
                return Ok(answer);
            }
            self.told().await.map_err(|_| NoAnswer)?;
        }
    }

    fn put(&mut self, question: Question, bans: Option<Arc<Bans>>) -> Result<(), NoAnswer> {
        let mut inquiry = self.spare.take().unwrap_or_else(|| {
            Box::new(Inquiry {
                number: 0,
                question,
                tables: Vec::with_capacity(SEEN_TABLES_MAX),
                found: Vec::with_capacity(FOUND_EXPECTED),
                entries: Vec::with_capacity(SEEN_ENTRIES_MAX),
                client_entries: Vec::with_capacity(SEEN_ENTRIES_MAX),
                next_place: None,
                bans: None,
                next: None,
                order: None,
                dropped: None,
                durable: 0,
                revoked: false,
                frozen: None,
            })
        });
        self.number += 1;
        (inquiry.number, inquiry.question) = (self.number, question);
        inquiry.tables.clear();
        inquiry.found.clear();
        inquiry.entries.clear();
        inquiry.client_entries.clear();
        (inquiry.next_place, inquiry.bans) = (None, bans);
        (inquiry.next, inquiry.order, inquiry.dropped) = (None, None, None);
        inquiry.revoked = false;
        // Those of who did not wait: there is room for all that are on their way.
        while self.answers.pop().is_ok() {}
        self.ask.push(inquiry).map_err(|_| NoAnswer)
    }

    /// The answer to the last question.
    fn answered(&mut self) -> Option<Box<Inquiry>> {
        // Those before it are of somebody who does not wait any more.
        let mut answers = std::iter::from_fn(|| self.answers.pop().ok());
        answers.find(|answer| answer.number == self.number)
    }

    /// Waits until the reactor has answered something.
    async fn told(&mut self) -> io::Result<()> {
        if let Some(told) = self.told.take() {
            self.readable = Some(tokio::net::UnixStream::from_std(told)?);
        }
        let readable = self.readable.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut octets = [0; INQUIRIES_MAX];
        match readable.read(&mut octets).await? {
            // The reactor has ended.
            0 => Err(io::ErrorKind::NotConnected.into()),
            _ => Ok(()),
        }
    }
}
