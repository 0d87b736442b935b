//! The options of `ban-set`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// Options of `ban-set`.
#[derive(Debug, Args)]
pub struct BanSetOptions {
    /// The set of nftables: family (inet or ip), table and name
    #[arg(long, value_name = "SET", default_value = "inet nat64handoff banned")]
    pub set: SetName,
    /// The admin socket [default: that of `serve`]
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) const BAN_SET: &str = "\
Follows the server at its admin socket, and needs CAP_NET_ADMIN; the set is made where it is not there. The rule that \
uses it is the operator's, in a table of the same name:

  nft add chain inet nat64handoff input '{ type filter hook input priority -10; }'
  nft add rule inet nat64handoff input ip saddr . th sport . ip daddr @banned drop";

/// A set of nftables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetName {
    pub family: String,
    pub table: String,
    pub set: String,
}

/// What is no name of a set.
#[derive(Debug, thiserror::Error)]
#[error("no set; write its family (inet or ip), table and name, like \"inet nat64handoff banned\"")]
pub struct NotASet;

impl FromStr for SetName {
    type Err = NotASet;

    fn from_str(text: &str) -> Result<Self, NotASet> {
        let words: Vec<_> = text.split_whitespace().collect();
        let [family, table, set] = words[..] else { return Err(NotASet) };
        let is_name = |word: &str| {
            word.starts_with(|first: char| first.is_ascii_alphabetic())
                && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        if !["inet", "ip"].contains(&family) || !is_name(table) || !is_name(set) {
            return Err(NotASet);
        }
        let [family, table, set] = [family, table, set].map(str::to_owned);
        Ok(Self { family, table, set })
    }
}

/// As nft wants it.
impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sets() {
        let set: SetName = " inet  filter banned_clients".parse().unwrap();
        assert_eq!(set.to_string(), "inet filter banned_clients");
        for text in
            ["", "banned", "ip6 filter banned", "inet filter b;", "inet filter {x}", "inet a b c"]
        {
            assert!(text.parse::<SetName>().is_err(), "{text}");
        }
    }
}
