//! Saying good-bye.

use mokv_serf::serf::{Event, Status};

use crate::ours::Recipe;
use crate::pair;
use crate::theirs::{Theirs, here};

#[test]
fn our_leave_is_seen_as_one_and_we_come_back() {
    if !here("our_leave_is_seen_as_one_and_we_come_back") {
        return;
    }
    let (theirs, mut ours) = pair();
    ours.run(ours.agent.leave());
    ours.kill();
    theirs.sees("m", "left");
    assert!(!theirs.log().contains("EventMemberFailed"), "taken for failed");

    let again = Recipe::at(ours.addr).start("m");
    again.join(theirs.addr);
    theirs.sees("m", "alive");
}

/// The address of a node that left is nobody's any more.
#[test]
fn we_come_back_elsewhere() {
    if !here("we_come_back_elsewhere") {
        return;
    }
    let (theirs, mut ours) = pair();
    ours.run(ours.agent.leave());
    ours.kill();
    theirs.sees("m", "left");

    let again = Recipe::new().start("m");
    again.join(theirs.addr);
    let listed = theirs.sees("m", "alive");
    assert_eq!(listed.addr, again.addr.to_string());
}

#[test]
fn their_leave_is_seen_as_one() {
    if !here("their_leave_is_seen_as_one") {
        return;
    }
    let mut theirs = Theirs::start("a", &[]);
    let ours = Recipe::new().start("m");
    ours.join(theirs.addr);
    ours.sees("a", Status::Alive);
    theirs.run("leave", &[]);
    assert!(theirs.exit().success());
    ours.sees("a", Status::Left);
    assert_eq!(ours.failed(), []);
    let leaving = ours.happened(|event| matches!(event, Event::Leaving(_)).then_some(()));
    assert_eq!(leaving.len(), 1);

    let again = Theirs::start_at(theirs.addr, "a", &[]);
    again.run("join", &[&ours.addr.to_string()]);
    ours.sees("a", Status::Alive);
    again.sees("m", "alive");
}
