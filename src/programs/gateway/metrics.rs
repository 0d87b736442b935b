//! What the gateway counts, in the text format of Prometheus, at `http://ADDR:PORT/metrics`.
//!
//! The text is made once a second by the thread that handles packets, and given out by another, one
//! connection after the other: whoever is slow waits for its time to be over, and no packet does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::kernel::clock::Clock;
use crate::nat64::engine::{Ignored, Nat64};
use crate::nat64::gateway::{Done, Dropped, Gateway};
use crate::nat64::translate::Refusal;
use crate::programs::options::VERSION;
use crate::programs::prometheus::{Metrics, TYPE};

/// The most octets of a request that are read.
const REQUEST_MAX: usize = 4096;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two attempts where no connection can be accepted.
const REST: Duration = Duration::from_millis(100);

/// Where the text is given out.
#[derive(Debug)]
pub struct Published {
    text: Arc<Mutex<String>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Published {
    /// Listens at this address, from now on.
    ///
    /// # Errors
    /// As the kernel says: the address is taken, or none of this host.
    pub fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let text = Arc::<Mutex<String>>::default();
        let published = Self { text: Arc::clone(&text), address };
        let run = move || {
            loop {
                match listener.accept() {
                    // Whoever asks is no concern of anybody else.
                    Ok((stream, _)) => drop(answer(stream, &text)),
                    Err(_) => thread::sleep(REST),
                }
            }
        };
        thread::Builder::new().name("metrics".to_owned()).spawn(run)?;
        Ok(published)
    }

    /// Gives out this from now on.
    pub fn publish(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// What the shell of a gateway counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShellCounts {
    /// Packets that the kernel did not take.
    pub unwritten: u64,
    /// Lines of the log that were given up.
    pub lines_lost: u64,
}

/// All that is told.
pub fn metrics(gateway: &Gateway, shell: ShellCounts) -> String {
    let mut metrics = Metrics::default();
    let all = &mut metrics;
    all.begin("gateway_info", "gauge", "The program that runs.");
    all.value("gateway_info", &[("version", VERSION)], 1);
    let entries = gateway.nat64s().map(Nat64::entries_held).sum::<usize>();
    all.gauge("gateway_entries", "Entries, towards all servers.", entries);
    let servers = gateway.nat64s().map(Nat64::servers).sum::<usize>();
    all.gauge("gateway_servers", "Hosts of which state is kept, by each address.", servers);
    let of_address = "gateway_address_entries";
    all.begin(of_address, "gauge", "Entries of a public address.");
    for nat64 in gateway.nat64s() {
        let address = nat64.address().to_string();
        all.value(of_address, &[("address", &address)], nat64.entries_held() as u64);
    }
    for &done in Done::ALL {
        let name = format!("gateway_{}_total", done.name());
        all.counter(&name, done.meaning(), gateway.done(done));
    }
    let help = "Packets that the kernel did not take.";
    all.counter("gateway_unwritten_total", help, shell.unwritten);
    let help = "Lines of the log that were given up, as it could not be written.";
    all.counter("gateway_log_lines_lost_total", help, shell.lines_lost);
    let drops = "gateway_drops_total";
    all.begin(drops, "counter", "Packets and control payloads that were dropped, by reason.");
    for &reason in Dropped::ALL {
        all.value(drops, &[("reason", reason.name())], gateway.dropped(reason));
    }
    for &reason in Refusal::ALL {
        all.value(drops, &[("reason", reason.name())], gateway.refused(reason));
    }
    for &reason in Ignored::ALL {
        all.value(drops, &[("reason", reason.name())], gateway.ignored(reason));
    }
    metrics.into_text()
}

fn answer(mut stream: TcpStream, text: &Mutex<String>) -> io::Result<()> {
    let clock = Clock::new();
    let left = || match PATIENCE.saturating_sub(clock.monotonic()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; REQUEST_MAX];
        stream.set_read_timeout(left()?)?;
        let length = stream.read(&mut buffer)?;
        request.extend_from_slice(&buffer[..length]);
        if length == 0 || request.len() > REQUEST_MAX {
            return Ok(());
        }
    }
    let (status, body) = match request.split(|&octet| octet == b' ').take(2).collect::<Vec<_>>()[..]
    {
        [b"GET", b"/metrics"] => {
            ("200 OK", text.lock().unwrap_or_else(PoisonError::into_inner).clone())
        }
        [b"GET", _] => ("404 Not Found", "there is /metrics here\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET is answered here\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = [head.as_bytes(), body.as_bytes()].concat();
    let mut rest = &answer[..];
    while !rest.is_empty() {
        stream.set_write_timeout(left()?)?;
        let written = stream.write(rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::nat64::engine::Nat64Config;
    use crate::nat64::gateway::GatewayConfig;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // It is closed without an answer where the request is none.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn metrics_are_given_out() {
        let nat64 = Nat64Config::new(Ipv4Addr::new(192, 0, 2, 7));
        let config = GatewayConfig::new(nat64, 1500);
        let mut gateway = Gateway::new(config, [3; 32]).unwrap();
        gateway.drop(Dropped::NotIp);
        let published = Published::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        published.publish(metrics(&gateway, ShellCounts { unwritten: 3, lines_lost: 0 }));
        let answer = ask(published.address, "GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        for line in [
            "nat64handoff_gateway_unwritten_total 3",
            "nat64handoff_gateway_drops_total{reason=\"not_ip\"} 1",
            "nat64handoff_gateway_drops_total{reason=\"client_share\"} 0",
            "nat64handoff_gateway_to_ipv4_total 0",
            "nat64handoff_gateway_entries 0",
        ] {
            assert!(body.lines().any(|each| each == line), "{line}");
        }
        // Each number once.
        let mut names: Vec<_> = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' '))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (request, status) in [("GET / HTTP/1.1", "404"), ("POST /metrics HTTP/1.1", "405")] {
            let answer = ask(published.address, &format!("{request}\r\n\r\n"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        // One that says nothing, and one that never ends, keep nobody away.
        drop(TcpStream::connect(published.address).unwrap());
        assert_eq!(ask(published.address, &"x".repeat(REQUEST_MAX + 1)), "");
        assert!(ask(published.address, "GET /metrics HTTP/1.0\r\n\r\n").contains("200 OK"));
    }
}
