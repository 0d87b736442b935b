use std::thread;

use super::*;
use crate::handoff::entry::MappedPort;

const NO_TIME: Duration = Duration::ZERO;

#[test]
fn the_tail_has_whole_lines() {
    let tail = LogTail::new();
    let mut log = tail.clone();
    log.write_all(b"one\ntw").unwrap();
    assert_eq!(tail.next(NO_TIME).as_deref(), Some("one"));
    assert_eq!(tail.next(NO_TIME), None);
    let writer = thread::spawn(move || log.write_all(b"o\n\n"));
    assert_eq!(tail.next(LINE_TIMEOUT).as_deref(), Some("two"));
    assert_eq!(tail.next(LINE_TIMEOUT).as_deref(), Some(""));
    writer.join().unwrap().unwrap();
}

#[test]
fn section_8_lines_are_read_strictly() {
    let line = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186";
    let text = tail::event_of(line).unwrap();
    let (address, port) = tail::client_of(text).unwrap();
    let entry = Entry {
        port: MappedPort(3719),
        client: Client { prefix: WELL_KNOWN_PREFIX, address, port },
    };
    assert_eq!(event("Created", Ipv4Addr::new(192, 0, 2, 7), entry), text);
    for bad in [
        "",
        "2019-03-18T10:06:28.491727 Created",
        "2019-03-18 10:06:28.49172 Created",
        "2019-03-18 10:06:28.491727Created",
        "2019-03-18 10:06:2x.491727 Created",
        "2019-03-18 10:06:28.4917é7 Created",
    ] {
        assert_eq!(tail::event_of(bad), None, "{bad}");
    }
    assert_eq!(tail::client_of("Initialized 192.0.2.7"), None);
}

#[test]
fn numbers_are_grouped() {
    let numbers = [0, 999, 1000, 64_508, 1_234_567].map(grouped);
    assert_eq!(numbers, ["0", "999", "1,000", "64,508", "1,234,567"]);
}

#[test]
fn the_crowd_is_of_different_clients_none_in_a_heavy_subnet() {
    let crowd: BTreeSet<Client> = (0..=CAPACITY).map(crowd).collect();
    assert_eq!(crowd.len(), CAPACITY + 1);
    let subnets: BTreeSet<_> = crowd.iter().map(Client::subnet).collect();
    assert!(CAPACITY / subnets.len() < CAPACITY / 8);
}

#[test]
fn echo_replies_are_checked() {
    let (from, to) = (
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 1),
    );
    let request = ipv6_echo_request(from, to, 1, 2, b"data");
    let mut reply = ipv6_echo_request(to, from, 1, 2, b"data");
    assert!(!is_echo_reply(&request, &reply));
    reply[40] = 129;
    reply[42..44].fill(0);
    let sum = checksum::icmpv6(to, from, &reply[40..]);
    reply[42..44].copy_from_slice(&sum.to_be_bytes());
    assert!(is_echo_reply(&request, &reply));
    for at in 8..reply.len() {
        reply[at] ^= 1;
        assert!(!is_echo_reply(&request, &reply), "{at}");
        reply[at] ^= 1;
    }
    assert!(!is_echo_reply(&request, &reply[..47]));
    assert!(!is_echo_reply(&request, &[]));
}

/// A log that names another NAT64 than the one that it is about.
struct Mistaken(LogTail);

impl Write for Mistaken {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(octets).replace("127.0.1.1", "127.0.1.3");
        self.0.write_all(text.as_bytes())?;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The demo against a server of its own.
fn play(destination: Box<dyn Write + Send>, log: &LogTail) -> (Result<(), Failure>, String) {
    use crate::disk::eventlog::Destination;
    use crate::disk::storage::SyncPolicy;
    use crate::kernel::backend::Io;
    use crate::programs::options::{Environment, ServeConfig, ServeOptions};
    use crate::programs::serve::Serving;

    let state = tempfile::tempdir().unwrap();
    let config = ServeConfig {
        listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)],
        state: state.path().join("state"),
        reactors: 1,
        io: Some(Io::Uring),
        nat64s_max: 16,
        entries_max: 1 << 20,
        sync: SyncPolicy::None,
        ..ServeOptions::default().resolve(&Environment::default()).unwrap()
    };
    let log_to = Destination::Writer(destination);
    let serving = Serving::start_with_log(config, log_to, || {}).unwrap();
    let mut out = Vec::new();
    let result = run(serving.listen()[0], log, &mut out);
    serving.stop().unwrap();
    (result, String::from_utf8(out).unwrap())
}

/// The whole demo, where port 9 can be had and io_uring is allowed. One test, since there is one
/// port 9.
#[test]
fn all_scenes() {
    if !can_bind_validation_port().unwrap_or(false) || crate::kernel::ring::probe().is_err() {
        crate::skip::cannot_run("UDP port 9 of 127.0.1.1, and io_uring: run it as root");
    }
    // The canary: a demo that cannot fail shows nothing.
    let log = LogTail::new();
    let (result, out) = play(Box::new(Mistaken(log.clone())), &log);
    assert_eq!(
        result.expect_err(&out).to_string(),
        "the event log says `Initialized 127.0.1.3` where `Initialized 127.0.1.1` was due"
    );

    let log = LogTail::new();
    let (result, out) = play(Box::new(log.clone()), &log);
    println!("{out}");
    result.unwrap();
    assert!(out.ends_with("\ndemo: all went as it must\n"));
    // What it is good for: the port's last line names its client.
    let (_, end) = out.split_once("An abuse report about ").unwrap();
    let (port, end) = end.split_once("? ").unwrap();
    let line = end.lines().nth(1).unwrap();
    assert!(line.contains(&format!("Created {port} [2001:db8:4:3fc::3f]:443")), "{end}");
    assert!(end.contains("from then on 2001:db8:4:3fc::3f, and 2001:db8:4::1 before"), "{end}");
    assert!(end.contains("./install"), "{end}");
}
