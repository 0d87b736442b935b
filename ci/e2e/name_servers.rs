//! PROTOCOL.md section 11, DELIVERY.md: name servers as they are, which have their clients' packets
//! of UDP.

use std::path::PathBuf;

use crate::field::{Field, SERVICE6};
use crate::native::recipe;
use crate::native_programs::{IPV6_OF_ITS_OWN, served, shell};
use crate::process::{Process, run};
use crate::translate::{address_of, translating};

/// What the client's dig says when it asks. Where there `is` to be an answer, it asks often.
fn ask(field: &Field, is: bool) -> String {
    let at = format!("@{SERVICE6}");
    let [tries, timeout] =
        if is { ["+tries=20", "+timeout=2"] } else { ["+tries=2", "+timeout=1"] };
    let words = ["+short", tries, timeout, &at, "www.example."];
    String::from_utf8(run(field.client(), "dig", &words).stdout).unwrap()
}

const ANSWER: &str = "192.0.2.80\n";

/// An nsd at this address that answers these clients alone.
fn nsd(field: &Field, at: &str, clients: &str) -> Process {
    let folder: PathBuf = field.path("nsd");
    let _ = std::fs::create_dir(&folder);
    let zone = "example. 60 IN SOA ns.example. root.example. 1 60 60 60 60\n\
                example. 60 IN NS ns.example.\nwww.example. 60 IN A 192.0.2.80\n";
    std::fs::write(folder.join("zone"), zone).unwrap();
    let file = folder.join("nsd.conf");
    let folder = folder.display();
    let text = format!(
        "server:\n ip-address: {at}\n username: \"\"\n zonesdir: \"{folder}\"\n database: \"\"\n pidfile: \"\"\n \
         xfrdfile: \"{folder}/xfrd\"\n zonelistfile: \"{folder}/zones\"\n server-count: 1\n\
         remote-control:\n control-enable: no\n\
         zone:\n name: \"example.\"\n zonefile: \"zone\"\n allow-query: {clients} NOKEY\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut nsd = Process::start(&field.server, "nsd", &["-d", "-c", file.to_str().unwrap()]);
    nsd.wait_for("nsd started");
    nsd
}

/// A dnsmasq at all addresses, which answers from the one that it was asked at.
fn dnsmasq(field: &Field) -> Process {
    let words =
        ["-k", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="];
    let words = [&words[..], &["--log-facility=-", "--log-queries=extra"]].concat();
    let words = [&words[..], &["--address=/www.example/192.0.2.80"]].concat();
    let mut dnsmasq = Process::start(&field.server, "dnsmasq", &words);
    dnsmasq.wait_for("started");
    dnsmasq
}

#[test]
fn section_11_nsd_at_the_services_address_answers_and_at_all_it_may_not() {
    // On a host with IPv6.
    let field = Field::new();
    let (mut server, _gateway) = served(&field, IPV6_OF_ITS_OWN, &["--deliver", "native"]);
    let client = field.sites[0].address.to_string();
    let mut at_all = nsd(&field, "::0", &client);
    let said = ask(&field, false);
    assert!(said.contains("no servers could be reached"), "it answers by another way: {said}");
    at_all.stop();
    let mut bound = nsd(&field, "64:ff9b::203.0.113.5", &client);
    assert_eq!(ask(&field, true), ANSWER);
    bound.stop();
    server.stop();

    // On one without, the last route of the recipe gives it a source.
    let field = Field::new();
    let (mut server, _gateway) = served(&field, "true", &["--deliver", "native"]);
    shell(&field, recipe()[5]);
    let mut at_all = nsd(&field, "::0", &client);
    assert_eq!(ask(&field, true), ANSWER);
    at_all.stop();
    server.stop();
}

#[test]
fn section_11_dnsmasq_answers_from_where_it_was_asked() {
    let field = Field::new();
    let (mut server, _gateway) = served(&field, IPV6_OF_ITS_OWN, &["--deliver", "native"]);
    let mut dnsmasq = dnsmasq(&field);
    assert_eq!(ask(&field, true), ANSWER);
    dnsmasq.wait_for(&format!(" from {}\n", field.sites[0].address));
    dnsmasq.stop();
    server.stop();
}

/// On a host without IPv6, neither chooses its source.
#[test]
fn section_11_name_servers_of_ipv4_answer_what_is_translated() {
    let field = Field::new();
    let (mut server, _gateways, _nginx) = translating(&field, &["--deliver-port", "53=translate"]);
    let mut dnsmasq = dnsmasq(&field);
    assert_eq!(ask(&field, true), ANSWER);
    let address = address_of(&server, &field.sites[0]);
    dnsmasq.wait_for(&format!(" from {address}\n"));
    dnsmasq.stop();
    let mut nsd = nsd(&field, "0.0.0.0", &address.to_string());
    assert_eq!(ask(&field, true), ANSWER);
    nsd.stop();
    server.stop();
}
