//! A whole API server in this process, in memory, for tests and for trying things out.
//!
//! It is reached by plain HTTP on loopback, and whoever comes is `system:admin`, unless they ask in another's
//! name. Never: anything but that; a master is built by its role.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kontiki_raft::log::{self, SimDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::Parts;
use kontiki_raft::storage::Options;
use kontiki_raft::storage::directory::{Directory, Expect, Identity};
use kontiki_raft::storage::engine::memory::MemoryFactory;
use kontiki_raft::{ClusterId, NodeId, Peer, Replica, replica};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::bootstrap;
use crate::client::Client;
use crate::error::Status;
use crate::request::User;
use crate::server::{Config, Server};

const CLUSTER: u64 = 0x5a;
const MEMBER: u64 = 1;
/// How long the server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// An API server that is gone when this is dropped.
pub struct Sandbox {
    pub server: Server,
    pub address: SocketAddr,
    replica: Replica,
    stop: CancellationToken,
    tasks: TaskTracker,
    directory: PathBuf,
}

/// Whoever comes may do everything.
struct Everybody;

impl Authenticator for Everybody {
    fn authenticate<'a>(
        &'a self,
        _request: &'a http::request::Parts,
    ) -> BoxFuture<'a, Result<Option<User>, Status>> {
        Box::pin(async {
            Ok(Some(User {
                name: "system:admin".into(),
                groups: vec!["system:masters".into(), "system:authenticated".into()],
                ..User::default()
            }))
        })
    }
}

impl Sandbox {
    /// A server that is ready.
    ///
    /// # Panics
    /// If it cannot be started: a test can do nothing about that.
    pub async fn start() -> Sandbox {
        Sandbox::with(|_| {}).await
    }

    /// The same with some settings changed.
    ///
    /// # Panics
    /// As [`Sandbox::start`].
    pub async fn with(change: impl FnOnce(&mut Config)) -> Sandbox {
        let name = format!("kontiki-sandbox-{}", uuid::Uuid::new_v4());
        let directory = std::env::temp_dir().join(name);
        let replica = member(&directory).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .expect("a key can be made")
            .serialize_pem();
        let services = ["10.43.0.0/16".parse().expect("a network")];
        let bootstrap = bootstrap::Config {
            service_cidrs: services.to_vec(),
            client_ca: String::new(),
            front_proxy_ca: String::new(),
            server_ca: String::new(),
            server: format!("http://{address}"),
        };
        let mut config = Config::new(bootstrap, key);
        config.authenticator = Some(Arc::new(Everybody));
        change(&mut config);
        let stop = CancellationToken::new();
        let server =
            Server::new(replica.clone(), config, stop.clone()).expect("the key was just made");
        let tasks = TaskTracker::new();
        let running = server.clone();
        tasks.spawn(async move { running.run().await });
        let (router, stopped) = (server.router(), stop.clone());
        tasks.spawn(async move {
            let serving = axum::serve(listener, router);
            let serving = serving.with_graceful_shutdown(stopped.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::error!(%error, "the sandbox serves no more");
            }
        });
        tokio::time::timeout(PATIENCE, server.ready()).await.expect("the server becomes ready");
        Sandbox { server, address, replica, stop, tasks, directory }
    }

    /// Everything may be done with it.
    #[must_use]
    pub fn client(&self) -> Client {
        self.server.client("sandbox")
    }

    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Of the API: `http://127.0.0.1:…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends in an orderly way.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.replica.shutdown().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
        // What cannot be removed now lies in the place for what may be removed.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A cluster of one, whose log and state are in memory.
async fn member(directory: &std::path::Path) -> Replica {
    let identity = Identity {
        cluster: CLUSTER,
        node: MEMBER,
        name: "sandbox".into(),
        release: "sandbox".into(),
    };
    let opened = Directory::open_or_create(directory, &Expect::default(), || identity);
    let network = Network::new(MEMBER);
    let parts = Parts {
        directory: Arc::new(opened.expect("the place for temporary files can be written to")),
        engine: Arc::new(MemoryFactory::new(MEMBER)),
        store: Options::default(),
        log_disk: Arc::new(SimDisk::new(MEMBER)),
        log: log::Options {
            segment_bytes: 4 << 20,
            zeros_written_ahead: false,
            ..log::Options::default()
        },
        transport: network.transport(ClusterId(CLUSTER), NodeId(MEMBER)),
        space: None,
    };
    let config = replica::Config {
        election_timeout_ms: (100, 200),
        heartbeat_ms: 20,
        ..replica::Config::default()
    };
    let replica = Replica::start(parts, config).await.expect("a member in memory starts");
    network.listen(NodeId(MEMBER), replica.inbound());
    let peer =
        Peer { name: "sandbox".into(), address: "sandbox:2380".into(), client_urls: Vec::new() };
    replica.bootstrap(peer).await.expect("a cluster of one is made");
    let ready = replica.wait(PATIENCE, |status| status.ready).await;
    ready.expect("a cluster of one has a leader");
    replica
}
