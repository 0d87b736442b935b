//! The ports of banned clients, for who keeps them out of this host: `GET /bans/ports`.
//!
//! While somebody asks for them, the reactors note which entries of banned clients come and go
//! ([`crate::programs::serve::ban_notes`]), and here is what all notes come to. Who asks has all of
//! them at first, and then what changed since: an answer comes when there is something, or after a
//! while. Also here: connections that are to be ended, and how many were.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Duration;

use ipnet::Ipv6Net;

use crate::handoff::bans::Bans;
use crate::programs::report::{BannedPort, BannedPortsReport, EndOrder};
use crate::programs::serve::ban_notes::BanNote;

/// The most ports that are told: those of more clients are not kept out, and that is said.
pub const PORTS_MAX: usize = 65_536;
/// Changes that are remembered. Who has not heard of the first of them gets all ports anew.
const CHANGES_MAX: usize = 16_384;
/// Nobody has asked for so long: the reactors note nothing any more.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
/// Orders to end connections that wait at a time.
const ORDERS_MAX: usize = 64;
/// An order that nobody carried out for so long is given up.
pub const ORDER_WAIT: Duration = Duration::from_secs(5);

/// What is known of the ports of banned clients.
#[derive(Debug)]
pub struct BanPorts {
    ports: HashMap<BannedPort, Ipv6Addr>,
    /// The first of `changes` led to the version after this one.
    first: u64,
    /// What came (true) and went, in order.
    changes: VecDeque<(BannedPort, bool)>,
    /// There are more than are told.
    pub is_cut: bool,
}

impl BanPorts {
    /// None, for who has heard nothing, or no more than this version of what was known before.
    pub fn after(version: u64) -> Self {
        let (ports, changes) = (HashMap::new(), VecDeque::new());
        Self { ports, first: version + 1, changes, is_cut: false }
    }

    /// Another number whenever something has changed.
    pub fn version(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    pub fn add(&mut self, key: BannedPort, client: Ipv6Addr) {
        if self.ports.len() >= PORTS_MAX && !self.ports.contains_key(&key) {
            self.is_cut = true;
        } else if self.ports.insert(key, client).is_none() {
            self.changed(key, true);
        }
    }

    fn remove(&mut self, key: BannedPort, client: Ipv6Addr) {
        // It may be another's by now.
        if self.ports.get(&key) == Some(&client) {
            self.ports.remove(&key);
            self.changed(key, false);
        }
    }

    /// An entry of a banned client came or went.
    pub fn note(&mut self, note: &BanNote) {
        let (key, client) = (BannedPort::of(note.table, &note.entry), note.entry.client.address);
        match note.is_new {
            true => self.add(key, client),
            false => self.remove(key, client),
        }
    }

    /// Nobody in `net` is banned any more, but for those that `bans` has still.
    pub fn unban(&mut self, net: Ipv6Net, bans: Option<&Bans>, now: Duration) {
        let is_out = |client: &Ipv6Addr| {
            net.contains(client) && !bans.is_some_and(|bans| bans.has(*client, now))
        };
        let gone: Vec<_> =
            self.ports.iter().filter(|(_, client)| is_out(client)).map(|(&key, _)| key).collect();
        for key in gone {
            self.ports.remove(&key);
            self.changed(key, false);
        }
    }

    fn changed(&mut self, key: BannedPort, is_new: bool) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
            self.first += 1;
        }
        self.changes.push_back((key, is_new));
    }

    /// What changed after a version; all ports, where that is not known any more.
    pub fn since(&self, version: Option<u64>) -> BannedPortsReport {
        let version = version.filter(|&known| known >= self.first && known <= self.version());
        let told = |is_new: bool, from: u64| {
            let skip = (from - self.first) as usize;
            let changes = self.changes.iter().skip(skip);
            // Of several changes of a port, the last one counts.
            let mut last = HashMap::new();
            last.extend(changes.copied());
            last.into_iter().filter(move |change| change.1 == is_new).map(|(key, _)| key)
        };
        let (added, removed) = match version {
            Some(version) => (told(true, version).collect(), told(false, version).collect()),
            None => (self.ports.keys().copied().collect(), Vec::new()),
        };
        BannedPortsReport {
            instance: 0,
            version: self.version(),
            is_all: version.is_none(),
            added,
            removed,
            orders: Vec::new(),
        }
    }
}

/// Orders to end the connections of banned clients.
#[derive(Debug, Default)]
pub struct EndOrders {
    last: u64,
    waiting: Vec<WaitingOrder>,
    done: Vec<(u64, Result<u64, String>)>,
}

#[derive(Debug)]
struct WaitingOrder {
    order: EndOrder,
    since: Duration,
    /// The bans that it follows from were heard of.
    is_heard: bool,
}

impl EndOrders {
    /// One more. None: too many wait.
    pub fn add(&mut self, ports: Vec<BannedPort>, now: Duration) -> Option<u64> {
        self.waiting.retain(|waiting| now.saturating_sub(waiting.since) < ORDER_WAIT);
        if self.waiting.len() >= ORDERS_MAX {
            return None;
        }
        self.last += 1;
        let order = EndOrder { number: self.last, ports };
        self.waiting.push(WaitingOrder { order, since: now, is_heard: false });
        Some(self.last)
    }

    /// What was banned before these orders came is among the ports that are told.
    pub fn heard(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| waiting.is_heard = true);
    }

    /// Those that are to be carried out: not before it is told that their ports are banned, as
    /// only connections of such ports are ended.
    pub fn waiting(&self) -> Vec<EndOrder> {
        let heard = self.waiting.iter().filter(|waiting| waiting.is_heard);
        heard.map(|waiting| waiting.order.clone()).collect()
    }

    /// How many connections were ended, or why none.
    pub fn done(&mut self, number: u64, result: Result<u64, String>) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.order.number != number);
        if self.waiting.len() < before {
            if self.done.len() >= ORDERS_MAX {
                drop(self.done.remove(0));
            }
            self.done.push((number, result));
        }
    }

    /// What came of an order. Where nobody has carried it out yet, and `is_late`, it is given up.
    pub fn result(&mut self, number: u64, is_late: bool) -> Option<Result<u64, String>> {
        if is_late {
            self.waiting.retain(|waiting| waiting.order.number != number);
        }
        let at = self.done.iter().position(|done| done.0 == number)?;
        Some(self.done.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::entry::{Client, Entry, MappedPort, TableKey};
    use crate::handoff::random::SecretHash;
    use crate::ip::address::Prefix96;
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    fn note(port: u16, host: u128, is_new: bool) -> BanNote {
        let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | host);
        let client = Client { prefix: Prefix96([0; 12]), address, port: 1 };
        let table =
            TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, 7) };
        BanNote { table, entry: Entry { port: MappedPort(port), client }, is_new }
    }

    #[test]
    fn an_order_is_told_after_the_bans_that_it_follows_from() {
        let mut orders = EndOrders::default();
        let numbers = |orders: &EndOrders| -> Vec<u64> {
            orders.waiting().iter().map(|order| order.number).collect()
        };
        let first = orders.add(Vec::new(), Duration::ZERO).unwrap();
        assert!(numbers(&orders).is_empty());
        orders.heard();
        let second = orders.add(Vec::new(), Duration::ZERO).unwrap();
        assert_eq!(numbers(&orders), [first]);
        orders.heard();
        assert_eq!(numbers(&orders), [first, second]);
        orders.done(first, Ok(1));
        assert_eq!(numbers(&orders), [second]);
    }

    fn ports(of: &[BannedPort]) -> Vec<u16> {
        let mut ports: Vec<_> = of.iter().map(|port| port.1).collect();
        ports.sort_unstable();
        ports
    }

    #[test]
    fn all_at_first_and_then_what_changed() {
        let mut all = BanPorts::after(0);
        all.note(&note(5000, 1, true));
        all.note(&note(5001, 2, true));
        let first = all.since(None);
        assert_eq!((first.is_all, ports(&first.added)), (true, vec![5000, 5001]));
        all.note(&note(5002, 3, true));
        all.note(&note(5000, 1, false));
        all.note(&note(5002, 3, false));
        let next = all.since(Some(first.version));
        assert_eq!(
            (next.is_all, ports(&next.added), ports(&next.removed)),
            (false, vec![], vec![5000, 5002])
        );
        let nothing = all.since(Some(next.version));
        assert!(nothing.added.is_empty() && nothing.removed.is_empty() && !nothing.is_all);
        assert!(all.since(Some(next.version + 1)).is_all, "of another run");
        // All was looked at anew.
        let mut anew = BanPorts::after(next.version);
        (0..9).for_each(|port| anew.note(&note(6000 + port, 1, true)));
        let all = anew.since(Some(next.version));
        assert_eq!((all.is_all, all.added.len()), (true, 9));
        assert!(!anew.since(Some(all.version)).is_all);
    }

    #[test]
    fn a_port_that_went_on_to_another_is_not_removed() {
        let mut all = BanPorts::after(0);
        all.note(&note(5000, 1, true));
        all.note(&note(5000, 2, true));
        all.note(&note(5000, 1, false));
        assert_eq!(ports(&all.since(None).added), [5000]);
    }

    #[test]
    fn who_is_unbanned_is_let_in() {
        let mut all = BanPorts::after(0);
        for host in 0..4 {
            all.note(&note(5000 + host as u16, host, true));
        }
        let version = all.version();
        let ban = ("2001:db8::3/128".parse().unwrap(), Duration::MAX);
        let still = Bans::of(SecretHash::new([1; 16]), [ban].into_iter());
        all.unban("2001:db8::2/127".parse().unwrap(), Some(&still), Duration::ZERO);
        assert_eq!(ports(&all.since(Some(version)).removed), [5002]);
        all.unban("2001:db8::/64".parse().unwrap(), None, Duration::ZERO);
        assert!(all.since(None).added.is_empty());
    }

    /// However many changes were missed, what is told leads to what is there.
    #[test]
    fn what_is_told_leads_to_what_is_there() {
        let mut all = BanPorts::after(0);
        let (mut heard, mut version) = (HashSet::new(), None);
        for step in 0..60_000_u32 {
            let port = 5000 + (step.wrapping_mul(2_654_435_761) >> 20) as u16;
            all.note(&note(port, u128::from(port), step % 3 != 0));
            if step % 977 == 0 || step == 59_999 || (step > 20_000 && step % 19_001 == 0) {
                let told = all.since(version);
                if told.is_all {
                    heard.clear();
                }
                for port in &told.removed {
                    heard.remove(&port.1);
                }
                heard.extend(told.added.iter().map(|port| port.1));
                version = Some(told.version);
                let there: HashSet<_> = all.ports.keys().map(|key| key.1).collect();
                assert_eq!(heard, there, "{step}");
            }
        }
    }

    #[test]
    fn there_are_not_too_many_ports() {
        let mut all = BanPorts::after(0);
        for number in 0..PORTS_MAX as u128 + 2 {
            let mut note = note(number as u16, number, true);
            note.table.nat64 = Ipv4Addr::from_bits(number as u32 >> 16);
            all.note(&note);
        }
        assert_eq!((all.ports.len(), all.is_cut), (PORTS_MAX, true));
        assert!(all.changes.len() <= CHANGES_MAX);
    }

    #[test]
    fn orders_are_carried_out_once_or_given_up() {
        let mut orders = EndOrders::default();
        let first = orders.add(vec![], Duration::ZERO).unwrap();
        orders.heard();
        assert_eq!(orders.waiting().len(), 1);
        assert_eq!(orders.result(first, false), None);
        orders.done(first, Ok(2));
        orders.done(first, Ok(3));
        assert_eq!(orders.result(first, false), Some(Ok(2)));
        let late = orders.add(vec![], Duration::ZERO).unwrap();
        assert_eq!(orders.result(late, true), None);
        orders.done(late, Ok(1));
        assert!(orders.result(late, false).is_none() && orders.waiting().is_empty());
        for _ in 0..ORDERS_MAX {
            orders.add(vec![], Duration::ZERO).unwrap();
        }
        assert_eq!(orders.add(vec![], Duration::ZERO), None);
        assert!(orders.add(vec![], ORDER_WAIT).is_some());
    }
}
