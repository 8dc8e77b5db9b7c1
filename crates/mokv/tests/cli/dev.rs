use std::net::{Ipv4Addr, TcpListener};

use crate::{free_port, run};

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("address").port();
    let dir = tempfile::tempdir().expect("directory");
    let data_dir = dir.path().join("cluster");
    let place = ["--nodes", "1", "--data-dir", data_dir.to_str().expect("UTF-8")];

    for (flag, other) in [("--rpc-port", "--metrics-port"), ("--metrics-port", "--rpc-port")] {
        let ports = [flag, &port.to_string(), other, &free_port().to_string()];
        let ended = run(&[&["dev"], &place[..], &ports[..]].concat());
        assert_eq!(ended.code, 1, "{}", ended.err);
        assert!(ended.err.contains(&format!("port {port} (")) && ended.err.contains(flag), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(!data_dir.exists());
    }
}

#[test]
fn ports_that_clash_are_refused() {
    let ended = run(&["dev", "--rpc-port", "8400", "--metrics-port", "8401"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("used twice"), "{}", ended.err);
}
