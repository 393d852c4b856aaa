//! What the replica promises, under faults. Names say what holds.

mod cluster;
mod faults;
mod histories;
mod leases;
mod members;
mod restarts;
mod writes;
