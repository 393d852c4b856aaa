//! The scheduler on a whole API in memory, over a connection that can be held up.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kontiki_api::Status;
use kontiki_api::client::Typed;
use kontiki_api::client::{Events, PatchKind, Served, Transport};
use kontiki_api::request::{Request, Verb};
use kontiki_api::sandbox::Sandbox;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::reconcile::events;

const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds up what is said of a pod's status, while it is told to.
struct HeldUp {
    client: Client,
    holds: watch::Receiver<bool>,
    /// How many are held up.
    held: Arc<watch::Sender<usize>>,
}

impl Transport for HeldUp {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<bytes::Bytes, Status>> {
        let (client, mut holds, held) =
            (self.client.clone(), self.holds.clone(), self.held.clone());
        Box::pin(async move {
            let says = request.verb == Verb::Patch && request.subresource.is_some();
            if says && *holds.borrow() {
                held.send_modify(|count| *count += 1);
                holds.wait_for(|holds| !holds).await.ok();
            }
            client.call(request).await
        })
    }

    fn watch(&self, request: Request) -> BoxFuture<'static, Result<Events, Status>> {
        let client = self.client.clone();
        Box::pin(async move { client.watch_raw(request).await })
    }

    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
        let client = self.client.clone();
        Box::pin(async move { client.resources().await })
    }
}

async fn create<K: Typed + ListableResource>(client: &Client, object: Value) {
    client.create::<K>(&serde_json::from_value(object).unwrap()).await.unwrap();
}

async fn until(client: &Client, name: &str, wanted: impl Fn(&Pod) -> bool) {
    let looked = async {
        while !wanted(&client.get::<Pod>(NAMESPACE, name).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("the pod comes to what is wanted");
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"at": name}},
        "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}}})
}

fn pod(name: &str, at: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"nodeSelector": {"at": at}, "containers": [{"name": "c", "image": "i:1",
            "resources": {"requests": {"cpu": "600m"}}}]}});
    let Value::Object(spec) = spec else { panic!("a spec is an object") };
    pod["spec"].as_object_mut().unwrap().extend(spec);
    pod
}

#[tokio::test]
async fn room_that_is_made_for_one_pod_holds_up_no_other() {
    let sandbox = Sandbox::start().await;
    let client = sandbox.client();
    let account = json!({"metadata": {"name": "default", "namespace": NAMESPACE}});
    create::<ServiceAccount>(&client, account).await;
    let class = json!({"metadata": {"name": "mighty"}, "value": 1000});
    create::<PriorityClass>(&client, class).await;
    for name in ["a", "b"] {
        create::<Node>(&client, node(name)).await;
        // A new one is tainted until somebody says that it is ready.
        let open = json!({"spec": {"taints": null}});
        client.patch::<Node>("", name, PatchKind::Merge, &open, None).await.unwrap();
    }
    create::<Pod>(&client, pod("low", "a", json!({"nodeName": "a"}))).await;

    let (hold, holds) = watch::channel(true);
    let held = Arc::new(watch::Sender::new(0));
    let transport = HeldUp { client: client.clone(), holds, held: held.clone() };
    let through = Client::new(Arc::new(transport), "scheduler");
    let (stop, informers) = (CancellationToken::new(), Informers::new(through.clone()));
    let (recorder, _writer) = events::recorder(client.clone(), Clock::System);
    let context = Context {
        client: through,
        informers: informers.clone(),
        recorder,
        clock: Clock::System,
        metrics: Metrics::new(&mut Registry::default()),
    };
    let scheduling = tokio::spawn(start(context, stop.clone()));
    let informing = tokio::spawn({
        let stop = stop.clone();
        async move { informers.run(stop).await }
    });

    create::<Pod>(&client, pod("high", "a", json!({"priorityClassName": "mighty"}))).await;
    let mut count = held.subscribe();
    tokio::time::timeout(PATIENCE, count.wait_for(|count| *count > 0)).await.unwrap().unwrap();
    create::<Pod>(&client, pod("other", "b", json!({}))).await;
    let has_node = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    until(&client, "other", has_node).await;
    let low = client.get::<Pod>(NAMESPACE, "low").await.unwrap();
    assert_eq!(low.metadata.deletion_timestamp, None, "nobody goes before it is said why");

    hold.send_replace(false);
    until(&client, "low", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    until(&client, "high", |pod| nominated(pod) == Some("a")).await;
    stop.cancel();
    scheduling.await.unwrap();
    informing.await.unwrap();
    sandbox.stop().await;
}
