//! A NAT64 that asks all the time, for clients that it knows and new ones, and remembers what it
//! was told and when. No answer is no failure: it asks again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::PATIENCE;
use crate::dice::Dice;
use crate::judge::client::{Client, Entry, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::Reply;

/// How many requests are under way, of those that have time still.
const WINDOW: usize = 8;
/// After that long another request is made in place of one without an answer.
const GIVEN_UP: Duration = Duration::from_millis(200);
/// How long it waits for an answer before it looks for other things to do.
const LOOKS: Duration = Duration::from_millis(2);
/// A turn that takes so long says that this program was stopped, and not the hosts alone.
const STOPPED: Duration = Duration::from_millis(500);
/// How often it reboots: it has another token and another port then.
const REBOOTS_EACH: u32 = 500;

/// Microseconds since 1970.
pub type Micros = u64;

pub fn now() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as Micros
}

/// What it was told, and the time in which that has to have been so.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub port: u16,
    /// `None`: nobody has the port.
    pub client: Option<Client>,
    pub asked: Micros,
    pub came: Micros,
}

/// A request without an answer.
enum Asked {
    Client(Client, Micros),
    Port(u16, Micros),
    /// Nothing but whether somebody is there.
    Fence,
}

pub struct Asker {
    pub nat64: Nat64,
    dice: Dice,
    /// Its clients are others than those of another number.
    number: u32,
    clients: u32,
    /// How long it waits between two requests: the load.
    pace: Duration,
    /// By the mark that is in their packets. What comes very late is taken as well.
    packets: HashMap<u64, Asked>,
    /// By client: the mark, and when it was asked.
    reports: HashMap<Client, (u64, Micros)>,
    mark: u64,
    /// When each of those that have time still was asked.
    under_way: HashMap<u64, Instant>,
    /// New clients that were asked for in vain.
    unanswered: Vec<Client>,
    pub told: Vec<Told>,
    pub proofs: usize,
    /// The longest time in which nothing came.
    pub silence: Duration,
    /// Answers about a port without the authenticator of its client.
    pub unproven: usize,
    until_reboot: u32,
}

impl Asker {
    fn new(nat64: Nat64, number: u32, pace: Duration, dice: Dice) -> Self {
        Self {
            nat64,
            dice,
            number,
            clients: 0,
            pace,
            packets: HashMap::new(),
            reports: HashMap::new(),
            mark: 0,
            under_way: HashMap::new(),
            unanswered: Vec::new(),
            told: Vec::new(),
            proofs: 0,
            silence: Duration::ZERO,
            unproven: 0,
            until_reboot: REBOOTS_EACH,
        }
    }

    /// The same, and known: it asks until it is, as anything may be lost while hosts are busy.
    pub fn known(nat64: Nat64, number: u32, pace: Duration, dice: Dice) -> Self {
        let mut asker = Self::new(nat64, number, pace, dice);
        let client = asker.new_client();
        assert_eq!(
            asker.ask_all(&[client], &[], PATIENCE),
            0,
            "{} is not known",
            asker.nat64.address
        );
        asker
    }

    /// Asks until `stop`, and proves itself to whoever wants that.
    pub fn load(&mut self, stop: &AtomicBool) {
        let (mut heard, mut asked, mut turn) = (Instant::now(), Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            self.give_up(GIVEN_UP);
            if self.under_way.len() < WINDOW && asked.elapsed() >= self.pace {
                asked = Instant::now();
                self.ask();
            }
            let answers = self.receive();
            if turn.elapsed() > STOPPED {
                heard = Instant::now();
            }
            turn = Instant::now();
            if answers > 0 {
                self.silence = self.silence.max(heard.elapsed());
                heard = Instant::now();
            }
            self.prove();
        }
    }

    /// What had this long is not waited for.
    fn give_up(&mut self, after: Duration) {
        let (packets, unanswered) = (&self.packets, &mut self.unanswered);
        self.under_way.retain(|mark, at| {
            let has_time = at.elapsed() < after;
            if let (false, Some(Asked::Client(client, _))) = (has_time, packets.get(mark)) {
                unanswered.push(*client);
            }
            has_time
        });
    }

    /// Takes what is there, and waits a little if nothing is. Returns how much that was.
    fn receive(&mut self) -> usize {
        let mut count = 0;
        let mut patience = LOOKS;
        while let Some(reply) = self.nat64.try_reply(patience) {
            self.take(&reply);
            count += 1;
            patience = Duration::from_micros(1);
        }
        count
    }

    /// Returns what came to port 9.
    fn prove(&mut self) {
        while let Some(challenge) = self.nat64.waiting_challenge() {
            let packet = self.nat64.as_packet(&challenge);
            self.nat64.send(&self.nat64.service_request(&packet));
            self.proofs += 1;
        }
    }

    fn reboot(&mut self) {
        self.nat64 = self.nat64.rebooted();
        self.until_reboot = REBOOTS_EACH;
    }

    fn ask(&mut self) {
        self.until_reboot -= 1;
        if self.until_reboot == 0 {
            self.reboot();
        }
        match self.dice.below(100) {
            0..35 => {
                let again = self.unanswered.pop().filter(|_| self.dice.percent(70));
                let client = again.unwrap_or_else(|| self.new_client());
                self.ask_client(client);
            }
            35..45 => {
                let (client, number) = (self.new_client(), self.dice.next() as u16);
                self.report(client.at(self.nat64.eligible_port(number)));
            }
            kind => match self.old() {
                None => self.ask_port(7),
                Some(told) if kind < 72 => self.ask_port(told.port),
                Some(Told { client: Some(client), .. }) => self.ask_client(client),
                Some(_) => self.ask_port(7),
            },
        }
    }

    fn new_client(&mut self) -> Client {
        self.clients += 1;
        Client::within((self.number << 20) + self.clients / 3, u64::from(self.clients % 3) + 1)
    }

    /// What it was told before, mostly a short time ago.
    fn old(&mut self) -> Option<Told> {
        let count = self.told.len();
        let from = if self.dice.percent(70) { count.saturating_sub(300) } else { 0 };
        self.told.get(from + self.dice.below((count - from).max(1))).copied()
    }

    fn next_mark(&mut self) -> u64 {
        self.mark += 1;
        self.under_way.insert(self.mark, Instant::now());
        self.mark
    }

    fn marked(&mut self, asked: Asked) -> [u8; 8] {
        let mark = self.next_mark();
        self.packets.insert(mark, asked);
        mark.to_be_bytes()
    }

    pub fn ask_client(&mut self, client: Client) {
        let mark = self.marked(Asked::Client(client, now()));
        let packet = client.udp(&mark);
        self.nat64.send(&self.nat64.client_request(&client.authenticator(), &packet));
    }

    pub fn ask_port(&mut self, port: u16) {
        let asked = if port < 1024 { Asked::Fence } else { Asked::Port(port, now()) };
        let mark = self.marked(asked);
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, port), &mark).octets();
        self.nat64.send(&self.nat64.service_request(&packet));
    }

    fn report(&mut self, entry: Entry) {
        let mark = self.next_mark();
        self.reports.insert(entry.client, (mark, now()));
        let authenticator = entry.client.authenticator();
        self.nat64.send(&self.nat64.report_request(&authenticator, entry));
    }

    fn take(&mut self, reply: &Reply) {
        let came = now();
        let Some(packet) = &reply.packet else {
            let entry = reply.entry.expect("an entry, where there is no packet");
            assert_eq!(*reply, Reply::report(&entry.client.authenticator(), entry));
            let Some((mark, asked)) = self.reports.remove(&entry.client) else {
                panic!("{}: an answer to no report: {entry:?}", self.nat64.address);
            };
            self.under_way.remove(&mark);
            return self.told.push(Told {
                port: entry.mapped,
                client: Some(entry.client),
                asked,
                came,
            });
        };
        let mark = packet.last_chunk().map_or(0, |mark| u64::from_be_bytes(*mark));
        self.under_way.remove(&mark);
        let told = match (self.packets.remove(&mark), reply.entry) {
            (Some(Asked::Client(client, asked)), Some(entry)) => {
                let expected = client.at(entry.mapped);
                assert_eq!(*reply, Reply::mapping(&client.authenticator(), expected, packet));
                assert!(entry.mapped >= 1024, "{reply:?}");
                Told { port: entry.mapped, client: Some(client), asked, came }
            }
            (Some(Asked::Port(port, asked)), Some(entry)) => {
                let authenticator = entry.client.authenticator();
                // Where its deletion was taken back, as the table was lost before that was
                // recorded, its client has to speak before the NAT64 takes this.
                if *reply == Reply::mapping(&[], entry, packet) {
                    self.unproven += 1;
                } else {
                    assert_eq!(*reply, Reply::mapping(&authenticator, entry, packet));
                }
                assert_eq!(entry.mapped, port);
                Told { port, client: Some(entry.client), asked, came }
            }
            (Some(Asked::Port(port, asked)), None) => {
                let aged = packet::with_ttl(packet, packet::TTL - 1);
                assert_eq!((&reply.packet, reply.token.is_some()), (&Some(aged), true));
                Told { port, client: None, asked, came }
            }
            (Some(Asked::Fence), None) => return,
            // A packet that came back as a proof; or a request that the network gave twice.
            (None, None) => return,
            _ => panic!("{}: an answer to nothing: {reply:?}", self.nat64.address),
        };
        self.told.push(told);
    }

    /// Asks about all of these, again where that is lost, until each has its answer; for so long
    /// at most. Returns how many have none.
    pub fn ask_all(&mut self, clients: &[Client], ports: &[u16], patience: Duration) -> usize {
        let begin = Instant::now();
        let first = self.told.len();
        let (mut of_clients, mut of_ports) = (clients.to_vec(), ports.to_vec());
        while begin.elapsed() < patience {
            let told = &self.told[first..];
            of_clients.retain(|client| !told.iter().any(|told| told.client == Some(*client)));
            of_ports.retain(|port| !told.iter().any(|told| told.port == *port));
            if of_clients.is_empty() && of_ports.is_empty() {
                return 0;
            }
            for chunk in of_clients.clone().chunks(WINDOW) {
                chunk.iter().for_each(|&client| self.ask_client(client));
                self.wait();
            }
            for chunk in of_ports.clone().chunks(WINDOW) {
                chunk.iter().for_each(|&port| self.ask_port(port));
                self.wait();
            }
        }
        of_clients.len() + of_ports.len()
    }

    /// Until all that is under way is answered, or had its time.
    fn wait(&mut self) {
        while !self.under_way.is_empty() {
            self.receive();
            self.prove();
            self.under_way.retain(|_, at| at.elapsed() < GIVEN_UP);
        }
    }
}
