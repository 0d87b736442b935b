//! What an IP packet says: headers, extension headers, ICMP, checksums. It knows nothing of handoff.

pub mod icmp;
pub mod packet;
