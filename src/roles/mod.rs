//! The roles that a process can have; the only places that build the whole.

pub mod backups;
pub mod controllers;
pub mod hollow;
pub mod master;
pub mod node;
pub mod offline;
pub mod ports;

mod address;
mod certificate;
mod inspection;
mod join;
mod kube;
mod loops;
mod network;
mod place;
mod strays;
mod trust;
