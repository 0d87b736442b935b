//! `nat64handoff follow --to` and a collector that hangs, is away, or whose name nobody tells.

use crate::export::{Arrived, Log, messages, number_of};
use crate::harness::process::{Process, wait_until};
use crate::harness::program::{command, without_variables};
use crate::harness::skip::cannot_run;
use crate::judge::{LEISURE, PATIENCE};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// What comes over a connection until the last line of the log has.
fn read_all(mut stream: &TcpStream, log: &Log) -> Arrived {
    stream.set_read_timeout(Some(LEISURE)).unwrap();
    let (mut octets, mut piece) = (Vec::new(), [0; 65536]);
    let last = format!("28.{:06}Z", log.lines - 1);
    while !String::from_utf8_lossy(&octets[octets.len().saturating_sub(1000)..]).contains(&last) {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0);
        octets.extend_from_slice(&piece[..read]);
    }
    let mut arrived = Arrived::default();
    messages(&octets).iter().for_each(|message| arrived.take(number_of(message)));
    arrived
}

/// A collector accepts and never reads: that is found and told, another connection is opened, and
/// what the first one has swallowed comes again, as it may never be read.
#[test]
fn export_to_one_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::new(100_000);
    let to = format!("syslog+tcp://{}", listener.local_addr().unwrap());
    let mut export = log.export(&to);
    let begin = {
        let is_kept = || fs::metadata(log.path("cursor")).is_ok_and(|cursor| cursor.len() > 0);
        assert!(wait_until(LEISURE, is_kept));
        fs::read_to_string(log.path("cursor")).unwrap()
    };
    let (first, _) = listener.accept().unwrap();
    let swallowed = || fs::read_to_string(log.path("cursor")).unwrap() != begin;
    assert!(wait_until(LEISURE, swallowed));
    assert!(export.says("took nothing for 30 s", LEISURE), "{}", export.said());
    let (second, _) = listener.accept().unwrap();
    assert_eq!(read_all(&second, &log).next, log.lines, "from the first one on");
    drop(first);
    assert!(export.says("takes events again", PATIENCE), "{}", export.said());
    let said = export.said();
    assert_eq!(said.matches("does not take events").count(), 1, "{said}");
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.said());
    // Nothing is left to be sent.
    let mut export = Process::spawn(command().args(log.arguments(&to)).arg("--no-wait"));
    let (mut third, _) = listener.accept().unwrap();
    assert_eq!(third.read(&mut [0; 100]).unwrap(), 0);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.said());
}

/// Datagrams that a collector has not read when it ends are lost without a word; they come again
/// where its host says soon enough that it has gone.
#[test]
fn export_by_datagrams_to_one_that_goes() {
    for _ in 0..20 {
        let mut log = Log::new(100);
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(LEISURE)).unwrap();
        let address = collector.local_addr().unwrap();
        let mut export = log.export(&format!("syslog+udp://{address}"));
        let is_last = |piece: &[u8]| {
            let text = String::from_utf8_lossy(piece);
            number_of(&text) == 99
        };
        let mut piece = [0; 4096];
        // All have left; that the last one is there was only looked at.
        loop {
            let seen = collector.peek(&mut piece).unwrap();
            if is_last(&piece[..seen]) {
                break;
            }
            collector.recv(&mut piece).unwrap();
        }
        let cursor = log.path("cursor");
        let kept = || fs::read_to_string(&cursor).unwrap();
        let before = kept();
        drop(collector);
        log.append(1);
        assert!(export.says("does not take events: Connection refused", LEISURE));
        // A machine that was too busy: they were taken as having arrived.
        if kept() != before || !before.contains("-000000000000-") {
            continue;
        }
        let collector = UdpSocket::bind(address).unwrap();
        collector.set_read_timeout(Some(LEISURE)).unwrap();
        let mut arrived = Arrived::default();
        while arrived.next < log.lines {
            let read = collector.recv(&mut piece).unwrap();
            arrived.take(number_of(std::str::from_utf8(&piece[..read]).unwrap()));
        }
        export.signal(libc::SIGTERM);
        assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.said());
        return;
    }
    panic!("this machine is too busy");
}

/// What left just before the end comes again: nobody knows yet whether its host refuses it.
#[test]
fn export_by_datagrams_that_ends() {
    for _ in 0..20 {
        let log = Log::new(100);
        let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
        collector.set_read_timeout(Some(LEISURE)).unwrap();
        let to = format!("syslog+udp://{}", collector.local_addr().unwrap());
        let began = Instant::now();
        let mut export = log.export(&to);
        let mut piece = [0; 4096];
        let mut next = |first: usize| {
            for number in first..log.lines {
                let read = collector.recv(&mut piece).unwrap();
                assert_eq!(number_of(std::str::from_utf8(&piece[..read]).unwrap()), number);
            }
        };
        next(0);
        export.signal(libc::SIGTERM);
        assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.said());
        // On a machine that is too busy, it is long ago.
        if began.elapsed() > Duration::from_secs(3) {
            continue;
        }
        let kept = fs::read_to_string(log.path("cursor")).unwrap();
        assert!(kept.contains("-000000000000-"), "{kept}");
        let mut export = Process::spawn(command().args(log.arguments(&to)).arg("--no-wait"));
        next(0);
        assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.said());
        return;
    }
    panic!("this machine is too busy");
}

/// While the collector's name is asked for, a signal ends it.
#[test]
fn export_ends_while_a_name_is_looked_up() {
    let log = Log::new(10);
    let names = match UdpSocket::bind("127.64.64.53:53") {
        Ok(names) => names,
        Err(error) => cannot_run(&format!("a server of names on port 53 ({error}): root can")),
    };
    names.set_read_timeout(Some(LEISURE)).unwrap();
    // It never answers, and is asked for longer than this test waits.
    let config = "nameserver 127.64.64.53\noptions timeout:30 attempts:5\n";
    fs::write(log.path("resolv.conf"), config).unwrap();
    fs::write(log.path("nsswitch.conf"), "hosts: dns\n").unwrap();
    let [resolv, nsswitch] = ["resolv.conf", "nsswitch.conf"].map(|name| log.text(name));
    let bind = format!(
        "mount --bind {resolv} /etc/resolv.conf && mount --bind {nsswitch} /etc/nsswitch.conf && exec \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &bind, "sh", env!("CARGO_BIN_EXE_nat64handoff")]);
    let mut command = without_variables(command);
    let mut export = Process::spawn(command.args(log.arguments("syslog+tcp://host.example:514")));
    let asked = names.recv(&mut [0; 512]);
    assert!(asked.is_ok(), "{asked:?} {}", export.said());
    export.signal(libc::SIGTERM);
    let ended = export.wait(PATIENCE);
    assert_eq!(ended.map(|status| status.code()), Some(Some(0)), "{}", export.said());
    assert!(fs::read_to_string(log.path("cursor")).unwrap().contains("-000000000000-"));
}
