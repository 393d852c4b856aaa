//! Whether a guarded command may be carried out, judged by the state it finds.
//!
//! Keeps: the same verdict on every member, because it looks at nothing but the state and the command.
//! Never: changes anything.

use super::Group;
use super::pending::Overlay;
use crate::error::Error;
use crate::request::{Command, Condition, Guarded};
use crate::view::lease_keys;

/// The command behind the guard, if all conditions hold.
pub(super) fn passed<'g>(
    group: &mut Group<'_>,
    guarded: &'g Guarded,
) -> Result<&'g Command, Error> {
    for condition in &guarded.conditions {
        if !holds(group, condition)? {
            return Err(Error::ConditionFailed);
        }
    }
    Ok(&guarded.command)
}

fn holds(group: &mut Group<'_>, condition: &Condition) -> Result<bool, Error> {
    match condition {
        Condition::Compare(compare) => compare.holds(group),
        Condition::LeaseWithin { id, ranges } => {
            let overlay = Overlay { base: group.base, pending: &group.pending };
            let attached = lease_keys(&overlay, *id)?;
            Ok(attached.iter().all(|key| ranges.iter().any(|range| range.contains(key))))
        }
    }
}
