//! What was met of damage in a state while it was read.
//!
//! Keeps: the first that was met stays, for as long as this state is the one that is served.

use std::sync::{Arc, OnceLock};

use crate::error::Error;

/// Shared by a state's views and by whoever looks after its directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage(Arc<OnceLock<Error>>);

impl Damage {
    /// `result` as it is; noted if it is damage.
    pub(crate) fn noted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Damaged(_)) = &result {
            self.0.get_or_init(|| error.clone());
        }
        result
    }

    pub(crate) fn get(&self) -> Option<&Error> {
        self.0.get()
    }
}
