//! The binary as its users meet it: real processes, real sockets, the commands of the manual.
//! One file per behaviour.

#[path = "../etcd/printed.rs"]
mod printed;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other suites use what this one does not")]
mod support;

mod addresses;
mod buckets;
mod certificates;
mod clients;
mod etcdctl;
mod hostile;
mod life;
mod rotation;
mod script;
mod service;
mod snapshots;
mod start;
mod store;
mod tokens;
mod usage;
