//! The log at the end of a day, which the test's clock brings about: killed just then, on a full
//! disk, where the file cannot be renamed.

use crate::clock::Clock;
use crate::dice::Dice;
use crate::field::Field;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::{LEISURE, PATIENCE, SHORT};
use crate::mount::Mounted;
use crate::record::{Record, key};
use crate::server::Server;
use crate::worker::Worker;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

const DAY: u64 = 24 * 3600;

fn server_by(clock: Clock) -> Server {
    let mut server = Server::new();
    server.clock = Some(clock);
    server
}

fn next_day(server: &Server, day: u64) {
    server.clock.as_ref().unwrap().set_wall_ahead(day * DAY);
}

/// Files beside the log whose names have this in them.
fn files(log: &Path, what: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(log.parent().unwrap()).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|p| p.to_string_lossy().contains(what)).collect();
    paths.sort_unstable();
    paths
}

/// The first step.
fn put_aside(log: &Path) {
    let text = fs::read_to_string(log).unwrap();
    // The last line may be half a one, and a file without a line is not put aside.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let Some(line) = whole.lines().last() else { return };
    let name = format!("events.log-{}", line[..10].replace('-', ""));
    // After a crash, a file may begin with lines of the day of the file before it.
    let names = (1..).map(|number| format!("{name}.{number}"));
    let mut free = std::iter::once(name.clone()).chain(names).map(|name| log.with_file_name(name));
    let is_free = |path: &PathBuf| !path.exists() && !path.with_added_extension("gz").exists();
    fs::rename(log, free.find(is_free).unwrap()).unwrap();
}

/// Days end under load, and the server is killed around that: before, between and after the steps
/// that put the file aside. Each line stands once in one of the files.
#[test]
fn crash_kill_while_a_day_ends() {
    let mut dice = Dice::new("crash_kill_while_a_day_ends");
    let mut field = Field::with(server_by(Clock::new()), &mut dice, 3);
    field.server.start(&["--reactors", "2"]);
    field.workers.iter_mut().for_each(Worker::introduce);
    let (mut before, mut between, mut after) = (0, 0, 0);
    let mut known = 0;
    for day in 1..=crate::kill::kills().div_ceil(8).max(3) {
        field.in_load(40, |server, _| {
            thread::sleep(Duration::from_millis(dice.range(5, 20)));
            next_day(server, day as u64);
            let log = server.log.clone();
            if dice.percent(50) {
                // A line of the new day may come or not.
                wait_until(2 * SHORT, || files(&log, "events.log-").len() > known);
            } else {
                thread::sleep(Duration::from_micros(dice.range(0, 15_000)));
            }
            server.kill();
        });
        let log = &field.server.log;
        let now = files(log, "events.log-").len();
        match (now > known, log.exists()) {
            // A kill between the two steps is rare. It leaves just this.
            (false, _) if dice.percent(50) => {
                between += 1;
                put_aside(log);
            }
            (false, _) => before += 1,
            (true, false) => between += 1,
            (true, true) => after += 1,
        }
        known = now;
        field.server.start(&["--reactors", "2"]);
        field.verify(&format!("day {day}"), true);
        known = known.max(files(&field.server.log, "events.log-").len());
    }
    field.finish(&[]);
    let compressed = files(&field.server.log, ".gz").len();
    println!(
        "killed {before} times before, {between} between, {after} after; {compressed} compressed"
    );
    assert!(after > 0 && compressed > 0, "{:?}", files(&field.server.log, ""));
}

/// The disk is full before, or while, the file of a day is compressed: the file stays, the other
/// one goes, and no line is lost. With room again, the next look compresses it.
#[test]
fn crash_no_room_to_compress() {
    let mut server = server_by(Clock::new());
    let place = server.directory.path().join("logs");
    let tmpfs = Mounted::tmpfs(&place, 12 * 1024);
    server.log = place.join("events.log");
    // Noise, which takes long, and as much room as before.
    let mut noise = vec![0; 3 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    let former = place.join("events.log-20200101");
    fs::write(&former, &noise).unwrap();
    fs::write(place.join("events.log-20200102"), "the last one\n").unwrap();
    tmpfs.fill();
    server.start(&["--reactors", "1"]);
    assert!(wait_until(LEISURE, || server.stderr().contains("room for it once more")));
    server.stop();
    tmpfs.make_room();
    server.spawn(&["--reactors", "1", "--log-keep", "0"]);
    let begun = wait_until(LEISURE, || !files(&server.log, ".tmp").is_empty());
    tmpfs.fill();
    server.wait_ready();
    assert!(begun, "nothing is compressed: {:?}", files(&server.log, ""));
    assert!(wait_until(LEISURE, || server.stderr().contains("stays as it is until tomorrow")));
    assert_eq!(files(&server.log, ".gz"), Vec::<PathBuf>::new());
    assert!(fs::read(&former).unwrap() == noise, "it stays as it is");
    assert!(server.stderr().matches("events.log-20200101").count() == 1, "{}", server.stderr());
    tmpfs.make_room();
    let nat64 = Nat64::known(&server);
    let entry = Client::nth(1).at(nat64.map(Client::nth(1)));
    next_day(&server, 1);
    let compressed = place.join("events.log-20200101.gz");
    assert!(wait_until(LEISURE, || compressed.exists() && !former.exists()));
    let mut again = Vec::new();
    flate2::read::MultiGzDecoder::new(File::open(&compressed).unwrap())
        .read_to_end(&mut again)
        .unwrap();
    assert!(again == noise);
    nat64.map(Client::nth(2));
    server.stop();
    // The files of noise are no log.
    for file in files(&server.log, "events.log-2020") {
        fs::remove_file(file).unwrap();
    }
    let mut record = Record::new(&server.log);
    record.check_final();
    assert!(record.table(nat64.address).has_created(key(entry.mapped, entry.client)));
    assert_eq!(record.lines, 3);
}

/// A log that may not be renamed goes on under its name, and says so once. It is put aside when it
/// may be.
#[test]
fn crash_a_log_that_cannot_be_put_aside() {
    let mut server = server_by(Clock::new());
    let ext4 = Mounted::ext4(server.directory.path(), "logs");
    server.log = ext4.path.join("events.log");
    server.start(&["--reactors", "1"]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    let append_only = |sign: &str| {
        let status = Command::new("chattr").arg(format!("{sign}a")).arg(&server.log).status();
        assert!(status.unwrap().success());
    };
    append_only("+");
    for day in 1..=3 {
        next_day(&server, day);
        nat64.map(Client::nth(day as u32 + 1));
    }
    let said = || server.stderr().matches("cannot be put aside").count();
    assert!(wait_until(PATIENCE, || said() > 0), "{}", server.stderr());
    let lines = || fs::read_to_string(&server.log).map_or(0, |text| text.lines().count());
    assert!(wait_until(PATIENCE, || lines() == 5), "{} lines", lines());
    assert_eq!((files(&server.log, "events.log-").len(), said()), (0, 1), "{}", server.stderr());
    append_only("-");
    next_day(&server, 4);
    nat64.map(Client::nth(9));
    assert!(wait_until(PATIENCE, || files(&server.log, "events.log-").len() == 1 && lines() == 1));
    server.stop();
    Record::new(&server.log).check_final();
}
