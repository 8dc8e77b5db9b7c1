//! The table of settings. Flags, environment variables and keys of the file are all made from it, and so are the
//! defaults: what stands here is what `--help` says and what the parsers read.

/// One setting of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file; with `--` before it the flag.
    pub name: &'static str,
    /// What a value is, for the help text.
    pub value_name: &'static str,
    /// What is used when nobody says. `None`: worked out from other settings or from the host, as `help` says.
    pub default: Option<&'static str>,
    /// One sentence for people.
    pub help: &'static str,
    /// Whether the value is true or false, so that the flag may stand without one.
    pub is_switch: bool,
    /// Whether the value is a list: commas in flags and variables, a sequence in the file.
    pub is_list: bool,
}

impl Setting {
    /// The environment variable: `MOKV_RPC_PORT` for `rpc-port`.
    pub fn variable(&self) -> String {
        format!("MOKV_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// The setting of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

const fn value(
    name: &'static str,
    value_name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { name, value_name, default, help, is_switch: false, is_list: false }
}

/// Every setting, in the order in which help lists them.
pub const SETTINGS: &[Setting] = &[
    value(
        "data-dir",
        "DIR",
        None,
        "Where the node keeps its log, snapshots and identity. Never two nodes in one, never a copy of another's \
         [default: $XDG_STATE_HOME/mokv/<node-name>, for root /var/lib/mokv]",
    ),
    value("node-name", "NAME", None, "What people call this node; unique in the cluster [default: the host's name]"),
    value(
        "bind-addr",
        "HOST:PORT",
        Some("127.0.0.1:8401"),
        "The address of gossip, by name or number. gRPC and metrics listen on the same host",
    ),
    value("rpc-port", "PORT", Some("8400"), "The port of gRPC, for clients and other nodes"),
    value("metrics-port", "PORT", Some("4000"), "The port of /metrics, /livez and /readyz"),
    value(
        "advertise-addr",
        "HOST[:PORT]",
        None,
        "Where other nodes reach this node: the host for gRPC and gossip, the port for gRPC. Needed when bind-addr is a \
         wildcard such as 0.0.0.0 [default: the host of bind-addr and rpc-port]",
    ),
    Setting {
        name: "start-join-addrs",
        value_name: "HOST:PORT,...",
        default: None,
        help: "Gossip addresses of nodes to join through, tried until one answers, with all that each name resolves to. \
               One is enough, and this node may be among them",
        is_switch: false,
        is_list: true,
    },
    Setting {
        name: "bootstrap",
        value_name: "BOOL",
        default: Some("false"),
        help: "Form a new cluster of this node alone, if its data directory is empty and no node that it can reach is in a \
               cluster. For one node of a new cluster",
        is_switch: true,
        is_list: false,
    },
    value(
        "bootstrap-expect",
        "NODES",
        Some("0"),
        "Form a new cluster as soon as so many nodes with empty data directories, all told the same number, see each other; \
         0 is never",
    ),
    value("voters-max", "NODES", Some("7"), "Members that vote, at most; further ones copy the data and serve reads"),
    value(
        "failed-grace",
        "DURATION",
        Some("10m"),
        "How long a member may be gone before it is removed, if enough others are left; 0s is for ever",
    ),
    value(
        "encrypt-key",
        "KEY",
        None,
        "Encrypts gossip: 16, 24 or 32 random bytes in base64, the same on every node (`serf keygen` makes one). Where \
         others can see the command line, use encrypt-key-file",
    ),
    value("encrypt-key-file", "FILE", None, "A file that has the encrypt-key"),
    value("log-level", "LEVEL", Some("info"), "error, warn, info, debug, trace, or a filter like info,openraft=warn"),
    value(
        "memory-quota",
        "SIZE",
        Some("0"),
        "Bytes that the store may hold before writes that let it grow are refused (512MiB, 2GiB); 0 is no quota",
    ),
    value("heartbeat-interval", "DURATION", Some("150ms"), "How often a leader tells its followers that it lives"),
    value(
        "election-timeout-min",
        "DURATION",
        Some("600ms"),
        "A follower that hears no leader waits for election-timeout-max, and a random time between the two, before it \
         stands for election",
    ),
    value("election-timeout-max", "DURATION", Some("1200ms"), "See election-timeout-min"),
    Setting {
        name: "lease-reads",
        value_name: "BOOL",
        default: Some("false"),
        help: "Answer reads that ask for it without a round to a majority, for a part of the time in which no other node can be \
               elected. Right as long as no node's clock runs 2.5 times as fast as the leader's or stands still while others go on \
               (as in a suspended machine), and election-timeout-max is the same on all nodes",
        is_switch: true,
        is_list: false,
    },
    value("snapshot-log-size", "SIZE", Some("64MiB"), "Bytes of log since the last snapshot that bring the next one"),
    value("log-segment-size", "SIZE", Some("16MiB"), "The size of one file of the log"),
    value(
        "history-size",
        "SIZE",
        Some("64MiB"),
        "Bytes of changes that are remembered in memory, beside the memory-quota: for watches that fall behind or begin in \
         the past, and for reads of older revisions",
    ),
    value(
        "request-timeout",
        "DURATION",
        Some("10s"),
        "How long a request may wait in the server, whatever its client says",
    ),
    value("shutdown-grace", "DURATION", Some("10s"), "How long stopping may take before what is under way is given up"),
    value("max-key-bytes", "SIZE", Some("4096"), "The longest key"),
    value("max-value-bytes", "SIZE", Some("1MiB"), "The longest value"),
    value("max-request-bytes", "SIZE", Some("4MiB"), "The largest request"),
];
