//! What it costs that the server is asked: a page at its events and status, a Prometheus that
//! scrapes it, a history that is made, and an exporter that follows the log; against a server
//! without any of it.

use std::io::{Read, Write, copy, sink};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::generator::{KNOWN, Mix, Sending};
use crate::nat64::{Kind, Peer};
use crate::parts::NO_END;
use crate::process::Process;
use crate::report::{Rounds, Sample, Target, goal};

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
/// As long as the page waits between two questions, and more.
const TIME: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_millis(250);
/// What the page asks, and how often.
const PAGE: [(&str, Duration); 2] =
    [("/status", Duration::from_secs(2)), ("/hour", Duration::from_secs(10))];
/// A Prometheus that scrapes more often than most do.
const SCRAPES: (&str, Duration) = ("/metrics", Duration::from_secs(5));

pub fn run(rounds: usize) -> Result<(), String> {
    let none = ["--admin", "off", "--history", "off"];
    let web = free_tcp_port().to_string();
    let all = ["--web", &format!("127.0.0.1:{web}")];
    let target = |name, options: &[&str]| {
        let process = Process::server(1, options);
        let mut target = Target::new(name, process, Peer::Server, 0..NAT64S, CLIENTS);
        target.load.fill();
        target
    };
    let mut targets =
        [target("asked", &all), target("not asked, again", &none), target("not asked", &none)];
    let watch = Watch::new(&targets[0].process, ([127, 0, 0, 1], web.parse().unwrap()).into())?;
    let few_new = [[Kind::Known; 19].as_slice(), &[Kind::New]].concat();
    let known = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.closed(KNOWN, Sending::Plain, NO_END, TIME)
    });
    println!("{NAT64S} NAT64s, known clients");
    known.print();
    let mix = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.closed(Mix(&few_new), Sending::Plain, NO_END, TIME)
    });
    println!("{NAT64S} NAT64s, 95 % known clients, 5 % new");
    mix.print();
    watch.end()?;
    goal("known client, all is asked: CPU / not asked", "1.02", known.ratio(0, Sample::micros));
    goal("5 % new clients, all is asked: CPU / not asked", "1.02", mix.ratio(0, Sample::micros));
    Ok(())
}

/// Those who ask, until this is dropped.
struct Watch {
    /// Where they end when it is gone.
    _running: Vec<mpsc::Sender<()>>,
    exporter: Child,
    answers: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
}

impl Watch {
    fn new(process: &Process, web: SocketAddr) -> Result<Self, String> {
        let (answers, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let failed = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for (path, every) in [PAGE[0], PAGE[1], SCRAPES] {
            let (alive, ended) = mpsc::channel::<()>();
            running.push(alive);
            let (answers, failed) = (Arc::clone(&answers), Arc::clone(&failed));
            thread::spawn(move || {
                while ended.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
                    match ask(web, path) {
                        Ok(_) => answers.fetch_add(1, Ordering::Relaxed),
                        Err(_) => u64::from(!failed.swap(true, Ordering::Relaxed)),
                    };
                }
            });
        }
        let mut events = open(web, "/events").map_err(|error| format!("{web}: {error}"))?;
        let count = Arc::clone(&heard);
        thread::spawn(move || {
            let mut octets = [0; 65_536];
            while let Ok(read @ 1..) = events.read(&mut octets) {
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        let exporter = Command::new(env!("CARGO_BIN_EXE_nat64handoff"))
            .args(["follow", "--json", "--log"])
            .arg(process.log())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("follow: {error}"))?;
        Ok(Self { _running: running, exporter, answers, heard, failed })
    }

    /// That they were there all the time.
    fn end(mut self) -> Result<(), String> {
        let follows = self.exporter.try_wait().expect("a child").is_none();
        let answers = self.answers.load(Ordering::Relaxed);
        let heard = self.heard.load(Ordering::Relaxed);
        println!("{answers} answers; {heard} octets of events at the page");
        if !follows || answers == 0 || heard == 0 || self.failed.load(Ordering::Relaxed) {
            return Err("not all of what was asked was answered".to_owned());
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.exporter.kill());
        drop(self.exporter.wait());
    }
}

fn open(web: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(web)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// The octets of an answer.
fn ask(web: SocketAddr, path: &str) -> std::io::Result<u64> {
    let mut stream = open(web, path)?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin)?;
    if begin != *b"HTTP/1.1 200" {
        return Err(std::io::Error::other(String::from_utf8_lossy(&begin).into_owned()));
    }
    copy(&mut stream, &mut sink())
}

fn free_tcp_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
