//! What becomes of a history whose files are damaged, whose log has gaps, or whose clock was wrong.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::PathBuf;

use super::*;
use crate::disk::eventlog::Day;
use crate::handoff::logged::time_of;

const PORT: &str = "192.0.2.7:3719";

struct Kept {
    folder: tempfile::TempDir,
    place: HistoryPlace,
}

impl Kept {
    fn new(log: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        fs::write(&path, log).unwrap();
        let place = HistoryPlace::new(folder.path().join("history"), path);
        Self { folder, place }
    }

    fn write_log(&self, log: &str) {
        fs::write(self.folder.path().join("events.log"), log).unwrap();
    }

    fn building(&self, lines_max: u64) -> Building<'_> {
        Building {
            place: &self.place,
            due: Due::Now,
            lines_max: Some(lines_max),
            stop: &|| false,
            progress: &|_, _| (),
        }
    }

    fn build(&self, lines_max: u64) -> Built {
        self.building(lines_max).build().unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let names = self.place.names(Kind::Held).unwrap();
        names.iter().map(|&name| self.place.path(Kind::Held, name)).collect()
    }

    fn wrong(&self) -> Vec<String> {
        HistoryChecked::of(&self.place, &|_, _| ()).unwrap().wrong
    }

    /// Of a port, by the newest file: client's port, and whether it ended, or perhaps.
    fn newest_of(&self, port: &str) -> Vec<(u16, bool, bool)> {
        let history = History::open(self.place.clone()).unwrap().unwrap();
        let port: SocketAddrV4 = port.parse().unwrap();
        let rows = history.of_port(history.files() - 1, port, true).unwrap();
        let told =
            |held: Holding| (held.client_port, held.until.is_some(), held.perhaps_until.is_some());
        rows.into_iter().map(told).collect()
    }
}

/// Each minute somebody else has the port.
fn log(minutes: std::ops::Range<u32>) -> String {
    let line = |minute: u32, kind: &str, client: u32| {
        format!("2019-03-18 10:{minute:02}:00.000000 {kind} {PORT} [2001:db8::17]:{client}\n")
    };
    let lines = minutes.map(|minute| {
        let before = if minute > 0 { line(minute, "Deleted", minute - 1) } else { String::new() };
        before + &line(minute, "Created", minute) + &line(minute, "Conflict", 99)
    });
    lines.collect()
}

#[test]
fn every_octet_that_changes_is_noticed() {
    let kept = Kept::new(&log(0..4));
    assert_eq!(kept.build(6).files, 2);
    assert_eq!(kept.wrong(), Vec::<String>::new());
    let conflicts = kept.place.names(Kind::Conflicts).unwrap();
    let conflicts = conflicts.iter().map(|&name| kept.place.path(Kind::Conflicts, name));
    for path in kept.files().into_iter().chain(conflicts) {
        let whole = fs::read(&path).unwrap();
        for (place, change) in (0..whole.len()).zip([1, 0x20, 0x80, 0xff].into_iter().cycle()) {
            let mut octets = whole.clone();
            octets[place] ^= change;
            fs::write(&path, octets).unwrap();
            let noticed = File::open(&path).and_then(|file| sum::verify(&file));
            let error = noticed.expect_err(&format!("{} octet {place}", path.display()));
            assert!(sum::is_damage(&error), "{error}");
            if place % 50 == 0 {
                let wrong = kept.wrong();
                assert!(wrong.len() == 1 && wrong[0].contains(path.to_str().unwrap()), "{wrong:?}");
            }
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(kept.wrong().len(), 1);
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(kept.wrong(), Vec::<String>::new());
}

#[test]
fn a_damaged_newest_file_is_made_again() {
    for place in [100, 2000, 1_000_000] {
        let kept = Kept::new(&log(0..4));
        assert_eq!(kept.build(6).files, 2);
        let (told, newest) = (kept.newest_of(PORT), kept.files().pop().unwrap());
        let mut octets = fs::read(&newest).unwrap();
        let place = place.min(octets.len() - 3);
        octets[place] ^= 0xff;
        fs::write(&newest, octets).unwrap();
        let aside = PathBuf::from(format!("{}.damaged", newest.display()));
        // Also where there is nothing else to do.
        if place > 100 {
            kept.write_log(&log(0..5));
        }
        let built = kept.build(6);
        assert_eq!((built.damaged, built.gap), (vec![aside.clone()], None), "{place}");
        assert!(aside.exists());
        assert_eq!(kept.wrong(), Vec::<String>::new());
        assert_eq!(kept.build(6).damaged, Vec::<PathBuf>::new(), "it is told once");
        let history = History::open(kept.place.clone()).unwrap().unwrap();
        assert_eq!(history.of_port(1, PORT.parse().unwrap(), true).unwrap().len(), told.len());
        // It is as old as its name says.
        let today = Day::of(time_of("2019-03-25 00:00:00.000000 ").unwrap());
        kept.building(6).expire(3, today).unwrap();
        assert!(!aside.exists());
    }
}

#[test]
fn who_had_a_port_before_a_gap_has_it_perhaps() {
    let begin = log(0..2)
        + "2019-03-18 10:01:30.000000 Created 192.0.2.7:4000 [2001:db8::17]:4000\n\
           2019-03-18 10:01:31.000000 Created 192.0.2.7:4001 [2001:db8::17]:4001\n";
    let kept = Kept::new(&begin);
    kept.build(100);
    assert_eq!(kept.newest_of("192.0.2.7:4000"), [(4000, false, false)]);
    kept.write_log(
        "2019-03-18 12:00:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:7\n\
         2019-03-18 12:00:01.000000 Deleted 192.0.2.7:4001 [2001:db8::17]:4001\n",
    );
    assert!(kept.build(100).gap.is_some());
    assert_eq!(kept.newest_of("192.0.2.7:4000"), [(4000, false, true)]);
    assert_eq!(kept.newest_of("192.0.2.7:4001"), [(4001, true, false)], "it was so all the time");
    assert_eq!(kept.newest_of(PORT), [(1, false, true), (7, false, false)]);
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    let gap = history.gap_before(1).unwrap().unwrap();
    assert_eq!(gap.0.to_string(), "2019-03-18 10:01:31.000000");
    assert_eq!(gap.1.to_string(), "2019-03-18 12:00:00.000000");
    assert_eq!(history.gap_before(0).unwrap(), None);
}

/// A line whose time is still to come hides none of those behind it, and its file goes with the
/// others of its days.
#[test]
fn a_clock_that_was_ahead() {
    let line =
        |time: &str, port: u16| format!("{time} Created 192.0.2.7:{port} [2001:db8::17]:1\n");
    let kept = Kept::new(
        &[
            line("2019-03-18 10:00:00.000000", 1),
            line("2999-01-01 00:00:00.000000", 2),
            line("2019-03-18 10:00:02.000000", 3),
            line("2019-03-19 10:00:00.000000", 4),
            line("2019-03-20 10:00:00.000000", 5),
        ]
        .concat(),
    );
    kept.build(100);
    let days: Vec<_> = kept.files();
    assert_eq!(days.len(), 4, "a file for each day: {days:?}");
    // The place is lost: what is later is still taken.
    kept.write_log(&line("2019-03-21 10:00:00.000000", 6));
    let built = kept.build(100);
    assert_eq!((built.gap.is_some(), built.lines), (true, 1));
    let today = Day::of(time_of("2019-03-23 00:00:00.000000 ").unwrap());
    assert_eq!(kept.building(100).expire(3, today).unwrap(), 3);
    assert_eq!(kept.files().len(), 2);
    // One that is the last of all, too.
    kept.write_log(&line("2999-01-01 00:00:00.000000", 7));
    kept.build(100);
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    assert!(history.end().reached < time_of("2999-01-01 00:00:00.000000 ").unwrap());
}

/// Who moves a damaged file away is told of which time lines are missing.
#[test]
fn a_file_that_is_missing() {
    let kept = Kept::new(&log(0..10));
    assert_eq!(kept.build(10).files, 3);
    fs::remove_file(&kept.files()[1]).unwrap();
    let wrong = kept.wrong();
    assert!(wrong.len() == 1 && wrong[0].contains("does not go on"), "{wrong:?}");
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    let (since, until) = history.gap_before(1).unwrap().unwrap();
    assert_eq!(since.to_string(), "2019-03-18 10:03:00.999999");
    assert_eq!(until.to_string(), "2019-03-18 10:07:00.000000");
    // Which ports it had is not known any more: the next file that would have them does not say so.
    kept.write_log(&log(0..14));
    kept.build(10);
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    let unused = "192.0.2.9:1".parse().unwrap();
    let files = 0..history.files();
    assert_eq!(history.last_about(files.clone(), LinesAbout::Held, unused).unwrap(), Some(2));
    assert_eq!(history.last_about(files, LinesAbout::Older, unused).unwrap(), Some(2));
}
