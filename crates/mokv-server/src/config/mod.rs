//! The configuration of one server: from the layers (flags before environment before file before defaults) to one
//! validated [`Config`].
//!
//! It promises that a `Config` it made can be started, as far as that can be known without touching ports or disks, and
//! that an error says which setting of which layer is wrong and what would be right. Reading the file, the environment
//! and the command line is left to the binary: nothing here looks at the world.

mod layer;
mod settings;
mod units;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use layer::Layer;
pub use settings::{SETTINGS, Setting};

use crate::formation::core::Mode;
pub use units::EncryptKey;
use units::HostPort;
pub use units::parse_duration;

/// Serf's bound on a member's name.
const NODE_NAME_CHARS_MAX: usize = 128;
/// Below this a busy machine's scheduler alone causes elections.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A file of the log has a header and should hold many entries.
const LOG_SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest request should not be forgotten before it was seen.
const HISTORY_BYTES_MIN: u64 = 4 << 20;
/// The reference client takes no larger message, nor sends one.
const MAX_REQUEST_BYTES_MAX: u64 = 8 << 20;
/// What a request or an answer holds beside key and value, rounded up well.
const MESSAGE_OVERHEAD_BYTES: u64 = 1 << 10;
/// More nodes than this in a cluster are a mistake.
const NODES_MAX: usize = 64;
/// Longer times are mistakes of the unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// Everything that a server is told, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the node keeps everything that it keeps.
    pub data_dir: PathBuf,
    /// The node's name, for people.
    pub node_name: String,
    /// The host on which gossip, gRPC and metrics listen; `0.0.0.0` is every one.
    pub bind_host: String,
    /// The port of gossip.
    pub gossip_port: u16,
    /// The port of gRPC.
    pub rpc_port: u16,
    /// The port of metrics and probes.
    pub metrics_port: u16,
    /// Where other nodes reach this node's gRPC, host:port.
    pub advertise_addr: String,
    /// Where other nodes reach this node's gossip, host:port.
    pub advertise_gossip_addr: String,
    /// Gossip addresses to join through, host:port each.
    pub start_join_addrs: Vec<String>,
    /// How the node comes into a cluster if the data directory is empty.
    pub mode: Mode,
    /// Members that vote, at most.
    pub voters_max: usize,
    /// How long a member may be gone before it is removed. `None`: for ever.
    pub failed_grace: Option<Duration>,
    /// What gossip is encrypted with, or the file that has it. `None`: it is not.
    pub encrypt_key: Option<KeySource>,
    /// A level or a filter of the log lines. Not checked here.
    pub log_level: String,
    /// Bytes that the store may hold before writes that let it grow are refused. `None`: no bound.
    pub memory_quota: Option<u64>,
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval: Duration,
    /// Lower bound of the random part of the time without a leader after which a follower stands for election.
    pub election_timeout_min: Duration,
    /// Upper bound of the same, and the time for which a follower trusts its leader.
    pub election_timeout_max: Duration,
    /// Whether the node, while it leads, may answer reads for its lease.
    pub lease_reads: bool,
    /// Bytes of log since the last snapshot that bring the next one.
    pub snapshot_log_bytes: u64,
    /// The size of one file of the log.
    pub log_segment_bytes: u64,
    /// Bytes of changes that are remembered.
    pub history_bytes: u64,
    /// How long a request may wait in the server at most.
    pub request_timeout: Duration,
    /// How long stopping may take.
    pub shutdown_grace: Duration,
    /// The longest key.
    pub max_key_bytes: usize,
    /// The longest value.
    pub max_value_bytes: usize,
    /// The largest request.
    pub max_request_bytes: usize,
}

/// Where the key of gossip is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In the configuration.
    Given(EncryptKey),
    /// In this file, which has to be read with [`EncryptKey`]'s `FromStr`.
    File(PathBuf),
}

/// What the machine says, where the configuration does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The machine's name.
    pub hostname: String,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// Whether the process runs as root.
    pub is_root: bool,
}

impl Host {
    /// Where programs of this user keep what must survive a restart, in a directory of `mokv`'s own. `None` if the user
    /// has no home.
    pub fn state_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/lib/mokv".into());
        }
        // The XDG specification has relative paths ignored.
        let xdg = self.xdg_state_home.clone().filter(|path| path.is_absolute());
        let base = xdg.or_else(|| self.home.as_ref().map(|home| home.join(".local/state")))?;
        Some(base.join("mokv"))
    }
}

/// Why there is no configuration. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A name is no setting. Correct or remove it.
    #[error("unknown {kind} `{name}` in {place}{}", nearest.as_ref().map(|near| format!(": did you mean `{near}`?")).unwrap_or_default())]
    Unknown {
        /// What the name is: a key or an environment variable.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where it stands.
        place: String,
        /// The known name that is most like it, if one is.
        nearest: Option<String>,
    },
    /// The file is no list of settings. Correct the line.
    #[error("{file} line {line}: {reason}")]
    File {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A value can't be what it is. Correct it.
    #[error("{place}: {reason}")]
    Invalid {
        /// Where it stands.
        place: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The home directory is unknown, so there is no default for `data-dir`.
    #[error("there is no home directory to keep data in: set data-dir")]
    NoDataDir,
}

impl Config {
    /// Makes a configuration from layers, the most important one first. The defaults are added as the last.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn from_layers(layers: &[Layer], host: &Host) -> Result<Self, ConfigError> {
        let defaults = Layer::defaults();
        let settings = Layers { layers, defaults: &defaults };

        let bind: HostPort = settings.required("bind-addr", str::parse)?;
        let rpc_port = settings.required("rpc-port", units::parse_port)?;
        let node_name = match settings.optional("node-name", |text| Ok(text.to_owned()))? {
            Some(name) => name,
            None => host.hostname.clone(),
        };
        let advertise = advertise_addr(&settings, &bind, rpc_port)?;
        let config = Self {
            data_dir: data_dir(&settings, host, &node_name)?,
            advertise_gossip_addr: HostPort { host: advertise.host.clone(), port: bind.port }.to_string(),
            advertise_addr: advertise.to_string(),
            node_name,
            bind_host: if bind.host.is_empty() { "0.0.0.0".into() } else { bind.host },
            gossip_port: bind.port,
            rpc_port,
            metrics_port: settings.required("metrics-port", units::parse_port)?,
            start_join_addrs: settings.optional("start-join-addrs", layer::parse_addresses)?.unwrap_or_default(),
            mode: mode(&settings)?,
            voters_max: settings.required("voters-max", |text| count(text, 1))?,
            failed_grace: Some(settings.duration("failed-grace", Duration::ZERO)?).filter(|grace| !grace.is_zero()),
            encrypt_key: encrypt_key(&settings)?,
            log_level: settings.required("log-level", |text| Ok(text.to_owned()))?,
            memory_quota: Some(settings.required("memory-quota", units::parse_size)?).filter(|bytes| *bytes > 0),
            heartbeat_interval: settings.duration("heartbeat-interval", HEARTBEAT_INTERVAL_MIN)?,
            election_timeout_min: settings.required("election-timeout-min", units::parse_duration)?,
            election_timeout_max: settings.duration("election-timeout-max", Duration::ZERO)?,
            lease_reads: settings.required("lease-reads", parse_bool)?,
            snapshot_log_bytes: settings.size("snapshot-log-size", LOG_SEGMENT_BYTES_MIN, u64::MAX)?,
            log_segment_bytes: settings.size("log-segment-size", LOG_SEGMENT_BYTES_MIN, 4 << 30)?,
            history_bytes: settings.size("history-size", HISTORY_BYTES_MIN, u64::MAX)?,
            request_timeout: settings.duration("request-timeout", Duration::from_millis(1))?,
            shutdown_grace: settings.duration("shutdown-grace", Duration::ZERO)?,
            max_key_bytes: settings.bound("max-key-bytes")?,
            max_value_bytes: settings.bound("max-value-bytes")?,
            max_request_bytes: settings.bound("max-request-bytes")?,
        };
        config.check(&settings)?;
        Ok(config)
    }

    /// Where gossip listens, host:port.
    pub fn gossip_listen_addr(&self) -> String {
        HostPort { host: self.bind_host.clone(), port: self.gossip_port }.to_string()
    }

    /// Where gRPC listens, host:port.
    pub fn rpc_listen_addr(&self) -> String {
        HostPort { host: self.bind_host.clone(), port: self.rpc_port }.to_string()
    }

    /// Where metrics and probes listen, host:port.
    pub fn metrics_listen_addr(&self) -> String {
        HostPort { host: self.bind_host.clone(), port: self.metrics_port }.to_string()
    }

    /// What no setting can say alone.
    fn check(&self, settings: &Layers<'_>) -> Result<(), ConfigError> {
        if let Err(reason) = parse_node_name(&self.node_name) {
            return Err(settings.invalid("node-name", reason));
        }
        if self.rpc_port == self.gossip_port {
            return Err(settings.invalid("rpc-port", format!("{} is the port of bind-addr already", self.rpc_port)));
        }
        if [self.rpc_port, self.gossip_port].contains(&self.metrics_port) {
            let reason = format!("{} is the port of bind-addr or rpc-port already", self.metrics_port);
            return Err(settings.invalid("metrics-port", reason));
        }
        if self.election_timeout_min < 2 * self.heartbeat_interval {
            let reason = format!(
                "{:?} is less than twice the heartbeat-interval ({:?}), so one late heartbeat would cost the leader its \
                 office: make it at least {:?}",
                self.election_timeout_min,
                self.heartbeat_interval,
                2 * self.heartbeat_interval
            );
            return Err(settings.invalid("election-timeout-min", reason));
        }
        if self.election_timeout_max <= self.election_timeout_min {
            let reason = format!(
                "{:?} is not more than election-timeout-min ({:?}), so all followers would stand at once: make it about \
                 twice as long",
                self.election_timeout_max, self.election_timeout_min
            );
            return Err(settings.invalid("election-timeout-max", reason));
        }
        let needed = self.max_key_bytes as u64 + self.max_value_bytes as u64 + MESSAGE_OVERHEAD_BYTES;
        if (self.max_request_bytes as u64) < needed {
            let reason = format!(
                "{} bytes have no room for the longest key and value: make it at least {needed}",
                self.max_request_bytes
            );
            return Err(settings.invalid("max-request-bytes", reason));
        }
        Ok(())
    }
}

fn data_dir(settings: &Layers<'_>, host: &Host, node_name: &str) -> Result<PathBuf, ConfigError> {
    let given = settings.optional("data-dir", |text| match text {
        "" => Err("a directory is needed".to_owned()),
        text => Ok(PathBuf::from(text)),
    })?;
    // A machine has one root, and most often one node of its own; a user may try several.
    let default = || host.state_dir().map(|dir| if host.is_root { dir } else { dir.join(node_name) });
    given.or_else(default).ok_or(ConfigError::NoDataDir)
}

fn mode(settings: &Layers<'_>) -> Result<Mode, ConfigError> {
    let alone = settings.required("bootstrap", parse_bool)?;
    match (alone, settings.required("bootstrap-expect", |text| count(text, 0))?) {
        (false, 0) => Ok(Mode::Join),
        (true, 0 | 1) | (false, 1) => Ok(Mode::Alone),
        (false, nodes) => Ok(Mode::Expect(nodes)),
        (true, nodes) => Err(settings.invalid(
            "bootstrap-expect",
            format!(
                "a cluster of {nodes} nodes, and with bootstrap one of this node alone: only one of the two can be"
            ),
        )),
    }
}

/// A number of nodes.
fn count(text: &str, min: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (min..=NODES_MAX).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of nodes: write one from {min} to {NODES_MAX}"))
}

fn encrypt_key(settings: &Layers<'_>) -> Result<Option<KeySource>, ConfigError> {
    let given = settings.optional("encrypt-key", str::parse)?;
    let file = settings.optional("encrypt-key-file", |text| match text {
        "" => Err("a file is needed".to_owned()),
        text => Ok(PathBuf::from(text)),
    })?;
    match (given, file) {
        (Some(_), Some(_)) => {
            Err(settings
                .invalid("encrypt-key-file", "the key stands in encrypt-key already: keep one of them".to_owned()))
        }
        (given, file) => Ok(given.map(KeySource::Given).or(file.map(KeySource::File))),
    }
}

fn advertise_addr(settings: &Layers<'_>, bind: &HostPort, rpc_port: u16) -> Result<HostPort, ConfigError> {
    let given = settings.optional("advertise-addr", |text| {
        let address = match units::parse_host(text).filter(|host| !host.is_empty()) {
            Some(host) => HostPort { host: host.to_owned(), port: rpc_port },
            None => text.parse()?,
        };
        if is_wildcard(&address.host) {
            Err(format!("{text:?} is not one address that others can connect to"))
        } else {
            Ok(address)
        }
    })?;
    match given {
        Some(address) => Ok(address),
        None if is_wildcard(&bind.host) => {
            let reason = format!(
                "{:?} listens on every address, so other nodes can't know which one to use: set advertise-addr to this \
                 machine's address or name",
                bind.to_string()
            );
            Err(settings.invalid("bind-addr", reason))
        }
        None => Ok(HostPort { host: bind.host.clone(), port: rpc_port }),
    }
}

fn is_wildcard(host: &str) -> bool {
    host.is_empty() || host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// The name of a node.
///
/// # Errors
///
/// Says what a name may be.
pub fn parse_node_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match (1..=NODE_NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(allowed) {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "{name:?} is no name for a node: use 1 to {NODE_NAME_CHARS_MAX} of the characters A-Z a-z 0-9 . _ -"
        )),
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

/// All layers, as one.
struct Layers<'a> {
    layers: &'a [Layer],
    defaults: &'a Layer,
}

impl Layers<'_> {
    fn get(&self, name: &str) -> Option<&layer::Value> {
        self.layers.iter().chain([self.defaults]).find_map(|layer| layer.get(name))
    }

    fn optional<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        debug_assert!(Setting::named(name).is_some(), "no setting is called {name}");
        let Some(value) = self.get(name) else { return Ok(None) };
        parse(&value.text).map(Some).map_err(|reason| ConfigError::Invalid { place: value.place.clone(), reason })
    }

    fn required<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        self.optional(name, parse)?.ok_or_else(|| self.invalid(name, "a value is needed".to_owned()))
    }

    fn duration(&self, name: &str, min: Duration) -> Result<Duration, ConfigError> {
        self.required(name, |text| {
            let duration = units::parse_duration(text)?;
            let fits = (min..=DURATION_MAX).contains(&duration);
            if fits { Ok(duration) } else { Err(format!("{text} is out of range: from {min:?} to {DURATION_MAX:?}")) }
        })
    }

    fn size(&self, name: &str, min: u64, max: u64) -> Result<u64, ConfigError> {
        self.required(name, |text| {
            let bytes = units::parse_size(text)?;
            let fits = (min..=max).contains(&bytes);
            if fits { Ok(bytes) } else { Err(format!("{text} is out of range: from {min} to {max} bytes")) }
        })
    }

    fn bound(&self, name: &str) -> Result<usize, ConfigError> {
        self.size(name, 1, MAX_REQUEST_BYTES_MAX).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn invalid(&self, name: &str, reason: String) -> ConfigError {
        let place = self.get(name).map_or_else(|| name.to_owned(), |value| value.place.clone());
        ConfigError::Invalid { place, reason }
    }
}

#[cfg(test)]
mod tests;
