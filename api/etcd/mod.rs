//! The front for etcd's clients: the v3 gRPC services and their JSON gateway, over the keys as they are.
//!
//! [`router`] makes one port of it. Each service is a file: [`kv`], [`watch`], [`lease`], [`cluster`],
//! [`maintenance`], [`auth`], [`lock`], [`election`]; [`front`] is what they share, [`translate`] and
//! [`status`] the two tables between etcd's words and ours. What is the same as in etcd, and what is
//! not, stands in `docs/compat.md`.
//!
//! Keeps: what a client sees is what etcd would have shown it, to the code and the words of a refusal.
//! Never: knows what the keys mean to others in the house.

mod auth;
mod calls;
mod cluster;
mod codec;
mod control;
mod election;
mod front;
mod gateway;
mod health;
mod keys;
mod kv;
mod leaderless;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod oversized;
mod queue;
mod snapshot;
mod status;
mod translate;
mod watch;
pub mod wire;

use std::time::Duration;

use axum::Router;
use kontiki_raft::Replica;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

pub use auth::{Clock, Jwt, TokenKind};
pub use snapshot::saved;

use auth::service::AuthService;
use cluster::ClusterService;
use election::ElectionService;
use front::Front;
use kv::KvService;
use lease::LeaseService;
use lock::LockService;
use maintenance::MaintenanceService;
use watch::WatchService;
use wire::etcdserverpb as pb;
use wire::{v3electionpb, v3lockpb};

/// The level of etcd's API that is served. Clients choose by it what they may ask for: Kubernetes asks
/// for progress from 3.5.13 on, for streamed ranges only from those that have them.
pub const VERSION: &str = "3.6.16";

/// What a message may weigh beyond the request in it, as in etcd.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

#[derive(Clone)]
pub struct Config {
    /// Most bytes of a request; the replica's own bound should be the same.
    pub request_bytes_max: usize,
    /// Beyond it nothing is added until the alarm is taken back; `None` for as much as the disk holds.
    pub quota_bytes: Option<u64>,
    /// How often a watch that wants it is told how far it is.
    pub progress_interval: Duration,
    pub watches_per_stream_max: usize,
    /// How long a stream that wants a leader goes on without one.
    pub leaderless_for: Duration,
    pub tokens: TokenKind,
    pub clock: Clock,
}

impl Config {
    /// etcd's own settings.
    #[must_use]
    pub fn new(clock: Clock) -> Config {
        Config {
            request_bytes_max: 3 << 19,
            quota_bytes: None,
            progress_interval: Duration::from_secs(600),
            watches_per_stream_max: 100_000,
            leaderless_for: Duration::from_secs(3),
            tokens: TokenKind::Simple { ttl_s: 300 },
            clock,
        }
    }

    fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + MESSAGE_OVERHEAD_BYTES
    }
}

/// Everything on one port. It has no tasks of its own: what it does, it does for a request.
pub fn router(replica: Replica, config: Config) -> Router {
    let front = Front::new(replica, config);
    let bytes_max = front.config().message_bytes_max();
    macro_rules! service {
        ($server:path, $service:expr) => {
            <$server>::new($service)
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX)
        };
    }
    macro_rules! described {
        ($build:ident) => {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .$build()
                .expect("the build script made them")
        };
    }
    let grpc = Routes::new(service!(pb::kv_server::KvServer<_>, KvService(front.clone())))
        .add_service(service!(pb::watch_server::WatchServer<_>, WatchService(front.clone())))
        .add_service(service!(pb::lease_server::LeaseServer<_>, LeaseService(front.clone())))
        .add_service(service!(pb::cluster_server::ClusterServer<_>, ClusterService(front.clone())))
        .add_service(service!(
            pb::maintenance_server::MaintenanceServer<_>,
            MaintenanceService(front.clone())
        ))
        .add_service(service!(pb::auth_server::AuthServer<_>, AuthService(front.clone())))
        .add_service(service!(v3lockpb::lock_server::LockServer<_>, LockService(front.clone())))
        .add_service(service!(
            v3electionpb::election_server::ElectionServer<_>,
            ElectionService(front.clone())
        ))
        .add_service(HealthServer::new(HealthService::from_health_reporter(HealthReporter::new())))
        .add_service(described!(build_v1))
        .add_service(described!(build_v1alpha))
        .into_axum_router()
        .layer(axum::middleware::from_fn_with_state(front.clone(), calls::count));
    gateway::routes(grpc.clone(), bytes_max).merge(health::routes(front)).fallback_service(grpc)
}

#[cfg(test)]
mod tests;
