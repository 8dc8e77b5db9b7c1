//! Two nodes of one name.

use mokv_serf::serf::Status;

use crate::pool::{Pool, secs, seeds};

#[test]
fn of_two_nodes_of_one_name_the_known_one_stays() {
    for seed in seeds(10) {
        let mut pool = Pool::formed(seed, 4);
        pool.start_as(4, "n1");
        pool.join(4, 0);
        pool.wait("the newcomer to be told", |pool| pool.node(4).said.name_taken);
        pool.kill(4);
        pool.run(secs(30));
        for i in 0..4 {
            let node = pool.node(i);
            assert!(!node.said.name_taken, "n{i}");
            let member = node.member("n1").expect("known");
            assert_eq!((member.addr, member.status), (Pool::addr(1), Status::Alive));
        }
    }
}

/// Nobody else can say who is meant.
#[test]
fn two_that_are_alone_and_have_one_name_both_go() {
    let mut pool = Pool::new(0);
    pool.start(0);
    pool.start_as(1, "n0");
    pool.join(0, 1);
    pool.wait("both to be told", |pool| pool.nodes().all(|node| node.said.name_taken));
}
