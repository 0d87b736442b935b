//! Translation against those who judge it outside: the kernel, which must accept what is made and
//! answer it, and TAYGA, whose output is compared with ours octet by octet.
//!
//! They need root, for a network namespace and TUN devices of their own: the namespace belongs to
//! the test's thread and is gone with it, whatever happens. TAYGA and `ip` are installed by apt-get
//! if they are missing.

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "translate/cases.rs"]
mod cases;
#[path = "judge/mod.rs"]
mod judge;
#[path = "translate/namespace.rs"]
mod namespace;
#[path = "harness/skip.rs"]
mod skip;

#[path = "translate/kernel.rs"]
mod kernel;
#[path = "translate/tayga.rs"]
mod tayga;
