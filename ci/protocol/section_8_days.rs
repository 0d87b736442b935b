//! The event log over days, which the test's clock makes pass: a file for each (`--log-keep`), and
//! what is no file. And a log that somebody truncates.

use crate::clock::Clock;
use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, command, free_port};
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::{LEISURE, PATIENCE};
use crate::server::{Server, events_of, fresh_directory};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

const DAY: u64 = 24 * 3600;

fn start_by(clock: &Clock, extra: &[&str]) -> Server {
    let mut command = command();
    clock.drives(&mut command);
    let options = [&["--reactors", "1"], extra].concat();
    Server::launch(command, fresh_directory(), free_port(), vec![LOCAL], &options)
}

/// The names in a folder that begin with this, without the date that is behind it.
fn names(folder: &Path, begin: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(begin)).collect();
    names.sort_unstable();
    names
}

/// Four days: each has its lines, the former ones are compressed but the last, and the first ones
/// are removed after two days. Under load, no line is lost or doubled.
#[test]
fn section_8_a_file_for_each_day() {
    let clock = Clock::new();
    let mut server = start_by(&clock, &["--log-keep", "2"]);
    // Its first lines will be gone.
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    let folder = server.directory.path().to_owned();
    let mut before = String::new();
    let mut oldest = String::new();
    for day in 0..4_u32 {
        clock.set_wall_ahead(u64::from(day) * DAY);
        let request = |number| {
            let client = Client::nth(number);
            nat64.client_request(&client.authenticator(), &client.udp(b""))
        };
        nat64.pipeline((500 * day..500 * (day + 1)).map(request), |_| ());
        let path = server.log_path();
        // The line of the table's beginning, too.
        let lines = if day == 0 { 501 } else { 500 };
        let mut text = String::new();
        let written = wait_until(PATIENCE, || {
            text = fs::read_to_string(&path).unwrap_or_default();
            // Not those of the day before, while this one's are on their way.
            text.lines().count() == lines && text != before
        });
        assert!(written, "day {day}: {} lines", text.lines().count());
        before = text;
        let former = names(&folder, "events.log-");
        match day {
            0 => assert!(former.is_empty(), "{former:?}"),
            1 => former[0]["events.log-".len()..][..8].clone_into(&mut oldest),
            _ => {}
        }
    }
    let last = before[..10].replace('-', "");
    let settled = || {
        let names = names(&folder, "events.log-");
        names.len() == 2
            && !names[0].contains(&oldest)
            && names[0].ends_with(".gz")
            // That of the last day, which is not compressed before the next one.
            && names[1].ends_with(&last)
    };
    // A day more, and the first one is older than two days.
    clock.set_wall_ahead(4 * DAY);
    nat64.map(Client::nth(5000));
    let removed = wait_until(LEISURE, || settled() && server.events().len() >= 501);
    let names = names(&folder, "events.log-");
    assert!(removed, "{names:?}\n{}", server.stderr());
    let days: Vec<_> = names.iter().map(|name| &name["events.log-".len()..][..8]).collect();
    let of_lines = |text: &str| -> Vec<String> {
        let mut days: Vec<_> = text.lines().map(|line| line[..10].replace('-', "")).collect();
        days.dedup();
        days
    };
    let mut text = String::new();
    let compressed = File::open(folder.join(&names[0])).unwrap();
    flate2::read::MultiGzDecoder::new(compressed).read_to_string(&mut text).unwrap();
    assert_eq!((of_lines(&text), text.lines().count()), (vec![days[0].to_owned()], 500));
    let text = fs::read_to_string(folder.join(&names[1])).unwrap();
    assert_eq!((of_lines(&text), text.lines().count()), (vec![days[1].to_owned()], 500));
    assert!(
        wait_until(LEISURE, || server.stderr().contains("(--log-keep)")),
        "{}",
        server.stderr()
    );
    server.stop();
}

/// Standard output, and a named pipe, have no days.
#[test]
fn section_8_what_is_no_file_has_no_days() {
    let clock = Clock::new();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
    for log in ["-", pipe.to_str().unwrap()] {
        clock.set_wall_ahead(0);
        let server = start_by(&clock, &["--log", log]);
        let nat64 = Nat64::known(&server);
        nat64.map(Client::nth(1));
        clock.set_wall_ahead(2 * DAY);
        nat64.map(Client::nth(2));
        let mut text = String::new();
        let came = wait_until(PATIENCE, || {
            if log == "-" {
                text = server.stdout();
            } else {
                // Nothing more is there now.
                let _ = (&reader).read_to_string(&mut text);
            }
            text.lines().count() == 3
        });
        assert!(came && text.ends_with('\n'), "{log}: {text:?}");
        assert_eq!(names(folder.path(), ""), ["pipe"]);
        assert_eq!(names(server.directory.path(), ""), ["state"]);
    }
}

/// As logrotate's copytruncate does it: it is said, once, and the file has no hole.
#[test]
fn section_8_a_truncated_log_is_named() {
    let mut server = Server::start(&["--reactors", "1"]);
    server.check_log = false;
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    server.events_from(2);
    OpenOptions::new().write(true).open(server.log_path()).unwrap().set_len(0).unwrap();
    for number in 2..5 {
        nat64.map(Client::nth(number));
        let lines = number as usize - 1;
        assert!(wait_until(PATIENCE, || events_of(&server.log_path()).len() == lines));
    }
    let said = |server: &Server| server.stderr().matches("was truncated by somebody else").count();
    assert!(wait_until(PATIENCE, || said(&server) == 1), "{}", server.stderr());
    server.stop();
    assert_eq!(said(&server), 1, "{}", server.stderr());
    assert_eq!(fs::read(server.log_path()).unwrap().iter().filter(|&&octet| octet == 0).count(), 0);
}
