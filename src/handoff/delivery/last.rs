//! [`LastFlow`]: the flow that came last, so that most packets need no look at all of them.

use std::net::Ipv6Addr;

use super::routes::{DeliveredFlow, Tunnel, Via};
use crate::handoff::entry::TableKey;
use crate::handoff::opaque::Authenticator;

/// The flow that came last, by whom and when: what comes next is mostly of it, and nothing about it
/// is to be noted again in the same second.
#[derive(Debug)]
pub struct LastFlow {
    flow: DeliveredFlow,
    table: TableKey,
    tunnel: Tunnel,
    authenticator: Authenticator,
    service: Ipv6Addr,
    second: u32,
}

impl LastFlow {
    /// A flow that was noted. `None` where its authenticator is none.
    pub fn new(flow: DeliveredFlow, via: Via<'_>, second: u32) -> Option<Self> {
        let authenticator = Authenticator::new(via.authenticator)?;
        let Via { table, tunnel, service, .. } = via;
        Some(Self { flow, table, tunnel, authenticator, service, second })
    }

    /// Whether it is this one.
    #[inline]
    pub fn is(&self, flow: &DeliveredFlow, via: Via<'_>, second: u32) -> bool {
        self.second == second
            && self.flow == *flow
            && (self.table, self.tunnel, self.service) == (via.table, via.tunnel, via.service)
            && self.authenticator.is(via.authenticator)
    }
}
