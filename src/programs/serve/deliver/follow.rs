//! [`PortsFollower`]: which ports of `--deliver auto` are delivered to: those that a socket of IPv6
//! takes packets of (PROTOCOL.md section 11).

use std::io;
use std::net::Ipv6Addr;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::handoff::delivery::HostDelivery;
use crate::ip::transport::Transport;
use crate::kernel::clock::Clock;
use crate::kernel::interface;
use crate::kernel::sock_diag::{ListeningSocket, SockDiag};
use crate::kernel::stderr::{say, warn};
use crate::programs::options::{Deliver, ServeConfig};

/// From one look at the sockets to the next, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause = 50 * duration of the last look: under 2 % of a core.
const PAUSE_FACTOR: u32 = 50;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Looks, and sets the ports.
pub struct PortsFollower {
    config: ServeConfig,
    sock_diag: Option<SockDiag>,
    failed: bool,
}

impl PortsFollower {
    /// Of the configuration, if any port is to be followed.
    pub fn of(config: &ServeConfig) -> Option<Self> {
        let follows = config.deliver_ways().any(|deliver| deliver == Deliver::Auto);
        let (sock_diag, failed) = (None, false);
        follows.then(|| Self { config: config.clone(), sock_diag, failed })
    }

    /// Looks once, then again and again, until nobody delivers any more.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut self, delivery: &Arc<HostDelivery>) -> io::Result<()> {
        let clock = Clock::new();
        let mut pause = self.look(delivery, &clock);
        let delivery: Weak<HostDelivery> = Arc::downgrade(delivery);
        let look = move || {
            loop {
                thread::sleep(pause);
                let Some(delivery) = delivery.upgrade() else { return };
                pause = self.look(&delivery, &clock);
            }
        };
        thread::Builder::new().name("ports".into()).spawn(look).map(drop)
    }

    /// Returns how long to wait for the next look.
    fn look(&mut self, delivery: &HostDelivery, clock: &Clock) -> Duration {
        let since = clock.monotonic();
        match self.found(delivery) {
            Ok(found) => {
                for (transport, found) in [Transport::Tcp, Transport::Udp].into_iter().zip(&found) {
                    delivery.ports.set(transport, |port| match self.config.deliver_to(port) {
                        Deliver::Native | Deliver::Translate => true,
                        Deliver::Cache => false,
                        Deliver::Auto => found[usize::from(port)],
                    });
                }
                if std::mem::take(&mut self.failed) {
                    say(format_args!("--deliver auto: it is known again which programs listen"));
                }
            }
            Err(why) if !self.failed => {
                self.failed = true;
                warn(format_args!(
                    "--deliver auto: the kernel does not say which programs listen (sock_diag: {why}): ports stay as \
                     they are"
                ));
            }
            Err(_) => {}
        }
        (clock.monotonic().saturating_sub(since) * PAUSE_FACTOR).clamp(LOOK_EVERY, PAUSE_MAX)
    }

    /// The ports that sockets of TCP and of UDP take, in this order.
    fn found(&mut self, delivery: &HostDelivery) -> io::Result<[Vec<bool>; 2]> {
        let mut sock_diag = match self.sock_diag.take() {
            Some(opened) => opened,
            None => SockDiag::open()?,
        };
        let mut found = [(); 2].map(|()| vec![false; usize::from(u16::MAX) + 1]);
        // Another one, where the device was made again.
        let device = interface::index(&self.config.deliver_device);
        sock_diag.listening(|socket| {
            if takes(&socket, device, |address| delivery.is_service(address)) {
                let which = usize::from(socket.transport != Transport::Tcp);
                found[which][usize::from(socket.port)] = true;
            }
        })?;
        self.sock_diag = Some(sock_diag);
        Ok(found)
    }
}

/// Whether a program has what is delivered, and its answers leave with the service's address: one
/// of UDP that is bound to no address may choose another.
fn takes(socket: &ListeningSocket, device: u32, is_service: impl Fn(Ipv6Addr) -> bool) -> bool {
    let any = socket.transport == Transport::Tcp && socket.address.is_unspecified();
    (any || is_service(socket.address)) && [0, device].contains(&socket.device)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn who_takes_what_is_delivered() {
        let service: Ipv6Addr = "64:ff9b::203.0.113.5".parse().unwrap();
        let other: Ipv6Addr = "2001:db8::5".parse().unwrap();
        let is = |transport, address, device| {
            let socket = ListeningSocket { transport, address, port: 53, device };
            takes(&socket, 7, |address| address == service)
        };
        for transport in [Transport::Tcp, Transport::Udp] {
            assert!(is(transport, service, 0) && is(transport, service, 7));
            assert!(!is(transport, service, 8) && !is(transport, other, 0));
        }
        let any = Ipv6Addr::UNSPECIFIED;
        assert!(is(Transport::Tcp, any, 0) && !is(Transport::Tcp, any, 8));
        assert!(!is(Transport::Udp, any, 0), "its answers may have another source");
        assert!(!is(Transport::Tcp, Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
    }
}
