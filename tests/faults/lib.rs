//! Breaks whole clusters on purpose, and judges what their clients saw.
//!
//! Real processes on this machine, their peers joined by a network that can be cut and slowed (`network`);
//! clients that speak etcd's protocol (`client`, `workload`); faults drawn by a seed (`fault`). What clients
//! saw is written down (`history`) and judged when it is over (`check`). The same drives Kontiki and etcd.
//!
//! Keeps: the judge knows nothing of the cluster, and the cluster nothing of the judge: a history on disk
//! can be judged again.

pub mod check;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod fault;
pub mod gap;
pub mod history;
pub mod ledger;
#[cfg(test)]
mod mutants;
pub mod network;
pub mod preload;
pub mod report;
pub mod rights;
pub mod run;
pub mod sweep;
pub mod workload;
