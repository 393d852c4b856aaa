//! The front as etcd's clients see it, over real connections to clusters in this process.

mod bed;
mod keys;
mod leases;
mod rights;
mod service;
mod watches;
mod web;
