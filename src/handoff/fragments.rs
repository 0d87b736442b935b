//! Which entry the later fragments of a packet belong to (PROTOCOL.md section 7).
//!
//! Only a first fragment has ports. It leaves a note, by which the others are answered. A shard
//! keeps at most [`NOTES_MAX`] notes, evicts the oldest first, and each is good for
//! [`NOTE_LIFETIME`].

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use crate::handoff::entry::{Client, TableKey};
use crate::handoff::random::SecretHash;
use crate::ip::fragment::FragmentKey;

/// The most notes in a shard.
pub const NOTES_MAX: usize = 1024;
/// How long a note is good.
pub const NOTE_LIFETIME: Duration = Duration::from_secs(15);

/// The notes of a shard.
#[derive(Debug)]
pub struct FragmentNotes {
    notes: HashMap<(TableKey, FragmentKey), Note, SecretHash>,
    /// The keys of all notes, in the order in which they were first left.
    order: VecDeque<(TableKey, FragmentKey)>,
}

#[derive(Debug)]
struct Note {
    client: Client,
    expires: Duration,
}

impl FragmentNotes {
    /// None yet.
    pub fn new(hash: SecretHash) -> Self {
        Self { notes: HashMap::with_hasher(hash), order: VecDeque::new() }
    }

    /// The packet `key` belongs to the entry of `client`. A note that is there is renewed in its
    /// place.
    pub fn leave(&mut self, now: Duration, table: TableKey, key: FragmentKey, client: Client) {
        let note = Note { client, expires: now + NOTE_LIFETIME };
        if self.notes.insert((table, key), note).is_some() {
            return;
        }
        if self.order.len() == NOTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.notes.remove(&oldest);
        }
        self.order.push_back((table, key));
    }

    /// Whose packet `key` is, if a note says so.
    pub fn find(&self, now: Duration, table: TableKey, key: FragmentKey) -> Option<Client> {
        self.notes.get(&(table, key)).filter(|note| now < note.expires).map(|note| note.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use crate::ip::address::Prefix96;

    const TABLE: TableKey =
        TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, 7) };

    fn key(identification: u32) -> FragmentKey {
        let address = Ipv6Addr::LOCALHOST;
        FragmentKey::Ipv6 { source: address, destination: address, identification }
    }

    fn client(port: u16) -> Client {
        Client { prefix: Prefix96([0; 12]), address: Ipv6Addr::LOCALHOST, port }
    }

    fn notes() -> FragmentNotes {
        FragmentNotes::new(SecretHash::new([1; 16]))
    }

    #[test]
    fn section_7_a_note_is_good_for_15_seconds() {
        let mut notes = notes();
        notes.leave(Duration::from_secs(1), TABLE, key(1), client(1));
        assert_eq!(notes.find(Duration::from_millis(15_999), TABLE, key(1)), Some(client(1)));
        assert_eq!(notes.find(Duration::from_secs(16), TABLE, key(1)), None);
        assert_eq!(notes.find(Duration::from_secs(2), TABLE, key(2)), None);
        let other = TableKey { local: TABLE.nat64, ..TABLE };
        assert_eq!(notes.find(Duration::from_secs(2), other, key(1)), None);
    }

    #[test]
    fn section_7_at_most_1024_notes_oldest_out() {
        let mut notes = notes();
        for i in 0..1024 {
            notes.leave(Duration::ZERO, TABLE, key(i), client(i as u16));
        }
        // Renewing one pushes out none, however often.
        for i in 0..5000 {
            notes.leave(Duration::ZERO, TABLE, key(7), client(i));
        }
        assert_eq!(notes.find(Duration::ZERO, TABLE, key(7)), Some(client(4999)));
        assert_eq!((notes.order.len(), notes.notes.len()), (1024, 1024));
        assert!(notes.find(Duration::ZERO, TABLE, key(0)).is_some());
        notes.leave(Duration::ZERO, TABLE, key(2000), client(1));
        assert_eq!(notes.find(Duration::ZERO, TABLE, key(0)), None);
        assert!(notes.find(Duration::ZERO, TABLE, key(1)).is_some());
        assert_eq!((notes.order.len(), notes.notes.len()), (1024, 1024));
    }
}
