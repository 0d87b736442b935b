//! PROTOCOL.md section 11, DELIVERY.md: what a host lacks for delivery is named, each with the
//! command that mends it.

use std::process::Output;

use crate::field::{Field, SERVICE};
use crate::native::{make_device, recipe};
use crate::process::{Process, run};

const NAT64HANDOFF: &str = env!("CARGO_BIN_EXE_nat64handoff");

/// What a server is started with, by another user where it is to be one.
fn arguments<'a>(command: &[&'a str], state: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--listen", "203.0.113.5", "--state", state, "--log", "-", "--reactors", "2"];
    [command, &fixed, options].concat()
}

/// What `check-config --host` finds.
fn look(field: &Field) -> Output {
    let state = field.path("state");
    let arguments = arguments(&["check-config", "--host"], state.to_str().unwrap(), &[]);
    run(&field.server, NAT64HANDOFF, &arguments)
}

/// What a server that delivers says at its start: it serves, or ends.
fn start(field: &Field) -> (String, bool) {
    let state = field.path("state");
    let native = ["--deliver", "native"];
    let arguments = arguments(&["serve"], state.to_str().unwrap(), &native);
    let mut process = Process::start(&field.server, NAT64HANDOFF, &arguments);
    let serves = process.says_or_ends("nat64handoff: serving");
    if serves {
        process.stop();
    }
    (process.said(), serves)
}

fn shell(field: &Field, lines: &str) {
    let output = run(&field.server, "sh", &["-ec", lines]);
    assert!(output.status.success(), "{}\n{lines}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn section_11_the_recipe_that_is_printed_makes_all_that_is_needed() {
    let field = Field::new();
    let before = look(&field);
    assert_eq!(before.status.code(), Some(1));
    let printed = String::from_utf8(before.stdout).unwrap();
    for (line, command) in recipe().iter().enumerate() {
        let command = command.replace("nat64ho", "root");
        assert!(printed.lines().any(|printed| printed == command), "{line}: {command}\n{printed}");
    }
    shell(&field, &printed);
    let after = look(&field);
    let printed = String::from_utf8(after.stdout).unwrap();
    assert!(after.status.success(), "{printed}");
    let states = printed.lines().filter(|line| line.starts_with("# ") && line.contains(": "));
    assert_eq!(states.filter(|line| line.ends_with(": done")).count(), 7, "{printed}");
    assert!(printed.lines().all(|line| line.is_empty() || line.starts_with('#')), "{printed}");
    let (said, serves) = start(&field);
    assert!(serves && !said.contains("--deliver: "), "{said}");
}

/// A step that is left out or done in another way; what is said then, and whether a server serves
/// all the same.
type Mutation = (&'static str, &'static str, &'static [&'static str], bool);

const LINK: &str = "ip link set ho0 mtu 1418 txqueuelen 1000 addrgenmode none up";
const ADDRESS: &str =
    "ip -6 addr add 64:ff9b::203.0.113.5/128 dev ho0 nodad preferred_lft 0 noprefixroute";
const MAKE: &str = "ip tuntap add dev ho0 mode tun user root multi_queue vnet_hdr";
const ROUTE: &str = "ip -6 route add default dev ho0 table 6464";
const RULE: &str = "ip -6 rule add from 64:ff9b::203.0.113.5 iif lo lookup 6464 priority 6464";
const OWN: &str = "ip -6 route add default dev ho0 src 64:ff9b::203.0.113.5 metric 9999";

const MUTATIONS: [Mutation; 18] = [
    (MAKE, "ip tuntap add dev ho0 mode tap user root multi_queue", &["no TUN device", MAKE], false),
    (
        MAKE,
        "ip tuntap add dev ho0 mode tun user root vnet_hdr",
        &["without multi_queue", MAKE],
        false,
    ),
    (MAKE, "ip tuntap add dev ho0 mode tun multi_queue", &["belongs to nobody", MAKE], true),
    (LINK, "ip link set ho0 mtu 1418 txqueuelen 1000 addrgenmode none", &["is down", LINK], false),
    (
        LINK,
        "ip link set ho0 mtu 1500 txqueuelen 1000 addrgenmode none up",
        &["MTU of 1500", LINK],
        true,
    ),
    (LINK, "ip link set ho0 mtu 1418 txqueuelen 1000 up", &["link-local", LINK], true),
    (LINK, "ip link set ho0 mtu 1418 addrgenmode none up", &["queue of 500", LINK], true),
    (ADDRESS, "true", &["has no address 64:ff9b::203.0.113.5", ADDRESS], false),
    (
        ADDRESS,
        "ip -6 addr add 64:ff9b::203.0.113.5/128 dev ho0 nodad noprefixroute",
        &["for connections of its own", "ip -6 addr change 64:ff9b::203.0.113.5/128"],
        true,
    ),
    (
        ADDRESS,
        "sysctl -qw net.ipv6.conf.ho0.disable_ipv6=1",
        &["IPv6 is off", "sysctl -w net.ipv6.conf.ho0.disable_ipv6=0", ADDRESS],
        false,
    ),
    // Where the host has no IPv6 of its own, its only route serves.
    (ROUTE, "true", &["no route to the device", ROUTE], true),
    (RULE, "true", &["no rule leads answers", RULE], true),
    (ROUTE, "ip -6 route add default dev lo metric 7", &["no route to the device", ROUTE], false),
    (RULE, "ip -6 route add default dev lo metric 7", &["no rule leads answers", RULE], false),
    (
        RULE,
        "ip -6 rule add from 64:ff9b::/96 lookup 6464 priority 6464",
        &[
            "packets that this host forwards",
            RULE,
            "ip -6 rule del from 64:ff9b::/96 lookup 6464 priority 6464",
        ],
        true,
    ),
    (
        RULE,
        "ip -6 route add default dev lo table 7 && ip -6 rule add from 64:ff9b::203.0.113.5 lookup 7 priority 7 && \
         ip -6 rule add from 64:ff9b::203.0.113.5 iif lo lookup 6464 priority 6464",
        &["comes first", "ip -6 rule show"],
        false,
    ),
    (OWN, "true", &["choose no source", OWN], true),
    (
        OWN,
        "ip -6 addr add 2001:db8::99/128 dev lo nodad && ip -6 route add default dev ho0 src 2001:db8::99",
        &["answer from another address", "ip -6 route replace default dev ho0 src"],
        true,
    ),
];

#[test]
fn section_11_each_step_that_is_left_out_is_named() {
    for (step, instead, named, serves) in MUTATIONS {
        let field = Field::new();
        let mut found = false;
        for line in recipe() {
            let line = line.replace("nat64ho", "root");
            let is_it = line == step;
            found |= is_it;
            // What builds on it is refused, too.
            let ran = run(&field.server, "sh", &["-ec", if is_it { instead } else { &line }]);
            assert!(ran.status.success() || found, "{line}");
            let no = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(!is_it || ran.status.success(), "{instead}: {no}");
        }
        assert!(found, "{step}");
        let looked = look(&field);
        let printed = String::from_utf8(looked.stdout).unwrap();
        assert_eq!(looked.status.success(), serves, "{instead}: {printed}");
        let (said, does) = start(&field);
        assert_eq!(does, serves, "{instead}: {said}");
        for what in named {
            assert!(printed.contains(what), "{instead}: {what} is not in\n{printed}");
            let lines = said.lines().filter(|line| line.contains("--deliver: "));
            let its: Vec<_> = lines.filter(|line| line.contains(what)).collect();
            assert!(!its.is_empty(), "{instead}: {what} is not in\n{said}");
        }
    }
}

#[test]
fn section_11_what_this_host_does_with_the_prefix_itself_is_said() {
    let field = Field::new();
    make_device(&field);
    field.server.ip(
        "link add other type veth peer name peer\nlink set other up\nlink set peer up\n\
         addr add 64:ff9b::198.51.100.9/128 dev other nodad\n\
         route add 64:ff9b:1::/48 dev other\nroute add 64:ff9b::/96 dev other",
    );
    let said = String::from_utf8(look(&field).stdout).unwrap();
    assert!(said.contains("note: other has 64:ff9b::198.51.100.9"), "{said}");
    assert!(said.contains("note: this host has a route to 64:ff9b::/96 by other"), "{said}");
    assert!(!said.contains("64:ff9b:1::"), "{said}");
    field.server.ip(&format!("addr add 64:ff9b::{SERVICE}/128 dev other nodad"));
    let said = String::from_utf8(look(&field).stdout).unwrap();
    assert!(said.contains("64:ff9b::203.0.113.5 is an address of other, too"), "{said}");
}

/// Nobody but its user can open the device, and that user needs no privilege.
#[test]
fn section_11_the_devices_user_needs_no_privilege() {
    let field = Field::new();
    shell(&field, &recipe().join("\n").replace("user nat64ho", "user 4711"));
    let state_of = |user: &str| {
        let state = field.path(if user == "4711" { "state" } else { "other" });
        std::fs::create_dir_all(&state).unwrap();
        std::os::unix::fs::chown(&state, user.parse().ok(), None).unwrap();
        state
    };
    state_of("4711");
    let printed = String::from_utf8(look(&field).stdout).unwrap();
    assert!(printed.contains("# the device ho0, which 4711 can open: done"), "{printed}");
    for (user, mode, refused) in [
        ("4711", "600", "4711 cannot open /dev/net/tun"),
        ("4712", "666", "the device ho0 belongs to another user than 4712"),
        ("4711", "666", ""),
    ] {
        let state = state_of(user);
        // A /dev/net/tun of its own, as udev makes it or not.
        let file = format!(
            "mount -t tmpfs tmpfs /dev/net && mknod /dev/net/tun c 10 200 && chmod {mode} /dev/net/tun && exec \"$@\""
        );
        let own = ["--mount", "sh", "-c", &file, "sh", "setpriv", "--reuid", user, "--regid", user];
        let none = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
        let before = [&own[..], &none, &[NAT64HANDOFF, "serve"]].concat();
        let native = ["--deliver", "native", "--admin", "off"];
        let arguments = arguments(&before, state.to_str().unwrap(), &native);
        let mut process = Process::start(&field.server, "unshare", &arguments);
        let serves = process.says_or_ends("nat64handoff: serving");
        assert_eq!(serves, refused.is_empty(), "{}", process.said());
        assert!(process.said().contains(refused), "{}", process.said());
    }
}
