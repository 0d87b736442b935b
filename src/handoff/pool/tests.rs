//! Names beside a model that is as simple as can be, and given by several threads at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;

const HASH: [u8; 16] = [7; 16];
const IDLE: Duration = Duration::from_secs(10);

fn settings(network: &str, unit: PoolUnit) -> PoolSettings {
    PoolSettings {
        network: network.parse().unwrap(),
        unit,
        idle: IDLE,
        names: true,
        translates: false,
    }
}

/// Blocks in turn.
fn owner_of(shares: usize) -> impl Fn(Ipv4Addr) -> usize {
    move |block| (block.to_bits() / 64) as usize % shares
}

fn pool(
    settings: PoolSettings,
    shares: usize,
    found: &[Name],
) -> (Arc<AddressPool>, Vec<PoolShare>) {
    let (pool, shares, ending) =
        AddressPool::new(settings, SecretHash::new(HASH), shares, owner_of(shares), found.to_vec());
    assert!(ending.iter().all(Vec::is_empty));
    (pool, shares)
}

/// Client `number` of network `net`.
fn client(net: u16, number: u16) -> Ipv6Addr {
    [0x2001, 0xdb8, 0, net, 0, 0, 0, number].into()
}

fn net(text: &str) -> Ipv6Net {
    text.parse().unwrap()
}

const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn taken_back(share: &mut PoolShare, now: Duration) -> Vec<Name> {
    let mut names = Vec::new();
    share.take_back(now, usize::MAX, usize::MAX, |name| names.push(name));
    names
}

#[test]
fn clients_of_a_network_have_one_address_or_each_has_its_own() {
    let first = Ipv4Addr::new(100, 64, 0, 1);
    let (_, mut shares) = pool(settings("100.64.0.0/26", PoolUnit::Prefix64), 1, &[]);
    let share = &mut shares[0];
    let new = Coming::New(first, net("2001:db8:0:1::/64"));
    assert_eq!(share.come(client(1, 1), NAT64), Ok(new));
    assert_eq!(share.come(client(1, 2), OTHER), Ok(Coming::Has(first)));
    assert!(matches!(share.come(client(2, 1), NAT64), Ok(Coming::New(..))));
    let (_, mut shares) = pool(settings("100.64.0.0/26", PoolUnit::Address), 1, &[]);
    let share = &mut shares[0];
    let new = Coming::New(first, net("2001:db8:0:1::1/128"));
    assert_eq!(share.come(client(1, 1), NAT64), Ok(new));
    assert!(matches!(share.come(client(1, 2), NAT64), Ok(Coming::New(..))));
}

#[test]
fn an_address_is_kept_while_there_are_entries_and_for_a_while_after() {
    let (pool, mut shares) = pool(settings("100.64.0.0/24", PoolUnit::Prefix64), 1, &[]);
    let share = &mut shares[0];
    let Ok(Coming::New(address, net)) = share.come(client(1, 1), NAT64) else { panic!() };
    share.recorded(net);
    share.come(client(1, 2), NAT64).unwrap();
    share.go(client(1, 1), at(1));
    assert_eq!(taken_back(share, at(100)), [], "an entry is left");
    share.go(client(1, 2), at(100));
    assert_eq!(taken_back(share, at(109)), [], "not for long");
    // Who comes again has what he had, and is counted anew.
    assert_eq!(share.come(client(1, 9), NAT64), Ok(Coming::Has(address)));
    assert_eq!(taken_back(share, at(200)), []);
    share.go(client(1, 9), at(200));
    assert_eq!(pool.named(), 1);
    assert_eq!(taken_back(share, at(210)), [(address, net)]);
    assert_eq!((pool.named(), share.given()), (0, 0));
    assert_eq!(pool.address_of(client(1, 1)), None);
    // As long as the end is not recorded, its client gets no other one.
    assert_eq!(share.come(client(1, 4), NAT64), Err(Nameless::Unrecorded));
    share.go(client(1, 4), at(210));
    assert_eq!(taken_back(share, at(999)), [], "once");
    // Nobody else gets it before that is recorded, and then as the last one.
    let via = |net| Ipv4Addr::new(192, 0, 2, net as u8);
    let all: Vec<_> = (2..=254).map(|net| share.come(client(net, 1), via(net))).collect();
    let given: BTreeSet<_> = all
        .iter()
        .map(|coming| match coming {
            Ok(Coming::New(address, _)) => *address,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(given.len() == 253 && !given.contains(&address));
}

#[test]
fn what_another_records_still_is_nobodys_name() {
    let (pool, mut shares) = pool(settings("100.64.0.0/24", PoolUnit::Prefix64), 2, &[]);
    let Ok(Coming::New(address, net)) = shares[0].come(client(1, 1), NAT64) else { panic!() };
    assert_eq!(shares[0].come(client(1, 2), NAT64), Ok(Coming::Has(address)), "the same record");
    assert_eq!(shares[1].come(client(1, 3), OTHER), Err(Nameless::Unrecorded));
    assert_eq!(pool.address_of(client(1, 1)), None);
    shares[0].recorded(net);
    assert_eq!(shares[1].come(client(1, 4), OTHER), Ok(Coming::Has(address)));
    assert_eq!(pool.address_of(client(1, 1)), Some(address));
    // All four count, whichever reactor has them.
    for number in 1..=4 {
        assert_eq!(taken_back(&mut shares[0], at(99)), []);
        shares[usize::from(number > 2)].go(client(1, number), at(1));
    }
    assert_eq!(taken_back(&mut shares[1], at(99)), [], "its owner does that");
    assert_eq!(taken_back(&mut shares[0], at(99)), [(address, net)]);
}

#[test]
fn a_full_pool_gives_nothing_and_forgets_nobody() {
    let (pool, mut shares) = pool(settings("100.64.0.0/29", PoolUnit::Prefix64), 1, &[]);
    let share = &mut shares[0];
    assert_eq!((share.capacity(), pool.settings().addresses()), (6, 6));
    for number in 1..=6 {
        // Each comes through another NAT64.
        let nat64 = Ipv4Addr::new(192, 0, 2, number as u8);
        let Ok(Coming::New(_, net)) = share.come(client(number, 1), nat64) else { panic!() };
        share.recorded(net);
    }
    assert_eq!(share.come(client(7, 1), NAT64), Err(Nameless::Full));
    assert_eq!(share.come(client(7, 2), NAT64), Err(Nameless::Full));
    share.go(client(3, 1), at(1));
    let names = taken_back(share, at(99));
    assert_eq!(names.len(), 1);
    assert_eq!(share.come(client(8, 1), NAT64), Err(Nameless::Full), "that is not recorded yet");
    share.freed(names[0]);
    // Both of its entries count, though they came when there was no address.
    let Ok(Coming::New(address, net)) = share.come(client(7, 3), NAT64) else { panic!() };
    assert_eq!(address, names[0].0);
    share.recorded(net);
    share.go(client(7, 3), at(1));
    share.go(client(7, 1), at(1));
    assert_eq!(taken_back(share, at(99)), []);
    share.go(client(7, 2), at(1));
    assert_eq!(taken_back(share, at(99)), [(address, net)]);
    share.freed((address, net));
    // Without address and entry nothing is left of it.
    share.go(client(8, 1), at(1));
    let left: usize = pool.parts.iter().map(|part| part.lock().unwrap().len()).sum();
    assert_eq!(left, 5);
}

#[test]
fn a_nat64_leaves_a_quarter_to_others() {
    let (_, mut shares) = pool(settings("100.64.0.0/24", PoolUnit::Prefix64), 1, &[]);
    let share = &mut shares[0];
    let mut many = |from: u16, nat64| {
        let comings = (from..from + 400).map(|net| share.come(client(net, 1), nat64));
        let comings: Vec<_> = comings.collect();
        let named = comings.iter().filter(|coming| coming.is_ok()).count();
        (named, comings.last().unwrap().unwrap_err())
    };
    assert_eq!(many(0, NAT64), (191, Nameless::Share), "three quarters of 254");
    assert_eq!(many(1000, OTHER), (31, Nameless::Share), "an eighth");
    assert_eq!(many(2000, Ipv4Addr::new(192, 0, 2, 9)), (31, Nameless::Share));
    assert_eq!(many(3000, Ipv4Addr::new(192, 0, 2, 10)), (1, Nameless::Full));
}

/// Who invents clients does not keep what they do not use.
#[test]
fn idle_addresses_of_who_has_too_many_are_taken_back_at_once() {
    let (_, mut shares) = pool(settings("100.64.0.0/24", PoolUnit::Prefix64), 1, &[]);
    let share = &mut shares[0];
    let Ok(Coming::New(_, net)) = share.come(client(0, 1), OTHER) else { panic!() };
    share.recorded(net);
    share.go(client(0, 1), at(1));
    for number in 1..=190 {
        let Ok(Coming::New(_, net)) = share.come(client(number, 1), NAT64) else { panic!() };
        share.recorded(net);
        share.go(client(number, 1), at(1));
    }
    // Until they are not most of them any more.
    assert_eq!(taken_back(share, at(2)).len(), 1);
    assert_eq!(taken_back(share, at(2)).len(), 0);
    assert_eq!(taken_back(share, at(11)).len(), 190, "all, after a while");
}

#[test]
fn a_restart_goes_on_with_what_was_recorded() {
    let found = [
        (Ipv4Addr::new(100, 64, 0, 7), net("2001:db8:0:1::/64")),
        (Ipv4Addr::new(100, 64, 0, 1), net("2001:db8:0:2::/64")),
        (Ipv4Addr::new(100, 64, 0, 70), net("2001:db8:0:3::/64")),
    ];
    // Those of another pool, of another unit, and a second one of the same client, as a damaged
    // state may have.
    let wrong = [
        (Ipv4Addr::new(100, 65, 0, 7), net("2001:db8:0:4::/64")),
        (Ipv4Addr::new(100, 64, 0, 0), net("2001:db8:0:5::/64")),
        (Ipv4Addr::new(100, 64, 0, 2), net("2001:db8:0:6::1/128")),
        (Ipv4Addr::new(100, 64, 0, 3), net("2001:db8:0:1::/64")),
    ];
    let settings = settings("100.64.0.0/25", PoolUnit::Prefix64);
    let all = found.into_iter().chain(wrong);
    let (pool, mut shares, ending) =
        AddressPool::new(settings, SecretHash::new(HASH), 2, owner_of(2), all);
    assert_eq!(ending, [wrong.to_vec(), vec![]]);
    assert_eq!(pool.named(), 3);
    assert_eq!(pool.found_entry(client(1, 1)), Some(found[0].0));
    assert_eq!(pool.found_entry(client(9, 1)), None);
    assert_eq!(shares[1].come(client(1, 2), NAT64), Ok(Coming::Has(found[0].0)));
    // Those without entries are idle since the start.
    assert_eq!(taken_back(&mut shares[0], at(9)), []);
    assert_eq!(taken_back(&mut shares[0], at(10)), [found[1]]);
    assert_eq!(taken_back(&mut shares[1], at(10)), [found[2]]);
    // What is to end is given to nobody before that is recorded.
    let new: Vec<_> = (20..50).map(|net| shares[0].come(client(net, 1), NAT64)).collect();
    let has = |address| {
        new.iter().any(|coming| matches!(coming, Ok(Coming::New(new, _)) if *new == address))
    };
    assert!(wrong.iter().chain(&found).all(|(address, _)| !has(*address)));
    assert!(has(Ipv4Addr::new(100, 64, 0, 4)));
    assert_eq!(shares[0].come(client(4, 1), NAT64), Err(Nameless::Unrecorded), "its name ends");
    wrong.iter().for_each(|name| shares[0].freed(*name));
    assert!(matches!(shares[0].come(client(4, 2), NAT64), Ok(Coming::New(..))));
    let via = |net| Ipv4Addr::new(198, 51, 100, net as u8);
    let rest = (100..200).filter_map(|net| shares[0].come(client(net, 1), via(net)).ok());
    let rest: Vec<_> = rest.collect();
    let given = |of: Ipv4Addr| {
        rest.iter().any(|coming| matches!(coming, Coming::New(new, _) if *new == of))
    };
    assert!(given(wrong[2].0) && given(wrong[3].0), "free again");
    assert!(!given(wrong[0].0) && !given(wrong[1].0), "no more in the pool");
}

/// What may happen, each to one of few clients.
#[derive(Debug, Clone)]
enum Step {
    Come { share: usize, client: u16, nat64: u8 },
    Go { pick: usize },
    Recorded { share: usize },
    TakeBack { share: usize, looks: usize },
    Freed,
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize, 0..12_u16, 0..3_u8)
            .prop_map(|(share, client, nat64)| Step::Come { share, client, nat64 }),
        3 => any::<usize>().prop_map(|pick| Step::Go { pick }),
        3 => (0..2_usize).prop_map(|share| Step::Recorded { share }),
        2 => (0..2_usize, 0..5_usize).prop_map(|(share, looks)| Step::TakeBack { share, looks }),
        2 => Just(Step::Freed),
        1 => (0..15_u64).prop_map(Step::Time),
    ]
}

proptest! {
    #[test]
    fn names_are_as_a_naive_model_has_them(steps in prop::collection::vec(step(), 1..300)) {
        let settings = settings("100.64.0.32/26", PoolUnit::Address);
        let settings = PoolSettings { network: settings.network.trunc(), ..settings };
        // Few addresses, of two blocks.
        let small = PoolSettings { network: "100.64.0.0/25".parse().unwrap(), ..settings };
        let (pool, mut shares) = pool(small, 2, &[]);
        let mut now = 0;
        let mut entries: Vec<(usize, u16)> = Vec::new();
        // Client to address, who is still recording it, and since when he has no entry.
        let mut names: BTreeMap<u16, (Ipv4Addr, Option<usize>, u64)> = BTreeMap::new();
        let mut leaving: Vec<(usize, Name)> = Vec::new();
        for step in steps {
            match step {
                Step::Come { share, client: number, nat64 } => {
                    let nat64 = Ipv4Addr::new(192, 0, 2, nat64);
                    let coming = shares[share].come(client(0, number), nat64);
                    entries.push((share, number));
                    match (coming, names.get(&number)) {
                        (Ok(Coming::Has(address)), Some((expected, by, _))) => {
                            prop_assert_eq!(address, *expected);
                            prop_assert!(by.is_none_or(|by| by == share));
                        }
                        (Err(Nameless::Unrecorded), Some((_, Some(by), _))) => {
                            prop_assert!(*by != share);
                        }
                        (Err(Nameless::Unrecorded), None) => {
                            let is_its = |(_, (_, net)): &(usize, Name)| net.addr() == client(0, number);
                            prop_assert!(leaving.iter().any(is_its));
                        }
                        (Ok(Coming::New(address, net)), None) => {
                            prop_assert_eq!(net.addr(), client(0, number));
                            prop_assert_eq!(owner_of(2)(addresses::block(address)), share);
                            prop_assert!(names.values().all(|(other, ..)| *other != address));
                            prop_assert!(leaving.iter().all(|(_, (other, gone))| *other != address && *gone != net));
                            names.insert(number, (address, Some(share), 0));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::Go { pick } => {
                    if entries.is_empty() {
                        continue;
                    }
                    let (share, number) = entries.swap_remove(pick % entries.len());
                    shares[share].go(client(0, number), at(now));
                    if let Some(name) = names.get_mut(&number) {
                        name.2 = now;
                    }
                }
                Step::Recorded { share } => {
                    for (number, name) in &mut names {
                        if name.1 == Some(share) {
                            name.1 = None;
                            shares[share].recorded(Ipv6Net::from(client(0, *number)));
                        }
                    }
                }
                Step::TakeBack { share, looks } => {
                    let mut gone = Vec::new();
                    shares[share].take_back(at(now), looks, 3, |name| gone.push(name));
                    prop_assert!(gone.len() <= looks.min(3));
                    for (address, net) in gone {
                        let number = net.addr().segments()[7];
                        prop_assert!(entries.iter().all(|(_, other)| *other != number));
                        let (expected, by, since) = names.remove(&number).unwrap();
                        prop_assert_eq!((address, by), (expected, None));
                        prop_assert!(now - since >= IDLE.as_secs());
                        leaving.push((share, (address, net)));
                    }
                }
                Step::Freed => leaving.drain(..).for_each(|(share, name)| shares[share].freed(name)),
                Step::Time(seconds) => now += seconds,
            }
            prop_assert_eq!(pool.named(), names.len() as u64);
        }
        // All who are idle are found in the end.
        for (owner, share) in shares.iter_mut().enumerate() {
            let of = |names: &BTreeMap<u16, (Ipv4Addr, Option<usize>, u64)>| {
                let idle = names.iter().filter(|(number, (address, by, _))| {
                    by.is_none()
                        && owner_of(2)(addresses::block(*address)) == owner
                        && entries.iter().all(|(_, other)| other != *number)
                });
                idle.map(|(_, (address, ..))| *address).collect::<BTreeSet<_>>()
            };
            let mut gone = taken_back(share, at(now + 10));
            // One that took the place of another was looked at twice.
            gone.extend(taken_back(share, at(now + 10)));
            prop_assert_eq!(gone.iter().map(|(address, _)| *address).collect::<BTreeSet<_>>(), of(&names));
        }
    }
}

/// Who has which address, as the journal would have it; and whether that was ever contradicted.
#[derive(Default)]
struct Recorded {
    names: Mutex<BTreeMap<Ipv4Addr, Ipv6Net>>,
    is_wrong: AtomicBool,
}

impl Recorded {
    fn expect(&self, is_so: bool) {
        self.is_wrong.fetch_or(!is_so, Ordering::Relaxed);
    }

    /// Returns whether an address is new to its client, if it has one.
    fn came(&self, share: &PoolShare, client: Ipv6Addr, coming: Coming) -> bool {
        let key = Ipv6Net::new(client, 64).unwrap().trunc();
        match coming {
            Coming::New(address, net) => {
                let mut names = self.names.lock().unwrap();
                self.expect(names.values().all(|other| *other != net));
                let before = names.insert(address, net);
                self.expect(before.is_none() && net == key);
                share.recorded(net);
                true
            }
            Coming::Has(address) => {
                self.expect(self.names.lock().unwrap().get(&address) == Some(&key));
                false
            }
        }
    }

    fn went(&self, share: &mut PoolShare, (address, net): Name) {
        let before = self.names.lock().unwrap().remove(&address);
        self.expect(before == Some(net));
        share.freed((address, net));
    }
}

/// Entries of few clients come and go. Returns how many found an address, got a new one, and how
/// many addresses were taken back.
fn hammer(share: &mut PoolShare, number: u32, recorded: &Recorded) -> [u32; 3] {
    const ROUNDS: u32 = 60_000;
    let mut entries: Vec<Ipv6Addr> = Vec::new();
    let mut leaving = Vec::new();
    let (mut random, mut counts) = (1 + number, [0; 3]);
    for _ in 0..ROUNDS {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let client = client((random >> 20) as u16 % 200, 1);
        if let Ok(coming) = share.come(client, NAT64) {
            counts[usize::from(recorded.came(share, client, coming))] += 1;
        }
        entries.push(client);
        if entries.len() > 40 {
            let place = (random >> 8) as usize % entries.len();
            share.go(entries.swap_remove(place), Duration::ZERO);
        }
        // What ends is recorded a little later.
        if leaving.len() > 8 {
            leaving.drain(..).for_each(|name| recorded.went(share, name));
        }
        share.take_back(Duration::ZERO, 4, 2, |name| {
            leaving.push(name);
            counts[2] += 1;
        });
    }
    entries.drain(..).for_each(|client| share.go(client, Duration::ZERO));
    leaving.drain(..).for_each(|name| recorded.went(share, name));
    counts
}

/// Two reactors have entries of the same clients, as fast as they can.
#[test]
fn two_threads_never_give_an_address_twice() {
    let settings =
        PoolSettings { idle: Duration::ZERO, ..settings("100.64.0.0/25", PoolUnit::Prefix64) };
    let (pool, mut shares) = pool(settings, 2, &[]);
    let recorded = Recorded::default();
    let counts: Vec<_> = thread::scope(|scope| {
        let threads = shares.iter_mut().zip(0..).map(|(share, number)| {
            let recorded = &recorded;
            scope.spawn(move || hammer(share, number, recorded))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(!recorded.is_wrong.load(Ordering::Relaxed));
    assert!(counts.iter().flatten().all(|&count| count > 1000), "{counts:?}");
    // Nobody is counted twice, or not at all: in the end all can go.
    for share in &mut shares {
        taken_back(share, at(1)).into_iter().for_each(|name| recorded.went(share, name));
    }
    assert!(!recorded.is_wrong.into_inner());
    assert!(recorded.names.into_inner().unwrap().is_empty());
    assert_eq!(pool.named(), 0);
    assert!(pool.parts.iter().all(|part| part.lock().unwrap().is_empty()));
}

/// The same for packets, which have no entries.
fn translating(network: &str, found: &[Name]) -> (Arc<AddressPool>, PoolShare) {
    let settings = PoolSettings { translates: true, ..settings(network, PoolUnit::Address) };
    let (pool, mut shares) = pool(settings, 1, found);
    (pool, shares.remove(0))
}

#[test]
fn who_sends_packets_has_an_address_until_no_connection_is_left() {
    let (pool, mut share) = translating("100.64.0.0/24", &[]);
    let comes = |share: &mut PoolShare, now| share.come_for_packet(client(1, 1), NAT64, at(now));
    let Ok(Coming::New(address, net)) = comes(&mut share, 5) else { panic!() };
    assert_eq!(comes(&mut share, 6), Ok(Coming::Has(address)));
    assert_eq!((pool.client_of(address), pool.address_of(client(1, 1))), (None, None));
    share.recorded(net);
    assert_eq!(pool.client_of(address), Some(client(1, 1)));
    assert_eq!(pool.address_of(client(1, 1)), Some(address));
    // Whatever is kept for entries: a connection may be silent for two hours.
    let idle = TRANSLATED_IDLE_MIN.as_secs();
    assert_eq!(taken_back(&mut share, at(6 + idle - 1)), []);
    assert_eq!(comes(&mut share, 6 + idle - 1), Ok(Coming::Has(address)));
    // An answer counts, too.
    pool.touch(client(1, 1), at(6 + idle + 1));
    assert_eq!(taken_back(&mut share, at(6 + 2 * idle)), []);
    assert_eq!(taken_back(&mut share, at(6 + 2 * idle + 1)), [(address, net)]);
    assert_eq!(pool.client_of(address), None);
    assert_eq!(comes(&mut share, 99_999), Err(Nameless::Unrecorded));
    share.freed((address, net));
    assert!(pool.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    // After a restart it is known again whose one is.
    let (pool, mut share) = translating("100.64.0.0/24", &[(address, net)]);
    assert_eq!(pool.client_of(address), Some(client(1, 1)));
    assert_eq!(comes(&mut share, 0), Ok(Coming::Has(address)));
    assert_eq!(taken_back(&mut share, at(idle - 1)), []);
}

#[test]
fn no_network_takes_all_addresses() {
    let (pool, mut share) = translating("100.64.0.0/24", &[]);
    let via = |number: u16| Ipv4Addr::new(192, 0, number as u8, 1);
    let mut come = |net, number, now| {
        let coming = share.come_for_packet(client(net, number), via(number), at(now));
        if let Ok(Coming::New(_, net)) = coming {
            share.recorded(net);
        }
        coming
    };
    // One host that has as many addresses as it likes, and NAT64s, too.
    let given = (0..500).filter(|&number| come(1, number, 0).is_ok()).count();
    assert_eq!(given, 191, "three quarters");
    assert_eq!(come(1, 500, 0), Err(Nameless::Share));
    assert!(matches!(come(2, 1, 0), Ok(Coming::New(..))));
    assert_eq!(come(1, 7, 0), come(1, 7, 0), "who has one has it");
    // What it does not use for five minutes is for others, as far as they want it.
    assert_eq!(taken_back(&mut share, at(299)), []);
    assert_eq!(taken_back(&mut share, at(300)).len(), 2);
    assert!(!share.is_crowded() && pool.named() == 190);
}
