//! The front for masters, operators and those who want to join.
//!
//! [`join`] takes in masters and nodes that hold a token, [`operators`] is what `kontiki status`,
//! `member`, `token` and `snapshot` speak to. What has to be alike everywhere (tokens, ids, settings,
//! where masters are) lies in the replicated store below `/kontiki/`.
//!
//! Keeps: whoever joins proves by a token that it was invited; whoever operates proves by a certificate
//! that it may. An id is given once.
//! Never: puts a CA's key anywhere but into the answer to a master's token.

pub mod token;
pub mod wire;

mod archives;
mod join;
mod operators;
mod records;
mod snapshots;
mod status;

#[cfg(test)]
mod tests;

pub use archives::ArchiveRecord;
pub use records::Records;

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kontiki_raft::{NodeId, Replica};
use tokio::time::Instant;

use crate::listener::Peer;
use wire::{Authorities, Certificate, ClusterSettings, MasterRecord, Refusal, Trust};

/// What the binary lends to this front: keys and certificates are its affair.
pub trait Pki: Send + Sync + 'static {
    /// The CAs with their keys, for a master that joins.
    fn authorities(&self) -> Authorities;

    /// Signs a node's request under the name that was given, whatever the request says.
    fn sign_node(&self, name: &str, request_pem: &str) -> Result<String, String>;

    /// The CA by which the API proves itself, as a bundle.
    fn cluster_ca(&self) -> String;

    /// The fingerprint of the CA that signs: what a token pins.
    fn fingerprint(&self) -> [u8; 32];

    fn certificates(&self) -> Vec<Certificate>;

    /// Which CAs sign and which are believed, now.
    fn trust(&self) -> Vec<Trust>;

    /// Takes over the CAs as they lie on the disk. Says whether there was anything new.
    fn reload(&self) -> Result<bool, String>;

    /// Whether the chain shown at the API's port belongs to an administrator of the cluster.
    fn is_administrator(&self, peer: &Peer) -> bool;
}

/// What this front knows of the master it belongs to.
pub struct Front {
    pub replica: Replica,
    pub records: Records,
    pub pki: Arc<dyn Pki>,
    pub me: MasterRecord,
    /// How peers reach this master, also where the membership does not say so yet.
    pub peer: kontiki_raft::Peer,
    pub settings: ClusterSettings,
    pub archives: ArchiveRecord,
    pub started: Instant,
}

/// What a front is made of.
pub struct Parts {
    pub replica: Replica,
    pub pki: Arc<dyn Pki>,
    pub me: MasterRecord,
    pub peer: kontiki_raft::Peer,
    pub settings: ClusterSettings,
    /// No member id below it is given ([`Records::with_ids_from`]).
    pub ids_from: NodeId,
}

impl Front {
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Front> {
        let Parts { replica, pki, me, peer, settings, ids_from } = parts;
        Arc::new(Front {
            records: Records::new(replica.clone()).with_ids_from(ids_from),
            replica,
            pki,
            me,
            peer,
            settings,
            archives: ArchiveRecord::default(),
            started: Instant::now(),
        })
    }

    /// What belongs on the API's port: joining, and operating for administrators of the cluster.
    pub fn public(self: &Arc<Self>) -> axum::Router {
        let front = Arc::clone(self);
        let administrators = operators::router(self.clone()).layer(axum::middleware::from_fn(
            move |request, next| operators::administrators_only(Arc::clone(&front), request, next),
        ));
        join::router(self.clone()).merge(administrators)
    }

    /// What belongs on the store's port, which nobody enters without a certificate of the store's CA.
    pub fn private(self: &Arc<Self>) -> axum::Router {
        operators::router(self.clone())
    }
}

/// What a request came to, where it came to nothing.
#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    reason: String,
}

impl Error {
    fn new(status: StatusCode, reason: impl Into<String>) -> Error {
        Error { status, reason: reason.into() }
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl From<kontiki_raft::Error> for Error {
    fn from(error: kontiki_raft::Error) -> Error {
        use kontiki_raft::Error as Raft;
        let status = match &error {
            Raft::Store(_) | Raft::Membership(_) => StatusCode::CONFLICT,
            Raft::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Raft::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // Not known to have failed: the one code by which a caller must not repeat blindly.
            Raft::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
            Raft::NoLeader(_)
            | Raft::ReadTimeout(_)
            | Raft::Stopped(_)
            | Raft::Directory { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Error::new(status, error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(Refusal { error: self.reason })).into_response()
    }
}
