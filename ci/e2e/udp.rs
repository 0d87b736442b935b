//! UDP and ping: datagrams of many lengths, fragments, a name server asked with dig.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nat64handoff::kernel::release::version;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::process::{run, wait_until};
use crate::programs::{Gateway, Server, known};

/// A UDP service: answers until it is dropped.
pub struct Service {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub fn start(
        field: &Field,
        port: u16,
        answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Service {
        let socket = field.server.inside(|| UdpSocket::bind((SERVICE, port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut question = vec![0; 65_536];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..length]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Service { over, thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Sends back what it gets.
pub struct Echo {
    _service: Service,
}

impl Echo {
    pub const PORT: u16 = 7;

    pub fn start(field: &Field) -> Echo {
        let service = Service::start(field, Echo::PORT, |datagram| Some(datagram.to_vec()));
        Echo { _service: service }
    }

    /// Sends `text` to it, and checks that it comes back. The socket has a read timeout.
    pub fn ask(socket: &UdpSocket, text: &str) {
        socket.send_to(text.as_bytes(), (SERVICE6, Echo::PORT)).unwrap();
        let mut got = [0; 64];
        let length = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..length], text.as_bytes());
    }
}

/// What has room in one packet of 1500 octets on the client's side; one octet more is two
/// fragments.
const UNFRAGMENTED: usize = 1500 - 40 - 8;

fn check_datagrams(field: &Field) {
    let _echo = Echo::start(field);
    let site = &field.sites[0];
    let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
    socket.connect((SERVICE6, Echo::PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let lengths = [0, 1, 2, 3, 512, 1232, 1280 - 48, 1433, UNFRAGMENTED];
    let fragmented = [UNFRAGMENTED + 1, 1473, 2000, 4096, 9000, 60_000];
    for length in lengths.into_iter().chain(fragmented) {
        let datagram = octets(length);
        let mut got = vec![0; 65_536];
        // UDP may lose a datagram; whoever uses it asks again.
        let came = (0..5).find_map(|_| {
            socket.send(&datagram).unwrap();
            loop {
                match socket.recv(&mut got) {
                    Ok(count) if count == length => return Some(count),
                    Ok(_) => {} // A late answer to what was repeated.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(error) => panic!("{length} octets: {error}"),
                }
            }
        });
        assert_eq!(came, Some(length), "a datagram of {length} octets does not come back");
        assert!(got[..length] == datagram, "{length} octets come back as others");
    }
}

#[test]
fn datagrams_of_all_lengths_come_back_without_a_server() {
    let field = Field::new();
    let _gateway = Gateway::start(&field.sites[0]);
    check_datagrams(&field);
}

#[test]
fn datagrams_of_all_lengths_come_back_with_a_server() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = known(&field);
    check_datagrams(&field);
    server.stop();
}

/// Datagrams that are there at once go on as one, and come as they were, in order: of one flow, of
/// several in turns, and of lengths that change.
#[test]
fn datagrams_that_follow_each_other_come_in_order_and_as_they_were() {
    // All of them have room in the buffer of a socket, whoever runs when.
    const COUNT: usize = 20;
    let field = Field::new();
    let mut gateway = Gateway::start(&field.sites[0]);
    let echo = Echo::start(&field);
    let site = &field.sites[0];
    let sockets = [(), ()].map(|()| {
        let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
        socket.connect((SERVICE6, Echo::PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Echo::ask(&socket, "first");
        socket
    });
    let numbered = |number: usize, length: usize| {
        let mut datagram = octets(length);
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        datagram
    };
    let lengths: [fn(usize) -> usize; 4] = [
        |_| 64,
        |number| if number % 10 == 9 { 30 } else { 1000 },
        |number| 64 + number,
        |_| UNFRAGMENTED,
    ];
    let mut got = [0; 2048];
    for flows in [1, 2] {
        for length in lengths {
            let datagrams: Vec<_> =
                (0..COUNT).map(|number| numbered(number, length(number))).collect();
            gateway.while_stopped(|| {
                for datagram in &datagrams {
                    for socket in &sockets[..flows] {
                        socket.send(datagram).unwrap();
                    }
                }
            });
            for (place, datagram) in datagrams.iter().enumerate() {
                for socket in &sockets[..flows] {
                    let count = socket.recv(&mut got).unwrap();
                    assert!(&got[..count] == datagram, "{place} comes as another, {count} octets");
                }
            }
        }
    }
    drop(echo);
    gateway.stop();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if version(&release) >= Some((6, 2)) {
        // Three loads of one flow, but not the one in which each is longer than the last.
        assert!(gateway.counted("super_packets") >= 3, "none went on as one");
    }
}

/// Nothing of it is taken for granted: a host may have its loopback device down.
#[test]
fn a_host_whose_loopback_is_down_is_served() {
    let field = Field::new();
    let site = &field.sites[0];
    field.server.ip(&format!(
        "address del {SERVICE}/32 dev lo\n\
         address add {SERVICE}/32 dev nat64-0\n\
         route replace {} via 198.51.100.1 src {SERVICE}\n\
         link set lo down",
        site.pool
    ));
    let mut server = Server::start(&field);
    let _gateway = Gateway::start(site);
    let _echo = Echo::start(&field);
    let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let is_answered = || {
        // UDP may lose a datagram; whoever uses it asks again.
        socket.send_to(b"hello", (SERVICE6, Echo::PORT)).unwrap();
        socket.recv(&mut [0; 64]).is_ok()
    };
    wait_until("there is an answer", is_answered);
    server.wait_until_known(site.pool);
    wait_until("there is an answer", is_answered);
    let port = socket.local_addr().unwrap().port();
    wait_until("the entry is in the log", || {
        let created = server.entries(Kind::Created);
        created.iter().any(|&(_, _, address, of)| (address, of) == (site.address, port))
    });
    server.stop();
}

/// The answer to a question about `size-N.example`: N octets of text (TXT), or an address (A).
fn dns_answer(question: &[u8]) -> Option<Vec<u8>> {
    const TXT: u16 = 16;
    let (header, rest) = question.split_at_checked(12)?;
    let mut end = 0;
    while rest.get(end).is_some_and(|&length| length != 0) {
        end += 1 + usize::from(rest[end]);
    }
    let name = rest.get(..end + 1)?;
    let asked = rest.get(end + 1..end + 5)?;
    let kind = u16::from_be_bytes([asked[0], asked[1]]);
    let data = if kind == TXT {
        let label = rest.get(1..1 + usize::from(rest[0]))?;
        let count = std::str::from_utf8(label).ok()?.strip_prefix("size-")?.parse().ok()?;
        let text = "0123456789abcdef".repeat(count / 16 + 1);
        let strings = text.as_bytes()[..count].chunks(255);
        strings.flat_map(|part| [&[part.len() as u8], part].concat()).collect()
    } else {
        Ipv4Addr::new(203, 0, 113, 80).octets().to_vec()
    };
    // One question, one answer, authoritative.
    let mut answer = [&header[..2], &[0x84, 0x00, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
    answer.extend([name, asked, &[0xc0, 12], &asked[..2], &[0, 1, 0, 0, 0, 60]].concat());
    answer.extend((data.len() as u16).to_be_bytes());
    answer.extend(data);
    Some(answer)
}

#[test]
fn dig_asks_a_name_server() {
    let field = Field::new();
    let mut server = Server::start(&field);
    let gateway = Gateway::start(&field.sites[0]);
    let _names = Service::start(&field, 53, dns_answer);
    let dig = |arguments: &[&str]| {
        let at = format!("@{SERVICE6}");
        let all =
            ["-6", &at, "+short", "+tries=5", "+time=1", "+notcp", "+ignore", "+bufsize=8192"];
        let output = run(field.client(), "dig", &[&all, arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        // Comments tell of questions that were repeated.
        text.lines().filter(|line| !line.starts_with(";;")).collect::<String>()
    };
    assert_eq!(dig(&["www.example", "A"]), "203.0.113.80");
    server.wait_until_known(field.sites[0].pool);
    for reboot in [false, true] {
        if reboot {
            gateway.reboot();
        }
        assert_eq!(dig(&["www.example", "A"]), "203.0.113.80");
        for size in [100, 1200, 1400, 1480, 4000] {
            let text = dig(&[&format!("size-{size}.example"), "TXT"]);
            let got = text.bytes().filter(u8::is_ascii_hexdigit).count();
            assert_eq!(got, size, "{text}");
        }
    }
    server.stop();
}

/// Not longer ones: fragments of ICMP are not translated (RFC 7915 section 1.2).
fn ping(field: &Field) {
    let longest = UNFRAGMENTED.to_string();
    for (count, size) in [("3", "56"), ("2", "1400"), ("2", &*longest)] {
        let service = SERVICE6.to_string();
        let arguments = ["-6", "-n", "-c", count, "-i", "0.2", "-W", "5", "-s", size, &service];
        let output = run(field.client(), "ping", &arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        let all = format!("{count} packets transmitted, {count} received");
        assert!(output.status.success() && text.contains(&all), "size {size}: {text}");
    }
}

#[test]
fn ping_is_answered_without_a_server() {
    let field = Field::new();
    let _gateway = Gateway::start(&field.sites[0]);
    ping(&field);
}

#[test]
fn ping_is_answered_with_a_server() {
    let field = Field::new();
    let (mut server, gateway, _nginx) = known(&field);
    ping(&field);
    gateway.reboot();
    ping(&field);
    server.stop();
}
