//! The other end, PROTOCOL.md section 10: the NAT64 that hands over, the translation of packets
//! (RFC 7915), and both together, a gateway. Pure, like `handoff`.

pub mod engine;
pub mod gateway;
pub mod translate;
