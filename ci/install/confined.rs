//! What the service may not do, tried from within it; and the watchdog.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::threads;
use std::time::Duration;

/// At most, as systemd-analyze counts.
const EXPOSURE_MAX: f64 = 1.5;
const RESTART_MAX: Duration = Duration::from_secs(30);

#[test]
fn service_is_confined() {
    let booted = Booted::installed("--no-update");
    let exposure = booted.exposure();
    assert!(exposure <= EXPOSURE_MAX, "{exposure}");
    assert!(booted.server_has_no_capability());
    let said = booted.done("journalctl --no-pager --unit=nat64handoff");
    assert!(said.contains("on io_uring"), "{said}");
    assert!(!said.contains("sock_diag"), "live connections are seen: {said}");
    assert!(!said.contains("not confined"), "Landlock: {said}");
    // What compresses the log waits for all others.
    let nice = booted.done("ps -eL -o ni=,comm= | grep logarchive");
    assert_eq!(nice.trim(), "19 logarchive");
    // The same service, but for what it executes: each of these must fail.
    let forbidden = [
        ("write the system", "echo >/etc/x"),
        ("write its releases", "echo >/home/nat64ho/releases/x"),
        ("write its settings", "echo >>/home/nat64ho/settings"),
        ("read another's home", "ls /root/checkout"),
        ("see other processes", "ls -d /proc/1/fd/0"),
        ("execute what it wrote", "cp /bin/true /home/nat64ho/state/x && /home/nat64ho/state/x"),
        (
            "execute what is in memory",
            "cp /bin/true /tmp/x && /tmp/x || { cp /bin/true /dev/shm/x && /dev/shm/x; }",
        ),
        ("have a raw socket", "python3 -c 'import socket; socket.socket(2, 3, 1)'"),
        ("have a packet socket", "python3 -c 'import socket; socket.socket(17, 3, 0)'"),
        ("have IPv6", "python3 -c 'import socket; socket.socket(10, 2, 0)'"),
        (
            "have a privileged port",
            "python3 -c 'import socket; socket.socket(2, 2, 0).bind((\"\", 9))'",
        ),
        ("make a namespace", "unshare --user true"),
        ("set the clock", "date -s 2020-01-01"),
        ("mount", "mount -t tmpfs x /tmp"),
        ("trace", "python3 -c 'import ctypes; exit(ctypes.CDLL(None).ptrace(0, 0, 0, 0) < 0)'"),
        (
            "map memory to write and execute",
            "python3 -c 'import mmap; mmap.mmap(-1, 4096, prot=7)'",
        ),
        ("become a device's reader", "head -c 1 /dev/mem"),
    ];
    // What the others need does work.
    let allowed = "touch /home/nat64ho/state/y /home/nat64ho/logs/y && rm /home/nat64ho/state/y /home/nat64ho/logs/y && \
                   python3 -c 'import ctypes, mmap, socket; socket.socket(2, 2, 0); ctypes.CDLL(None).getpid()'";
    let mut all = String::new();
    for (number, (_, script)) in forbidden.iter().enumerate() {
        all.push_str(&format!("( {script} ) && echo MAY {number}.\n"));
    }
    let said = tries(&booted, &format!("{all}\n{allowed} && echo CAN\ntrue"));
    assert!(said.contains("CAN"), "{said}");
    for (number, (what, _)) in forbidden.iter().enumerate() {
        assert!(!said.contains(&format!("MAY {number}.")), "it may {what}: {said}");
    }
}

/// Runs a script in the confinement of the service.
fn tries(booted: &Booted, script: &str) -> String {
    booted.done(&format!(
        "systemctl cat nat64handoff | grep -v '^ExecStart\\|^Restart\\|^Watchdog\\|^# /' | sed 's/^Type=.*/Type=oneshot/' \
         >/run/systemd/system/try.service && cat >/run/try <<'X'\n{script}\nX\nprintf '[Service]\\nExecStart=/bin/bash \
         /run/try\\n' >>/run/systemd/system/try.service && systemctl daemon-reload"
    ));
    booted.run("systemctl start try; journalctl --no-pager --unit=try").text
}

/// A reactor whose thread is stopped is noticed, and the service starts again.
#[test]
fn service_with_a_stopped_thread_is_restarted() {
    let booted = Booted::installed("--no-update");
    booted.done(
        "mkdir -p /run/systemd/system/nat64handoff.service.d && printf '[Service]\\nWatchdogSec=4\\n' \
         >/run/systemd/system/nat64handoff.service.d/99.conf && systemctl daemon-reload && systemctl restart nat64handoff",
    );
    // It lives for longer than that while all is well.
    let server = booted.server();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(booted.server(), server);
    let task = threads::task(server, "reactor-1");
    let thread: i32 = task.rsplit('/').next().unwrap().parse().unwrap();
    stop_thread(thread);
    let restarted = wait_until(RESTART_MAX, || {
        // The process is not gone before its tracer has seen that.
        // SAFETY: takes numbers and a null pointer, which is allowed.
        unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        booted.property("NRestarts") != "0"
    });
    let said = booted.done("journalctl --no-pager --unit=nat64handoff | tail -n 60");
    assert!(restarted && said.contains("Watchdog timeout"), "{said}");
    let serves = wait_until(RESTART_MAX, || {
        booted.run("systemctl is-active --quiet nat64handoff").code == 0
    });
    assert!(serves, "{said}");
}

/// A signal would stop the whole process: a tracer stops one thread, and stays.
fn stop_thread(thread: i32) {
    // SAFETY: takes numbers alone.
    let traced = unsafe {
        let zero = std::ptr::null_mut::<libc::c_void>();
        libc::ptrace(libc::PTRACE_SEIZE, thread, zero, zero) == 0
            && libc::ptrace(libc::PTRACE_INTERRUPT, thread, zero, zero) == 0
    };
    assert!(traced, "{}", std::io::Error::last_os_error());
}

/// The manual is where man finds it, and completions are those of the program.
#[test]
fn service_has_its_manual() {
    let booted = Booted::installed("--no-update");
    for page in ["8/nat64handoff.8", "5/nat64handoff.toml.5"] {
        let page = booted.done(&format!("head -n 5 /usr/local/share/man/man{page}"));
        assert!(page.contains(".TH"), "{page}");
    }
    assert_eq!(booted.run("nat64handoff --version").code, 0);
    let checked = booted.done("nat64handoff self-check");
    assert!(checked.contains("took the proof"), "{checked}");
    // From root's home, where its user can write nothing: what the service has.
    let checked = booted.done("cd /root && nat64handoff check-config");
    let state = "state = \"/home/nat64ho/state\"";
    assert!(checked.contains(state) && checked.contains("# good"), "{checked}");
    let checked = booted.done("nat64handoff check-config --state /tmp/x");
    assert!(checked.contains("state = \"/tmp/x\""), "{checked}");
    // What root calls does not run as root, and has no terminal.
    booted.done(
        "cd /home/nat64ho && mkdir releases/other && printf '#!/bin/sh\nid -un; ps -o tty= -p $$\n' \
         >releases/other/nat64handoff && chmod 755 releases/other/nat64handoff && ln -sfn releases/other current",
    );
    assert_eq!(booted.done("nat64handoff"), "nat64ho\n?\n");
    assert_eq!(booted.done("stat -c %U:%F $(command -v nat64handoff)"), "root:regular file\n");
}
