//! [`LastFlow`]: the flow that came last, so that most packets need no look at all of them.

use super::routes::{DeliveredFlow, Via};
use crate::handoff::entry::{ControlPort, TableKey};
use crate::handoff::opaque::Authenticator;

/// The flow that came last, by whom and when: what comes next is mostly of it, and nothing about it
/// is to be noted again in the same second.
#[derive(Debug)]
pub struct LastFlow {
    flow: DeliveredFlow,
    table: TableKey,
    port: ControlPort,
    authenticator: Authenticator,
    second: u32,
}

impl LastFlow {
    /// A flow that was noted. `None` where its authenticator is none.
    pub fn new(flow: DeliveredFlow, via: Via<'_>, second: u32) -> Option<Self> {
        let authenticator = Authenticator::new(via.authenticator)?;
        Some(Self { flow, table: via.table, port: via.port, authenticator, second })
    }

    /// Whether it is this one.
    #[inline]
    pub fn is(&self, flow: &DeliveredFlow, via: Via<'_>, second: u32) -> bool {
        self.second == second
            && self.flow == *flow
            && (self.table, self.port) == (via.table, via.port)
            && self.authenticator.is(via.authenticator)
    }
}
