//! Whether this master serves, as the store's port tells it: `/livez`, `/readyz`, and etcd's `/health`.
//! The API's port has probes of its own (`http::health`), which ask more.
//!
//! Keeps: ready means that a read barrier succeeded just now: a quorum answered and this member has
//! applied all there is. Alive means that nothing has stopped for good, so that a restart would not help.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use kontiki_raft::Replica;
use kontiki_raft::replica::Role;
use serde_json::json;

/// How long a probe waits for a quorum. Probes themselves give up after a few seconds.
const BARRIER_WAIT_MAX: Duration = Duration::from_secs(2);

/// The Kubernetes release whose API is served.
pub const KUBERNETES: (&str, &str, &str) = ("1", "37", "0");

/// This master's health, for all who ask.
pub struct Health {
    replica: Replica,
    stopping: AtomicBool,
}

impl Health {
    #[must_use]
    pub fn new(replica: Replica) -> Arc<Health> {
        Arc::new(Health { replica, stopping: AtomicBool::new(false) })
    }

    /// From now on it is not ready: whoever balances load goes elsewhere.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Why requests would not be served now.
    pub async fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("this master is shutting down".into());
        }
        self.alive()?;
        match tokio::time::timeout(BARRIER_WAIT_MAX, self.replica.read_barrier()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("store: {error}")),
            Err(_) => Err("store: no quorum has answered".into()),
        }
    }

    /// Why this process serves nothing any more.
    pub fn alive(&self) -> Result<(), String> {
        match &self.replica.status().borrow().role {
            Role::Stopped(reason) => Err(format!("store: {reason}")),
            Role::Removed => Err("store: this member was removed from the cluster".into()),
            _ => Ok(()),
        }
    }

    /// The probes of the store's port.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/health", get(etcd_health))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(Arc::clone(self))
    }
}

async fn livez(State(health): State<Arc<Health>>) -> impl IntoResponse {
    told(health.alive())
}

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    told(health.ready().await)
}

fn told(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ok: {reason}\n")),
    }
}

async fn etcd_health(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match health.ready().await {
        Ok(()) => (StatusCode::OK, Json(json!({ "health": "true", "reason": "" }))),
        Err(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "health": "false", "reason": reason })))
        }
    }
}
