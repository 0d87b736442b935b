//! Links in between that carry shorter packets than the ends do: both directions must find out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6, Site};
use crate::process::PATIENCE;
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

fn check(field: &Field) {
    let site = &field.sites[0];
    let nginx = Nginx::start(field);
    let file = octets(500_000);
    nginx.put("file", &file);
    let got = curl(site, "file").unwrap();
    assert!(got == file, "of {} octets {} came", file.len(), got.len());
    upload(field, site, &file);
}

fn check_both(clients: u16, servers: u16) {
    let Some(field) = Field::narrow(clients, servers) else { return };
    let mut gateway = Gateway::start(&field.sites[0]);
    check(&field);
    gateway.stop();
    // The kernels remember what they found out: another field.
    let Some(field) = Field::narrow(clients, servers) else { return };
    let mut server = Server::start(&field);
    let _gateway = Gateway::start(&field.sites[0]);
    check(&field);
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

/// Shorter than any IPv6 packet need be: the NAT64's packets are then fragmented on their way (RFC 7915 5.1).
#[test]
fn servers_behind_1000_octets() {
    check_both(1500, 1000);
}
