//! What the page shows, and what can be done with it.

use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use fantoccini::key::Key;

use crate::browser::{Browser, SHOWN_WITHIN};
use crate::harness::program::{command, free_port};
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::server::{Server, fresh_directory};

const DESK: (u32, u32) = (1280, 900);
const TELEPHONE: (u32, u32) = (390, 844);

fn start(web: &str) -> Server {
    Server::start_single(&["--web", web, "--max-entries", "5000"])
}

fn number_of(browser: &Browser, selector: &str) -> u64 {
    let script = format!("return document.querySelectorAll({selector:?}).length");
    browser.run(&script).as_u64().unwrap()
}

/// A NAT64 appears, with its clients, its events, and who it was.
#[test]
fn page_shows_nat64s_events_and_who_it_was() {
    let web = format!("127.0.0.1:{}", free_port());
    let server = start(&web);
    let browser = Browser::start();
    browser.look(DESK, "light");
    browser.go(&format!("http://{web}/"));
    browser.shows("#state", |text| text == "serving");
    browser.shows("#tables-more", |text| text.starts_with("No NAT64 is known yet"));

    let nat64 = Nat64::known(&server);
    let clients: Vec<_> = (0..40).map(Client::nth).collect();
    let ports: Vec<_> = clients.iter().map(|client| nat64.map(*client)).collect();
    let address = nat64.address.to_string();
    browser.shows("#tables tbody", |text| text.contains(&address));
    browser.shows("#entries", |text| text == "40");
    browser.shows("#events li", |text| text.contains("Created"));
    browser.shows("#events", |text| text.matches("Created").count() == 40);
    assert!(browser.text("#events").contains("Initialized"));

    // Without a mouse: to the question, asked, and answered.
    browser.press("/");
    assert_eq!(browser.focused(), "who");
    browser.press(&format!("{address}:{}", ports[7]));
    browser.press_key(Key::Enter);
    let client = format!("{} port {}", clients[7].address, clients[7].port);
    browser.shows("#answer b", |text| text.starts_with(&client) && text.ends_with("until now"));
    let question = format!("{address}:{}: ", ports[7]);
    assert!(browser.text("#answer").starts_with(&question), "what was asked");
    browser.run("document.getElementById('who').value = 'nobody'");
    browser.press_key(Key::Enter);
    browser.shows("#answer", |text| text.contains("as 192.0.2.7:3719"));

    // The table, and its entries.
    browser.click("#tables tbody button");
    browser.shows("#one-table", |text| text.contains(&clients[3].address.to_string()));
    assert_eq!(number_of(&browser, "#one-table tbody tr"), 40);
    browser.press_key(Key::Escape);
    browser.shows("#state", |_| true);
    assert_eq!(browser.run("return document.getElementById('one').open"), false);

    // Only what is wanted.
    browser.run("document.getElementById('wanted').focus()");
    browser.press(&clients[5].address.to_string());
    browser.shows("#events", |text| text.matches("Created").count() == 1);
    browser.run("document.getElementById('filter').focus()");
    browser.press("203.0.113.");
    browser.shows("#tables tbody", str::is_empty);

    // Requests without an answer are explained.
    nat64.silent("no request", b"\x00\x00");
    browser.shows("#drops tbody", |text| text.contains("nothing is to be done here"));
}

/// An answer that comes late is not shown as that of another question, nor as that of another
/// table.
#[test]
fn page_shows_no_answer_of_an_earlier_question() {
    let web = format!("127.0.0.1:{}", free_port());
    let server = start(&web);
    let (one, other) = (Nat64::known(&server), Nat64::known(&server));
    let (early, late) = (Client::nth(1), Client::nth(2));
    let (port, its) = (one.map(early), other.map(late));
    let browser = Browser::start();
    browser.go(&format!("http://{web}/"));
    browser.shows("#tables tbody", |text| text.contains(&one.address.to_string()));
    browser.shows("#tables tbody", |text| text.contains(&other.address.to_string()));
    // The first answers of both kinds wait until they are let go.
    browser.run(
        "const fetched = window.fetch; const held = {}; window.letGo = []; \
         window.fetch = async (path, options) => { \
           const kind = ['/who', '/tables/'].find(kind => path.startsWith(kind)); \
           if (kind && !held[kind]) { held[kind] = true; \
             const answer = await fetched(path, { ...options, signal: undefined }); \
             await new Promise(go => window.letGo.push(go)); return answer; } \
           return fetched(path, options); }",
    );
    let ask = |address: &str| {
        browser.run(&format!("document.getElementById('who').value = '{address}'"));
        browser.click("#ask button");
    };
    ask(&format!("{}:{port}", one.address));
    browser.shows("#answer", |text| text.ends_with("looking it up"));
    ask(&format!("{}:{its}", other.address));
    let expected = late.address.to_string();
    browser.shows("#answer b", |text| text.starts_with(&expected));
    let open = |address: std::net::Ipv4Addr| {
        let script = format!(
            "[...document.querySelectorAll('#tables tbody button')].find(button => button.textContent \
             === '{address}').click()"
        );
        browser.run(&script);
    };
    open(one.address);
    browser.run("document.getElementById('one').close()");
    open(other.address);
    browser.shows("#one-table tbody", |text| text.contains(&expected));
    assert_eq!(browser.run("return window.letGo.length"), 2);
    browser.run("window.letGo.forEach(go => go())");
    // What they lead to is done before the next script runs.
    browser.run("return new Promise(done => setTimeout(done))");
    assert!(browser.text("#answer b").starts_with(&expected), "{}", browser.text("#answer"));
    assert!(browser.text("#one-table tbody").contains(&expected), "{}", browser.text("#one"));
}

/// A server without a fleet says nothing of one; one that has one says how it does.
#[test]
fn page_has_a_line_of_the_fleet() {
    let web = format!("127.0.0.1:{}", free_port());
    let _server = start(&web);
    let browser = Browser::start();
    browser.go(&format!("http://{web}/"));
    browser.shows("#state", |text| text == "serving");
    assert_eq!(browser.run("return document.getElementById('fleet').hidden"), true);
    browser.run(
        "const fetched = window.fetch; \
         window.fetch = async (path, options) => { \
           const answer = await fetched(path, options); \
           if (!path.startsWith('/status')) return answer; \
           const told = await answer.json(); \
           told.fleet = { cell: 'ams', host: 7, tables: 1200, nodes: 3, nodes_answering: 2, \
             behind_seconds: 0.25, hears_others: false, drains: false }; \
           return new Response(JSON.stringify(told)); }",
    );
    let said = "cell ams, host 7: owner of 1,200 tables, 2 of 3 nodes of etcd answer, 0.3 s behind, \
                hears no other host";
    browser.shows("#fleet", |text| text == said);
    assert_eq!(browser.run("return document.getElementById('fleet').hidden"), false);
}

/// It goes on when the server was killed and another one is there.
#[test]
fn page_goes_on_after_a_restart() {
    let web = format!("127.0.0.1:{}", free_port());
    let mut server = start(&web);
    let browser = Browser::start();
    browser.go(&format!("http://{web}/"));
    browser.shows("#state", |text| text == "serving");
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    browser.shows("#events", |text| text.contains("Created"));
    server.process.signal(libc::SIGKILL);
    server.wait_exit(SHOWN_WITHIN);
    browser.shows("#state", |text| text.starts_with("no answer"));
    let (port, listen) = (server.port, server.listen.clone());
    let directory = std::mem::replace(&mut server.directory, fresh_directory());
    drop(server);
    let arguments = ["--reactors", "1", "--web", &web, "--max-entries", "5000"];
    let server = Server::launch(command(), directory, port, listen, &arguments);
    browser.shows("#state", |text| text == "serving");
    browser.shows("#entries", |text| text == "1");
    let other = Client::nth(2);
    nat64.map(other);
    browser.shows("#events li", |text| text.contains(&other.address.to_string()));
    browser.shows("#entries", |text| text == "2");
    let first = format!("[{}]", Client::nth(1).address);
    assert_eq!(browser.text("#events").matches(&first).count(), 1, "shown once");
    drop(server);
}

/// What `ssh -L` does: a port that leads to the admin socket.
fn leads_to(socket: PathBuf) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, inner) = (stream.unwrap(), UnixStream::connect(&socket).unwrap());
            let (mut from, mut to) = (stream.try_clone().unwrap(), inner.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (inner, stream);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

/// Without `--web`, from another host.
#[test]
fn page_of_the_admin_socket() {
    let server = Server::start_single(&[]);
    let port = leads_to(server.admin());
    let browser = Browser::start();
    browser.go(&format!("http://localhost:{port}/"));
    browser.shows("#state", |text| text == "serving");
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    browser.shows("#events", |text| text.contains("Created"));
    // Others' names, and others' pages, get nothing.
    browser.go(&format!("http://other.localhost:{port}/"));
    browser.shows("body", |text| text.contains("this name is not known here"));
}

/// Light and dark, on a telephone, and without anything from outside.
#[test]
fn page_looks_well_everywhere() {
    let web = format!("127.0.0.1:{}", free_port());
    let server = start(&web);
    let nat64s: Vec<_> = (0..12).map(|_| Nat64::known(&server)).collect();
    let browser = Browser::start();
    browser.look(DESK, "light");
    browser.go(&format!("http://{web}/"));
    browser.shows("#state", |text| text == "serving");
    // So that there is something to be seen: more in pictures that are kept.
    let (rounds, pause) = match std::env::var_os("PAGE_PICTURES") {
        Some(_) => (900, Duration::from_millis(100)),
        None => (90, Duration::ZERO),
    };
    for next in 0..rounds {
        let nat64 = &nat64s[(next * next % 13 % 12) as usize];
        let client = Client::nth(next);
        let port = nat64.map(client);
        (0..next % 40).for_each(|_| assert_eq!(nat64.map(client), port));
        std::thread::sleep(pause);
    }
    nat64s[0].silent("no request", b"\x00\x00");
    browser.shows("#entries", |text| {
        text.starts_with(|digit: char| digit.is_ascii_digit() && digit != '0')
    });
    browser.shows("#drops tbody", |text| !text.is_empty());
    browser.shows("#requests", |text| !["0", "-"].contains(&text));
    let mut pictures = Vec::new();
    for (size, scheme) in
        [(DESK, "light"), (DESK, "dark"), (TELEPHONE, "light"), (TELEPHONE, "dark")]
    {
        browser.look(size, scheme);
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor");
        let over = browser.run("return document.documentElement.scrollWidth - innerWidth");
        assert!(over.as_i64().unwrap() <= 0, "wider than the window of {size:?}: {over}");
        let name = format!("page-{scheme}-{}.png", size.0);
        pictures.push((ground, browser.picture(&name)));
    }
    assert_ne!(pictures[0].0, pictures[1].0, "light and dark");
    // All that it fetched is of the server itself.
    let urls = browser.run(
        "return performance.getEntriesByType('resource').map(each => new URL(each.name).host)",
    );
    let urls = urls.as_array().unwrap();
    assert!(!urls.is_empty() && urls.iter().all(|host| *host == *web), "{urls:?}");
    // Whatever is to be filled in, or pressed, has a name.
    let unnamed = browser.run(
        "return [...document.querySelectorAll('input, button, meter, svg[role=img]')].filter(each => \
         !(each.labels?.length || each.textContent.trim() || each.ariaLabel)).map(each => each.id)",
    );
    assert_eq!(unnamed.as_array().unwrap().len(), 0, "{unnamed}");
}
