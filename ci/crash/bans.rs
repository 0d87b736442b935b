//! A ban that was answered survives whatever becomes of the server.

use crate::dice::Dice;
use crate::harness::process::wait_until;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::run::run;
use crate::server::Server;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

const KILLS: usize = 12;

/// Whether the client gets its entry. Either way, its NAT64 is answered.
fn is_served(nat64: &Nat64, client: Client) -> bool {
    let packet = client.udp(b"data of a client");
    let reply = nat64.ask(&nat64.client_request(&client.authenticator(), &packet));
    reply.entry.is_some()
}

/// While clients are banned and unbanned, the server is killed. What was answered is so afterwards;
/// what was not, is so or not.
#[test]
fn crash_bans_that_were_answered_are_kept() {
    let mut dice = Dice::new("crash_bans_that_were_answered_are_kept");
    let mut server = Server::started(&["--reactors", "2"]);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let clients: Vec<_> = (0..8).map(Client::nth).collect();
    for &client in &clients {
        nat64.map(client);
    }
    let admin = server.state.join("admin.sock");
    let mut banned: BTreeMap<usize, bool> = BTreeMap::new();
    let mut looked_at = 0;
    for _ in 0..KILLS {
        // The service is answered before who administers it.
        let can_be_asked = || run(&["bans", "--admin", admin.to_str().unwrap()]).0 == 0;
        assert!(wait_until(PATIENCE, can_be_asked), "{}", server.stderr());
        let answered = AtomicU32::new(0);
        let asked = thread::scope(|scope| {
            let choices: Vec<_> =
                (0..40).map(|_| (dice.range(0, 7) as usize, dice.percent(60))).collect();
            let (admin, clients, answered) = (&admin, &clients, &answered);
            let asking = scope.spawn(move || {
                let mut last = BTreeMap::new();
                for (number, bans) in choices {
                    let address = clients[number].address.to_string();
                    let verb = if bans { "ban" } else { "unban" };
                    let (code, _, said) =
                        run(&[verb, &address, "--admin", admin.to_str().unwrap()]);
                    // To unban who is not banned changes nothing.
                    let is_known = code == 0 || said.contains("is not banned; see");
                    last.insert(number, is_known.then_some(bans));
                    if !is_known {
                        println!("{verb} {address}: {said}");
                        break;
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                last
            });
            // While the next one is asked, or answered.
            let wanted = dice.range(1, 12) as u32;
            assert!(wait_until(PATIENCE, || answered.load(Ordering::Relaxed) >= wanted));
            thread::sleep(Duration::from_millis(dice.range(0, 20)));
            server.kill();
            asking.join().unwrap()
        });
        server.start(&["--reactors", "2"]);
        for (number, known) in asked {
            match known {
                Some(bans) => banned.insert(number, bans),
                None => banned.remove(&number),
            };
        }
        for (&number, &is_banned) in &banned {
            assert_eq!(is_served(&nat64, clients[number]), !is_banned, "client {number}");
            looked_at += 1;
        }
    }
    // Each round but one whose only client is that of the question cut short has one at least.
    assert!(looked_at >= KILLS, "{looked_at}, and at the end {banned:?}");
}

/// The next process of an upgrade has the bans from its first answer on.
#[test]
fn crash_bans_over_a_stop() {
    let mut server = Server::started(&[]);
    let nat64 = Nat64::unknown(&server);
    nat64.introduce();
    let (attacker, neighbour) = (Client::nth(1), Client::nth(2));
    nat64.map(attacker);
    let admin = server.state.join("admin.sock");
    let address = attacker.address.to_string();
    let (code, ..) = run(&["ban", &address, "--for", "1d", "--admin", admin.to_str().unwrap()]);
    assert_eq!(code, 0);
    server.stop();
    // Also where nobody can ask.
    server.start(&["--admin", "off"]);
    assert!(!is_served(&nat64, attacker) && is_served(&nat64, neighbour));
    server.stop();
    server.start(&[]);
    assert!(wait_until(PATIENCE, || {
        run(&["unban", &address, "--admin", admin.to_str().unwrap()]).0 == 0
    }));
    assert!(is_served(&nat64, attacker));
}
