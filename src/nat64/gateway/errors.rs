//! The ICMP errors that a gateway sends of its own: to whom, and how many.

use std::time::Duration;

use super::{Done, Dropped, Gateway, GatewayOutbox};
use crate::ip::address::synthesize;
use crate::ip::icmp::{IcmpError, v6};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::nat64::translate::{Refused, ipv4_error, ipv6_error};

/// The maximum number of ICMP and ICMPv6 errors of our own per second.
pub const ICMP_RATE_MAX: u32 = 1000;
/// ICMPv6: destination unreachable, administratively prohibited.
pub(super) const PROHIBITED: IcmpError =
    IcmpError { kind: v6::UNREACHABLE, code: v6::PROHIBITED, word: 0 };

/// ICMPv6: destination unreachable, address unreachable. For a packet that would need an entry and
/// can have none (RFC 6146 sections 3.5.1.1, 3.5.2.2 and 3.5.3).
pub(super) const NO_RESOURCES: IcmpError =
    IcmpError { kind: v6::UNREACHABLE, code: v6::ADDRESS, word: 0 };

impl Gateway {
    pub(super) fn refuse_client(
        &mut self,
        now: Duration,
        refused: Refused,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) {
        self.counts.refuse(refused.reason);
        if let Some(error) = refused.error {
            self.tell_client(now, error, packet, out);
        }
    }

    pub(super) fn tell_client(
        &mut self,
        now: Duration,
        error: IcmpError,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) {
        let Some(view) = Ipv6::new(packet) else {
            return;
        };
        let from = synthesize(view.destination_prefix(), self.pool.first().nat64.address());
        if let Some(message) = ipv6_error(error, from, packet)
            && self.may_tell(now)
        {
            out.push(&[&message.headers, message.quoted]);
        }
    }

    /// The packet is to a public address.
    pub(super) fn refuse_service(
        &mut self,
        now: Duration,
        refused: Refused,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) {
        self.counts.refuse(refused.reason);
        if let Some(error) = refused.error
            && let Some(view) = Ipv4::new(packet)
            && let Some(message) = ipv4_error(error, view.destination(), packet)
            && self.may_tell(now)
        {
            if self.pool.has(view.source()) {
                let whole = [&message.headers, message.quoted].concat();
                self.turn_error(now, &whole, out);
            } else {
                out.push(&[&message.headers, message.quoted]);
            }
        }
    }

    fn may_tell(&mut self, now: Duration) -> bool {
        let may = self.icmp.take(now, ICMP_RATE_MAX);
        if may {
            self.did(Done::Errors);
        } else {
            self.drop(Dropped::IcmpRate);
        }
        may
    }
}
