//! `install --ban-set`: what keeps out banned clients, with one capability.

use crate::booted::Booted;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use std::fs;

#[test]
fn install_keeps_the_ports_of_banned_clients_in_a_set() {
    let booted = Booted::with(&["--capability=CAP_NET_ADMIN"]);
    if booted.run("command -v nft").code != 0 {
        crate::harness::skip::cannot_run("nft (Debian's package nftables)");
    }
    let files = booted.files();
    let wrong = booted.install("--no-update --ban-set yes");
    assert!(wrong.code == 1 && wrong.text.contains("on or off"), "{}", wrong.text);
    let on = booted.install("--no-update --ban-set on");
    assert_eq!(on.code, 0, "{}", on.text);
    let set = || booted.run("nft list set inet nat64handoff banned").text;
    assert!(wait_until(PATIENCE, || set().contains("ipv4_addr . inet_service . ipv4_addr")));
    // It is no root, and may change the network alone.
    let process = booted.done("systemctl show --property=MainPID --value nat64handoff-ban-set");
    let status = booted.done(&format!("cat /proc/{}/status", process.trim()));
    assert!(status.contains("CapEff:\t0000000000001000\n"), "{status}");
    assert!(status.contains("CapBnd:\t0000000000001000\n"), "{status}");
    assert!(!status.contains("\nUid:\t0\t"), "{status}");
    let server = fs::read_to_string(format!("/proc/{}/status", booted.server())).unwrap();
    assert!(server.contains("CapEff:\t0000000000000000\n"), "{server}");

    // The client of the self-check is one as any other.
    booted.done("nat64handoff self-check");
    let ban = || booted.done("nat64handoff ban 2001:db8::64 --kill");
    assert!(wait_until(PATIENCE, || ban().contains("\n0 connections were ended\n")), "{}", ban());
    assert!(wait_until(PATIENCE, || set().contains("elements = { 127.64.64.9 . ")), "{}", set());
    // Over a restart of either, and where somebody else empties it.
    booted.done("systemctl restart nat64handoff");
    booted.done(
        "systemctl kill --signal=KILL nat64handoff-ban-set; nft flush set inet nat64handoff banned",
    );
    assert!(wait_until(PATIENCE, || set().contains("elements = { 127.64.64.9 . ")), "{}", set());
    booted.done("nat64handoff unban 2001:db8::64");
    assert!(wait_until(PATIENCE, || !set().contains("elements")), "{}", set());
    let again = booted.install("--no-update");
    assert_eq!(again.code, 0, "{}", again.text);
    booted.done("systemctl is-active nat64handoff-ban-set");
    let purged = booted.install("--purge");
    assert_eq!(purged.code, 0, "{}", purged.text);
    assert_eq!(booted.run("systemctl cat nat64handoff-ban-set").code, 1);
    assert_eq!(booted.files(), files);
}
