//! The Debian package of the program under test: what lintian says of it, and its life in a Debian
//! that is booted.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use crate::judge::LEISURE;
use crate::port::{nothing_is_lost, under_load};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Packs what is built already.
fn package(folder: &Path, version: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_nat64handoff"));
    let built = program.parent().unwrap();
    let profile = match built.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let package = folder.join(format!("{version}.deb"));
    // It strips the program into a file of the target folder that all of them share.
    static PACKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = PACKING.lock().unwrap_or_else(PoisonError::into_inner);
    let packed = Command::new("cargo-deb")
        .args(["deb", "--no-build", "--offline", "--fast", "--profile", profile])
        .args(["--deb-version", version, "--output"])
        .arg(&package)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", built.parent().unwrap())
        .output();
    match packed {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            cannot_run("cargo-deb (cargo install cargo-deb --locked)")
        }
        Err(error) => panic!("cargo-deb: {error}"),
    }
    package
}

#[test]
fn package_passes_lintian() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path(), "0.1.0");
    let mut lintian = Command::new("lintian");
    let checked =
        lintian.args(["--fail-on", "error,warning", "--allow-root"]).arg(package).output();
    let Ok(output) = checked else { cannot_run("lintian (Debian's package of that name)") };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Of all units of the package, the server alone runs.
fn serves_alone(booted: &Booted) {
    let said = || booted.run("journalctl --no-pager -n 40 -u nat64handoff").text;
    let is_active = || booted.run("systemctl is-active nat64handoff").text == "active\n";
    assert!(wait_until(LEISURE, is_active), "{}", said());
    assert_eq!(booted.property("NRestarts"), "0", "{}", said());
    let enabled =
        "systemctl list-unit-files --no-legend --state=enabled 'nat64handoff*' | cut -d ' ' -f 1";
    assert_eq!(booted.done(enabled), "nat64handoff.service\n");
}

/// As DELIVERY.md has it.
fn delivers_as_the_manual_says(booted: &Booted) {
    booted.done(
        "mkdir -p /etc/systemd/system/nat64handoff.service.d && cp /usr/share/nat64handoff/deliver.conf \
         /etc/systemd/system/nat64handoff.service.d/ && printf 'deliver = \"native\"\\ndeliver-service = \
         [\"64:ff9b::203.0.113.5\"]\\n' >>/etc/nat64handoff.toml && systemctl daemon-reload && systemctl --quiet enable \
         --now /usr/share/nat64handoff/nat64handoff-deliver.service && systemctl restart nat64handoff",
    );
}

/// Installed it serves; an upgrade under load loses no request; what is removed keeps log, state
/// and options, and of what is purged nothing is left.
#[test]
fn package_serves_is_upgraded_and_goes_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let versions = ["0.1.0", "0.1.1"];
    let packages = versions.map(|version| package(folder.path(), version));
    let booted = Booted::new();
    for (version, package) in versions.iter().zip(&packages) {
        booted.bring(package, &format!("/root/{version}.deb"));
    }
    // Machines that are containers themselves have it, and then no package starts anything.
    booted.done("rm -f /usr/sbin/policy-rc.d");
    let accounts = || booted.done("cat /etc/passwd /etc/group /etc/shadow");
    let before = (booted.files(), accounts());

    let other = booted.run("mkdir /home/nat64ho; touch /home/nat64ho/install; dpkg -i 0.1.0.deb");
    assert!(other.code == 1 && other.text.contains("--uninstall"), "{}", other.text);
    booted.done("rm -r /home/nat64ho; dpkg --purge nat64handoff 2>&1");

    booted.done("DEBIAN_FRONTEND=noninteractive dpkg -i 0.1.0.deb");
    serves_alone(&booted);
    assert_eq!(
        booted.done("stat -c %U:%a /var/log/nat64handoff /var/lib/nat64handoff"),
        "nat64ho:750\nnat64ho:700\n"
    );
    let answered = booted.done("nat64handoff self-check --config /etc/nat64handoff.toml");
    assert!(answered.contains("took the proof that came back"), "{answered}");
    let twice = booted.install("--no-update");
    assert!(twice.code == 1 && twice.text.contains("Debian package"), "{}", twice.text);

    booted.done("echo '# by hand' >>/etc/nat64handoff.toml");
    booted.done("systemctl enable --now nat64handoff-export@journald 2>&1");
    let has_cursor = "test -s /var/lib/nat64handoff-export/journald";
    assert!(wait_until(LEISURE, || booted.run(has_cursor).code == 0));
    let exporter = || {
        let process = "$(systemctl show --property=MainPID --value nat64handoff-export@journald)";
        booted.done(&format!("echo {process}; readlink /proc/{process}/exe"))
    };
    let first_exporter = exporter();
    let first = booted.server();
    nothing_is_lost(&under_load(&booted, || {
        booted.done("DEBIAN_FRONTEND=noninteractive dpkg -i 0.1.1.deb");
    }));
    assert_ne!(booted.server(), first, "the new program runs");
    assert_eq!(
        booted.done("dpkg-query --show --showformat='${Version} ${Status}' nat64handoff"),
        "0.1.1 install ok installed"
    );
    let log = "cat /var/log/nat64handoff/events.log";
    assert!(booted.done(log).contains("Initialized 127.64.64.9"));
    // What exports the events runs the new program, too, and reads that log.
    let second_exporter = exporter();
    assert_ne!(second_exporter, first_exporter);
    assert!(second_exporter.ends_with("/usr/bin/nat64handoff\n"), "{second_exporter}");
    let exported = "journalctl --no-pager -t nat64handoff EVENT=Initialized";
    let is_exported = || booted.run(exported).text.contains("Initialized 127.0.");
    let said = || booted.run("journalctl --no-pager -n 40 -u 'nat64handoff-export@*'").text;
    assert!(wait_until(LEISURE, is_exported), "{}", said());

    delivers_as_the_manual_says(&booted);
    let addresses = "ip -o addr show dev ho0";
    assert!(booted.done(addresses).contains("64:ff9b::cb00:7105/128"));
    booted.done("dpkg --remove nat64handoff");
    assert_eq!(booted.run(addresses).code, 1, "the device is gone");
    assert_eq!(booted.run("systemctl is-active nat64handoff").text, "inactive\n");
    assert!(booted.done(log).contains("Initialized 127.64.64.9"));
    booted.done("grep 'by hand' /etc/nat64handoff.toml; ls /var/lib/nat64handoff/current");
    booted.done("dpkg --purge nat64handoff");
    assert_eq!(booted.run("ls -d /var/l*/*nat64handoff* /usr/share/*/*nat64handoff*").code, 2);
    let after = (booted.files(), accounts());
    assert_eq!(after, before);
}
