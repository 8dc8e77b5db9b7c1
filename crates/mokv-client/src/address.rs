//! What a client is told to connect to.

use std::time::Duration;

use tonic::transport::{Endpoint, Uri};

use crate::error::Error;

/// A node that does not take a connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A piece of a message is not larger than this: enough for the answers of a message full of operations.
const FRAME_BYTES: u32 = 256 << 10;
/// A node that is silent this long while calls wait is asked for a sign of life, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A connection string, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) addresses: Vec<String>,
    /// Only these addresses are used.
    pub(crate) is_single: bool,
    pub(crate) timeout: Option<Duration>,
}

impl Target {
    /// Reads `[mokv://]host:port[,host:port...][/][?option=value[&option=value...]]`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let (list, options) = text.split_once('?').unwrap_or((text, ""));
        let list = list.strip_prefix("mokv://").unwrap_or(list).trim_end_matches('/');
        let mut target = Self { addresses: Vec::new(), is_single: false, timeout: None };
        for address in list.split(',').map(str::trim) {
            endpoint(address)?;
            target.addresses.push(address.to_owned());
        }
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match (name, value) {
                ("routing", "all") => target.is_single = false,
                ("routing", "single") => target.is_single = true,
                ("timeout", value) => target.timeout = Some(parse_duration(value)?),
                ("routing", _) => {
                    return Err(Error::Invalid(format!("routing={value}: there are `all` and `single`")));
                }
                _ => return Err(Error::Invalid(format!("{name:?} is no option: there are `routing` and `timeout`"))),
            }
        }
        Ok(target)
    }
}

/// How to connect to an address.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong = || Error::Invalid(format!("{address:?} is no endpoint: write host:port, like 127.0.0.1:8400"));
    let uri: Uri = format!("http://{address}").parse().map_err(|_| wrong())?;
    let is_bare = uri.path() == "/" && uri.query().is_none() && !address.contains('@') && !address.ends_with('/');
    if !is_bare || uri.port_u16().is_none_or(|port| port == 0) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    Ok(Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_frame_size(FRAME_BYTES)
        .tcp_nodelay(true))
}

fn parse_duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Invalid(format!("timeout={text}: write a number and ms, s or m, like 5s"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).filter(|millis| *millis > 0).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        let good = ["127.0.0.1:8400", "mokv://a:1,b:2", "a:1, b:2", "[::1]:8400", "mokv://a:1/", "a:1/?routing=all"];
        for text in good {
            Target::parse(text).expect(text);
        }
        let bad = [
            "",
            "a",
            "a:",
            "a:0",
            "a:99999",
            ":1",
            "a:1,",
            "http://a:1",
            "a:1/x",
            "u@a:1",
            "a:1,b:2/,c:3",
            "?timeout=1s",
        ];
        for text in bad {
            let error = Target::parse(text).expect_err(text);
            assert!(matches!(&error, Error::Invalid(reason) if reason.contains("host:port")), "{text}: {error}");
        }
    }

    #[test]
    fn options_follow_a_question_mark() {
        let target = Target::parse("mokv://a:1,b:2?routing=single&timeout=1500ms").expect("a target");
        let addresses = vec!["a:1".to_owned(), "b:2".to_owned()];
        assert_eq!(target, Target { addresses, is_single: true, timeout: Some(Duration::from_millis(1500)) });
        assert_eq!(Target::parse("a:1?timeout=2m").expect("a target").timeout, Some(Duration::from_secs(120)));
        let bad = [
            "routing=none",
            "routing",
            "timeout=5",
            "timeout=s",
            "timeout=0s",
            "timeout=1h",
            "timeout",
            "x=1",
            "timeout=99999999999999999999s",
        ];
        for option in bad {
            assert!(matches!(Target::parse(&format!("a:1?{option}")), Err(Error::Invalid(_))), "{option}");
        }
    }
}
