//! Where a kind's hooks and columns are plugged into its row.
//!
//! What the kinds do is in the rooms beside this one, by the moment in an object's life; here is only
//! which belongs to which.

use crate::kinds::{Columns, Hooks, beginnings, columns, conversions, defaults, endings, rules};

/// What the kind does beyond what its row says.
pub(super) fn hooks(group: &str, version: &str, kind: &str) -> Hooks {
    let ends = rules::of(group, version, kind).plug(endings::of(group, kind));
    let (from_stored, to_stored) = conversions::of(group, version, kind).unzip();
    Hooks {
        default: defaults::of(group, version, kind),
        prepare_create: beginnings::of(group, kind),
        from_stored,
        to_stored,
        ..ends
    }
}

/// What a Table of the kind shows.
pub(super) fn columns(group: &str, _version: &str, kind: &str) -> Columns {
    columns::of(group, kind)
}
