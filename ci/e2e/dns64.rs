//! The name server that GATEWAY.md sets up beside the gateway: a client that knows only the name of
//! an IPv4 service reaches it.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::Output;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::process::{Process, run, wait_until};
use crate::programs::known;
use crate::udp::Service;

const A: u16 = 1;
const AAAA: u16 = 28;
/// A host with an IPv6 address of its own.
const SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);

/// All names have the service's IPv4 address, and `six.example` an IPv6 one, too.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = question.split_at_checked(12)?;
    let end = rest.iter().position(|&octet| octet == 0)? + 1;
    let (name, asked) = (rest.get(..end)?, rest.get(end..end + 4)?);
    let data = match u16::from_be_bytes([asked[0], asked[1]]) {
        A => SERVICE.octets().to_vec(),
        AAAA if name.starts_with(b"\x03six") => SIX.octets().to_vec(),
        _ => Vec::new(),
    };
    let count = u8::from(!data.is_empty());
    let mut answer =
        [&header[..2], &[0x84, 0x00, 0, 1, 0, count, 0, 0, 0, 0], name, asked].concat();
    if count > 0 {
        answer.extend([&[0xc0, 12], asked, &[0, 0, 0, 60, 0, data.len() as u8], &data].concat());
    }
    Some(answer)
}

/// What GATEWAY.md shows.
fn shown() -> &'static str {
    let page = include_str!("../../src/GATEWAY.md");
    let (_, rest) = page.split_once("```unbound\n").expect("GATEWAY.md shows a configuration");
    rest.split_once("```").expect("it ends").0
}

#[test]
fn a_client_that_knows_a_name_reaches_the_service() {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, _gateway, nginx) = known(&field);
    let _names = Service::start(&field, 53, answer);
    let config = field.path("unbound.conf");
    // The names of the test, and no files and users of the host.
    let ours = format!(
        "forward-zone:\n    name: \".\"\n    forward-addr: {SERVICE}\n\
         server:\n    username: \"\"\n    chroot: \"\"\n    pidfile: \"\"\n    use-syslog: no\n"
    );
    fs::write(&config, format!("{}{ours}", shown())).unwrap();
    let arguments = ["-d", "-c", config.to_str().unwrap()];
    let _unbound = Process::start(&site.nat64, "unbound", &arguments);
    let dig = |name: &str, kind: &str| {
        let arguments = ["-6", "@2001:db8::1", "+short", "+tries=1", "+time=2", name, kind];
        run(&site.client, "dig", &arguments)
    };
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    wait_until("the name server answers", || dig("www.example", "AAAA").status.success());
    let address: Ipv6Addr = text(&dig("www.example", "AAAA")).trim().parse().unwrap();
    assert_eq!(address, SERVICE6);
    assert_eq!(text(&dig("six.example", "AAAA")).trim(), SIX.to_string());
    let to = SocketAddr::from((address, 80));
    let url = format!("http://{to}/hello");
    let got = run(&site.client, "curl", &["-6", "-sS", "--fail", "--max-time", "20", &url]);
    assert_eq!(text(&got), "hello\n");
    assert_eq!(nginx.accesses(2)[1].address, site.pool);
    server.stop();
}
