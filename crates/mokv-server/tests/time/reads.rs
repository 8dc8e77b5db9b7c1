//! How fresh reads are, and what they say of it.

use std::time::Duration;

use mokv_server::command;
use mokv_server::error::RequestError;
use mokv_server::node::{Consistency, Freshness};
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, ELECTION_TIMEOUT_MAX, run};

impl Cluster {
    async fn read(
        &self,
        index: usize,
        consistency: Consistency,
        max_staleness: Option<Duration>,
        patience: Duration,
    ) -> Result<(Consistency, Option<Vec<u8>>), RequestError> {
        let freshness = Freshness { consistency, min_revision: 0, max_staleness };
        let served = self.node(index).read_barrier(freshness, Instant::now() + patience).await?;
        let record = self.node(index).store().get(b"key").record;
        Ok((served, record.map(|record| record.value.to_vec())))
    }
}

const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn an_answer_says_what_was_served() {
    run(async {
        for lease_reads in [false, true] {
            let cluster = Cluster::start_with(3, lease_reads).await;
            for n in 0..20 {
                let value = n.to_string().into_bytes();
                cluster.write(n % 3, command::set("key", value.clone())).await;
                for index in 0..3 {
                    let read =
                        async |consistency| cluster.read(index, consistency, None, PATIENCE).await.expect("read");
                    assert_eq!(read(Consistency::Linearizable).await, (Consistency::Linearizable, Some(value.clone())));
                    let by_lease = if lease_reads { Consistency::Lease } else { Consistency::Linearizable };
                    assert_eq!(read(Consistency::Lease).await, (by_lease, Some(value.clone())));
                    assert_eq!(read(Consistency::Local).await.0, Consistency::Local);
                }
            }
        }
    });
}

#[test]
fn a_lease_costs_no_round_and_ends_with_the_majority() {
    run(async {
        let cluster = Cluster::start_with(3, true).await;
        cluster.write(0, command::set("key", "value")).await;
        let leader = cluster.leader().await;
        let began = Instant::now();
        cluster.read(leader, Consistency::Lease, None, PATIENCE).await.expect("read");
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody was asked");
        cluster.isolate(leader);
        sleep(ELECTION_TIMEOUT_MAX).await;
        cluster.read(leader, Consistency::Lease, None, PATIENCE).await.expect_err("it may have been deposed");
    });
}

/// A node that was started again has forgotten that its leader relies on it. It must not help another one to leadership while
/// that leader answers for its lease.
#[test]
fn a_voter_that_was_started_again_lets_nobody_lead_beside_the_leases_holder() {
    run(async {
        let mut elected_soon = 0;
        for offset in (0..1200).step_by(60) {
            let mut cluster = Cluster::start_with(3, true).await;
            cluster.write(0, command::set("key", "0")).await;
            let leader = cluster.leader().await;
            let [restarted, other] = [1, 2].map(|step| (leader + step) % 3);
            // The other one wants to lead, and has a complete log. What keeps it from that is the lease of the voter.
            cluster.cut(leader, other);
            sleep(ELECTION_TIMEOUT_MAX + Duration::from_millis(offset)).await;
            cluster.kill(restarted);
            cluster.cut(leader, restarted);
            let cut = Instant::now();
            cluster.start_node(restarted).await;
            let cluster = &cluster;
            let writing = async {
                let led = cluster.leader_without(&[leader]).await;
                cluster.write(led, command::set("key", "1")).await;
                Instant::now()
            };
            let reading = async {
                let mut last_old = Instant::now();
                while cut.elapsed() < 2 * ELECTION_TIMEOUT_MAX {
                    let began = Instant::now();
                    let read = cluster.read(leader, Consistency::Lease, None, Duration::from_millis(5)).await;
                    if read.is_ok_and(|(_, value)| value.as_deref() == Some(b"0")) {
                        last_old = began;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
                last_old
            };
            let (written, last_old) = tokio::join!(writing, reading);
            assert!(last_old < written, "offset {offset}: the old value was read {:?} later", last_old - written);
            elected_soon += usize::from(written - cut < 2 * ELECTION_TIMEOUT_MAX);
        }
        assert!(elected_soon > 5, "the voter helps again as soon as it may: {elected_soon}");
    });
}

#[test]
fn a_local_read_with_a_bound_is_no_older() {
    run(async {
        let cluster = Cluster::start(3).await;
        cluster.write(0, command::set("key", "0")).await;
        sleep(Duration::from_secs(5)).await;
        let follower = cluster.follower().await;
        let bound = Some(Duration::from_secs(1));
        let read = async |bound| cluster.read(follower, Consistency::Local, bound, PATIENCE).await;
        assert_eq!(read(bound).await.expect("read"), (Consistency::Local, Some(b"0".to_vec())), "it asks now and then");
        let (served, _) = read(Some(Duration::ZERO)).await.expect("read");
        assert_eq!(served, Consistency::Linearizable, "no state is that fresh");
        cluster.isolate(follower);
        sleep(Duration::from_secs(5)).await;
        let leader = cluster.leader_without(&[follower]).await;
        cluster.write(leader, command::set("key", "1")).await;
        assert_eq!(read(None).await.expect("read"), (Consistency::Local, Some(b"0".to_vec())));
        assert_eq!(read(Some(Duration::from_secs(60))).await.expect("read").0, Consistency::Local);
        read(bound).await.expect_err("too old, and the leader can't be asked");
        cluster.network.heal();
        let deadline = Duration::from_secs(10);
        let (_, value) = cluster.read(follower, Consistency::Local, bound, deadline).await.expect("read");
        assert_eq!(value.as_deref(), Some(&b"1"[..]));
    });
}
