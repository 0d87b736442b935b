//! PROTOCOL.md section 11, with a NAT64 that knows the draft alone: it tunnels what it has no entry
//! for, and takes what it is sent with an authenticator of its own.

use std::cell::Cell;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::sync::Arc;

use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::judge::nat64::{DISCARD, Nat64};
use crate::judge::packet;
use crate::native::make_device;
use crate::process::{PATIENCE, wait_until};
use crate::programs::Server;

const HANDOFF_PORT: u16 = 64064;
const AUTHENTICATOR: &[u8] = b"of one client...";

/// A NAT64 that the server knows, at the site's public address.
fn plain(site: &Site, token: &[u8]) -> Nat64 {
    site.nat64.ip(&format!("address add {}/32 dev lo", site.pool));
    let bind = |port| site.nat64.inside(|| UdpSocket::bind((site.pool, port)).unwrap());
    let (control, discard) = (bind(0), Arc::new(bind(DISCARD)));
    let (server, serial) = (SocketAddrV4::new(SERVICE, HANDOFF_PORT), Cell::new(0));
    let nat64 =
        Nat64 { address: site.pool, server, token: token.to_vec(), control, discard, serial };
    nat64.introduce();
    nat64
}

#[test]
fn section_11_a_plain_nat64_tunnels_pings_datagrams_and_connections() {
    let field = Field::new();
    make_device(&field);
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    let site = &field.sites[0];
    let nat64 = plain(site, b"a token of sixteen");
    let (client, service) = (site.address, SERVICE6);
    let rest = [&[0, 7, 0, 1][..], b"what comes back"].concat();
    let pong = nat64.delivered(AUTHENTICATOR, &packet::icmpv6(client, service, 128, 0, &rest));
    assert_eq!(packet::addresses6(&pong), (service, client));
    assert_eq!((pong[40], &pong[44..]), (129, &rest[..]));
    assert!(packet::icmpv6_checksum_holds(&pong));

    let bound = SocketAddrV6::new(service, 53, 0, 0);
    let socket = field.server.inside(|| UdpSocket::bind(bound).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let echo = || {
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
        from
    };
    let question = packet::udp6((client, 5000), (service, 53), b"a question");
    std::thread::scope(|scope| {
        let from = scope.spawn(echo);
        let expected = packet::udp6((service, 53), (client, 5000), b"a question");
        assert_eq!(nat64.delivered(AUTHENTICATOR, &question)[40..], expected[40..]);
        assert_eq!(from.join().unwrap(), SocketAddr::from((client, 5000)));
    });
    // A segment of no connection is refused by the host itself.
    let reset =
        nat64.delivered(AUTHENTICATOR, &packet::tcp6((client, 5000), (service, 81), b"unexpected"));
    assert_eq!((packet::addresses6(&reset), reset[6], reset[53] & 4), ((service, client), 6, 4));
    assert_eq!(server.entries(crate::judge::eventlog::Kind::Created), []);
    server.stop();
}

/// Whoever else is validated, and says that it has the client, does not get its answers.
#[test]
fn section_11_another_nat64_does_not_get_the_answers_of_a_flow() {
    let field = Field::of_two();
    make_device(&field);
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    let [first, other] = [0, 1].map(|site| plain(&field.sites[site], b"a token of sixteen"));
    let client = field.sites[0].address;
    let bound = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    let socket = field.server.inside(|| UdpSocket::bind(bound).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = packet::udp6((client, 5000), (SERVICE6, 53), b"a question");
    first.send(&first.client_request(AUTHENTICATOR, &question));
    let mut buffer = [0; 64];
    let (_, from) = socket.recv_from(&mut buffer).unwrap();
    other.send(&other.client_request(AUTHENTICATOR, &question));
    // Another flow of the client may be its own: when it came, so did what was sent before.
    let own = packet::udp6((client, 6000), (SERVICE6, 53), b"its own");
    other.send(&other.client_request(AUTHENTICATOR, &own));
    let (length, its) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"its own");
    for to in [from, its] {
        socket.send_to(b"an answer", to).unwrap();
    }
    let port = |nat64: &Nat64| {
        let mut found = None;
        wait_until("an answer comes", || {
            let packet = nat64.reply();
            found = packet.authenticator.and(packet.packet);
            found.is_some()
        });
        let packet = found.unwrap();
        u16::from_be_bytes([packet[42], packet[43]])
    };
    assert_eq!((port(&first), port(&other)), (5000, 6000));
    server.stop();
}
