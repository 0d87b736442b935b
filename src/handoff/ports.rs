//! Which mapped ports are eligible, which are taken by which entry, and the uniform draw of a free
//! one (PROTOCOL.md section 6).
//!
//! A table of a few entries keeps its ports in a small hash table; a large one in an array over all
//! ports with a bitmap beside it, so that a free port is found quickly however full the table is.

use hashbrown::HashTable;

use crate::handoff::avoided::AvoidedPorts;
use crate::handoff::entry::{ControlPort, MappedPort};
use crate::handoff::random::{Random, SecretHash};

/// The lowest mapped port.
pub const MAPPED_PORT_MIN: u16 = 1024;
/// How many ports there are from [`MAPPED_PORT_MIN`] on.
pub const PORTS: usize = 65536 - MAPPED_PORT_MIN as usize;
/// How many entries a table has at the most (PROTOCOL.md section 6).
pub const TABLE_CAPACITY: usize = 64508;
/// Never mapped: Teredo's port, and Geneve's, which NAT64s of the successor protocol own.
pub const NEVER_MAPPED: [u16; 2] = [3544, 6081];
/// The most control ports that are known at a time: one for each known identity.
pub const CONTROL_PORTS_MAX: usize = 4;

/// From this many entries on a table has the array: it takes less memory than the hash table then.
const LARGE: usize = 16384;
/// Draws in the bitmap before it is counted through.
const DRAWS_MAX: usize = 8;
/// No slot: a table has fewer entries than this.
const NONE: u16 = u16::MAX;
const WORDS: usize = PORTS / 64;
/// A bitmap of all ports has this many words before those with a bit for each of [`PORTS`].
const WORDS_BELOW: usize = MAPPED_PORT_MIN as usize / 64;

/// A [`PortSet`] of more ports than this is a bitmap, which takes as much memory as a list of this
/// length.
const LIST_MAX: usize = 4096;

const _: () = assert!(PORTS.is_multiple_of(64) && MAPPED_PORT_MIN.is_multiple_of(64));
const _: () = assert!(LIST_MAX * size_of::<u16>() == size_of::<[u64; 65536 / 64]>());
const _: () = assert!(TABLE_CAPACITY == PORTS - NEVER_MAPPED.len() - 2);
const _: () = assert!(TABLE_CAPACITY < NONE as usize && LARGE < TABLE_CAPACITY);

/// The mapped ports of one table.
#[derive(Debug)]
pub struct Ports {
    handoff: u16,
    control: Vec<u16>,
    eligible: usize,
    map: Map,
    /// From the first one on.
    avoided: Option<AvoidedPorts>,
}

#[derive(Debug)]
enum Map {
    Small { slots: HashTable<(u16, u16)>, hash: SecretHash },
    Large(Box<Large>),
}

#[derive(Debug)]
struct Large {
    slots: [u16; PORTS],
    /// A bit for each port that is taken or not eligible.
    barred: [u64; WORDS],
    taken: usize,
}

fn hash_of(hash: &SecretHash, port: u16) -> u64 {
    hash.of_words([u64::from(port), 0])
}

/// Whether an entry may have `port`, with this handoff port and these control ports. The rule of
/// both ends.
#[inline]
pub fn is_eligible(port: MappedPort, handoff: u16, control: &[u16]) -> bool {
    port.0 >= MAPPED_PORT_MIN
        && port.0 != handoff
        && !NEVER_MAPPED.contains(&port.0)
        && !control.contains(&port.0)
}

/// How many ports there are for which [`is_eligible`] holds.
pub fn count_eligible(handoff: u16, control: &[u16]) -> usize {
    let barred = || NEVER_MAPPED.iter().chain([&handoff]).chain(control);
    let is_first = |at: usize, port: &u16| !barred().take(at).any(|other| other == port);
    let distinct = barred().enumerate().filter(|&(at, port)| is_first(at, port));
    PORTS - distinct.filter(|&(_, &port)| port >= MAPPED_PORT_MIN).count()
}

/// A set of ports, of any size in little memory.
#[derive(Debug)]
pub struct PortSet(Set);

#[derive(Debug)]
enum Set {
    /// Sorted.
    List(Box<[u16]>),
    /// A bit for each port.
    Bitmap(Box<[u64; 65536 / 64]>),
}

impl PortSet {
    /// These ports, in any order; duplicates count once.
    pub fn new(mut ports: Vec<u16>) -> Self {
        ports.sort_unstable();
        ports.dedup();
        if ports.len() <= LIST_MAX {
            return Self(Set::List(ports.into_boxed_slice()));
        }
        let mut bitmap = Box::new([0; _]);
        for port in ports {
            let bitmap: &mut [u64; _] = &mut bitmap;
            bitmap[usize::from(port) / 64] |= 1 << (port % 64);
        }
        Self(Set::Bitmap(bitmap))
    }

    /// Whether there is no port.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Set::List(ports) if ports.is_empty())
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = MappedPort> {
        let (list, bitmap): (&[u16], &[u64]) = match &self.0 {
            Set::List(ports) => (ports, &[]),
            Set::Bitmap(bitmap) => (&[], &bitmap[..]),
        };
        let in_bitmap = bitmap.iter().zip(0_u16..).flat_map(|(&word, at)| {
            let bits = (0..64).filter(move |bit| word & 1 << bit != 0);
            bits.map(move |bit| 64 * at + bit)
        });
        list.iter().copied().chain(in_bitmap).map(MappedPort)
    }

    /// The memory that they take.
    pub fn octets(&self) -> usize {
        match &self.0 {
            Set::List(ports) => size_of_val(&ports[..]),
            Set::Bitmap(bitmap) => size_of_val(&bitmap[..]),
        }
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: MappedPort) -> bool {
        match &self.0 {
            Set::List(ports) => ports.binary_search(&port.0).is_ok(),
            Set::Bitmap(bitmap) => bitmap[usize::from(port.0) / 64] & 1 << (port.0 % 64) != 0,
        }
    }
}

/// Some ports, each with the slot of its entry: see [`Ports::taken_beside`].
pub struct TakenBeside<'a> {
    ports: &'a Large,
    set: &'a [u64; 65536 / 64],
}

impl<'a> TakenBeside<'a> {
    /// A bit for each of the ports, and for some of those that are not eligible.
    fn words(&self) -> impl Iterator<Item = u64> + use<'a> {
        let above = &self.set[WORDS_BELOW..];
        self.ports.barred.iter().zip(above).map(|(barred, set)| barred & !set)
    }

    /// How many there are, or a few more.
    pub fn count(&self) -> usize {
        self.words().map(|word| word.count_ones() as usize).sum()
    }

    /// The slots of their entries.
    pub fn slots(&self) -> impl Iterator<Item = u16> + use<'a> {
        let slots = &self.ports.slots;
        self.words()
            .zip(slots.chunks_exact(64))
            .flat_map(|(mut word, slots)| {
                std::iter::from_fn(move || {
                    let bit = word.checked_ilog2()?;
                    word &= !(1 << bit);
                    Some(slots[bit as usize])
                })
            })
            .filter(|&slot| slot != NONE)
    }
}

impl Ports {
    /// No port taken. `hash` is for the hash table.
    pub fn new(handoff_port: u16, hash: SecretHash) -> Self {
        let map = Map::Small { slots: HashTable::new(), hash };
        let (control, avoided) = (Vec::new(), None);
        let mut ports = Self { handoff: handoff_port, control, eligible: 0, map, avoided };
        ports.eligible = count_eligible(handoff_port, &[]);
        ports
    }

    /// Whether an entry may have `port`.
    pub fn is_eligible(&self, port: MappedPort) -> bool {
        is_eligible(port, self.handoff, &self.control)
    }

    /// How many ports are eligible, taken or not.
    pub fn eligible(&self) -> usize {
        self.eligible
    }

    /// How many ports are taken.
    pub fn taken(&self) -> usize {
        match &self.map {
            Map::Small { slots, .. } => slots.len(),
            Map::Large(large) => large.taken,
        }
    }

    /// The slot of the entry that has `port`.
    pub fn slot(&self, port: MappedPort) -> Option<u16> {
        match &self.map {
            Map::Small { slots, hash } => {
                slots.find(hash_of(hash, port.0), |taken| taken.0 == port.0).map(|taken| taken.1)
            }
            Map::Large(large) => {
                let slot = large.slots[index(port.0)?];
                (slot != NONE).then_some(slot)
            }
        }
    }

    /// The ports that are taken and not in `set`, where both are kept as bitmaps: then those few
    /// that there may be are found without a look at all others.
    pub fn taken_beside<'a>(&'a self, set: &'a PortSet) -> Option<TakenBeside<'a>> {
        match (&self.map, &set.0) {
            (Map::Large(ports), Set::Bitmap(set)) => Some(TakenBeside { ports, set }),
            _ => None,
        }
    }

    /// Whether `port` is eligible and not taken.
    pub fn is_free(&self, port: MappedPort) -> bool {
        self.is_eligible(port) && self.slot(port).is_none()
    }

    /// Gives `port`, which is free, to the entry in `slot`.
    pub fn take(&mut self, port: MappedPort, slot: u16) {
        debug_assert!(self.is_free(port) && slot != NONE);
        if let Map::Small { slots, .. } = &self.map
            && slots.len() >= LARGE
        {
            self.grow();
        }
        match &mut self.map {
            Map::Small { slots, hash } => {
                slots.insert_unique(hash_of(hash, port.0), (port.0, slot), |taken| {
                    hash_of(hash, taken.0)
                });
            }
            Map::Large(large) => large.set(port.0, slot),
        }
        self.forgive(port);
    }

    /// `port` is not drawn, as long as another is free, until an entry has it.
    pub fn avoid(&mut self, port: MappedPort) {
        if port.0 >= MAPPED_PORT_MIN {
            self.avoided.get_or_insert_with(AvoidedPorts::new).add(port);
        }
    }

    /// Whether `port` is avoided, and that is remembered.
    pub fn is_avoided(&self, port: MappedPort) -> bool {
        self.avoided.as_ref().is_some_and(|avoided| avoided.contains(port))
    }

    /// The ports that are avoided.
    pub fn avoided(&self) -> impl Iterator<Item = MappedPort> {
        self.avoided.iter().flat_map(AvoidedPorts::iter)
    }

    /// How many ports are free.
    fn free(&self) -> usize {
        self.eligible.saturating_sub(self.taken())
    }

    /// How many ports are free and avoided.
    fn avoided_free(&self) -> usize {
        match (&self.map, &self.avoided) {
            (_, None) => 0,
            (Map::Large(large), Some(avoided)) => {
                let words = avoided.bits()[WORDS_BELOW..].iter().zip(&large.barred);
                words.map(|(avoided, barred)| (avoided & !barred).count_ones() as usize).sum()
            }
            (Map::Small { .. }, Some(avoided)) => {
                avoided.iter().filter(|&port| self.is_free(port)).count()
            }
        }
    }

    /// Whether a port is free that is not avoided.
    pub fn has_unavoided(&self) -> bool {
        let (free, avoided) = (self.free(), self.avoided().count());
        free > avoided || free > self.avoided_free()
    }

    /// `port` is avoided no more.
    pub fn forgive(&mut self, port: MappedPort) {
        if let Some(avoided) = &mut self.avoided {
            avoided.remove(port);
        }
    }

    /// Takes `port` back from its entry.
    pub fn release(&mut self, port: MappedPort) {
        let eligible = self.is_eligible(port);
        match &mut self.map {
            Map::Small { slots, hash } => {
                if let Ok(taken) =
                    slots.find_entry(hash_of(hash, port.0), |taken| taken.0 == port.0)
                {
                    taken.remove();
                }
            }
            Map::Large(large) => large.clear(port.0, eligible),
        }
    }

    /// Makes `control` the control ports, which are not eligible. None of them may be taken now.
    pub fn set_control(&mut self, control: impl Iterator<Item = ControlPort>) {
        let old = std::mem::take(&mut self.control);
        self.control.extend(control.map(|port| port.0).take(CONTROL_PORTS_MAX));
        self.control.sort_unstable();
        self.control.dedup();
        self.eligible = count_eligible(self.handoff, &self.control);
        for port in old.iter().chain(&self.control).copied() {
            let free = self.is_free(MappedPort(port));
            if let (Map::Large(large), Some(index)) = (&mut self.map, index(port)) {
                let taken = large.slots[index] != NONE;
                debug_assert!(!taken || !self.control.contains(&port));
                large.bar(index, !free);
            }
        }
    }

    /// A free port, each as likely as any other, of those that are not avoided if there is one, or
    /// `None` where none is free.
    pub fn draw(&self, random: &mut Random) -> Option<MappedPort> {
        let free = Some(self.free()).filter(|&free| free > 0)?;
        for _ in 0..DRAWS_MAX {
            let port = MappedPort(port(random.below(PORTS as u32) as usize));
            if self.is_free(port) && !self.is_avoided(port) {
                return Some(port);
            }
        }
        let avoided = self.avoided_free();
        match free - avoided {
            0 => self.nth_free(random.below(free as u32) as usize, false),
            left => self.nth_free(random.below(left as u32) as usize, avoided > 0),
        }
    }

    /// The free port with `n` free ones below it; those that are avoided do not count where
    /// `avoiding` says so.
    fn nth_free(&self, mut n: usize, avoiding: bool) -> Option<MappedPort> {
        let Map::Large(large) = &self.map else {
            let is_free = |port| self.is_free(port) && !(avoiding && self.is_avoided(port));
            return (0..PORTS).map(|i| MappedPort(port(i))).filter(|&port| is_free(port)).nth(n);
        };
        let avoided = self.avoided.as_ref().filter(|_| avoiding).map(AvoidedPorts::bits);
        for (i, &barred) in large.barred.iter().enumerate() {
            let mut free = !(barred | avoided.map_or(0, |avoided| avoided[WORDS_BELOW + i]));
            let here = free.count_ones() as usize;
            if n >= here {
                n -= here;
                continue;
            }
            for _ in 0..n {
                free &= free - 1;
            }
            return Some(MappedPort(port(i * 64 + free.trailing_zeros() as usize)));
        }
        None
    }

    // Inlined, it would make each caller touch the 136 kB of stack that a new array takes.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let Map::Small { slots, .. } = &self.map else {
            return;
        };
        let mut large = Box::new(Large { slots: [NONE; PORTS], barred: [0; WORDS], taken: 0 });
        for i in (0..PORTS).filter(|&i| !self.is_eligible(MappedPort(port(i)))) {
            large.bar(i, true);
        }
        slots.iter().for_each(|&(port, slot)| large.set(port, slot));
        self.map = Map::Large(large);
    }
}

impl Large {
    fn bar(&mut self, index: usize, barred: bool) {
        let (word, bit) = (index / 64, 1 << (index % 64));
        if barred {
            self.barred[word] |= bit;
        } else {
            self.barred[word] &= !bit;
        }
    }

    fn set(&mut self, port: u16, slot: u16) {
        let Some(index) = index(port) else { return };
        self.slots[index] = slot;
        self.bar(index, true);
        self.taken += 1;
    }

    fn clear(&mut self, port: u16, eligible: bool) {
        let Some(index) = index(port) else { return };
        if std::mem::replace(&mut self.slots[index], NONE) != NONE {
            self.taken -= 1;
            self.bar(index, !eligible);
        }
    }
}

/// Where `port` stands in the arrays.
fn index(port: u16) -> Option<usize> {
    port.checked_sub(MAPPED_PORT_MIN).map(usize::from)
}

/// The port that stands at `index`, which is below [`PORTS`].
fn port(index: usize) -> u16 {
    index as u16 + MAPPED_PORT_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(handoff: u16, control: &[u16]) -> Ports {
        let mut ports = Ports::new(handoff, SecretHash::new([3; 16]));
        ports.set_control(control.iter().map(|&port| ControlPort(port)));
        ports
    }

    #[test]
    fn a_set_of_ports_has_those_and_no_others() {
        for count in [0, 1, LIST_MAX, LIST_MAX + 1, 65536 / 3] {
            // Every third, in no order, and the first one twice.
            let third = |i: usize| (i * 7919 % count * 3) as u16;
            let ports: Vec<u16> =
                (0..count).map(third).chain((0..count.min(1)).map(third)).collect();
            let set = PortSet::new(ports.clone());
            let mut wanted = vec![false; 65536];
            ports.iter().for_each(|&port| wanted[usize::from(port)] = true);
            assert_eq!(wanted.iter().filter(|&&is_in| is_in).count(), count);
            for port in 0..=u16::MAX {
                assert_eq!(set.contains(MappedPort(port)), wanted[usize::from(port)], "{port}");
            }
        }
    }

    #[test]
    fn section_6_eligible_ports() {
        let ports = ports(64064, &[40000]);
        for never in [0, 9, 1023, 3544, 6081, 64064, 40000] {
            assert!(!ports.is_eligible(MappedPort(never)), "{never}");
        }
        for eligible in [1024, 3543, 3545, 64063, 65535] {
            assert!(ports.is_eligible(MappedPort(eligible)), "{eligible}");
        }
        let all = (0..=u16::MAX).filter(|&port| ports.is_eligible(MappedPort(port))).count();
        assert_eq!((all, ports.eligible()), (TABLE_CAPACITY, TABLE_CAPACITY));
    }

    #[test]
    fn section_6_coinciding_control_ports() {
        assert_eq!(ports(64064, &[]).eligible(), TABLE_CAPACITY + 1);
        assert_eq!(ports(64064, &[64064]).eligible(), TABLE_CAPACITY + 1);
        assert_eq!(ports(64064, &[500]).eligible(), TABLE_CAPACITY + 1);
        assert_eq!(ports(500, &[3544]).eligible(), TABLE_CAPACITY + 2);
        assert_eq!(ports(64064, &[5000, 5001, 5000, 5002]).eligible(), TABLE_CAPACITY - 2);
    }

    /// Fills the whole table, across the change of form, and empties it again.
    #[test]
    fn section_6_every_free_port_can_be_drawn() {
        let mut random = Random::new([5; 32]);
        let mut ports = ports(64064, &[40000]);
        let mut order = Vec::new();
        while let Some(port) = ports.draw(&mut random) {
            assert!(ports.is_free(port));
            ports.take(port, order.len() as u16);
            order.push(port);
        }
        assert_eq!((order.len(), ports.taken()), (TABLE_CAPACITY, TABLE_CAPACITY));
        assert!(order.iter().enumerate().all(|(i, &port)| ports.slot(port) == Some(i as u16)));
        // The last one is found at once, too, and a control port that is given up is eligible
        // again.
        ports.release(order[77]);
        assert_eq!(ports.draw(&mut random), Some(order[77]));
        ports.set_control([ControlPort(order[77].0)].into_iter());
        assert_eq!(ports.draw(&mut random), Some(MappedPort(40000)));
        ports.take(MappedPort(40000), 77);
        assert_eq!(ports.draw(&mut random), None);
        for &port in &order {
            ports.release(port);
            assert_eq!(ports.slot(port), None);
        }
        assert_eq!(ports.taken(), 1);
    }

    /// Both forms, many ports free and few.
    #[test]
    fn section_6_a_port_that_is_avoided_is_drawn_last() {
        const AVOIDED: usize = 7;
        for left in [TABLE_CAPACITY - 16_000, 5000, 3 * AVOIDED, AVOIDED + 1, AVOIDED] {
            let mut random = Random::new([5; 32]);
            let mut ports = ports(64064, &[40000]);
            let all = (1024..=u16::MAX).map(MappedPort);
            let all: Vec<_> = all.filter(|&port| ports.is_eligible(port)).collect();
            let (taken, free) = all.split_at(TABLE_CAPACITY - left);
            taken.iter().enumerate().for_each(|(slot, &port)| ports.take(port, slot as u16));
            // Some that are taken do not count, nor some that no entry can have.
            let never = [0, 1023, 3544, 40000].map(MappedPort);
            taken[..3].iter().chain(&never).for_each(|&port| ports.avoid(port));
            let avoided = &free[free.len() - AVOIDED..];
            avoided.iter().for_each(|&port| ports.avoid(port));
            let drawn: Vec<_> = (0..2000).map(|_| ports.draw(&mut random).unwrap()).collect();
            let is_avoided = |port: &&MappedPort| avoided.contains(port);
            let expected = if left > AVOIDED { 0 } else { drawn.len() };
            assert_eq!(drawn.iter().filter(is_avoided).count(), expected, "{left}");
            // All others are drawn, as often as each other.
            let rank = |port: &MappedPort| free.binary_search(port).unwrap();
            let mean = drawn.iter().map(rank).sum::<usize>() as f64 / 2000.0;
            let middle = (left.max(AVOIDED + 1) - AVOIDED - 1) as f64 / 2.0;
            assert!(left <= AVOIDED || (mean - middle).abs() <= 0.05 * left as f64, "{mean}");
            // An entry that has one uses it: it is a port like any other then.
            let port = avoided[0];
            assert!(ports.is_avoided(port));
            ports.take(port, (TABLE_CAPACITY - 1) as u16);
            ports.release(port);
            assert!(!ports.is_avoided(port) && ports.is_free(port));
        }
    }

    #[test]
    fn what_is_taken_and_not_in_a_set() {
        let mut ports = ports(64064, &[40000]);
        let taken = (1024..=u16::MAX).filter(|port| port % 3 != 0).map(MappedPort);
        let taken: Vec<_> = taken.filter(|&port| ports.is_eligible(port)).collect();
        for (slot, &port) in taken.iter().enumerate() {
            let set = PortSet::new((0..=u16::MAX).collect());
            assert!(slot <= LARGE || ports.taken_beside(&set).is_some());
            ports.take(port, slot as u16);
        }
        for beside in [1, 2, 7, 1000] {
            let is_beside = |port: u16| port.is_multiple_of(beside);
            let set = PortSet::new((0..=u16::MAX).filter(|&port| !is_beside(port)).collect());
            let Some(found) = ports.taken_beside(&set) else {
                assert_eq!(beside, 1, "a set of none is no bitmap");
                continue;
            };
            let mut slots: Vec<_> = found.slots().collect();
            slots.sort_unstable();
            let wanted = (0..taken.len()).filter(|&slot| is_beside(taken[slot].0));
            assert!(slots.iter().map(|&slot| usize::from(slot)).eq(wanted));
            assert!((slots.len()..slots.len() + 6).contains(&found.count()), "{}", found.count());
        }
    }

    #[test]
    fn section_6_the_draw_is_uniform() {
        // Both forms, few ports free: each is drawn about as often as any other.
        for taken in [0, LARGE + 1, TABLE_CAPACITY - 8] {
            let mut random = Random::new([9; 32]);
            let mut ports = ports(64064, &[40000]);
            for slot in 0..taken {
                let port = ports.draw(&mut random).unwrap();
                ports.take(port, slot as u16);
            }
            let mut counts = [0_u32; 8];
            let free: Vec<_> =
                (0..=u16::MAX).map(MappedPort).filter(|&port| ports.is_free(port)).collect();
            for _ in 0..8000 {
                let drawn = ports.draw(&mut random).unwrap();
                let rank = free.binary_search(&drawn).unwrap();
                counts[rank * 8 / free.len()] += 1;
            }
            assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{taken}: {counts:?}");
        }
    }
}
