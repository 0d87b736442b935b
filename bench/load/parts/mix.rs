//! All kinds at once: 80 % known clients, 10 % service packets, 5 % new clients, 5 % reports.

use std::time::Duration;

use crate::generator::{Mix, Sending};
use crate::nat64::Kind;
use crate::parts::{NO_END, TIME, server_and_echoes};
use crate::report::Rounds;

const NAT64S: u32 = 16;
const CLIENTS: u32 = 4096;
const SETTLE: Duration = Duration::from_millis(250);
/// 20 requests, which are repeated in this order.
const ORDER: &str = "kkkskkkknkkkkskkkrkk";

pub fn run(rounds: usize) -> Result<(), String> {
    let kinds: Vec<Kind> = ORDER
        .chars()
        .map(|letter| match letter {
            'k' => Kind::Known,
            's' => Kind::Service,
            'n' => Kind::New,
            _ => Kind::Report,
        })
        .collect();
    let mut targets = server_and_echoes(NAT64S, CLIENTS);
    let samples = Rounds::measure(&mut targets, rounds, SETTLE, |load| {
        load.closed(Mix(&kinds), Sending::Plain, NO_END, TIME)
    });
    println!("{NAT64S} NAT64s: 80 % known clients, 10 % service packets, 5 % new, 5 % reports");
    samples.print();
    Ok(())
}
