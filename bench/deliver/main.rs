//! What it costs to deliver packets on the server's host: ours, and a forwarder with the same
//! offloads that does no protocol work: `cargo bench --bench deliver` (root).
//!
//! ```text
//!   client, NAT64 ── tunnel ── server, service
//! ```
//!
//! Both take turns at the same device, and the other end of the tunnel is the same for both. CPU is
//! that of the process that delivers, all its threads, from /proc/PID/task/*/schedstat; what the
//! kernel does for it in other names is in neither. Then, or with `-- all` only: the CPU of the
//! whole machine, and beside it that of the same traffic between the two hosts without tunnel and
//! device. That is true where the machine does nothing else meanwhile.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod forwarder;
#[path = "../gateway/measured.rs"]
mod measured;
#[path = "../../ci/e2e/namespace.rs"]
mod namespace;
#[path = "../../ci/harness/skip.rs"]
mod skip;
#[path = "../gateway/traffic.rs"]
#[allow(dead_code, reason = "the gateway is sent datagrams, too")]
mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use forwarder::End;
use measured::{Process, cost_of_all, goal, ip6, print, rounds, until};
use namespace::Namespace;
use traffic::{FLOWS, Service, label};

/// How long one measurement sends.
const TIME: Duration = Duration::from_millis(700);
const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xcb00, 0x7105);
const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const CLIENT: &str = "2001:db8::17";
const PORT: u16 = 64064;
const CONTROL: u16 = 40000;
/// Counted by who sends, where segments arrived late that were sent once.
const REORDERED: [&str; 3] = ["TCPSACKReorder", "TCPRenoReorder", "TCPTSReorder"];
/// What is translated is 20 octets shorter than the tunnel's packets.
const MTU: u16 = 1398;
const TUNNEL_MTU: u16 = 1418;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, command, device] = &arguments[..] {
        let (server, nat64) = (SocketAddrV4::new(SERVICE, PORT), SocketAddrV4::new(NAT64, CONTROL));
        match command.as_str() {
            "server-end" => forwarder::run(End::Server, device, server, nat64),
            "nat64-end" => forwarder::run(End::Nat64, device, nat64, server),
            _ => {}
        }
    }
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 || !Path::new("/dev/net/tun").exists() {
        skip::cannot_run("network namespaces and a TUN device: run it as root");
    }
    let (near, far) = (Namespace::new(), Namespace::new());
    lay_out(&near, &far);
    let service = Service::start(&far);
    let _other_end = own_process(&near, "nat64-end", "tunnel");
    let to = (IpAddr::V6(SERVICE6), service.port).into();
    if arguments.iter().all(|argument| argument != "all") {
        measure_process(&near, &far, &service, to);
    }
    measure_all(&near, &far, &service, to);
}

/// What the process that delivers takes, beside one that knows nothing of the protocol.
fn measure_process(near: &Namespace, far: &Namespace, service: &Service, to: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let starts: [(&str, &dyn Fn() -> Process); 3] = [
        ("native", &|| server(far, folder.path(), "native")),
        ("translate", &|| server(far, folder.path(), "translate")),
        ("forwarder", &|| own_process(far, "server-end", "ho0")),
    ];
    println!(
        "TCP, CPU seconds of the process for a GB, median of five rounds (low-high), and to the forwarder's"
    );
    for (direction, flows) in FLOWS {
        let what = label(direction, flows);
        let rounds = rounds(|which| {
            // The device is the one's or the other's.
            let process = starts[which].1();
            until(starts[which].0, || traffic::reaches(near, to));
            process.cost(|| service.bulk(near, to, direction, flows, TIME)) * 1e9
        });
        print(&what, starts.map(|(name, _)| name), &rounds, 2, "s/GB");
        goal(&format!("native, TCP {what} / a forwarder"), 1.3, &rounds, 0, 2);
        goal(&format!("translate, TCP {what} / a forwarder"), 1.4, &rounds, 1, 2);
    }
    let both = [near, far];
    let sum = |file, name| both.map(|host| counter(host, file, name)).iter().sum::<u64>();
    let fragments = sum("snmp", "FragCreates");
    println!("goal | outer fragments at the computed MTU | 0 | {fragments}");
    // What fills a hole, and was not sent again, is no loss.
    let reordered: u64 = REORDERED.iter().map(|name| sum("netstat", name)).sum();
    println!("goal | segments of a flow out of order, the forwarder's too | 0 | {reordered}");
    let lost = sum("snmp", "RcvbufErrors") + dropped(far, "ho0") + dropped(near, "tunnel");
    println!("  packets that a receive queue of either end had no room for, all runs: {lost}");
}

/// What all processes together take, beside what they take without any of this; and what they take
/// where the protocol is not spoken, which is as near as a process can come.
fn measure_all(near: &Namespace, far: &Namespace, service: &Service, to: SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    println!(
        "TCP, CPU seconds of all processes and the kernel for a GB, likewise, and to plain veth's"
    );
    let plain = (IpAddr::V4(SERVICE), service.port).into();
    let bulk = |to, direction, flows| {
        until("the service", || traffic::reaches(near, to));
        cost_of_all(|| service.bulk(near, to, direction, flows, TIME)) * 1e9
    };
    for (direction, flows) in FLOWS {
        let what = label(direction, flows);
        let rounds = rounds(|which| {
            // The device is the one's or the other's.
            let (_process, to) = match which {
                0 => (Some(server(far, folder.path(), "native")), to),
                1 => (Some(own_process(far, "server-end", "ho0")), to),
                _ => (None, plain),
            };
            bulk(to, direction, flows)
        });
        print(&what, ["native", "forwarder", "veth"], &rounds, 2, "s/GB");
        goal(&format!("native, TCP {what}, all processes / plain veth"), 2.2, &rounds, 0, 2);
    }
}

/// How many packets the queue of a device had no room for.
fn dropped(host: &Namespace, device: &str) -> u64 {
    let text = host.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)).expect(device);
    line.split_ascii_whitespace().nth(12).unwrap().parse().unwrap()
}

/// A counter of the kernel in this namespace.
fn counter(host: &Namespace, file: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.inside(|| std::fs::read_to_string(path)).unwrap();
    let lines: Vec<Vec<_>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let mut pairs = lines.chunks(2).flat_map(|pair| pair[0].iter().zip(&pair[1]));
    let (_, count) = pairs.find(|(its, _)| **its == name).expect(name);
    count.parse().unwrap()
}

/// Two hosts, and a device on each. One is client and NAT64 at once.
fn lay_out(near: &Namespace, far: &Namespace) {
    near.ip(&format!(
        "link add out type veth peer name out netns {}\n\
         link set out up\n\
         address add {NAT64}/32 dev out\n\
         route add {SERVICE} dev out src {NAT64}\n\
         tuntap add dev tunnel mode tun multi_queue vnet_hdr\n\
         link set tunnel mtu {TUNNEL_MTU} addrgenmode none up\n\
         address add {CLIENT}/128 dev tunnel nodad\n\
         route add 64:ff9b::/96 dev tunnel src {CLIENT}",
        far.path()
    ));
    far.ip(&format!(
        "link set out up\n\
         address add {SERVICE}/32 dev out\n\
         route add {NAT64} dev out src {SERVICE}\n\
         tuntap add dev ho0 mode tun multi_queue vnet_hdr\n\
         link set ho0 mtu {MTU} addrgenmode none up\n\
         address add {SERVICE6}/128 dev ho0 nodad preferred_lft 0 noprefixroute\n\
         route add 100.64.0.0/12 dev ho0 src {SERVICE}"
    ));
    ip6(far, "route add default dev ho0 table 6464");
    ip6(far, &format!("rule add from {SERVICE6} iif lo lookup 6464 priority 6464"));
}

fn own_process(host: &Namespace, end: &str, device: &str) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([end, device]);
    Process::start(host, end, &mut command)
}

fn server(host: &Namespace, folder: &Path, deliver: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.args(["serve", "--listen", &SERVICE.to_string(), "--reactors", "1"]);
    command.args(["--deliver", deliver, "--log"]).arg(folder.join("log"));
    command.arg("--state").arg(folder.join("state"));
    Process::start(host, deliver, &mut command)
}
