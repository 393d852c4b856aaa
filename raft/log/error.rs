//! Why a log can't be opened, sorted by what its owner has to do.

use std::io;

/// What must be done about acknowledged data that is gone; the same for every cause.
pub(super) const AMNESIA_ADVICE: &str = "this member must not vote or serve again under its node \
    id: remove it from the cluster and let it join anew with an empty data directory";

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something acknowledged is missing or altered. The member may have promised what it no
    /// longer knows.
    #[error("log damaged at {place}: {what}; {advice}")]
    Amnesia { what: String, place: String, advice: String },
    /// The files are not this member's, are in use, or are of a newer format. Nothing was changed.
    #[error("log refused: {what}; {advice}")]
    Refused { what: String, advice: String },
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn amnesia(place: impl Into<String>, what: impl Into<String>) -> OpenError {
        OpenError::Amnesia {
            what: what.into(),
            place: place.into(),
            advice: AMNESIA_ADVICE.to_owned(),
        }
    }
}

/// Names what was being done when a disk operation failed, keeping the error's kind.
pub(super) trait Doing<T> {
    fn doing(self, what: &str, name: &str) -> io::Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str, name: &str) -> io::Result<T> {
        self.map_err(|error| io::Error::new(error.kind(), format!("{what} {name}: {error}")))
    }
}

impl From<io::Error> for OpenError {
    fn from(source: io::Error) -> OpenError {
        OpenError::Io { what: "open the log".to_owned(), source }
    }
}
