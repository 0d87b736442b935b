//! Lines of the event log about the pool of IPv4 peer names, which are no lines about a NAT64.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Which address stands for whom, as the lines say so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Names {
    by_address: HashMap<Ipv4Addr, String>,
    by_client: HashMap<String, Ipv4Addr>,
    /// Lines.
    pub named: usize,
    pub unnamed: usize,
}

impl Names {
    /// Those of a log.
    pub fn of(log: &str) -> Names {
        let mut names = Names::default();
        for line in log.lines() {
            if let Some(Err(error)) = names.take(line) {
                panic!("{error}: {line:?}");
            }
        }
        names
    }

    /// None where the line is about something else; what is wrong where it cannot stand there.
    pub fn take(&mut self, line: &str) -> Option<Result<(), String>> {
        let words: Vec<_> = line.split(' ').collect();
        let begins = match words.get(2).copied() {
            Some("Named") => true,
            Some("Unnamed") => false,
            _ => return None,
        };
        Some(self.apply(begins, &words[3..]))
    }

    fn apply(&mut self, begins: bool, words: &[&str]) -> Result<(), String> {
        let [address, client] = words else { return Err("no address and client".into()) };
        let address: Ipv4Addr = address.parse().map_err(|_| "no address of IPv4")?;
        let client = client.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let client = client.ok_or("no client in brackets")?;
        let alone = client.strip_suffix("/64").unwrap_or(client);
        alone.parse::<Ipv6Addr>().map_err(|_| "no client")?;
        let (had, has) = (self.by_address.get(&address), self.by_client.get(client));
        if begins {
            self.named += 1;
            if had.is_some() || has.is_some() {
                return Err(format!("the address is {had:?}'s, and the client has {has:?}"));
            }
            self.by_address.insert(address, client.to_owned());
            self.by_client.insert(client.to_owned(), address);
            return Ok(());
        }
        self.unnamed += 1;
        if had.map(String::as_str) != Some(client) {
            return Err(format!("the address is {had:?}'s"));
        }
        self.by_address.remove(&address);
        self.by_client.remove(client);
        Ok(())
    }

    /// Who is, or was, named.
    pub fn address_of(&self, client: Ipv6Addr) -> Option<Ipv4Addr> {
        let net = Ipv6Addr::from_bits(client.to_bits() & u128::MAX << 64);
        let all = [client.to_string(), format!("{net}/64")];
        all.iter().find_map(|client| self.by_client.get(client)).copied()
    }

    pub fn len(&self) -> usize {
        self.by_address.len()
    }
}
