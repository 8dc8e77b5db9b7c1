use std::fs;

use crate::{Ended, mokv, run};

fn serve_with_file(yaml: &str) -> Ended {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("c.yaml");
    fs::write(&file, yaml).expect("file");
    run(&["--config-file", file.to_str().expect("UTF-8"), "--data-dir", "/proc/none"])
}

fn serve_with_env(name: &str, value: &str) -> Ended {
    mokv(&["--data-dir", "/proc/none"]).env(name, value).output().expect("mokv").into()
}

#[test]
fn an_unknown_key_of_the_file_names_the_nearest() {
    let ended = serve_with_file("node-name: a\nrpc-prot: 8400\n");
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("`rpc-prot`") && ended.err.contains("did you mean `rpc-port`?"), "{}", ended.err);
    assert!(ended.err.contains("c.yaml line 2"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[test]
fn an_unknown_variable_names_the_nearest() {
    let ended = serve_with_env("MOKV_NODENAME", "a");
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("did you mean `MOKV_NODE_NAME`?"), "{}", ended.err);
}

#[test]
fn wrong_values_name_their_place() {
    let ended = serve_with_file("rpc-port: many\n");
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("`rpc-port` in") && ended.err.contains("1 to 65535"), "{}", ended.err);
    let ended = serve_with_env("MOKV_REQUEST_TIMEOUT", "10");
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("MOKV_REQUEST_TIMEOUT: \"10\" is no duration"), "{}", ended.err);
    let ended = run(&["--log-level", "inof"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("\"inof\" is no level"), "{}", ended.err);
    let ended = run(&["--bind-addr", "0.0.0.0:8401", "--data-dir", "/proc/none"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("set advertise-addr"), "{}", ended.err);
}

#[test]
fn a_missing_file_is_named() {
    let ended = run(&["--config-file", "/no/such.yaml"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("/no/such.yaml"), "{}", ended.err);
}
