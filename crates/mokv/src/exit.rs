//! How a command ends: the exit codes, which scripts rely on, and the one or two lines that say what to do.

use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::process::ExitCode;

use mokv_client::Error;

/// For `--help`. The codes never change their meaning.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  what was asked for does not exist
  4  unavailable: no answer in time, or the outcome of a write is unknown
  5  refused: a condition did not hold, or the cluster is in no state for what was asked
lock, elect and watch end with the exit code of the command that they run.";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<&'static str>,
}

impl Failure {
    /// Anything that has no code of its own.
    pub(crate) fn error(message: impl Display) -> Self {
        Self { code: 1, message: message.to_string(), hint: None }
    }

    /// The user asked for something that can't be meant.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: 2, message: message.to_string(), hint: None }
    }

    /// What was asked for does not exist.
    pub(crate) fn not_found(message: impl Display) -> Self {
        Self { code: 3, message: message.to_string(), hint: None }
    }

    /// Nobody answered.
    pub(crate) fn unavailable(message: impl Display) -> Self {
        let hint = "`mokv status` shows the nodes, --endpoints or MOKV_ENDPOINTS says whom to ask, `mokv dev` starts a cluster";
        Self { code: 4, message: message.to_string(), hint: Some(hint) }
    }

    /// A condition of a write did not hold: of a key whose last write has this revision, 0 if it has no value.
    pub(crate) fn condition(key: &str, mod_revision: u64) -> Self {
        match mod_revision {
            0 => Self::refused(format!("the condition did not hold: no value for key: {key}")),
            revision => Self::refused(format!("the condition did not hold: {key} has mod_revision {revision}")),
        }
    }

    /// What was asked for can't be had now.
    pub(crate) fn refused(message: impl Display) -> Self {
        Self { code: 5, message: message.to_string(), hint: None }
    }

    /// A command that was run has failed, and said so itself.
    pub(crate) fn of_command(code: u8) -> Self {
        Self { code, message: String::new(), hint: None }
    }

    /// The same failure, said of something.
    pub(crate) fn of(self, what: impl Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Tells the user, and returns what the process exits with.
    pub(crate) fn report(&self) -> ExitCode {
        if self.code == 0 {
            return ExitCode::SUCCESS;
        }
        // Without standard error there is nobody left to tell.
        if !self.message.is_empty() {
            drop(writeln!(io::stderr(), "error: {}", self.message));
        }
        if let Some(hint) = self.hint {
            drop(writeln!(io::stderr(), "hint: {hint}"));
        }
        ExitCode::from(self.code)
    }
}

/// What the user is told.
impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Unavailable(_) => Self::unavailable(error),
            Error::OutcomeUnknown(_) => Self {
                code: 4,
                message: error.to_string(),
                hint: Some("read the key to find out, or send the write again if doing it twice is harmless"),
            },
            Error::NotFound(_) | Error::Compacted { .. } => Self::not_found(error),
            Error::Refused(_) | Error::AlreadyExists(_) => Self::refused(error),
            _ => Self::error(error),
        }
    }
}

/// Of standard output. Who no longer reads (`mokv list | head`) got what they wanted.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: 0, message: "nobody reads the output any more".into(), hint: None };
        }
        Self::error(format!("can't write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let table = [
            (Error::Unavailable(String::new()), 4),
            (Error::OutcomeUnknown(String::new()), 4),
            (Error::NotFound(String::new()), 3),
            (Error::Compacted { oldest: 7, message: String::new() }, 3),
            (Error::Refused(String::new()), 5),
            (Error::AlreadyExists(String::new()), 5),
            (Error::Invalid(String::new()), 1),
            (Error::DiskFull(String::new()), 1),
            (Error::QuotaExceeded(String::new()), 1),
        ];
        for (error, code) in table {
            assert_eq!(Failure::from(error.clone()).code, code, "{error:?}");
        }
    }
}
