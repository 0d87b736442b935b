//! What the options of a fleet come to.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use super::fleet::FleetNode;
use super::table::ServeConfig;
use crate::disk::fleet::CellName;

/// What a host of a fleet has to know.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetOptions {
    pub nodes: Vec<FleetNode>,
    pub cell: CellName,
    pub host: u32,
    pub address: SocketAddrV4,
    /// At so many octets of records they are folded into snapshots.
    pub fold_at: u64,
    /// How long it goes on when it stops, at least.
    pub withdraw: Duration,
    pub authority: Option<PathBuf>,
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ServeConfig {
    /// Whether changes are kept on this host. Those of a fleet are in etcd.
    pub fn has_journal(&self) -> bool {
        self.journal && self.fleet.is_empty()
    }

    /// Whether this host shares its tables, and how.
    pub fn fleet_options(&self) -> Option<FleetOptions> {
        if self.fleet.is_empty() {
            return None;
        }
        Some(FleetOptions {
            nodes: self.fleet.clone(),
            cell: self.fleet_cell.clone(),
            host: self.fleet_host?,
            address: self.fleet_address?,
            fold_at: self.fleet_fold,
            withdraw: self.fleet_withdraw,
            authority: self.fleet_authority.clone(),
            identity: self.fleet_certificate.clone().zip(self.fleet_key.clone()),
        })
    }

    /// What a fleet wants and has not.
    pub fn fleet_lacks(&self) -> Option<String> {
        let what = if self.fleet.is_empty() {
            return None;
        } else if self.fleet_host.is_none() {
            "the number of this host, like --fleet-host 1"
        } else if self.fleet_address.is_none() {
            "where the others reach this host, like --fleet-address 198.51.100.1:64065"
        } else if self.fleet_certificate.is_some() != self.fleet_key.is_some() {
            "--fleet-certificate and --fleet-key together, or neither"
        } else {
            return None;
        };
        Some(format!("--fleet wants {what}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::programs::options::{Cli, Command, Environment, ServeConfig};

    fn resolve(arguments: &[&str]) -> ServeConfig {
        let arguments = ["nat64handoff", "serve"].iter().chain(arguments);
        let Command::Serve(options) = Cli::try_parse_from(arguments).unwrap().command else {
            panic!("that is serve")
        };
        options.resolve(&Environment::default()).unwrap()
    }

    #[test]
    fn a_host_of_a_fleet_has_a_number_and_an_address() {
        let with = |more: &[&str]| resolve(&[&["--fleet", "http://a:1"], more].concat());
        let named = |more: &[&str]| with(more).fleet_lacks().unwrap();
        assert!(named(&[]).contains("--fleet-host 1"));
        assert!(named(&["--fleet-host", "1"]).contains("--fleet-address 198.51.100.1:64065"));
        let whole = ["--fleet-host", "1", "--fleet-address", "198.51.100.1:64065"];
        let config = with(&whole);
        assert_eq!(config.fleet_lacks(), None);
        assert!(!config.has_journal());
        let options = config.fleet_options().unwrap();
        assert_eq!((options.host, options.nodes.len()), (1, 1));
        let half = [&whole[..], &["--fleet-key", "/k"]].concat();
        assert!(named(&half).contains("--fleet-certificate"));
        let alone = resolve(&whole);
        assert_eq!((alone.fleet_options(), alone.has_journal()), (None, true));
        let alone = resolve(&[]);
        assert_eq!((alone.fleet_cell.to_string().as_str(), alone.fleet_host), ("main", None));
    }
}
