//! Which ICMP errors a translator sends of its own (RFC 7915 sections 4.4 and 5.4).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::{is_routable_client, is_single_host};
use crate::ip::icmp::{self, IcmpError, V4Error, V6Error};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;

/// An ICMPv6 error about the packet `about`, as it was received; `from` is the translator. `None`
/// where RFC 4443 section 2.4 (e) forbids one, or it is not even clear whether.
pub fn ipv6_error(error: IcmpError, from: Ipv6Addr, about: &[u8]) -> Option<V6Error<'_>> {
    let view = Ipv6::new(about)?;
    let allowed = is_routable_client(view.source()) && icmp::v6_allows_error(view);
    let quoted = Ipv6::whole(about).unwrap_or(view);
    allowed.then(|| icmp::v6_error(error, from, quoted))
}

/// An ICMP error about the packet `about`, as it was received; `from` is the translator. `None`
/// where RFC 1122 section 3.2.2 or RFC 1812 section 4.3.2.7 forbids one.
pub fn ipv4_error(error: IcmpError, from: Ipv4Addr, about: &[u8]) -> Option<V4Error<'_>> {
    let view = Ipv4::new(about)?;
    let single = is_single_host(view.source()) && is_single_host(view.destination());
    let allowed = single && icmp::v4_allows_error(view);
    let quoted = Ipv4::whole(about).unwrap_or(view);
    allowed.then(|| icmp::v4_error(error, from, quoted))
}
