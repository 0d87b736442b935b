//! A NAT64 whose new clients may stay without an answer.

use crate::judge::PATIENCE;
use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::wire::Reply;
use crate::mount::Mounted;
use crate::server::Server;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long a disk may take until it is full to the server too.
const FILL_MAX: Duration = PATIENCE;
/// How long until room that was made is noticed.
pub const NOTICE: Duration = Duration::from_secs(10);

/// A NAT64 that asks for new clients, where some may stay without an answer.
pub struct Newcomers {
    pub nat64: Nat64,
    pub asked: u32,
    /// Each entry once, in order.
    pub told: Vec<Entry>,
    seen: HashSet<Entry>,
}

impl Newcomers {
    pub fn introduced(server: &Server) -> Newcomers {
        let nat64 = Nat64::unknown(server);
        nat64.introduce();
        Newcomers { nat64, asked: 0, told: Vec::new(), seen: HashSet::new() }
    }

    /// So many more new clients; how many of all that were asked for were answered now.
    pub fn ask(&mut self, count: u32, patience: Duration) -> usize {
        for _ in 0..count {
            let client = Client::nth(self.asked);
            self.asked += 1;
            self.send(client);
        }
        self.take(count as usize, patience)
    }

    pub fn send(&self, client: Client) {
        let packet = client.udp(b"new");
        self.nat64.send(&self.nat64.client_request(&client.authenticator(), &packet));
    }

    pub fn take(&mut self, count: usize, patience: Duration) -> usize {
        for taken in 0..count {
            let Some(reply) = self.nat64.try_reply(patience) else { return taken };
            let entry = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}"));
            let (client, packet) = (entry.client, entry.client.udp(b"new"));
            assert_eq!(reply, Reply::mapping(&client.authenticator(), entry, &packet));
            if self.seen.insert(entry) {
                self.told.push(entry);
            }
        }
        count
    }

    /// Takes the room away until no new client is answered any more.
    pub fn until_full(&mut self, tmpfs: &Mounted) {
        let start = Instant::now();
        let mut silent = 0;
        while silent < 5 {
            assert!(start.elapsed() < FILL_MAX, "new entries are announced on a full disk");
            tmpfs.fill();
            match self.ask(64, Duration::from_millis(150)) {
                0 => silent += 1,
                _ => silent = 0,
            }
        }
    }

    /// A new client is answered soon after there is room.
    pub fn until_answered(&mut self) -> Duration {
        let start = Instant::now();
        let client = Client::nth(self.asked);
        self.asked += 1;
        while !self.told.iter().rev().take(200).any(|entry| entry.client == client) {
            assert!(start.elapsed() < NOTICE, "there is room, and new clients are not answered");
            self.send(client);
            self.take(100, Duration::from_millis(50));
        }
        // Answers to repeated requests.
        self.take(100, Duration::from_millis(100));
        start.elapsed()
    }
}
