//! The kinds that Kubernetes 1.37 itself has: every resource that is generally available, a table per group.
//!
//! Facts only; `behaviour` is where code is plugged in.

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod behaviour;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod rows;
mod scheduling;
mod storage;
mod storagemigration;

use rows::Table;

use super::Kind;

static TABLES: &[&Table] = &[
    &core::V1,
    &admissionregistration::V1,
    &apiextensions::V1,
    &apiregistration::V1,
    &apps::V1,
    &authentication::V1,
    &authorization::V1,
    &autoscaling::V1,
    &autoscaling::V2,
    &batch::V1,
    &certificates::V1,
    &coordination::V1,
    &discovery::V1,
    &events::V1,
    &flowcontrol::V1,
    &networking::V1,
    &node::V1,
    &policy::V1,
    &rbac::V1,
    &resource::V1,
    &scheduling::V1,
    &storage::V1,
    &storagemigration::V1,
];

/// A row for each built-in kind.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    TABLES.iter().flat_map(|table| table.kinds()).collect()
}

/// Where a built-in group stands in discovery: the highest first (`groupPriorityMinimum` of its APIServices).
#[must_use]
pub fn priority(group: &str) -> Option<u32> {
    TABLES.iter().find(|table| table.group == group).map(|table| table.priority)
}

#[cfg(test)]
mod tests;
