//! nat64handoff: the server side of the NAT64 handoff protocol.
pub mod backend;
pub mod change;
pub mod fragments;
pub mod icmp;
pub mod packet;
pub mod ports;
pub mod random;
pub mod rate;
pub mod server;
pub mod stats;
pub mod table;
pub mod validation;
pub mod wire;
