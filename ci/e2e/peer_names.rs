//! `--peer-names`: programs of Debian, not changed, that see who the client of a NAT64 is: at
//! `[::]` its own address, at 0.0.0.0 one that stands for it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::RangeInclusive;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::peer_programs::{NGINX, programs};
use crate::peers::Place;
use crate::process::{PATIENCE, Process, run, wait_until};
use crate::programs::{Gateway, Server};
use crate::skip::cannot_run;

/// `--peer-pool`, where it is not said.
const POOL: RangeInclusive<Ipv4Addr> =
    Ipv4Addr::new(100, 64, 0, 0)..=Ipv4Addr::new(100, 79, 255, 255);

/// Speaks to a port of the service from the client's namespace: the client's own port.
fn visit(field: &Field, port: u16) -> u16 {
    field.client().inside(|| {
        let to = SocketAddr::from((SERVICE6, port));
        let mut connection = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        let own = connection.local_addr().unwrap().port();
        std::io::Write::write_all(&mut connection, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        // Until it has been looked at. What sshd says to such words is its own affair.
        let _ = std::io::Read::read(&mut connection, &mut [0; 100]);
        own
    })
}

#[test]
fn unchanged_programs_see_the_client() {
    let field = Field::new();
    let site = &field.sites[0];
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    let words = place.attaching();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let words = [&words[..], &["--peer-names", "both"]].concat();
    let attached = run(&field.server, env!("CARGO_BIN_EXE_nat64handoff"), &words);
    assert!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    let maps = place.maps();
    let mut server = Server::start_with(&field, &["--peer-names", "both", "--peer-maps", &maps]);
    let mut gateway = Gateway::start(site);
    let client = site.address.to_string();
    let mut known = false;
    for program in programs(&place) {
        let line = place.within(&program.line);
        let process = Process::start(&field.server, "sh", &["-c", &line]);
        wait_until(&format!("{} listens", program.name), || {
            field.server.inside(|| TcpStream::connect((SERVICE, program.port)).is_ok())
        });
        // The first packets of a NAT64 that does not know the server yet go on without it.
        if !std::mem::replace(&mut known, true) {
            visit(&field, program.port);
            gateway.wait_for("is known");
        }
        let own = visit(&field, program.port);
        let line = (program.tells)(&client, own);
        wait_until(&format!("{} says {line:?}", program.name), || process.said().contains(&line));
        // One that came over IPv4 is what it is, and so is the one that asked whether it listens.
        assert!(!process.said().contains("64:ff9b"), "{}", process.said());
    }
    // A socket of IPv4 alone sees the address that stands for the client's network in the log.
    let config = place.path("ipv4.conf");
    let text = NGINX.replace("LISTEN", "8006").replace("FOLDER", place.path("").to_str().unwrap());
    fs::write(&config, text).unwrap();
    let line = place.within(&format!("nginx -e stderr -c {}", config.display()));
    let nginx = Process::start(&field.server, "sh", &["-c", &line]);
    wait_until("nginx listens", || {
        field.server.inside(|| TcpStream::connect((SERVICE, 8006)).is_ok())
    });
    let own = visit(&field, 8006);
    let address = server.names().address_of(site.address).unwrap();
    assert!(POOL.contains(&address), "{address}");
    let line = format!("nginx {address} {own}\n");
    wait_until(&format!("nginx says {line:?}"), || nginx.said().contains(&line));
    server.stop();
}
