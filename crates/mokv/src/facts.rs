//! What a command has to say of one thing: named facts, as a table, in lines, or as one JSON object.

use std::fmt::{self, Display};
use std::io;

use mokv_server::offline::Founded;
use serde_json::{Map, Value};

use crate::output::{self, TableFormat};

/// Facts in the order in which they are shown. Displayed, they are one line for people.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<Fact>);

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Fact { name, text, .. }) in self.0.iter().enumerate() {
            write!(f, "{}{name} {text}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Fact {
    name: &'static str,
    /// For machines.
    value: Value,
    /// For people.
    text: String,
}

impl Facts {
    /// A text. Ids are texts, too: JSON's numbers are too short for them.
    pub(crate) fn fact(self, name: &'static str, text: impl Display) -> Self {
        let text = text.to_string();
        self.with(name, text.clone().into(), text)
    }

    /// A number.
    pub(crate) fn number(self, name: &'static str, number: u64) -> Self {
        self.with(name, number.into(), number.to_string())
    }

    /// A number of bytes.
    pub(crate) fn bytes(self, name: &'static str, bytes: u64) -> Self {
        self.with(name, bytes.into(), output::bytes(bytes))
    }

    fn with(mut self, name: &'static str, value: Value, text: String) -> Self {
        self.0.push(Fact { name, value, text });
        self
    }

    /// Prints them: for people with units, otherwise without.
    pub(crate) fn print(self, format: TableFormat) -> io::Result<()> {
        match format {
            TableFormat::Json => {
                let object: Map<String, Value> =
                    self.0.into_iter().map(|fact| (fact.name.to_owned(), fact.value)).collect();
                output::json(&object)
            }
            TableFormat::Plain => output::rows(["", ""], &self.rows(|fact| plain(&fact.value)), format),
            TableFormat::Table => output::rows(["WHAT", "VALUE"], &self.rows(|fact| fact.text.clone()), format),
        }
    }

    fn rows(&self, value: impl Fn(&Fact) -> String) -> Vec<[String; 2]> {
        self.0.iter().map(|fact| [fact.name.to_owned(), value(fact)]).collect()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The facts of a new cluster.
pub(crate) fn founded(facts: Facts, made: &Founded) -> Facts {
    facts
        .fact("cluster_id", &made.cluster_id)
        .fact("node_id", made.node_id)
        .number("revision", made.revision)
        .number("keys", made.keys)
        .number("sessions", made.sessions)
        .fact("state_hash", made.state_hash)
}
