//! Why the process ends with another code than 0, in one line for people.

use std::fmt;
use std::process::ExitCode;

/// What the exit code says.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage or configuration: trying the same again is in vain. Exit code 2.
    Usage(String),
    /// It failed while it ran. Exit code 1.
    Run(String),
}

impl Failure {
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Run(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Usage(reason) | Failure::Run(reason)) = self;
        // One line, whatever a library has put into its text.
        let mut words = reason.split_whitespace();
        if let Some(first) = words.next() {
            f.write_str(first)?;
        }
        words.try_for_each(|word| write!(f, " {word}"))
    }
}

impl From<kontiki_raft::storage::Error> for Failure {
    fn from(error: kontiki_raft::storage::Error) -> Failure {
        match error {
            refused @ kontiki_raft::storage::Error::Refused { .. } => {
                Failure::Usage(refused.to_string())
            }
            other => Failure::Run(other.to_string()),
        }
    }
}

impl From<kontiki_raft::Error> for Failure {
    fn from(error: kontiki_raft::Error) -> Failure {
        match error {
            kontiki_raft::Error::Store(error) => error.into(),
            other => Failure::Run(other.to_string()),
        }
    }
}

impl From<crate::pki::Error> for Failure {
    fn from(error: crate::pki::Error) -> Failure {
        Failure::Run(error.to_string())
    }
}

impl From<crate::remote::Error> for Failure {
    fn from(error: crate::remote::Error) -> Failure {
        Failure::Run(error.to_string())
    }
}

impl From<crate::snapshots::Error> for Failure {
    fn from(error: crate::snapshots::Error) -> Failure {
        match error {
            crate::snapshots::Error::Refused(reason) => Failure::Usage(reason),
            crate::snapshots::Error::Failed(reason) => Failure::Run(reason),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Run(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::Run("one\n  two\n\nthree ".into());
        assert_eq!(failure.to_string(), "one two three");
    }
}
