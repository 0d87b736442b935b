//! Why io_uring cannot be used on this system, and what to do about it.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;

use crate::kernel::limits;
use crate::kernel::release::version;

/// The first kernel with all that a ring needs: IORING_SETUP_DEFER_TASKRUN came last.
const LINUX_MIN: (u32, u32) = (6, 1);

/// Why this system does not let us use io_uring. Its text is one line that ends in what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingRefused {
    /// The administrator has switched it off: for everyone (2), or for unprivileged processes (1).
    Sysctl(u8),
    /// A seccomp profile, as containers have by default, or another security module.
    Seccomp,
    /// The kernel, of this release, lacks io_uring or a part of it.
    KernelTooOld(String),
    /// Not enough memory, or not enough that may be locked.
    Memory,
    /// Any other error.
    Other(String),
}

impl fmt::Display for RingRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingRefused::Sysctl(1) => f.write_str(
                "io_uring is disabled for unprivileged processes by sysctl \
                 kernel.io_uring_disabled=1: set it to 0, or run in the group of \
                 kernel.io_uring_group",
            ),
            RingRefused::Sysctl(value) => write!(
                f,
                "io_uring is disabled by sysctl kernel.io_uring_disabled={value}: set it to 0"
            ),
            RingRefused::Seccomp => f.write_str(
                "io_uring is refused by seccomp or a security module: use a profile that allows \
                 io_uring_setup, io_uring_enter and io_uring_register, or in a container \
                 --security-opt seccomp=unconfined",
            ),
            RingRefused::KernelTooOld(release) => write!(
                f,
                "io_uring lacks what is needed: use Linux {}.{} or later, this is {release}",
                LINUX_MIN.0, LINUX_MIN.1
            ),
            RingRefused::Memory => f.write_str(
                "io_uring did not get its memory: raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK= \
                 in systemd), the memory limit (MemoryMax=, LimitAS=) or sysctl vm.max_map_count",
            ),
            RingRefused::Other(error) => write!(f, "io_uring does not work here: {error}"),
        }
    }
}

impl Error for RingRefused {}

impl RingRefused {
    /// Finds out why a ring failed with `error`.
    pub fn explain(error: &io::Error) -> Self {
        let Some(errno) = error.raw_os_error() else {
            return RingRefused::Other(error.to_string());
        };
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        decide(errno, disabled.as_deref(), release.trim())
    }
}

/// What `errno` means, given the kernel's release and the value of kernel.io_uring_disabled, where
/// the kernel has that sysctl (since Linux 6.6).
fn decide(errno: i32, disabled: Option<&str>, release: &str) -> RingRefused {
    let disabled = disabled.and_then(|text| text.trim().parse().ok());
    let too_old = version(release).is_some_and(|version| version < LINUX_MIN);
    match (errno, disabled) {
        (libc::EPERM, Some(value @ 1..)) => RingRefused::Sysctl(value),
        (libc::EPERM | libc::EACCES, _) => RingRefused::Seccomp,
        (libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP, _) if too_old => {
            RingRefused::KernelTooOld(release.to_owned())
        }
        (libc::ENOSYS, _) => RingRefused::Seccomp,
        (libc::ENOMEM, _) => RingRefused::Memory,
        _ => {
            RingRefused::Other(limits::explained(&io::Error::from_raw_os_error(errno)).to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_from_the_others() {
        let new = "6.18.44-fc";
        let old = "5.15.0-91-generic";
        let table = [
            (libc::EPERM, Some("2\n"), new, RingRefused::Sysctl(2)),
            (libc::EPERM, Some("1\n"), new, RingRefused::Sysctl(1)),
            (libc::EPERM, Some("0\n"), new, RingRefused::Seccomp),
            (libc::EPERM, None, old, RingRefused::Seccomp),
            (libc::EPERM, Some(""), new, RingRefused::Seccomp),
            (libc::EACCES, Some("0\n"), new, RingRefused::Seccomp),
            (libc::ENOSYS, Some("0\n"), new, RingRefused::Seccomp),
            (libc::ENOSYS, None, "4.4.0", RingRefused::KernelTooOld("4.4.0".into())),
            (libc::EINVAL, None, old, RingRefused::KernelTooOld(old.into())),
            (libc::EINVAL, None, "6.0.19", RingRefused::KernelTooOld("6.0.19".into())),
            (libc::ENOMEM, Some("0\n"), new, RingRefused::Memory),
        ];
        for (errno, disabled, release, refused) in table {
            assert_eq!(decide(errno, disabled, release), refused);
        }
        for errno in [libc::EINVAL, libc::EMFILE] {
            assert!(matches!(decide(errno, None, "6.1.0"), RingRefused::Other(_)));
        }
    }

    #[test]
    fn each_cause_is_one_line_with_the_next_step() {
        for (refused, step) in [
            (RingRefused::Sysctl(1), "kernel.io_uring_group"),
            (RingRefused::Sysctl(2), "kernel.io_uring_disabled=2: set it to 0"),
            (RingRefused::Seccomp, "--security-opt seccomp=unconfined"),
            (RingRefused::KernelTooOld("5.15.0".into()), "Linux 6.1 or later, this is 5.15.0"),
            (RingRefused::Memory, "RLIMIT_MEMLOCK"),
            (RingRefused::Other("odd".into()), "odd"),
        ] {
            let line = refused.to_string();
            assert!(line.contains(step), "{line}");
            assert!(!line.contains(['\n']) && !line.contains("  "), "{line}");
        }
    }
}
