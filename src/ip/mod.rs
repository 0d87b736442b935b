//! What an IP packet says: headers, extension headers, ICMP, checksums, fragments, and which
//! connection it is of. It knows nothing of handoff.
//!
//! Files in the order of their dependencies: `fields`, `address`, `transport`, `checksum`,
//! `fragment`, `ipv4` and `ipv6`, `icmp`, `geneve`, `neighbor`, `flow`, `offload`, `segments`,
//! `joined`, `gathered`, `build`. A refusal is a small error type of its own; whoever uses it turns
//! it into a reason with a counter.

pub mod address;
pub mod build;
pub mod checksum;
pub mod fields;
pub mod flow;
pub mod fragment;
pub mod gathered;
pub mod geneve;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod joined;
pub mod neighbor;
pub mod offload;
pub mod segments;
pub mod transport;
