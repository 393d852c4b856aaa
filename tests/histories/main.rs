//! The loops under random histories, by seed, on a whole API server in memory with hollow nodes.
//!
//! A seed is printed with each failure. `KONTIKI_SEED=n` runs that one alone, `KONTIKI_SEEDS=n` so many.
//! The same seed asks for the same things in the same order; what the loops do in between is theirs.

mod bed;
mod garbage;
mod workloads;
