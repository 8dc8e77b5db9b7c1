//! Durations, sizes and addresses as people write them. The errors are sentences that say what would be right.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mokv_serf::wire::keyring::{Keyring, key_from_text};

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`.
///
/// # Errors
///
/// A sentence that says what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write a whole number and a unit, like 150ms, 10s, 5m or 1h");
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(unit_ms).ok_or_else(|| format!("{text:?} is too long a duration"))?;
    Ok(Duration::from_millis(millis))
}

/// Reads a number of bytes: a whole number, alone or with one of `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or
/// `KB`, `MB`, `GB`, `TB` (powers of 1000), in any case.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size: write a whole number of bytes, or one with a unit, like 512MiB or 2GiB");
    let (number, unit) = split_unit(text).ok_or_else(wrong)?;
    let unit_bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_bytes).ok_or_else(|| format!("{text:?} is more bytes than there can be"))
}

/// Reads a port that can be opened.
pub(super) fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{text:?} is no port: write a number from 1 to 65535"))
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A host, by name or address, and a port. IPv6 addresses are written in brackets and kept without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no address: write host:port, like 10.0.0.1:8401, [fd00::1]:8401 or db-0.local:8401")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = parse_port(port).map_err(|reason| format!("in {text:?}, {reason}"))?;
        let host = parse_host(host).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A host without its brackets. `None`: it is no host. The empty host is one: every address of the machine.
pub(super) fn parse_host(text: &str) -> Option<&str> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']').filter(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    text.chars().all(allowed).then_some(text)
}

/// A key of gossip's encryption. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptKey(Keyring);

impl EncryptKey {
    /// A keyring of this key alone.
    pub fn into_keyring(self) -> Keyring {
        self.0
    }
}

impl fmt::Debug for EncryptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptKey(..)")
    }
}

impl FromStr for EncryptKey {
    type Err = String;

    /// Reads base64. What is wrong is not shown either: it may be almost a key.
    fn from_str(text: &str) -> Result<Self, String> {
        let keyring = key_from_text(text.trim()).and_then(|key| Keyring::new([key]));
        keyring.map(Self).map_err(|_| "this is no key: write 16, 24 or 32 bytes in base64".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [("150ms", 150), ("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("2 s", 2_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 parsecs", "1s2", "99999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_have_two_kinds_of_units() {
        let table =
            [("4096", 4096), ("0", 0), ("1KiB", 1024), ("512MiB", 512 << 20), ("2gib", 2 << 30), ("1 MB", 1_000_000)];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1MiBs", "1Mi", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for text in ["127.0.0.1:8401", "[::1]:8401", "node-0.mokv.svc:1", ":8401", "0.0.0.0:65535"] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
        for text in
            ["", "8401", "host", "host:", "host:0", "host:65536", "::1:8401", "[::1:8401", "a b:1", "http://h:1"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn keys_are_base64_of_three_lengths() {
        let key = |text: &str| text.parse::<EncryptKey>().map(|key| key.into_keyring().primary().to_vec());
        assert_eq!(key("AAECAwQFBgcICQoLDA0ODw=="), Ok((0..16).collect()));
        assert_eq!(key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYX\n"), Ok((0..24).collect()));
        assert_eq!(key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Ok((0..32).collect()));
        for text in ["", "AAEC", "AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoLDA0ODx==", "AAECAwQFBgcICQoLDA0OD!=="] {
            assert!(key(text).is_err(), "{text:?} was taken");
        }
        let complaint = "c2VjcmV0".parse::<EncryptKey>().expect_err("too short");
        assert!(!complaint.contains("c2Vj"), "{complaint}");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*") {
            drop((parse_duration(&text), parse_size(&text), text.parse::<HostPort>()));
        }

        #[test]
        fn whole_units_are_exact(number in 0..1u64 << 23) {
            prop_assert_eq!(parse_size(&format!("{number}TiB")), Ok(number << 40));
            prop_assert_eq!(parse_duration(&format!("{number}h")), Ok(Duration::from_secs(number * 3600)));
        }
    }
}
