//! kube-rs: typed calls, apply, a reflector's watch, and an object that is waited for.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};

use crate::support::{Cluster, PATIENCE};

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some([("a".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn kube_rs_works() {
    let cluster = Cluster::of_one().await;
    let file = Kubeconfig::read_from(cluster.masters[0].directory.join("kubeconfig")).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    assert_eq!(client.apiserver_version().await.unwrap().minor, "37");

    let namespace = Namespace {
        metadata: ObjectMeta { name: Some("rust".into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "rust");
    maps.create(&PostParams::default(), &map("one", "1")).await.unwrap();
    let refused = maps.create(&PostParams::default(), &map("one", "1")).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.is_already_exists()),
        "{refused}"
    );
    assert!(maps.get_opt("none").await.unwrap().is_none());

    let apply = PatchParams::apply("rust");
    let applied = maps.patch("one", &apply, &Patch::Apply(map("one", "1"))).await.unwrap();
    let owners = applied.metadata.managed_fields.unwrap();
    assert!(owners.iter().any(|it| it.manager.as_deref() == Some("rust")), "{owners:?}");

    let list = maps.list(&ListParams::default().fields("metadata.name=one")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let from = list.metadata.resource_version.unwrap();
    let only = watcher::Config::default().fields("metadata.name=one");
    let mut reflected = Box::pin(watcher(maps.clone(), only.clone()).applied_objects());
    let streamed = only.streaming_lists();
    let mut streamed = Box::pin(watcher(maps.clone(), streamed).applied_objects());
    for stream in [&mut reflected, &mut streamed] {
        let first = tokio::time::timeout(PATIENCE, stream.try_next()).await.unwrap();
        assert_eq!(first.unwrap().unwrap().data.unwrap()["a"], "1");
    }
    let merge = Patch::Merge(serde_json::json!({"data": {"a": "2"}}));
    maps.patch("one", &PatchParams::default(), &merge).await.unwrap();
    for stream in [&mut reflected, &mut streamed] {
        let next = tokio::time::timeout(PATIENCE, stream.try_next()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().data.unwrap()["a"], "2");
    }

    maps.delete("one", &DeleteParams::default()).await.unwrap();
    let parameters = kube::api::WatchParams::default().fields("metadata.name=one").timeout(30);
    let mut events = maps.watch(&parameters, &from).await.unwrap().boxed();
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await.unwrap();
        told.push(match event.unwrap().expect("the watch goes on") {
            WatchEvent::Added(it) => format!("added {}", it.data.unwrap()["a"]),
            WatchEvent::Modified(it) => format!("modified {}", it.data.unwrap()["a"]),
            WatchEvent::Deleted(it) => format!("deleted {}", it.data.unwrap()["a"]),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(told, ["modified 2", "deleted 2"]);
}
