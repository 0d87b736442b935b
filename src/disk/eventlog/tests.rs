//! The log under load, with destinations that misbehave.

use super::output::FILE_MODE;
use super::*;
use crate::disk::fs::RealDisk;
use crate::handoff::change::{Event, EventKind, Timestamp};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::stats::{Counter, Stats};
use crate::ip::address::Prefix96;
use rtrb::RingBuffer;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::thread;

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The `number`th event of a table. The number is in the time and in the client's port.
pub(super) fn event(table: u8, number: u64) -> Event {
    Event {
        at: Timestamp::from_micros(1_552_903_588_000_000 + number),
        table: TableKey {
            local: Ipv4Addr::new(203, 0, 113, 5),
            nat64: Ipv4Addr::new(192, 0, 2, table),
        },
        kind: EventKind::Created {
            port: MappedPort(40_000),
            client: Client {
                prefix: Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
                address: "2001:db8::17".parse().unwrap(),
                port: number as u16,
            },
        },
    }
}

fn line(table: u8, number: u64) -> String {
    event(table, number).line(LogFormat::Plain).to_string()
}

/// All lines of each table are there, once, in order.
fn assert_complete(text: &str, tables: u8, events: u64) {
    assert!(text.ends_with('\n'));
    let mut next: HashMap<&str, u64> = HashMap::new();
    for text in text.lines() {
        let nat64 = text.split(' ').nth(3).unwrap().split(':').next().unwrap();
        let table = nat64.rsplit('.').next().unwrap();
        let number = next.entry(table).or_default();
        assert_eq!(text, line(table.parse().unwrap(), *number));
        *number += 1;
    }
    assert_eq!(next.len(), usize::from(tables));
    assert!(next.values().all(|&lines| lines == events), "{next:?}");
}

/// What a test gives to the log as its destination.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    pub(super) fn write(&self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(octets)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Calls the function, which writes what and when it likes.
struct Scripted<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Scripted<F> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        (self.0)(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without a cursor.
fn config(destination: Destination, reactors: usize) -> LogConfig {
    LogConfig {
        destination,
        format: LogFormat::Plain,
        rotation: None,
        sync: LogSync::None,
        cursor: None,
        first_events: vec![0; reactors],
        clock: Clock::new(),
        threads: true,
    }
}

type Said = Arc<Mutex<Vec<String>>>;

fn start_saying(
    destination: Destination,
    reactors: usize,
    on_failure: impl FnOnce() + Send + 'static,
) -> (EventLog, Vec<Sender>, Said) {
    let said = Said::default();
    let say = {
        let said = Arc::clone(&said);
        move |_: Priority, message: fmt::Arguments<'_>| {
            said.lock().unwrap().push(message.to_string())
        }
    };
    let (log, senders) =
        EventLog::start_saying(&RealDisk, config(destination, reactors), on_failure, say).unwrap();
    (log, senders, said)
}

pub(super) fn scripted(
    script: impl FnMut(&[u8]) -> io::Result<usize> + Send + 'static,
) -> Destination {
    Destination::Writer(Box::new(Scripted(script)))
}

/// One thread per sender, each with a table of its own, in batches of changing size.
fn send_all(senders: Vec<Sender>, events: u64) -> u64 {
    let threads: Vec<_> = (1..)
        .zip(senders)
        .map(|(table, mut sender)| {
            thread::spawn(move || {
                let stats = Stats::default();
                for number in 0..events {
                    sender.send(event(table, number), &stats);
                    if number % (1 + number % 97) == 0 {
                        sender.publish();
                    }
                }
                stats.get(Counter::LogQueueWaits)
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
}

#[test]
fn lines_of_a_table_stay_in_order() {
    let memory = Memory::default();
    let destination = Destination::Writer(Box::new(Scripted({
        let memory = memory.clone();
        move |octets: &[u8]| memory.0.lock().unwrap().write(octets)
    })));
    let (log, senders, said) = start_saying(destination, 4, || panic!("it did not fail"));
    send_all(senders, 30_000);
    assert_eq!(log.join(DEADLINE).unwrap(), 120_000);
    assert_complete(&memory.text(), 4, 30_000);
    assert!(said.lock().unwrap().is_empty());
}

#[test]
fn slow_writer_makes_reactors_wait_and_loses_nothing() {
    let memory = Memory::default();
    let destination = scripted({
        let memory = memory.clone();
        move |octets| {
            thread::sleep(Duration::from_millis(3));
            memory.0.lock().unwrap().write(&octets[..octets.len().min(40_001)])
        }
    });
    let (log, senders, _) = start_saying(destination, 2, || panic!("it did not fail"));
    let waits = send_all(senders, 40_000);
    assert!(waits > 0);
    assert!(waits < 80_000, "a wait is counted once: {waits}");
    assert_eq!(log.join(DEADLINE).unwrap(), 80_000);
    assert_complete(&memory.text(), 2, 40_000);
}

#[test]
fn short_and_interrupted_writes_are_continued() {
    let memory = Memory::default();
    let destination = scripted({
        let memory = memory.clone();
        let mut calls = 0;
        move |octets| {
            calls += 1;
            match calls % 5 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                1 if calls % 7 == 0 => Err(io::ErrorKind::WouldBlock.into()),
                n => memory.0.lock().unwrap().write(&octets[..octets.len().min(7 * n)]),
            }
        }
    });
    let (log, senders, said) = start_saying(destination, 1, || panic!("it did not fail"));
    send_all(senders, 500);
    assert_eq!(log.join(DEADLINE).unwrap(), 500);
    assert_complete(&memory.text(), 1, 500);
    assert!(said.lock().unwrap().is_empty());
}

#[test]
fn write_errors_are_said_once_and_survived() {
    let memory = Memory::default();
    let destination = scripted({
        let memory = memory.clone();
        let mut calls = 0;
        move |octets| {
            calls += 1;
            match calls {
                1 => memory.0.lock().unwrap().write(&octets[..octets.len().min(10)]),
                2..=4 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                _ => memory.0.lock().unwrap().write(octets),
            }
        }
    });
    let (log, senders, said) = start_saying(destination, 1, || panic!("it did not fail"));
    send_all(senders, 20_000);
    assert_eq!(log.join(DEADLINE).unwrap(), 20_000);
    assert_complete(&memory.text(), 1, 20_000);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[0],
        "the event log cannot be written: No space left on device (os error 28); \
         free some space (see df) or, where there is space, inodes (see df -i); \
         lines are kept and written when it works again"
    );
    assert_eq!(said[1], "the event log can be written again; no line is lost");
}

#[test]
fn shutdown_without_a_log_says_how_much_is_missing() {
    let full = || Destination::File("/dev/full".into());
    let (log, senders, said) = start_saying(full(), 2, || {});
    send_all(senders, 1_000);
    match log.join(Duration::from_millis(250)) {
        Err(error @ LogError::Unwritten { lines: 2_000, .. }) => assert_eq!(
            error.to_string(),
            "2000 lines could not be written to the event log /dev/full: \
             No space left on device (os error 28)"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(said.lock().unwrap().len(), 1);

    // More than the queue and the batch hold: the reactor must get out of its wait.
    let (log, senders, _) = start_saying(full(), 1, || {});
    let reactor = thread::spawn(move || send_all(senders, 50_000));
    while log.unwritten() < QUEUE_EVENTS as u64 {
        thread::sleep(Duration::from_millis(1));
    }
    log.give_up();
    reactor.join().unwrap();
    match log.join(DEADLINE) {
        Err(LogError::Unwritten { lines: 50_000, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// A log that takes no lines costs a reactor one short wait, and no event.
#[test]
fn no_room_is_told_before_anything_happens() {
    let (open_gate, gate) = mpsc::channel::<()>();
    let memory = Memory::default();
    let destination = scripted({
        let memory = memory.clone();
        let mut is_open = false;
        move |octets| {
            is_open = is_open || gate.recv().is_ok();
            memory.write(octets)
        }
    });
    let (log, mut senders, _) = start_saying(destination, 1, || panic!("it did not fail"));
    let (mut sender, stats) = (senders.remove(0), Stats::default());
    let mut sent = 0;
    let mut fill = |sender: &mut Sender| {
        while sender.reserve(10, &stats) >= 10 {
            for _ in 0..10 {
                sender.send(event(1, sent), &stats);
                sent += 1;
            }
            sender.publish();
        }
        sent
    };
    let filled = fill(&mut sender);
    assert!(filled + 10 > QUEUE_EVENTS as u64 && sender.is_blocked);
    let waits = stats.get(Counter::LogQueueWaits);
    for _ in 0..1_000 {
        assert_eq!(sender.reserve(1, &stats), 0);
    }
    assert_eq!(stats.get(Counter::LogQueueWaits), waits, "it waits once");
    open_gate.send(()).unwrap();
    while sender.reserve(1, &stats) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!sender.is_blocked);
    sender.send(event(1, filled), &stats);
    drop(sender);
    assert_eq!(log.join(DEADLINE).unwrap(), filled + 1);
    assert_complete(&memory.text(), 1, filled + 1);
}

/// No more events are made than a start can compare with the log.
#[test]
fn there_is_no_room_for_more_than_a_start_can_compare() {
    let (queue, _kept) = RingBuffer::new(QUEUE_EVENTS);
    let mut sender = Sender {
        queue,
        unpublished: 0,
        lost: false,
        is_blocked: false,
        next: 1_000,
        unlogged_max: 5_000,
        logged: Logged::new(&[7, 1_000]),
        shard: 1,
        shared: Arc::default(),
    };
    let stats = Stats::default();
    assert_eq!(sender.reserve(10, &stats), 5_000);
    (0..4_995).for_each(|number| sender.send(event(1, number), &stats));
    assert_eq!(sender.reserve(5, &stats), 5);
    assert_eq!(sender.reserve(6, &stats), 0);
    // The log has some durably: for a batch they are enough, and not to begin again.
    sender.logged = Logged::new(&[7, 1_100]);
    assert_eq!(sender.reserve(6, &stats), 0);
    sender.logged = Logged::new(&[7, 1_000 + 4_995]);
    assert_eq!(sender.reserve(6, &stats), 0, "less than half a queue");
    sender.unlogged_max = u64::MAX;
    assert_eq!(sender.reserve(6, &stats), QUEUE_EVENTS - 4_995);
    assert_eq!(stats.get(Counter::LogQueueWaits), 1);
}

/// The cursor counts lines: there must be none behind an event that was lost.
#[test]
fn nothing_is_written_behind_a_lost_event() {
    let (mut producer, mut queue) = RingBuffer::new(2);
    producer.push(event(1, 0)).unwrap();
    producer.push(event(1, 1)).unwrap();
    let shared = Arc::new(LogShared::default());
    shared.give_up.store(true, Ordering::Release);
    let mut sender = Sender {
        queue: producer,
        unpublished: 0,
        lost: false,
        is_blocked: false,
        next: 2,
        unlogged_max: u64::MAX,
        logged: Logged::new(&[0]),
        shard: 0,
        shared: Arc::clone(&shared),
    };
    let stats = Stats::default();
    sender.send(event(1, 2), &stats);
    // There is room again.
    assert_eq!((queue.pop(), queue.pop()), (Ok(event(1, 0)), Ok(event(1, 1))));
    sender.send(event(1, 3), &stats);
    assert!(queue.pop().is_err());
    assert_eq!(shared.lost.load(Ordering::Relaxed), 2);
}

#[test]
fn hanging_write_does_not_hang_the_shutdown() {
    let destination = scripted(|_| {
        thread::sleep(DEADLINE);
        Ok(0)
    });
    let (log, senders, _) = start_saying(destination, 1, || {});
    send_all(senders, 3);
    match log.join(Duration::from_millis(50)) {
        Err(error @ LogError::Unwritten { lines: 3, .. }) => {
            assert!(error.to_string().ends_with("it took too long"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_is_slow_but_writes_is_waited_for() {
    let destination = scripted(|line| {
        thread::sleep(Duration::from_millis(100));
        Ok(line.iter().position(|&octet| octet == b'\n').map_or(line.len(), |end| end + 1))
    });
    let (log, senders, _) = start_saying(destination, 1, || {});
    send_all(senders, 12);
    assert_eq!(log.join(Duration::from_millis(600)).unwrap(), 12);
}

#[test]
fn broken_pipe_stops_the_log_and_tells_the_supervisor() {
    let (reader, writer) = io::pipe().unwrap();
    let (tell, told) = mpsc::channel();
    let (log, senders, _) = start_saying(Destination::Writer(Box::new(writer)), 1, move || {
        tell.send(()).unwrap();
    });
    assert!(!log.failed());
    drop(reader);
    // More than the queue holds: nobody takes them, and the sender must not wait.
    send_all(senders, 3 * QUEUE_EVENTS as u64);
    told.recv_timeout(DEADLINE).unwrap();
    assert!(log.failed());
    match log.join(DEADLINE) {
        Err(LogError::Unwritten { lines, cause: Some(cause), .. }) => {
            assert_eq!(lines, 3 * QUEUE_EVENTS as u64);
            assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn panic_of_the_thread_tells_the_supervisor_too() {
    let (tell, told) = mpsc::channel();
    let destination = scripted(|_| panic!("this panic is part of the test"));
    let (log, senders, _) = start_saying(destination, 1, move || tell.send(()).unwrap());
    send_all(senders, 2 * QUEUE_EVENTS as u64);
    told.recv_timeout(DEADLINE).unwrap();
    assert!(log.failed());
    assert!(log.join(DEADLINE).is_err());
}

#[test]
fn rotation_under_load_loses_and_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    let (log, mut senders, said) =
        start_saying(Destination::File(path.clone()), 3, || panic!("it did not fail"));
    // Without any sender the log ends, and opens nothing anew any more.
    let last = senders.pop();
    let reactors = thread::spawn(move || send_all(senders, 200_000));
    let mut rotated = Vec::new();
    while !reactors.is_finished() {
        let old = directory.path().join(format!("events.log.{}", rotated.len()));
        fs::rename(&path, &old).unwrap();
        rotated.push(old);
        log.reopen();
        while !path.exists() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
    }
    reactors.join().unwrap();
    drop(last);
    assert_eq!(log.join(DEADLINE).unwrap(), 400_000);
    rotated.push(path);
    println!("{} files", rotated.len());
    let mut all = String::new();
    for file in &rotated {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        all.push_str(&text);
    }
    assert_complete(&all, 2, 200_000);
    assert!(said.lock().unwrap().is_empty());
}

#[test]
fn reopen_of_an_idle_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    let (log, senders, _) = start_saying(Destination::File(path.clone()), 1, || {});
    fs::remove_file(&path).unwrap();
    log.reopen();
    while !path.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    drop(senders);
    assert_eq!(log.join(DEADLINE).unwrap(), 0);
}

#[test]
fn failed_reopen_keeps_the_old_file() {
    let directory = tempfile::tempdir().unwrap();
    let (logs, moved) = (directory.path().join("logs"), directory.path().join("moved"));
    fs::create_dir(&logs).unwrap();
    let path = logs.join("events.log");
    let (log, mut senders, said) = start_saying(Destination::File(path), 1, || {});
    fs::rename(&logs, &moved).unwrap();
    log.reopen();
    while said.lock().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    senders[0].send(event(1, 0), &Stats::default());
    drop(senders);
    assert_eq!(log.join(DEADLINE).unwrap(), 1);
    let text = fs::read_to_string(moved.join("events.log")).unwrap();
    assert_complete(&text, 1, 1);
    let said = said.lock().unwrap();
    assert!(said[0].contains("there is no directory"), "{said:?}");
    assert!(said[0].ends_with("the old file is written on"), "{said:?}");
}

#[test]
fn reopen_is_a_way_out_of_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let (log, senders, said) = start_saying(Destination::File(path.clone()), 1, || {});
    send_all(senders, 100);
    while said.lock().unwrap().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(&path).unwrap();
    log.reopen();
    assert_eq!(log.join(DEADLINE).unwrap(), 100);
    assert_complete(&fs::read_to_string(&path).unwrap(), 1, 100);
}

#[test]
fn files_are_appended_to_and_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    for number in 0..3 {
        let (log, mut senders, _) = start_saying(Destination::File(path.clone()), 1, || {});
        senders[0].send(event(1, number), &Stats::default());
        drop(senders);
        assert_eq!(log.join(DEADLINE).unwrap(), 1);
    }
    assert_complete(&fs::read_to_string(&path).unwrap(), 1, 3);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777 & !FILE_MODE, 0, "{mode:o}");
}

#[test]
fn torn_last_line_is_ended_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    fs::write(&path, "2019-03-18 10:06:2").unwrap();
    let (log, mut senders, _) = start_saying(Destination::File(path.clone()), 1, || {});
    senders[0].send(event(1, 0), &Stats::default());
    drop(senders);
    assert_eq!(log.join(DEADLINE).unwrap(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("2019-03-18 10:06:2\n{}\n", line(1, 0)));
}

#[test]
fn files_that_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| {
        EventLog::start(&RealDisk, config(Destination::File(path), 1), || {})
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let missing = directory.path().join("missing");
    assert_eq!(
        open(missing.join("events.log")),
        format!(
            "the event log {0}/events.log cannot be opened: there is no directory {0}; \
             create it, or choose another file with --log",
            missing.display()
        )
    );
    assert!(open(directory.path().into()).contains("Is a directory"));
    assert!(open("".into()).contains("choose another file"));
}

#[test]
fn longest_line_fits() {
    let mut event = event(255, 65_535);
    event.table.local = Ipv4Addr::new(255, 255, 255, 255);
    event.table.nat64 = event.table.local;
    event.at = Timestamp::MAX;
    event.kind = EventKind::Conflict {
        port: MappedPort(65_535),
        client: Client {
            prefix: Prefix96([0xff; 12]),
            address: "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap(),
            port: 65_535,
        },
    };
    assert!(event.line(LogFormat::Full).to_string().len() < LINE_MAX);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "measures throughput")]
fn throughput() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.log");
    let (log, senders, _) = start_saying(Destination::File(path), 1, || {});
    let start = std::time::Instant::now();
    let waits = send_all(senders, 1_000_000);
    assert_eq!(log.join(DEADLINE).unwrap(), 1_000_000);
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} lines a second, {waits} waits", 1e6 / seconds);
}
