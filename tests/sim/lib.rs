//! Whole clusters in one thread, on simulated time, network and disks, by seed.
//!
//! Storage, log, consensus, leases, watches and membership are the real code; what lies below them is not:
//! messages wait, vanish, come twice and overtake one another, power fails and takes what was not synced,
//! members are cut off and stand still. Each seed draws its own mix. In the end everything heals, and the
//! cluster must go on. What clients saw is judged as that of real processes is (`kontiki_faults::check`).
//!
//! Keeps: a seed decides faults, delays, elections and what clients do. What it does not decide is whom of
//! several that wait tokio wakes first: so a seed is nearly a run, and one that fails is to be tried a few
//! times.

pub mod clients;
pub mod cluster;
pub mod run;
pub mod swarm;
