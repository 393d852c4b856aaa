//! The parts of the one binary: roles and command line over control loops, scheduler and node agent.
//!
//! A library only so that tests and benchmarks can hold the parts; what users get is the binary.

pub mod agent;
pub mod cli;
pub mod controllers;
pub mod dns;
pub mod hollow;
pub mod kubeconfig;
pub mod proxy;
pub mod reconcile;
pub mod routes;
pub mod scheduler;
pub mod session;

mod failure;
mod kept;
mod pki;
mod reaper;
mod remote;
mod roles;
mod service;
mod snapshots;
mod tasks;
mod telemetry;
