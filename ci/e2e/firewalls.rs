//! DELIVERY.md: a firewall that keeps out what clients send by the device is found, and what lets
//! it in is printed. It works.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::native::delivering;
use crate::native_programs::shell;
use crate::process::{Process, run, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};
use crate::skip::cannot_run;
use crate::translate::translating;

/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_secs(2);
const GOOD: &str = "nothing here seems to keep out what comes by ho0";

/// What is said of the firewall of the service's host, a line each.
fn said(field: &Field, options: &[&str]) -> Vec<String> {
    let state = field.path("state");
    let listen = SERVICE.to_string();
    let words = ["check-config", "--host", "--listen", &listen, "--state", state.to_str().unwrap()];
    let words = [&words[..], options].concat();
    let output = run(&field.server, env!("CARGO_BIN_EXE_nat64handoff"), &words);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("# firewall: "));
    let lines: Vec<_> = lines.map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    lines
}

/// The only line, and the command in it.
fn advised(field: &Field, options: &[&str]) -> (String, String) {
    let lines = said(field, options);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let command = line.split_once("; this lets it in:  ");
    let (_, command) = command.unwrap_or_else(|| panic!("{line}"));
    (line.clone(), command.to_owned())
}

/// A NAT64 that found the server away for a while translates by itself until it is back.
fn is_kept_out(field: &Field) {
    let to = SocketAddr::from((SERVICE6, 80));
    let connect = || TcpStream::connect_timeout(&to, SILENCE);
    wait_until("clients are kept out", || field.client().inside(connect).is_err());
}

fn gets_in(field: &Field) {
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
}

const NATIVE: &[&str] = &["--deliver", "native"];

fn native(field: &Field) -> (Server, Gateway, Nginx) {
    delivering(field, NATIVE)
}

/// Lets in what comes by the link to the NAT64, to some ports.
const LINK_ALONE: &str = "nft add table inet filter\n\
     nft add chain inet filter in '{ type filter hook input priority filter; policy drop; }'\n\
     nft add rule inet filter in ct state established,related accept\n\
     nft add rule inet filter in iif lo accept\n\
     nft add rule inet filter in udp dport 64064 accept\n\
     nft add rule inet filter in iifname nat64-0 tcp dport { 80, 443 } accept";

#[test]
fn section_11_rules_of_nftables_that_keep_clients_out_are_named() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = native(&field);
    assert_eq!(said(&field, NATIVE), [GOOD]);
    shell(&field, LINK_ALONE);
    is_kept_out(&field);
    let (line, command) = advised(&field, NATIVE);
    let expected = "inet filter in keeps out what clients send by ho0 to TCP 80, 443; this lets it in:  \
                    nft insert rule inet filter in iifname ho0 tcp dport { 80, 443 } accept";
    assert_eq!(line, expected);
    shell(&field, &command);
    assert_eq!(said(&field, NATIVE), [GOOD]);
    gets_in(&field);
    // One in front of it that lets in by some devices alone.
    shell(
        &field,
        "nft add chain inet filter pre '{ type filter hook prerouting priority raw; }'\n\
         nft add rule inet filter pre iifname != '{ lo, nat64-0 }' drop",
    );
    is_kept_out(&field);
    let (line, command) = advised(&field, NATIVE);
    let expected = "inet filter pre keeps out what clients send by ho0; this lets it in:  \
                    nft insert rule inet filter pre iifname ho0 accept";
    assert_eq!(line, expected);
    shell(&field, &command);
    gets_in(&field);
    // What is not delivered does not come by the device.
    shell(&field, "nft flush ruleset");
    shell(&field, LINK_ALONE);
    assert_eq!(said(&field, &["--deliver-port", "22=native"]).len(), 1);
    let (line, _) = advised(&field, &["--deliver-port", "443=native"]);
    assert!(line.contains("to TCP 443;"), "{line}");
    server.stop();
}

#[test]
fn section_11_rules_that_keep_out_what_is_translated_are_named() {
    let field = Field::new();
    let translate = ["--deliver", "translate"];
    let (mut server, _gateways, _nginx) = translating(&field, &translate);
    shell(&field, LINK_ALONE);
    // Of IPv6 nothing comes by the device.
    shell(
        &field,
        "nft add table ip6 six\nnft add chain ip6 six in '{ type filter hook input priority filter; policy drop; }'",
    );
    is_kept_out(&field);
    let (line, command) = advised(&field, &translate);
    assert!(line.starts_with("inet filter in keeps out "), "{line}");
    shell(&field, &command);
    assert_eq!(said(&field, &translate), [GOOD]);
    gets_in(&field);
    server.stop();
}

/// Where a program is missing, or another kind of iptables is used, this cannot be tried.
fn wants(field: &Field, condition: &str) {
    if !run(&field.server, "sh", &["-c", condition]).status.success() {
        cannot_run(condition);
    }
}

#[test]
fn section_11_ufw_that_keeps_clients_out_is_told_what_lets_them_in() {
    let field = Field::new();
    wants(&field, "command -v ufw && iptables --version | grep nf_tables");
    let (mut server, _gateway, _nginx) = native(&field);
    // With files of its own.
    let files = field.path("ufw");
    let ufw = |command: &str| {
        let lines = format!(
            "test -e {0} || cp -r /etc/ufw {0}\nmount --bind {0} /etc/ufw\n{command}",
            files.display()
        );
        let output = run(&field.server, "unshare", &["--mount", "sh", "-ec", &lines]);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&said));
    };
    ufw("ufw --force enable");
    ufw("ufw allow 64064/udp && ufw allow in on nat64-0 to any port 80 proto tcp");
    is_kept_out(&field);
    let (line, command) = advised(&field, NATIVE);
    let expected = "ufw keeps out what clients send by ho0 to TCP 80; this lets it in:  \
                    ufw allow in on ho0 to any port 80 proto tcp";
    assert_eq!(line, expected);
    ufw(&command);
    assert_eq!(said(&field, NATIVE), [GOOD]);
    gets_in(&field);
    server.stop();
}

/// Runs firewalld, with a bus and files of its own, and what is written into a file beside it.
const FIREWALLD: &str = "
cp -r /etc/firewalld $0/etc
mount --bind $0/etc /etc/firewalld
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/firewalld
dbus-daemon --system --nofork --nopidfile &
firewalld --nofork --nopid &
until firewall-cmd --state; do sleep 0.2; done
echo 'it runs'
while :; do
    if [ -e $0/command ]; then
        mv $0/command $0/running
        sh -ec \"$(cat $0/running)\" && mv $0/running $0/done
    fi
    sleep 0.1
done";

#[test]
fn section_11_firewalld_that_keeps_clients_out_is_told_what_lets_them_in() {
    let field = Field::new();
    wants(&field, "command -v firewalld && command -v dbus-daemon");
    let (mut server, _gateway, _nginx) = native(&field);
    let folder = field.path("firewalld");
    std::fs::create_dir(&folder).unwrap();
    let own = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let words = [&own[..], &["sh", "-c", FIREWALLD, folder.to_str().unwrap()]].concat();
    let mut firewalld = Process::start(&field.server, "unshare", &words);
    firewalld.wait_for("it runs");
    let firewall = |command: &str| {
        let _ = std::fs::remove_file(folder.join("done"));
        std::fs::write(folder.join("next"), command).unwrap();
        std::fs::rename(folder.join("next"), folder.join("command")).unwrap();
        wait_until(command, || folder.join("done").exists());
    };
    firewall(
        "firewall-cmd --permanent --zone=public --add-interface=nat64-0\n\
         firewall-cmd --permanent --zone=public --add-service=http\n\
         firewall-cmd --permanent --zone=public --add-port=64064/udp\n\
         firewall-cmd --set-default-zone=block\nfirewall-cmd --reload",
    );
    is_kept_out(&field);
    let (line, command) = advised(&field, NATIVE);
    let zone =
        "firewall-cmd --permanent --zone=public --add-interface=ho0 && firewall-cmd --reload";
    assert!(line.starts_with("inet firewalld filter_INPUT keeps out "), "{line}");
    assert_eq!(command, zone);
    firewall(&command);
    assert_eq!(said(&field, NATIVE), [GOOD]);
    // Its filter of the reverse path lets it pass, too.
    let rules = run(&field.server, "nft", &["list", "ruleset"]).stdout;
    assert!(String::from_utf8_lossy(&rules).contains("fib saddr . mark . iif oif missing drop"));
    gets_in(&field);
    server.stop();
}
