//! Files from nginx, with the server and without.

use crate::field::{Field, SERVICE, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::process::wait_until;
use crate::programs::{Gateway, Nginx, Server, curl, curl_at};

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
    let field = Field::new();
    let mut gateway = Gateway::start(&field.sites[0]);
    check_large_download(&field);
    gateway.stop();
    // The kernel gives and takes many segments at once.
    assert!(gateway.counted("super_packets") > 0);
}

#[test]
fn ten_megabytes_are_intact_with_a_server() {
    let field = Field::new();
    let mut server = Server::start(&field);
    let mut gateway = Gateway::start(&field.sites[0]);
    check_large_download(&field);
    server.wait_until_known(field.sites[0].pool);
    gateway.stop();
    server.stop();
}

#[test]
fn log_names_the_client_behind_each_line_of_nginx() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    let _gateway = Gateway::start(site);
    // The first is mapped by the NAT64 itself, and reported; the others by the server.
    for count in 1..=5 {
        assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
        let access = &nginx.accesses(count)[count - 1];
        assert_eq!((access.address, access.path.as_str()), (site.pool.into(), "/hello"));
        let (client, _) = server.who(site.pool, access.port);
        assert_eq!(client, site.address);
        server.wait_until_known(site.pool);
    }
    wait_until("each connection has its own entry", || server.entries(Kind::Created).len() == 5);
    assert_eq!(server.entries(Kind::Conflict), []);
    server.stop();
}

/// A prefix of the network's own beside the well-known one.
#[test]
fn full_log_names_the_prefix_that_the_client_used() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut server = Server::start_with(&field, &["--log-format", "full"]);
    let nginx = Nginx::start(&field);
    let own = "2001:db8:64::/96";
    let _gateway = Gateway::start_with(site, &["--prefix", own, "--prefix", "64:ff9b::/96"]);
    let address = "2001:db8:64::203.0.113.5".parse().unwrap();
    for (count, (address, prefix)) in
        [(address, own), (SERVICE6, "64:ff9b::/96"), (address, own)].into_iter().enumerate()
    {
        assert_eq!(curl_at(site, address, "hello").unwrap(), b"hello\n");
        let port = nginx.accesses(count + 1)[count].port;
        server.who(site.pool, port);
        let created = server.events().into_iter().find(|event| {
            event.kind == Kind::Created && event.entry.is_some_and(|(mapped, ..)| mapped == port)
        });
        assert_eq!(created.unwrap().full, format!(" to {SERVICE} via {prefix}"));
    }
    server.stop();
}
