//! The set, through the program `nft`: each change is one transaction.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::{self, ErrorKind, Write as _};
use std::process::{Command, Stdio};

use crate::programs::options::SetName;
use crate::programs::report::BannedPort;

/// Elements in a line, and in a transaction: in a user namespace, the kernel takes no 20,000 at
/// once.
const LINE_ELEMENTS: usize = 512;
const CHANGE_ELEMENTS: usize = 4096;

/// A set of nftables whose elements are (NAT64, port, address of this host).
#[derive(Debug, Clone)]
pub struct BanSet(SetName);

impl BanSet {
    pub fn new(name: SetName) -> Self {
        Self(name)
    }

    /// Makes it, if it is not there, with these elements alone.
    ///
    /// # Errors
    /// Where nft refuses: why, and what to do.
    pub fn write(&self, ports: &BTreeSet<BannedPort>) -> Result<(), String> {
        let all: Vec<_> = ports.iter().copied().collect();
        let (first, others) = all.split_at(all.len().min(CHANGE_ELEMENTS));
        self.run(&self.whole(first))?;
        others.chunks(CHANGE_ELEMENTS).try_for_each(|part| self.change(part, &[]))
    }

    /// Puts all elements in anew, as each ends by itself. None is out meanwhile.
    ///
    /// # Errors
    /// As above, and where one of them is not there.
    pub fn renew(&self, ports: &BTreeSet<BannedPort>) -> Result<(), String> {
        let all: Vec<_> = ports.iter().copied().collect();
        all.chunks(CHANGE_ELEMENTS).try_for_each(|part| self.change(part, part))
    }

    /// Takes elements out and puts others in.
    ///
    /// # Errors
    /// As above, and where one that is to go is not there.
    pub fn change(&self, added: &[BannedPort], removed: &[BannedPort]) -> Result<(), String> {
        if added.len().max(removed.len()) > CHANGE_ELEMENTS {
            removed.chunks(CHANGE_ELEMENTS).try_for_each(|part| self.change(&[], part))?;
            return added.chunks(CHANGE_ELEMENTS).try_for_each(|part| self.change(part, &[]));
        }
        let mut script = String::new();
        self.elements(&mut script, "delete", removed.iter());
        self.elements(&mut script, "add", added.iter());
        self.run(&script)
    }

    fn whole(&self, ports: &[BannedPort]) -> String {
        let Self(name) = self;
        let mut script = format!(
            "add table {} {}\n\
             add set {name} {{ type ipv4_addr . inet_service . ipv4_addr; flags timeout; timeout 5m; }}\n\
             flush set {name}\n",
            name.family, name.table
        );
        self.elements(&mut script, "add", ports.iter());
        script
    }

    fn elements<'a>(
        &self,
        script: &mut String,
        verb: &str,
        ports: impl ExactSizeIterator<Item = &'a BannedPort>,
    ) {
        let last = ports.len().saturating_sub(1);
        for (number, BannedPort(nat64, port, local)) in ports.enumerate() {
            if number % LINE_ELEMENTS == 0 {
                let _ = write!(script, "{verb} element {} {{ ", self.0);
            }
            let ends = number % LINE_ELEMENTS == LINE_ELEMENTS - 1 || number == last;
            let next = if ends { " }\n" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(script, "{nat64} . {port} . {local}{next}");
        }
    }

    fn run(&self, script: &str) -> Result<(), String> {
        let said = nft(script).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                "there is no program nft, which keeps the set: install nftables".to_owned()
            }
            _ => format!("nft cannot be run: {error}"),
        })?;
        let Some(said) = said else { return Ok(()) };
        let first = said.lines().next().unwrap_or_default();
        let name = &self.0;
        Err(if first.contains("not permitted") {
            format!("the set {name} cannot be changed: it takes root, or CAP_NET_ADMIN")
        } else if first.contains("File exists") {
            format!(
                "the set {name} is there, of another type; delete it, or name another by --set: this one wants type \
                 ipv4_addr . inet_service . ipv4_addr, flags timeout and timeout 5m"
            )
        } else {
            format!("the set {name} cannot be changed: nft says: {first}")
        })
    }
}

/// Runs it. Returns what it says, where it fails.
fn nft(script: &str) -> io::Result<Option<String>> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // It reads all before it says anything; one that ends before says why.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn scripts() {
        let set = BanSet::new("inet nat64handoff banned".parse().unwrap());
        let port =
            |port| BannedPort(Ipv4Addr::new(192, 0, 2, 7), port, Ipv4Addr::new(203, 0, 113, 5));
        let whole = set.whole(&[port(3719), port(5000)]);
        assert_eq!(
            whole,
            "add table inet nat64handoff\n\
             add set inet nat64handoff banned { type ipv4_addr . inet_service . ipv4_addr; flags timeout; \
             timeout 5m; }\n\
             flush set inet nat64handoff banned\n\
             add element inet nat64handoff banned { 192.0.2.7 . 3719 . 203.0.113.5, 192.0.2.7 . 5000 . \
             203.0.113.5 }\n"
        );
        assert_eq!(set.whole(&[]).lines().count(), 3);
        let many: Vec<_> = (0..1025).map(port).collect();
        let mut script = String::new();
        set.elements(&mut script, "delete", many.iter());
        assert_eq!((script.lines().count(), script.matches(" . 203.0").count()), (3, 1025));
        assert!(
            script.lines().all(|line| line.starts_with("delete element ") && line.ends_with(" }"))
        );
    }
}
