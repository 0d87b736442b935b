//! Files from nginx, with the server and without.

use crate::eventlog::Kind;
use crate::field::Field;
use crate::process::wait_until;
use crate::programs::{Gateway, Nginx, Server, curl};

/// Octets that repeat nowhere nearby, so that none can be missing or in another place.
pub fn octets(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut octets = Vec::with_capacity(count + 8);
    while octets.len() < count {
        octets.extend_from_slice(&next().to_le_bytes());
    }
    octets.truncate(count);
    octets
}

fn check_large_download(field: &Field) {
    let nginx = Nginx::start(field);
    let file = octets(10_000_000);
    nginx.put("large", &file);
    let got = curl(&field.sites[0], "large").unwrap();
    assert_eq!(got.len(), file.len());
    assert!(got == file, "the download is not what nginx served");
    assert_eq!(nginx.accesses(1)[0].address, field.sites[0].pool);
}

#[test]
fn ten_megabytes_are_intact_without_a_server() {
    let Some(field) = Field::new() else { return };
    let mut gateway = Gateway::start(&field.sites[0]);
    check_large_download(&field);
    gateway.stop();
}

#[test]
fn ten_megabytes_are_intact_with_a_server() {
    let Some(field) = Field::new() else { return };
    let mut server = Server::start(&field);
    let mut gateway = Gateway::start(&field.sites[0]);
    check_large_download(&field);
    server.wait_until_known(field.sites[0].pool);
    gateway.stop();
    server.stop();
}

#[test]
fn log_names_the_client_behind_each_line_of_nginx() {
    let Some(field) = Field::new() else { return };
    let site = &field.sites[0];
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    let _gateway = Gateway::start(site);
    // The first is mapped by the NAT64 itself, and reported; the others by the server.
    for count in 1..=5 {
        assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
        let access = &nginx.accesses(count)[count - 1];
        assert_eq!((access.address, access.path.as_str()), (site.pool, "/hello"));
        let (client, _) = server.who(access.address, access.port);
        assert_eq!(client, site.address);
        server.wait_until_known(site.pool);
    }
    wait_until("each connection has its own entry", || server.entries(Kind::Created).len() == 5);
    assert_eq!(server.entries(Kind::Conflict), []);
    server.stop();
}
