//! The server's log lines: to standard error, in colour on a terminal.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::exit::Failure;
use crate::output::use_colour;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts logging. `level` is a level, which means mökv's own lines (libraries are quiet: what matters of theirs, mökv
/// says in its own words), or a filter of `target=level` parts.
pub(crate) fn start(level: &str) -> Result<(), Failure> {
    let filter = parse(level).map_err(|reason| Failure::usage(format!("log-level: {reason}")))?;
    let ansi = use_colour(&io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).init();
    Ok(())
}

fn parse(level: &str) -> Result<EnvFilter, String> {
    let level = level.to_ascii_lowercase();
    // The filter's own syntax takes a misspelt level for the name of a target, and then logs nothing at all.
    if let Some(part) = level.split(',').find(|part| !part.contains('=') && !LEVELS.contains(part)) {
        return Err(format!("{part:?} is no level: use one of {}, or target=level", LEVELS.join(", ")));
    }
    let directives = match level.as_str() {
        "info" | "debug" | "trace" => format!("warn,openraft=error,mokv={level}"),
        _ => level,
    };
    EnvFilter::builder().parse(directives).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_told_from_mistakes() {
        for level in ["info", "WARN", "off", "info,openraft=warn", "mokv_server=debug"] {
            parse(level).expect(level);
        }
        for level in ["", "inof", "info,openraft", "openraft=loud"] {
            parse(level).expect_err(level);
        }
    }
}
