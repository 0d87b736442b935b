//! `nat64handoff ban-set`: the ports of banned clients as a set of nftables, and the end of their
//! connections.
//!
//! The server, which has no capability, tells which ports these are; this program, which has
//! CAP_NET_ADMIN, puts them into the set. It asks for what changed since it asked last, and for all
//! where the server does not know that any more. Elements of the set end by themselves, and are put
//! there anew meanwhile: so nobody is kept out for long by a set that nobody keeps.

mod nft;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::Duration;

use crate::kernel::clock::Clock;
use crate::kernel::signals::{self, EndSignal};
use crate::kernel::sock_diag::{Connection, SockDiag};
use crate::kernel::stderr::{say, warn};
use crate::kernel::{limits, service};
use crate::programs::ask::client::{AskedServer, Method};
use crate::programs::ask::read;
use crate::programs::ban_set::nft::BanSet;
use crate::programs::exit::ExitError;
use crate::programs::options::{AskOptions, BanSetOptions};
use crate::programs::report::{BannedPort, BannedPortsReport, EndOrder};
use crate::programs::serve::repeats::Repeats;

/// How long a question may take. The server answers one that has no news after two seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
/// After a question that was not answered.
const AGAIN: Duration = Duration::from_millis(200);
/// A server that does not answer for so long is not restarting: its NAT64s give out ports by
/// themselves.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Elements are put into the set anew so often, long before they end.
const ANEW_EVERY: Duration = Duration::from_secs(100);
/// After a change, so that many that come at once are few transactions.
const PAUSE: Duration = Duration::from_millis(10);

/// What is known of the ports, and was done.
struct KeptSet {
    set: BanSet,
    ports: BTreeSet<BannedPort>,
    /// The server's process, and how far it was heard.
    heard: Option<(u64, u64)>,
    heard_at: Duration,
    /// When all was written last; none where the set may have something else.
    written_at: Option<Duration>,
    /// The last order of this process of the server that was carried out.
    ordered: (u64, u64),
}

/// Keeps the set until it is told to end.
///
/// # Errors
/// Where the set cannot be made, or the configuration is wrong.
pub fn run(options: &BanSetOptions) -> Result<(), ExitError> {
    let stop = EndSignal::new().map_err(ExitError::failed)?;
    signals::let_through();
    let (admin, config) = (options.admin.clone(), options.config.clone());
    let asked = AskOptions { admin, config, json: false };
    let mut server = AskedServer::of(&asked)?;
    let (clock, mut repeats) = (Clock::new(), Repeats::default());
    let set = BanSet::new(options.set.clone());
    set.write(&BTreeSet::new()).map_err(ExitError::failed)?;
    say(format_args!("keeping the set {} of nftables", options.set));
    service::ready("keeps out banned clients");
    let mut kept = KeptSet {
        set,
        ports: BTreeSet::new(),
        heard: None,
        heard_at: clock.monotonic(),
        written_at: None,
        ordered: (0, 0),
    };
    while !stop.has_come() {
        let now = clock.monotonic();
        let troubles = [kept.turn(&server, &clock), kept.see_to(now)];
        for trouble in troubles.into_iter().filter_map(Result::err) {
            if repeats.is_due(&trouble, now) {
                warn(format_args!("{trouble}"));
            }
            thread::sleep(AGAIN);
            // Its socket may be in another place, where the server has started meanwhile.
            if let Ok(other) = AskedServer::of(&asked) {
                server = other;
            }
        }
    }
    // Nobody would take out who is unbanned, or whose port is another's.
    kept.set.write(&BTreeSet::new()).map_err(ExitError::failed)
}

impl KeptSet {
    /// Asks once, and does what the answer says.
    fn turn(&mut self, server: &AskedServer, clock: &Clock) -> Result<(), String> {
        let path = match self.heard {
            Some((instance, version)) => format!("/bans/ports?after={instance}.{version}"),
            None => "/bans/ports".to_owned(),
        };
        let octets =
            server.ask_within(ANSWER_WAIT, Method::Get, &path).map_err(|error| error.message)?;
        let report: BannedPortsReport = read(&octets).map_err(|error| error.message)?;
        let now = clock.monotonic();
        self.heard_at = now;
        self.heard = Some((report.instance, report.version));
        self.take(&report, now)?;
        self.carry_out(server, &report)
    }

    fn take(&mut self, report: &BannedPortsReport, now: Duration) -> Result<(), String> {
        let known = &self.ports;
        let added: Vec<_> =
            report.added.iter().filter(|port| !known.contains(port)).copied().collect();
        let removed: Vec<_> = match report.is_all {
            true => {
                let all: BTreeSet<_> = report.added.iter().collect();
                known.iter().filter(|port| !all.contains(port)).copied().collect()
            }
            false => report.removed.iter().filter(|port| known.contains(port)).copied().collect(),
        };
        for port in &removed {
            self.ports.remove(port);
        }
        self.ports.extend(&added);
        let Some(written) = self.written_at else { return self.write(now) };
        if !(added.is_empty() && removed.is_empty()) {
            thread::sleep(PAUSE);
            if self.set.change(&added, &removed).is_err() {
                // Somebody else has changed the set.
                return self.write(now);
            }
        }
        if now.saturating_sub(written) >= ANEW_EVERY {
            if self.set.renew(&self.ports).is_err() {
                return self.write(now);
            }
            self.written_at = Some(now);
        }
        Ok(())
    }

    /// Writes all of it.
    fn write(&mut self, now: Duration) -> Result<(), String> {
        self.written_at = None;
        self.set.write(&self.ports)?;
        self.written_at = Some(now);
        Ok(())
    }

    /// Lets all in where the server has gone.
    fn see_to(&mut self, now: Duration) -> Result<(), String> {
        if now.saturating_sub(self.heard_at) < GONE_AFTER || self.heard.is_none() {
            return Ok(());
        }
        self.heard = None;
        self.ports.clear();
        self.written_at = None;
        self.set.write(&self.ports)?;
        Err(format!(
            "the server does not answer for {} s: the set is empty until it does",
            GONE_AFTER.as_secs()
        ))
    }

    /// Ends the connections that are to be ended, and says how many.
    fn carry_out(
        &mut self,
        server: &AskedServer,
        report: &BannedPortsReport,
    ) -> Result<(), String> {
        for order in &report.orders {
            let this = (report.instance, order.number);
            if self.ordered.0 == this.0 && self.ordered.1 >= this.1 {
                continue;
            }
            self.ordered = this;
            let what = match end(order, &self.ports) {
                Ok(count) => format!("count={count}"),
                Err(why) => {
                    let why: String = form_urlencoded::byte_serialize(why.as_bytes()).collect();
                    format!("error={why}")
                }
            };
            let path = format!("/bans/ended?order={}&{what}", order.number);
            server.ask_within(ANSWER_WAIT, Method::Post, &path).map_err(|error| error.message)?;
        }
        Ok(())
    }
}

/// Ends the TCP connections of these ports, as far as they are `banned` still: one may be another
/// client's by now.
fn end(order: &EndOrder, banned: &BTreeSet<BannedPort>) -> Result<u64, String> {
    let key = |nat64: SocketAddrV4, local: Ipv4Addr| BannedPort(*nat64.ip(), nat64.port(), local);
    let ports: BTreeSet<_> =
        order.ports.iter().filter(|port| banned.contains(port)).copied().collect();
    let hosts: BTreeSet<_> = ports.iter().map(|port| port.0).collect();
    let hosts: Vec<_> = hosts.into_iter().collect();
    if hosts.is_empty() {
        return Ok(0);
    }
    let is_meant = |of: &Connection| ports.contains(&key(of.remote, *of.local.ip()));
    let ended = SockDiag::open().and_then(|mut kernel| kernel.end(&hosts, is_meant));
    ended.map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this kernel was made without CONFIG_INET_DIAG_DESTROY, and ends no connections"
                .to_owned()
        }
        Some(libc::EPERM) => {
            "nat64handoff ban-set may not end connections: it takes CAP_NET_ADMIN".to_owned()
        }
        _ => format!("the kernel does not end them (sock_diag: {})", limits::explained(&error)),
    })
}
