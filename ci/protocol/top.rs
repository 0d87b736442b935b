//! `nat64handoff top` on a terminal, and the server under it.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::harness::process::wait_until;
use crate::harness::program::command;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;
use crate::terminal::Terminal;

const SIZE: (u16, u16) = (24, 100);

fn top(socket: &Path) -> Terminal {
    let mut command = command();
    command.arg("top").arg("--admin").arg(socket);
    Terminal::spawn(&mut command, SIZE, None)
}

/// It ends, and the terminal is as it was.
fn check_end(mut terminal: Terminal, before: (u32, u32, u32)) {
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0), "{}", terminal.text());
    assert_eq!(terminal.settings(), before);
    let text = terminal.text();
    let last = |sequence: &str| text.rfind(sequence).unwrap_or_else(|| panic!("{sequence:?}"));
    assert!(last("\x1b[?1049h") < last("\x1b[?1049l"), "the screen that was there");
    assert!(last("\x1b[?25l") < last("\x1b[?25h"), "the cursor");
}

#[test]
fn top_shows_the_server_as_it_changes() {
    let server = Server::start_single(&[]);
    let (busy, idle) = (Nat64::known(&server), Nat64::known(&server));
    let clients: Vec<_> = (0..30).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| busy.map(*client)).collect();
    idle.map(clients[0]);
    let mut terminal = top(&server.admin());
    terminal.shows("ready", SIZE, PATIENCE);
    for nat64 in [&busy, &idle] {
        terminal.shows(&nat64.address.to_string(), SIZE, PATIENCE);
    }
    let place = |terminal: &Terminal, nat64: &Nat64| {
        terminal.screen(SIZE).find(&format!("{} ", nat64.address)).unwrap()
    };
    assert!(place(&terminal, &busy) < place(&terminal, &idle), "the fullest first");
    terminal.types("e");
    terminal.shows("entries^", SIZE, PATIENCE);
    assert!(place(&terminal, &busy) > place(&terminal, &idle), "the other way round");
    terminal.types("e\x1b[B\r");
    terminal.shows(&format!("{} to 127.0.0.1: 30 entries", busy.address), SIZE, PATIENCE);
    let mut sorted: Vec<_> = ports.iter().zip(&clients).collect();
    sorted.sort();
    let (first, client) = sorted[0];
    terminal.shows(&format!("{first}"), SIZE, PATIENCE);
    terminal.shows(&format!("{} port {}", client.address, client.port), SIZE, PATIENCE);
    // One more comes while it is looked at.
    busy.map(Client::nth(100));
    terminal.shows("127.0.0.1: 31 entries", SIZE, PATIENCE);
    for size in [(1, 1), (2, 10), (4, 30), (50, 200), SIZE] {
        let clears = || terminal.text().matches("\x1b[2J").count();
        let before = clears();
        terminal.resize(size);
        assert!(wait_until(PATIENCE, || clears() > before), "{size:?} is not drawn");
        if size.0 >= 4 {
            terminal.shows("nat64handoff", size, PATIENCE);
        }
    }
    terminal.types("\x7f");
    terminal.shows("requests, seconds", SIZE, PATIENCE);
    let before = {
        let mut plain = Terminal::spawn(std::process::Command::new("true").arg("x"), SIZE, None);
        plain.wait(PATIENCE);
        plain.settings()
    };
    terminal.types("q");
    check_end(terminal, before);
}

#[test]
fn top_goes_on_with_a_server_that_was_restarted() {
    let mut server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(0));
    let terminal = top(&server.admin());
    terminal.shows(&nat64.address.to_string(), SIZE, PATIENCE);
    let first = format!("process {},", server.pid());
    terminal.shows(&first, SIZE, PATIENCE);
    server.process.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    terminal.shows("no answer for ", SIZE, PATIENCE);
    terminal.shows(&nat64.address.to_string(), SIZE, PATIENCE);
    let directory = std::mem::replace(&mut server.directory, tempfile::tempdir().unwrap());
    let local = vec![Ipv4Addr::LOCALHOST];
    let again = Server::launch(command(), directory, server.port, local, &["--reactors", "1"]);
    terminal.shows(&format!("process {},", again.pid()), SIZE, PATIENCE);
    terminal.shows("ready", SIZE, PATIENCE);
    let settings = terminal.settings();
    terminal.signal(libc::SIGTERM);
    let mut terminal = terminal;
    assert_eq!(terminal.wait(PATIENCE).code(), Some(0));
    assert_ne!(terminal.settings(), settings, "it was in raw mode, and is not any more");
    let text = terminal.text();
    assert!(text.trim_end_matches("\x1b[?25h").ends_with("\x1b[?1049l"), "{text:?}");
}

#[test]
fn top_says_what_is_missing() {
    let (code, _, stderr) = run(&["top"]);
    assert!(code == 2 && stderr.contains("it wants a terminal"), "{stderr}");
    let mut terminal = top(Path::new("/nowhere/admin.sock"));
    assert_eq!(terminal.wait(PATIENCE).code(), Some(1));
    let said = terminal.text();
    assert!(said.contains("no server can be asked at /nowhere/admin.sock"), "{said}");
    assert!(!said.contains('\x1b'), "{said:?}");
}
