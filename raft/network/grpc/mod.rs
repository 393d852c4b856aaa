//! Messages between processes: gRPC over HTTP/2 over mutual TLS.
//!
//! [`GrpcTransport`] is the calling side, [`serve`] the called one. To each peer there are three
//! connections ([`connection::Lane`]), because what shares a connection shares its place in the queue.
//!
//! Keeps: a connection carries messages only after both sides have said who they are and were believed
//! (certificate, then `Hello`). What was certainly not sent is told apart from what may have arrived.
//! Never: plain text. Never an unbounded queue: connections, handshakes, calls, windows and messages all
//! have a bound here.

mod client;
mod connection;
mod messages;
mod server;
mod service;
mod tls;

pub use client::GrpcTransport;
pub use server::serve;
pub use tls::{Tls, TlsConfig, TlsError, node_name};

use std::time::Duration;

use crate::types::{ClusterId, NodeId};

/// The version of the protocol that this binary speaks.
const PROTOCOL: u32 = 1;

/// Largest message that is sent or taken. An entry is far below; many of them are cut into pieces.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long one part of a snapshot may wait to be taken, or to come. A peer that is slower is stuck.
const PART_WAIT_MAX: Duration = Duration::from_secs(30);

/// Marks a status by which the peer says that it did nothing. Other statuses can come from anywhere.
const REFUSED: &str = "kontiki-refused";

/// A node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
}

#[cfg(test)]
pub(crate) mod authority;
#[cfg(test)]
mod tests;
