//! A journal that was damaged on the disk: nothing is skipped silently.

use crate::ask::{check_entries, compare, expect_service};
use crate::dice::Dice;
use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::restart::{check_known, map_all};
use crate::run::run;
use crate::server::Server;
use std::path::{Path, PathBuf};

const ONE: [&str; 2] = ["--reactors", "1"];
const CLIENTS: u32 = 1000;

/// A state directory with entries that were announced one by one; the server has ended.
fn prepared(clean: bool) -> (Server, Nat64, Vec<Entry>) {
    let mut server = Server::started(&ONE);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let entries = map_all(&nat64, (0..CLIENTS).map(Client::nth));
    if clean {
        server.stop();
    } else {
        server.kill();
    }
    (server, nat64, entries)
}

fn files_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The journal with the most in it, and how many octets that is: room that was only set aside is
/// zeros.
fn largest_journal(server: &Server) -> (PathBuf, Vec<u8>, usize) {
    let mut files = Vec::new();
    files_below(&server.state, &mut files);
    let journals = files.iter().filter(|path| path.extension().is_some_and(|e| e == "journal"));
    let extent = |octets: &[u8]| octets.iter().rposition(|octet| *octet != 0).map_or(0, |p| p + 1);
    let largest = journals
        .map(|path| {
            let octets = std::fs::read(path).unwrap();
            let extent = extent(&octets);
            (path.clone(), octets, extent)
        })
        .max_by_key(|(.., extent)| *extent);
    let largest =
        largest.unwrap_or_else(|| panic!("no *.journal in the state directory: {files:?}"));
    assert!(largest.2 > 1000, "no journal has much in it: {files:?}");
    largest
}

fn flip(path: &Path, octets: &[u8], at: usize, bit: usize) {
    let mut octets = octets.to_vec();
    octets[at] ^= 1 << bit;
    std::fs::write(path, octets).unwrap();
}

fn journal(verb: &str, server: &Server) -> (i32, String) {
    let (code, out, err) = run(&["journal", verb, server.state.to_str().unwrap()]);
    (code, out + &err)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

/// The numbers in a text, but for those in a path.
fn numbers(text: &str, path: &Path) -> Vec<usize> {
    let text = text.replace(path.to_str().unwrap(), " ").replace(&name(path), " ");
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// Which of the entries are not there any more. None may have changed.
fn lost(nat64: &Nat64, entries: &[Entry]) -> Vec<usize> {
    let wanted = entries.iter().map(|e| expect_service(nat64, e.mapped, Some(e.client)));
    let wrong = compare(nat64, wanted);
    let place = |mapped| entries.iter().position(|entry| entry.mapped == mapped).unwrap();
    let mut places = Vec::new();
    for (expected, reply) in wrong {
        let mapped = expected.entry.unwrap().mapped;
        let reply = reply.unwrap_or_else(|| panic!("no answer about port {mapped}"));
        assert_eq!(reply.entry, None, "port {mapped} has another entry now: {expected:?}");
        places.push(place(mapped));
    }
    places.sort_unstable();
    places
}

#[test]
fn crash_flipped_octet_after_a_kill() {
    flipped_octet(false, 2);
}

#[test]
fn crash_flipped_octet_after_a_clean_stop() {
    // Files that are written at the end may have larger units.
    flipped_octet(true, CLIENTS as usize / 10);
}

/// Refused, with one line that names the file, the offset and the command that tells more; repaired
/// by command only; entries before and after the damage are there.
fn flipped_octet(clean: bool, lost_max: usize) {
    let mut dice = Dice::new("crash_flipped_octet");
    let (mut server, nat64, entries) = prepared(clean);
    let (code, said) = journal("check", &server);
    assert_eq!(code, 0, "journal check of an undamaged state directory:\n{said}");
    let (path, octets, extent) = largest_journal(&server);
    let at = extent / 2;
    flip(&path, &octets, at, dice.below(8));
    println!("{}: octet {at} of {extent} flipped", path.display());
    for _ in 0..2 {
        let line = server.refuses(&ONE);
        assert!(line.contains(&name(&path)), "the file is not named: {line}");
        assert!(line.contains("nat64handoff journal check"), "no next step: {line}");
        let offsets = numbers(&line, &path);
        assert!(offsets.iter().any(|offset| *offset <= at), "no offset up to {at}: {line}");
    }
    let damaged = std::fs::read(&path).unwrap();
    let (code, said) = journal("check", &server);
    println!("journal check: {code}\n{said}");
    assert_ne!(code, 0, "journal check finds nothing:\n{said}");
    assert!(!said.contains("unrecognized"), "{said}");
    assert!(said.contains(&name(&path)), "the file is not named:\n{said}");
    let offsets = numbers(&said, &path);
    assert!(offsets.iter().any(|offset| *offset <= at), "no offset up to {at}:\n{said}");
    assert!(said.contains("lost"), "it does not say what would be lost:\n{said}");
    assert!(std::fs::read(&path).unwrap() == damaged, "journal check has changed the file");
    let (code, said) = journal("repair", &server);
    println!("journal repair: {code}\n{said}");
    assert_eq!(code, 0, "journal repair:\n{said}");
    let (code, said) = journal("check", &server);
    assert_eq!(code, 0, "journal check after the repair:\n{said}");
    server.start(&ONE);
    // The damage may have hit what makes the NAT64 known.
    if !nat64.is_known() {
        nat64.introduce();
    }
    let gone = lost(&nat64, &entries);
    println!("lost: {gone:?}");
    assert!(gone.len() <= lost_max, "lost, of {CLIENTS}, by one octet: {gone:?}");
    let last = entries.len() - 1;
    assert!(!gone.contains(&0) && !gone.contains(&last), "before and after the damage: {gone:?}");
    // It goes on as any other.
    let fresh = map_all(&nat64, (0..100).map(|number| Client::nth(0x0100_0000 + number)));
    server.kill();
    server.start(&ONE);
    check_known("after the repair and a kill", &nat64);
    check_entries("after the repair and a kill", &nat64, &fresh);
    assert_eq!(lost(&nat64, &entries), gone);
}

/// `journal check` sees every flipped octet, and a server starts with none of them in silence.
#[test]
fn crash_any_flipped_octet_is_seen() {
    let mut dice = Dice::new("crash_any_flipped_octet_is_seen");
    let (mut server, _nat64, _entries) = prepared(false);
    let (path, octets, extent) = largest_journal(&server);
    // The last ones may count as a torn tail.
    let end = extent * 9 / 10;
    let places: Vec<_> = (0..64).chain((0..200).map(|_| dice.below(end))).collect();
    for (number, at) in places.into_iter().enumerate() {
        let bit = dice.below(8);
        flip(&path, &octets, at, bit);
        let (code, said) = journal("check", &server);
        assert_ne!(code, 0, "octet {at} of {extent}, bit {bit} is not seen:\n{said}");
        assert!(said.contains(&name(&path)), "octet {at}: the file is not named:\n{said}");
        if number % 20 == 0 {
            let line = server.refuses(&ONE);
            assert!(line.contains(&name(&path)), "octet {at}: {line}");
        }
    }
    std::fs::write(&path, &octets).unwrap();
    let (code, said) = journal("check", &server);
    assert_eq!(code, 0, "journal check of what is whole again:\n{said}");
}

/// The last write did not get to the disk as a whole: it is cut, and that is said once.
#[test]
fn crash_torn_tail_is_cut_and_reported() {
    for cut in [1, 3, 6] {
        let (mut server, nat64, entries) = prepared(false);
        let (path, octets, extent) = largest_journal(&server);
        std::fs::write(&path, &octets[..extent - cut]).unwrap();
        server.start(&ONE);
        let said = server.stderr();
        let report = said.lines().find(|line| line.contains(&name(&path)));
        let report = report.unwrap_or_else(|| panic!("{cut} octets short, and not said:\n{said}"));
        println!("{cut} octets short: {report}");
        let says_so = ["cut", "torn", "incomplete"].iter().any(|word| report.contains(word));
        assert!(says_so, "{report}");
        check_known("after a torn tail", &nat64);
        let gone = lost(&nat64, &entries);
        let last = entries.len() - 1;
        assert!(gone.iter().all(|place| *place == last), "{cut} octets short: lost {gone:?}");
        let fresh = map_all(&nat64, (0..10).map(|number| Client::nth(0x0100_0000 + number)));
        server.kill();
        server.start(&ONE);
        let said = server.stderr();
        assert!(!said.contains(&name(&path)), "said again after it was cut:\n{said}");
        check_entries("after a torn tail and a kill", &nat64, &fresh);
        check_entries("after a torn tail and a kill", &nat64, &entries[..last]);
    }
}
