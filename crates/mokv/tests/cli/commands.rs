use crate::{free_port, run, run_with_stdin};

#[test]
fn help_documents_every_command_and_the_exit_codes() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    let words =
        "serve dev get set delete list count incr ttl txn watch lease lock elect servers status member import export";
    for word in words.split(' ') {
        assert!(help.out.contains(&format!("\n  {word} ")), "{word} is missing:\n{}", help.out);
        assert_eq!(run(&[word, "--help"]).code, 0, "{word}");
    }
    for code in 0..=5 {
        assert!(help.out.contains(&format!("\n  {code}  ")), "exit code {code} is missing");
    }
    assert!(help.out.contains("--rpc-port <PORT>"));
    assert!(help.out.contains("[default: 8400]"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let table: &[&[&str]] = &[
        &["frobnicate"],
        &["get"],
        &["get", "a", "b"],
        &["get", "a", "--max-staleness", "1s"],
        &["get", "a", "--local", "--consistency", "lease"],
        &["set", "a", "1", "--if-absent", "--if-revision", "3"],
        &["set", "a", "1", "--ttl", "1s", "--keep-ttl"],
        &["delete"],
        &["delete", "a", "--prefix", "b"],
        &["delete", "--prefix", "b", "--previous"],
        &["list", "a", "--prefix", "b"],
        &["ttl", "a", "soon"],
        &["incr", "a", "x"],
        &["txn"],
        &["txn", "--if", "mod(a) ~ 1", "--then", "get a"],
        &["lease"],
        &["lease", "grant"],
        &["lease", "grant", "10s", "--id", "0"],
        &["lock"],
        &["elect", "e"],
        &["elect", "e", "--observe", "--leader"],
        &["get", "a", "-o", "yaml"],
        &["get", "a", "--endpoints", "nowhere"],
        &["get", "a", "--timeout", "soon"],
        &["dev", "--nodes", "0"],
        &["dev", "--nodes", "10"],
        &["--rpc-port", "8400", "get", "a"],
        &["import", "f", "--in-flight", "0"],
    ];
    for args in table {
        let ended = run(args);
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.err);
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{args:?}");
    }
}

#[test]
fn nobody_there_is_exit_code_4_and_says_what_to_do() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let table: &[&[&str]] = &[
        &["get", "a"],
        &["get", "a", "--local"],
        &["set", "a", "1"],
        &["delete", "a"],
        &["list"],
        &["count"],
        &["incr", "a"],
        &["ttl", "a"],
        &["txn", "--then", "get a"],
        &["watch", "a"],
        &["lease", "list"],
        &["lease", "keep-alive", "7"],
        &["lock", "l"],
        &["elect", "e", "me"],
        &["servers"],
        &["member", "list"],
        &["member", "add", "127.0.0.1:1"],
        &["export"],
    ];
    for args in table {
        let ended = run(&[args, &["--endpoints", &endpoint][..]].concat());
        assert_eq!(ended.code, 4, "{args:?}: {}", ended.err);
        let lines: Vec<_> = ended.err.lines().collect();
        assert_eq!(lines.len(), 2, "{args:?}: {}", ended.err);
        assert!(lines[0].starts_with("error: ") && lines[0].contains(&endpoint), "{args:?}: {}", lines[0]);
        assert!(lines[1].contains("--endpoints"), "{args:?}: {}", lines[1]);
        assert!(ended.out.is_empty());
    }
}

#[test]
fn status_shows_who_did_not_answer() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let ended = run(&["status", "--endpoints", &endpoint]);
    assert_eq!(ended.code, 4);
    assert!(ended.out.contains("unreachable") && ended.out.contains(&endpoint), "{}", ended.out);
    assert!(!ended.out.contains('\x1b'), "decoration without a terminal");
    let ended = run(&["status", "-o", "json", "--endpoints", &endpoint]);
    assert_eq!(ended.code, 4);
    assert!(ended.out.starts_with("[{\"address\":") && ended.out.ends_with("}]\n"), "{}", ended.out);
}

#[test]
fn endpoints_come_from_the_environment_too() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let ended: crate::Ended =
        crate::mokv(&["get", "a"]).env("MOKV_ENDPOINTS", &endpoint).output().expect("mokv").into();
    assert!(ended.err.contains(&endpoint), "{}", ended.err);
}

#[test]
fn a_value_file_that_is_missing_is_named() {
    let ended = run(&["set", "a", "@/no/such/file"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("/no/such/file"), "{}", ended.err);
}

#[test]
fn import_names_the_bad_line() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let ended = run_with_stdin(&["import", "-", "--endpoints", &endpoint], b"{\"key\":1}\n");
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("line 1: not a JSON object"), "{}", ended.err);
    let ended = run(&["import", "/no/such/file"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("/no/such/file"), "{}", ended.err);
}

#[test]
fn import_gives_up_after_its_time() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let args = ["import", "-", "--endpoints", &endpoint, "--retry-for", "300ms"];
    let ended = run_with_stdin(&args, b"{\"key\":\"a\",\"value\":\"1\"}\n");
    assert_eq!(ended.code, 4);
    assert!(ended.err.contains("stopped after 0 pairs were imported: line 1: "), "{}", ended.err);
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let dir = tempfile::tempdir().expect("directory");
    let endpoint = format!("127.0.0.1:{}", free_port());
    let file = dir.path().join("all.jsonl");
    let ended = run(&["export", file.to_str().expect("UTF-8"), "--endpoints", &endpoint]);
    assert_eq!(ended.code, 4);
    assert_eq!(dir.path().read_dir().expect("directory").count(), 0);
}

#[test]
fn versions_and_completions_are_printed() {
    let version = format!("mokv {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["version"]).out, version);
    assert_eq!(run(&["--version"]).out, version);
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(&["completion", shell]);
        assert_eq!(ended.code, 0);
        assert!(ended.out.contains("mokv"), "{shell}");
    }
}
