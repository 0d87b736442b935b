//! The requests of a NAT64 that are made from entries: reports and multi reports (PROTOCOL.md
//! section 3).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::keys::Keys;
use super::peer::Peer;
use super::{Action, MULTI_REPORT_MAX};
use crate::handoff::entry::{Client, Entry};
use crate::handoff::message::{
    self, ENTRY_LENGTH, MESSAGE_HEADER, PROTOCOL_IDENTIFIER, message_type,
};

pub(super) fn send_reports(
    keys: &Keys,
    now: Duration,
    server: Ipv4Addr,
    peer: &mut Peer,
    actions: &mut Vec<Action>,
) {
    for entries in peer.due_reports(now) {
        let payload = report(keys, now, server, &entries);
        actions.push(Action::Request { server, payload });
    }
}

/// `4, [5]`
pub(super) fn emit_token(keys: &Keys, now: Duration, server: Ipv4Addr, payload: &mut Vec<u8>) {
    message::emit(payload, message_type::TOKEN, &keys.token(server));
    if let Some(before) = keys.token_before(now, server) {
        message::emit(payload, message_type::ROTATION, &before);
    }
}

/// `1, 4, [5], (6, 7...)...`. The token before a rotation is left out where the payload would
/// become longer than [`MULTI_REPORT_MAX`].
pub(super) fn report(keys: &Keys, now: Duration, server: Ipv4Addr, entries: &[Entry]) -> Vec<u8> {
    let mut groups = Vec::new();
    let mut address = None;
    for entry in entries {
        if address.replace(entry.client.address) != Some(entry.client.address) {
            let authenticator = keys.authenticator(server, entry.client.address);
            message::emit(&mut groups, message_type::AUTHENTICATOR, &authenticator);
        }
        groups.extend_from_slice(&entry.emit());
    }
    let mut payload = Vec::with_capacity(MULTI_REPORT_MAX);
    message::emit(&mut payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    let after_identifier = payload.len();
    emit_token(keys, now, server, &mut payload);
    if payload.len() + groups.len() > MULTI_REPORT_MAX {
        payload.truncate(after_identifier);
        message::emit(&mut payload, message_type::TOKEN, &keys.token(server));
    }
    payload.append(&mut groups);
    payload
}

/// Divides entries among multi reports of at most [`MULTI_REPORT_MAX`] octets.
pub(super) fn divide(
    keys: &Keys,
    now: Duration,
    server: Ipv4Addr,
    entries: impl Iterator<Item = Entry>,
) -> Vec<Vec<Client>> {
    let group = MESSAGE_HEADER + keys.authenticator_length() + ENTRY_LENGTH;
    let identifier = MESSAGE_HEADER + PROTOCOL_IDENTIFIER.len();
    let token = MESSAGE_HEADER + keys.token_length();
    let rotation = keys.token_before(now, server).map_or(0, |_| token);
    let head = identifier + token + rotation;
    // `report` leaves the rotation out where not even one group would fit otherwise.
    let head = if head + group > MULTI_REPORT_MAX { identifier + token } else { head };

    let mut reports: Vec<Vec<Client>> = Vec::new();
    let mut length = usize::MAX;
    for Entry { client, .. } in entries {
        let last = reports.last_mut();
        let same_group = last.as_ref().and_then(|report| report.last()).map(|last| last.address)
            == Some(client.address);
        let more = if same_group { ENTRY_LENGTH } else { group };
        match last {
            Some(report) if length.saturating_add(more) <= MULTI_REPORT_MAX => {
                report.push(client);
                length += more;
            }
            _ => {
                reports.push(vec![client]);
                length = head + group;
            }
        }
    }
    reports
}
