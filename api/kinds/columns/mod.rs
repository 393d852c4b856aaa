//! What a Table of each built-in kind shows: columns and cells as upstream's server prints them.
//!
//! kubectl prints these cells as they are, so a cell that differs is a difference a person sees.
//! Every function is pure: an object and the time in, cells out.

use std::borrow::Cow;

use serde_json::Value;

use super::kind::{Column, Columns};
use crate::object::time::Timestamp;

mod cells;
mod cluster;
mod core;
mod network;
mod pod;
mod storage;
mod workloads;

pub use cells::age;

const fn column(name: &'static str, priority: i32) -> Column {
    typed(name, "string", priority)
}

const fn typed(name: &'static str, kind: &'static str, priority: i32) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        description: Cow::Borrowed(""),
        priority,
    }
}

const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    description: Cow::Borrowed(
        "Name must be unique within a namespace. Is required when creating resources.",
    ),
    priority: 0,
};

const AGE: Column = Column {
    name: Cow::Borrowed("Age"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed(""),
    description: Cow::Borrowed("How long ago the object was created."),
    priority: 0,
};

type Print = fn(&Value, Timestamp) -> Vec<Value>;
/// Group, kind, columns, cells.
type Entry = (&'static str, &'static str, &'static [Column], Print);

/// The columns of a built-in kind; kinds without a printer of their own show name and creation time.
#[must_use]
pub fn of(group: &str, kind: &str) -> Columns {
    [core::TABLE, workloads::TABLE, network::TABLE, storage::TABLE, cluster::TABLE]
        .into_iter()
        .flatten()
        .find(|(of_group, of_kind, ..)| *of_group == group && *of_kind == kind)
        .map_or(Columns::Default, |(_, _, columns, print)| Columns::Printer(columns, *print))
}

#[cfg(test)]
mod tests;
