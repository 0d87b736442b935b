//! What to do where the kernel refuses programs or maps, also to root.

use std::fs;

use rustix::process::geteuid;
use rustix::system::uname;

use crate::kernel::bpf::{BpfError, BpfStep};
use crate::kernel::release;
use crate::programs::exit::ExitError;

/// Which version has all that the programs want.
const PEER_NAMES_SINCE: (u32, u32) = (5, 8);
/// Until then maps are locked memory.
const LOCKED_UNTIL: (u32, u32) = (5, 11);
/// Bits of CAP_BPF, CAP_NET_ADMIN, and CAP_SYS_ADMIN, which has all that the first has.
const MAY_LOAD: u64 = 1 << 39;
const MAY_ATTACH: u64 = 1 << 12;
const MAY_ALL: u64 = 1 << 21;

/// What the kernel refused, and what to do.
pub(super) fn explained(error: BpfError) -> ExitError {
    let is = |number: i32| error.cause.raw_os_error() == Some(number);
    let version = uname().release().to_str().ok().and_then(release::version);
    let is_old = version.is_some_and(|version| version < PEER_NAMES_SINCE);
    let what = if is_old {
        "this kernel is too old for it: it takes Linux 5.8, and 6.0 for a server that is not root"
    } else if (is(libc::EPERM) || is(libc::EACCES)) && geteuid().is_root() {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let locks = version.is_some_and(|version| version < LOCKED_UNTIL);
        let root = Root { status: read("/proc/self/status"), users: read("/proc/self/uid_map") };
        root.lacks(error.step == BpfStep::Map && locks)
    } else if is(libc::EPERM) || is(libc::EACCES) {
        "it takes root, or CAP_BPF and CAP_NET_ADMIN"
    } else if is(libc::ENOSYS) || is(libc::EINVAL) && error.step != BpfStep::Open {
        "this kernel was made without it (CONFIG_CGROUP_BPF)"
    } else if is(libc::ENOMEM) {
        "there is no memory for that many names: choose fewer by --names-max"
    } else if error.is_of_another_version() {
        "attach them anew: as root, nat64handoff peer-names attach, and restart the server"
    } else if is(libc::ENOENT) && error.step == BpfStep::Open {
        "attach the programs first: as root, nat64handoff peer-names attach"
    } else {
        "see what the kernel's log says"
    };
    ExitError::failed(format_args!("{error}; {what}"))
}

/// What this process, which is root, may do: files of /proc.
struct Root {
    status: String,
    users: String,
}

impl Root {
    /// Why it may not do this. A kernel that is locked down (Secure Boot) is no reason: the
    /// programs read no memory of its own.
    fn lacks(&self, is_locked_memory: bool) -> &'static str {
        let of = |name| self.status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let capabilities = of("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        let capabilities = capabilities.unwrap_or(u64::MAX);
        // All users of the host are there, and none has another number.
        let is_hosts = self.users.split_whitespace().eq(["0", "0", "4294967295"]);
        let has = |bits| capabilities & bits != 0;
        if !self.users.is_empty() && !is_hosts {
            "this is the root of a user namespace, which may not: do it as root of the host"
        } else if !(has(MAY_LOAD) || has(MAY_ALL)) || !(has(MAY_ATTACH) || has(MAY_ALL)) {
            "root may not here, without CAP_BPF and CAP_NET_ADMIN: in a container, do it on its host"
        } else if of("Seccomp:") == Some("2") {
            "a filter of system calls (seccomp) is in the way: in a unit, let it by SystemCallFilter=bpf; in a \
             container, do it on its host"
        } else if is_locked_memory {
            "before Linux 5.11 maps are locked memory, of which it may have too little: raise that \
             (LimitMEMLOCK=infinity in a unit, ulimit -l unlimited in a shell), or choose fewer names by --names-max"
        } else {
            "a security module (SELinux, AppArmor) may have refused it: see what the kernel's log says"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_told_why_it_may_not() {
        let all = "         0          0 4294967295\n";
        let lacks = |capabilities: &str, seccomp: &str, users: &str, is_locked| {
            let status = format!("CapEff:\t{capabilities}\nSeccomp:\t{seccomp}\n");
            Root { status, users: users.to_owned() }.lacks(is_locked)
        };
        let full = "000001ffffffffff";
        assert!(lacks(full, "0", "0 1000 1\n", false).contains("user namespace"));
        assert!(lacks("00000000a80425fb", "2", all, false).contains("without CAP_BPF"));
        assert!(lacks("0000008000000000", "0", all, false).contains("CAP_NET_ADMIN"));
        assert!(lacks("0000008000001000", "2", all, false).contains("seccomp"));
        assert!(lacks(full, "0", all, true).contains("LimitMEMLOCK"));
        assert!(lacks(full, "0", all, false).contains("SELinux"));
    }
}
