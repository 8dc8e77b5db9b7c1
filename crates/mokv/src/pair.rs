//! A key and its value as one line of JSON: what `export` writes, `import` reads, and `get` and `list` print.
//!
//! Values that are valid UTF-8 stand as text in `value`, others in base64 in `value_base64`.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Why a line is no pair.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    #[error("not a JSON object with a \"key\" and a \"value\" or \"value_base64\", all texts: {0}")]
    Json(#[from] serde_json::Error),
    #[error("exactly one of \"value\" and \"value_base64\" is needed")]
    Value,
    #[error("\"value_base64\" is no base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

impl Pair {
    pub(crate) fn new(key: String, value: &[u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self { key, value: Some(text.to_owned()), value_base64: None },
            Err(_) => Self { key, value: None, value_base64: Some(BASE64_STANDARD.encode(value)) },
        }
    }

    /// Reads a line into key and value.
    pub(crate) fn parse(line: &[u8]) -> Result<(String, Vec<u8>), PairError> {
        let pair: Self = serde_json::from_slice(line)?;
        let value = match (pair.value, pair.value_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(encoded)) => BASE64_STANDARD.decode(encoded)?,
            _ => return Err(PairError::Value),
        };
        Ok((pair.key, value))
    }
}

/// A pair with everything that the store knows of it.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    #[serde(flatten)]
    pair: Pair,
    revision: u64,
    create_revision: u64,
    mod_revision: u64,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_id: Option<u64>,
    /// About how long the key has still to live.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
    /// How fresh the answer is, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    served: Option<&'static str>,
}

impl Found {
    /// The same, with the level of the answer.
    pub(crate) fn served(self, level: &'static str) -> Self {
        Self { served: Some(level), ..self }
    }

    /// The same, of an answer that left the value out.
    pub(crate) fn without_value(self) -> Self {
        Self { pair: Pair { value: None, value_base64: None, ..self.pair }, ..self }
    }
}

impl From<mokv_client::Pair> for Found {
    fn from(found: mokv_client::Pair) -> Self {
        Self {
            pair: Pair::new(found.key, &found.value),
            revision: found.revision,
            create_revision: found.create_revision,
            mod_revision: found.mod_revision,
            version: found.version,
            lease_id: found.lease_id,
            ttl_ms: found.ttl.map(millis),
            served: None,
        }
    }
}

/// Milliseconds, as JSON has durations.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A value for people: text without control characters, or how many bytes it has.
pub(crate) fn readable(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => {
            text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
        }
        Err(_) => format!("({} bytes)", value.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(key: &str, value: &[u8]) -> String {
        serde_json::to_string(&Pair::new(key.into(), value)).expect("JSON")
    }

    #[test]
    fn text_stays_text_and_bytes_become_base64() {
        assert_eq!(line("a", b"1\n"), r#"{"key":"a","value":"1\n"}"#);
        assert_eq!(line("a", &[0xff, 0]), r#"{"key":"a","value_base64":"/wA="}"#);
        assert_eq!(line("a", b""), r#"{"key":"a","value":""}"#);
    }

    #[test]
    fn other_lines_are_refused() {
        let bad = [
            "",
            "[]",
            "{",
            r#"{"key":"a"}"#,
            r#"{"value":"a"}"#,
            r#"{"key":"a","value":1}"#,
            r#"{"key":"a","value":"1","value_base64":"MQ=="}"#,
            r#"{"key":"a","value_base64":"!"}"#,
            r#"{"key":"a","value":"1","ttl":5}"#,
            r#"{"key":"a","value":"1"} {"key":"b","value":"1"}"#,
        ];
        for text in bad {
            assert!(Pair::parse(text.as_bytes()).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn values_for_people_stay_on_their_line() {
        assert_eq!(readable("grüße\n\x1b[1m".as_bytes()), "grüße\\n\\u{1b}[1m");
        assert_eq!(readable(&[0xff, 0]), "(2 bytes)");
    }

    proptest! {
        #[test]
        fn pairs_come_back_as_they_were(key in ".*", value: Vec<u8>) {
            let line = line(&key, &value);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(Pair::parse(line.as_bytes()).expect("a pair"), (key, value));
        }

        #[test]
        fn no_line_is_too_strange(line: Vec<u8>) {
            drop(Pair::parse(&line));
        }
    }
}
