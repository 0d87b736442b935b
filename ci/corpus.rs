//! Replays the fuzzing corpora, and mutations of them, on a stable toolchain and without a fuzzer:
//! what fuzzing found once cannot come back unseen. `ci/fuzz` looks for more.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use nat64handoff::handoff::random::Random;
use targets::{TARGETS, Target};

/// Mutations of a corpus, besides its files.
const MUTATIONS: u32 = 3000;
/// Another seed makes others: `CORPUS_SEED=N cargo test --test corpus`.
const SEED: u64 = 64;
/// Edits in a mutation, at most.
const EDITS_MAX: u32 = 4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

/// In the order of their names, so that a seed always means the same mutations.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no files", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn replay(name: &str) {
    let target = target(name);
    let corpus = corpus(name);
    for (path, input) in &corpus {
        eprintln!("{}", path.display());
        target(input);
    }
    let seed = std::env::var("CORPUS_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    eprintln!("{MUTATIONS} mutations, CORPUS_SEED={seed}");
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&seed.to_be_bytes());
    let mut random = Random::new(octets);
    for n in 0..MUTATIONS {
        let input = mutation(&corpus, &mut random);
        let here = Announced { n, input: &input };
        target(&input);
        std::mem::forget(here);
    }
}

/// Says on the way out of a panic which mutation it was.
struct Announced<'a> {
    n: u32,
    input: &'a [u8],
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        eprintln!("mutation {}: {:02x?}", self.n, self.input);
    }
}

fn mutation(corpus: &[(PathBuf, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut below = |bound: usize| random.below(bound as u32) as usize;
    let mut input = corpus[below(corpus.len())].1.clone();
    for _ in 0..=below(EDITS_MAX as usize) {
        let at = below(input.len() + 1);
        match below(5) {
            0 => input.truncate(at),
            1 => input.insert(at, below(256) as u8),
            2 => {
                // The end of one behind the beginning of another.
                let other = &corpus[below(corpus.len())].1;
                input.truncate(at);
                input.extend_from_slice(&other[below(other.len() + 1)..]);
            }
            kind => {
                if let Some(octet) = input.get_mut(at) {
                    *octet = if kind == 3 { *octet ^ 1 << below(8) } else { below(256) as u8 };
                }
            }
        }
    }
    input
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|target| target.0 == name).unwrap().1
}

#[test]
fn payload() {
    replay("payload");
}

#[test]
fn packet() {
    replay("packet");
}

#[test]
fn server() {
    replay("server");
}

#[test]
fn journal() {
    replay("journal");
}

#[test]
fn translate() {
    replay("translate");
}

#[test]
fn gateway() {
    replay("gateway");
}

#[test]
fn geneve() {
    replay("geneve");
}

/// The corpora have the seeds as they are made now. `CORPUS_WRITE=1` writes them anew.
#[test]
fn seeds_are_in_the_corpora() {
    for (name, _) in TARGETS {
        for (n, seed) in targets::seed::seeds(name).iter().enumerate() {
            let path = folder(name).join(format!("seed-{n:02}"));
            if std::env::var_os("CORPUS_WRITE").is_some() {
                fs::create_dir_all(folder(name)).unwrap();
                fs::write(&path, seed).unwrap();
            }
            let found = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(found == *seed, "{} is not what is made now", path.display());
        }
    }
}
