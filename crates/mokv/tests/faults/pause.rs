//! A leader that stands still while the others go on.

use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, eventually};
use crate::history::{Op, Outcome};
use crate::load::{Load, Reach};
use crate::tools::say;

/// Three times `election-timeout-max`.
const PAUSE: Duration = Duration::from_millis(3 * 1200);

/// Requests wait in its sockets meanwhile. When it goes on it believes that it leads: its clients must not be told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_answers_nothing_old() {
    let cluster = Cluster::start(&[]).await;
    // Clients of the paused node stay with it. Their history is judged for reads that are older than what others know.
    let load = Load::start(&cluster, Reach::One);
    load.progress(200).await;
    let (leader, term) = cluster.leader_and_term().await;
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let key = "paused";
    cluster.nodes[leader].client().set(key, "old").await.expect("set");

    cluster.nodes[leader].signal(Signal::STOP);
    let paused = load.now();
    // What waits in the sockets of the node while it stands still.
    let (read, write) = {
        let client = cluster.nodes[leader].client().clone();
        let writer = client.clone();
        let read = tokio::spawn(async move { client.get(key).await });
        (read, tokio::spawn(async move { writer.set("queued", "once").await }))
    };
    let successor = cluster.leader_of(&others).await;
    eventually("the others write", async || cluster.nodes[successor].client().set(key, "new").await).await;
    tokio::time::sleep(PAUSE.saturating_sub(load.now() - paused)).await;
    cluster.nodes[leader].signal(Signal::CONT);

    // Of before the new write or of after it: the read began before either was known. It must have been answered late.
    if let Ok(found) = read.await.expect("read") {
        assert_eq!(&found.expect("there is one").value[..], b"new", "the paused leader answered what it had");
    }
    let queued = write.await.expect("write");
    // A read that begins now reflects the new value, or fails.
    for _ in 0..100 {
        if let Ok(found) = cluster.nodes[leader].client().get(key).await {
            assert_eq!(&found.expect("there is one").value[..], b"new");
        }
    }
    load.progress(200).await;
    let (_, now) = cluster.leader_and_term().await;
    assert!(now > term, "nobody else led meanwhile");
    let mut history = load.stop().await;
    let unknown = |call: &&crate::history::Call| matches!(&call.op, Op::Set { outcome: Outcome::Unknown(_), .. });
    let lost = history.calls.iter().filter(unknown).count();
    history.calls.retain(|call| call.key != key);
    for (key, value) in [(key, "new"), ("queued", "once")] {
        let found = cluster.client(0).get(key).await.expect("get");
        match &queued {
            Err(mokv_client::Error::OutcomeUnknown(_)) if key == "queued" => {}
            Err(_) if key == "queued" => assert!(found.is_none(), "a refused write took effect"),
            _ => assert_eq!(&found.expect("there is one").value[..], value.as_bytes()),
        }
    }
    for key in [key, "queued"] {
        cluster.client(0).delete(key).await.expect("delete");
    }
    let counts = cluster.judge(&history).await;
    say(format_args!("leader paused for {PAUSE:?}: {counts:?}, {lost} unknown; the queued write: {queued:?}"));
}
