//! PROTOCOL.md section 11, DELIVERY.md: each kind of program on a host that delivers, and what else
//! the host has on the way.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::native::{delivering, recipe};
use crate::process::{PATIENCE, Process, run};
use crate::programs::{Gateway, Nginx, Server, curl};

/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_secs(2);

/// Makes the device, on a host where that was `prepared`, and a server with these options that a
/// NAT64 knows.
pub fn served(field: &Field, prepared: &str, options: &[&str]) -> (Server, Gateway) {
    shell(field, prepared);
    // Where the host has IPv6, the last is for nothing.
    shell(field, &recipe()[..5].join("\n").replace("nat64ho", "root"));
    let server = Server::start_with(field, options);
    let mut gateway = Gateway::start(&field.sites[0]);
    let first = field.server.inside(|| TcpListener::bind((SERVICE, 9999)).unwrap());
    let to = SocketAddrV6::new(SERVICE6, 9999, 0, 0);
    let reached = field.client().inside(|| TcpStream::connect_timeout(&to.into(), PATIENCE));
    reached.expect("a first connection, by IPv4");
    drop(first);
    gateway.wait_for("is known");
    (server, gateway)
}

pub fn shell(field: &Field, lines: &str) {
    let output = run(&field.server, "sh", &["-ec", lines]);
    assert!(output.status.success(), "{}\n{lines}", String::from_utf8_lossy(&output.stderr));
}

fn client_of(site: &Site) -> IpAddr {
    IpAddr::V6(site.address)
}

/// nginx at these sockets of port 80 logs its client by this address.
fn nginx_sees_the_client(listen: &[&str]) {
    let field = Field::new();
    let (mut server, _gateway) = served(&field, "true", &["--deliver", "native"]);
    let nginx = Nginx::start_at(&field, listen);
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    assert_eq!(nginx.accesses(1)[0].address, client_of(&field.sites[0]), "{listen:?}");
    server.stop();
}

#[test]
fn section_11_nginx_at_ipv6_alone() {
    nginx_sees_the_client(&["203.0.113.5:80", "[::]:80 ipv6only=on"]);
}

#[test]
fn section_11_nginx_at_ipv6_and_ipv4_in_one() {
    nginx_sees_the_client(&["[::]:80 ipv6only=off"]);
}

#[test]
fn section_11_nginx_at_the_services_address() {
    nginx_sees_the_client(&["203.0.113.5:80", "[64:ff9b::203.0.113.5]:80"]);
}

#[test]
fn section_11_a_program_of_ipv4_alone_wants_its_port_in_the_cache() {
    let field = Field::new();
    let to = SocketAddr::from((SERVICE6, 80));
    let connects = || field.client().inside(|| TcpStream::connect_timeout(&to, PATIENCE));
    let (mut server, mut gateway) = served(&field, "true", &["--deliver", "native"]);
    let nginx = Nginx::start(&field);
    let refused = connects().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    gateway.stop();
    server.stop();
    let cache = ["--deliver", "native", "--deliver-port", "80=cache"];
    let mut server = Server::start_with(&field, &cache);
    let _gateway = Gateway::start(&field.sites[0]);
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    assert_eq!(nginx.accesses(1)[0].address, IpAddr::V4(field.sites[0].pool));
    server.stop();
}

/// Asks a UDP program at this address of the service's host, which answers as `recvfrom` and
/// `sendto` do. Returns whom it saw, and whether the answer came.
fn udp(field: &Field, at: Ipv6Addr) -> (IpAddr, bool) {
    let service = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    let program = field.server.inside(|| UdpSocket::bind((at, 53)).unwrap());
    let client = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    program.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 64];
    let (mut seen, mut answered) = (None, false);
    // A datagram may be lost on a machine with much to do.
    for _ in 0..10 {
        client.send_to(b"question", service).unwrap();
        let (length, from) = program.recv_from(&mut buffer).unwrap();
        seen = Some(from.ip());
        // Refused where there is no route.
        let _ = program.send_to(&buffer[..length], from);
        answered = client.recv_from(&mut buffer).is_ok_and(|(_, from)| from == service.into());
        if answered || at.is_unspecified() {
            break;
        }
    }
    (seen.unwrap(), answered)
}

/// On a host that has other ways of IPv6 than those by its NAT64s.
pub const IPV6_OF_ITS_OWN: &str = "ip link add wan type veth peer name peer && ip link set wan up && ip link set peer up && \
     ip -6 addr add 2001:db8:77::5/64 dev wan nodad && ip -6 route add default via 2001:db8:77::1 dev wan";

#[test]
fn section_11_udp_that_chooses_no_source() {
    // With IPv6 of its own, the host answers with another address, and elsewhere.
    let field = Field::new();
    let (mut server, _gateway) = served(&field, IPV6_OF_ITS_OWN, &["--deliver", "native"]);
    let client = client_of(&field.sites[0]);
    assert_eq!(udp(&field, Ipv6Addr::UNSPECIFIED), (client, false));
    assert_eq!(udp(&field, SERVICE6), (client, true));
    server.stop();

    // With an address that leads nowhere, as of a bridge of containers, the answer has no way,
    // until there is the last route of the recipe.
    let field = Field::new();
    let local = "ip -6 addr add fd00:77::5/128 dev lo nodad";
    let (mut server, _gateway) = served(&field, local, &["--deliver", "native"]);
    assert_eq!(udp(&field, Ipv6Addr::UNSPECIFIED), (client, false));
    assert_eq!(udp(&field, SERVICE6), (client, true));
    shell(&field, recipe()[5]);
    let mut tries = 0..10;
    while udp(&field, Ipv6Addr::UNSPECIFIED) != (client, true) {
        tries.next().expect("it is answered with the route of metric 9999");
    }
    server.stop();
}

#[test]
fn section_11_ipv6_that_is_off_is_on_at_the_device() {
    let field = Field::new();
    shell(&field, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let on = "sysctl -qw net.ipv6.conf.ho0.disable_ipv6=0";
    let lines: Vec<_> = [&recipe()[..2], &[on], &recipe()[2..]].concat();
    shell(&field, &lines.join("\n").replace("nat64ho", "root"));
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let mut gateway = Gateway::start(&field.sites[0]);
    curl(&field.sites[0], "hello").unwrap();
    gateway.wait_for("is known");
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    assert_eq!(nginx.accesses(2)[1].address, client_of(&field.sites[0]));
    server.stop();
}

/// The lines of DELIVERY.md for ports that containers publish.
fn marks() -> String {
    let page = include_str!("../../src/DELIVERY.md");
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    let lines: Vec<_> =
        lines.filter(|line| line.starts_with("nft ") || line.contains("fwmark")).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    lines.join("\n")
}

#[test]
fn section_11_a_port_that_a_container_publishes_wants_marks() {
    let field = Field::new();
    let (mut server, _gateway) = served(&field, "true", &["--deliver", "native"]);
    // What a runtime of containers makes: a bridge's end in another namespace, and DNAT to it.
    let container = crate::namespace::Namespace::new();
    field.server.ip(&format!(
        "link add pod type veth peer name eth0 netns {}\nlink set pod up\n\
         addr add fd00:77::1/64 dev pod nodad",
        container.path()
    ));
    container.ip(
        "link set eth0 up\naddr add fd00:77::2/64 dev eth0 nodad\nroute add default via fd00:77::1",
    );
    shell(
        &field,
        "nft add table ip6 nat\n\
         nft add chain ip6 nat in '{ type nat hook prerouting priority dstnat; }'\n\
         nft add rule ip6 nat in ip6 daddr 64:ff9b::cb00:7105 tcp dport 8080 dnat to '[fd00:77::2]:80'",
    );
    let listener = container.inside(|| TcpListener::bind("[::]:80").unwrap());
    let program = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        from.ip()
    });
    let to = SocketAddr::from((SERVICE6, 8080));
    let connect = |patience| field.client().inside(|| TcpStream::connect_timeout(&to, patience));
    assert_eq!(connect(SILENCE).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    shell(&field, &marks());
    let mut stream = connect(PATIENCE).unwrap();
    let mut said = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    assert_eq!(program.join().unwrap(), client_of(&field.sites[0]));
    server.stop();
}

#[test]
fn section_11_filters_of_paths_and_states_let_it_pass() {
    let field = Field::new();
    let (mut server, _gateway, nginx) = delivering(&field, &["--deliver", "native"]);
    shell(
        &field,
        "nft add table inet filter\n\
         nft add chain inet filter path '{ type filter hook prerouting priority raw + 10; policy accept; }'\n\
         nft add rule inet filter path meta nfproto ipv6 fib saddr . mark . iif oif missing drop\n\
         nft add chain inet filter in '{ type filter hook input priority filter; policy drop; }'\n\
         nft add rule inet filter in ct state established,related accept\n\
         nft add rule inet filter in iif lo accept\n\
         nft add rule inet filter in udp dport 64064 accept\n\
         nft add rule inet filter in tcp dport 80 ct state new accept",
    );
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    assert_eq!(nginx.accesses(2)[1].address, client_of(&field.sites[0]));
    server.stop();
}

/// Programs of UDP as they are: one that binds to the address, and one that answers from the
/// address that it was asked at.
#[test]
fn section_11_unbound_answers_from_where_it_was_asked() {
    let field = Field::new();
    let (mut server, _gateway) = served(&field, IPV6_OF_ITS_OWN, &["--deliver", "native"]);
    let ask = |wanted: &str| {
        let at = format!("@{SERVICE6}");
        let ask = ["+short", "+tries=20", "+timeout=1", &at, wanted];
        let output = run(field.client(), "dig", &ask);
        String::from_utf8(output.stdout).unwrap()
    };
    for (interface, automatic) in [("64:ff9b::203.0.113.5", "no"), ("::0", "yes")] {
        let folder = field.path("unbound");
        let _ = std::fs::create_dir(&folder);
        let file = folder.join("unbound.conf");
        let text = format!(
            "server:\n interface: {interface}\n interface-automatic: {automatic}\n do-daemonize: no\n \
             username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n access-control: ::/0 allow\n \
             local-zone: \"example.\" static\n local-data: \"www.example. A 192.0.2.80\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut unbound =
            Process::start(&field.server, "unbound", &["-d", "-c", file.to_str().unwrap()]);
        unbound.wait_for("start of service");
        assert_eq!(ask("www.example."), "192.0.2.80\n", "{interface}");
        unbound.stop();
    }
    server.stop();
}
