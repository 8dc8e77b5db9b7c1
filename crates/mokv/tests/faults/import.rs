//! An import that goes on while the leader is killed and comes back.
//!
//! `CRASH_TEST_LINES=FILE` imports each line of a file of your own, for example a dictionary.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;

/// Lines where no file is given.
const LINES: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_outlives_the_leader_and_loses_nothing() {
    let mut cluster = Cluster::start(&[]).await;
    let lines = lines();
    let (data, acks) = (cluster.dir.path().join("data.jsonl"), cluster.dir.path().join("acks"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&data).expect("data"));
    for (number, line) in lines.iter().enumerate() {
        let pair = serde_json::json!({"key": line, "value": format!("line {number}")});
        writeln!(file, "{pair}").expect("write");
    }
    file.flush().expect("write");
    drop(file);

    let endpoints: Vec<String> = cluster.nodes.iter().map(|node| node.addr()).collect();
    let mut import = Command::new(env!("CARGO_BIN_EXE_mokv"))
        .args(["import", "--endpoints", &endpoints.join(","), "--ack-log"])
        .args([&acks, &data])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("import");

    let acknowledged = || std::fs::read(&acks).map_or(0, |log| log.iter().filter(|byte| **byte == b'\n').count());
    let deadline = Instant::now() + Duration::from_secs(300);
    while acknowledged() < lines.len() / 2 {
        assert!(Instant::now() < deadline, "half of the import took too long");
        assert!(import.try_wait().expect("wait").is_none(), "the import ended early");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill();
    let status = tokio::task::spawn_blocking(move || import.wait()).await.expect("join").expect("wait");
    assert!(status.success(), "the import failed: {status}");
    cluster.nodes[leader].start(false);
    cluster.serving().await;

    let acknowledged: BTreeSet<String> =
        BufReader::new(std::fs::File::open(&acks).expect("acks")).lines().map(|line| line.expect("line")).collect();
    assert_eq!(acknowledged.len(), lines.len(), "every line was acknowledged");
    let keys: BTreeSet<String> = cluster.settled().await.into_iter().map(|pair| pair.key).collect();
    let missing: Vec<&String> = acknowledged.difference(&keys).take(5).collect();
    assert!(missing.is_empty(), "the nodes lack {missing:?}");
    assert_eq!(keys.len(), lines.len());
}

/// Distinct lines: of the file that the environment names, or made up.
fn lines() -> BTreeSet<String> {
    match std::env::var_os("CRASH_TEST_LINES") {
        Some(path) => {
            let file = BufReader::new(std::fs::File::open(&path).expect("CRASH_TEST_LINES"));
            file.lines().map(|line| line.expect("text")).filter(|line| !line.is_empty()).collect()
        }
        None => (0..LINES).map(|n| format!("line/{n:06}")).collect(),
    }
}
