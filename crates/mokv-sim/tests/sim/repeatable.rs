//! A seed is a run: the same events in the same order, in every process and after whatever ran before.

use std::process::Command;

const SEEDS: u64 = 20;

fn hashes(seeds: impl Iterator<Item = u64>) -> Vec<String> {
    let seeds: Vec<String> = seeds.map(|seed| seed.to_string()).collect();
    let run = Command::new(env!("CARGO_BIN_EXE_mokv-sim")).arg("hashes").args(seeds).output().expect("the simulator");
    assert!(run.status.success(), "{run:?}");
    let mut lines: Vec<String> = String::from_utf8(run.stdout).expect("text").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_seed_has_the_same_hash_in_every_process_and_order() {
    let (ascending, descending) = (hashes(0..SEEDS), hashes((0..SEEDS).rev()));
    assert_eq!(ascending.len() as u64, SEEDS);
    assert_eq!(ascending, descending);
    let mut different: Vec<&str> = ascending.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len() as u64, SEEDS, "different seeds are different runs");
}
