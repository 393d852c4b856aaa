//! The road on several members at once: whoever is asked, the answer is the cluster's.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, until};
use crate::bootstrap;
use crate::client::{Change, Client, DeleteOptions, PatchKind};
use crate::error::Reason;
use crate::request::Options;
use crate::server::{Config, Server};

/// A server on each of three members; nothing runs beside requests.
struct Cluster {
    bed: Bed,
    servers: Vec<Server>,
}

impl Cluster {
    async fn start() -> Cluster {
        let bed = Bed::of(3).await;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let server = |objects: &crate::objects::Objects| {
            let bootstrap = bootstrap::Config {
                service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
                client_ca: String::new(),
                front_proxy_ca: String::new(),
                server_ca: String::new(),
                server: "https://localhost".into(),
            };
            let config = Config::new(bootstrap, key.serialize_pem());
            Server::new(objects.replica().clone(), config, CancellationToken::new()).unwrap()
        };
        let servers = bed.members.iter().map(server).collect();
        let cluster = Cluster { bed, servers };
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1",
            "metadata": {"name": "default"}, "status": {"phase": "Active"}});
        cluster.bed.put("", "namespaces", &namespace).await;
        cluster
    }

    fn client(&self, member: usize) -> Client {
        self.servers[member].client("test")
    }
}

fn config_map(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.into());
    object.metadata.namespace = Some("default".into());
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_through_one_member_is_read_through_any() {
    let cluster = Cluster::start().await;
    for number in 0..6 {
        let (writer, reader) = (cluster.client(number % 3), cluster.client((number + 1) % 3));
        let created = writer.create(&config_map(&format!("c{number}"))).await.unwrap();
        let read = reader.get::<ConfigMap>("default", &format!("c{number}")).await.unwrap();
        assert_eq!(read, created);
        let list = reader.list::<ConfigMap>("default", Options::default()).await.unwrap();
        assert_eq!(list.items.len(), number + 1);
        let twice = reader.create(&config_map(&format!("c{number}"))).await.unwrap_err();
        assert!(twice.is(Reason::AlreadyExists));
    }
    let gone = cluster.client(1);
    gone.delete::<ConfigMap>("default", "c0", &DeleteOptions::default()).await.unwrap();
    let missing = cluster.client(2).get::<ConfigMap>("default", "c0").await.unwrap_err();
    assert!(missing.is(Reason::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_through_all_members_are_all_kept() {
    let cluster = Cluster::start().await;
    cluster.client(0).create(&config_map("shared")).await.unwrap();
    let writers = (0..3).map(|member| {
        let client = cluster.client(member);
        async move {
            for number in 0..5 {
                let patch = json!({"data": {format!("m{member}n{number}"): "x"}});
                client
                    .patch::<ConfigMap>("default", "shared", PatchKind::Merge, &patch, None)
                    .await
                    .unwrap();
            }
        }
    });
    join_all(writers).await;
    let shared = cluster.client(0).get::<ConfigMap>("default", "shared").await.unwrap();
    assert_eq!(shared.data.unwrap_or_default().len(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_one_of_many_that_create_the_same_succeeds() {
    let cluster = Cluster::start().await;
    let all = (0..9).map(|number| {
        let client = cluster.client(number % 3);
        async move { client.create(&config_map("one")).await }
    });
    let outcomes = join_all(all).await;
    assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 1);
    assert!(
        outcomes.iter().flat_map(|it| it.as_ref().err()).all(|it| it.is(Reason::AlreadyExists))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_member_from_where_it_stood() {
    let cluster = Cluster::start().await;
    let list = cluster.client(0).list::<ConfigMap>("default", Options::default()).await.unwrap();
    let mut from = list.resource_version;
    let mut seen = BTreeMap::new();
    for member in 0..3 {
        let options = Options { resource_version: Some(from.clone()), ..Options::default() };
        let client = cluster.client(member);
        let mut watch = client.watch::<ConfigMap>("default", options).await.unwrap().boxed();
        let writer = cluster.client((member + 2) % 3);
        for number in 0..4 {
            writer.create(&config_map(&format!("m{member}n{number}"))).await.unwrap();
        }
        // The last one is left for the next member to tell.
        for _ in 0..3 + usize::from(member > 0) {
            let Some(Ok(Change::Added(added))) = watch.next().await else {
                panic!("one was added")
            };
            from = added.metadata.resource_version.clone().unwrap();
            let name = added.metadata.name.unwrap();
            let revision: u64 = from.parse().unwrap();
            assert!(seen.insert(revision, name).is_none(), "each is told once");
        }
    }
    let names: Vec<_> = seen.into_values().collect();
    let expected: Vec<_> =
        (0..12).map(|number| format!("m{}n{}", number / 4, number % 4)).take(names.len()).collect();
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_waits_for_a_revision_that_another_has_told() {
    let cluster = Cluster::start().await;
    let created = cluster.client(0).create(&config_map("a")).await.unwrap();
    let version = created.metadata.resource_version.unwrap();
    for member in 0..3 {
        let options = Options { resource_version: Some(version.clone()), ..Options::default() };
        let list = cluster.client(member).list::<ConfigMap>("default", options).await.unwrap();
        assert_eq!(list.items.len(), 1);
    }
    let revision = version.parse().unwrap();
    until("every member has applied it", || {
        cluster.bed.members.iter().all(|it| it.revision().0 >= revision)
    })
    .await;
}
