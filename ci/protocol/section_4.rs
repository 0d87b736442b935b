//! Where answers go and what they are made of. The strict reader checks form, order and sender of
//! every reply in all the other tests too.

use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::wire::{self, Reply, payload};
use crate::server::Server;
use std::net::Ipv4Addr;

/// To the port that the request came from, whichever of the NAT64's.
#[test]
fn section_4_answers_go_to_the_port_of_the_request() {
    let server = Server::start(&[]);
    let one = Nat64::known(&server);
    let two = one.other_port(0);
    two.introduce();
    let client = Client::nth(1);
    let mapped = one.map(client);
    for _ in 0..5 {
        assert_eq!(two.map(client), mapped);
        assert_eq!(one.map(client), mapped);
    }
    one.fence();
    two.fence();
}

/// A token that is sent back is the request's own, not another known one.
#[test]
fn section_4_the_token_sent_back_is_that_of_the_request() {
    let server = Server::start(&[]);
    let old = Nat64::known(&server);
    let new = old.other_token(b"the newer token!");
    let unmapped = new.unmapped_packet();
    let rotation = wire::rotation(&old.token);
    new.ask(&payload(&[&new.token_message(), &rotation, &unmapped]));
    for _ in 0..3 {
        assert!(old.is_known());
        assert!(new.is_known());
    }
}

fn two_tables(server: &Server) {
    let first = Nat64::unknown(server);
    let second = first.towards(server.addr_at(Ipv4Addr::new(127, 0, 0, 2)));
    let first = first.towards(server.addr_at(Ipv4Addr::LOCALHOST));
    first.introduce();
    // The same NAT64, port and token are unknown at the other address.
    assert!(!second.is_known());
    second.introduce();
    let client = Client::nth(1);
    assert_eq!(first.map_hinted(client, 20001), 20001);
    assert_eq!(second.find(20001), None);
    assert_eq!(second.map_hinted(client, 20002), 20002);
    assert_eq!(second.map_hinted(Client::nth(2), 20001), 20001);
    assert_eq!(first.find(20001), Some((client.at(20001), client.authenticator())));
    assert_eq!(first.find(20002), None);
    // A token learned at one address is no base for a rotation at the other.
    let next = first.other_token(b"next token");
    let rotation = wire::rotation(&first.token);
    next.ask(&payload(&[&next.token_message(), &rotation, &next.unmapped_packet()]));
    assert!(next.is_known());
    let elsewhere = next.towards(second.server);
    assert!(!elsewhere.is_known());
}

/// Two `--listen`: one table for each local address, answers from the address that was asked.
#[test]
fn section_4_two_local_addresses() {
    let mut server = Server::start_on(&[Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)], &[]);
    server.check_log = false;
    two_tables(&server);
    let initialized = server.events_from(5).into_iter().filter(|event| event.entry.is_none());
    assert_eq!(initialized.count(), 2, "one Initialized for each table");
}

/// The same with the wildcard address.
#[test]
fn section_4_wildcard_address() {
    let mut server = Server::start_on(&[Ipv4Addr::UNSPECIFIED], &[]);
    server.check_log = false;
    two_tables(&server);
}

/// Answers of all sizes come: outer packets may be fragmented on the way.
#[test]
fn section_4_large_answers() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    for size in [1200, 1452, 1473, 8973, 16000, 40000, 65000] {
        let packet = client.udp(&vec![7; size]);
        let request = nat64.client_request(b"", &packet);
        assert!(nat64.ask(&request) == Reply::mapping(b"", client.at(mapped), &packet), "{size}");
    }
}
