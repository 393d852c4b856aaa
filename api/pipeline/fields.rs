//! Who owns which field: managedFields, kept by `merge` and switched on here.

use serde_json::Value;

use super::options::WriteOptions;
use super::target::Target;
use crate::error::Status;
use crate::merge::apply::{self, Manager};

/// How managedFields follow a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Track {
    /// The manager is taken to own what it changed.
    Update,
    /// They are right already.
    Done,
}

/// Paths that an endpoint does not write, so that nobody comes to own them through it.
fn ignored(target: &Target) -> &'static [&'static str] {
    match target.sub.as_str() {
        "" if target.kind.has_status => &["status"],
        "status" => &["spec"],
        _ => &[],
    }
}

/// Brings the managedFields of `new` up to date with how it differs from `old`.
pub(super) fn track(
    target: &Target,
    options: &WriteOptions,
    track: Track,
    old: Option<&Value>,
    new: &mut Value,
) {
    if track == Track::Done {
        return;
    }
    let version = target.kind.group_version().to_string();
    let manager = Manager {
        name: &options.manager,
        api_version: &version,
        subresource: &target.sub,
        ignored: ignored(target),
    };
    apply::updated(target.kind.schema.as_ref(), old, new, &manager, options.now);
}

/// `applied` merged into `live`, with managedFields.
pub(super) fn apply(
    target: &Target,
    options: &WriteOptions,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Value, Status> {
    let version = target.kind.group_version().to_string();
    let manager = Manager {
        name: &options.manager,
        api_version: &version,
        subresource: &target.sub,
        ignored: ignored(target),
    };
    apply::apply(target.kind.schema.as_ref(), live, applied, &manager, force, options.now)
}

pub(super) use apply::keep_times;
