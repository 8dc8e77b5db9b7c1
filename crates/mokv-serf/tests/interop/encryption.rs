//! Keys: had by both, by one, and changed while all runs.

use mokv_serf::serf::{KeyCommand, Status};
use mokv_serf::wire::keyring::key_from_text;

use crate::eventually;
use crate::ours::{Ours, Recipe};
use crate::theirs::{Theirs, here};

/// Not worth guessing.
pub(crate) const KEY_1: &str = "9Mg2hnX/fGONpKupB/5oZ+52VJXUij7Rf7RQuq0/gOs=";
const KEY_2: &str = "MTIzNDU2Nzg5MGFiY2RlZg==";

fn pair() -> (Theirs, Ours) {
    let theirs = Theirs::start("a", &["-encrypt", KEY_1]);
    let ours = Recipe::with_key(KEY_1).start("m");
    ours.join(theirs.addr);
    theirs.sees("m", "alive");
    ours.sees("a", Status::Alive);
    (theirs, ours)
}

#[test]
fn they_change_the_key() {
    if !here("they_change_the_key") {
        return;
    }
    let (theirs, ours) = pair();
    for (command, key) in [("-install", KEY_2), ("-use", KEY_2), ("-remove", KEY_1)] {
        let said = theirs.run("keys", &[command, key]);
        assert!(said.contains("Successfully"), "{command}: {said}");
    }
    let said = theirs.run("keys", &["-list"]);
    assert!(said.contains(&format!("{KEY_2}  [2/2]")) && !said.contains(KEY_1), "{said}");
    keys_are(&ours, &[KEY_2]);

    // Who comes later needs the new one.
    let later = Recipe::with_key(KEY_2).start("n");
    later.join(ours.addr);
    theirs.sees("n", "alive");
}

#[test]
fn we_change_the_key() {
    if !here("we_change_the_key") {
        return;
    }
    let (theirs, ours) = pair();
    let [one, two] = [KEY_1, KEY_2].map(|key| bytes::Bytes::from(key_from_text(key).expect("a key").to_vec()));
    for command in [KeyCommand::Install(two.clone()), KeyCommand::Use(two), KeyCommand::Remove(one)] {
        let report = ours.run(ours.agent.keys(command.clone())).expect("it runs");
        assert!(report.is_done() && report.nodes == 2, "{command:?}: {report:?}");
    }
    let report = ours.run(ours.agent.keys(KeyCommand::List)).expect("it runs");
    assert!(report.is_done(), "{report:?}");
    assert_eq!(report.keys, [(KEY_2.into(), 2)].into());
    keys_are(&ours, &[KEY_2]);
    let said = theirs.run("keys", &["-list"]);
    assert!(said.contains(&format!("{KEY_2}  [2/2]")) && !said.contains(KEY_1), "{said}");
}

fn keys_are(ours: &Ours, keys: &[&str]) {
    let keys: Vec<Vec<u8>> = keys.iter().map(|key| key_from_text(key).expect("a key").to_vec()).collect();
    eventually("the keys are those", || {
        let keyring = ours.agent.keyring().borrow().clone().expect("keys");
        let has: Vec<Vec<u8>> = keyring.keys().map(<[u8]>::to_vec).collect();
        if has == keys { Ok(()) } else { Err(has) }
    });
}

#[test]
fn without_a_key_we_are_refused() {
    if !here("without_a_key_we_are_refused") {
        return;
    }
    let theirs = Theirs::start("a", &["-encrypt", KEY_1]);
    let ours = Recipe::new().start("m");
    let error = ours.run(ours.agent.join(&[theirs.addr])).expect_err("they want a key");
    assert!(error.to_string().contains("it is encrypted, and there is no key"), "{error}");
    theirs.logs("remote state is not encrypted");
    assert_eq!(ours.agent.members().borrow().len(), 1);
    assert_eq!(theirs.members().expect("members").len(), 1);
}

#[test]
fn without_a_key_they_are_refused() {
    if !here("without_a_key_they_are_refused") {
        return;
    }
    let theirs = Theirs::start("a", &[]);
    let ours = Recipe::with_key(KEY_1).start("m");
    let said = theirs.try_run("join", &[&ours.addr.to_string()]).expect_err("we want a key");
    assert!(said.contains("encrypt"), "{said}");
    let error = ours.run(ours.agent.join(&[theirs.addr])).expect_err("they have none");
    assert!(error.to_string().contains("encrypt"), "{error}");
    assert_eq!(ours.agent.members().borrow().len(), 1);
    assert_eq!(theirs.members().expect("members").len(), 1);
}

#[test]
fn with_another_key_nobody_joins() {
    if !here("with_another_key_nobody_joins") {
        return;
    }
    let theirs = Theirs::start("a", &["-encrypt", KEY_2]);
    let ours = Recipe::with_key(KEY_1).start("m");
    let error = ours.run(ours.agent.join(&[theirs.addr])).expect_err("another key");
    assert!(error.to_string().contains("no key decrypts it"), "{error}");
    theirs.try_run("join", &[&ours.addr.to_string()]).expect_err("another key");
}
