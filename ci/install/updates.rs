//! Updates: what is newer and works runs, all else does not, and what ran before goes on.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::load::Load;
use std::time::Duration;

const UPDATE_MAX: Duration = Duration::from_secs(120);
/// An update that looks each time, and believes in a release after some seconds.
const HASTY: &str = "sed -i 's/trial=60/trial=4/' /home/nat64ho/settings";

/// A new commit upstream, in which `program` says that. Its name.
fn publish(booted: &Booted, program: &str) -> String {
    let commit = booted.done(&format!(
        "cd /root/checkout && echo '{program}' >program && git add -A && git -c user.name=test -c \
         user.email=test@example.org commit -qm next && git push -q origin HEAD:main && git rev-parse --short=12 HEAD"
    ));
    commit.trim().to_owned()
}

/// A new commit upstream with a signed tag. Its name.
fn publish_tag(booted: &Booted, name: &str, signed: &str) -> String {
    publish(booted, &format!("good {name}"));
    booted.done(&format!(
        "cd /root/checkout && git -c user.name=test -c user.email=test@example.org {signed} tag -s -m {name} {name} && \
         git push -q origin {name} && git rev-parse --short=12 HEAD"
    ))
}

/// Runs the update, and returns what it said.
fn update(booted: &Booted) -> String {
    let ended = || {
        wait_until(UPDATE_MAX, || {
            let said = booted.run("systemctl is-active nat64handoff-update.service").text;
            // No answer is none.
            ["inactive", "failed"].contains(&said.trim())
        })
    };
    // One that a start of the server began.
    ended();
    let start = "rm -f /home/nat64ho/fetched; systemctl start nat64handoff-update.service";
    let started = booted.run(&format!("{start} || {{ journalctl --no-pager -n 40; false; }}"));
    assert_eq!(started.code, 0, "{}", started.text);
    let ended = ended();
    let said = booted.done(
        "journalctl --sync; journalctl --no-pager --unit=nat64handoff-update.service | tail -n 20",
    );
    assert!(ended, "{said}");
    said
}

fn current(booted: &Booted) -> String {
    booted.done("basename $(readlink /home/nat64ho/current)").trim().to_owned()
}

/// The server's process, as the shell finds it.
const MAIN_PROCESS: &str = "$(systemctl show --property=MainPID --value nat64handoff)";

/// The release that runs; empty where the server is just being started.
fn runs(booted: &Booted) -> String {
    let program = booted.run(&format!("readlink /proc/{MAIN_PROCESS}/exe")).text;
    program.split('/').nth(4).unwrap_or_default().to_owned()
}

#[test]
fn updates_take_what_works_and_nothing_else() {
    let booted = Booted::installed("");
    booted.done(HASTY);
    let first = current(&booted);
    booted.done("systemctl enable --now nat64handoff-export@journald 2>&1");
    let server = "127.0.0.1:64064".parse().unwrap();
    let load = Load::start(&booted, server, 20, 200);

    let second = publish(&booted, "good 2");
    let said = update(&booted);
    assert!(said.contains(&format!("{second} runs, and is good")), "{said}");
    assert_eq!((current(&booted), runs(&booted)), (second.clone(), second.clone()));
    // What exports the events runs it, too.
    let exporter = "$(systemctl show --property=MainPID --value nat64handoff-export@journald)";
    let exporter = booted.run(&format!("readlink /proc/{exporter}/exe")).text;
    assert!(exporter.contains(&second), "{exporter}");
    assert!(update(&booted).contains("is the newest"));

    for (program, why) in [("unbuildable", "cannot be built"), ("failing", "failed its check")] {
        let bad = publish(&booted, program);
        let said = update(&booted);
        assert!(said.contains(&format!("{second} runs on: {bad} {why}")), "{said}");
        assert_eq!((current(&booted), runs(&booted)), (second.clone(), second.clone()));
        let status = booted.install("--status").text;
        assert!(status.contains(why) && status.contains(&bad), "{status}");
    }
    let said = update(&booted);
    assert!(said.contains("is known to be bad"), "{said}");
    let outcome = load.end();
    assert_eq!((outcome.unanswered, outcome.unreachable), (0, 0), "{outcome:?}");

    // One that ends before it serves takes nothing over.
    let load = Load::start(&booted, server, 20, 200);
    let process = booted.server();
    let crashing = publish(&booted, "crashing");
    let said = update(&booted);
    let back = format!("{crashing}: it did not take over; {second} runs again");
    assert!(said.contains(&back), "{said}\n{}", booted.run("journalctl --no-pager -n 60").text);
    assert_eq!((current(&booted), runs(&booted)), (second.clone(), second.clone()));
    assert_eq!(booted.server(), process);
    assert_ne!(first, second);
    let outcome = load.end();
    assert_eq!((outcome.unanswered, outcome.unreachable), (0, 0), "{outcome:?}");
    assert!(booted.install("--status").text.contains("did not take over"));

    // Nothing of it is tried again, and the next good one is taken.
    assert!(update(&booted).contains("is known to be bad"));
    let third = publish(&booted, "good 3");
    assert!(update(&booted).contains(&format!("{third} runs, and is good")));
}

/// One that serves, and then ends by itself within its first minute.
#[test]
fn updates_take_back_what_crashes() {
    let booted = Booted::installed("");
    booted.done("sed -i 's/trial=60/trial=20/' /home/nat64ho/settings");
    let first = current(&booted);
    let crashing = publish(&booted, "good, at first");
    booted.done("rm -f /home/nat64ho/fetched; systemctl start nat64handoff-update.service");
    assert!(wait_until(UPDATE_MAX, || runs(&booted) == crashing));
    // Its trial has begun when it is counted how often it ended.
    let judged = "journalctl --sync; journalctl --quiet --unit=nat64handoff-update.service";
    let has_ended = || booted.run("systemctl is-active nat64handoff-update.service").text;
    let said = || booted.done(judged);
    let back = format!("{crashing}: it did not live through its first minute; {first} runs again");
    assert!(
        wait_until(UPDATE_MAX, || {
            // This process, and none that came in its place meanwhile.
            booted.run(&format!(
                "process={MAIN_PROCESS}; \
                 case $(readlink /proc/$process/exe) in */{crashing}/*) kill -ABRT $process;; esac"
            ));
            said().contains(&back)
        }),
        "{}",
        said()
    );
    assert!(wait_until(UPDATE_MAX, || has_ended().trim() == "inactive"));
    assert_eq!(current(&booted), first);
}

#[test]
fn updates_fail_without_network_or_room_and_go_on() {
    let booted = Booted::new();
    // Rust is the user's that ran sudo, which an update is not told of.
    booted.done(
        "useradd -m alice; folder=/home/alice/.rustup/toolchains; mkdir -p $folder; mv /usr/lib/rust-1.999 $folder/; sed \
         -i s,/usr/lib/rust,$folder/rust, $folder/rust-1.999/bin/rustc; rm -rf /usr/local/bin/rustc /root/.rustup",
    );
    let installed = booted.run("SUDO_USER=alice checkout/install");
    assert_eq!(installed.code, 0, "{}", installed.text);
    booted.done(HASTY);
    let first = current(&booted);
    booted.done("mv /srv/origin.git /srv/away.git");
    let said = update(&booted);
    assert!(
        said.contains(&format!("{first} runs on: the newest version cannot be fetched")),
        "{said}"
    );
    booted.done("mv /srv/away.git /srv/origin.git");

    let second = publish(&booted, "good 2");
    booted.run("cat /dev/zero >/home/full 2>/dev/null");
    let said = update(&booted);
    assert!(said.contains(&format!("{first} runs on")) || said.contains("No space left"), "{said}");
    assert_eq!((current(&booted), runs(&booted)), (first.clone(), first));
    booted.done("rm /home/full");
    let said = update(&booted);
    assert!(said.contains(&format!("{second} runs, and is good")), "{said}");
}

#[test]
fn updates_follow_signed_tags() {
    let booted = Booted::new();
    if booted.run("command -v ssh-keygen").code != 0 {
        crate::harness::skip::cannot_run("ssh-keygen (Debian's package openssh-client)");
    }
    booted.done("for name in good other; do ssh-keygen -q -t ed25519 -N '' -f /root/$name; done");
    let installed = booted.install("--track tags --key /root/good.pub");
    assert_eq!(installed.code, 0, "{}", installed.text);
    booted.done(HASTY);
    let first = current(&booted);
    assert!(update(&booted).contains("is the newest"), "no tag yet");
    let tag = |name: &str, key: &str| {
        publish_tag(&booted, name, &format!("-c gpg.format=ssh -c user.signingkey=/root/{key}.pub"))
    };
    tag("v1", "other");
    let said = update(&booted);
    assert!(said.contains("v1 is not signed by /root/good.pub"), "{said}");
    assert_eq!(current(&booted), first);
    let second = tag("v2", "good");
    let said = update(&booted);
    assert!(said.contains("runs, and is good"), "{said}");
    assert_eq!(current(&booted), second.trim());
    // A tag under another name than it was signed for.
    tag("v3", "good");
    booted.done("cd checkout && git push -q origin :v3 v3:refs/tags/v4");
    let said = update(&booted);
    assert!(said.contains("v4 is not signed by /root/good.pub"), "{said}");
}

/// With OpenPGP keys, and once more when the operator has another one.
#[test]
fn updates_follow_tags_that_openpgp_signed() {
    let booted = Booted::new();
    if booted.run("command -v gpg").code != 0 {
        crate::harness::skip::cannot_run("gpg (Debian's package gpg)");
    }
    booted.done(
        "for name in good other; do gpg --batch --quiet --passphrase '' --quick-generate-key \
         $name@example.org default default never && gpg --armor --export $name@example.org >$name.asc; done",
    );
    let installed = booted.install("--track tags --key /root/good.asc");
    assert_eq!(installed.code, 0, "{}", installed.text);
    booted.done(HASTY);
    let first = current(&booted);
    let tag = |name: &str, key: &str| {
        publish_tag(&booted, name, &format!("-c user.signingkey={key}@example.org"))
    };
    tag("v1", "other");
    let said = update(&booted);
    assert!(said.contains("v1 is not signed by /root/good.asc"), "{said}");
    assert_eq!(current(&booted), first);
    let second = tag("v2", "good");
    let said = update(&booted);
    assert!(said.contains("runs, and is good"), "{said}");
    assert_eq!(current(&booted), second.trim());
    // The key before is worth nothing any more, though it has signed.
    tag("v3", "good");
    booted.done("cp other.asc good.asc");
    let said = update(&booted);
    assert!(said.contains("v3 is not signed by /root/good.asc"), "{said}");
    assert_eq!(current(&booted), second.trim());
}

/// A service that was stopped is not started, one that is restarted by hand is not condemned, and
/// no update goes back.
#[test]
fn updates_heed_what_is_done_by_hand() {
    let booted = Booted::installed("");
    booted.done(HASTY);
    update(&booted);
    booted.done("systemctl stop nat64handoff");
    let second = publish(&booted, "good 2");
    let said = update(&booted);
    assert!(said.contains(&format!("{second} is what the service starts next")), "{said}");
    assert_eq!(booted.run("systemctl is-active nat64handoff").text, "inactive\n");
    let is_good = |release: &str| {
        let good = format!("ls /home/nat64ho/releases/{release}/good");
        let judged = wait_until(UPDATE_MAX, || booted.run(&good).code == 0);
        assert!(judged, "{}", booted.run("journalctl --no-pager -n 60").text);
    };
    booted.done("systemctl start nat64handoff");
    is_good(&second);

    update(&booted);
    let third = publish(&booted, "good 3");
    booted.done("rm -f /home/nat64ho/fetched; systemctl start nat64handoff-update.service");
    assert!(wait_until(UPDATE_MAX, || runs(&booted) == third));
    booted.done("systemctl restart nat64handoff");
    is_good(&third);
    assert_eq!((current(&booted), runs(&booted)), (third.clone(), third.clone()));

    booted.done("cd checkout && git push -qf origin HEAD~1:main");
    let said = update(&booted);
    assert!(
        said.contains(&format!("{third} runs on: origin/main ({second}) does not come")),
        "{said}"
    );
    assert_eq!(current(&booted), third);
}

/// A reboot starts the server and looks for an update; what was on trial is judged then.
#[test]
fn updates_after_a_reboot() {
    let mut booted = Booted::installed("");
    booted.done(&format!("{HASTY}; rm -f /home/nat64ho/releases/*/good /home/nat64ho/fetched"));
    let log = booted.done("cat /home/nat64ho/logs/events.log");
    booted.reboot();
    assert_eq!(booted.done("systemctl is-active nat64handoff"), "active\n");
    assert_eq!(booted.done("cat /home/nat64ho/logs/events.log"), log);
    let judged =
        wait_until(UPDATE_MAX, || booted.run("ls /home/nat64ho/releases/*/good").code == 0);
    assert!(judged, "{}", booted.run("journalctl --no-pager -n 60").text);
}
