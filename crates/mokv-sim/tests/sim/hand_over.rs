//! A leader that is stopped hands over, on a network that loses messages.

use std::time::Duration;

use mokv_sim::net::Weather;
use mokv_sim::plan::Plan;
use mokv_sim::run;
use tokio::time::{Instant, sleep};

const SEEDS: u64 = 30;

/// A hand-over that has to wait for an election takes longer.
const USUAL_MAX: Duration = Duration::from_secs(1);

/// Where the election that was asked for loses messages, too, a node stands when the lease and its election timeout are
/// over, 700 ms each at the most here, and every lost vote (one in three) costs one timeout more. It has to be seldom.
const SELDOM_MAX: Duration = Duration::from_millis(4 * 700);

#[test]
fn a_hand_over_survives_lost_messages() {
    let mut spans = Vec::new();
    for seed in 0..SEEDS {
        let (told, hears) = std::sync::mpsc::channel();
        let mut plan = Plan::quiet(seed, 3);
        plan.weather = Weather { loss: 0.2, ..Weather::default() };
        let report = run::direct(&plan, false, |world| async move {
            let cluster = &world.cluster;
            cluster.form().await;
            let load = world.load();
            sleep(Duration::from_secs(2)).await;
            let Some(leader) = cluster.leader() else { return world.trace.violate("nobody leads") };
            let begin = Instant::now();
            let taken = async {
                let deadline = begin + Duration::from_secs(30);
                cluster.wait(deadline, || cluster.leader().is_some_and(|now| now != leader)).await;
                begin.elapsed()
            };
            let ((), span) = tokio::join!(cluster.stop(leader), taken);
            told.send(span).expect("a listener");
            cluster.start(leader);
            load.stop().await;
        });
        assert_eq!(report.violation, None, "seed {seed}: {:#?}", report.recent);
        spans.push(hears.recv().expect("a span"));
    }
    spans.sort();
    let (usual, seldom) = spans.split_at(spans.len() * 9 / 10);
    assert!(usual.iter().all(|span| *span <= USUAL_MAX), "{spans:?}");
    assert!(seldom.iter().all(|span| *span <= SELDOM_MAX), "{spans:?}");
}
