//! Wall clocks that jump. Nothing is decided by them.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::cluster::{Cluster, SMALL_FILES};
use crate::load::{Load, Reach};
use crate::tools::{Tool, faketime_library, has, say};

/// What the clocks of the nodes show in the end.
const LAST: [&str; 3] = ["-1h", "+1h", "-1h"];

/// In seconds.
const DAY: u64 = 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libfaketime"]
async fn a_wall_clock_that_jumps_is_not_noticed() {
    if !has("a_wall_clock_that_jumps_is_not_noticed", &[Tool::Faketime]) {
        return;
    }
    let library = faketime_library().expect("it was there").display().to_string();
    let mut cluster = Cluster::start_with(&SMALL_FILES, |place| {
        let offset = place.data_dir.with_extension("time");
        fs::write(&offset, "+0").expect("write");
        let pairs = [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", &*offset.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_NO_CACHE", "1"),
        ];
        place.env = pairs.map(|(variable, value)| (variable.to_owned(), value.to_owned())).to_vec();
    })
    .await;
    let before = cluster.leader_and_term().await;
    let load = Load::start(&cluster, Reach::All);
    load.progress(500).await;
    // One node, then all, then apart from each other.
    let jumps = [["+1h", "+0", "+0"], ["-1h", "-1h", "-1h"], ["+1h", "-1h", "+0"], ["+0", "+0", "+0"], LAST];
    for jump in jumps {
        for (node, offset) in cluster.nodes.iter().zip(jump) {
            fs::write(node.place.data_dir.with_extension("time"), offset).expect("write");
        }
        load.progress(500).await;
    }
    assert_eq!(cluster.leader_and_term().await, before, "a jump made another one lead");
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("{} jumps of the wall clock: {counts:?}", jumps.len()));
    assert_eq!((counts.failed, counts.unknown), (0, 0), "a jump made calls fail");

    // They did see it: so their last lines tell.
    for (node, offset) in cluster.nodes.iter_mut().zip(LAST) {
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() % DAY;
        node.signal(Signal::TERM);
        node.exit().await;
        let said = node.said();
        let stopping = said.lines().find(|line| line.contains("stopping")).expect("a last line");
        let hours = if offset == "+1h" { 1 } else { 23 };
        // Half an hour more, so that seconds don't matter.
        assert_eq!((time_of_day(stopping) + DAY + 1800 - ours) / 3600 % 24, hours, "{stopping}");
    }
}

/// Seconds since midnight, as a line of the log begins: `2026-11-24T20:16:22.1Z`.
fn time_of_day(line: &str) -> u64 {
    let parts = line[11..19].split(':').map(|part| part.parse::<u64>().expect("a time"));
    parts.fold(0, |time, part| time * 60 + part)
}
