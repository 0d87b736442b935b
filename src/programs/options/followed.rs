//! The options of `follow`, and the collectors that it sends to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::disk::eventlog::FollowCursor;

/// Options of `follow`.
#[derive(Debug, Args)]
pub struct FollowOptions {
    /// Where to begin: start, now, or a time as `who --at` takes it. What --cursor has goes first
    #[arg(long, value_name = "start|now|TIME", default_value = "now")]
    pub from: String,
    /// Begin behind this line: its "cursor", as --json told it
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["from", "cursor"])]
    pub after: Option<FollowCursor>,
    /// Keep in this file how far it came, and go on from there
    #[arg(long, value_name = "FILE")]
    pub cursor: Option<PathBuf>,
    /// Print JSON: an object for each event, with its cursor
    #[arg(long)]
    pub json: bool,
    /// Send the events there instead: journald, syslog+unix:PATH, syslog+udp://HOST:PORT,
    /// syslog+tcp://HOST:PORT, ipfix+udp://HOST:PORT or ipfix+tcp://HOST:PORT
    #[arg(long, value_name = "COLLECTOR", conflicts_with = "json")]
    pub to: Option<Collector>,
    /// End where the log ends, instead of waiting for more
    #[arg(long)]
    pub no_wait: bool,
    /// The event log [default: that of `serve`]
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) const FOLLOW_EXAMPLES: &str = "\
Prints the lines of the event log as they come, in order, over the files of all days; the server need not run. Each \
comes exactly once to a reader that keeps the cursor of --json itself and gives it back by --after; --cursor counts what a \
pipe has taken, of which its reader may lose up to 64 KiB when it ends, and repeats at most 4 KiB where this is killed.

  nat64handoff follow --json --from '2 hours ago'
  nat64handoff follow --from start --cursor /var/lib/mine/cursor | mine
  nat64handoff follow --to syslog+tcp://192.0.2.1:514 --cursor /var/lib/mine/cursor";

/// Whom events are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// As it was written.
    text: String,
    pub format: CollectorFormat,
    pub place: CollectorPlace,
}

/// What it understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectorFormat {
    /// The native protocol of systemd's journal.
    Journald,
    /// RFC 5424.
    Syslog,
    /// RFC 7011.
    Ipfix,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectorPlace {
    /// A socket of datagrams.
    Unix(PathBuf),
    /// Host and port.
    Udp(String),
    /// Host and port.
    Tcp(String),
}

/// What is no collector.
#[derive(Debug, thiserror::Error)]
#[error(
    "no collector: give journald, syslog+unix:PATH, syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, \
     ipfix+udp://HOST:PORT or ipfix+tcp://HOST:PORT"
)]
pub struct NoCollector;

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_PORT: u16 = 514;
const IPFIX_PORT: u16 = 4739;

impl FromStr for Collector {
    type Err = NoCollector;

    fn from_str(text: &str) -> Result<Self, NoCollector> {
        let (format, place) = if text == "journald" {
            (CollectorFormat::Journald, CollectorPlace::Unix(JOURNAL_SOCKET.into()))
        } else if let Some(path) = text.strip_prefix("journald:") {
            (CollectorFormat::Journald, CollectorPlace::Unix(path.into()))
        } else if let Some(path) = text.strip_prefix("syslog+unix:") {
            (CollectorFormat::Syslog, CollectorPlace::Unix(path.into()))
        } else {
            let (scheme, host) = text.split_once("://").ok_or(NoCollector)?;
            let (format, port) = match scheme.split_once('+').ok_or(NoCollector)?.0 {
                "syslog" => (CollectorFormat::Syslog, SYSLOG_PORT),
                "ipfix" => (CollectorFormat::Ipfix, IPFIX_PORT),
                _ => return Err(NoCollector),
            };
            let host = with_port(host, port)?;
            match scheme.split_once('+') {
                Some((_, "udp")) => (format, CollectorPlace::Udp(host)),
                Some((_, "tcp")) => (format, CollectorPlace::Tcp(host)),
                _ => return Err(NoCollector),
            }
        };
        match &place {
            CollectorPlace::Unix(path) if !path.is_absolute() => Err(NoCollector),
            _ => Ok(Self { text: text.to_owned(), format, place }),
        }
    }
}

/// `192.0.2.1`, `192.0.2.1:514`, `[2001:db8::1]:514` or a name.
fn with_port(host: &str, port: u16) -> Result<String, NoCollector> {
    let host = host.trim_end_matches('/');
    let behind_address = host.rsplit_once(']').map_or(host, |(_, behind)| behind);
    let has_port = match behind_address.rsplit_once(':') {
        Some((_, digits)) => digits.parse::<u16>().map(|_| true).map_err(|_| NoCollector)?,
        None => false,
    };
    match host.is_empty() || host.starts_with(':') || host.contains(['/', ' ', '@']) {
        true => Err(NoCollector),
        false if has_port => Ok(host.to_owned()),
        false => Ok(format!("{host}:{port}")),
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_as_they_are_written() {
        use CollectorFormat::{Ipfix, Journald, Syslog};
        use CollectorPlace::{Tcp, Udp, Unix};
        for (text, format, place) in [
            ("journald", Journald, Unix("/run/systemd/journal/socket".into())),
            ("journald:/run/other", Journald, Unix("/run/other".into())),
            ("syslog+unix:/dev/log", Syslog, Unix("/dev/log".into())),
            ("syslog+udp://192.0.2.1", Syslog, Udp("192.0.2.1:514".into())),
            ("syslog+tcp://[2001:db8::1]:601", Syslog, Tcp("[2001:db8::1]:601".into())),
            ("ipfix+udp://[2001:db8::1]", Ipfix, Udp("[2001:db8::1]:4739".into())),
            ("ipfix+tcp://flows.example:4740/", Ipfix, Tcp("flows.example:4740".into())),
        ] {
            let collector: Collector = text.parse().unwrap();
            assert_eq!((collector.format, &collector.place), (format, &place), "{text}");
            assert_eq!(collector.to_string(), text);
        }
        for text in [
            "",
            "syslog",
            "journald:socket",
            "syslog+sctp://192.0.2.1",
            "netflow+udp://192.0.2.1",
            "syslog+udp://",
            "syslog+udp://192.0.2.1:port",
            "syslog+udp://192.0.2.1:70000",
            "syslog+udp://:514",
            "ipfix+udp:192.0.2.1:514",
        ] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
    }
}
