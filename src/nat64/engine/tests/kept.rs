//! Entries that outlive a restart: all that were made without a server, and none that may be
//! another client's.

use super::*;

fn keeping() -> Nat64 {
    nat64_of(Nat64Config { keeps_entries: true, tells_changes: true, ..Nat64Config::new(PUBLIC) })
}

/// What is in the file, once it is written.
fn collect(nat64: &mut Nat64) -> Vec<u8> {
    nat64.begin_keeping();
    let (mut octets, mut after) = (Vec::new(), None);
    loop {
        after = nat64.keep(NOW, after, &mut octets);
        if after.is_none() {
            return octets;
        }
    }
}

/// The NAT64 was killed, and has started again after that time.
fn restarted(before: &Nat64, kept: &[u8], elapsed: Duration) -> (Nat64, Restored) {
    let mut nat64 = Nat64::new(before.config.clone(), [9; 32]);
    let restored = nat64.restore(NOW, elapsed, before.control_port(), kept).unwrap();
    (nat64, restored)
}

/// The server is alive from here on, and has heard of all entries.
fn known(nat64: &mut Nat64) {
    let payload = returned(nat64, &service_segment(9));
    by_server(nat64, &payload);
    assert_eq!(nat64.state(SERVER), ServerState::Alive);
}

fn open(nat64: &mut Nat64, client: Client) -> Option<Entry> {
    let actions = by_client(nat64, &segment(client, SYN));
    nat64.port_of(SERVER, &client)?;
    Some(the_forwarded(&actions).0)
}

#[test]
fn connections_go_on_by_their_entries() {
    let mut before = keeping();
    let made: Vec<_> = (0..40).map(|n| open(&mut before, alone(n, 1000 + n)).unwrap()).collect();
    // Half of them are established.
    for entry in &made[..20] {
        by_service(&mut before, &service_segment(entry.port.0));
        by_client(&mut before, &segment(entry.client, ACK));
    }
    let kept = collect(&mut before);
    assert_eq!(kept.len(), 40 * KEPT_ENTRY);
    let (mut after, restored) = restarted(&before, &kept, Duration::from_secs(1));
    assert_eq!(restored, Restored { entries: 40, lost: 0 });
    assert_eq!(after.control_port(), before.control_port());
    assert_eq!(after.entries_held(), 40);
    // They went on: nothing is told.
    assert_eq!(after.changes().count(), 0);
    for &entry in &made {
        let actions = by_service(&mut after, &service_segment(entry.port.0));
        assert_eq!(actions, [forward(SERVER, entry, &service_segment(entry.port.0))]);
        let actions = by_client(&mut after, &segment(entry.client, ACK));
        assert_eq!(the_forwarded(&actions).0, entry);
    }
    // Later, the time has come for those that were not established.
    let (mut after, restored) = restarted(&before, &kept, TCP_TRANSITORY_LIFETIME);
    assert_eq!(restored, Restored { entries: 20, lost: 20 });
    let gone: Vec<_> = after.changes().map(|change| (change.entry, change.made)).collect();
    let expected: Vec<_> = made[20..].iter().map(|&entry| (entry, false)).collect();
    assert_eq!(gone, expected);
    // Each network has as many as before, for its share.
    assert_eq!(after.peers[&SERVER].own().count(), 20);
    let (after, restored) = restarted(&before, &kept, TCP_ESTABLISHED_LIFETIME);
    assert_eq!((restored.entries, after.entries_held()), (0, 0));
    // What was kept is what would be kept again.
    let (mut after, _) = restarted(&before, &kept, Duration::ZERO);
    assert_eq!(collect(&mut after), kept);
}

#[test]
fn what_cannot_be_is_left_out() {
    let mut before = keeping();
    for number in 0..10 {
        open(&mut before, alone(number, 1000)).unwrap();
    }
    let kept = collect(&mut before);
    let restore = |config: Nat64Config, kept: &[u8]| {
        let mut after = Nat64::new(config, [9; 32]);
        after
            .restore(NOW, Duration::ZERO, before.control_port(), kept)
            .map(|restored| restored.entries)
    };
    let other = Prefix96([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let config = Nat64Config { prefixes: vec![other], ..before.config.clone() };
    assert_eq!(restore(config, &kept), Some(0));
    let port = before.entries(SERVER).next().unwrap().port;
    let config = Nat64Config { handoff_port: port.0, ..before.config.clone() };
    assert_eq!(restore(config, &kept), Some(9));
    // The same client, or port, twice.
    let twice = [&kept[..], &kept].concat();
    assert_eq!(restore(before.config.clone(), &twice), Some(10));
    assert_eq!(restore(before.config.clone(), &kept[1..]), None);
    // No octets make a panic, or two clients of one port.
    let mut random = Random::new([4; 32]);
    for _ in 0..2000 {
        let mut octets = twice.clone();
        for _ in 0..20 {
            let at = random.below(octets.len() as u32) as usize;
            octets[at] = random.below(256) as u8;
        }
        assert!(restore(before.config.clone(), &octets).is_some());
    }
}

#[test]
fn what_a_server_named_is_not_kept() {
    let mut nat64 = keeping();
    let own = open(&mut nat64, alone(1, 1000)).unwrap();
    known(&mut nat64);
    let named = entry(4000, alone(2, 1000));
    let payload = answer(&nat64, named, &[]);
    by_server(&mut nat64, &payload);
    assert_eq!(nat64.entries_held(), 2);
    assert_eq!(collect(&mut nat64).len(), KEPT_ENTRY);
    // At the end, those alone that are kept are not over.
    nat64.changes().for_each(drop);
    nat64.tell_stop();
    let gone: Vec<_> = nat64.changes().map(|change| (change.entry, change.made)).collect();
    assert_eq!(gone, [(named, false)]);
    // The server adopts it.
    let payload = answer(&nat64, own, &[]);
    by_server(&mut nat64, &payload);
    assert_eq!(collect(&mut nat64).len(), 0);
}

#[test]
fn a_port_is_nobody_elses_as_long_as_the_file_names_its_holder() {
    let mut nat64 = keeping();
    let all = nat64.ports_eligible();
    let many =
        |of: u16| (0..all).map(move |n| client(of + (n / 50_000) as u16, (n % 50_000) as u16 + 1));
    for client in many(10) {
        let entry = open(&mut nat64, client).unwrap();
        // Else a network keeps few of them.
        by_service(&mut nat64, &service_segment(entry.port.0));
    }
    assert_eq!(nat64.entries_held(), all);
    let kept = collect(&mut nat64);
    nat64.kept();
    // They expire, and others come. Whoever is killed now has no wrong entry after it.
    tick(&mut nat64, NOW + 2 * TCP_ESTABLISHED_LIFETIME);
    assert_eq!(nat64.entries_held(), 0);
    for client in many(20).take(3) {
        assert_eq!(open(&mut nat64, client), None);
    }
    assert_eq!(nat64.ignored(Ignored::NoPort), 3);
    // Its own port each of them may have again.
    let (after, _) = restarted(&nat64, &kept, Duration::ZERO);
    let first = many(10).next().unwrap();
    let again = entry(after.port_of(SERVER, &first).unwrap().0, first);
    assert!(!nat64.told.is_reserved(SERVER, &again));
    // One is made by a server: it is another's in the file.
    known(&mut nat64);
    let payload = answer(&nat64, Entry { client: client(30, 1), ..again }, &[]);
    by_server(&mut nat64, &payload);
    assert_eq!(nat64.ignored(Ignored::Contradicted), 1);
    assert_eq!(nat64.client_of(SERVER, again.port), None);
    // They are kept anew, without those; but as long as that is not done, nothing changes.
    let anew = collect(&mut nat64);
    assert_eq!(anew.len(), 0);
    assert!(nat64.told.is_reserved(SERVER, &Entry { client: client(30, 1), ..again }));
    nat64.kept();
    let payload = answer(&nat64, Entry { client: client(30, 1), ..again }, &[]);
    by_server(&mut nat64, &payload);
    assert_eq!(nat64.client_of(SERVER, again.port), Some(client(30, 1)));
}

#[test]
fn what_becomes_free_while_entries_are_kept_is_reserved_until_they_are_kept_again() {
    let mut nat64 = keeping();
    let one = open(&mut nat64, client(1, 1000)).unwrap();
    let other = Entry { client: client(2, 1000), ..one };
    assert_eq!(collect(&mut nat64).len(), KEPT_ENTRY);
    // It was collected, and expires before that is written.
    tick(&mut nat64, NOW + 2 * TCP_TRANSITORY_LIFETIME);
    nat64.kept();
    assert!(nat64.told.is_reserved(SERVER, &other));
    assert_eq!(collect(&mut nat64).len(), 0);
    assert!(nat64.told.is_reserved(SERVER, &other));
    nat64.kept();
    assert!(!nat64.told.is_reserved(SERVER, &other));
}

#[test]
fn what_a_server_adopted_is_no_others_until_the_file_knows_it() {
    let mut nat64 = keeping();
    let one = open(&mut nat64, client(1, 1000)).unwrap();
    collect(&mut nat64);
    nat64.kept();
    known(&mut nat64);
    let payload = answer(&nat64, one, &[]);
    by_server(&mut nat64, &payload);
    // Now the server gives the port to another.
    let other = Entry { client: client(2, 1000), ..one };
    let payload = answer(&nat64, other, &[]);
    by_server(&mut nat64, &payload);
    assert_eq!(nat64.client_of(SERVER, one.port), Some(one.client));
    collect(&mut nat64);
    nat64.kept();
    by_server(&mut nat64, &payload);
    assert_eq!(nat64.client_of(SERVER, one.port), Some(other.client));
}
