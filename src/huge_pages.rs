//! Huge pages for the tables: with many large ones a request waits a third less for its memory, as the
//! processor finds the pages in its own tables.
//!
//! The C library's malloc asks the kernel for them where GLIBC_TUNABLES says so when a program starts. So a program
//! that wants them sets that and executes itself once more, before it does anything else. A small server has the
//! same size with them, as they are made where memory is used in such large pieces.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

const TUNABLES: &str = "GLIBC_TUNABLES";
const TUNABLE: &str = "glibc.malloc.hugetlb";
/// In the environment of who was executed once more. A program with privileges of its own does not get to see
/// GLIBC_TUNABLES, and would not know otherwise.
const ASKED: &str = "NAT64HANDOFF_ASKED_FOR_HUGE_PAGES";

/// Sees to it that malloc asks for huge pages: executes this program once more, with the same arguments, where nobody
/// has said anything of that (`GLIBC_TUNABLES=glibc.malloc.hugetlb=0` says no). Returns where that is not to be, or
/// cannot be: it goes without them.
pub fn ask() {
    let Some(tunables) = wanted(env::var_os(TUNABLES), env::var_os(ASKED).is_some()) else {
        return;
    };
    let mut arguments = env::args_os();
    if let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) {
        // If it comes back from there, it did not work: the program's file was replaced, or the like.
        let _ = Command::new(program)
            .arg0(name)
            .args(arguments)
            .env(TUNABLES, tunables)
            .env(ASKED, "1")
            .exec();
    }
}

/// What the tunables should be instead, if they should.
fn wanted(tunables: Option<OsString>, asked: bool) -> Option<OsString> {
    let tunables = tunables.unwrap_or_default();
    let is_said = |one: &[u8]| {
        one.strip_prefix(TUNABLE.as_bytes()).is_some_and(|value| value.starts_with(b"="))
    };
    if asked || tunables.as_encoded_bytes().split(|&octet| octet == b':').any(is_said) {
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
        assert_eq!(super::wanted(None, true), None, "asked already");
    }
}
