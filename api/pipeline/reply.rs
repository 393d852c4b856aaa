//! What a request came to.

use serde_json::Value;

use super::list::Listing;
use super::shown::Shown;

/// What comes back, with what the client should be told beside it.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status: 200, or 201 for what was created.
    pub code: u16,
    pub answer: Answer,
    pub warnings: Vec<String>,
    /// What admission had to say to the audit log: (key, value).
    pub annotations: Vec<(String, String)>,
}

#[derive(Debug)]
pub enum Answer {
    /// An object that is, or was, stored.
    Object(Shown),
    /// One that never is: a Scale, a review, a token, and the Status of a success.
    Value(Value),
    List(Listing),
}

impl Reply {
    pub(super) fn object(code: u16, shown: Shown, warnings: Vec<String>) -> Reply {
        Reply { code, answer: Answer::Object(shown), warnings, annotations: Vec::new() }
    }

    pub(super) fn value(code: u16, value: Value, warnings: Vec<String>) -> Reply {
        Reply { code, answer: Answer::Value(value), warnings, annotations: Vec::new() }
    }

    pub(super) fn list(listing: Listing) -> Reply {
        let (warnings, annotations) = (Vec::new(), Vec::new());
        Reply { code: 200, answer: Answer::List(listing), warnings, annotations }
    }

    pub(super) fn annotated(self, annotations: Vec<(String, String)>) -> Reply {
        Reply { annotations, ..self }
    }
}
