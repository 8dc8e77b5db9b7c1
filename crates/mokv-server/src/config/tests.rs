use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODw==";

fn host() -> Host {
    Host { hostname: "box".into(), home: Some("/home/ann".into()), xdg_state_home: None, is_root: false }
}

fn flags(flags: &[(&str, &str)]) -> Layer {
    Layer::from_flags(flags.iter().map(|(name, value)| (Setting::named(name).expect(name), (*value).to_owned())))
}

fn env(variables: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    Layer::from_env(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn yaml(text: &str) -> Result<Layer, ConfigError> {
    Layer::from_yaml(text, "c.yaml")
}

fn with_flags(given: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_layers(&[flags(given)], &host())
}

fn complaint(result: Result<impl std::fmt::Debug, ConfigError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = Config::from_layers(&[], &host()).expect("defaults");
    assert_eq!(config.data_dir, PathBuf::from("/home/ann/.local/state/mokv/box"));
    assert_eq!(config.node_name, "box");
    assert_eq!(config.rpc_listen_addr(), "127.0.0.1:8400");
    assert_eq!(config.metrics_listen_addr(), "127.0.0.1:4000");
    assert_eq!(config.advertise_addr, "127.0.0.1:8400");
    assert_eq!(config.gossip_port, 8401);
    assert_eq!(config.mode, Mode::Join);
    assert_eq!((config.voters_max, config.failed_grace), (7, Some(Duration::from_secs(600))));
    assert_eq!((config.gossip_listen_addr().as_str(), config.encrypt_key), ("127.0.0.1:8401", None));
    assert_eq!(config.memory_quota, None);
    assert_eq!(config.log_segment_bytes, 16 << 20);
    assert_eq!((config.max_key_bytes, config.max_value_bytes, config.max_request_bytes), (4096, 1 << 20, 4 << 20));
}

#[test]
fn the_example_of_the_original_project_starts() {
    let file = yaml(
        "data-dir: /tmp/mokv/node-0\nnode-name: node-0\nbind-addr: 127.0.0.1:8401\nrpc-port: 8400\n\
         start-join-addrs: [\"127.0.0.1:8401\"]\nbootstrap: true\nmetrics-port: 4000\nlog-level: info\n",
    );
    let config = Config::from_layers(&[file.expect("file")], &host()).expect("config");
    assert_eq!(config.data_dir, PathBuf::from("/tmp/mokv/node-0"));
    assert_eq!(config.start_join_addrs, ["127.0.0.1:8401"]);
    assert_eq!(config.mode, Mode::Alone);
}

#[test]
fn flag_before_environment_before_file_before_default() {
    let file = yaml("rpc-port: 1\nmetrics-port: 2\nnode-name: file\n").expect("file");
    let env = env(&[("MOKV_RPC_PORT", "10"), ("MOKV_METRICS_PORT", "20")]).expect("env");
    let flags = flags(&[("rpc-port", "100")]);
    let config = Config::from_layers(&[flags, env, file], &host()).expect("config");
    assert_eq!((config.rpc_port, config.metrics_port, config.node_name.as_str()), (100, 20, "file"));
    assert_eq!(config.gossip_port, 8401);
}

#[test]
fn every_setting_of_the_table_is_read_and_checked() {
    for setting in SETTINGS.iter().filter(|setting| setting.name != "log-level") {
        let is_path = ["data-dir", "encrypt-key-file"].contains(&setting.name);
        let bad = if is_path { "" } else { "no such value!" };
        let message = complaint(with_flags(&[(setting.name, bad)]));
        assert!(message.starts_with(&format!("--{}: ", setting.name)), "{}: {message}", setting.name);
    }
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_named() {
    assert_eq!(
        complaint(yaml("node-name: a\nrpc-prot: 1\n")),
        "unknown key `rpc-prot` in c.yaml line 2: did you mean `rpc-port`?"
    );
    assert_eq!(complaint(yaml("zzz: 1")), "unknown key `zzz` in c.yaml line 1");
    assert_eq!(
        complaint(env(&[("MOKV_DATADIR", "/d")])),
        "unknown environment variable `MOKV_DATADIR` in the environment: did you mean `MOKV_DATA_DIR`?"
    );
    assert_eq!(complaint(env(&[("MOKV_X", "1")])), "unknown environment variable `MOKV_X` in the environment");
}

#[test]
fn variables_of_clients_and_of_kubernetes_are_passed_over() {
    let variables = [
        ("PATH", "/bin"),
        ("MOKV_ENDPOINTS", "h:1"),
        ("MOKV_CONFIG_FILE", "c.yaml"),
        ("MOKV_RPC_PORT", ""),
        ("MOKV_SERVICE_HOST", "10.0.0.1"),
        ("MOKV_SERVICE_PORT_GRPC", "8400"),
        ("MOKV_PORT", "tcp://10.0.0.1:8400"),
        ("MOKV_PORT_8400_TCP_ADDR", "10.0.0.1"),
        // A Service called mokv-metrics.
        ("MOKV_METRICS_PORT", "tcp://10.0.0.1:4000"),
    ];
    assert_eq!(env(&variables), Ok(Layer::default()));
}

#[test]
fn files_of_another_shape_are_refused_with_the_line() {
    let table = [
        ("- a\n- b\n", "c.yaml line 1: write one setting a line"),
        ("just text", "c.yaml line 1: write one setting a line"),
        ("rpc-port: [1, 2]", "c.yaml line 1: `rpc-port` takes a single value"),
        ("node-name: a\nnode-name: b\n", "c.yaml line 2: `node-name` stands here a second time"),
        ("start-join-addrs: {a: b}", "c.yaml line 1: `start-join-addrs` takes a list"),
        ("start-join-addrs:\n  - [a]\n", "c.yaml line 2: `start-join-addrs` takes a list"),
        ("? [a]\n: b\n", "c.yaml line 1: a key must be"),
        ("node-name: a\n---\nnode-name: b\n", "c.yaml line 2: a second document"),
        ("node-name: \"a", "c.yaml line"),
        ("node-name: *a", "c.yaml line 1"),
    ];
    for (text, expected) in table {
        let message = complaint(yaml(text));
        assert!(message.starts_with(expected), "{text:?}: {message}");
    }
}

#[test]
fn files_without_settings_are_fine() {
    for text in ["", "# nothing yet\n", "---\n", "{}"] {
        assert_eq!(yaml(text), Ok(Layer::default()), "{text:?}");
    }
}

#[test]
fn values_stay_what_was_written() {
    let layer = yaml("node-name: 007\nmemory-quota: 1GiB # a comment\ndata-dir: 'it''s'\n").expect("file");
    let config = Config::from_layers(&[layer], &host()).expect("config");
    assert_eq!(config.node_name, "007");
    assert_eq!(config.memory_quota, Some(1 << 30));
    assert_eq!(config.data_dir, PathBuf::from("it's"));
}

#[test]
fn a_wildcard_needs_an_address_for_the_others() {
    for bind in ["0.0.0.0:8401", "[::]:8401", ":8401"] {
        let message = complaint(with_flags(&[("bind-addr", bind)]));
        assert!(message.contains("set advertise-addr"), "{bind}: {message}");
        let config = with_flags(&[("bind-addr", bind), ("advertise-addr", "db-0.local")]).expect(bind);
        assert_eq!(config.advertise_addr, "db-0.local:8400");
        assert_eq!(config.advertise_gossip_addr, "db-0.local:8401");
    }
    let config = with_flags(&[("advertise-addr", "[fd00::1]:99")]).expect("IPv6");
    assert_eq!(config.advertise_addr, "[fd00::1]:99");
    assert_eq!(config.advertise_gossip_addr, "[fd00::1]:8401");
    assert_eq!(with_flags(&[("advertise-addr", "[fd00::1]")]).expect("IPv6").advertise_addr, "[fd00::1]:8400");
    assert!(complaint(with_flags(&[("advertise-addr", "0.0.0.0")])).contains("not one address"));
    let config = with_flags(&[("bind-addr", "[::1]:8401")]).expect("IPv6");
    assert_eq!(config.rpc_listen_addr(), "[::1]:8400");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[("rpc-port", "8401")], "--rpc-port: 8401 is the port of bind-addr"),
        (&[("metrics-port", "8400")], "--metrics-port: 8400 is the port"),
        (&[("heartbeat-interval", "400ms")], "the default of election-timeout-min: 600ms is less than twice"),
        (&[("election-timeout-min", "2s")], "the default of election-timeout-max: 1.2s is not more than"),
        (&[("max-value-bytes", "4MiB")], "the default of max-request-bytes: 4194304 bytes have no room"),
        (&[("max-request-bytes", "9MiB")], "--max-request-bytes: 9MiB is out of range"),
        (&[("heartbeat-interval", "1ms")], "--heartbeat-interval: 1ms is out of range"),
        (&[("bootstrap", "true"), ("bootstrap-expect", "3")], "--bootstrap-expect: a cluster of 3 nodes, and"),
        (&[("bootstrap-expect", "65")], "--bootstrap-expect: \"65\" is no number of nodes: write one from 0 to 64"),
        (&[("voters-max", "0")], "--voters-max: \"0\" is no number of nodes: write one from 1 to 64"),
        (&[("encrypt-key", KEY), ("encrypt-key-file", "k")], "--encrypt-key-file: the key stands in encrypt-key"),
        (&[("node-name", "")], "--node-name: \"\" is no name"),
        (&[("start-join-addrs", "a:1,b")], "--start-join-addrs: \"b\" is no address"),
    ];
    for (given, expected) in table {
        let message = complaint(with_flags(given));
        assert!(message.starts_with(expected), "{given:?}: {message}");
    }
}

#[test]
fn a_cluster_begins_in_one_way() {
    let mode = |given: &[(&str, &str)]| with_flags(given).expect("config").mode;
    assert_eq!(mode(&[("bootstrap-expect", "3")]), Mode::Expect(3));
    assert_eq!(mode(&[("bootstrap-expect", "1")]), Mode::Alone);
    assert_eq!(mode(&[("bootstrap", "true"), ("bootstrap-expect", "0")]), Mode::Alone);
    assert_eq!(mode(&[("bootstrap-expect", "0")]), Mode::Join);
}

#[test]
fn a_key_is_given_or_in_a_file_and_never_shown() {
    let config = with_flags(&[("encrypt-key", KEY)]).expect("config");
    assert!(!format!("{config:?}").contains(KEY));
    assert_eq!(config.encrypt_key, Some(KeySource::Given(KEY.parse().expect("a key"))));
    let config = with_flags(&[("encrypt-key-file", "/run/key")]).expect("config");
    assert_eq!(config.encrypt_key, Some(KeySource::File("/run/key".into())));
    let message = complaint(with_flags(&[("encrypt-key", "c2VjcmV0")]));
    assert!(message.starts_with("--encrypt-key: this is no key") && !message.contains("c2Vj"), "{message}");
}

#[test]
fn failed_members_may_stay_for_ever() {
    assert_eq!(with_flags(&[("failed-grace", "0s")]).expect("config").failed_grace, None);
}

#[test]
fn data_has_a_real_place() {
    let place = |host: &Host| Config::from_layers(&[], host).map(|config| config.data_dir);
    let root = Host { is_root: true, ..host() };
    assert_eq!(place(&root), Ok("/var/lib/mokv/".into()));
    let xdg = Host { xdg_state_home: Some("/state".into()), ..host() };
    assert_eq!(place(&xdg), Ok("/state/mokv/box".into()));
    let relative = Host { xdg_state_home: Some("state".into()), ..host() };
    assert_eq!(place(&relative), Ok("/home/ann/.local/state/mokv/box".into()));
    assert_eq!(place(&Host { home: None, ..host() }), Err(ConfigError::NoDataDir));
}
