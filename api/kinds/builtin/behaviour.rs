//! Where a kind's hooks and columns are plugged into its row.
//!
//! A kind's own rules are in `<group>/<kind>.rs`; here is only which belongs to which.

use crate::kinds::{Columns, Hooks};

/// What the kind does beyond what its row says.
pub(super) fn hooks(_group: &str, _version: &str, _kind: &str) -> Hooks {
    Hooks::default()
}

/// What a Table of the kind shows.
pub(super) fn columns(_group: &str, _version: &str, _kind: &str) -> Columns {
    Columns::Default
}
