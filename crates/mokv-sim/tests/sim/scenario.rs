//! How a scenario is run: with several seeds, each judged like any other run.

use std::future::Future;

use mokv_check::{Op, Outcome};
use mokv_sim::client::Client;
use mokv_sim::plan::Plan;
use mokv_sim::run::{Report, World, direct};

/// Runs a scenario with `seeds` seeds, or with the one in `MOKV_SIM_SEED`, whose events are printed then. `tune` changes
/// the plan: three nodes and an ordinary load unless it says otherwise.
pub(crate) fn scenario<F, R>(seeds: u64, tune: impl Fn(&mut Plan), play: F) -> Vec<Report>
where
    F: Fn(World) -> R,
    R: Future<Output = ()>,
{
    let one: Option<u64> =
        std::env::var("MOKV_SIM_SEED").ok().map(|seed| seed.parse().expect("MOKV_SIM_SEED: a number"));
    let seeds: Vec<u64> = one.map_or_else(|| (0..seeds).collect(), |seed| vec![seed]);
    seeds.into_iter().map(|seed| run(seed, one.is_some(), &tune, &play)).collect()
}

fn run<F, R>(seed: u64, is_printed: bool, tune: impl Fn(&mut Plan), play: &F) -> Report
where
    F: Fn(World) -> R,
    R: Future<Output = ()>,
{
    let mut plan = Plan::quiet(seed, 3);
    tune(&mut plan);
    let report = direct(&plan, is_printed, |world| async {
        world.cluster.form().await;
        play(world).await;
    });
    if let Some(violation) = &report.violation {
        panic!("{}\nseed {seed}: {violation}\nagain: MOKV_SIM_SEED={seed}", report.recent.join("\n"));
    }
    report
}

/// A write of a new value under `key`, without a session.
pub(crate) async fn set(client: &mut Client, key: &str) -> Outcome {
    let value = client.token();
    client.write(Op::Set { key: key.into(), value }, false).await
}

pub(crate) fn is_ok(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ok { .. })
}
