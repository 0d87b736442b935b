//! One file a day: by the lines' own times, and by a clock that the test sets.

use super::tests::{DEADLINE, event};
use super::*;
use crate::disk::fs::RealDisk;
use crate::handoff::change::Event;
use crate::handoff::stats::Stats;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::thread;

const DAY: u64 = 24 * 3600 * 1_000_000;
/// 2019-03-18.
const FIRST: u64 = 17_973 * DAY;

type Said = Arc<Mutex<Vec<String>>>;

fn at(micros: u64, table: u8, number: u64) -> Event {
    Event { at: Timestamp::from_micros(micros), ..event(table, number) }
}

fn line(event: &Event) -> String {
    format!("{}\n", event.line(LogFormat::Plain))
}

/// The clock stands at noon of the fifth day.
fn fifth_day() -> Timestamp {
    Timestamp::from_micros(FIRST + 4 * DAY + DAY / 2)
}

fn rotation(keep_days: u32, clock: fn() -> Timestamp) -> Rotation {
    Rotation { keep_days, clock: Arc::new(clock) }
}

fn start(path: &Path, rotation: Rotation, shards: usize) -> (EventLog, Vec<Sender>, Said) {
    let said = Said::default();
    let say = {
        let said = Arc::clone(&said);
        move |priority: Priority, message: fmt::Arguments<'_>| {
            said.lock().unwrap().push(format!("{priority:?}: {message}"));
        }
    };
    let config = LogConfig {
        destination: Destination::File(path.to_owned()),
        format: LogFormat::Plain,
        rotation: Some(rotation),
        sync: LogSync::Interval(Duration::from_millis(10)),
        cursor: Some(path.with_extension("cursor")),
        first_events: vec![0; shards],
        clock: Clock::new(),
        threads: true,
    };
    let (log, senders) = EventLog::start_saying(&RealDisk, config, || {}, say).unwrap();
    (log, senders, said)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..DEADLINE.as_millis() {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}");
}

fn decompressed(path: &Path) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Two reactors, of which one is a day behind for a while. Each line is in a file of its day, or of
/// the next one, and all but the last former file are compressed.
#[test]
fn each_day_has_a_file() {
    static NOW: AtomicU64 = AtomicU64::new(FIRST);
    let clock = || Timestamp::from_micros(NOW.load(Ordering::Relaxed));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let (log, mut senders, said) = start(&path, rotation(0, clock), 2);
    let (mut texts, stats) = (vec![String::new(); 5], Stats::default());
    for day in 0..5_u64 {
        for number in 0..700 {
            let event = at(FIRST + day * DAY + number, 1, number);
            texts[day as usize].push_str(&line(&event));
            senders[0].send(event, &stats);
        }
        senders[0].publish();
        wait_until("the day's lines come", || log.written() == (day + 1) * 700 + day);
        // It may be behind the lines' time.
        NOW.store(FIRST + day * DAY + DAY / 2, Ordering::Relaxed);
        // The other reactor's last line of that day.
        if day < 4 {
            let event = at(FIRST + day * DAY + DAY - 1, 2, day);
            texts[day as usize].push_str(&line(&event));
            senders[1].send(event, &stats);
            senders[1].publish();
            wait_until("that one", || log.written() == (day + 1) * 701);
        }
    }
    // One that is late.
    let late = at(FIRST + 4 * DAY - 1, 2, 9);
    texts[4].push_str(&line(&late));
    senders[1].send(late, &stats);
    senders[1].publish();
    let third = folder.path().join("events.log-20190320.gz");
    wait_until("they are compressed", || third.exists() && names(folder.path()).len() == 6);
    drop(senders);
    assert_eq!(log.join(DEADLINE).unwrap(), 3_505);
    let files = ["20190318.gz", "20190319.gz", "20190320.gz", "20190321"];
    let files = files.map(|day| format!("events.log-{day}"));
    assert_eq!(names(folder.path())[2..], files);
    for (name, text) in files.iter().zip(&texts) {
        let path = folder.path().join(name);
        let found = if name.ends_with("gz") {
            decompressed(&path)
        } else {
            fs::read_to_string(&path).unwrap()
        };
        assert!(found == *text, "{name}");
    }
    assert!(fs::read_to_string(&path).unwrap() == texts[4]);
    assert_eq!(*said.lock().unwrap(), Vec::<String>::new());
    // The cursor is about the new file.
    let cursor = Cursor::read(&RealDisk, &path.with_extension("cursor")).unwrap();
    assert_eq!(cursor.events, [3_500, 5]);
    assert_eq!(cursor.position.unwrap().offset, texts[4].len() as u64);
}

/// No line comes, and the day ends all the same.
#[test]
fn an_idle_log_is_put_aside_at_midnight() {
    static NOW: AtomicU64 = AtomicU64::new(FIRST + DAY - 20_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let clock = || Timestamp::from_micros(NOW.load(Ordering::Relaxed));
    let (log, mut senders, _) = start(&path, rotation(0, clock), 1);
    let event = at(FIRST + DAY - 20_000, 1, 0);
    senders[0].send(event, &Stats::default());
    senders[0].publish();
    wait_until("it is written", || log.written() == 1);
    NOW.store(FIRST + DAY, Ordering::Relaxed);
    let aside = folder.path().join("events.log-20190318");
    wait_until("it is put aside", || aside.exists() && path.exists());
    // A file without lines is not.
    NOW.store(FIRST + 2 * DAY, Ordering::Relaxed);
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert_eq!(fs::read_to_string(aside).unwrap(), line(&event));
    assert_eq!(names(folder.path()), ["events.cursor", "events.log", "events.log-20190318"]);
}

/// Somebody has renamed the log, and nobody said so: the next day has its own file all the same.
#[test]
fn a_log_that_somebody_has_renamed_stays_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let (log, mut senders, said) = start(&path, rotation(0, fifth_day), 1);
    let mut send = |event: Event, number: u64| {
        senders[0].send(event, &Stats::default());
        senders[0].publish();
        wait_until("it is written", || log.written() == number);
    };
    let [first, second] = [4, 5].map(|day| at(FIRST + day * DAY, 1, 0));
    send(first, 1);
    let theirs = folder.path().join("theirs");
    fs::rename(&path, &theirs).unwrap();
    send(second, 2);
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert_eq!(fs::read_to_string(theirs).unwrap(), line(&first));
    assert_eq!(fs::read_to_string(&path).unwrap(), line(&second));
    assert_eq!(names(folder.path()), ["events.cursor", "events.log", "theirs"]);
    assert_eq!(*said.lock().unwrap(), Vec::<String>::new());
}

/// Files of the server that ran before, and of others.
#[test]
fn what_is_too_old_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let mut kept = vec!["events.log-20190319", "events.log-20190320.1", "events.log-20190321"];
    let others = [
        "events.log-2018",
        "events.log-20190401",
        "events.log.1",
        "others.log-20190101",
        "events.log-20180101.gz.old",
    ];
    for name in
        kept.iter().chain(&others).chain(&["events.log-20190316", "events.log-20190101.2.gz"])
    {
        fs::write(folder.path().join(name), format!("{name}\n")).unwrap();
    }
    fs::write(folder.path().join(".events.log-20190319.gz.tmp"), "half").unwrap();
    let (log, senders, said) = start(&path, rotation(5, fifth_day), 1);
    kept = vec!["events.log-20190319.gz", "events.log-20190320.1.gz", "events.log-20190321"];
    let expected = ["events.cursor", "events.log"].into_iter().chain(kept).chain(others);
    let mut expected: Vec<_> = expected.collect();
    expected.sort_unstable();
    wait_until("they are removed", || names(folder.path()) == expected);
    drop(senders);
    log.join(DEADLINE).unwrap();
    wait_until("it is said", || !said.lock().unwrap().is_empty());
    let said = said.lock().unwrap();
    assert!(said.len() == 1 && said[0].contains("events.log-20190316 were removed"), "{said:?}");
    assert!(
        decompressed(&folder.path().join("events.log-20190320.1.gz")) == "events.log-20190320.1\n"
    );
}

/// A clock that is years ahead removes nothing.
#[test]
fn a_wrong_clock_removes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    for name in ["events.log-20170101", "events.log-20170102"] {
        fs::write(folder.path().join(name), "line\n").unwrap();
    }
    let (log, senders, _) = start(&path, rotation(30, fifth_day), 1);
    let first = folder.path().join("events.log-20170101.gz");
    wait_until("it was looked at", || first.exists());
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert!(folder.path().join("events.log-20170102").exists());
}

/// A crash between the two steps leaves both; a file that only has the name of the other is not
/// believed.
#[test]
fn a_file_is_removed_where_the_compressed_one_has_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let file = |name: &str| folder.path().join(format!("events.log-2019031{name}"));
    for day in ["1", "2", "3", "4"] {
        fs::write(file(day), format!("line of {day}\n")).unwrap();
    }
    for (day, text) in [("1.gz", "line of 1\n"), ("2.gz", "line of 2\nand more\n")] {
        let mut encoder = GzEncoder::new(File::create(file(day)).unwrap(), Default::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    fs::write(file("3.gz"), "no gzip").unwrap();
    let (log, senders, said) = start(&path, rotation(0, fifth_day), 1);
    wait_until("it is said", || !said.lock().unwrap().is_empty());
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert!(!file("1").exists());
    for day in ["2", "2.gz", "3", "3.gz", "4"] {
        assert!(file(day).exists(), "{day}");
    }
    assert!(!file("4.gz").exists());
    let said = said.lock().unwrap();
    assert!(said.len() == 1 && said[0].contains("does not have the same lines"), "{said:?}");
}

/// What logrotate's copytruncate does: nothing of it is passed over in silence, and there is no
/// hole.
#[test]
fn a_log_that_somebody_truncates_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.log");
    let (log, mut senders, said) = start(&path, rotation(0, fifth_day), 1);
    let events: Vec<_> = (0..4).map(|number| at(FIRST + 4 * DAY, 1, number)).collect();
    let truncate = || File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    let mut send = |range: std::ops::Range<usize>| {
        let end = range.end as u64;
        events[range].iter().for_each(|&event| senders[0].send(event, &Stats::default()));
        senders[0].publish();
        wait_until("they are written", || log.written() == end);
    };
    send(0..2);
    truncate();
    send(2..3);
    wait_until("it is said", || !said.lock().unwrap().is_empty());
    send(3..4);
    let all: String = events.iter().map(line).collect();
    assert_eq!(fs::read_to_string(&path).unwrap(), all[all.len() / 2..]);
    let from = format!("truncated by somebody else, from {} octets to 0", all.len() / 2);
    assert!(said.lock().unwrap()[0].contains(&from), "{said:?}");
    assert!(said.lock().unwrap()[0].starts_with("Warning: "), "{said:?}");
    // Nobody writes any more, and the end looks once more.
    truncate();
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert_eq!(said.lock().unwrap().len(), 2, "once each: {said:?}");
}
