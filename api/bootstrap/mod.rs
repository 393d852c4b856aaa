//! What a fresh cluster holds.

pub mod policy;
