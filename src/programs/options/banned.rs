//! Which clients `ban` is about, and for how long.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use clap::Args;
use ipnet::Ipv6Net;

use crate::handoff::entry::Client;
use crate::programs::options::AskOptions;

/// Networks with a shorter prefix are banned only where that is said to be meant: a provider has as
/// much.
const PREFIX_MIN: u8 = 32;
/// The longest ban that ends.
const LENGTH_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Options of `ban`.
#[derive(Debug, Args)]
pub struct BanOptions {
    /// The client's IPv6 address, or a network of clients
    #[arg(value_name = "CLIENT[/LEN]", value_parser = clients)]
    pub client: Ipv6Net,
    /// How long, as 10m or 2h [default: until unban]
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    pub length: Option<Duration>,
    /// End its TCP connections, too: where `ban-set` runs
    #[arg(long)]
    pub kill: bool,
    /// Ban also more clients than a /32 has
    #[arg(long)]
    pub wide: bool,
    /// Where the server is asked.
    #[command(flatten)]
    pub ask: AskOptions,
}

/// Options of `unban`.
#[derive(Debug, Args)]
pub struct UnbanOptions {
    /// As it was banned: see `bans`
    #[arg(value_name = "CLIENT[/LEN]", value_parser = clients)]
    pub client: Ipv6Net,
    /// Where the server is asked.
    #[command(flatten)]
    pub ask: AskOptions,
}

/// Reads what clients are meant: an address or a network, whose host bits do not count.
///
/// # Errors
/// Where there are no such clients: what to write instead.
pub fn clients(text: &str) -> Result<Ipv6Net, String> {
    let bare = text.split_once('/').map_or(text, |(address, _)| address);
    if bare.parse::<Ipv4Addr>().is_ok() {
        return Err(format!(
            "{text:?} is of IPv4, and a ban is of the client behind a NAT64: `nat64handoff who ADDRESS:PORT` \
             names it"
        ));
    }
    let alone = || text.parse::<Ipv6Addr>().map(Ipv6Net::from);
    let net = text.parse::<Ipv6Net>().or_else(|_| alone()).map_err(|_| {
        format!(
            "{text:?} is no IPv6 address or network; write one, like 2001:db8::17 or 2001:db8:17::/64"
        )
    })?;
    if net.prefix_len() == 128 && !Client::can_have(net.addr()) {
        return Err(format!(
            "no client of a NAT64 has the address {text}; see `nat64handoff who ADDRESS:PORT`"
        ));
    }
    Ok(net.trunc())
}

/// Whether so many clients may be banned.
///
/// # Errors
/// Where that must be said to be meant.
pub fn not_too_wide(net: Ipv6Net, is_wide: bool) -> Result<(), String> {
    if net.prefix_len() < PREFIX_MIN && !is_wide {
        return Err(format!(
            "{net} is more than a whole provider has; say by --wide that it is meant, or give a longer prefix, \
             of {PREFIX_MIN} or more"
        ));
    }
    Ok(())
}

/// Reads how long a ban is.
///
/// # Errors
/// Where that is no time: what to write instead.
pub fn length(text: &str) -> Result<Duration, String> {
    // As fail2ban and CrowdSec have it: seconds.
    let seconds = text.parse().map(Duration::from_secs).ok();
    match seconds.or_else(|| humantime::parse_duration(text).ok()) {
        Some(length) if length > Duration::ZERO && length <= LENGTH_MAX => Ok(length),
        _ => Err(format!("{text:?} is no time from 1s to 100y; write one, like 90s, 10m or 2h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_can_be_banned() {
        let read = |text: &str| clients(text).map(|net| net.to_string());
        assert_eq!(read("2001:db8::17").unwrap(), "2001:db8::17/128");
        assert_eq!(read("2001:db8:17::5/64").unwrap(), "2001:db8:17::/64");
        for (text, next) in [
            ("192.0.2.7", "who"),
            ("100.64.0.7/32", "who"),
            ("::ffff:192.0.2.7", "who"),
            ("fe80::1", "who"),
            ("::", "who"),
            ("2001:db8::/129", "like 2001:db8::17"),
            ("example.org", "like 2001:db8::17"),
            ("", "like 2001:db8::17"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(next), "{text}: {error}");
        }
    }

    #[test]
    fn the_world_is_not_banned_by_a_slip() {
        for (net, is_wide, fits) in [
            ("2001:db8::/32", false, true),
            ("2001::/31", false, false),
            ("2000::/3", true, true),
            ("::/0", false, false),
        ] {
            assert_eq!(not_too_wide(net.parse().unwrap(), is_wide).is_ok(), fits, "{net}");
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(length("600"), Ok(Duration::from_secs(600)));
        assert_eq!(length("1h 5m"), Ok(Duration::from_secs(3900)));
        for text in ["0", "0s", "-1", "200y", "soon", ""] {
            assert!(length(text).unwrap_err().contains("like 90s"), "{text}");
        }
    }
}
