//! Flipped bits. A node whose disk changed what it had promised to keep says which file it is, and does not start; the
//! others go on.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::cluster::{Cluster, SMALL_FILES};
use crate::load::{Load, Reach};
use crate::tools::{number, say};

/// Where in a segment the records begin; before it the header has this many bytes.
const RECORDS_AT: usize = 512;
const SEGMENT_HEADER_BYTES: usize = 32;

/// The same of a slot of the mark.
const SLOT_BYTES: usize = 64;
const SLOTS_AT: [usize; 2] = [0, 4096];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_refused() {
    let flips = number("MOKV_FAULTS_FLIPS", 4);
    let seed = number("MOKV_FAULTS_SEED", 1);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(&SMALL_FILES).await;
    let load = Load::start(&cluster, Reach::All);
    let victim = 2;
    // Until the log is purged, so that nothing but the snapshot has its beginning.
    let dir = cluster.nodes[victim].place.data_dir.clone();
    while segments(&dir).first().is_none_or(|first| first.ends_with("00000000000000000001.seg")) {
        load.progress(500).await;
    }
    cluster.nodes[victim].kill();
    let segments = segments(&dir);
    let snapshot = files(&dir.join("snapshots"), "snap").pop().expect("a snapshot");

    let mut refused = 0;
    for _ in 0..flips {
        let segment = &segments[random.random_range(0..segments.len())];
        let identity = dir.join("identity");
        let mark = dir.join("log/mark");
        for file in [segment, &snapshot, &identity, &mark] {
            let sound = fs::read(file).expect("read");
            let places = places(file, &sound, &mut random);
            let mut damaged = sound.clone();
            for place in &places {
                damaged[*place] ^= 1 << random.random_range(0..8);
            }
            fs::write(file, &damaged).expect("write");
            cluster.nodes[victim].start(false);
            let said = cluster.nodes[victim].failure().await;
            let name = file.file_name().expect("name").to_string_lossy();
            assert!(said.contains(&*name), "seed {seed}, {name} at {places:?}: {said}");
            // A text file has lines, not offsets.
            assert!(said.contains("offset") || *file == identity, "seed {seed}, {name} at {places:?}: {said}");
            assert!(fs::read(file).expect("read") == damaged, "{name} was changed");
            fs::write(file, &sound).expect("write");
            refused += 1;
        }
        load.progress(50).await;
    }
    cluster.nodes[victim].start(false);
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("{refused} flipped bits refused: {counts:?}"));
}

/// Where to flip: one place, but for the mark, which is written in turns and good as long as one of its slots is.
fn places(file: &Path, bytes: &[u8], random: &mut SmallRng) -> Vec<usize> {
    if file.ends_with("mark") {
        return SLOTS_AT.iter().map(|slot| slot + random.random_range(0..SLOT_BYTES)).collect();
    }
    if file.extension().is_some_and(|extension| extension == "seg") {
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("a header") + 1;
        let place = random.random_range(0..SEGMENT_HEADER_BYTES + used.saturating_sub(RECORDS_AT));
        let skipped = if place < SEGMENT_HEADER_BYTES { 0 } else { RECORDS_AT - SEGMENT_HEADER_BYTES };
        return vec![place + skipped];
    }
    vec![random.random_range(0..bytes.len())]
}

fn segments(data_dir: &Path) -> Vec<PathBuf> {
    files(&data_dir.join("log"), "seg")
}

/// The files of a kind in their order.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").path());
    let mut files: Vec<PathBuf> =
        listed.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}
