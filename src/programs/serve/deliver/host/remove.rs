//! [`removal`]: what takes the device away again, and what leads to it.

use std::io;

use super::step::StepCommand;
use super::steps::TABLE;
use crate::kernel::network::{HostNetwork, HostRule};

/// The commands for it, of what is there. With the device go its addresses and routes.
///
/// # Errors
/// Where the kernel cannot be asked.
pub fn removal(device: &str) -> io::Result<Vec<StepCommand>> {
    let mut network = HostNetwork::open()?;
    let found = network.device(device)?;
    let index = found.as_ref().map(|found| found.index);
    let (rules, routes) = (network.rules()?, network.routes()?);
    let mut commands = Vec::new();
    // That of another server on this host leads there, too.
    if routes.iter().all(|route| route.table != TABLE || Some(route.device) == index) {
        let ours = rules.iter().filter(|rule| rule.table == TABLE && !rule.has_mark);
        commands.extend(ours.map(|HostRule { from, priority, .. }| {
            let line = format!("ip -6 rule del from {from} lookup {TABLE} priority {priority}");
            StepCommand::run(&line)
        }));
    }
    // What is no TUN device is somebody else's.
    if found.and_then(|found| found.tun).is_some_and(|tun| tun.has_packets) {
        commands.push(StepCommand::run(&format!("ip link del {device}")));
    }
    Ok(commands)
}
