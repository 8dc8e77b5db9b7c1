//! Two nodes of one name: the majority decides whose it is.

use mokv_serf::agent::Stopped;
use mokv_serf::serf::Status;

use crate::eventually;
use crate::ours::Recipe;
use crate::theirs::{Theirs, here};

#[test]
fn a_newcomer_of_theirs_quits() {
    if !here("a_newcomer_of_theirs_quits") {
        return;
    }
    let (one, voter) = (Recipe::new().start("m"), Theirs::start("b", &[]));
    one.join(voter.addr);
    voter.sees("m", "alive");
    let mut newcomer = Theirs::start("m", &[]);
    // The answer may come after it has gone.
    drop(newcomer.try_run("join", &[&voter.addr.to_string()]));
    newcomer.exit();
    assert_eq!(voter.sees("m", "alive").addr, one.addr.to_string());
    assert_eq!(one.stopped(), None);
}

#[test]
fn a_newcomer_of_ours_stops() {
    if !here("a_newcomer_of_ours_stops") {
        return;
    }
    let (one, voter) = (Theirs::start("a", &[]), Recipe::new().start("m"));
    voter.join(one.addr);
    one.sees("m", "alive");
    let newcomer = Recipe::new().start("a");
    // It joins, and the vote comes after that.
    drop(newcomer.run(newcomer.agent.join(&[voter.addr])));
    let reason = eventually("it stops", || newcomer.stopped().ok_or("it runs"));
    assert_eq!(reason, Stopped::NameTaken);
    assert_eq!(voter.sees("a", Status::Alive).addr, one.addr);
    one.run("info", &[]);
}
