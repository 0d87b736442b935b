//! What a reactor tells of the entries of banned clients: a [`BanNote`] for each that comes or
//! goes.
//!
//! A reactor notes nothing while nobody wants to know, never waits, and allocates nothing. Where
//! notes come faster than they are taken, it says that some are missing, and all is looked at anew.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::handoff::bans::Bans;
use crate::handoff::change::Change;
use crate::handoff::entry::{Entry, TableKey};

/// Notes that wait to be taken, of each reactor.
const NOTES_MAX: usize = 4096;

/// An entry of a banned client that came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanNote {
    pub table: TableKey,
    pub entry: Entry,
    pub is_new: bool,
}

/// What all reactors and who takes their notes share.
#[derive(Debug, Default)]
struct BanNotesShared {
    is_wanted: AtomicBool,
    /// Some notes did not fit.
    are_missing: AtomicBool,
}

/// The reactor's end.
pub struct BanNotes {
    notes: Producer<BanNote>,
    shared: Arc<BanNotesShared>,
    /// Never waits.
    tell: UnixStream,
}

/// The end of who takes the notes of all reactors.
pub struct BanNotesTaken {
    notes: Vec<Consumer<BanNote>>,
    shared: Arc<BanNotesShared>,
    /// Readable when there are notes.
    told: Option<UnixStream>,
}

/// The ends for this number of reactors.
///
/// # Errors
/// Where the process may not open another descriptor.
pub fn ban_notes(reactors: usize) -> io::Result<(Vec<BanNotes>, BanNotesTaken)> {
    let (tell, told) = UnixStream::pair()?;
    tell.set_nonblocking(true)?;
    told.set_nonblocking(true)?;
    let shared = Arc::<BanNotesShared>::default();
    let (mut ends, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..reactors {
        let (notes, its) = RingBuffer::new(NOTES_MAX);
        ends.push(BanNotes { notes, shared: Arc::clone(&shared), tell: tell.try_clone()? });
        taken.push(its);
    }
    Ok((ends, BanNotesTaken { notes: taken, shared, told: Some(told) }))
}

impl BanNotes {
    /// Notes those of `changes` that are about entries of banned clients.
    pub fn note(&mut self, changes: &[(TableKey, Change)], bans: &Bans, now: Duration) {
        if changes.is_empty() || !self.shared.is_wanted.load(Ordering::Acquire) {
            return;
        }
        let mut are_new = false;
        for &(table, ref change) in changes {
            let (entry, is_new) = match *change {
                Change::Created { port, client } => (Entry { port, client }, true),
                Change::Deleted { port, client } => (Entry { port, client }, false),
                _ => continue,
            };
            // What goes is told also where the ban has just ended.
            let as_of = if is_new { now } else { Duration::ZERO };
            if bans.has(entry.client.address, as_of) {
                are_new = true;
                if self.notes.push(BanNote { table, entry, is_new }).is_err() {
                    self.shared.are_missing.store(true, Ordering::Release);
                }
            }
        }
        if are_new {
            // Where it is full, there is something to read anyway.
            let _ = (&self.tell).write(&[0]);
        }
    }
}

impl BanNotesTaken {
    /// What is readable when there are notes: once.
    pub fn told(&mut self) -> Option<UnixStream> {
        self.told.take()
    }

    /// From now on there are notes, or none.
    pub fn set_wanted(&self, is_wanted: bool) {
        self.shared.is_wanted.store(is_wanted, Ordering::Release);
    }

    /// Takes all notes. Returns whether some are missing.
    pub fn take(&mut self, mut each: impl FnMut(&BanNote)) -> bool {
        let are_missing = self.shared.are_missing.swap(false, Ordering::AcqRel);
        for notes in &mut self.notes {
            // No more than there were: a reactor may go on.
            for _ in 0..NOTES_MAX {
                let Ok(note) = notes.pop() else { break };
                each(&note);
            }
        }
        are_missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::entry::{Client, MappedPort};
    use crate::handoff::random::SecretHash;
    use crate::ip::address::Prefix96;
    use std::io::Read;
    use std::net::Ipv4Addr;

    #[test]
    fn entries_of_banned_clients_are_noted_while_that_is_wanted() {
        let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::new(192, 0, 2, 7) };
        let entry = |port: u16, address: &str| {
            let prefix = Prefix96([0; 12]);
            let client = Client { prefix, address: address.parse().unwrap(), port: 1 };
            (MappedPort(port), client)
        };
        let ((port, client), (other_port, other)) =
            (entry(5000, "2001:db8::17"), entry(5001, "2001:db8::18"));
        let changes = [
            (table, Change::Deleted { port, client }),
            (table, Change::Created { port, client: other }),
            (table, Change::Created { port: other_port, client }),
            (table, Change::Conflict { port, client }),
            (table, Change::Used { port }),
        ];
        let ban = ("2001:db8::17/128".parse().unwrap(), Duration::from_secs(5));
        let bans = Bans::of(SecretHash::new([2; 16]), [ban].into_iter());
        let (mut ends, mut taken) = ban_notes(2).unwrap();
        let mut told = taken.told().unwrap();
        let take = |taken: &mut BanNotesTaken| {
            let mut notes = Vec::new();
            let are_missing = taken.take(|note| notes.push((note.entry.port.0, note.is_new)));
            (notes, are_missing)
        };
        ends[1].note(&changes, &bans, Duration::ZERO);
        assert_eq!(take(&mut taken), (vec![], false), "nobody wants to know");
        taken.set_wanted(true);
        ends[1].note(&changes, &bans, Duration::ZERO);
        assert_eq!(take(&mut taken), (vec![(5000, false), (5001, true)], false));
        assert_eq!(told.read(&mut [0; 9]).unwrap(), 1);
        ends[1].note(&changes[1..2], &bans, Duration::ZERO);
        assert_eq!(take(&mut taken), (vec![], false), "of others");
        assert!(told.read(&mut [0; 9]).is_err());
        ends[1].note(&changes, &bans, Duration::from_secs(5));
        assert_eq!(take(&mut taken), (vec![(5000, false)], false), "the ban has just ended");
        for _ in 0..NOTES_MAX {
            ends[0].note(&changes, &bans, Duration::ZERO);
        }
        let (notes, are_missing) = take(&mut taken);
        assert_eq!((notes.len(), are_missing), (NOTES_MAX, true));
        assert!(!take(&mut taken).1);
    }
}
