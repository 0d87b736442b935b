//! Links in between that carry shorter packets than the ends do: both directions must find out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::namespace::Namespace;
use crate::process::{PATIENCE, run};
use crate::programs::{Gateway, Nginx, Server, curl};

/// Sends that from the client to a service.
fn upload(field: &Field, site: &Site, data: &[u8]) {
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, 8080)).unwrap());
    let address = SocketAddr::from((SERVICE6, 8080));
    let mut near = site.client.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let mut far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    near.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || near.write_all(data).unwrap());
        far.read_to_end(&mut got).unwrap();
    });
    assert!(got == data, "of {} octets {} came", data.len(), got.len());
}

/// The sender's kernel was told how long packets to there may be.
fn check_found_out(sender: &Namespace, receiver: &str, mtu: u16) {
    let output = run(sender, "ip", &["route", "get", receiver]);
    let route = String::from_utf8(output.stdout).unwrap();
    assert!(route.contains(&format!(" mtu {mtu} ")), "not {mtu}: {route}");
}

/// The way through the NAT64 to the narrow link comes first: once a kernel knows the MTU of a path,
/// it asks the other one for segments that fit. Each version's packets differ by 20 octets from the
/// other's.
fn check(field: &Field, clients: u16, servers: u16) {
    let site = &field.sites[0];
    let nginx = Nginx::start(field);
    let file = octets(500_000);
    nginx.put("file", &file);
    let download = || {
        let got = curl(site, "file").unwrap();
        assert!(got == file, "of {} octets {} came", file.len(), got.len());
    };
    if clients < servers {
        download();
        check_found_out(&field.server, &site.pool.to_string(), clients - 20);
        upload(field, site, &file);
    } else {
        upload(field, site, &file);
        check_found_out(&site.client, &SERVICE6.to_string(), (servers + 20).max(1280));
        download();
    }
}

fn check_both(clients: u16, servers: u16) {
    let field = Field::narrow(clients, servers);
    let mut gateway = Gateway::start(&field.sites[0]);
    check(&field, clients, servers);
    gateway.stop();
    // The kernels remember what they found out: another field.
    let field = Field::narrow(clients, servers);
    let mut server = Server::start(&field);
    let _gateway = Gateway::start(&field.sites[0]);
    check(&field, clients, servers);
    server.wait_until_known(field.sites[0].pool);
    server.stop();
}

#[test]
fn clients_behind_1400_octets() {
    check_both(1400, 1500);
}

#[test]
fn clients_behind_1280_octets() {
    check_both(1280, 1500);
}

#[test]
fn servers_behind_1400_octets() {
    check_both(1500, 1400);
}

#[test]
fn servers_behind_1280_octets() {
    check_both(1500, 1280);
}

/// Shorter than any IPv6 packet need be: the NAT64's packets are then fragmented on their way (RFC
/// 7915 5.1).
#[test]
fn servers_behind_1000_octets() {
    check_both(1500, 1000);
}
