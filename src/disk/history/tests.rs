//! What becomes of a history whose files are damaged, whose log has gaps, or whose clock was wrong.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::PathBuf;

use super::ports::NotedPlace;
use super::*;
use crate::disk::eventlog::Day;
use crate::handoff::logged::time_of;

const PORT: &str = "192.0.2.7:3719";
/// The log that `sample-1.parquet` was made of, by a release whose files have no checksum.
const SAMPLE_LOG: &str = "\
2026-03-16 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7
2026-03-16 10:00:01.000000 Created 192.0.2.7:3720 [2001:db8:17::1]:8
";
const SAMPLE: &[u8] = include_bytes!("sample-1.parquet");

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
        assert_eq!((built.damaged, built.gap), (Some(aside.clone()), None), "{place}");
        let name = newest.file_name().unwrap().to_str().unwrap();
        let conflicts = kept.place.kind_folder(Kind::Conflicts).join(format!("{name}.damaged"));
        assert!(aside.exists() && conflicts.exists());
        assert_eq!(kept.wrong(), Vec::<String>::new());
        assert_eq!(kept.build(6).damaged, None, "it is told once");
        let history = History::open(kept.place.clone()).unwrap().unwrap();
        assert_eq!(history.of_port(1, PORT.parse().unwrap(), true).unwrap().len(), told.len());
        // It is as old as its name says.
        let today = Day::of(time_of("2019-03-25 00:00:00.000000 ").unwrap());
        kept.building(6).expire(3, today).unwrap();
        assert!(!aside.exists() && !conflicts.exists());
    }
}

/// Where all files seem to be damaged, it may be the machine.
#[test]
fn one_file_is_put_aside_at_a_time() {
    let kept = Kept::new(&log(0..10));
    assert_eq!(kept.build(10).files, 3);
    let files = kept.files();
    for path in &files[1..] {
        let mut octets = fs::read(path).unwrap();
        octets[100] ^= 1;
        fs::write(path, octets).unwrap();
    }
    let aside = |file: usize| PathBuf::from(format!("{}.damaged", files[file].display()));
    match kept.building(10).build() {
        Err(BuildError::PutAside(path, cause)) => {
            assert_eq!(path, aside(2));
            assert!(matches!(*cause, BuildError::Read(path, _) if path == files[1]));
        }
        other => panic!("{other:?}"),
    }
    assert!(files[1].exists());
    assert_eq!(kept.build(10).damaged, Some(aside(1)));
    assert_eq!((kept.files().len(), kept.wrong()), (3, Vec::new()));
    // What a disk does not give now is no damage.
    assert!(!sum::is_damage(&io::Error::from_raw_os_error(libc::EIO)));
}

/// Files of the release whose files have no checksum are read, and gone on with.
#[test]
fn files_without_a_checksum() {
    let kept = Kept::new(SAMPLE_LOG);
    let folder = kept.place.kind_folder(Kind::Held);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("events.log-000001-20260316T100000-20260316T100001.parquet");
    fs::write(&path, SAMPLE).unwrap();
    assert_eq!(kept.newest_of("192.0.2.7:3720"), [(8, false, false)]);
    let end = "2026-03-16 10:00:02.000000 Deleted 192.0.2.7:3719 [2001:db8:17::1]:7\n";
    kept.write_log(&[SAMPLE_LOG, end].concat());
    let built = kept.build(100);
    assert_eq!((built.damaged, built.gap, built.files), (None, None, 1));
    assert_eq!((kept.files().len(), kept.wrong()), (2, Vec::new()));
    assert_eq!(kept.newest_of(PORT), [(7, true, false)]);
    assert_eq!(kept.newest_of("192.0.2.7:3720"), [(8, false, false)]);
    // Nor is a file of today one of those.
    let version = b"nat64handoff.version\x18\x01";
    let place = memchr::memmem::find(SAMPLE, version).unwrap() + version.len();
    let mut octets = SAMPLE.to_vec();
    assert_eq!(std::mem::replace(&mut octets[place], b'2'), b'1');
    fs::write(&path, octets).unwrap();
    let wrong = kept.wrong();
    assert!(wrong.len() == 1 && wrong[0].contains("it has no checksum"), "{wrong:?}");
}

/// A line of each day: one more port is somebody's.
impl Kept {
    /// Address, client, whether it ended, and perhaps: by a file.
    fn names(&self, file: usize, of: NamesOf) -> Vec<(String, String, bool, bool)> {
        let history = History::open(self.place.clone()).unwrap().unwrap();
        let names = history.names(file, of).unwrap().into_iter().map(|name| {
            let (pool, client) = (name.pool.to_string(), name.client.to_string());
            (pool, client, name.until.is_some(), name.perhaps_until.is_some())
        });
        names.collect()
    }

    fn path_of_names(&self, file: usize) -> PathBuf {
        let names = self.place.names(Kind::Names).unwrap();
        self.place.path(Kind::Names, names[file])
    }
}

/// A line each minute.
const NAMES_LOG: [&str; 6] = [
    "2026-03-16 10:00:00.000000 Named 100.64.0.7 [2001:db8:17::1]\n",
    "2026-03-16 10:01:00.000000 Named 100.64.0.10 [2001:db8:17:1::/64]\n",
    "2026-03-16 10:02:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7\n",
    "2026-03-16 10:03:00.000000 Unnamed 100.64.0.7 [2001:db8:17::1]\n",
    "2026-03-16 10:04:00.000000 Named 100.64.0.7 [2001:db8:17::2]\n",
    "2026-03-16 10:05:00.000000 Created 192.0.2.7:3720 [2001:db8:17::1]:8\n",
];

fn named(pool: u8, client: &str, ended: bool) -> (String, String, bool, bool) {
    (format!("100.64.0.{pool}"), client.to_owned(), ended, false)
}

/// Each file has those that there are at its end, and so the newest one has all, whatever became of
/// those before.
#[test]
fn names_stand_in_each_file_until_they_end() {
    let kept = Kept::new(&NAMES_LOG.concat());
    assert_eq!(kept.build(2).files, 3);
    let (one, net) = ("2001:db8:17::1/128", "2001:db8:17:1::/64");
    let first = [named(10, net, false), named(7, one, false)];
    assert_eq!(kept.names(0, NamesOf::All), first, "sorted as they are written");
    let second = [named(10, net, false), named(7, one, true)];
    assert_eq!(kept.names(1, NamesOf::All), second);
    let third = [named(10, net, false), named(7, "2001:db8:17::2/128", false)];
    assert_eq!(kept.names(2, NamesOf::All), third);
    assert_eq!(kept.wrong(), Vec::<String>::new());
    let of = |pool: [u8; 4]| kept.names(1, NamesOf::Address(pool.into()));
    assert_eq!(of([100, 64, 0, 7]), second[1..]);
    assert_eq!(of([100, 64, 0, 10]), second[..1]);
    assert_eq!(of([100, 64, 0, 8]), []);
    let of = |net: &str| kept.names(1, NamesOf::Clients(net.parse().unwrap()));
    assert_eq!(of("2001:db8:17:1::9/128"), second[..1], "in its network");
    assert_eq!(of("2001:db8:17::/47"), second);
    assert_eq!(of("2001:db8:17::3/128"), []);
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    let all = history.names_from(0, NamesOf::All).unwrap();
    assert_eq!((all.ended.len(), all.open.len()), (1, 2));
    drop(history);
    // Old files are removed, with their names.
    let today = Day::of(time_of("2026-03-26 10:00:00.000000 ").unwrap());
    assert_eq!(kept.building(2).expire(7, today).unwrap(), 2);
    assert_eq!(kept.place.names(Kind::Names).unwrap().len(), 1);
    assert_eq!(kept.names(0, NamesOf::All), third);
    assert_eq!(kept.wrong(), Vec::<String>::new());
}

#[test]
fn names_of_a_damaged_file_are_made_again() {
    let kept = Kept::new(&NAMES_LOG[..4].concat());
    assert_eq!(kept.build(2).files, 2);
    let (path, before) = (kept.path_of_names(1), kept.names(1, NamesOf::All));
    let mut octets = fs::read(&path).unwrap();
    octets[20] ^= 1;
    fs::write(&path, &octets).unwrap();
    assert!(kept.wrong()[0].contains(path.to_str().unwrap()), "{:?}", kept.wrong());
    kept.write_log(&NAMES_LOG.concat());
    let built = kept.build(2);
    assert_eq!((built.files, built.damaged.as_ref()), (2, Some(&damaged(&path))));
    // What it goes with is put aside, too.
    assert!(damaged(&kept.files()[1]).exists());
    assert_eq!(kept.names(1, NamesOf::All), before);
    assert_eq!(kept.names(2, NamesOf::All)[1], named(7, "2001:db8:17::2/128", false));
    // One that is gone is noticed.
    fs::remove_file(kept.path_of_names(0)).unwrap();
    assert!(kept.wrong()[0].contains("000001 of"), "{:?}", kept.wrong());
}

fn damaged(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.damaged", path.display()))
}

#[test]
fn names_before_a_gap_are_in_doubt() {
    let kept = Kept::new(&NAMES_LOG[..2].concat());
    kept.build(2);
    kept.write_log(&NAMES_LOG[4..].concat());
    assert!(kept.build(2).gap.is_some());
    let perhaps = |pool, client, ended| {
        let (pool, client, ended, _) = named(pool, client, ended);
        (pool, client, ended, true)
    };
    let expected = [
        perhaps(10, "2001:db8:17:1::/64", false),
        perhaps(7, "2001:db8:17::1/128", true),
        named(7, "2001:db8:17::2/128", false),
    ];
    assert_eq!(kept.names(1, NamesOf::All), expected);
}

fn days(days: &[&str]) -> String {
    let line = |(port, day): (u16, &&str)| {
        format!("2019-{day} 10:00:00.000000 Created 192.0.2.7:{port} [2001:db8::17]:1\n")
    };
    (1..).zip(days).map(line).collect()
}

/// A file of old times removes none before it that are young.
#[test]
fn a_clock_that_was_behind() {
    let kept = Kept::new(&days(&["03-18", "03-19", "03-20"]));
    assert_eq!(kept.build(100).files, 3);
    kept.write_log(&days(&["03-18", "03-19", "03-20", "02-28", "03-21"]));
    assert_eq!(kept.build(100).files, 2);
    let expire = |day: &str| {
        let today = Day::of(time_of(&format!("2019-{day} 00:00:00.000000 ")).unwrap());
        kept.building(100).expire(10, today).unwrap()
    };
    assert_eq!((expire("03-22"), kept.files().len()), (0, 5));
    assert_eq!((expire("03-30"), kept.files().len()), (2, 3));
    assert_eq!((expire("03-31"), kept.files().len()), (2, 1), "it goes with those before it");
}

/// What a disk changed in a file that is not the newest is not taken over into a new one.
#[test]
fn ports_of_a_damaged_file_are_not_noted_again() {
    let all = days(&["03-18", "03-19", "03-20", "03-21"]);
    let kept = Kept::new(all.rsplit_once("2019").unwrap().0);
    assert_eq!(kept.build(1).files, 3);
    let second = kept.place.names(Kind::Held).unwrap()[1];
    let noted = open(&kept.place, Kind::Held, second).unwrap();
    let noted = NotedPlace::of_note(noted.note(NOTE_PORTS).unwrap()).unwrap();
    let path = &kept.files()[1];
    let mut octets = fs::read(path).unwrap();
    octets[noted.offset as usize + noted.octets - 1] ^= 0x40;
    fs::write(path, octets).unwrap();
    kept.write_log(&all);
    assert_eq!(kept.build(1).files, 1);
    let history = History::open(kept.place.clone()).unwrap().unwrap();
    let noted = |what: LinesAbout| history.held(3).unwrap().note(what.note()).map(str::to_owned);
    assert_eq!(noted(LinesAbout::Held), None);
    assert!(noted(LinesAbout::Older).is_some(), "that of the others is as it was");
    let asked = "192.0.2.9:1".parse().unwrap();
    assert_eq!(history.last_about(0..4, LinesAbout::Held, asked).unwrap(), Some(3));
}

/// Of a port that comes to another client in each of many gaps, only the last ones are kept.
#[test]
fn gap_after_gap() {
    let kept = Kept::new("");
    for client in 0..9 {
        kept.write_log(&format!(
            "2019-03-18 10:0{client}:00.000000 Created {PORT} [2001:db8::17]:{client}\n"
        ));
        assert_eq!(kept.build(100).gap.is_some(), client > 0);
    }
    let told = kept.newest_of(PORT);
    let open: Vec<_> = told.iter().filter(|(_, ended, _)| !ended).collect();
    let doubtful = |client: u16| (client, false, client < 8);
    assert_eq!(open, [4, 5, 6, 7, 8].map(doubtful).each_ref());
    assert_eq!(told.iter().filter(|(_, ended, _)| *ended).count(), 1, "{told:?}");
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

/// Tables that begin anew are told whether or not they ended anything; and a file that is gone
/// leaves in doubt who is in no file behind it.
#[test]
fn when_tables_began_is_kept() {
    let lines = [
        "2026-03-16 10:00:00.000000 Initialized 192.0.2.7 to 203.0.113.5\n",
        "2026-03-16 10:01:00.000000 Created 192.0.2.7:3719 [2001:db8:17::1]:7\n",
        "2026-03-16 10:02:00.000000 Deleted 192.0.2.7:3719 [2001:db8:17::1]:7\n",
        "2026-03-16 10:03:00.000000 Initialized 192.0.2.10\n",
        "2026-03-16 10:04:00.000000 Created 192.0.2.7:3720 [2001:db8:17::1]:8\n",
        "2026-03-16 10:05:00.000000 Initialized 192.0.2.7\n",
    ];
    let kept = Kept::new(&lines.concat());
    assert_eq!(kept.build(2).files, 3);
    assert_eq!(kept.wrong(), Vec::<String>::new());
    let history = || History::open(kept.place.clone()).unwrap().unwrap();
    let room = |_| Ok(());
    let begun = |nat64: &str| {
        let nat64: std::net::Ipv4Addr = nat64.parse().unwrap();
        let begun = history().beginnings(|other| other == nat64, room).unwrap();
        let minute = |at: Timestamp| at.as_micros() / 60_000_000 % 60;
        begun.iter().map(|begun| (minute(begun.at), begun.local.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(begun("192.0.2.7"), [(0, true), (5, false)]);
    assert_eq!(begun("192.0.2.10"), [(3, false)]);
    assert!(history().tells_beginnings().unwrap());
    let told = |port: &str| {
        let told = history().told_of_port(port.parse().unwrap(), room).unwrap().holdings;
        told.iter().map(|held| (held.until, held.perhaps_until.is_some())).collect::<Vec<_>>()
    };
    let ended = time_of(lines[2]);
    assert_eq!(told(PORT), [(ended, false)]);
    assert_eq!(told("192.0.2.7:3720"), [(None, true)]);
    let of_clients =
        history().told_of_clients("2001:db8:17::1/128".parse().unwrap(), room).unwrap();
    assert_eq!(of_clients.holdings.len(), 2);
    fs::remove_file(&kept.files()[1]).unwrap();
    assert_eq!(told(PORT), [(None, true)]);
}
