//! What the gateway tells of itself: its log, and its metrics.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::field::{Field, SERVICE, Site};
use crate::process::wait_until;
use crate::programs::{Gateway, Nginx, curl};

const METRICS: &str = "127.0.0.1:8065";

/// The metrics, as Prometheus gets them.
fn metrics(site: &Site) -> String {
    let mut stream = site.nat64.inside(|| TcpStream::connect(METRICS).unwrap());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_log_and_the_metrics_of_a_gateway_tell_of_its_entries() {
    let field = Field::new();
    let (site, path) = (&field.sites[0], field.path("gateway.log"));
    let options = ["--log", path.to_str().unwrap(), "--metrics", METRICS];
    let mut gateway = Gateway::start_with(site, &options);
    let nginx = Nginx::start(&field);
    curl(site, "hello").unwrap();
    let port = nginx.accesses(1)[0].port;
    let log = || std::fs::read_to_string(&path).unwrap();
    let (pool, client) = (site.pool, site.address);
    let line = |what: &str| {
        log().lines().any(|line| {
            line.contains(&format!(" {what} {pool}:{port} [{client}]:"))
                && line.ends_with(&format!(" to {SERVICE} via 64:ff9b::/96"))
        })
    };
    wait_until("its entry is in the log", || line("Created"));
    assert!(!line("Deleted"));
    wait_until("its entry is counted", || {
        metrics(site).lines().any(|line| line == "nat64handoff_gateway_entries 1")
    });
    // What it forgets is gone, and so is all when it ends.
    gateway.reboot();
    wait_until("its end is in the log", || line("Deleted"));
    curl(site, "hello").unwrap();
    gateway.stop();
    let log = log();
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count(" Created "), count(" Deleted ")), (2, 2), "{log}");
}
