//! One ordered history of commands, agreed on by the masters.
//!
//! openraft decides; this crate keeps its entries durably, carries them between masters and hands them to
//! the store. openraft's names stay inside this crate.

pub use kontiki_storage as storage;
