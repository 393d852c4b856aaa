//! One ordered history of commands, agreed on by the masters.
//!
//! [`replica::Replica`] is the door: propose a command, wait for a read barrier, watch, keep leases alive,
//! change the membership. Whoever holds one never needs to know who leads.
//! Below it openraft decides, [`log`] keeps entries durably, `state_machine` hands them to the store, and
//! [`network`] carries messages between masters. openraft's names stay inside this crate.

pub use kontiki_storage as storage;
