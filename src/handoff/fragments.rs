//! Which entry the later fragments of a packet belong to (PROTOCOL.md section 7).
//!
//! Only a first fragment has ports. It leaves a note, by which the others are answered. A shard
//! keeps at most [`NOTES_MAX`] notes, each good for [`NOTE_LIFETIME`]. When there are no more, a
//! NAT64 that has its share of them evicts its own oldest, one that has less evicts that of a NAT64
//! that has more.

use std::net::Ipv4Addr;
use std::time::Duration;

use hashbrown::HashMap;

use crate::handoff::entry::{Client, TableKey};
use crate::handoff::random::SecretHash;
use crate::ip::fragment::FragmentKey;

/// The most notes in a shard.
pub const NOTES_MAX: usize = 1024;
/// How long a note is good.
pub const NOTE_LIFETIME: Duration = Duration::from_secs(15);

/// The index of a note.
type Place = u16;

const _: () = assert!(NOTES_MAX <= Place::MAX as usize);

/// The notes of a shard.
#[derive(Debug)]
pub struct FragmentNotes {
    places: HashMap<(TableKey, FragmentKey), Place, SecretHash>,
    notes: Vec<Note>,
    /// Who left notes, by NAT64 address: a share is for all tables of one.
    owners: HashMap<Ipv4Addr, Owner, SecretHash>,
    /// Who had the most notes when that was last looked for.
    heaviest: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Note {
    key: (TableKey, FragmentKey),
    client: Client,
    expires: Duration,
    /// The next note of the same owner.
    next: Option<Place>,
}

/// The notes of one NAT64, in the order in which they were first left.
#[derive(Debug)]
struct Owner {
    oldest: Place,
    newest: Place,
    count: usize,
}

impl FragmentNotes {
    /// None yet.
    pub fn new(hash: SecretHash) -> Self {
        Self {
            places: HashMap::with_hasher(hash),
            notes: Vec::new(),
            owners: HashMap::with_hasher(hash),
            heaviest: None,
        }
    }

    /// Leaves the note that the packet with `key` belongs to the entry of `client`. A note about
    /// that packet is renewed, and keeps its place in the order of eviction.
    pub fn leave(&mut self, now: Duration, table: TableKey, key: FragmentKey, client: Client) {
        let (key, expires) = ((table, key), now + NOTE_LIFETIME);
        if let Some(&place) = self.places.get(&key) {
            let note = &mut self.notes[usize::from(place)];
            (note.client, note.expires) = (client, expires);
            return;
        }
        let note = Note { key, client, expires, next: None };
        let place = if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
            (self.notes.len() - 1) as Place
        } else {
            let payer = self.payer(now, table.nat64);
            let Some(place) = self.evict(payer) else { return };
            self.notes[usize::from(place)] = note;
            place
        };
        self.places.insert(key, place);
        match self.owners.get_mut(&table.nat64) {
            Some(owner) => {
                self.notes[usize::from(owner.newest)].next = Some(place);
                owner.newest = place;
                owner.count += 1;
            }
            None => {
                let owner = Owner { oldest: place, newest: place, count: 1 };
                self.owners.insert(table.nat64, owner);
            }
        }
    }

    /// The client that the packet with `key` belongs to, if there is a note that is still good.
    pub fn find(&self, now: Duration, table: TableKey, key: FragmentKey) -> Option<Client> {
        let note = self.places.get(&(table, key)).map(|&place| &self.notes[usize::from(place)])?;
        (now < note.expires).then_some(note.client)
    }

    /// Whose oldest note makes room for one of `nat64`.
    fn payer(&mut self, now: Duration, nat64: Ipv4Addr) -> Ipv4Addr {
        let count = |nat64: &Ipv4Addr| self.owners.get(nat64).map_or(0, |owner| owner.count);
        let is_new = !self.owners.contains_key(&nat64);
        let share = NOTES_MAX / (self.owners.len() + usize::from(is_new)).min(NOTES_MAX);
        if count(&nat64) >= share {
            return nat64;
        }
        if let Some(heaviest) = self.heaviest.filter(|heaviest| count(heaviest) > share) {
            return heaviest;
        }
        // What is no good any more counts most.
        let weight =
            |owner: &Owner| (self.notes[usize::from(owner.oldest)].expires <= now, owner.count);
        let heaviest = self.owners.iter().max_by_key(|(_, owner)| weight(owner));
        self.heaviest = heaviest.map(|(&nat64, _)| nat64);
        self.heaviest.unwrap_or(nat64)
    }

    /// Takes the oldest note of `nat64` out, and returns its place.
    fn evict(&mut self, nat64: Ipv4Addr) -> Option<Place> {
        let owner = self.owners.get_mut(&nat64)?;
        let place = owner.oldest;
        let note = &self.notes[usize::from(place)];
        self.places.remove(&note.key);
        match note.next {
            Some(next) => {
                owner.oldest = next;
                owner.count -= 1;
            }
            None => _ = self.owners.remove(&nat64),
        }
        Some(place)
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
        assert_eq!((notes.places.len(), notes.notes.len()), (1024, 1024));
        assert!(notes.find(Duration::ZERO, TABLE, key(0)).is_some());
        notes.leave(Duration::ZERO, TABLE, key(2000), client(1));
        assert_eq!(notes.find(Duration::ZERO, TABLE, key(0)), None);
        assert!(notes.find(Duration::ZERO, TABLE, key(1)).is_some());
        assert_eq!((notes.places.len(), notes.notes.len()), (1024, 1024));
    }

    /// One NAT64 leaves 100,000 notes: of each of 50 others, all of the 16 that they left before,
    /// and that they leave meanwhile, are found.
    #[test]
    fn section_7_a_nat64_evicts_its_own_notes_first() {
        let of = |number: u8| TableKey { nat64: Ipv4Addr::new(198, 51, 100, number), ..TABLE };
        let mut notes = notes();
        let mut left = Vec::new();
        let mut leave = |notes: &mut FragmentNotes, which: u32| {
            for number in 0..50 {
                let client = client(number.into());
                notes.leave(Duration::ZERO, of(number), key(which), client);
                left.push((of(number), key(which), client));
            }
        };
        (0..8).for_each(|which| leave(&mut notes, which));
        for i in 0..100_000 {
            // From any of its addresses at the server's end.
            let table = TableKey { local: Ipv4Addr::from_bits(i % 7), ..TABLE };
            notes.leave(Duration::ZERO, table, key(i), client(1));
            if i % 10_000 == 5000 && i < 80_000 {
                leave(&mut notes, 8 + i / 10_000);
            }
        }
        for (table, key, client) in left {
            assert_eq!(notes.find(Duration::ZERO, table, key), Some(client));
        }
        assert_eq!((notes.places.len(), notes.notes.len()), (1024, 1024));
        let counts: usize = notes.owners.values().map(|owner| owner.count).sum();
        assert_eq!(counts, 1024);
    }
}
