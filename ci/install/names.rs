//! `install --peer-names`: in a system that may load programs into the kernel, and in one that may
//! not.

use crate::booted::{Booted, Said};

/// Tells who the first connection is.
const SERVICE: &str = "import socket
listener = socket.create_server((\"::\", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
open(\"listens\", \"w\")
print(listener.accept()[1][0])";

/// As systemd has it on a machine: for root alone. A container has no place for it.
const BPFFS: &str = "mountpoint -q /sys/fs/bpf || { mount -o remount,rw /sys && mkdir -p /sys/fs/bpf && mount -t bpf -o \
                     mode=700 bpf /sys/fs/bpf; }";

#[test]
fn install_gives_peers_names_and_takes_them_back() {
    let booted = Booted::with(&["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf"]);
    booted.done(BPFFS);
    let before = booted.done("stat -c %a /sys/fs/bpf; ls -A /sys/fs/bpf");
    let files = booted.files();
    let Said { code, text } = booted.install("--no-update --peer-names ipv6");
    assert_eq!(code, 0, "{text}");
    let status = booted.done("nat64handoff peer-names status");
    assert!(status.contains("the server is there"), "{status}");
    assert!(booted.server_has_no_capability());

    let checked = booted.done("nat64handoff self-check");
    let port = checked.split(" has port ").nth(1).unwrap().split(' ').next().unwrap();
    let connect = format!(
        "import socket; socket.create_connection((\"127.0.0.1\", 8080), source_address=(\"127.64.64.9\", {port}))"
    );
    let seen = booted.done(&format!(
        "systemd-run --quiet --pipe --wait --working-directory=/root python3 -c '{SERVICE}' >seen & until [ -e listens ]; do sleep 0.05; done; python3 -c '{connect}'; wait; cat \
         seen; rm listens seen"
    ));
    assert_eq!(seen, "2001:db8::64\n");

    // Again: nothing changes, and the same process serves.
    let process = booted.server();
    let again = booted.install("--no-update");
    assert!(again.code == 0 && again.text.contains("runs already"), "{}", again.text);
    assert!(again.text.contains("attached already"), "{}", again.text);
    assert_eq!(booted.server(), process);

    // Attached again: the maps that the server writes to stay.
    let maps = booted.done("stat -c %i /sys/fs/bpf/nat64handoff/{names,state,peers}");
    booted.done("systemctl reload nat64handoff-peer-names");
    assert_eq!(booted.done("stat -c %i /sys/fs/bpf/nat64handoff/{names,state,peers}"), maps);
    // A stop takes the names back at once: the port is closed then.
    let stopped = booted.done("systemctl stop nat64handoff; nat64handoff peer-names status");
    assert!(stopped.contains("they are not valid"), "{stopped}");
    booted.done("systemctl start nat64handoff");
    let status = booted.done("nat64handoff peer-names status");
    assert!(status.contains("the server is there"), "{status}");

    has_ipv4_names_too(&booted);
    let off = booted.install("--no-update --peer-names off");
    assert_eq!(off.code, 0, "{}", off.text);
    assert_eq!(booted.done("stat -c %a /sys/fs/bpf; ls -A /sys/fs/bpf"), before);
    let on = booted.install("--no-update --peer-names ipv6");
    assert_eq!(on.code, 0, "{}", on.text);
    assert_ne!(booted.done("stat -c %a /sys/fs/bpf; ls -A /sys/fs/bpf"), before);
    purge_detaches_what_was_attached_by_hand(&booted);
    assert_eq!(booted.done("stat -c %a /sys/fs/bpf; ls -A /sys/fs/bpf"), before);
    assert_eq!(booted.files(), files);
}

/// At the place that is the default, and at another one.
fn purge_detaches_what_was_attached_by_hand(booted: &Booted) {
    let off = booted.install("--no-update --peer-names off");
    assert_eq!(off.code, 0, "{}", off.text);
    booted.done("/home/nat64ho/current/nat64handoff peer-names attach");
    booted.done("/home/nat64ho/current/nat64handoff peer-names attach --maps /sys/fs/bpf/others");
    let purged = booted.install("--purge");
    assert_eq!(purged.code, 0, "{}", purged.text);
    assert!(
        purged.text.contains("by hand, and left: /sys/fs/bpf/others; rm -r"),
        "{}",
        purged.text
    );
    booted.done("test ! -e /sys/fs/bpf/nat64handoff -a -e /sys/fs/bpf/others");
    booted.done("rm -r /sys/fs/bpf/others; chmod o-x /sys/fs/bpf");
}

/// From then on. What root attached is attached anew for that.
fn has_ipv4_names_too(booted: &Booted) {
    let Said { code, text } = booted.install("--no-update --peer-names both");
    assert_eq!(code, 0, "{text}");
    let status = booted.done("nat64handoff peer-names status");
    assert!(status.contains("the server is there") && status.contains("-peer4"), "{status}");
    assert!(booted.done("nat64handoff status").contains("IPv4 names"));
}

#[test]
fn install_says_where_peers_can_have_no_names() {
    let booted = Booted::new();
    let refused = booted.install("--no-update --peer-names ipv5");
    assert!(refused.code == 1 && refused.text.contains("both or off"), "{}", refused.text);
    let refused = booted.install("--no-update --peer-names ipv6");
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("--peer-names off"), "{}", refused.text);
    let off = booted.install("--no-update --peer-names off");
    assert_eq!(off.code, 0, "{}", off.text);
    assert_eq!(booted.run("systemctl cat nat64handoff-peer-names").code, 1);
}
