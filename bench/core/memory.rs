//! Octets for each entry, in processes of their own.

use std::fs;
use std::process::Command;

use nat64handoff::handoff::ports::TABLE_CAPACITY;

use crate::ALLOCATOR;
use crate::shard::{Shape, Shard};

/// More octets than a full table takes, the list of its clients included.
const FULL_TABLE_OCTETS_MAX: usize = 16 << 20;

pub fn memory(tables: usize) {
    println!("memory: octets for each entry, all of the NAT64 in");
    // Full tables are all of one size, so where memory is short, fewer will do.
    let full_tables = tables.min(available_octets() / FULL_TABLE_OCTETS_MAX).max(1);
    println!(
        "{:<28}{:>8}{:>8}{:>12}{:>12}",
        "clients", "tables", "entries", "asked for", "resident"
    );
    let lines = [
        // Many small tables, so that the memory of the process itself does not count.
        ("distinct", 1, 10_000),
        ("four", 100, 1000),
        ("distinct", 100, 1000),
        ("four", TABLE_CAPACITY, 1),
        ("distinct", TABLE_CAPACITY, 1),
        ("four", TABLE_CAPACITY, full_tables),
        ("distinct", TABLE_CAPACITY, full_tables),
    ];
    for (shape, entries, tables) in lines {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["resident", shape, &entries.to_string(), &tables.to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
}

pub fn resident(shape: &str, entries: usize, tables: usize) {
    let (shape, name) = match shape {
        "four" => (Shape::FourPorts, "four ports an address"),
        _ => (Shape::Distinct, "each address and /64 once"),
    };
    let mut shard = Shard::new(shape, tables, entries);
    let (asked, resident) = (asked_for(), resident_octets());
    shard.fill();
    let each = |octets: usize| octets as f64 / (entries * tables) as f64;
    println!(
        "{name:<28}{tables:>8}{entries:>8}{:>12.1}{:>12.1}",
        each(asked_for() - asked),
        each(resident_octets() - resident)
    );
}

fn asked_for() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn resident_octets() -> usize {
    octets_of("/proc/self/status", "VmRSS:")
}

fn available_octets() -> usize {
    octets_of("/proc/meminfo", "MemAvailable:")
}

fn octets_of(path: &str, name: &str) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}
