//! Network namespaces without names: each lives as long as the value, and what runs in it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

/// Where the namespace of the calling thread is found.
const OWN: &str = "/proc/thread-self/ns/net";

pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A namespace with nothing but a loopback device that is up. It forwards packets.
    pub fn new() -> Namespace {
        let made = thread::spawn(|| {
            // SAFETY: takes flags alone; only this thread changes, and it ends here.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                panic!("no network namespace can be made: {}", io::Error::last_os_error());
            }
            File::open(OWN).unwrap()
        });
        let namespace = Namespace { file: made.join().unwrap() };
        namespace.inside(|| {
            set("ipv4/ip_forward", "1");
            set("ipv6/conf/all/forwarding", "1");
            for devices in ["all", "default"] {
                // Addresses can be used at once.
                set(&format!("ipv6/conf/{devices}/accept_dad"), "0");
            }
        });
        namespace.ip("link set lo up");
        namespace
    }

    /// Does something with the calling thread in the namespace: sockets that it opens belong to it,
    /// and so do the processes that it starts.
    pub fn inside<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                enter(&self.0);
            }
        }
        let _back = Back(File::open(OWN).unwrap());
        enter(&self.file);
        work()
    }

    /// Runs `ip` in it, once for all lines.
    pub fn ip(&self, lines: &str) {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.inside(|| command.spawn().unwrap());
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip: {error}of\n{lines}");
    }

    /// The name by which `ip` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Sets a `net` sysctl of the calling thread's namespace.
fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

fn enter(namespace: &File) {
    // SAFETY: takes numbers alone; only the calling thread changes.
    let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "setns: {}", io::Error::last_os_error());
}
