//! One source of settings: the flags, the environment, or the file. A layer knows only known settings, and where each of
//! its values came from; what the values mean is for [`Config`](super::Config) to say.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, Span, StrInput};

use super::settings::{SETTINGS, Setting};
use super::{ConfigError, units};

/// Variables that begin like ours but are for `mokv`'s client commands, or name the file itself.
const VARIABLES_OF_THE_COMMAND_LINE: &[&str] = &["MOKV_CONFIG_FILE", "MOKV_ENDPOINTS", "MOKV_TIMEOUT"];
/// How those begin that `mokv watch`, `mokv lock` and `mokv elect` set for the command that they run: it may be a node.
const VARIABLES_OF_THOSE_IT_RUNS: &[&str] = &["MOKV_WATCH_", "MOKV_LOCK_", "MOKV_ELECTION_"];

/// Names further apart than this are not offered as what was meant.
const NEAR: f64 = 0.7;

/// The settings of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    values: BTreeMap<&'static str, Value>,
}

/// What a source says of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    /// For error messages: `--rpc-port`, `MOKV_RPC_PORT`, or a key with its file and line.
    pub(super) place: String,
}

impl Layer {
    /// A layer of settings by name. `place` says where such a setting stands, for error messages.
    fn insert(&mut self, setting: &'static Setting, text: String, place: String) {
        self.values.insert(setting.name, Value { text, place });
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// What stands in [`SETTINGS`]: the last layer.
    pub(super) fn defaults() -> Self {
        let mut layer = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                layer.insert(setting, default.to_owned(), format!("the default of {}", setting.name));
            }
        }
        layer
    }

    /// Flags of a command line, with the values that were given.
    pub fn from_flags(flags: impl IntoIterator<Item = (&'static Setting, String)>) -> Self {
        let mut layer = Self::default();
        for (setting, text) in flags {
            layer.insert(setting, text, format!("--{}", setting.name));
        }
        layer
    }

    /// The `MOKV_*` variables among `variables`. An empty variable counts as not set.
    ///
    /// Kubernetes puts variables for each Service into every container: those of a Service called `mokv` begin like ours
    /// and are passed over.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unknown`] if one is no setting.
    pub fn from_env(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        for (name, text) in variables {
            let passed_over = text.is_empty()
                || VARIABLES_OF_THE_COMMAND_LINE.contains(&name.as_str())
                || VARIABLES_OF_THOSE_IT_RUNS.iter().any(|prefix| name.starts_with(prefix))
                || is_service_link(&name, &text);
            if !name.starts_with("MOKV_") || passed_over {
                continue;
            }
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
                let known = SETTINGS.iter().map(Setting::variable);
                let known = known.chain(VARIABLES_OF_THE_COMMAND_LINE.iter().map(|&name| name.to_owned()));
                return Err(unknown("environment variable", &name, "the environment", known));
            };
            layer.insert(setting, text, name);
        }
        Ok(layer)
    }

    /// The settings of a file: one YAML mapping of names to values. `file` is its name, for error messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unknown`] if a key is no setting, [`ConfigError::File`] for everything else that the file may not be.
    pub fn from_yaml(text: &str, file: &str) -> Result<Self, ConfigError> {
        YamlReader { events: Parser::new_from_str(text), file }.read()
    }
}

/// Whether Kubernetes made the variable from a Service (`enableServiceLinks`).
fn is_service_link(name: &str, text: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| text.starts_with(scheme));
    let of_one_port =
        name.rsplit_once("_PORT_").is_some_and(|(_, port)| port.starts_with(|c: char| c.is_ascii_digit()));
    is_url || of_one_port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
}

fn unknown(kind: &'static str, name: &str, place: &str, known: impl Iterator<Item = String>) -> ConfigError {
    // What all variables have in common makes none of them near.
    let own_part = |name: &str| name.trim_start_matches("MOKV_").to_owned();
    let near = known.map(|known| (strsim::jaro_winkler(&own_part(name), &own_part(&known)), known));
    let nearest =
        near.filter(|(nearness, _)| *nearness > NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name);
    ConfigError::Unknown { kind, name: name.to_owned(), place: place.to_owned(), nearest }
}

/// Reads the one shape that a file may have. Scalars stay the text that was written: `node-name: 007` is `007`.
struct YamlReader<'a> {
    events: Parser<'a, StrInput<'a>>,
    file: &'a str,
}

impl<'a> YamlReader<'a> {
    fn read(mut self) -> Result<Layer, ConfigError> {
        let mut layer = Layer::default();
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (Event::MappingStart(..), _) => break,
                // An empty file, or one of comments only.
                (Event::StreamEnd, _) => return Ok(layer),
                (Event::Scalar(text, ..), _) if text.is_empty() || text == "~" => return Ok(layer),
                (_, span) => return Err(self.wrong(&span, "write one setting a line, like `rpc-port: 8400`")),
            }
        }
        loop {
            match self.next()? {
                (Event::Scalar(key, ..), span) => self.read_setting(&mut layer, &key, &span)?,
                (Event::MappingEnd, _) => break,
                (_, span) => return Err(self.wrong(&span, "a key must be the name of a setting")),
            }
        }
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(layer),
                (_, span) => return Err(self.wrong(&span, "a second document begins; write all settings into one")),
            }
        }
    }

    fn read_setting(&mut self, layer: &mut Layer, key: &str, span: &Span) -> Result<(), ConfigError> {
        let place = self.place(span);
        let Some(setting) = Setting::named(key) else {
            return Err(unknown("key", key, &place, SETTINGS.iter().map(|setting| setting.name.to_owned())));
        };
        if layer.get(key).is_some() {
            return Err(self.wrong(span, &format!("`{key}` stands here a second time")));
        }
        let text = match self.next()? {
            (Event::Scalar(text, ..), _) => text.into_owned(),
            (Event::SequenceStart(..), _) if setting.is_list => self.read_list(key)?,
            (_, span) if setting.is_list => return Err(self.wrong(&span, &format!("`{key}` takes a list of texts"))),
            (_, span) => return Err(self.wrong(&span, &format!("`{key}` takes a single value"))),
        };
        layer.insert(setting, text, format!("`{key}` in {place}"));
        Ok(())
    }

    fn read_list(&mut self, key: &str) -> Result<String, ConfigError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::Scalar(item, ..), _) => items.push(item.into_owned()),
                (Event::SequenceEnd, _) => return Ok(items.join(",")),
                (_, span) => return Err(self.wrong(&span, &format!("`{key}` takes a list of texts"))),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.error(error.marker().line(), error.info())),
            None => Err(self.error(1, "the file ends too early")),
        }
    }

    fn place(&self, span: &Span) -> String {
        format!("{} line {}", self.file, span.start.line())
    }

    fn wrong(&self, span: &Span, reason: &str) -> ConfigError {
        self.error(span.start.line(), reason)
    }

    fn error(&self, line: usize, reason: &str) -> ConfigError {
        ConfigError::File { file: self.file.to_owned(), line, reason: reason.to_owned() }
    }
}

/// The items of a list as flags, variables and layers have it.
pub(super) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Reads every item of a list as an address.
pub(super) fn parse_addresses(text: &str) -> Result<Vec<String>, String> {
    split_list(text).map(|item| item.parse().map(|address: units::HostPort| address.to_string())).collect()
}
