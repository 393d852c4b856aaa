//! Whole clusters in one thread, on simulated time, network and disks, by seed.
//!
//! Storage, log, consensus, leases, watches and membership are the real code; what lies below them is not:
//! messages wait, vanish, come twice and overtake one another, power fails and takes what was not synced,
//! members are cut off and stand still. Each seed draws its own mix. In the end everything heals, and the
//! cluster must go on. What clients saw is judged as that of real processes is (`kontiki_faults::check`).
//!
//! Keeps: a seed decides everything, whom of several that wait tokio wakes first included, in a process
//! that runs that seed alone (`chance.c` takes the place of the kernel's chance). So one that fails is had
//! again by its number.

pub mod clients;
pub mod cluster;
pub mod damage;
pub mod run;
pub mod swarm;
pub mod watchers;
