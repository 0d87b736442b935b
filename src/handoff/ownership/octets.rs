//! Tables and numbers in datagrams between hosts.

use std::net::Ipv4Addr;

use crate::handoff::entry::TableKey;

pub(super) fn put_table(out: &mut Vec<u8>, table: TableKey) {
    out.extend_from_slice(&table.local.octets());
    out.extend_from_slice(&table.nat64.octets());
}

pub(super) fn take_table(rest: &mut &[u8]) -> Option<TableKey> {
    let [local, nat64] = [take::<4>(rest)?, take::<4>(rest)?].map(Ipv4Addr::from);
    Some(TableKey { local, nat64 })
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}
