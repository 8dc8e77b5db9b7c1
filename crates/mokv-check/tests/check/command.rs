//! `mokv-check check`, as a script meets it.

use std::fs;
use std::process::{Command, Output};

use mokv_check::Event;

use crate::story::*;

fn judge(text: &[u8], more: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), text).expect("written");
    Command::new(env!("CARGO_BIN_EXE_mokv-check"))
        .arg("check")
        .arg(file.path())
        .args(more)
        .output()
        .expect("mokv-check")
}

fn lines(parts: &[Vec<Event>]) -> Vec<u8> {
    let mut text = Vec::new();
    history(parts).write(&mut text).expect("written");
    text
}

#[track_caller]
fn assert_ended(ended: &Output, code: i32, out: &str) {
    assert_eq!(String::from_utf8_lossy(&ended.stdout), out);
    assert_eq!(ended.status.code(), Some(code));
}

#[test]
fn a_legal_history_is_0() {
    let text = lines(&[
        call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
        call(2, 2..3, get("x"), saw(1, pair("x", "a", [1, 1, 1]))),
        pending(3, 4, delete("x")),
    ]);
    let expected = "\
legal
by revisions: 3 calls, 2 answered; 1 revisions, without commits, 0 gaps; 1 writes unknown, 0 of them took effect
by values: 3 calls on 1 keys in 1 steps; 0 keys of transactions left out
";
    assert_ended(&judge(&text, &[]), 0, expected);
}

#[test]
fn an_illegal_history_is_1_and_shows_the_events() {
    let text = lines(&[
        call(1, 0..1, set("x", "a"), wrote(1, 1, 1)),
        call(2, 2..3, set("y", "b"), wrote(2, 2, 1)),
        call(3, 4..5, get("x"), saw_none(0)),
    ]);
    let expected = r#"ILLEGAL
by revisions: call 3 saw revision 0, but revision 2 had been answered, to call 2, before it began
  {"event":"call","id":2,"client":2,"at":2,"op":{"op":"set","key":"y","value":"b"}}
  {"event":"return","id":2,"at":3,"result":{"outcome":"ok","answer":{"answer":"set","revision":2,"create_revision":2,"version":1}}}
  {"event":"call","id":3,"client":3,"at":4,"op":{"op":"get","key":"x","read":{"consistency":"linearizable","min_revision":0}}}
  {"event":"return","id":3,"at":5,"result":{"outcome":"ok","answer":{"answer":"get","revision":0,"pair":null}}}
by values: no order explains the calls on "x": after the best 1 of 2 it is "a", and none of these can follow: [3]
  {"event":"call","id":3,"client":3,"at":4,"op":{"op":"get","key":"x","read":{"consistency":"linearizable","min_revision":0}}}
  {"event":"return","id":3,"at":5,"result":{"outcome":"ok","answer":{"answer":"get","revision":0,"pair":null}}}
"#;
    assert_ended(&judge(&text, &[]), 1, expected);
}

#[test]
fn a_broken_line_is_2_and_named() {
    let mut text = lines(&[call(1, 0..1, set("x", "a"), wrote(1, 1, 1))]);
    text.extend(b"{\"event\":\"ret");
    let ended = judge(&text, &[]);
    assert_ended(&ended, 2, "");
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(error.starts_with("error: ") && error.contains(": line 3 is no event: EOF while parsing"), "{error}");
}

#[test]
fn a_missing_file_is_2() {
    let ended =
        Command::new(env!("CARGO_BIN_EXE_mokv-check")).args(["check", "/nowhere/at/all"]).output().expect("mokv-check");
    assert_ended(&ended, 2, "");
    assert!(String::from_utf8_lossy(&ended.stderr).starts_with("error: /nowhere/at/all: can't read"));
}

#[test]
fn a_contradiction_is_2() {
    let text = lines(&[pending(1, 0, set("x", "a")), pending(1, 1, set("x", "b"))]);
    assert_ended(&judge(&text, &[]), 2, "no history\nby revisions: this is no history: two calls have the id 1\n");
}

#[test]
fn a_search_that_was_given_up_is_3() {
    let text = lines(&[call(1, 0..1, set("x", "a"), wrote(1, 1, 1))]);
    let expected = "\
undecided
by revisions: 1 calls, 1 answered; 1 revisions, without commits, 0 gaps; 0 writes unknown, 0 of them took effect
by values: 0 calls on 0 keys in 1 steps; 0 keys of transactions left out; gave up on [\"x\"]
";
    assert_ended(&judge(&text, &["--steps-max", "0"]), 3, expected);
}
