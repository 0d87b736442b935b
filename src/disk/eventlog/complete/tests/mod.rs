//! Files as a crash leaves them, completed; and real crashes.

use super::super::tests::{DEADLINE, Memory, event, scripted};
use super::super::{EventLog, LogConfig, LogSync, Sender};
use super::super::{output::inode_of, place::Tail};
use super::*;
use crate::disk::fs::RealDisk;
use crate::handoff::stats::Stats;
use crate::kernel::clock::Clock;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

mod strangers;

type Events = Vec<Vec<(u64, Event)>>;

/// Table `shard + 1` is in shard `shard`.
fn events(from: &[u64], to: &[u64]) -> Events {
    (1..)
        .zip(from.iter().zip(to))
        .map(|(table, (&from, &to))| (from..to).map(|n| (n, event(table, n))).collect())
        .collect()
}

fn lines(events: &Events) -> String {
    let lines = events.iter().flatten().map(|(_, event)| event.line(LogFormat::Plain));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Every shard has its lines, from 0 to here, once, in order.
#[track_caller]
fn assert_once(text: &str, to: &[u64]) {
    assert!(text.is_empty() || text.ends_with('\n'), "{:?}", text.lines().last());
    let mut next: HashMap<usize, u64> = HashMap::new();
    for line in text.lines() {
        let nat64 = line.split([' ', ':']).nth(5).unwrap();
        let table: u8 = nat64.rsplit('.').next().unwrap().parse().unwrap();
        let number = next.entry(usize::from(table) - 1).or_default();
        assert_eq!(line, event(table, *number).line(LogFormat::Plain).to_string());
        *number += 1;
    }
    for (shard, &to) in to.iter().enumerate() {
        assert_eq!(next.get(&shard).copied().unwrap_or(0), to, "shard {shard}");
    }
}

/// Of the octets before an offset, as far as they are there.
fn tail(log: &Path, offset: u64) -> Tail {
    let octets = fs::read(log).unwrap();
    octets.get(..offset as usize).map_or(Tail::default(), Tail::of)
}

/// The whole lines of files. Half a one at the end of a file is the beginning of a later one.
#[track_caller]
fn whole(files: &[impl AsRef<Path>]) -> String {
    let (mut all, mut halves) = (String::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        halves.push((all.len() + end, text[end..].to_owned()));
        all += &text[..end];
    }
    for (from, half) in halves {
        assert!(
            all[from..].split_inclusive('\n').any(|line| line.starts_with(&half))
                || half.is_empty(),
            "{half}"
        );
    }
    all
}

/// A log in a directory of its own, and a cursor.
struct Scene {
    directory: tempfile::TempDir,
    log: PathBuf,
    cursor: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("events.log");
        let cursor = directory.path().join("log.cursor");
        Scene { directory, log, cursor }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Points to this offset of this file.
    fn point(&self, log: &Path, offset: u64, events: &[u64]) {
        let file = inode_of(&File::open(log).unwrap()).unwrap().unwrap();
        let tail = tail(log, offset);
        let position = Some(LogPosition { file, offset, synced: false, tail });
        CursorFile::create(&RealDisk, &self.cursor, &Cursor { events: events.to_vec(), position })
            .unwrap();
    }

    fn destination(&self) -> Destination {
        Destination::File(self.log.clone())
    }

    fn complete(&self, mut unlogged: Events) -> (Completed, Vec<String>) {
        let mut said = Vec::new();
        let (destination, format) = (self.destination(), LogFormat::Plain);
        let (cursor, now, journal) = (&*self.cursor, clock::wall(), None);
        let log = LogToComplete { destination, format, cursor, now, journal };
        let say = |message: fmt::Arguments<'_>| said.push(message.to_string());
        let (_, completed) = complete_saying(&RealDisk, log, &mut unlogged, say).unwrap();
        (completed, said)
    }

    /// What the journal would give, if it had all from the beginning.
    fn recover(&self, to: &[u64]) -> (Completed, Vec<String>) {
        let known = known_events(&RealDisk, &self.destination(), &self.cursor);
        let from = known.unwrap_or_else(|| vec![0; to.len()]);
        let result = self.complete(events(&from, to));
        let cursor = Cursor::read(&RealDisk, &self.cursor).unwrap();
        assert_eq!(cursor.events, to);
        assert_eq!(cursor.position.unwrap().offset, fs::metadata(&self.log).unwrap().len());
        // Once more changes nothing.
        let (again, said) = self.complete(events(to, to));
        assert_eq!((again, said), (Completed::default(), vec![]));
        result
    }

    fn config(&self, sync: LogSync, first_events: Vec<u64>) -> LogConfig {
        LogConfig {
            destination: self.destination(),
            format: LogFormat::Plain,
            rotation: None,
            sync,
            cursor: Some(self.cursor.clone()),
            first_events,
            clock: Clock::new(),
            threads: true,
        }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

const SOON: LogSync = LogSync::Interval(Duration::from_millis(1));

fn send(senders: &mut [Sender], from: &[u64], to: &[u64]) {
    for (sender, events) in senders.iter_mut().zip(events(from, to)) {
        for (_, event) in events {
            sender.send(event, &Stats::default());
        }
        sender.publish();
    }
}

fn wait_for(mut what: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("waited too long");
}

#[test]
fn cursor_is_exact_after_a_clean_stop() {
    for sync in [LogSync::None, SOON, LogSync::Interval(Duration::from_secs(3_600))] {
        let scene = Scene::new();
        fs::write(&scene.log, "before\n").unwrap();
        let mut last = vec![0, 0, 0];
        for to in [vec![10, 0, 2_000], vec![10, 5, 2_001]] {
            let config = scene.config(sync, last.clone());
            let (log, mut senders) = EventLog::start(&RealDisk, config, || {}).unwrap();
            let logged = log.logged();
            send(&mut senders, &last, &to);
            drop(senders);
            log.join(DEADLINE).unwrap();
            let cursor = Cursor::read(&RealDisk, &scene.cursor).unwrap();
            assert_eq!(cursor.events, to);
            assert_eq!(cursor.position.unwrap().offset, fs::metadata(&scene.log).unwrap().len());
            assert_eq!((0..3).map(|shard| logged.get(shard)).collect::<Vec<_>>(), to);
            assert_eq!(scene.recover(&to), (Completed::default(), vec![]));
            last = to;
        }
        assert_once(scene.text().strip_prefix("before\n").unwrap(), &last);
    }
}

#[test]
fn cursor_follows_within_the_interval() {
    for sync in [LogSync::None, SOON] {
        let scene = Scene::new();
        let (log, mut senders) =
            EventLog::start(&RealDisk, scene.config(sync, vec![7, 0]), || {}).unwrap();
        let read = || Cursor::read(&RealDisk, &scene.cursor).unwrap();
        assert_eq!(read(), Cursor { events: vec![7, 0], position: read().position });
        send(&mut senders, &[7, 0], &[8, 3]);
        wait_for(|| read().events == [8, 3]);
        assert_eq!(read().position.unwrap().offset, fs::metadata(&scene.log).unwrap().len());
        // The cursor is synced from time to time: then the journal may forget.
        let mut last = 3;
        wait_for(|| {
            send(&mut senders, &[8, last], &[8, last + 1]);
            last += 1;
            assert!(log.logged().get(1) <= read().events[1]);
            log.logged().get(1) > 3
        });
        drop(senders);
        log.join(DEADLINE).unwrap();
    }
}

#[test]
fn every_length_of_the_file_is_completed() {
    let scene = Scene::new();
    let all = lines(&events(&[0, 0, 0], &[4, 1, 3]));
    let start = lines(&events(&[0], &[2])).len();
    for cut in start..=all.len() {
        fs::write(&scene.log, &all[..cut]).unwrap();
        scene.point(&scene.log, start as u64, &[2, 0, 0]);
        let (completed, said) = scene.recover(&[4, 1, 3]);
        assert_once(&scene.text(), &[4, 1, 3]);
        assert_eq!(completed.strangers + completed.missing_max, 0);
        let kept = all[..cut].rfind('\n').unwrap() + 1;
        assert_eq!(completed.cut, (cut - kept) as u64);
        assert_eq!(said.len(), usize::from(cut < all.len()), "{said:?}");
    }
}

#[test]
fn renamed_file_is_compared_too() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    // How much is in the old file, with the cursor behind its second line; and in the new one.
    for old in (2 * line..=4 * line).step_by(7).chain([3 * line, 4 * line]) {
        for new in [None, Some(0), Some(line / 2), Some(line)] {
            let scene = Scene::new();
            let renamed = scene.file("events.log.1");
            fs::write(&renamed, &all[..old]).unwrap();
            scene.point(&renamed, 2 * line as u64, &[2]);
            if let Some(length) = new {
                let start = old.div_ceil(line) * line;
                // A new file is begun with a whole line.
                let start = if old % line == 0 { start } else { start - line };
                fs::write(&scene.log, &all[start..start + length]).unwrap();
            }
            let before = fs::read(&renamed).unwrap();
            scene.recover(&[6]);
            assert_eq!(fs::read(&renamed).unwrap(), before, "it is only read");
            assert_once(&whole(&[&renamed, &scene.log]), &[6]);
        }
    }
}

#[test]
fn shorter_file_gets_all_that_the_journal_has() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    for length in (0..5 * line).step_by(13) {
        let scene = Scene::new();
        fs::write(&scene.log, &all[..length]).unwrap();
        scene.point(&scene.log, 5 * line as u64, &[5]);
        assert_eq!(known_events(&RealDisk, &scene.destination(), &scene.cursor), None);
        let (completed, said) = scene.recover(&[6]);
        assert_once(&scene.text(), &[6]);
        assert_eq!(completed.missing_max, 0);
        assert!(said[0].contains("is shorter than it was"), "{said:?}");
    }
    // The journal begins with event 3; lines 0 and 1 are there, and 2 is not.
    let scene = Scene::new();
    fs::write(&scene.log, &all[..2 * line]).unwrap();
    scene.point(&scene.log, 5 * line as u64, &[5]);
    let (completed, said) = scene.complete(events(&[3], &[6]));
    assert_eq!((completed.appended, completed.missing_max), (3, 3));
    assert!(said[2].contains("may lack up to 3 lines"), "{said:?}");
    // It begins with event 1, which is there: so is 0.
    fs::write(&scene.log, &all[..2 * line]).unwrap();
    scene.point(&scene.log, 5 * line as u64, &[5]);
    let (completed, _) = scene.complete(events(&[1], &[6]));
    assert_eq!((completed.appended, completed.missing_max), (4, 0));
}

#[test]
fn truncated_file_does_not_get_back_what_was_taken_away() {
    let scene = Scene::new();
    let (log, mut senders) =
        EventLog::start(&RealDisk, scene.config(SOON, vec![0]), || {}).unwrap();
    send(&mut senders, &[0], &[50]);
    wait_for(|| Cursor::read(&RealDisk, &scene.cursor).unwrap().events == [50]);
    // As logrotate's `copytruncate` does it.
    let copy = scene.text();
    fs::write(&scene.log, "").unwrap();
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert_eq!(known_events(&RealDisk, &scene.destination(), &scene.cursor), Some(vec![50]));
    fs::write(&scene.log, lines(&events(&[50], &[51]))).unwrap();
    let (completed, said) = scene.recover(&[53]);
    assert_eq!((completed.appended, completed.strangers), (2, 0));
    assert_once(&(copy + &scene.text()), &[53]);
    assert!(said[0].ends_with("what was taken away is not written again"), "{said:?}");
}

#[test]
fn events_that_the_journal_forgot_are_no_strangers() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    // The cursor is behind event 1, the journal begins with event 4.
    for (there, missing_max) in [(2, 2), (3, 1), (4, 0), (5, 0), (6, 0)] {
        let scene = Scene::new();
        fs::write(&scene.log, &all[..there * line]).unwrap();
        scene.point(&scene.log, 2 * line as u64, &[2]);
        let (completed, _) = scene.complete(events(&[4], &[6]));
        assert_eq!((completed.strangers, completed.missing_max), (0, missing_max));
        assert_eq!(completed.appended, 2.min(6 - there as u64));
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "measures throughput")]
fn throughput() {
    const EVENTS: u64 = 100_000;
    let scene = Scene::new();
    let mut all = events(&[0, 0], &[EVENTS, EVENTS]);
    let text = lines(&all);
    fs::write(&scene.log, &text[..text.len() - 20]).unwrap();
    scene.point(&scene.log, 0, &[0, 0]);
    // And as many that are not there at all.
    all.extend(events(&[0, 0, 0], &[0, 0, EVENTS]).pop());
    scene.point(&scene.log, 0, &[0, 0, 0]);
    let start = std::time::Instant::now();
    let (completed, _) = scene.complete(all);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(completed.appended, EVENTS + 1);
    println!("{:.0} events a second", 3.0 * EVENTS as f64 / seconds);
}

#[test]
fn without_a_valid_cursor_the_end_is_compared() {
    let all = lines(&events(&[0], &[300]));
    for length in (0..=all.len()).step_by(101) {
        let scene = Scene::new();
        // Longer than what is looked at.
        let before = "another line that was there before\n".repeat(4_000);
        fs::write(&scene.log, before.clone() + &all[..length]).unwrap();
        fs::write(&scene.cursor, "damaged").unwrap();
        let (_, said) = scene.recover(&[300]);
        assert_once(scene.text().strip_prefix(&before).unwrap(), &[300]);
        assert!(said[0].contains("it is damaged"), "{said:?}");
    }
}

#[test]
fn first_start_says_nothing() {
    let scene = Scene::new();
    assert_eq!(scene.complete(vec![vec![]; 4]), (Completed::default(), vec![]));
    assert!(!scene.log.exists() && !scene.cursor.exists());
}

#[test]
fn streams_get_what_the_cursor_does_not_count() {
    let scene = Scene::new();
    let memory = Memory::default();
    let writer = || {
        let memory = memory.clone();
        scripted(move |octets| {
            let length = octets.len().min(30);
            memory.write(&octets[..length])
        })
    };
    let config = LogConfig { destination: writer(), ..scene.config(SOON, vec![0, 0]) };
    let (log, mut senders) = EventLog::start(&RealDisk, config, || {}).unwrap();
    send(&mut senders, &[0, 0], &[3, 4]);
    wait_for(|| Cursor::read(&RealDisk, &scene.cursor).unwrap().events == [3, 4]);
    // As if it were killed now.
    let mut unlogged = events(&[2, 4], &[5, 6]);
    let (_, completed) =
        complete(&RealDisk, writer(), LogFormat::Plain, &scene.cursor, &mut unlogged).unwrap();
    assert_eq!(completed.appended, 4);
    assert_once(&memory.text(), &[5, 6]);
    assert_eq!(
        Cursor::read(&RealDisk, &scene.cursor).unwrap(),
        Cursor { events: vec![5, 6], position: None }
    );
    drop(senders);
    log.join(DEADLINE).unwrap();
}

/// The steps of a rotation, each of them the last one before a crash.
#[test]
fn rotation_survives_a_crash_after_each_step() {
    let line = |number| lines(&events(&[number], &[number + 1]));
    for crash in 0..=7 {
        let scene = Scene::new();
        let renamed = scene.file("events.log.1");
        let append = |path: &Path, text: &str| {
            use io::Write;
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append(&scene.log, &line(0));
        let cursor = CursorFile::create(
            &RealDisk,
            &scene.cursor,
            &Cursor { events: vec![0], position: None },
        );
        let mut cursor = cursor.unwrap();
        let mut point = |path: &Path, events| {
            let file = File::open(path).unwrap();
            let (file, offset) =
                (inode_of(&file).unwrap().unwrap(), file.metadata().unwrap().len());
            let tail = tail(path, offset);
            let position = Some(LogPosition { file, offset, synced: true, tail });
            cursor.write(&Cursor { events: vec![events], position }).unwrap();
            cursor.sync().unwrap();
        };
        point(&scene.log, 1);
        for step in 0..crash {
            match step {
                0 => append(&scene.log, &line(1)),
                1 => fs::rename(&scene.log, &renamed).unwrap(),
                2 => append(&renamed, &line(2)),
                3 => point(&renamed, 3),
                4 => append(&scene.log, ""),
                5 => point(&scene.log, 3),
                _ => append(&scene.log, &line(3)),
            }
        }
        scene.recover(&[5]);
        let files = [renamed, scene.log.clone()];
        let there: Vec<_> = files.iter().filter(|path| path.exists()).collect();
        assert_once(&whole(&there), &[5]);
    }
}

#[test]
fn rotation_moves_the_cursor() {
    let scene = Scene::new();
    let (log, mut senders) =
        EventLog::start(&RealDisk, scene.config(SOON, vec![0, 0]), || {}).unwrap();
    let mut texts = String::new();
    let mut last = 0;
    for (number, to) in [(1, 100), (2, 100), (3, 5_000)] {
        send(&mut senders, &[last, last], &[to, to]);
        last = to;
        wait_for(|| log.unwritten() == 0);
        let renamed = scene.file(&format!("events.log.{number}"));
        fs::rename(&scene.log, &renamed).unwrap();
        log.reopen();
        wait_for(|| {
            let cursor = Cursor::read(&RealDisk, &scene.cursor).unwrap();
            File::open(&scene.log).is_ok_and(|file| {
                cursor.position.map(|position| position.file) == inode_of(&file).unwrap()
            })
        });
        let cursor = Cursor::read(&RealDisk, &scene.cursor).unwrap();
        assert_eq!((cursor.events, cursor.position.unwrap().offset), (vec![to, to], 0));
        assert_eq!(log.logged().get(1), to);
        texts += &fs::read_to_string(&renamed).unwrap();
    }
    drop(senders);
    log.join(DEADLINE).unwrap();
    assert_once(&texts, &[last, last]);
}

#[test]
fn log_that_cannot_be_completed_is_an_error() {
    let scene = Scene::new();
    fs::write(&scene.log, "").unwrap();
    scene.point(&scene.log, 0, &[0]);
    fs::remove_file(&scene.log).unwrap();
    std::os::unix::fs::symlink("/dev/full", &scene.log).unwrap();
    let result = complete(
        &RealDisk,
        scene.destination(),
        LogFormat::Plain,
        &scene.cursor,
        &mut events(&[0], &[1]),
    );
    let error = result.map(drop).unwrap_err().to_string();
    assert!(error.contains("cannot be completed from the journal: No space left"), "{error}");
    assert_eq!(Cursor::read(&RealDisk, &scene.cursor).unwrap().events, [0]);
}

/// Names the directory of a process that [`killed_at_any_instant`] starts and kills.
const CHILD: &str = "NAT64HANDOFF_TEST_EVENTLOG_CHILD";

/// What that process does: it logs, and rotates the log, without an end.
fn log_until_killed(directory: PathBuf) {
    let cursor = directory.join("log.cursor");
    let first_events = Cursor::read(&RealDisk, &cursor).unwrap().events;
    let config = LogConfig {
        destination: Destination::File(directory.join("events.log")),
        format: LogFormat::Plain,
        rotation: None,
        sync: SOON,
        cursor: Some(cursor),
        first_events: first_events.clone(),
        clock: Clock::new(),
        threads: true,
    };
    let (log, senders) = EventLog::start(&RealDisk, config, || {}).unwrap();
    let threads: Vec<_> = (1..)
        .zip(senders.into_iter().zip(first_events))
        .map(|(table, (mut sender, first))| {
            thread::spawn(move || {
                let stats = Stats::default();
                for number in first.. {
                    sender.send(event(table, number), &stats);
                    sender.publish();
                }
            })
        })
        .collect();
    for number in 0.. {
        thread::sleep(Duration::from_millis(7));
        let old = directory.join(format!("events.log.{}.{number}", std::process::id()));
        fs::rename(directory.join("events.log"), old).unwrap();
        thread::sleep(Duration::from_millis(3));
        log.reopen();
        while !directory.join("events.log").exists() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    drop(threads);
}

#[test]
fn killed_at_any_instant() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return log_until_killed(directory.into());
    }
    let scene = Scene::new();
    fs::write(&scene.log, "").unwrap();
    scene.point(&scene.log, 0, &[0, 0]);
    let mut all = String::new();
    let mut done = vec![0, 0];
    for kill in 0..12 {
        // Tests are named by their path within the crate.
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::killed_at_any_instant")])
            .env(CHILD, scene.directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = || {
            let files = fs::read_dir(scene.directory.path()).unwrap();
            files.count() > 2 || fs::metadata(&scene.log).is_ok_and(|log| log.len() > 0)
        };
        wait_for(started);
        thread::sleep(Duration::from_micros(4_137 * kill));
        child.kill().unwrap();
        child.wait().unwrap();

        // The journal has more than any file: as much as there are whole lines, and at least that
        // of which the kill may have left half.
        let files = || {
            let mut files: Vec<_> = fs::read_dir(scene.directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.to_string_lossy().contains("events.log"))
                .collect();
            // As they were rotated; the log itself comes last.
            files.sort_by_key(|path| {
                let number = path.to_string_lossy().rsplit('.').next().unwrap().parse();
                number.unwrap_or(u64::MAX)
            });
            files
        };
        let mut to = done.clone();
        for path in files() {
            for line in fs::read_to_string(path).unwrap().split_inclusive('\n') {
                if line.ends_with('\n') {
                    to[usize::from(line.contains(" 192.0.2.2:"))] += 1;
                }
            }
        }
        to.iter_mut().for_each(|to| *to += 1 + kill);
        let (completed, said) = scene.recover(&to);
        println!("kill {kill}: {to:?} {completed:?} {said:?}");
        assert_eq!((completed.strangers, completed.missing_max), (0, 0));
        all += &whole(&files());
        for path in files() {
            if path == scene.log {
                fs::write(path, "").unwrap();
                scene.point(&scene.log, 0, &to);
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        assert_once(&all, &to);
        done = to;
    }
}
