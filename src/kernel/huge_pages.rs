//! Huge pages for the tables: with many large tables a request waits a third less for memory,
//! because the processor finds more of the pages in its TLB.
//!
//! The C library's malloc asks the kernel for them where GLIBC_TUNABLES says so when a program
//! starts. So the program sets that variable and executes itself once more, before it does anything
//! else. A small server does not grow by them: the kernel makes them only where memory is used in
//! pieces of that size.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fs};

use crate::kernel::signals;

const TUNABLES: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.hugetlb";
/// Set for the second execution, so that there is no third one whatever becomes of the tunables.
const EXECUTED: &str = "EXECUTED_BY_NAT64HANDOFF_FOR_HUGE_PAGES";

/// Makes malloc ask for huge pages: executes this program once more, with the same arguments.
/// Returns where the user has decided about huge pages already
/// (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` says no), and where this is the second execution or it
/// cannot work. Then the program just goes on.
pub fn ask() {
    let Some(tunables) = wanted(env::var_os(TUNABLES), env::var_os(EXECUTED).is_some()) else {
        return;
    };
    if !heeds_tunables(&fs::read("/proc/self/auxv").unwrap_or_default()) {
        return;
    }
    let mut arguments = env::args_os();
    if let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) {
        // This returns only if it failed, for example because the program's file was replaced.
        let _ = Command::new(program)
            .arg0(name)
            .args(arguments)
            .env(TUNABLES, tunables)
            .env(EXECUTED, "1")
            .exec();
        // `exec` reset SIGPIPE to its default before it failed; ignore it again.
        signals::ignore_broken_pipes();
    }
}

/// Whether this program's C library heeds tunables, by the auxiliary vector that the kernel gave
/// it. It does not where the program is linked statically, or got privileges from its file. And
/// where the loader was called with the program as an argument, executing again would execute the
/// loader.
fn heeds_tunables(auxv: &[u8]) -> bool {
    /// The loader's address: 0 without a loader, or if the loader itself was executed.
    const AT_BASE: usize = 7;
    const AT_SECURE: usize = 23;
    let mut words = auxv
        .chunks_exact(size_of::<usize>())
        .map(|word| usize::from_ne_bytes(word.try_into().expect("a chunk is as long as a word")));
    let (mut base, mut secure) = (0, 1);
    while let (Some(kind), Some(value)) = (words.next(), words.next()) {
        match kind {
            AT_BASE => base = value,
            AT_SECURE => secure = value,
            _ => {}
        }
    }
    cfg!(target_env = "gnu") && base != 0 && secure == 0
}

/// The tunables to execute the program again with, or `None` if that is not wanted.
fn wanted(tunables: Option<OsString>, executed: bool) -> Option<OsString> {
    let tunables = tunables.unwrap_or_default();
    let is_said = |one: &[u8]| {
        one.strip_prefix(TUNABLE.as_bytes()).is_some_and(|value| value.starts_with(b"="))
    };
    if executed || tunables.as_encoded_bytes().split(|&octet| octet == b':').any(is_said) {
        return None;
    }
    let separator = if tunables.is_empty() { "" } else { ":" };
    let more: [&OsStr; 4] = [&tunables, separator.as_ref(), TUNABLE.as_ref(), "=1".as_ref()];
    Some(more.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_where_nothing_was_said() {
        let wanted = |tunables: &str| wanted(Some(tunables.into()), false);
        let one = || Some(OsString::from("glibc.malloc.hugetlb=1"));
        assert_eq!(super::wanted(None, false), one());
        assert_eq!(wanted(""), one());
        assert_eq!(wanted("glibc.malloc.hugetlb=0"), None);
        assert_eq!(wanted("glibc.malloc.check=3:glibc.malloc.hugetlb=2"), None);
        let other = "glibc.malloc.check=3:glibc.malloc.hugetlb_of_others=1:glibc.malloc.hugetlb";
        assert_eq!(wanted(other), Some(format!("{other}:glibc.malloc.hugetlb=1").into()));
        assert_eq!(super::wanted(None, true), None, "executed already");
    }

    #[test]
    fn not_in_vain_and_not_the_loader() {
        let auxv = |pairs: &[[usize; 2]]| -> Vec<u8> {
            pairs.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let heeds =
            |base, secure| heeds_tunables(&auxv(&[[6, 4096], [7, base], [23, secure], [0, 0]]));
        assert_eq!(heeds(0x7000_0000, 0), cfg!(target_env = "gnu"));
        assert!(!heeds(0, 0), "by the loader, or without one");
        assert!(!heeds(0x7000_0000, 1), "with privileges");
        assert!(!heeds_tunables(&auxv(&[[7, 1]])[..15]) && !heeds_tunables(&[]), "unknown");
        assert_eq!(heeds_tunables(&fs::read("/proc/self/auxv").unwrap()), cfg!(target_env = "gnu"));
    }
}
