//! The cluster's own certificates: three CAs, what they sign, and their renewal while masters run.
//!
//! ```text
//! DIR/pki/origin.json                 where this master comes from; written with the CAs, first of all
//! DIR/pki/peers.json                  where the others are, as last known
//! DIR/pki/cluster/{ca,server,admin}   who the API is, and who its clients are
//! DIR/pki/cluster/service-account.*   the key that signs service account tokens (ES256)
//! DIR/pki/peer/{ca,member}            masters among themselves
//! DIR/pki/store/{ca,server,client}    the etcd front and its operators
//! ```
//! Each has a `.crt` and a `.key`; `ca.crt` is a bundle.
//!
//! Keeps: three CAs, because being a node's, an operator's or a master's certificate must never be the
//! same thing. Keys are 0600. All of a directory's CAs appear at once, by one rename, so that a start
//! that was cut short never mixes two clusters.
//! Never: asks the system's roots; sends a key anywhere but to a joining master.

mod authority;
mod files;
mod identity;
mod kubeconfig;
mod leaf;
mod material;
mod origin;
mod own;
mod pin;
mod renewal;
pub mod rotation;

#[cfg(test)]
mod tests;

pub use authority::Credentials;
pub use files::{Readers, make_folder, read, replace};
pub use identity::{Identity, until_due};
pub use leaf::Hosts;
pub use material::{Material, Ports};
pub use origin::{Beginning, Origin, origin, read_peers, write_peers};
pub use own::tls_of_this_process;
pub use pin::{LiveTrust, Trust, client_config, server_name};
pub use renewal::{Renewal, now};

use std::path::PathBuf;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificate: {0}")]
    Signing(#[from] rcgen::Error),
    #[error("{0}")]
    Unusable(String),
    #[error("cannot {what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] kontiki_api::listener::TlsError),
    #[error(transparent)]
    PeerTls(#[from] kontiki_raft::network::grpc::TlsError),
}
