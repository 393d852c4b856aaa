//! Clusters in one process, each member with a port of its own for etcd's clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::Role;
use kontiki_raft::{NodeId, Peer, Replica};
use tokio::net::TcpListener;

use crate::bed::start;
use crate::etcd::{Config, router};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Member {
    pub(super) replica: Replica,
    pub(super) address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

pub(super) struct Bed {
    pub(super) network: Network,
    pub(super) members: Vec<Member>,
    /// Seconds since 1970, as the members are told.
    pub(super) clock: Arc<AtomicU64>,
    /// What a listener would say of every connection.
    shown: Option<crate::listener::Peer>,
    root: tempfile::TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(super) async fn single() -> Bed {
    Bed::of(1, |_| {}).await
}

impl Bed {
    pub(super) async fn of(size: u64, configure: impl Fn(&mut Config)) -> Bed {
        let mut bed = Bed::empty();
        for id in 1..=size {
            bed.add(id, &configure).await;
            bed.promote(id).await;
        }
        bed
    }

    /// A single member to which every client shows a certificate of this name.
    pub(super) async fn shown_certificates_of(name: &str) -> Bed {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let mut bed = Bed::empty();
        bed.shown = Some(crate::listener::Peer {
            certificates: vec![certificate].into(),
            address: ([127, 0, 0, 1], 1).into(),
        });
        bed.add(1, |_| {}).await;
        bed
    }

    fn empty() -> Bed {
        let root = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicU64::new(1_700_000_000));
        Bed { network: Network::new(7), members: Vec::new(), clock, shown: None, root }
    }

    /// Starts a member, which follows without a vote; the first is the cluster.
    pub(super) async fn add(&mut self, id: u64, configure: impl Fn(&mut Config)) {
        let replica = start(&self.network, &self.root.path().join(id.to_string()), id).await;
        self.network.listen(NodeId(id), replica.inbound());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock = self.clock.clone();
        let mut config = Config::new(Arc::new(move || clock.load(Ordering::Relaxed)));
        configure(&mut config);
        let mut router = router(replica.clone(), config);
        if let Some(shown) = &self.shown {
            router = router.layer(axum::Extension(shown.clone()));
        }
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let peer = Peer {
            name: format!("m{id}"),
            address: format!("10.0.0.{id}:2380"),
            client_urls: vec![format!("http://{address}")],
        };
        match self.members.first() {
            None => replica.bootstrap(peer).await.unwrap(),
            Some(first) => first.replica.add_learner(NodeId(id), peer).await.unwrap(),
        }
        replica.wait(PATIENCE, |status| status.ready).await.expect("ready");
        self.members.push(Member { replica, address, serving });
    }

    async fn promote(&self, id: u64) {
        if id > 1 {
            while let Err(error) = self.members[0].replica.promote(NodeId(id)).await {
                assert!(matches!(error, kontiki_raft::Error::Membership(_)), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let member = &self.members[id as usize - 1].replica;
        let votes = |status: &kontiki_raft::replica::Status| {
            matches!(status.role, Role::Leader | Role::Follower)
        };
        member.wait(PATIENCE, votes).await.expect("it votes");
    }

    /// Cuts a member off from all others.
    pub(super) fn isolate(&self, id: u64) {
        for other in (1..=self.members.len() as u64).filter(|other| *other != id) {
            self.network.cut(NodeId(id), NodeId(other));
        }
    }

    pub(super) async fn client(&self, member: usize) -> Client {
        self.client_with(member, ConnectOptions::new()).await.unwrap()
    }

    pub(super) async fn client_with(
        &self,
        member: usize,
        options: ConnectOptions,
    ) -> Result<Client, etcd_client::Error> {
        let address = self.members[member].address.to_string();
        Client::connect([address], Some(options)).await
    }

    pub(super) fn store(&self) -> &kontiki_storage::Store {
        self.members[0].replica.store()
    }
}

/// The words of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, etcd_client::Error>) -> String {
    match result.expect_err("refused") {
        etcd_client::Error::GRpcStatus(status) => {
            format!("{:?}: {}", status.code(), status.message())
        }
        other => panic!("another error: {other}"),
    }
}
