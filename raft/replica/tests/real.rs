//! Members as they are in production: RocksDB, a log in files with its threads, TLS over sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_storage::Options;
use kontiki_storage::directory::{Directory, Expect, Identity as Owner};
use kontiki_storage::engine::rocks::{self, RocksFactory};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::log::{self, RealDisk};
use crate::network::grpc::{GrpcTransport, Identity, Tls, TlsConfig, serve};
use crate::network::{Transport, memory::Network};
use crate::replica::{Config, Parts, Replica};
use crate::types::{ClusterId, NodeId, Peer};

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

/// Waited for on a machine that may be busy; nothing is concluded from how long it took.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Small files and little kept, so that segments end, syncs happen and the log is purged.
pub(super) fn small() -> Config {
    Config {
        flush_interval: Duration::from_millis(100),
        log_entries_kept: 200,
        ..Config::default()
    }
}

pub(super) fn identity(id: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(id) }
}

pub(super) fn directory(path: &Path, id: u64) -> Directory {
    let owner =
        || Owner { cluster: CLUSTER.0, node: id, name: format!("m{id}"), release: "test".into() };
    Directory::open_or_create(path, &Expect::default(), owner).unwrap()
}

pub(super) fn parts(
    directory: Arc<Directory>,
    transport: Arc<dyn Transport>,
    config: &Config,
) -> Parts {
    let engine =
        RocksFactory(rocks::Options { write_buffer_bytes: 4 << 20, ..rocks::Options::default() });
    Parts {
        log_disk: Arc::new(RealDisk::new(directory.log()).unwrap()),
        directory,
        engine: Arc::new(engine),
        store: Options::default(),
        log: log::Options {
            segment_bytes: 2 * config.entry_bytes_max() as u64,
            zeros_written_ahead: false,
            ..log::Options::default()
        },
        transport,
        space: None,
    }
}

/// A member that speaks to nobody.
pub(super) async fn alone(path: &Path, config: Config) -> Result<Replica, Error> {
    let transport = Network::new(0).transport(CLUSTER, NodeId(1));
    Replica::start(parts(Arc::new(directory(path, 1)), transport, &config), config).await
}

/// A member with its peer port.
pub(super) struct Member {
    pub(super) replica: Replica,
    pub(super) peer: Peer,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// What a member is started from, again and again.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) tls: TlsConfig,
}

impl Place {
    pub(super) fn peer(&self) -> Peer {
        Peer {
            name: format!("m{}", self.id),
            address: self.address.to_string(),
            client_urls: vec![],
        }
    }

    pub(super) async fn start(&self, config: Config) -> Member {
        let us = identity(self.id);
        let listener = TcpListener::bind(self.address).await.unwrap();
        let tls = Tls::new(&self.tls).unwrap();
        let transport = GrpcTransport::new(us, Arc::clone(&tls));
        let directory = Arc::new(directory(&self.path, self.id));
        let parts = parts(directory, transport, &config);
        let replica = Replica::start(parts, config).await.unwrap();
        let stop = CancellationToken::new();
        let told = stop.clone().cancelled_owned();
        let serving = tokio::spawn(serve(listener, us, tls, replica.inbound(), told));
        Member { replica, peer: self.peer(), stop, serving }
    }
}

impl Member {
    /// Ends at once; what was under way is broken off.
    pub(super) async fn kill(self) {
        self.replica.kill().await;
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// A port on the loopback that nobody else has at the moment.
pub(super) async fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap()
}
