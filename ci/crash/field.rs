//! A server, its NAT64s under load, its log; and the comparison of the three.

use crate::ask::{Wrong, compare, expect_client, expect_service};
use crate::dice::Dice;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::{Entry, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::Reply;
use crate::record::{Record, key};
use crate::server::Server;
use crate::worker::{Answer, Worker};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// One server and its NAT64s.
pub struct Field {
    pub server: Server,
    pub record: Record,
    pub workers: Vec<Worker>,
    /// How long a reply may take, and the log to say what the server does.
    pub patience: Duration,
}

impl Field {
    pub fn new(dice: &mut Dice, nat64s: u32) -> Field {
        Field::with(Server::new(), dice, nat64s)
    }

    /// With a server that was not started yet.
    pub fn with(server: Server, dice: &mut Dice, nat64s: u32) -> Field {
        let record = Record::new(&server.log);
        let workers = (0..nat64s)
            .map(|number| Worker::new(Nat64::unknown(&server), number, dice.fork()))
            .collect();
        Field { server, record, workers, patience: PATIENCE }
    }

    /// All NAT64s are busy while something happens to the server; then they take what still
    /// arrived.
    pub fn in_load(&mut self, news_max: u32, happens: impl FnOnce(&mut Server, &mut Record)) {
        let Field { server, record, workers, .. } = self;
        // Unknown ones come one at a time.
        let known = workers.iter().take_while(|worker| worker.is_known).count();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in workers.iter_mut().take(known + 1) {
                scope.spawn(|| worker.load(&stop, news_max));
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                happens(server, record);
            }));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        workers.iter_mut().for_each(Worker::drain);
    }

    /// After a restart. Everything that was told must be so, at once.
    pub fn verify(&mut self, what: &str, full: bool) {
        for worker in &mut self.workers {
            worker.give_up();
            if worker.is_known {
                check_tokens(worker, what, self.patience);
            }
        }
        self.check_log(what);
        self.verify_tables(what, full);
    }

    pub fn verify_tables(&mut self, what: &str, full: bool) {
        for worker in &mut self.workers {
            check_table(worker, &mut self.record, what, full, self.patience);
            if worker.is_known {
                let challenge = worker.nat64.waiting_challenge();
                assert_eq!(
                    challenge, None,
                    "{what}: a validation packet to {}",
                    worker.nat64.address
                );
            }
        }
    }

    /// Whatever was announced stands in the log, soon.
    pub fn check_log(&mut self, what: &str) {
        self.check_log_within(self.patience, what);
    }

    /// Whatever was announced stands in the log, which nobody writes on.
    pub fn check_log_at_end(&mut self, what: &str) {
        self.check_log_within(Duration::ZERO, what);
    }

    fn check_log_within(&mut self, patience: Duration, what: &str) {
        let Field { record, workers, .. } = self;
        let mut missing = None;
        wait_until(patience, || {
            record.feed();
            missing = workers.iter().find_map(|worker| lacks(record, worker));
            missing.is_none()
        });
        if let Some(missing) = missing {
            panic!("{what}: {missing}");
        }
        for worker in workers {
            worker.checked = worker.told.len();
        }
    }

    /// Every port of every table: the server has no entry of which the log does not know.
    pub fn sweep(&mut self) {
        for worker in &mut self.workers {
            sweep(worker, &mut self.record);
        }
    }

    pub fn check_conflicts(&self) {
        for worker in &self.workers {
            check_conflicts(&self.record, worker);
        }
    }

    /// Load without a kill, all answered; SIGTERM; a start; every port compared; the whole log.
    pub fn finish(&mut self, base: &[&str]) -> usize {
        self.in_load(200, |_, _| thread::sleep(Duration::from_millis(100)));
        self.workers.iter_mut().filter(|worker| worker.is_known).for_each(Worker::settle);
        self.server.stop();
        self.check_log_at_end("at the end, after SIGTERM");
        self.server.start(base);
        self.verify("at the end, after SIGTERM and a start", true);
        self.sweep();
        self.server.stop();
        self.record.check_final();
        self.check_conflicts();
        for worker in &self.workers {
            println!("  {}: {:?}", worker.nat64.address, worker.tally());
        }
        self.workers.iter().map(|worker| worker.told.len()).sum()
    }
}

/// The first thing that this NAT64 was told and that the log does not say.
fn lacks(record: &mut Record, worker: &Worker) -> Option<String> {
    let address = worker.nat64.address;
    let table = record.table(address);
    if worker.is_known && table.initialized != 1 {
        return Some(format!("{address} is known, and there is no Initialized"));
    }
    let fresh = &worker.told[worker.checked..];
    let lost = fresh.iter().find(|entry| !table.has_created(key(entry.mapped, entry.client)));
    if let Some(entry) = lost {
        let place = worker.told.iter().position(|told| told == entry).unwrap();
        return Some(format!(
            "{entry:?} was announced to {address} (announcement {place} of {}), no Created\n{}",
            worker.told.len(),
            record.about_entry(address, entry.mapped, entry.client)
        ));
    }
    let answered = worker.conflicts.iter().filter(|(_, answer)| **answer == Answer::Differs);
    let silent = answered.map(|(key, _)| *key).find(|key| !table.conflicts.contains_key(key))?;
    Some(format!("the report of {silent:?} by {address} was answered otherwise, no Conflict"))
}

/// Conflict lines are those of reports that were made, each once. Where the answer agreed there is
/// none, but at a full table: the port's owner may be the one that has to go for the newcomer.
fn check_conflicts(record: &Record, worker: &Worker) {
    let address = worker.nat64.address;
    let Some(table) = record.tables.get(&address) else { return };
    for (key, count) in &table.conflicts {
        let answer = worker.conflicts.get(key);
        assert!(answer.is_some(), "{address}: Conflict {key:?} was never reported");
        assert_eq!(*count, 1, "{address}: Conflict {key:?}: lines");
        if answer == Some(&Answer::Agrees) {
            let evicted = table.deleted.keys().any(|old| old.0 == key.0 && old != key);
            assert!(evicted, "{address}: Conflict {key:?}, and the answer agreed with the report");
        }
    }
}

/// Known tokens are known: oldest first, so that the newest is used last.
fn check_tokens(worker: &mut Worker, what: &str, patience: Duration) {
    let tokens = worker.surely_known();
    let address = worker.nat64.address;
    for (place, token) in tokens.iter().enumerate() {
        let nat64 = worker.nat64.other_token(token);
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, 7), &[b't', place as u8]).octets();
        nat64.send(&nat64.service_request(&packet));
        let Some(reply) = nat64.try_reply(patience) else {
            let round = match nat64.waiting_challenge() {
                Some(_) => "a validation packet came instead",
                None => "nothing came",
            };
            let age = tokens.len() - 1 - place;
            panic!(
                "{what}: {address} is not known any more with the token of {age} rotations ago \
                 (of {} in all): {round}",
                worker.tokens.len() - 1
            );
        };
        let aged = packet::with_ttl(&packet, packet::TTL - 1);
        assert_eq!(reply, Reply::returned(token, &aged), "{what}: {address}");
    }
    if worker.maybe.is_some() {
        worker.send_rotation();
        worker.settle();
        assert_eq!(worker.maybe, None);
    }
}

/// The server's answers are what the log replays to, for all ports that had to do with the last
/// round and for some others (or all that the log names).
fn check_table(
    worker: &mut Worker,
    record: &mut Record,
    what: &str,
    full: bool,
    patience: Duration,
) {
    let address = worker.nat64.address;
    if !worker.is_known {
        return;
    }
    let mut ports = record.table(address).take_touched();
    let others = record.table(address).by_port.keys().copied();
    ports.extend(others.take(if full { usize::MAX } else { 100 }));
    ports.sort_unstable();
    ports.dedup();
    let mut wrong = Vec::new();
    wait_until(patience, || {
        record.feed();
        let table = record.table(address);
        let port = |mapped: &u16| table.by_port.get(mapped).copied();
        let nat64 = &worker.nat64;
        wrong =
            compare(nat64, ports.iter().map(|mapped| expect_service(nat64, *mapped, port(mapped))));
        wrong.is_empty()
    });
    fail(worker, record, what, &wrong);
    // The other direction. Each of these clients has an entry: nothing is created.
    let table = record.table(address);
    let clients = ports.iter().filter_map(|mapped| table.by_port.get(mapped));
    let entries = clients.map(|client| client.at(table.by_client[client]));
    let wrong = compare(&worker.nat64, entries.map(|entry| expect_client(&worker.nat64, entry)));
    fail(worker, record, what, &wrong);
}

fn fail(worker: &Worker, record: &Record, what: &str, wrong: &[Wrong]) {
    let Some((expected, reply)) = wrong.first() else { return };
    let address = worker.nat64.address;
    let entry = expected.entry.or(reply.as_ref().and_then(|reply| reply.entry));
    let told = |entry: Entry| {
        let place = worker.told.iter().position(|told| *told == entry);
        let told = place.map_or("was never announced".into(), |place| {
            format!("was announced ({place} of {})", worker.told.len())
        });
        format!("{told}\n{}", record.about_entry(address, entry.mapped, entry.client))
    };
    panic!(
        "{what}: {} wrong answers to {address}, the first:\nby the log:   {expected:?}\nthe server: \
         {reply:?}\nthe entry {}",
        wrong.len(),
        entry.map_or("is none".into(), told)
    );
}

fn sweep(worker: &Worker, record: &mut Record) {
    if !worker.is_known {
        return;
    }
    let table = record.table(worker.nat64.address);
    let lookup =
        |mapped: u16| expect_service(&worker.nat64, mapped, table.by_port.get(&mapped).copied());
    let wrong = compare(&worker.nat64, (1024..=u16::MAX).map(lookup));
    fail(worker, record, "sweep over all ports", &wrong);
}
