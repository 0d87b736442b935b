//! PROTOCOL.md section 6: what the requests of one NAT64 may cost.

use super::*;

/// One that may have 10 entries created in a second.
fn shard() -> Shard {
    let mut shard = Shard::new(|config| {
        config.create_rate = 10;
        config.limits.entries_max = 16;
        config.budget = Arc::new(Budget::new(100, 100_000));
    });
    shard.prove(NAT64, CONTROL, TOKEN);
    shard
}

fn newcomer(number: u32) -> Vec<u8> {
    client_packet(&udp6(&format!("2001:db8:{:x}::{:x}", number >> 16, number & 0xffff), 1))
}

#[test]
fn section_6_new_entries_a_second() {
    let mut shard = shard();
    let first = newcomer(0);
    // Twice a whole table at once...
    for number in 0..129_016 {
        assert_eq!(shard.send(&newcomer(number)).len(), 1, "{number}");
    }
    assert_eq!(shard.dropped(&newcomer(130_000)), DropReason::CreateRate);
    // ...does not cost the clients that are known, or other NAT64s.
    assert_eq!(shard.send(&newcomer(129_015)).len(), 1);
    let other = Ipv4Addr::new(192, 0, 2, 8);
    shard.prove(other, CONTROL, TOKEN);
    let table = TableKey { local: LOCAL, nat64: other };
    assert_eq!(shard.send_between(table, CONTROL, &first).len(), 1);
    // After that so many a second.
    shard.time += Duration::from_secs(2);
    let served = (140_000..140_100).filter(|&number| !shard.send(&newcomer(number)).is_empty());
    assert_eq!(served.count(), 20);
}

#[test]
fn section_6_a_conflict_is_recorded_once_in_a_minute() {
    let mut shard = shard();
    let own = make(&mut shard, CLIENT, 1);
    let wrong = entry(own.port.0 ^ 1, own.client);
    let expected = answer(b"a1", own, &[]);
    shard.batch.record = 7;
    for again in 0..5 {
        assert_eq!(shard.ask(&report(b"a1", &[wrong])), expected);
        assert_eq!(shard.outbox.replies[0].after, 7, "it waits for the record that says so");
        let conflicts = usize::from(again == 0);
        assert_eq!(shard.events().len(), conflicts, "{again}");
        assert_eq!(shard.server.stats().get(Counter::Conflicts), 1);
        shard.batch.record += 1;
        shard.time += Duration::from_secs(14);
    }
    assert_eq!(shard.ask(&report(b"a1", &[wrong])), expected);
    assert_eq!(shard.events(), [conflict(wrong)]);
    // Another port is another conflict.
    let other = entry(own.port.0 ^ 2, own.client);
    assert_eq!(shard.ask(&report(b"a1", &[other])), expected);
    assert_eq!(shard.events(), [conflict(other)]);
}

/// The last line about a port is what the NAT64 said last, whatever came in between.
#[test]
fn section_8_a_report_is_recorded_again_when_its_port_was_anothers() {
    let mut shard = shard();
    let own = make(&mut shard, CLIENT, 1);
    let on_port = |address| entry(own.port.0, client(address, 1));
    let (one, other) = (on_port("2001:db8::c"), on_port("2001:db8::d"));
    for reported in [one, other] {
        shard.ask(&report(b"a1", &[reported]));
        assert_eq!(shard.events()[0], conflict(reported));
    }
    shard.ask(&report(b"a1", &[one]));
    assert_eq!(shard.events(), [conflict(one)], "the line before names another");
    shard.ask(&report(b"a1", &[one]));
    assert_eq!(shard.events(), [], "the line before says so");
    // A port that the table gives to a newcomer.
    let wrong = entry(own.port.0 ^ 1, own.client);
    shard.ask(&report(b"a1", &[wrong]));
    assert_eq!(shard.events(), [conflict(wrong)]);
    let newcomer = udp6("2001:db8::e", 1);
    shard.ask(&hinted(wrong.port.0, &newcomer));
    assert_eq!(shard.events(), [created(entry(wrong.port.0, client("2001:db8::e", 1)))]);
    shard.ask(&report(b"a1", &[wrong]));
    assert_eq!(shard.events(), [conflict(wrong)]);
}

#[test]
fn section_6_conflicts_a_second() {
    let mut shard = shard();
    let own = make(&mut shard, CLIENT, 1);
    let wrong = |number: u32| entry(2000 + (number % 60_000) as u16, own.client);
    let mut conflicts = 0;
    for number in 0..135_000 {
        if number % 60_000 == 0 {
            // What was reported before is another conflict now.
            shard.time += Duration::from_secs(70);
        }
        let sent = shard.send(&report(b"a1", &[wrong(number)]));
        conflicts += u32::from(!sent.is_empty());
    }
    let stats = shard.server.stats();
    assert!((129_016..=131_000).contains(&conflicts), "{conflicts}");
    assert_eq!(stats.dropped(DropReason::ConflictRate), 135_000 - u64::from(conflicts));
}

/// What a multi report about known clients with other ports is answered with, and what a second of
/// them costs.
#[test]
fn section_6_answers_to_a_multi_report_are_no_longer_than_it() {
    for length in [0, 16, 500] {
        let mut shard = shard();
        let own = make(&mut shard, CLIENT, 1);
        let wrong = |number: u16| entry(own.port.0 ^ (1 + number), own.client);
        let authenticator = vec![7; length];
        let fits = (1232 - report(&authenticator, &[]).len()) / 34;
        let wrong: Vec<_> = (0..fits as u16).map(wrong).collect();
        let payload = report(&authenticator, &wrong);
        let sent = shard.send(&payload);
        let octets: usize = sent.iter().map(|(_, answer)| answer.len()).sum();
        assert!(!sent.is_empty() && octets <= payload.len(), "{octets} for {}", payload.len());
        let answers = sent.len() as u64 + shard.server.stats().dropped(DropReason::AnswerOctets);
        assert_eq!(answers, wrong.len() as u64);
        // As many as make four whole tables, and a second later the next.
        let heard = (0..10_000).filter(|_| !shard.send(&payload).is_empty()).count();
        let each = payload.len() / 34 + 7 * sent.len();
        assert!((250_000..=258_032).contains(&(heard * each)), "{heard} of {each}");
        assert_eq!(shard.dropped(&payload), DropReason::ReportRate);
        shard.time += Duration::from_secs(1);
        assert!(!shard.send(&payload).is_empty());
    }
}

#[test]
fn section_5_identities_a_second() {
    let mut shard = Shard::known();
    let rotation = |number: u32| {
        let old = if number == 0 { TOKEN.to_vec() } else { number.to_be_bytes().to_vec() };
        let new = (number + 1).to_be_bytes();
        let packet = udp6(CLIENT, 1);
        [message(5, &old), message(4, &new), message(6, AUTHENTICATOR), packet].concat()
    };
    let learned = (0..2000).take_while(|&number| !shard.send(&rotation(number)).is_empty()).count();
    assert_eq!(learned, 999, "with the one that proved itself, 1000 at once");
    assert_eq!(shard.dropped(&rotation(999)), DropReason::IdentityRate);
    shard.time += Duration::from_secs(1);
    assert_eq!(shard.send(&rotation(999)).len(), 1);
}
