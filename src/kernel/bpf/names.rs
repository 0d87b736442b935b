//! [`NameTable`]: the map of the names, as the server writes it.
//!
//! It is an array whose memory the server has mapped, so that a name costs no system call; and the
//! programs find a bucket in it without a call, too. A name is in one of two buckets, which a hash
//! of its table and port tells: in the one that has fewer. With 4 names for each bucket of 8
//! slots, hardly ever are both full; then an entry has no name, as where there are as many as there
//! may be.
//!
//! A slot is taken by its tag, which is that hash. What is in it counts if its check is right,
//! which is over table, port, generation and name: so what is read while it is written, or what a
//! kill left half written, is no name. The hash has a secret start, which `attach` chooses: nobody
//! can choose ports that crowd a bucket.
//!
//! Several threads may write at once, each the names of ports of its own.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::call::{BpfError, BpfStep};
use super::layout::{BUCKET_WORDS, MULTIPLIER, SLOT_WORDS, SLOTS};
use super::map::BpfMap;
use super::words::SharedWords;
use crate::handoff::entry::{MappedPort, TableKey};

/// For so many names there is a bucket.
const NAMES_A_BUCKET: u32 = 4;
/// Of few buckets, both of a name are too often the same one.
const BUCKETS_BESIDE: u32 = 4;
/// The tag of a slot that nobody has.
const FREE: u64 = 0;

/// Where in a slot.
const TABLE: usize = 0;
const PORTS: usize = 1;
const CLIENT: usize = 2;
const CHECK: usize = 4;

/// Who is behind a port of a NAT64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerName {
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// What it is called where an IPv4 address is wanted. None: nothing.
    pub pool: Option<Ipv4Addr>,
}

impl PeerName {
    /// Nobody's: the port has no name. No client has port 0.
    pub const NOBODY: Self = Self { client: Ipv6Addr::UNSPECIFIED, client_port: 0, pool: None };
}

/// What becomes of a name that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundName {
    Stays,
    Goes,
    Becomes(PeerName),
}

/// The names, mapped.
#[derive(Debug)]
pub struct NameTable {
    words: SharedWords,
    buckets: u32,
    seed: u64,
    names_max: u32,
    /// How many slots are taken, as far as this process knows.
    taken: AtomicU32,
}

/// A slot: its tag, and what is in it.
#[derive(Debug, Clone, Copy)]
struct SlotWords<'a> {
    tag: &'a AtomicU64,
    content: &'a [AtomicU64],
}

impl<'a> SlotWords<'a> {
    #[inline]
    fn of(bucket: &'a [AtomicU64], slot: usize) -> Self {
        let begin = SLOTS + slot * SLOT_WORDS;
        Self { tag: &bucket[slot], content: &bucket[begin..begin + SLOT_WORDS] }
    }

    /// Takes a slot that is free. Returns false if another thread did.
    #[inline]
    fn claim(self, tag: u64) -> bool {
        self.tag.compare_exchange(FREE, tag, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn read(self) -> [u64; SLOT_WORDS] {
        std::array::from_fn(|word| self.content[word].load(Ordering::Relaxed))
    }

    /// Whoever reads meanwhile sees a check that is not right.
    #[inline]
    fn write(self, slot: &[u64; SLOT_WORDS]) {
        for (to, word) in self.content.iter().zip(slot) {
            to.store(*word, Ordering::Relaxed);
        }
    }

    /// What is in it counts no more, also when the same port has this slot again.
    #[inline]
    fn free(self) {
        self.content[CHECK].store(0, Ordering::Relaxed);
        self.tag.store(FREE, Ordering::Release);
    }
}

/// One step of the hash: of all words before, and the next one.
#[inline]
fn mixed(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

/// The octets of a port, where the kernel has it as a number.
#[inline]
fn port_number(port: MappedPort) -> u64 {
    u64::from(u16::from_ne_bytes(port.0.to_be_bytes()))
}

#[inline]
fn table_word(table: TableKey) -> u64 {
    let mut octets = [0; 8];
    octets[..4].copy_from_slice(&table.local.octets());
    octets[4..].copy_from_slice(&table.nat64.octets());
    u64::from_ne_bytes(octets)
}

fn read_table(word: u64) -> TableKey {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    TableKey { local: [a, b, c, d].into(), nat64: [e, f, g, h].into() }
}

/// Table and port, and where they are.
#[derive(Debug, Clone, Copy)]
struct NamePlace {
    table: u64,
    port: MappedPort,
    hash: u64,
}

impl NamePlace {
    #[inline]
    fn tag(self) -> u64 {
        self.hash | 1
    }

    /// Whether a slot with its tag is its own.
    #[inline]
    fn is_of(self, slot: SlotWords<'_>) -> bool {
        let [table, ports] =
            [TABLE, PORTS].map(|word| slot.content[word].load(Ordering::Relaxed).to_ne_bytes());
        table == self.table.to_ne_bytes() && ports[..2] == self.port.0.to_be_bytes()
    }

    /// What is in a slot of this place.
    #[inline]
    fn slot(self, name: &PeerName, generation: u32) -> [u64; SLOT_WORDS] {
        let mut ports = [0; 8];
        ports[..2].copy_from_slice(&self.port.0.to_be_bytes());
        ports[2..4].copy_from_slice(&name.client_port.to_be_bytes());
        ports[4..].copy_from_slice(&name.pool.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        let client = name.client.octets();
        let [high, low] =
            [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|octet| client[at + octet])));
        let mut slot = [self.table, u64::from_ne_bytes(ports), high, low, 0];
        slot[CHECK] = self.check(&slot, generation);
        slot
    }

    #[inline]
    fn check(self, slot: &[u64; SLOT_WORDS], generation: u32) -> u64 {
        let start = self.hash ^ u64::from(generation);
        slot[PORTS..CHECK].iter().fold(start, |check, word| mixed(check, *word))
    }
}

/// What is in a slot, if it is a name.
fn read_name(slot: &[u64; SLOT_WORDS]) -> PeerName {
    let [_, _, client @ .., d, e, f, g] = slot[PORTS].to_ne_bytes();
    let pool = Ipv4Addr::new(d, e, f, g);
    let mut address = [0; 16];
    address[..8].copy_from_slice(&slot[CLIENT].to_ne_bytes());
    address[8..].copy_from_slice(&slot[CLIENT + 1].to_ne_bytes());
    PeerName {
        client: address.into(),
        client_port: u16::from_be_bytes(client),
        pool: (!pool.is_unspecified()).then_some(pool),
    }
}

/// How many buckets there are for so many names.
pub(super) fn buckets(names_max: u32) -> u32 {
    names_max.div_ceil(NAMES_A_BUCKET) + BUCKETS_BESIDE
}

impl NameTable {
    /// That of a map, which was made for so many names, with this secret; also to write, or only to
    /// read.
    ///
    /// # Errors
    /// Where it cannot be mapped.
    pub(super) fn of(
        map: &BpfMap,
        writes: bool,
        names_max: u32,
        seed: u64,
    ) -> Result<Self, BpfError> {
        let length = BUCKET_WORDS * map.entries_max() as usize;
        let mapped = SharedWords::of_map(map.as_fd(), length, writes);
        let words =
            mapped.map_err(|cause| BpfError { step: BpfStep::Open, cause, verifier: None })?;
        Ok(Self::with(words, names_max, seed))
    }

    /// That of no map, for tests of the whole: no program reads it.
    ///
    /// # Errors
    /// Where there is no memory for so many names.
    pub fn in_memory(names_max: u32, seed: u64) -> io::Result<Self> {
        let words = SharedWords::of_nobody(BUCKET_WORDS * buckets(names_max) as usize)?;
        Ok(Self::with(words, names_max, seed))
    }

    fn with(words: SharedWords, names_max: u32, seed: u64) -> Self {
        let buckets = (words.all().len() / BUCKET_WORDS) as u32;
        Self { words, buckets, seed, names_max, taken: AtomicU32::new(0) }
    }

    /// How many names there may be.
    pub fn names_max(&self) -> u32 {
        self.names_max
    }

    #[inline]
    fn place(&self, table: TableKey, port: MappedPort) -> NamePlace {
        let table = table_word(table);
        let hash = mixed(mixed(self.seed, table), port_number(port));
        NamePlace { table, port, hash }
    }

    /// Where the buckets begin in which a name may be.
    #[inline]
    fn buckets_of(&self, place: NamePlace) -> [usize; 2] {
        [place.hash >> 32, place.hash & 0xffff_ffff]
            .map(|part| ((part * u64::from(self.buckets)) >> 32) as usize * BUCKET_WORDS)
    }

    /// The slot that a port has; or a free one, in the bucket that has more of them.
    #[inline]
    fn look(&self, place: NamePlace) -> (Option<SlotWords<'_>>, Option<SlotWords<'_>>) {
        let (tag, words) = (place.tag(), self.words.all());
        let (mut most, mut best) = (0, None);
        for begin in self.buckets_of(place) {
            let bucket = &words[begin..begin + BUCKET_WORDS];
            let (mut free, mut last) = (0, 0);
            for (slot, found) in bucket[..SLOTS].iter().enumerate() {
                let found = found.load(Ordering::Relaxed);
                if found == tag {
                    let slot = SlotWords::of(bucket, slot);
                    if place.is_of(slot) {
                        return (Some(slot), None);
                    }
                }
                if found == FREE {
                    free += 1;
                    last = slot;
                }
            }
            if free > most {
                (most, best) = (free, Some(SlotWords::of(bucket, last)));
            }
        }
        (None, best)
    }

    /// Reads where the names of these ports are, or would be, so that it is in the caches: the
    /// processor waits for many at once so, and otherwise for one after the other.
    pub fn prefetch(&self, ports: impl Iterator<Item = (TableKey, MappedPort)> + Clone) {
        let words = self.words.all();
        let places = ports.map(|(table, port)| self.place(table, port));
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        // The sum keeps the compiler from leaving the reads out.
        let buckets = places.clone().flat_map(|place| self.buckets_of(place));
        let mut seen = buckets.fold(0, |seen, begin| seen ^ read(&words[begin]));
        for place in places {
            let (own, free) = self.look(place);
            // It may be in two lines of the cache.
            seen = own.or(free).map_or(seen, |SlotWords { content, .. }| {
                seen ^ read(&content[TABLE]) ^ read(&content[CHECK])
            });
        }
        std::hint::black_box(seen);
    }

    /// A port has this name from now on. Returns false where there is no room for it.
    ///
    /// No other thread gives or takes that of the same port meanwhile.
    pub fn give(
        &self,
        table: TableKey,
        port: MappedPort,
        name: &PeerName,
        generation: u32,
    ) -> bool {
        let place = self.place(table, port);
        let content = place.slot(name, generation);
        let (own, mut free) = self.look(place);
        if let Some(slot) = own {
            slot.write(&content);
            return true;
        }
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.names_max {
            while let Some(slot) = free {
                if slot.claim(place.tag()) {
                    slot.write(&content);
                    return true;
                }
                // Another thread was faster.
                free = self.look(place).1;
            }
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// A port has no name any more.
    pub fn take(&self, table: TableKey, port: MappedPort) {
        if let Some(slot) = self.look(self.place(table, port)).0 {
            slot.free();
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls `each` with all names of this generation, and does to each what it says. Nothing else
    /// stays: not those of others, nor what is half written. Nobody writes meanwhile.
    pub fn retain(
        &self,
        generation: u32,
        mut each: impl FnMut(TableKey, MappedPort, PeerName) -> FoundName,
    ) {
        let mut taken = 0;
        self.walk(generation, |slot, found| {
            match found.map_or(FoundName::Goes, |(place, name)| {
                each(read_table(place.table), place.port, name)
            }) {
                FoundName::Stays => {}
                FoundName::Goes => return slot.free(),
                FoundName::Becomes(name) => {
                    if let Some((place, _)) = found {
                        slot.write(&place.slot(&name, generation));
                    }
                }
            }
            taken += 1;
        });
        self.taken.store(taken, Ordering::Relaxed);
    }

    /// How many ports have a name of this generation, which is somebody's.
    pub fn count(&self, generation: u32) -> usize {
        let mut count = 0;
        self.each(generation, |_, _, _| count += 1);
        count
    }

    /// Calls `each` with all names of this generation that are somebody's.
    pub fn each(&self, generation: u32, mut each: impl FnMut(TableKey, MappedPort, PeerName)) {
        self.walk(generation, |_, found| {
            if let Some((place, name)) = found.filter(|(_, name)| name.client_port != 0) {
                each(read_table(place.table), place.port, name);
            }
        });
    }

    /// Calls `each` with the slots that are taken, and what is in them where that counts.
    fn walk<'a>(
        &'a self,
        generation: u32,
        mut each: impl FnMut(SlotWords<'a>, Option<(NamePlace, PeerName)>),
    ) {
        for (number, bucket) in self.words.all().chunks_exact(BUCKET_WORDS).enumerate() {
            for slot in (0..SLOTS).map(|slot| SlotWords::of(bucket, slot)) {
                let tag = slot.tag.load(Ordering::Acquire);
                if tag == FREE {
                    continue;
                }
                let content = slot.read();
                let [a, b, ..] = content[PORTS].to_ne_bytes();
                let port = MappedPort(u16::from_be_bytes([a, b]));
                let place = self.place(read_table(content[TABLE]), port);
                let is_whole = place.tag() == tag
                    && place.check(&content, generation) == content[CHECK]
                    && self.buckets_of(place).contains(&(number * BUCKET_WORDS));
                each(slot, is_whole.then(|| (place, read_name(&content))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread;

    use super::*;
    use crate::handoff::random::Random;

    const TABLE_KEY: TableKey =
        TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::new(192, 0, 2, 7) };

    impl NameTable {
        pub(in crate::kernel::bpf) fn of_nobody(names_max: u32) -> Self {
            Self::in_memory(names_max, 0x1122_3344_5566_7788).unwrap()
        }

        /// A port's name is no longer what was written, in one octet of its slot.
        pub(in crate::kernel::bpf) fn damage(&self, table: TableKey, port: MappedPort, at: usize) {
            let slot = self.look(self.place(table, port)).0.unwrap();
            let mut flipped = [0; 8];
            flipped[at % 8] = 1;
            slot.content[at / 8].fetch_xor(u64::from_ne_bytes(flipped), Ordering::Relaxed);
        }

        fn all(&self, generation: u32) -> HashMap<(TableKey, u16), PeerName> {
            let mut all = HashMap::new();
            self.retain(generation, |table, port, name| {
                assert!(all.insert((table, port.0), name).is_none(), "twice");
                FoundName::Stays
            });
            all
        }
    }

    fn name(number: u64) -> PeerName {
        PeerName {
            client: Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number)),
            client_port: number as u16 | 1,
            pool: number
                .is_multiple_of(3)
                .then(|| Ipv4Addr::from_bits(0x6440_0000 | number as u32 | 1)),
        }
    }

    /// The `number`th of many ports of several NAT64s.
    fn nth(number: u32) -> (TableKey, MappedPort) {
        let nat64 = Ipv4Addr::from_bits(0xc000_0200 + number / 60_000);
        (TableKey { nat64, ..TABLE_KEY }, MappedPort(1024 + (number % 60_000) as u16))
    }

    #[test]
    fn ports_have_the_names_that_were_given_last() {
        let names = NameTable::of_nobody(600);
        let (mut random, mut expected) = (Random::new([1; 32]), HashMap::new());
        for step in 0..20_000 {
            let (table, port) = nth(random.below(500) * 251);
            if random.below(3) == 0 {
                names.take(table, port);
                expected.remove(&(table, port.0));
            } else {
                assert!(names.give(table, port, &name(step), 7));
                expected.insert((table, port.0), name(step));
            }
        }
        assert_eq!(names.count(7), expected.len());
        assert_eq!(names.count(8), 0, "of another generation");
        assert_eq!(names.all(7), expected);
        assert_eq!(names.all(8), HashMap::new());
        assert_eq!((names.count(7), names.taken.into_inner()), (0, 0), "others do not stay");
    }

    #[test]
    fn a_start_keeps_changes_and_takes_names() {
        let names = NameTable::of_nobody(10);
        for number in 0..3 {
            assert!(names.give(TABLE_KEY, MappedPort(number), &name(number.into()), 7));
        }
        names.retain(7, |table, port, found| {
            assert_eq!((table, found), (TABLE_KEY, name(port.0.into())));
            match port.0 {
                0 => FoundName::Stays,
                1 => FoundName::Goes,
                _ => FoundName::Becomes(PeerName::NOBODY),
            }
        });
        let left = [(0, name(0)), (2, PeerName::NOBODY)];
        assert_eq!(names.count(7), 1);
        assert_eq!(names.all(7), left.map(|(port, name)| ((TABLE_KEY, port), name)).into());
    }

    /// As many as promised, also after many have gone and others come; not more.
    #[test]
    fn all_that_there_is_room_for_have_a_slot() {
        const COUNT: u32 = 100_000;
        for names_max in [1, 2, 10, 1000, COUNT] {
            let names = NameTable::of_nobody(names_max);
            let give = |number: u32| {
                let (table, port) = nth(number);
                names.give(table, port, &name(number.into()), 7)
            };
            assert!((0..names_max).all(give), "{names_max}");
            assert!(!give(names_max), "{names_max} and one");
            assert!(give(0), "what is there can change");
            let mut random = Random::new([2; 32]);
            let mut there: Vec<_> = (0..names_max).collect();
            for next in names_max + 1..names_max + 1 + 2 * COUNT {
                let place = random.below(names_max) as usize;
                let (table, port) = nth(there[place]);
                names.take(table, port);
                there[place] = next;
                assert!(give(next), "{names_max}: {next}");
            }
            assert_eq!(names.count(7), names_max as usize);
        }
    }

    /// Where a kill comes between any two words of what is written, a start finds no name, or the
    /// whole one before or after.
    #[test]
    fn what_a_kill_left_half_written_is_no_name() {
        let (port, before, after) = (MappedPort(5000), name(3), name(4));
        let names = NameTable::of_nobody(10);
        let place = names.place(TABLE_KEY, port);
        for had in [None, Some(before)] {
            for words in 0..SLOT_WORDS {
                // The slot was another port's, or has the name before.
                let (own, free) = names.look(place);
                assert!(own.is_none());
                let slot = free.unwrap();
                slot.write(&names.place(TABLE_KEY, MappedPort(9)).slot(&before, 7));
                slot.free();
                if let Some(before) = &had {
                    assert!(names.give(TABLE_KEY, port, before, 7));
                } else {
                    assert!(slot.claim(place.tag()));
                }
                let content = place.slot(&after, 7);
                for (to, word) in slot.content.iter().zip(content).take(words) {
                    to.store(word, Ordering::Relaxed);
                }
                let found = names.all(7);
                let is_there = found.get(&(TABLE_KEY, 5000)).copied();
                // The first word is the same.
                assert_eq!(is_there, had.filter(|_| words <= 1), "{words} words");
                assert_eq!(found.len(), usize::from(is_there.is_some()));
                assert!(names.give(TABLE_KEY, port, &after, 7), "it has its name all the same");
                assert_eq!(names.all(7), [((TABLE_KEY, 5000), after)].into());
                names.take(TABLE_KEY, port);
            }
        }
        // And where it was to go.
        assert!(names.give(TABLE_KEY, port, &before, 7));
        names.look(place).0.unwrap().content[CHECK].store(0, Ordering::Relaxed);
        assert_eq!(names.all(7), HashMap::new());
        assert_eq!(names.taken.into_inner(), 0);
    }

    #[test]
    fn several_reactors_write_at_once() {
        const EACH: u32 = 300;
        let names = &NameTable::of_nobody(4 * EACH);
        thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut random = Random::new([thread as u8; 32]);
                    for step in 0..40_000 {
                        let (table, port) = nth(thread * 60_000 + random.below(EACH));
                        match random.below(2) {
                            0 => names.take(table, port),
                            _ => assert!(names.give(table, port, &name(step), 7)),
                        }
                    }
                    for number in 0..EACH {
                        let (table, port) = nth(thread * 60_000 + number);
                        assert!(names.give(table, port, &name(number.into()), 7));
                    }
                });
            }
        });
        let all = (0..4).flat_map(|thread| (0..EACH).map(move |number| (thread, number)));
        let expected = all.map(|(thread, number)| {
            let (table, port) = nth(thread * 60_000 + number);
            ((table, port.0), name(number.into()))
        });
        assert_eq!(names.taken.load(Ordering::Relaxed), 4 * EACH);
        assert_eq!(names.all(7), expected.collect());
    }
}
