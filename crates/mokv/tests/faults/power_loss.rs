//! The power fails for the whole cluster at once: only what was synced is left.

use crate::cluster::{Cluster, SMALL_AND_QUICK};
use crate::image::{Image, TOOLS};
use crate::load::{Load, Reach};
use crate::tools::{has, number, say};

/// Acknowledged writes before each.
const WRITES: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and loop devices"]
async fn what_was_acknowledged_survives_a_power_loss_of_all_nodes() {
    if !has("what_was_acknowledged_survives_a_power_loss_of_all_nodes", &TOOLS) {
        return;
    }
    let losses = number("MOKV_FAULTS_POWER_LOSSES", 3);
    let disks = tempfile::TempDir::new().expect("directory");
    // As large as a long run needs; only what is written takes room.
    let images = Image::three(disks.path(), 512);
    let places = images.iter().map(Image::place).collect();
    let dir = tempfile::TempDir::new().expect("directory");
    let mut cluster = Cluster::start_in(dir, places, &SMALL_AND_QUICK).await;
    let load = Load::start(&cluster, Reach::All);
    for _ in 0..losses {
        load.progress(WRITES).await;
        images.iter().for_each(Image::power_off);
        // Those that noticed have ended by themselves.
        for node in &mut cluster.nodes {
            node.end();
        }
        for image in &images {
            image.unmount();
            image.mount();
        }
        cluster.start_all();
        cluster.serving().await;
    }
    let counts = cluster.judge(&load.stop().await).await;
    say(format_args!("{losses} power losses of all nodes: {counts:?}"));
}
