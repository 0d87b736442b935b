//! `install --deliver`: the server gives this host its clients' own packets, through a device that
//! root made, and has no capability itself.

use crate::booted::{Booted, Said};
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::geneve::{self, Frame, Neighbor};
use crate::judge::nat64::Nat64;
use crate::judge::packet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Packets that are translated go to where NAT64s send their requests.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 64064);
/// What the service at `[::]` has as its port.
const PORT: u16 = 5353;
/// At most, as systemd-analyze counts, with a device.
const EXPOSURE_MAX: f64 = 1.9;

/// A machine has, from its boot on, a file for TUN devices, and an address: 203.0.113.5.
const MACHINE: &str = "[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth0 \
addrgenmode none up; ip link set eth1 addrgenmode none up; ip addr add 203.0.113.5/24 dev eth0; ip route add default via 203.0.113.1; mkdir -p /dev/net; test -e \
/dev/net/tun || mknod -m 666 /dev/net/tun c 10 200'
[Install]
WantedBy=sysinit.target
";

/// What udev does with that file.
const UDEV: &str = "chmod 666 /dev/net/tun";

/// Answers each question with the address that it came from, as one that knows no IPv6 source.
const SERVICE: &str = "import socket
service = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
service.bind((\"::\", 5353))
while True:
    peer = service.recvfrom(100)[1]
    service.sendto(peer[0].encode(), peer)";

/// A machine that could deliver.
fn machine() -> Booted {
    let booted = Booted::with(&["--capability=CAP_NET_ADMIN"]);
    booted.done(&format!(
        "cat >/etc/systemd/system/machine.service <<'X'\n{MACHINE}X\nsystemctl daemon-reload && systemctl --quiet enable \
         --now machine"
    ));
    booted
}

/// A client, and what such a service sees of it, when its NAT64 tunnels its packet.
fn seen(booted: &Booted) -> (String, String) {
    booted.done(&format!(
        "systemctl is-active --quiet service || systemd-run --quiet --unit=service python3 -c '{SERVICE}'; until ss -lnu \
         | grep -q ':{PORT} '; do sleep 0.05; done"
    ));
    // A client of one NAT64 is not taken for that of another one at once.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (network, client) = (booted.network(), Client::nth(NEXT.fetch_add(1, Ordering::Relaxed)));
    let ask = move || {
        network.enter();
        let nat64 = Nat64::known(SERVER);
        let (from, to) = ((client.address, client.port), (client.service(), PORT));
        let answer =
            nat64.delivered(&client.authenticator(), &packet::udp6(from, to, b"who am I?"));
        assert_eq!(packet::addresses6(&answer), (client.service(), client.address));
        String::from_utf8(answer[48..].to_vec()).unwrap()
    };
    let said = || booted.run("nat64handoff status; nat64handoff check-config --host").text;
    let seen = thread::spawn(ask).join().unwrap_or_else(|_| panic!("no answer: {}", said()));
    (client.address.to_string(), seen)
}

/// What of this host's network leads packets anywhere. Its order is that in which devices came up.
fn network(booted: &Booted) -> Vec<String> {
    let all = booted.done(
        "ip -o link | cut -d: -f2; ip route; ip -6 rule; ip -6 route show table all; ip -6 -o addr",
    );
    let mut lines: Vec<_> = all.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

fn delivers(booted: &Booted) {
    let (client, seen) = seen(booted);
    assert_eq!(client, seen);
    let owner = booted.done("id -un $(cat /sys/class/net/ho0/owner)");
    assert_eq!(owner, "nat64ho\n");
    assert!(booted.server_has_no_capability());
}

fn installs(booted: &Booted, arguments: &str) -> Said {
    let said = booted.install(&format!("--no-update {arguments}"));
    let journal = || booted.run("journalctl --no-pager -n 50").text;
    assert_eq!(said.code, 0, "{}\n{}", said.text, journal());
    said
}

#[test]
fn install_delivers_packets_and_leaves_no_trace_of_it() {
    let mut booted = machine();
    let (before, files) = (network(&booted), booted.files());
    let wrong = booted.install("--no-update --deliver yes");
    assert!(wrong.code == 1 && wrong.text.contains("native, translate or auto"), "{}", wrong.text);
    let dry = installs(&booted, "--dry-run --deliver native");
    assert_eq!((network(&booted), booted.files()), (before.clone(), files.clone()));
    assert_eq!(installs(&booted, "--deliver native").steps(), dry.steps());
    assert!(booted.done("cat /etc/nat64handoff.toml").contains("\ndeliver = \"native\"\n"));
    delivers(&booted);
    let exposure = booted.exposure();
    assert!(exposure <= EXPOSURE_MAX, "{exposure}");

    booted.done("systemctl restart nat64handoff");
    delivers(&booted);
    // Again: what was changed by hand is repaired, and the same process serves.
    let process = booted.server();
    let after = network(&booted);
    booted.done(
        "ip -6 rule del from 64:ff9b::203.0.113.5 lookup 6464; ip link set ho0 mtu 1500; ip -6 route flush table 6464",
    );
    let again = installs(&booted, "").text;
    assert!(again.contains("runs already"), "{again}");
    assert_eq!((booted.server(), network(&booted)), (process, after.clone()));
    assert_eq!(booted.done("cat /sys/class/net/ho0/mtu"), "1418\n");
    delivers(&booted);
    looks_at_the_firewall(&booted);
    // A device that is made anew is opened anew.
    booted.done("systemctl restart nat64handoff-deliver");
    assert!(wait_until(PATIENCE, || booted.server_now().is_some_and(|now| now != process)));
    delivers(&booted);
    booted.done("systemctl stop nat64handoff nat64handoff-deliver");
    assert_eq!(network(&booted), before);
    booted.done("systemctl start nat64handoff");
    delivers(&booted);
    booted.reboot();
    booted.done("systemctl is-active --wait nat64handoff");
    delivers(&booted);
    assert_eq!(network(&booted), after);

    let off = installs(&booted, "--deliver cache").text;
    assert!(!off.contains("runs already"), "{off}");
    assert_eq!(network(&booted), before);
    assert_eq!(booted.property("PrivateDevices"), "yes");
    assert_eq!(booted.run("systemctl cat nat64handoff-deliver").code, 1);
    installs(
        &booted,
        "--deliver auto --deliver-service 64:ff9b::203.0.113.5 --deliver-service 2001:db8:64::203.0.113.5",
    );
    assert!(booted.done("ip -6 -o addr show dev ho0").contains("2001:db8:64::cb00:7105/128"));
    // What only the policy of a port asks for.
    booted.done(
        "sed -i 's/^deliver = .*/deliver-port = [\\n  \"5353=native\"\\n]/' /etc/nat64handoff.toml",
    );
    installs(&booted, "");
    booted.done("systemctl restart nat64handoff");
    delivers(&booted);
    booted.done("sed -i '/^deliver-port/,/]/d' /etc/nat64handoff.toml");
    installs(&booted, "--deliver translate");
    assert!(booted.done("ip route").contains("100.64.0.0/12 dev ho0 scope link src 203.0.113.5"));
    let (_, seen) = seen(&booted);
    assert!(seen.starts_with("::ffff:100."), "{seen}");
    assert_eq!(booted.done("cat /sys/class/net/ho0/mtu"), "1398\n");
    let purged = booted.install("--purge");
    assert_eq!(purged.code, 0, "{}", purged.text);
    assert_eq!((network(&booted), booted.files()), (before, files));
}

/// Asks with a datagram from port 6081 to that of the server, until there is an answer.
const GATEWAY: &str = "import socket, sys
gateway = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
gateway.bind((\"203.0.113.1\", 6081))
gateway.settimeout(0.25)
for _ in range(240):
    try:
        gateway.sendto(bytes.fromhex(sys.argv[1]), (\"203.0.113.5\", 6081))
        sys.exit(print(gateway.recv(2000).hex()))
    except OSError:
        pass";

/// A gateway's offer of a tunnel is answered, with the server's address there.
fn takes_tunnels(booted: &Booted) -> [u8; 6] {
    let service = Client::nth(0).service();
    let offer = geneve::offer(service, [2, 0x64, 1, 2, 3, 4]).write();
    let hex: String = offer.iter().map(|octet| format!("{octet:02x}")).collect();
    booted.done(
        "test -e /run/netns/gateway || { ip netns add gateway; ip link set eth1 netns gateway; ip -n gateway addr add \
         203.0.113.1/24 dev eth1; ip -n gateway link set eth1 up; }",
    );
    let answer = booted.done(&format!(
        "nsenter --net=/run/netns/gateway python3 -c '{GATEWAY}' {hex} | grep . || {{ nat64handoff status; exit 1; }}"
    ));
    let octets = answer.trim().as_bytes().chunks(2);
    let octets = octets.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap());
    let frame = Frame::read(&octets.collect::<Vec<_>>()).expect("a frame");
    let told = Neighbor::read(&frame.packet).expect("an advertisement");
    assert_eq!((told.kind, told.target), (136, service));
    told.link.expect("an address")
}

#[test]
fn install_takes_tunnels_of_geneve() {
    let booted = machine();
    let refused = booted.install("--no-update --geneve on");
    assert!(refused.code == 1 && refused.text.contains("--deliver native"), "{}", refused.text);
    installs(&booted, "--deliver native --geneve on");
    let link = takes_tunnels(&booted);
    booted.done("systemctl restart nat64handoff");
    assert_eq!(takes_tunnels(&booted), link, "the same after a restart");
    assert!(booted.server_has_no_capability());
    // As the manual has it, the port is open while the service is stopped, too.
    booted.done(
        "cp /root/checkout/src/programs/service/nat64handoff.socket /etc/systemd/system/ && mkdir \
         /etc/systemd/system/nat64handoff.socket.d && printf \
         '[Socket]\\nListenDatagram=0.0.0.0:6081\\nListenDatagram=0.0.0.0:6081\\n' \
         >/etc/systemd/system/nat64handoff.socket.d/geneve.conf && systemctl daemon-reload && systemctl stop nat64handoff \
         && systemctl start nat64handoff.socket && systemctl start nat64handoff",
    );
    assert_eq!(takes_tunnels(&booted), link, "at a port that systemd holds");
    booted.done("systemctl stop nat64handoff.service && ss -Hlnu sport = 6081 | grep .");
    booted.done("systemctl start nat64handoff");
    takes_tunnels(&booted);
    booted.done("systemctl stop nat64handoff nat64handoff.socket");
    installs(&booted, "--geneve off");
    assert_eq!(booted.run("ss -Hlnu sport = 6081 | grep .").code, 1);
}

/// Where a firewall keeps out what comes by the device, the line that lets it in is printed.
fn looks_at_the_firewall(booted: &Booted) {
    const GOOD: &str = "nothing here seems to keep out what comes by ho0";
    if booted.run("command -v nft").code != 0 {
        let said = installs(booted, "").text;
        return assert!(said.contains("not looked at, as there is no program nft"), "{said}");
    }
    booted.done(
        "nft add table inet f; nft 'add chain inet f in { type filter hook input priority 0; }'; \
         nft add rule inet f in iifname eth0 tcp dport 80 accept; nft add rule inet f in tcp dport 80 drop",
    );
    let advice = "nft insert rule inet f in iifname ho0 tcp dport 80 accept";
    let said = installs(booted, "").text;
    assert!(said.contains(&format!("to TCP 80; this lets it in:  {advice}\n")), "{said}");
    booted.done(advice);
    let said = installs(booted, "").text;
    assert!(said.contains(GOOD), "{said}");
    booted.done("nft delete table inet f");
}

/// Where it is not known by which address clients come, nothing is made.
#[test]
fn install_says_where_nothing_can_be_delivered() {
    let booted = Booted::with(&["--capability=CAP_NET_ADMIN"]);
    let before = network(&booted);
    let refused = booted.install("--no-update --deliver native");
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("name the service's by --deliver-service"), "{}", refused.text);
    assert!(refused.text.contains("./install --deliver cache"), "{}", refused.text);
    assert_eq!(network(&booted), before);
    installs(&booted, "--deliver cache");
    assert_eq!(booted.run("systemctl cat nat64handoff-deliver").code, 1);
}

/// By files of systemd-networkd, and without the unit that makes it otherwise.
#[test]
fn device_can_be_networkds() {
    let booted = machine();
    installs(&booted, "");
    booted.done(UDEV);
    booted.done(
        "systemctl start systemd-networkd && echo 'deliver = \"native\"' >>/etc/nat64handoff.toml",
    );
    let networkd = "nat64handoff check-config --host --networkd";
    booted.done(&format!("{networkd} >commands && sh -e commands"));
    let looks = || {
        booted.run("/home/nat64ho/current/nat64handoff check-config --host --config /etc/nat64handoff.toml")
    };
    assert!(wait_until(PATIENCE, || looks().code == 0), "{}", looks().text);
    booted.done(
        "mkdir -p /etc/systemd/system/nat64handoff.service.d && printf '[Service]\\nPrivateDevices=no\\nDeviceAllow=\
         /dev/net/tun rw\\n' >/etc/systemd/system/nat64handoff.service.d/deliver.conf && systemctl daemon-reload && \
         systemctl restart nat64handoff",
    );
    delivers(&booted);
    booted.done("systemctl restart systemd-networkd");
    assert!(wait_until(PATIENCE, || looks().code == 0), "{}", looks().text);
    delivers(&booted);
}
