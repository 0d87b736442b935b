//! PROTOCOL.md section 11. A link that is slower than the programs whose answers go by it: what it
//! does not take waits, and nothing is lost.

use std::thread;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::native::make_device;
use crate::native_programs::shell;
use crate::process::run;
use crate::programs::{Gateway, Nginx, Server, curl, url};

/// Downloads at a time, by which the send queue of 8 MiB fills.
const DOWNLOADS: usize = 8;
const OCTETS: usize = 8_000_000;

/// The value of a counter.
fn counted(field: &Field, name: &str) -> u64 {
    let socket = field.path("state/admin.sock");
    let words = ["--silent", "--unix-socket", socket.to_str().unwrap(), "http://localhost/metrics"];
    let metrics = run(&field.server, "curl", &words).stdout;
    let metrics = String::from_utf8(metrics).unwrap();
    let start = format!("nat64handoff_{name}_total ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {name}: {metrics}")).parse().unwrap()
}

fn downloads_at_a_slow_link(io: &str) {
    let field = Field::of_two();
    make_device(&field);
    let options = ["--io", io, "--deliver-port", "80=native", "--reactors", "1"];
    let mut server = Server::start_with(&field, &options);
    // Windows that let it all be on its way at once, and senders that go on until they lose.
    let windows = "sysctl -qw net.ipv4.tcp_rmem='4096 4194304 16777216' \
                   net.ipv4.tcp_wmem='4096 4194304 16777216' net.ipv4.tcp_congestion_control=reno";
    shell(&field, windows);
    assert!(run(field.client(), "sh", &["-ec", windows]).status.success());
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let file = octets(OCTETS);
    nginx.put("large", &file);
    let mut gateways: Vec<_> = field.sites.iter().map(Gateway::start).collect();
    for (site, gateway) in field.sites.iter().zip(&mut gateways) {
        curl(site, "hello").unwrap();
        gateway.wait_for("is known");
    }
    // A link of 40 Mbit/s that drops nothing.
    shell(&field, "tc qdisc add dev nat64-0 root tbf rate 40mbit burst 64kb limit 64mb");
    let (url, service) = (url("large"), SERVICE6.to_string());
    thread::scope(|scope| {
        let download = || {
            let words = ["-6", "--silent", "--fail", "--max-time", "300", &url];
            run(field.client(), "curl", &words)
        };
        let downloads: Vec<_> = (0..DOWNLOADS).map(|_| scope.spawn(download)).collect();
        // Requests of others are answered meanwhile.
        let ping = ["-6", "-c", "40", "-i", "0.2", "-W", "30", &service];
        let pings = run(&field.sites[1].client, "ping", &ping);
        let pings = String::from_utf8_lossy(&pings.stdout).into_owned();
        for download in downloads {
            let output = download.join().unwrap();
            assert!(output.stdout == file, "{:?} {}", output.status, output.stdout.len());
        }
        assert!(pings.contains("40 received"), "{pings}");
    });
    assert_eq!(counted(&field, "send_errors"), 0);
    assert!(counted(&field, "answers_held") > 0, "the send queue was never full");
    server.stop();
}

#[test]
fn section_11_a_slow_link_holds_programs_back_with_io_uring() {
    downloads_at_a_slow_link("uring");
}

#[test]
fn section_11_a_slow_link_holds_programs_back_without_io_uring() {
    downloads_at_a_slow_link("mmsg");
}
