//! Histories that are copied to a directory and to a bucket, and asked there: `history copy`, and
//! `who --fleet`.

use std::fs;
use std::path::Path;

use crate::PATIENCE;
use crate::bucket::{BucketServer, PLACE};
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::secured::certificates;
use crate::server::Server;

/// Their history has some 10 MB: more than a part of an upload.
const LARGE_LINES: u64 = 500_000;
const NOTHING: &str = "0 files of 0 octets sent";

/// Copies the history of a log as that of a host. What it says.
fn copies(bucket: &BucketServer, log: &Path, host: &str, to: &str) -> String {
    let log = log.to_str().unwrap();
    let ran = bucket.runs(&["history", "copy", "--to", to, "--host", host, "--log", log]);
    let (code, said, error) = ran;
    assert_eq!((code, &*error), (0, ""), "{said}");
    assert!(said.ends_with(&format!(": {to}/{host}\n")), "{said}");
    said
}

fn builds(log: &Path) {
    let (code, said, error) =
        crate::run::run(&["history", "build", "--log", log.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}{error}");
}

struct CopiedHost {
    server: Server,
    nat64: Nat64,
    name: &'static str,
    /// Clients, and their ports.
    told: Vec<(Client, u16)>,
}

impl CopiedHost {
    fn start(name: &'static str) -> Self {
        let server = Server::start(&["--log-format", "full", "--reactors", "1"]);
        let nat64 = Nat64::known(&server);
        Self { server, nat64, name, told: Vec::new() }
    }

    /// So many more clients, whose lines stand in the log then.
    fn map(&mut self, clients: u32) {
        for _ in 0..clients {
            let client = Client::nth(self.told.len() as u32);
            self.told.push((client, self.nat64.map(client)));
        }
        let count = self.told.len() + 1;
        assert!(wait_until(PATIENCE, || self.server.events().len() >= count));
    }

    fn copy(&self, bucket: &BucketServer, to: &str) -> String {
        copies(bucket, &self.server.log_path(), self.name, to)
    }
}

/// Each place knows all of all hosts, and says the same.
fn know_all(bucket: &BucketServer, hosts: &[CopiedHost], places: &[&str]) {
    for host in hosts {
        for (client, port) in &host.told {
            let asked = format!("{}:{port}", host.nat64.address);
            let who = |place: &&str| bucket.runs(&["who", &asked, "--fleet", place]);
            let all: Vec<_> = places.iter().map(who).collect();
            let expected =
                format!("{} port {} (to 127.0.0.1), since ", client.address, client.port);
            assert!(all[0].1.starts_with(&expected), "{asked}: {all:?}");
            assert!(all[0].1.ends_with(", until now\n"), "{asked}: {all:?}");
            assert!(all.iter().all(|said| said.0 == 0 && said.1 == all[0].1), "{asked}: {all:?}");
        }
        let clients = host.told.last().unwrap().0.address.to_string();
        let who = |place: &&str| bucket.runs(&["who", &clients, "--json", "--fleet", place]).1;
        let all: Vec<_> = places.iter().map(who).collect();
        assert!(all[0].contains(&host.nat64.address.to_string()), "{all:?}");
        assert!(all.iter().all(|said| *said == all[0]), "{all:?}");
    }
}

/// While servers write, when one is killed, and again and again: what is there is not sent twice,
/// and what is new is.
#[test]
fn who_asks_a_bucket_as_it_asks_a_directory() {
    let bucket = BucketServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("copies");
    let places = [folder.to_str().unwrap(), PLACE];
    let mut hosts = [CopiedHost::start("host1"), CopiedHost::start("host2.example.org")];
    hosts.iter_mut().for_each(|host| host.map(3));
    // One has a history, and lines behind it.
    builds(&hosts[0].server.log_path());
    hosts[0].map(2);
    let copy = |hosts: &[CopiedHost]| -> Vec<Vec<String>> {
        let all = places.map(|to| hosts.iter().map(|host| host.copy(&bucket, to)).collect());
        all.into_iter().collect()
    };
    copy(&hosts);
    know_all(&bucket, &hosts, &places);
    let puts = bucket.asked("PUT").len();
    let said = copy(&hosts);
    assert!(said.iter().flatten().all(|said| said.starts_with(NOTHING)), "{said:?}");
    assert_eq!(bucket.asked("PUT").len(), puts);
    // A log that grew is sent again, and nothing else.
    hosts[1].map(1);
    for said in copy(&hosts) {
        assert!(said[0].starts_with(NOTHING) && said[1].starts_with("1 files of "), "{said:?}");
    }
    assert_eq!(bucket.asked("PUT").len(), puts + 1);
    know_all(&bucket, &hosts, &places);
    // One is killed; what its log has becomes history later.
    hosts[0].server.process.signal(libc::SIGKILL);
    hosts[0].server.wait_exit(PATIENCE);
    copy(&hosts);
    know_all(&bucket, &hosts, &places);
    builds(&hosts[0].server.log_path());
    for said in copy(&hosts) {
        assert!(!said[0].starts_with(NOTHING), "{said:?}");
    }
    know_all(&bucket, &hosts, &places);
    assert!(bucket.asked("DELETE").is_empty());
}

/// A log of some days, with a file of the history for each but the last.
fn some_days(folder: &Path, days: u32) -> std::path::PathBuf {
    let log = folder.join("events.log");
    let mut text = String::new();
    for day in 10..10 + days {
        text += &format!(
            "2019-03-{day} 10:00:00.000000 Created 192.0.2.7:37{day} [2001:db8::{day}]:53186 to 203.0.113.5 via \
             64:ff9b::/96\n"
        );
        fs::write(&log, &text).unwrap();
        if day + 1 < 10 + days {
            builds(&log);
        }
    }
    log
}

/// A bucket that takes nothing more in the middle has what it took, which can be asked, and the
/// next copy brings the rest.
#[test]
fn a_copy_that_is_broken_off_is_whole_as_far_as_it_goes() {
    let bucket = BucketServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let log = some_days(folder.path(), 7);
    let log = log.to_str().unwrap();
    bucket.let_put(Some(3));
    let (code, said, error) =
        bucket.runs(&["history", "copy", "--to", PLACE, "--host", "a", "--log", log]);
    assert_eq!((code, &*said), (1, ""), "{error}");
    assert!(error.contains("--to s3://histories/site1: "), "{error}");
    assert!(error.contains("what is there stays, and the next time goes on"), "{error}");
    let who = |day: u32| {
        let (asked, at) = (format!("192.0.2.7:37{day}"), format!("2019-03-{day} 12:00"));
        bucket.runs(&["who", &asked, "--at", &at, "--fleet", PLACE])
    };
    for day in 10..17 {
        let (code, said, error) = who(day);
        let is_there = day < 13;
        assert_eq!(code, 0, "{error}");
        assert_eq!(said.contains(&format!("2001:db8::{day} port")), is_there, "{day}: {said}");
        let is_told = error.contains("lines end before the time that is asked about: of host a");
        assert!(is_told || day < 12, "{day}: {error}");
    }
    bucket.let_put(None);
    let said = copies(&bucket, Path::new(log), "a", PLACE);
    assert!(said.starts_with("4 files of ") && said.contains("3 were there"), "{said}");
    for day in 10..17 {
        assert!(who(day).1.contains(&format!("2001:db8::{day} port")), "{day}");
    }
    // What nobody had is not looked for in all files.
    let before = bucket.asked("GET").len();
    let (_, said, _) = bucket.runs(&["who", "192.0.2.7:9", "--fleet", PLACE]);
    assert!(said.contains("nobody"), "{said}");
    let brought = bucket.asked("GET").split_off(before);
    let brought: Vec<_> = brought.iter().filter(|asked| asked.contains(".parquet")).collect();
    // The newest, the one that has what it has not, and the first one.
    assert_eq!(brought.len(), 3, "{brought:?}");
    assert!(brought.iter().all(|asked| asked.contains(".parquet bytes=0-")), "{brought:?}");
}

/// A file that goes there in parts; of a port, few octets of it come back.
#[test]
fn of_a_large_file_what_is_asked_for_is_brought() {
    let bucket = BucketServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (log, copies_here) = (folder.path().join("events.log"), folder.path().join("copies"));
    let (mut text, mut dice) = (String::new(), 1u64);
    for line in 0..LARGE_LINES {
        let group = |_| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!(":{:x}", (dice >> 49) + 1)
        };
        let client: String = (0..6).map(group).collect();
        let (nat64, port) = (line / 50_000, 1024 + line % 50_000);
        text += &format!(
            "2019-03-18 10:00:00.{line:06} Created 192.0.2.{nat64}:{port} [2001:db8{client}]:{} to 203.0.113.5 via \
             64:ff9b::/96\n",
            1024 + (dice >> 20) % 60_000
        );
    }
    fs::write(&log, text).unwrap();
    builds(&log);
    let places = [copies_here.to_str().unwrap(), PLACE];
    places.iter().for_each(|to| drop(copies(&bucket, &log, "a", to)));
    let parts = bucket.asked("PUT").iter().filter(|asked| asked.contains(".parquet")).count();
    assert!(parts > 1, "{parts}: {:?}", bucket.asked("PUT"));
    for asked in ["192.0.2.0:1024", "192.0.2.3:9000", "192.0.2.9:51023", "192.0.2.9:51024"] {
        let before = bucket.asked("GET").len();
        let [here, there] = places.map(|place| {
            bucket.runs(&["who", asked, "--at", "2019-03-18 12:00", "--fleet", place])
        });
        assert_eq!((here.0, &here.1), (there.0, &there.1), "{asked}: {}{}", here.2, there.2);
        assert_eq!(here.1.contains("nobody"), asked.ends_with(":51024"), "{}", here.1);
        let brought = bucket.asked("GET").split_off(before);
        let brought: Vec<_> =
            brought.into_iter().filter(|asked| asked.contains(".parquet")).collect();
        assert!(brought.iter().all(|asked| asked.contains("bytes=")), "{asked}: {brought:?}");
        assert!(brought.len() <= 16, "{asked}: {brought:?}");
    }
    // Of a client, all is read, once.
    let before = bucket.asked("GET").len();
    let [here, there] =
        places.map(|place| bucket.runs(&["who", "2001:db8:1::/48", "--fleet", place]));
    assert_eq!((here.0, &here.1), (there.0, &there.1), "{}{}", here.2, there.2);
    let brought = bucket.asked("GET").split_off(before);
    let whole = |asked: &&String| asked.contains(".parquet") && !asked.contains("bytes=");
    assert_eq!(brought.iter().filter(whole).count(), 1, "{brought:?}");
}

#[test]
fn what_keeps_a_copy_out_is_said() {
    let bucket = BucketServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let log = some_days(folder.path(), 2);
    let log = log.to_str().unwrap();
    let copy = |to: &'static str| vec!["history", "copy", "--host", "a", "--log", log, "--to", to];
    let who = |place: &'static str| vec!["who", "192.0.2.7:3710", "--fleet", place];
    let secure = bucket.url().replace("http", "https");
    let none = folder.path().join("none");
    for (variables, arguments, code, parts) in [
        (
            &[("AWS_SECRET_ACCESS_KEY", "x")][..],
            copy(PLACE),
            1,
            &["SignatureDoesNotMatch", "set AWS_ACCESS"][..],
        ),
        (
            &[("AWS_ACCESS_KEY_ID", "x")],
            copy(PLACE),
            1,
            &["InvalidAccessKeyId", "set AWS_ACCESS_KEY_ID"],
        ),
        (
            &[("AWS_ACCESS_KEY_ID", "x")],
            who(PLACE),
            1,
            &["InvalidAccessKeyId", "set AWS_ACCESS_KEY_ID"],
        ),
        (&[("AWS_REGION", "a b")], copy(PLACE), 2, &["AWS_REGION is \"a b\"", "us-east-1"]),
        (&[("AWS_ENDPOINT_URL", "x")], who(PLACE), 2, &["AWS_ENDPOINT_URL is \"x\"", "https://"]),
        (
            &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9")],
            copy(PLACE),
            1,
            &["refused", "AWS_ENDPOINT_URL"],
        ),
        (
            &[("AWS_ENDPOINT_URL", &secure)],
            copy(PLACE),
            1,
            &["corrupt message", "AWS_ENDPOINT_URL"],
        ),
        (&[], copy("s3://none"), 1, &["--to s3://none: NoSuchBucket", "make that bucket"]),
        (&[], who("s3://none"), 1, &["--fleet: s3://none: NoSuchBucket", "make that bucket"]),
        (&[], who(PLACE), 1, &["no host has copied its history there", "history copy does"]),
        (&[], copy("gs://none"), 2, &["gs:// is not known", "s3://BUCKET/PREFIX"]),
        (&[], copy("/proc/none"), 1, &["--to /proc/none: ", "see to that directory"]),
        (&[], vec!["history", "copy", "--log", log], 2, &["--to"]),
        (&[], [copy(PLACE), vec!["--host", "a/b"]].concat(), 2, &["--host"]),
        (&[], [copy(PLACE), vec!["--history", "off"]].concat(), 2, &["--history off"]),
        (
            &[],
            vec!["history", "copy", "--to", PLACE, "--log", none.to_str().unwrap()],
            1,
            &["none"],
        ),
    ] {
        let (ended, said, error) = bucket.runs_with(variables, &arguments);
        assert_eq!(ended, code, "{variables:?} {arguments:?}: {said}{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?}: {error}");
        assert!(code == 2 || error.lines().count() == 1, "{arguments:?}: {error}");
    }
}

/// Nothing is mixed up, and nothing is removed unless that is said.
#[test]
fn another_history_of_the_same_name_is_refused() {
    let bucket = BucketServer::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let log = some_days(folder.path(), 2);
    let said = copies(&bucket, &log, "a", PLACE);
    assert!(said.starts_with("2 files of "), "{said}");
    let other = tempfile::tempdir().unwrap();
    let other = some_days(other.path(), 3);
    let text = fs::read_to_string(&other).unwrap().replace(" 10:", " 11:");
    fs::remove_dir_all(other.with_file_name("history")).unwrap();
    fs::write(&other, text).unwrap();
    builds(&other);
    let arguments =
        ["history", "copy", "--host", "a", "--to", PLACE, "--log", other.to_str().unwrap()];
    let (code, _, error) = bucket.runs(&arguments);
    assert!(code == 1 && error.contains("name another folder by --host, or"), "{error}");
    assert!(bucket.asked("DELETE").is_empty());
    let (code, said, error) = bucket.runs(&[&arguments[..], &["--delete"]].concat());
    assert!(code == 0 && said.contains(", 1 were removed: "), "{said}{error}");
    let (_, said, error) = bucket.runs(&["who", "192.0.2.7:3711", "--fleet", PLACE]);
    assert!(said.contains("since 2019-03-11 11:00:00.000000 UTC, until now"), "{said}{error}");
}

#[test]
fn a_bucket_behind_tls_is_known_by_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name);
    let bucket = BucketServer::start(&[&at("node.pem"), &at("node.key")]);
    let log = some_days(folder.path(), 2);
    let arguments =
        ["history", "copy", "--to", PLACE, "--host", "a", "--log", log.to_str().unwrap()];
    let with = |file: &str| {
        let file = at(file);
        bucket.runs_with(&[("SSL_CERT_FILE", file.to_str().unwrap())], &arguments)
    };
    let (code, said, error) = with("ca.pem");
    assert!(code == 0 && said.starts_with("2 files of "), "{said}{error}");
    let (code, _, error) = with("other.pem");
    assert!(code == 1 && error.contains("certificate"), "{error}");
}
