//! Follows a log to which everything happens that may happen to one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// The log in a directory of its own, and all that was written.
struct Log {
    folder: TempDir,
    written: Vec<String>,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), written: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("events.log")
    }

    fn append(&self, text: &str) {
        let file = OpenOptions::new().append(true).create(true).open(self.log());
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// A line, which is of the second that is its number.
    fn next_line(&mut self) -> String {
        let number = self.written.len() as u64;
        let at = Timestamp::from_micros(1_552_903_588_000_000 + number * 1_000_000);
        let line = format!("{at} Created 192.0.2.7:{} [2001:db8::17]:1", 1024 + number);
        self.written.push(line.clone());
        line + "\n"
    }

    fn write(&mut self, lines: usize) {
        let text: String = (0..lines).map(|_| self.next_line()).collect();
        self.append(&text);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn compress(&self, name: &str) {
        let text = fs::read(self.path(name)).unwrap();
        let file = File::create(self.path(&format!("{name}.gz"))).unwrap();
        let mut file = GzEncoder::new(file, Compression::fast());
        file.write_all(&text).unwrap();
        file.finish().unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    fn follow(&self, start: FollowStart) -> Follower {
        Follower::open(&self.log(), start).unwrap()
    }
}

/// All that there is now, and whether something was said to be lost.
fn all(follower: &mut Follower) -> (Vec<String>, Vec<Lost>) {
    let (mut lines, mut losses) = (Vec::new(), Vec::new());
    loop {
        match follower.read().unwrap() {
            FollowStep::Lines => {
                let octets = follower.lines().map(|line| line.octets.to_vec());
                lines.extend(octets.map(|octets| String::from_utf8(octets).unwrap()));
            }
            FollowStep::Lost(lost) => losses.push(lost),
            FollowStep::Nothing => return (lines, losses),
        }
    }
}

fn lines(follower: &mut Follower) -> Vec<String> {
    let (lines, losses) = all(follower);
    assert_eq!(losses, []);
    lines
}

#[test]
fn lines_as_they_come_and_never_half_of_one() {
    let mut log = Log::new();
    let mut follower = log.follow(FollowStart::Now);
    assert_eq!(lines(&mut follower), [""; 0]);
    log.write(2);
    assert_eq!(lines(&mut follower), log.written);
    let line = log.next_line();
    log.append(&line[..10]);
    assert_eq!(lines(&mut follower), [""; 0]);
    log.append(&line[10..]);
    assert_eq!(lines(&mut follower), log.written[2..]);
    assert_eq!(lines(&mut follower), [""; 0]);
    // Half a line that a crash left, and what the server makes of it.
    let half = fs::metadata(log.log()).unwrap().len();
    log.append("2019-03-18 10:06:28.4367");
    assert_eq!(lines(&mut follower), [""; 0]);
    OpenOptions::new().write(true).open(log.log()).unwrap().set_len(half).unwrap();
    log.write(1);
    assert_eq!(lines(&mut follower), log.written[3..]);
    let mut second = log.follow(FollowStart::Now);
    log.write(1);
    assert_eq!(lines(&mut second), log.written[4..]);
    assert_eq!(lines(&mut log.follow(FollowStart::Beginning)), log.written);
}

#[test]
fn from_a_time_on() {
    let mut log = Log::new();
    log.write(200);
    log.rename("events.log", "events.log-20190318");
    log.write(200);
    for from in [0, 1, 150, 199, 200, 300, 399] {
        let at = time_of(&log.written[from]).unwrap();
        let mut follower = log.follow(FollowStart::Time(at));
        // The cursor of one that has given nothing is as good.
        let cursor = follower.cursor();
        assert_eq!(lines(&mut follower), log.written[from..], "{from}");
        assert_eq!(lines(&mut log.follow(FollowStart::After(cursor))), log.written[from..]);
    }
    let mut follower = log.follow(FollowStart::Time(Timestamp::MAX));
    assert_eq!(lines(&mut follower), [""; 0]);
}

/// A cursor of each line, over all that may happen to the files before it is used.
#[test]
fn a_cursor_holds_over_what_happens_to_the_files() {
    type Happens = fn(&Log);
    let happens: [(&str, Happens); 7] = [
        ("nothing", |_| ()),
        ("a day ends", |log| log.rename("events.log", "events.log-20190319")),
        ("and it is compressed", |log| {
            log.rename("events.log", "events.log-20190319");
            log.compress("events.log-20190319");
            log.compress("events.log-20190318");
        }),
        ("logrotate", |log| {
            log.rename("events.log-20190318", "events.log.2");
            log.rename("events.log", "events.log.1");
            log.compress("events.log.2");
        }),
        ("copytruncate", |log| {
            fs::copy(log.log(), log.path("events.log.1")).unwrap();
            OpenOptions::new().write(true).open(log.log()).unwrap().set_len(0).unwrap();
        }),
        ("a copy in its place", |log| {
            fs::copy(log.log(), log.path("copy")).unwrap();
            log.rename("copy", "events.log");
        }),
        ("both at once, for a moment", |log| {
            fs::copy(log.path("events.log-20190318"), log.path("aside")).unwrap();
            log.compress("events.log-20190318");
            log.rename("aside", "events.log-20190318");
        }),
    ];
    for (what, happen) in happens {
        let mut log = Log::new();
        log.write(5);
        log.rename("events.log", "events.log-20190318");
        log.write(5);
        let mut follower = log.follow(FollowStart::Beginning);
        let mut cursors = vec![follower.cursor()];
        while follower.read().unwrap() == FollowStep::Lines {
            cursors.extend(follower.lines().map(|line| follower.cursor_after(&line)));
        }
        assert_eq!(cursors.len(), 11);
        happen(&log);
        for more in [0, 3] {
            log.write(more);
            for (given, cursor) in cursors.iter().enumerate() {
                let cursor = cursor.to_string().parse().unwrap();
                let mut follower = log.follow(FollowStart::After(cursor));
                assert_eq!(lines(&mut follower), log.written[given..], "{what}, {given}");
                assert!(follower.cursor().to_string().parse::<FollowCursor>().is_ok());
            }
        }
        // Nor does one notice that has them open.
        assert_eq!(lines(&mut follower), log.written[10..], "{what}");
    }
}

/// Who writes goes on in a file that was renamed, until it is told.
#[test]
fn a_renamed_file_is_read_to_its_end() {
    let mut log = Log::new();
    log.write(3);
    let mut follower = log.follow(FollowStart::Beginning);
    assert_eq!(lines(&mut follower).len(), 3);
    let mut old = OpenOptions::new().append(true).open(log.log()).unwrap();
    log.rename("events.log", "events.log.1");
    old.write_all(log.next_line().as_bytes()).unwrap();
    assert_eq!(lines(&mut follower), log.written[3..]);
    File::create(log.log()).unwrap();
    old.write_all(log.next_line().as_bytes()).unwrap();
    assert_eq!(lines(&mut follower), log.written[4..]);
    old.write_all(log.next_line().as_bytes()).unwrap();
    // Half a line stays, and stands in the new file.
    old.write_all(b"2019-03-18 10:0").unwrap();
    log.write(1);
    assert_eq!(lines(&mut follower), log.written[5..]);
    // Moved out of sight.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut old = OpenOptions::new().append(true).open(log.log()).unwrap();
    fs::rename(log.log(), elsewhere.path().join("old")).unwrap();
    old.write_all(log.next_line().as_bytes()).unwrap();
    log.write(1);
    assert_eq!(lines(&mut follower), log.written[7..]);
}

#[test]
fn what_was_removed_is_said() {
    let mut log = Log::new();
    let mut cursors = Vec::new();
    for day in 18..22 {
        log.write(3);
        let mut follower = log.follow(FollowStart::Beginning);
        let _ = lines(&mut follower);
        cursors.push(follower.cursor());
        log.rename("events.log", &format!("events.log-201903{day}"));
    }
    fs::remove_file(log.path("events.log-20190318")).unwrap();
    fs::remove_file(log.path("events.log-20190319")).unwrap();
    for (cursor, from) in [(cursors[0], 6), (cursors[1], 6)] {
        let mut follower = log.follow(FollowStart::After(cursor));
        let (lines, losses) = all(&mut follower);
        assert_eq!(lines, log.written[from..]);
        assert_eq!(losses, [Lost::Removed(cursor.at())]);
    }
    assert_eq!(lines(&mut log.follow(FollowStart::After(cursors[2]))), log.written[9..]);
    // Somebody empties it.
    let mut follower = log.follow(FollowStart::Beginning);
    log.write(2);
    let _ = lines(&mut follower);
    let last = follower.cursor().at();
    OpenOptions::new().write(true).open(log.log()).unwrap().set_len(0).unwrap();
    assert_eq!(lines(&mut follower), [""; 0]);
    log.write(4);
    let (given, losses) = all(&mut follower);
    assert_eq!((given, losses), (log.written[14..].to_vec(), vec![Lost::Removed(last)]));
}

/// A reader that was stuck for long, while files came and went.
#[test]
fn what_went_by_while_nobody_looked_is_said() {
    let mut log = Log::new();
    log.write(3);
    let mut follower = log.follow(FollowStart::Beginning);
    assert_eq!(lines(&mut follower).len(), 3);
    for _ in 0..4 {
        log.rename("events.log", "events.log.1");
        log.write(2);
    }
    let last = follower.cursor().at();
    // It looked just now: so much cannot have happened meanwhile.
    follower.seen = clock::instant();
    let mut other = log.follow(FollowStart::After(follower.cursor()));
    assert_eq!(all(&mut other).1, [Lost::Removed(last)]);
    follower.seen -= 2 * LOOK_MAX;
    let (given, losses) = all(&mut follower);
    assert_eq!((given, losses), (log.written[7..].to_vec(), vec![Lost::Removed(last)]));

    // The file that is read is there, and the one that was to come next is not.
    let mut log = Log::new();
    for name in ["events.log-20190318", "events.log-20190319", "events.log-20190320"] {
        log.write(2);
        log.rename("events.log", name);
    }
    log.write(2);
    let mut follower = log.follow(FollowStart::Beginning);
    assert_eq!(follower.read().unwrap(), FollowStep::Lines);
    fs::remove_file(log.path("events.log-20190319")).unwrap();
    let last = follower.cursor().at();
    let (given, losses) = all(&mut follower);
    assert_eq!((given, losses), (log.written[4..].to_vec(), vec![Lost::Removed(last)]));
}

/// Files whose names are not in the order in which they were written.
#[test]
fn a_clock_that_is_set_back_or_ahead() {
    let mut log = Log::new();
    log.write(2);
    log.rename("events.log", "events.log-20190318");
    log.write(2);
    log.rename("events.log", "events.log-20300101");
    log.write(2);
    let mut follower = log.follow(FollowStart::Now);
    log.write(1);
    assert_eq!(lines(&mut follower), log.written[6..]);
    // Its name is one before the one that was written earlier; and before all of them.
    for name in ["events.log-20190319", "events.log-19700101"] {
        let given = log.written.len();
        log.rename("events.log", name);
        log.write(2);
        assert_eq!(lines(&mut follower), log.written[given..], "{name}");
    }
    // All is gone, and the log begins anew, earlier.
    let last = follower.cursor().at();
    for name in fs::read_dir(log.folder.path()).unwrap().flatten() {
        fs::remove_file(name.path()).unwrap();
    }
    let line = "1970-01-01 00:00:10.000000 Initialized 192.0.2.7";
    log.append(&format!("{line}\n"));
    let mut later = log.follow(FollowStart::After(follower.cursor()));
    assert_eq!(all(&mut later), (vec![line.to_owned()], vec![Lost::Removed(last)]));
    assert_eq!(lines(&mut follower), [line]);
}

/// After a power cut the last lines are written anew, in another order perhaps.
#[test]
fn a_file_that_was_cut_is_said_and_the_last_minute_repeated() {
    let mut log = Log::new();
    log.write(100);
    let mut follower = log.follow(FollowStart::Beginning);
    assert_eq!(lines(&mut follower).len(), 100);
    let last = follower.cursor().at();
    let text = fs::read_to_string(log.log()).unwrap();
    let kept: Vec<_> = text.lines().take(90).collect();
    let anew: Vec<_> = text.lines().rev().take(10).collect();
    let [kept, anew] = [kept, anew].map(|lines| lines.join("\n") + "\n");
    fs::write(log.log(), kept.clone() + &anew).unwrap();
    for mut follower in [log.follow(FollowStart::After(follower.cursor())), follower] {
        let (given, losses) = all(&mut follower);
        assert_eq!(losses, [Lost::Changed(last)]);
        let expected: Vec<_> = kept.lines().skip(39).chain(anew.lines()).collect();
        assert_eq!(given, expected);
    }
}

#[test]
fn what_others_write_is_given_too() {
    let mut log = Log::new();
    log.append("by hand\n\n\u{fffd}\n");
    log.write(1);
    let mut follower = log.follow(FollowStart::Beginning);
    let given = lines(&mut follower);
    assert_eq!(given, ["by hand", "", "\u{fffd}", &log.written[0]]);
    // Nobody's line is as long.
    log.append(&"x".repeat(700_000));
    assert_eq!(lines(&mut follower), [""; 0]);
    log.append("\n");
    log.write(2);
    assert_eq!(lines(&mut follower), log.written[1..]);
    log.rename("events.log", "events.log.1");
    log.compress("events.log.1");
    log.write(1);
    let given = lines(&mut log.follow(FollowStart::Beginning));
    assert_eq!(given[3..], log.written);
}

#[test]
fn what_cannot_be_followed() {
    let log = Log::new();
    let follow = |path: &Path| Follower::open(path, FollowStart::Now).err().unwrap();
    assert!(follow(log.folder.path()).to_string().contains("no file"));
    assert_eq!(follow(&log.path("none/events.log")).kind(), io::ErrorKind::NotFound);
    fs::write(log.path("events.log-20190318.gz"), "no gzip").unwrap();
    let mut follower = log.follow(FollowStart::Beginning);
    let error = follower.read().unwrap_err().to_string();
    assert!(error.contains("events.log-20190318.gz"), "{error}");
    let mut log = log;
    // Nobody comes to this one.
    std::os::unix::fs::symlink("events.log.1", log.path("events.log.1")).unwrap();
    let mut follower = log.follow(FollowStart::Now);
    assert_eq!(lines(&mut follower), [""; 0]);
    log.write(1);
    assert_eq!(lines(&mut follower), log.written);
    log.rename("events.log", "events.log.2");
    log.write(1);
    let error = follower.read().unwrap_err().to_string();
    assert!(error.contains("events.log.1: "), "{error}");
    fs::remove_file(log.path("events.log.1")).unwrap();
    assert_eq!(lines(&mut follower), log.written[1..]);
    fs::remove_file(log.log()).unwrap();
    std::os::unix::fs::symlink("events.log", log.log()).unwrap();
    assert!(Follower::open(&log.log(), FollowStart::Now).is_err());
}

/// One waits for what another one writes.
#[test]
fn a_line_ends_the_wait() {
    let mut log = Log::new();
    log.write(1);
    let mut follower = log.follow(FollowStart::Now);
    let path = log.log();
    let line = log.next_line();
    let writer = std::thread::spawn(move || {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    });
    let mut given = Vec::new();
    while given.is_empty() {
        assert!(!follower.wait(&[], Duration::from_secs(60)).unwrap());
        given = lines(&mut follower);
    }
    writer.join().unwrap();
    assert_eq!(given, log.written[1..]);
}

#[derive(Debug, Clone)]
enum Deed {
    Write(usize),
    Half,
    EndDay,
    Compress,
    CopyTruncate,
    Restart,
    Read,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (1..4_usize).prop_map(Deed::Write),
        1 => Just(Deed::Half),
        2 => Just(Deed::EndDay),
        1 => Just(Deed::Compress),
        1 => Just(Deed::CopyTruncate),
        2 => Just(Deed::Restart),
        3 => Just(Deed::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens in whatever order: each line once, in order.
    #[test]
    fn each_line_once(deeds in proptest::collection::vec(deed(), 1..60)) {
        let mut log = Log::new();
        let mut follower = log.follow(FollowStart::Beginning);
        let (mut given, mut days, mut half) = (Vec::new(), 0, String::new());
        for deed in deeds {
            if !half.is_empty() && !matches!(deed, Deed::Read | Deed::Restart) {
                log.append(&std::mem::take(&mut half));
            }
            match deed {
                Deed::Write(lines) => log.write(lines),
                Deed::Half => {
                    let line = log.next_line();
                    let (begin, end) = line.split_at(line.len() / 2);
                    log.append(begin);
                    half = end.to_owned();
                }
                Deed::EndDay if log.log().exists() => {
                    days += 1;
                    log.rename("events.log", &format!("events.log-20190318.{days}"));
                }
                Deed::Compress => {
                    let name = format!("events.log-20190318.{}", days / 2 + 1);
                    if log.path(&name).exists() {
                        log.compress(&name);
                    }
                }
                Deed::CopyTruncate if log.log().exists() => {
                    days += 1;
                    let copy = log.path(&format!("events.log-20190318.{days}"));
                    fs::copy(log.log(), copy).unwrap();
                    OpenOptions::new().write(true).open(log.log()).unwrap().set_len(0).unwrap();
                }
                Deed::Restart => {
                    let cursor = follower.cursor().to_string().parse().unwrap();
                    follower = log.follow(FollowStart::After(cursor));
                }
                Deed::Read => given.extend(lines(&mut follower)),
                Deed::EndDay | Deed::CopyTruncate => {}
            }
        }
        log.append(&half);
        given.extend(lines(&mut follower));
        prop_assert_eq!(given, log.written);
    }
}
