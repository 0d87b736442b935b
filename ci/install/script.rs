//! `install` itself: what it makes, repairs and removes.

use crate::booted::{Booted, Said};
use std::path::Path;
use std::process::Command;

#[test]
fn install_passes_shellcheck() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = Command::new("shellcheck").arg(repository.join("install")).output();
    let Ok(output) = checked else {
        crate::harness::skip::cannot_run("shellcheck (Debian's package of that name)")
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A dry run prints the steps of the run that follows it, and changes nothing.
#[test]
fn install_dry_run_prints_the_same() {
    let booted = Booted::new();
    booted.done("cp -r /root/checkout /srv/checkout && chmod -R a+rX /srv");
    let before = booted.files();
    let anybody = "cd / && HOME=/ setpriv --reuid=65534 --regid=65534 --clear-groups /srv/checkout/install --dry-run";
    let dry = booted.done(anybody);
    assert!(dry.contains("== Done"), "{dry}");
    let dry = booted.install("--dry-run --no-update");
    assert_eq!(dry.code, 0, "{}", dry.text);
    assert_eq!(booted.files(), before);
    let real = booted.install("--no-update");
    assert_eq!(real.code, 0, "{}", real.text);
    let (dry, real) = (dry.steps(), real.steps());
    assert!(dry.len() > 20, "{dry:?}");
    assert_eq!(dry, real);
}

/// From nothing to a server that answers, a second run, what was changed by hand, and back.
#[test]
fn install_serves_repairs_and_goes_without_a_trace() {
    let booted = Booted::new();
    let (before, units) = (booted.files(), unit_files(&booted));
    let accounts = booted.done("cat /etc/passwd /etc/group /etc/shadow");
    let Said { code, text } = booted.install("--no-update --port 64065");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("took the proof that came back"), "{text}");
    assert!(text.contains("serving 0.0.0.0:64065"), "{text}");
    assert_eq!(
        booted.done("stat -c %U:%a /home/nat64ho/logs /home/nat64ho/state"),
        "nat64ho:750\nnat64ho:700\n"
    );
    assert_eq!(
        booted.done("ps -o user= -p $(systemctl show --property=MainPID --value nat64handoff)"),
        "nat64ho\n"
    );
    let process = booted.server();

    let again = booted.install("--no-update");
    assert!(again.code == 0 && again.text.contains("runs already"), "{}", again.text);
    assert!(!again.text.contains("put back"), "{}", again.text);
    assert_eq!(booted.server(), process, "the same process");

    booted.done(
        "echo '# by hand' >>/etc/systemd/system/nat64handoff.service; chmod 777 /home/nat64ho/state; rm \
         /etc/systemd/system/nat64handoff.service.d/home.conf",
    );
    let repaired = booted.install("");
    assert_eq!(repaired.code, 0, "{}", repaired.text);
    assert!(
        repaired.text.contains("put back") && repaired.text.contains("with mode 777"),
        "{}",
        repaired.text
    );
    assert!(booted.done("systemctl cat nat64handoff").contains("/home/nat64ho/current"));
    assert!(!booted.done("cat /etc/systemd/system/nat64handoff.service").contains("by hand"));
    assert_eq!(booted.done("stat -c %a /home/nat64ho/state"), "700\n");

    let status = booted.install("--status");
    assert!(status.text.contains("Active: active (running)"), "{}", status.text);
    let gone = booted.install("--uninstall");
    assert!(gone.code == 0 && gone.text.contains("/home/nat64ho/logs"), "{}", gone.text);
    let log = booted.done("cat /home/nat64ho/logs/events.log");
    assert!(log.contains("Initialized 127.64.64.9"), "{log}");
    assert_eq!(booted.run("systemctl cat nat64handoff").code, 1);

    // What was left is found again.
    let back = booted.install("--no-update");
    assert_eq!(back.code, 0, "{}", back.text);
    assert_eq!(booted.done("cat /home/nat64ho/logs/events.log"), log, "the same table");
    let purged = booted.install("--purge");
    assert_eq!(purged.code, 0, "{}", purged.text);
    assert_eq!(booted.files(), before);
    let after = unit_files(&booted);
    let others = after.iter().filter(|unit| !units.contains(unit));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(after, units);
    assert_eq!(booted.done("cat /etc/passwd /etc/group /etc/shadow"), accounts);
}

/// Options that are given change theirs alone, and only where the check passes with them.
#[test]
fn install_keeps_options_that_work() {
    let booted = Booted::new();
    let options = "cat /etc/nat64handoff.toml; stat -c %U:%G:%a /etc/nat64handoff.toml";
    booted.done(
        "groupadd readers; printf 'port = 64065\n# the end' >/etc/nat64handoff.toml; chgrp readers \
         /etc/nat64handoff.toml; chmod 644 /etc/nat64handoff.toml",
    );
    let before = booted.done(options);
    let refused = booted.install("--no-update --port 99999");
    assert!(refused.code == 1 && refused.text.contains("failed its check"), "{}", refused.text);
    assert_eq!(booted.done(options), before);
    let taken = booted.install("--no-update --port 64066 --listen 127.0.0.1");
    assert_eq!(taken.code, 0, "{}", taken.text);
    let lines = "# the end\nport = 64066\nlisten = [\"127.0.0.1\"]\nroot:readers:644\n";
    assert_eq!(booted.done(options), lines);

    booted.done("printf 'listen = [\n    \"127.0.0.1\"\n]\n' >/etc/nat64handoff.toml");
    let before = booted.done(options);
    let refused = booted.install("--no-update --port 64067 --listen 127.0.0.2");
    assert!(refused.code == 1 && refused.text.contains("several lines"), "{}", refused.text);
    assert_eq!(booted.done(options), before);
}

/// Those that are on a disk: what runs for a moment has some of its own.
fn unit_files(booted: &Booted) -> Vec<String> {
    let all = booted.done("systemctl list-unit-files --no-legend");
    all.lines().filter(|line| !line.contains("transient")).map(str::to_owned).collect()
}

/// What is refused changes nothing, and says what to do.
#[test]
fn install_says_what_is_missing() {
    let booted = Booted::new();
    for (arguments, said) in [
        ("--port", "wants a value"),
        ("--nonsense", "--help lists them"),
        ("--track nonsense", "main or tags"),
        ("--binary /nowhere", "there is no file"),
        ("--key /nowhere", "there is no key"),
    ] {
        let refused = booted.install(arguments);
        assert!(refused.code == 1 && refused.text.contains(said), "{arguments}: {}", refused.text);
    }
    booted.done("rm -rf /usr/local/bin/rustc /usr/lib/rust-1.999 /root/.rustup");
    let refused = booted.install("");
    let advice = "apt-get install -y --no-install-recommends rustc-web cargo-web";
    assert!(refused.code == 1, "{}", refused.text);
    assert!(
        refused.text.contains(advice) || refused.text.contains("rustup.rs"),
        "{}",
        refused.text
    );
    assert_eq!(booted.run("id nat64ho").code, 1, "nothing was made");
    // A link of the user's leads nowhere.
    let planted = "useradd -r -d /home/nat64ho nat64ho; mkdir -p /home/nat64ho/check; ln -s /etc/planted \
                   /home/nat64ho/check/program; chown -hR nat64ho /home/nat64ho/check";
    booted.done(planted);
    let built = booted.install("--binary /usr/lib/under-test/nat64handoff");
    assert_eq!(built.code, 0, "{}", built.text);
    assert_eq!(booted.run("ls /etc/planted").code, 2);
}

/// Where a firewall would keep NAT64s out, the line that lets them in is printed. It works.
#[test]
fn install_looks_at_the_firewall() {
    let booted = Booted::new();
    if booted.run("command -v nft").code != 0 {
        crate::harness::skip::cannot_run("nft (Debian's package nftables)");
    }
    booted.done(
        "nft add table inet filter; nft 'add chain inet filter input { type filter hook input priority 0; policy drop; \
         }'; nft add rule inet filter input ct state established accept; nft add rule inet filter input udp dport { 9, 1024-64000 } accept",
    );
    let Said { text, .. } = booted.install("--no-update");
    let advice = "nft insert rule inet filter input udp dport 64064 accept";
    assert!(text.contains(advice), "{text}");
    assert!(!text.contains("== Done"), "the self-check goes through it: {text}");
    booted.done(advice);
    let Said { code, text } = booted.install("--no-update");
    assert!(code == 0 && text.contains("nothing seems to keep UDP"), "{text}");
    // Of that of Geneve, where the configuration wants it.
    let geneve = "nft insert rule inet filter input udp dport 6081 accept";
    assert!(!text.contains(geneve), "{text}");
    booted.done("echo 'geneve = \"on\"' >>/etc/nat64handoff.toml");
    let Said { text, .. } = booted.install("--no-update --dry-run");
    assert!(text.contains(geneve), "{text}");
    booted.done("sed -i /^geneve/d /etc/nat64handoff.toml");
    understands_ufw(&booted);
}

/// Of what ufw 0.36.2 says, with each of its lines in turn.
fn understands_ufw(booted: &Booted) {
    const INCOMING: &str = "ufw allow 64064/udp";
    const OUTGOING: &str = "ufw allow out proto udp to any port 9";
    let cases = [
        ("allow", "", vec![INCOMING]),
        ("allow", "64064/udp ALLOW OUT Anywhere", vec![INCOMING]),
        ("allow", "64064/udp                  ALLOW IN    Anywhere", vec![]),
        ("deny", "64064/udp                  ALLOW IN    Anywhere", vec![OUTGOING]),
        ("reject", "9/udp                      ALLOW OUT   Anywhere", vec![INCOMING]),
        ("deny", "64064 ALLOW IN Anywhere\n9 ALLOW OUT Anywhere", vec![]),
    ];
    booted.done(
        "printf '#!/bin/sh\\ncat /root/ufw\\n' >/usr/local/bin/ufw; chmod 755 /usr/local/bin/ufw",
    );
    for (outgoing, rules, advice) in cases {
        booted.done(&format!(
            "printf 'Status: active\\nLogging: on (low)\\nDefault: deny (incoming), {outgoing} (outgoing), disabled \
             (routed)\\n\\n{rules}\\n' >/root/ufw"
        ));
        let Said { text, .. } = booted.install("--no-update");
        for line in [INCOMING, OUTGOING] {
            let is_said = text.contains(&format!("this lets them in:  {line}\n"));
            assert_eq!(is_said, advice.contains(&line), "{outgoing} {rules}: {text}");
        }
    }
}
