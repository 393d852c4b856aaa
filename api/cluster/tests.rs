//! Records and joining on a replica of one, in memory; the rest is seen by the processes of `tests/it`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use kontiki_raft::log::{self, FlusherMode, SimDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::{Config, Parts};
use kontiki_raft::storage::Options;
use kontiki_raft::storage::directory::{Directory, Expect, Identity};
use kontiki_raft::storage::engine::rocks::RocksFactory;
use kontiki_raft::storage::request::{KeyRange, Range};
use kontiki_raft::storage::revision::Revision;
use kontiki_raft::{ClusterId, NodeId, Peer, Replica};
use serde::Serialize;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::token::Token;
use super::wire::{
    Authorities, Authority, Certificate, ClusterSettings, JoinMaster, JoinNode, MasterRecord,
    PREFIX, Role, TokenRequest, Trust,
};
use super::{Front, Pki, Records};
use crate::listener;

const CLUSTER: ClusterId = ClusterId(7);

/// Certificates that nobody looks at.
struct NoPki;

impl Pki for NoPki {
    fn authorities(&self) -> Authorities {
        let none = || Authority { bundle: "a CA".into(), key: "its key".into() };
        Authorities {
            cluster: none(),
            peer: none(),
            store: none(),
            service_account_key: "a key".into(),
        }
    }

    fn sign_node(&self, name: &str, _request_pem: &str) -> Result<String, String> {
        Ok(format!("a certificate for {name}"))
    }

    fn cluster_ca(&self) -> String {
        "a CA".into()
    }

    fn fingerprint(&self) -> [u8; 32] {
        [7; 32]
    }

    fn certificates(&self) -> Vec<Certificate> {
        Vec::new()
    }

    fn trust(&self) -> Vec<Trust> {
        Vec::new()
    }

    fn reload(&self) -> Result<bool, String> {
        Ok(false)
    }

    fn is_administrator(&self, _peer: &listener::Peer) -> bool {
        false
    }
}

struct Bed {
    front: Arc<Front>,
    _network: Network,
    _folder: TempDir,
}

fn settings() -> ClusterSettings {
    ClusterSettings { service_cidr: "10.43.0.0/16".into(), cluster_cidr: "10.42.0.0/16".into() }
}

async fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity { cluster: CLUSTER.0, node: 1, name: "m1".into(), release: "t".into() };
    let path = folder.path().join("data");
    let directory = Directory::open_or_create(&path, &Expect::default(), || identity).unwrap();
    let network = Network::new(1);
    let parts = Parts {
        directory: Arc::new(directory),
        engine: Arc::new(RocksFactory::default()),
        store: Options::default(),
        log_disk: Arc::new(SimDisk::new(1)),
        log: log::Options {
            segment_bytes: 4 << 20,
            flusher: FlusherMode::Inline,
            zeros_written_ahead: false,
            ..log::Options::default()
        },
        transport: network.transport(CLUSTER, NodeId(1)),
        space: None,
    };
    let replica = Replica::start(parts, Config::default()).await.unwrap();
    let peer = Peer { name: "m1".into(), address: "10.0.0.1:2380".into(), client_urls: vec![] };
    replica.bootstrap(peer).await.unwrap();
    Records::new(replica.clone()).found(&settings(), NodeId(1)).await.unwrap();
    let me = MasterRecord {
        id: "1".into(),
        name: "m1".into(),
        api: "https://10.0.0.1:6443".into(),
        release: "t".into(),
    };
    let parts = super::Parts {
        replica,
        pki: Arc::new(NoPki),
        me,
        peer: Peer { name: "m1".into(), address: "10.0.0.1:2380".into(), client_urls: vec![] },
        settings: settings(),
        ids_from: NodeId(0),
    };
    let front = Front::new(parts);
    Bed { front, _network: network, _folder: folder }
}

impl Bed {
    async fn token(&self, role: Role, uses: Option<u64>) -> Token {
        let token = Token::new([7; 32], rand::random());
        let request = TokenRequest { role, ttl_s: 3600, uses };
        self.front.records.add_token(&token.id, token.hash(), &request).await.unwrap();
        token
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&Token>,
        body: &impl Serialize,
    ) -> (StatusCode, String) {
        let mut request = Request::post(format!("{PREFIX}{path}"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token.bearer());
        }
        let request = request.body(Body::from(serde_json::to_vec(body).unwrap())).unwrap();
        let answer = self.front.public().oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

fn joiner(name: &str) -> JoinMaster {
    let peer_address = format!("{name}.test:2380");
    JoinMaster { name: name.into(), peer_address, release: "t".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_given_once_however_many_ask_at_once() {
    let bed = bed().await;
    let asked = (0..12).map(|_| bed.front.records.next_node());
    let mut given: Vec<u64> =
        futures::future::join_all(asked).await.into_iter().map(|id| id.unwrap().0).collect();
    given.sort_unstable();
    assert_eq!(given, (2..14).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_may_have_been_given_unseen_are_passed_over() {
    let bed = bed().await;
    let records = Records::new(bed.front.replica.clone()).with_ids_from(NodeId(1000));
    assert_eq!(records.next_node().await.unwrap(), NodeId(1000));
    // Those who know nothing of it go on from there.
    assert_eq!(bed.front.records.next_node().await.unwrap(), NodeId(1001));
    assert_eq!(Records::next_node_in(bed.front.replica.store()).unwrap(), Some(NodeId(1002)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_of_a_token_is_counted_once_however_many_try_at_once() {
    let bed = bed().await;
    let token = bed.token(Role::Master, Some(3)).await;
    let tries = (0..8).map(|_| bed.front.records.use_token(&token.id, &token.secret, Role::Master));
    let tries = futures::future::join_all(tries).await;
    assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert_eq!(bed.front.records.tokens().await.unwrap()[0].uses_left, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_never_holds_a_secret() {
    let bed = bed().await;
    let token = bed.token(Role::Node, None).await;
    let range = Range::new(KeyRange::all());
    let (all, _) = bed.front.replica.store().range(&range).unwrap();
    let all: Vec<String> =
        all.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).collect();
    assert!(all.iter().any(|value| value.contains(&token.hash())), "{all:?}");
    assert!(!all.iter().any(|value| value.contains(&token.secret)), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_no_token_of_the_role_gets_nothing() {
    let bed = bed().await;
    let node = bed.token(Role::Node, None).await;
    let unknown = Token::new([7; 32], rand::random());
    for token in [None, Some(&node), Some(&unknown)] {
        let (status, said) = bed.post("/join/master", token, &joiner("m2")).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{said}");
        assert!(!said.contains("key"), "{said}");
    }
    // Nobody was counted in.
    assert_eq!(bed.front.records.next_node().await.unwrap(), NodeId(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_is_given_what_it_needs_and_a_taken_name_costs_no_use() {
    let bed = bed().await;
    let token = bed.token(Role::Master, Some(1)).await;
    let (status, said) = bed.post("/join/master", Some(&token), &joiner("m1")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let (status, said) = bed.post("/join/master", Some(&token), &joiner("m2")).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let joined: super::wire::MasterJoined = serde_json::from_str(&said).unwrap();
    assert_eq!((&*joined.cluster, &*joined.node), ("7", "2"));
    assert_eq!(joined.members[0].address, "10.0.0.1:2380");
    assert_eq!(joined.settings, settings());
    assert_eq!(joined.authorities.peer.key, "its key");
    // It has been told, not taken in: that is asked for at the peers' port.
    assert_eq!(bed.front.replica.members().len(), 1);
    let (status, _) = bed.post("/join/master", Some(&token), &joiner("m3")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

/// It was restored with another address, and has not told anybody yet.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_is_told_where_this_master_is_whatever_the_membership_says() {
    let bed = bed().await;
    let stale = Peer { name: "m1".into(), address: "192.0.2.2:2380".into(), client_urls: vec![] };
    bed.front.replica.update(NodeId(1), stale).await.unwrap();
    let token = bed.token(Role::Master, None).await;
    let (status, said) = bed.post("/join/master", Some(&token), &joiner("m2")).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    let joined: super::wire::MasterJoined = serde_json::from_str(&said).unwrap();
    let addresses: Vec<&str> = joined.members.iter().map(|it| &*it.address).collect();
    assert_eq!(addresses, ["10.0.0.1:2380"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_given_its_certificate_and_no_key() {
    let bed = bed().await;
    bed.front.records.enter_master(&bed.front.me).await.unwrap();
    let token = bed.token(Role::Node, None).await;
    let node = |name: &str| JoinNode { name: name.into(), request: "a request".into() };
    let (status, said) = bed.post("/join/node", Some(&token), &node("edge-1")).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert!(said.contains("a certificate for edge-1"), "{said}");
    assert!(said.contains("https://10.0.0.1:6443") && !said.contains("key"), "{said}");
    let (status, said) = bed.post("/join/node", Some(&token), &node("Not A Name")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_become_the_certificate_of_a_node_that_is_there() {
    let bed = bed().await;
    let token = bed.token(Role::Node, Some(1)).await;
    let nodes = crate::live::stored("", "nodes", "v1", "Node");
    let objects = crate::objects::Objects::new(bed.front.replica.clone());
    let node = serde_json::json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "edge-1"}});
    let there = objects.put(&nodes, "", "edge-1", &node, Revision::ZERO).await.unwrap();
    let asked = JoinNode { name: "edge-1".into(), request: "a request".into() };
    let (status, said) = bed.post("/join/node", Some(&token), &asked).await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    assert!(said.contains("kubectl delete node edge-1"), "{said}");
    // No use of the token was counted for it.
    objects.delete(&nodes, "", "edge-1", there.revision()).await.unwrap();
    let (status, said) = bed.post("/join/node", Some(&token), &asked).await;
    assert_eq!(status, StatusCode::OK, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_routes_are_closed_to_those_who_are_none() {
    let bed = bed().await;
    let request = TokenRequest { role: Role::Master, ttl_s: 60, uses: None };
    let (status, said) = bed.post("/tokens", None, &request).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{said}");
    assert!(bed.front.records.tokens().await.unwrap().is_empty());
}
