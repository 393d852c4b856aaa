//! What people do with workloads and nodes, by real kubectl against a real master with hollow nodes: one
//! test is one tour. Needs kubectl (`.ci/setup`).

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other suites use what this one does not")]
mod support;

mod bed;
mod daemon_sets;
mod deployments;
mod garbage;
mod jobs;
mod leaders;
mod nodes;
mod quotas;
mod replication;
mod scheduling;
mod services;
mod sessions;
mod split;
mod stateful_sets;
mod statuses;
mod volumes;
