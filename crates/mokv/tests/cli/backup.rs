//! Copies of everything, new clusters made of them, and of what is left of a lost one.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cluster::{Dev, directory, free_ports};
use crate::serve::Server;
use crate::{Ended, mokv, run, wait_until};

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{}", ended.err);
    serde_json::from_str(&ended.out).expect("JSON")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_copy_is_saved_checked_and_restored() {
    let dir = directory();
    let dev = Dev::start(&dir.path().join("cluster"), free_ports());
    let ask = |args: &[&str]| dev.ask(&dev.endpoints(), args);
    assert_eq!(ask(&["set", "greeting", "hello"]).code, 0);
    let copy = dir.path().join("backup.snap");
    let saved = json(&ask(&["snapshot", "save", text(&copy), "-o", "json"]));
    assert_eq!((&saved["keys"], &saved["revision"]), (&Value::from(1), &Value::from(1)));
    let there = ask(&["snapshot", "save", text(&copy)]);
    assert!(there.code == 1 && there.err.contains("is there already"), "{}", there.err);
    assert_eq!(ask(&["snapshot", "save", text(&copy), "--force"]).code, 0);

    // To standard output, as out of a container.
    let args = ["snapshot", "save", "-", "--endpoints", &dev.endpoints()];
    let output = mokv(&args).output().expect("mokv");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("keys 1"), "{output:?}");
    let piped = dir.path().join("piped.snap");
    fs::write(&piped, &output.stdout).expect("write");
    let checked = json(&run(&["snapshot", "status", text(&piped), "-o", "json"]));
    assert_eq!((&checked["state_hash"], &checked["keys"]), (&saved["state_hash"], &saved["keys"]));

    let mut damaged = output.stdout;
    *damaged.last_mut().expect("a byte") ^= 1;
    fs::write(&piped, damaged).expect("write");
    let spoilt = dir.path().join("spoilt");
    let restore = ["snapshot", "restore", text(&piped), "--data-dir", text(&spoilt)];
    for args in [&["snapshot", "status", text(&piped)][..], &restore] {
        let refused = run(args);
        assert!(refused.code == 1 && refused.err.contains("damaged"), "{args:?}: {}", refused.err);
    }

    assert_eq!(ask(&["set", "late", "x"]).code, 0);
    let new = dir.path().join("new");
    let restore =
        ["snapshot", "restore", text(&copy), "--data-dir", text(&new), "--name", "n", "--bump-revision", "100"];
    let restored = json(&run(&[&restore[..], &["-o", "json"]].concat()));
    assert_eq!((&restored["keys"], &restored["revision"]), (&Value::from(1), &Value::from(101)));
    assert_ne!(restored["cluster_id"], saved["cluster_id"]);
    let again = run(&restore);
    assert!(again.code == 1 && again.err.contains("empty"), "{}", again.err);

    let server = Server::start_on(&new);
    assert_eq!(server.ask(&["get", "greeting"]).out, "hello");
    assert_eq!(server.ask(&["get", "late"]).code, 3);
    assert!(json(&server.ask(&["set", "new", "x", "-o", "json"]))["revision"].as_u64() > Some(101));
    let status = json(&server.ask(&["status", "-o", "json"]));
    assert_eq!(status[0]["cluster_id"], restored["cluster_id"]);
}

#[test]
fn a_new_cluster_is_made_of_what_one_node_has() {
    let dir = directory();
    let cluster = dir.path().join("cluster");
    let dev = Dev::start(&cluster, free_ports());
    assert_eq!(dev.ask(&dev.endpoints(), &["set", "greeting", "hello"]).code, 0);
    dev.wait_until_whole();
    let left = cluster.join("node-1");
    let recover = ["recover", "--data-dir", text(&left), "-o", "json"];
    let agreed = [&recover[..], &["--i-understand-that-writes-may-be-lost"]].concat();
    let running = run(&agreed);
    assert!(running.code == 1 && running.err.contains("in use"), "{}", running.err);

    drop(dev);
    let mut asked = run(&recover);
    wait_until("the nodes have ended", || {
        asked = run(&recover);
        !asked.err.contains("in use")
    });
    assert!(asked.code != 0 && asked.out.is_empty(), "{}", asked.out);
    for said in ["node-1", "1 key", "node-0", "node-2", "nothing was changed"] {
        assert!(asked.err.contains(said), "{said}: {}", asked.err);
    }
    let made = json(&run(&agreed));
    assert_eq!(made["keys"], 1);
    let server = Server::start_on(&left);
    assert_eq!(server.ask(&["get", "greeting"]).out, "hello");
    assert_eq!(json(&server.ask(&["member", "list", "-o", "json"])).as_array().map(Vec::len), Some(1));
}
