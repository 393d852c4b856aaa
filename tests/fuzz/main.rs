//! Every fuzz target on its kept seeds, and on a bounded number of mutations of them, chosen by a seed.
//!
//! `KONTIKI_FUZZ_CASES=n` tries more, `KONTIKI_SEED=n` others. An input that breaks something is written
//! down, and belongs into `fuzz/seeds` from then on. `make fuzz` looks further, by libFuzzer, from the same
//! seeds.

mod objects;
mod targets;

use std::path::{Path, PathBuf};
use std::{env, fs, panic};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CASES: u64 = 1500;
/// Longest input that mutation makes.
const BYTES_MAX: usize = 16 << 10;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|_| panic!("{}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn mutate(random: &mut StdRng, from: &[Vec<u8>]) -> Vec<u8> {
    let any = |random: &mut StdRng| from[random.random_range(0..from.len())].clone();
    let mut bytes = any(random);
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let to = random.random_range(at..=bytes.len().min(at + 16));
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => {
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)];
            }
            2 => drop(bytes.drain(at..to)),
            3 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = any(random);
                let cut = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[cut..]);
            }
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn try_out(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(cause) = panic::catch_unwind(|| target(input)) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        fs::write(&path, input).unwrap();
        eprintln!("{name} breaks on {}; keep it in fuzz/seeds/{name}", path.display());
        panic::resume_unwind(cause);
    }
}

fn run(name: &str) {
    let mut all = targets::ALL.iter().chain(objects::ALL);
    let (_, target) = all.find(|(other, _)| *other == name).unwrap();
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (path, input) in &seeds {
        println!("{}", path.display());
        try_out(name, *target, input);
    }
    let seed = number("KONTIKI_SEED", 1);
    println!("KONTIKI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut inputs: Vec<Vec<u8>> = seeds.into_iter().map(|(_, input)| input).collect();
    for case in 0..number("KONTIKI_FUZZ_CASES", CASES) {
        let input = mutate(&mut random, &inputs);
        try_out(name, *target, &input);
        // Some are built upon.
        if case % 8 == 0 && inputs.len() < 500 {
            inputs.push(input);
        }
    }
}

#[test]
fn commands_of_the_log_are_read_or_refused_and_never_half_done() {
    run("commands");
}

#[test]
fn a_transaction_that_passes_its_checks_is_carried_out_to_the_end() {
    run("transaction");
}

#[test]
fn snapshots_are_read_or_refused() {
    run("manifest");
}

#[test]
fn rows_are_read_or_refused() {
    run("rows");
}

#[test]
fn a_log_opens_or_is_refused() {
    run("log");
}

#[test]
fn bodies_are_read_or_refused_and_have_the_shape_of_their_type() {
    run("decode");
}

#[test]
fn protobuf_is_read_or_refused_and_written_as_it_was_read() {
    run("protobuf");
}

#[test]
fn patches_are_carried_out_or_refused() {
    run("patch");
}

#[test]
fn what_is_applied_twice_is_applied_once_or_refused() {
    run("apply");
}

#[test]
fn selectors_are_read_or_refused() {
    run("selectors");
}
