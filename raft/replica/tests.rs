//! What the replica promises, under faults. Names say what holds.

mod cluster;
mod faults;
mod histories;
mod kills;
mod leases;
mod members;
mod real;
mod recovery;
mod replay;
mod restarts;
mod scrubs;
mod sockets;
mod writes;
