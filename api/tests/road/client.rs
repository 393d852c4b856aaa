//! The same road without a wire: what controllers and the scheduler hold.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kontiki_api::client::{Change, DeleteOptions, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::request::{Options, User};
use kontiki_api::sandbox::Sandbox;
use serde_json::json;

fn config_map(name: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.into());
    object.metadata.namespace = Some("default".into());
    object
}

#[tokio::test]
async fn a_client_in_the_process_meets_the_same_rules() {
    let sandbox = Sandbox::start().await;
    let client = sandbox.client();
    let created = client.create(&config_map("a")).await.unwrap();
    assert!(created.metadata.uid.is_some());
    let twice = client.create(&config_map("a")).await.unwrap_err();
    assert!(twice.is(Reason::AlreadyExists));
    let read: ConfigMap = client.get("default", "a").await.unwrap();
    assert_eq!(read, created);
    let mut changed = read.clone();
    changed.data = Some([("a".to_owned(), "1".to_owned())].into());
    let changed = client.update(&changed).await.unwrap();
    let stale = client.update(&read).await;
    assert_ne!(changed.metadata.resource_version, read.metadata.resource_version);
    assert!(stale.unwrap_err().is(Reason::Conflict));
    let patch = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"},
        "data": {"b": "2"}});
    let applied: ConfigMap =
        client.patch("default", "a", PatchKind::Apply, &patch, None).await.unwrap();
    assert_eq!(applied.data.unwrap().len(), 2);
    client.delete::<ConfigMap>("default", "a", &DeleteOptions::default()).await.unwrap();
    let gone = client.get::<ConfigMap>("default", "a").await.unwrap_err();
    assert!(gone.is(Reason::NotFound));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_client_lists_and_watches_on_from_there() {
    let sandbox = Sandbox::start().await;
    let client = sandbox.client();
    client.create(&config_map("a")).await.unwrap();
    let list = client.list::<ConfigMap>("default", Options::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let options = Options { resource_version: Some(list.resource_version), ..Options::default() };
    let mut watch = client.watch::<ConfigMap>("default", options).await.unwrap().boxed();
    client.create(&config_map("b")).await.unwrap();
    let Some(Ok(Change::Added(added))) = watch.next().await else { panic!("b was added") };
    assert_eq!(added.metadata.name.as_deref(), Some("b"));
    client.delete::<ConfigMap>("default", "b", &DeleteOptions::default()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(Change::Deleted(_)))));
    let state = Options {
        send_initial_events: Some(true),
        resource_version_match: Some("NotOlderThan".into()),
        allow_watch_bookmarks: true,
        ..Options::default()
    };
    let mut watch = client.watch::<ConfigMap>("default", state).await.unwrap().boxed();
    assert!(matches!(watch.next().await, Some(Ok(Change::Added(_)))));
    assert!(matches!(watch.next().await, Some(Ok(Change::Bookmark { initial: true, .. }))));
}

#[tokio::test]
async fn a_client_is_held_to_what_its_name_may() {
    let sandbox = Sandbox::start().await;
    let nobody = User { name: "nobody".into(), ..User::default() };
    let client = sandbox.server.road().client(nobody, "nobody");
    let refused = client.list::<Namespace>("", Options::default()).await.unwrap_err();
    assert!(refused.is(Reason::Forbidden));
    let served = sandbox.client().resources().await.unwrap();
    assert!(served.iter().any(|it| it.kind == "Pod" && it.namespaced && it.preferred));
}
