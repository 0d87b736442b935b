//! The full table: capacity, replacement, what counts as use, fair share. Each test fills one table
//! of 64508 entries and tries several things on it.

use crate::judge::client::{Client, Entry, PUBLIC, SERVICE};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::Reply;
use crate::server::Server;
use std::collections::{HashSet, VecDeque};
use std::net::{Ipv6Addr, TcpListener, TcpStream};

const CAPACITY: usize = 64508;

type Line = (Kind, Option<(u16, Ipv6Addr, u16)>);

fn line(kind: Kind, entry: Entry) -> Line {
    (kind, Some((entry.mapped, entry.client.address, entry.client.port)))
}

/// What the log must say after the filling, in order.
struct Expected {
    lines: Vec<Line>,
    before: usize,
}

impl Expected {
    /// After the filling: exactly one line for each entry, none deleted.
    fn after_filling(server: &Server) -> Expected {
        let events = server.events_from(1 + CAPACITY);
        assert_eq!(events.len(), 1 + CAPACITY);
        assert!(events[1..].iter().all(|event| event.kind == Kind::Created));
        Expected { lines: Vec::new(), before: events.len() }
    }

    /// The old entry is deleted, the new one created: in this order.
    fn replaced(&mut self, old: Entry, new: Entry) {
        self.lines.push(line(Kind::Deleted, old));
        self.lines.push(line(Kind::Created, new));
    }

    fn check(&self, server: &Server) {
        let events = server.events_from(self.before + self.lines.len());
        let lines: Vec<_> = events[self.before..].iter().map(|event| event.what()).collect();
        assert_eq!(lines, self.lines);
    }
}

/// A new client, not one of those that filled the table.
fn stranger(number: u32) -> Client {
    Client::nth(0x0100_0000 + number)
}

/// Fills the table, each client in a /64 of its own: every eligible port is given out once. The
/// ports, by client.
fn fill_by_client_packets(nat64: &Nat64) -> Vec<u16> {
    let mut ports = vec![0u16; CAPACITY];
    let request = |number| {
        let client = Client::nth(number as u32);
        nat64.client_request(&client.authenticator(), &client.udp(b""))
    };
    nat64.in_order(CAPACITY, request, |reply| {
        let entry = reply.entry.unwrap();
        let number = (u128::from(entry.client.address) >> 64) as u32;
        assert_eq!(entry.client, Client::nth(number));
        ports[number as usize] = entry.mapped;
        number as usize
    });
    let eligible: HashSet<_> = (1024..=65535).filter(|&port| nat64.is_eligible(port)).collect();
    assert_eq!(eligible.len(), CAPACITY);
    assert_eq!(ports.iter().copied().collect::<HashSet<_>>(), eligible);
    ports
}

/// Uses the first eight, each in another way.
fn use_eight(nat64: &Nat64, ports: &[u16], expected: &mut Expected) {
    let old = |number: usize| Client::nth(number as u32).at(ports[number]);
    assert_eq!(nat64.map(old(0).client), ports[0]);
    assert_eq!(nat64.find(ports[1]), Some((old(1), old(1).client.authenticator())));
    assert_eq!(nat64.report(old(2)), old(2));
    assert_eq!(nat64.report(old(3).client.at(ports[100])), old(3));
    expected.lines.push(line(Kind::Conflict, old(3).client.at(ports[100])));
    let client = old(4).client;
    let about = packet::udp6((client.service(), 443), (client.address, client.port), b"");
    let rest = [&[0; 4][..], &about].concat();
    let router = Client::parse("2001:db8:ffff::1", 0).address;
    let error = packet::icmpv6(router, client.service(), 1, 0, &rest);
    let answer = nat64.ask(&nat64.client_request(b"router", &error));
    assert_eq!(answer, Reply::mapping(&client.authenticator(), old(4), &error));
    let about = Ipv4::udp((PUBLIC, ports[5]), (SERVICE, 443), b"").octets();
    let error = Ipv4::icmp(SERVICE, PUBLIC, 3, 3, &[&[0; 4][..], &about].concat()).octets();
    let answer = nat64.ask(&nat64.service_request(&error));
    assert_eq!(answer, Reply::mapping(&old(5).client.authenticator(), old(5), &error));
    let answer = nat64.ask(&nat64.multi_request(&[old(6), old(7)]));
    assert_eq!(answer, Reply::report(&old(6).client.authenticator(), old(6)));
}

/// Filled by client packets, each client in a /64 of its own: every eligible port is given out
/// once. Then: least recently used goes, its port is reused; what counts as use; hints and reports
/// for taken ports; another control port.
#[test]
fn section_6_full_table_of_client_packets() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let ports = fill_by_client_packets(&nat64);
    let mut expected = Expected::after_filling(&server);
    let old = |number: usize| Client::nth(number as u32).at(ports[number]);
    use_eight(&nat64, &ports, &mut expected);
    // These do not use what they do not look up: strangers, the holder of a reported port.
    let unknown = nat64.other_token(b"unknown!");
    unknown.send(&unknown.client_request(b"authen", &old(8).client.udp(b"")));
    nat64.fence();

    let mut victim = 8;
    let mut next_stranger = 0;
    let mut replace = |expected: &mut Expected, map: &dyn Fn(Client) -> u16| {
        let new = stranger(next_stranger);
        next_stranger += 1;
        let mapped = map(new);
        assert_eq!(mapped, ports[victim], "the port of the least recently used entry");
        expected.replaced(old(victim), new.at(mapped));
        victim += 1;
    };
    replace(&mut expected, &|new| nat64.map(new));
    replace(&mut expected, &|new| nat64.map(new));
    // Hints: taken, not eligible, the victim's own.
    replace(&mut expected, &|new| nat64.map_hinted(new, ports[100]));
    replace(&mut expected, &|new| nat64.map_hinted(new, 80));
    replace(&mut expected, &|new| nat64.map_hinted(new, ports[12]));
    // Reports of taken ports: a conflict, then a replacement. The holder was not used by that.
    for place in [200, 14] {
        let new = stranger(100 + place as u32);
        expected.lines.push(line(Kind::Conflict, new.at(ports[place])));
        assert_eq!(nat64.report(new.at(ports[place])), new.at(ports[victim_of(place)]));
        expected.replaced(old(victim_of(place)), new.at(ports[victim_of(place)]));
    }
    fn victim_of(place: usize) -> usize {
        if place == 200 { 13 } else { 14 }
    }
    // One that was deleted comes back as a new one; the first eight are still there.
    let mapped = nat64.map(old(8).client);
    assert_eq!(mapped, ports[15]);
    expected.replaced(old(15), old(8).client.at(mapped));
    for (number, &port) in ports[..8].iter().enumerate() {
        assert_eq!(nat64.find(port).unwrap().0, old(number));
    }
    expected.check(&server);

    // A second control port, which is mapped as all are: its entry is deleted, and the capacity is
    // one less, so the next client replaces another entry.
    let other = nat64.other_port(0);
    let (holder, _) = nat64.find(other.port()).unwrap();
    other.introduce();
    expected.lines.push(line(Kind::Deleted, holder));
    assert_eq!(nat64.find(other.port()), None);
    let victim = if holder == old(16) { 17 } else { 16 };
    let new = stranger(1000);
    assert_eq!(nat64.map_hinted(new, other.port()), ports[victim]);
    expected.replaced(old(victim), new.at(ports[victim]));
    expected.check(&server);
}

/// A control port below 1024 leaves one more port than entries are allowed: then a hint or a report
/// can name a free port at a full table. All clients live in one /64 and have the whole table.
#[test]
fn section_6_free_port_at_a_full_table() {
    let server = Server::start(&[]);
    let nat64 = Nat64::with_port(&server, 1009);
    nat64.introduce();
    const FREE: u16 = 22000;
    let ports: Vec<u16> =
        (1024..=65535).filter(|&port| nat64.is_eligible(port) && port != FREE).collect();
    assert_eq!(ports.len(), CAPACITY);
    let entries: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, &port)| Client::within(1, number as u64 + 1).at(port))
        .collect();
    nat64.fill(&entries);
    let mut expected = Expected::after_filling(&server);
    let new = |number: u64| Client::within(1, 1_000_000 + number);
    // A hint to the free port: the oldest entry is evicted, its port becomes free.
    assert_eq!(nat64.map_hinted(new(0), FREE), FREE);
    expected.replaced(entries[0], new(0).at(FREE));
    // A report that names a free port.
    assert_eq!(nat64.report(new(1).at(ports[0])).mapped, ports[0]);
    expected.replaced(entries[1], new(1).at(ports[0]));
    // Without a hint, or with one that is taken: the evicted entry's port, not the free one.
    assert_eq!(nat64.map(new(2)), ports[2]);
    expected.replaced(entries[2], new(2).at(ports[2]));
    assert_eq!(nat64.map_hinted(new(3), FREE), ports[3]);
    expected.replaced(entries[3], new(3).at(ports[3]));
    // A hint to the port that is free now.
    assert_eq!(nat64.map_hinted(new(4), ports[1]), ports[1]);
    expected.replaced(entries[4], new(4).at(ports[1]));
    expected.check(&server);
}

/// An entry on whose port this host has a live TCP connection with the NAT64 is passed over.
#[test]
fn section_6_live_connections_are_passed_over() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let mut ports: Vec<u16> = (1024..=65535).filter(|&port| nat64.is_eligible(port)).collect();
    // Stands for the client's end: what matters is that a socket of this host, at the server's
    // address, is connected to the NAT64's address and the mapped port.
    let listener = TcpListener::bind((nat64.address, 0)).unwrap();
    let live = listener.local_addr().unwrap().port();
    let service = TcpStream::connect((nat64.address, live)).unwrap();
    assert_eq!(service.local_addr().unwrap().ip(), *server.addr().ip());
    let _accepted = listener.accept().unwrap();
    let place = ports.iter().position(|&port| port == live).unwrap();
    ports.swap(0, place);
    let entries: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(number, &port)| Client::nth(number as u32).at(port))
        .collect();
    nat64.fill(&entries);
    let mut expected = Expected::after_filling(&server);
    // The kernel is asked as soon as the table is nearly full, by a thread of its own.
    server.wait_for_look();
    for number in 0..3 {
        let victim = entries[1 + number as usize];
        assert_eq!(nat64.map(stranger(number)), victim.mapped);
        expected.replaced(victim, stranger(number).at(victim.mapped));
    }
    assert_eq!(nat64.find(live).unwrap().0, entries[0]);
    expected.check(&server);
}

/// The heavier /64 pays until they are equal again, and so on until none is heavy any more: only
/// the sum is certain.
fn until_none_is_heavy(
    nat64: &Nat64,
    light: &mut VecDeque<Entry>,
    heavy: &mut VecDeque<Entry>,
    new_stranger: &mut impl FnMut() -> Client,
) {
    const NOT_HEAVY: usize = CAPACITY / 8;
    while light.len() > NOT_HEAVY || heavy.len() > NOT_HEAVY {
        let mapped = nat64.map(new_stranger());
        let even = light.len() == heavy.len();
        let from = if light[0].mapped == mapped { &mut *light } else { &mut *heavy };
        let (victim, left) = (from.pop_front().unwrap(), from.len());
        assert_eq!(victim.mapped, mapped);
        assert!(left >= NOT_HEAVY, "a /64 that is not heavy paid");
        assert!(even || light.len() == heavy.len(), "not the heaviest paid");
    }
}

/// Fair share: a /64 with more than an eighth of the capacity (8063.5) pushes out itself, and
/// others push it out, the heaviest first; below that the whole table's least recently used entry
/// goes.
#[test]
fn section_6_fair_share() {
    let server = Server::start(&["--client-share", "0.125"]);
    let nat64 = Nat64::known(&server);
    const HEAVIER: (u32, usize) = (0x0200_0001, 8100);
    const HEAVY: (u32, usize) = (0x0200_0002, 8070);
    let mut clients: Vec<_> = (0..100).map(Client::nth).collect();
    for (net, count) in [HEAVIER, HEAVY] {
        clients.extend((1..=count).map(|member| Client::within(net, member as u64)));
    }
    let rest = CAPACITY - clients.len();
    clients.extend((100..100 + rest as u32).map(Client::nth));
    let ports = (1024..=65535).filter(|&port| nat64.is_eligible(port));
    let entries: Vec<_> =
        clients.into_iter().zip(ports).map(|(client, port)| client.at(port)).collect();
    assert_eq!(entries.len(), CAPACITY);
    nat64.fill(&entries);
    let mut expected = Expected::after_filling(&server);
    let (lone, entries) = entries.split_at(100);
    let mut lone = VecDeque::from(lone.to_vec());
    let (heavier, entries) = entries.split_at(HEAVIER.1);
    let mut heavier = VecDeque::from(heavier.to_vec());
    let mut heavy = VecDeque::from(entries[..HEAVY.1].to_vec());
    let mut next = 0;
    let mut new_stranger = || {
        next += 1;
        stranger(next)
    };
    let mut goes = |from: &mut VecDeque<Entry>, new: Client| {
        let victim = from.pop_front().unwrap();
        let new = new.at(nat64.map(new));
        assert_eq!(new.mapped, victim.mapped, "expected to go: {victim:?}");
        expected.replaced(victim, new);
        new
    };
    // A stranger: the heaviest pays. A member of either: its own /64 pays.
    goes(&mut heavier, new_stranger());
    for member in 0..3 {
        let new = goes(&mut heavy, Client::within(HEAVY.0, 100_000 + member));
        heavy.push_back(new);
        let new = goes(&mut heavier, Client::within(HEAVIER.0, 100_000 + member));
        heavier.push_back(new);
    }
    // Strangers until the heavier one is as heavy as the other.
    while heavier.len() > heavy.len() {
        goes(&mut heavier, new_stranger());
    }
    // Either may pay now. So let the one of them be lighter by a stranger that finds out which.
    let new = new_stranger();
    let mapped = nat64.map(new);
    let (mut light, mut heavy, light_net) = if heavier[0].mapped == mapped {
        (heavier, heavy, HEAVIER.0)
    } else {
        (heavy, heavier, HEAVY.0)
    };
    let victim = light.pop_front().unwrap();
    assert_eq!(victim.mapped, mapped);
    expected.replaced(victim, new.at(mapped));
    expected.check(&server);
    until_none_is_heavy(&nat64, &mut light, &mut heavy, &mut new_stranger);
    // Nobody is heavy: the whole table's oldest, for strangers and for members alike.
    let goes = |from: &mut VecDeque<Entry>, new: Client| {
        let victim = from.pop_front().unwrap();
        assert_eq!(nat64.map(new), victim.mapped, "expected to go: {victim:?}");
    };
    goes(&mut lone, new_stranger());
    goes(&mut lone, Client::within(light_net, 200_000));
    // That made it heavy again: it pays for a stranger, and is not heavy after that.
    goes(&mut light, new_stranger());
    goes(&mut lone, new_stranger());
}
