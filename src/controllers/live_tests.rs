//! All loops together, on a whole API in this process: what people see of them.

use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kontiki_api::client::{Client, DeleteOptions, PatchKind, Typed};
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use kontiki_api::request::Options;
use kontiki_api::sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Context, Selection, Settings, run_all};
use crate::reconcile::{Informers, Metrics, events};

const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    sandbox: Sandbox,
    client: Client,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Bed {
    async fn start() -> Bed {
        let sandbox = Sandbox::start().await;
        let client = sandbox.client();
        let stop = CancellationToken::new();
        let (recorder, _) = events::recorder(client.clone(), Clock::System);
        let settings = Settings {
            root_ca: "the CA".into(),
            cluster_cidr: "10.42.0.0/16".into(),
            node_prefix_length: 24,
            ..Settings::default()
        };
        let context = Context {
            client: client.clone(),
            informers: Informers::new(client.clone()),
            recorder,
            metrics: Metrics::new(&mut prometheus_client::registry::Registry::default()),
            clock: Clock::System,
            settings,
        };
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { run_all(context, &Selection::default(), stop).await }
        });
        let bed = Bed { sandbox, client, stop, running };
        bed.becomes::<k8s_openapi::api::core::v1::ServiceAccount>("default", "default", |_| true)
            .await;
        bed
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
        self.sandbox.stop().await;
    }

    async fn create<K: Typed + ListableResource>(&self, namespace: &str, value: Value) -> K {
        let mut object: K = serde_json::from_value(value).unwrap();
        object.metadata_mut().namespace = Some(namespace.to_owned()).filter(|it| !it.is_empty());
        self.client.create(&object).await.unwrap()
    }

    async fn delete<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        policy: &'static str,
    ) {
        let options =
            DeleteOptions { propagation_policy: Some(policy), ..DeleteOptions::default() };
        self.client.delete::<K>(namespace, name, &options).await.unwrap();
    }

    async fn find<K: Typed + ListableResource>(&self, namespace: &str, name: &str) -> Option<K> {
        match self.client.get(namespace, name).await {
            Ok(object) => Some(object),
            Err(status) if status.is(Reason::NotFound) => None,
            Err(status) => panic!("{status}"),
        }
    }

    async fn becomes<K: Typed + ListableResource>(
        &self,
        namespace: &str,
        name: &str,
        is: impl Fn(&K) -> bool,
    ) -> K {
        let waiting = async {
            loop {
                if let Some(found) = self.find(namespace, name).await.filter(|it| is(it)) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => {
                let found = self.find::<K>(namespace, name).await;
                let found = found.map(|it| serde_json::to_string_pretty(&it).unwrap());
                panic!("{namespace}/{name} did not become as expected: {found:?}");
            }
        }
    }

    async fn goes<K: Typed + ListableResource>(&self, namespace: &str, name: &str) {
        let waiting = async {
            while self.find::<K>(namespace, name).await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            let found = self.find::<K>(namespace, name).await;
            let found = found.map(|it| serde_json::to_string_pretty(&it).unwrap());
            panic!("{namespace}/{name} is still there: {found:?}");
        }
    }

    async fn owned(&self, name: &str, owner: &ConfigMap, blocks: bool) -> ConfigMap {
        self.create(
            "default",
            json!({"metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1",
                "kind": "ConfigMap", "name": owner.metadata.name, "uid": owner.metadata.uid,
                "blockOwnerDeletion": blocks}]}}),
        )
        .await
    }

    async fn pod_on_node(&self, name: &str, ip: &str) -> Pod {
        let pod: Pod = self
            .create(
                "default",
                json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
                    "nodeName": "n1", "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "i"}]}}),
            )
            .await;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let kind = PatchKind::Merge;
        self.client.patch::<Pod>("default", name, kind, &status, Some("status")).await.unwrap();
        pod
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_everything_in_it() {
    let bed = Bed::start().await;
    bed.create::<Namespace>("", json!({"metadata": {"name": "shop"}})).await;
    bed.becomes::<ConfigMap>("shop", "kube-root-ca.crt", |_| true).await;
    bed.create::<ConfigMap>(
        "shop",
        json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}}),
    )
    .await;
    bed.delete::<Namespace>("", "shop", "Background").await;
    bed.becomes::<Namespace>("", "shop", |namespace| {
        let conditions = namespace.status.iter().flat_map(|it| it.conditions.iter().flatten());
        conditions.filter(|it| it.status == "True").any(|it| {
            it.type_ == "NamespaceFinalizersRemaining"
                && it.message.as_deref().is_some_and(|it| it.contains("example.com/hold in 1"))
        })
    })
    .await;
    let free = json!({"metadata": {"finalizers": null}});
    bed.client.patch::<ConfigMap>("shop", "held", PatchKind::Merge, &free, None).await.unwrap();
    bed.goes::<Namespace>("", "shop").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_follow_their_owner_as_the_policy_says() {
    let bed = Bed::start().await;
    let owner = |name: &str| json!({"metadata": {"name": name}});

    let background = bed.create::<ConfigMap>("default", owner("background")).await;
    let child = bed.owned("child", &background, true).await;
    bed.owned("grandchild", &child, true).await;
    bed.delete::<ConfigMap>("default", "background", "Background").await;
    bed.goes::<ConfigMap>("default", "child").await;
    bed.goes::<ConfigMap>("default", "grandchild").await;

    let orphaning = bed.create::<ConfigMap>("default", owner("orphaning")).await;
    bed.owned("orphan", &orphaning, true).await;
    bed.delete::<ConfigMap>("default", "orphaning", "Orphan").await;
    bed.goes::<ConfigMap>("default", "orphaning").await;
    let orphan = bed.find::<ConfigMap>("default", "orphan").await.unwrap();
    assert_eq!(orphan.metadata.owner_references.unwrap_or_default(), []);

    let foreground = bed.create::<ConfigMap>("default", owner("foreground")).await;
    bed.owned("blocking", &foreground, true).await;
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    bed.client
        .patch::<ConfigMap>("default", "blocking", PatchKind::Merge, &held, None)
        .await
        .unwrap();
    bed.delete::<ConfigMap>("default", "foreground", "Foreground").await;
    bed.becomes::<ConfigMap>("default", "blocking", |it| it.metadata.deletion_timestamp.is_some())
        .await;
    assert!(bed.find::<ConfigMap>("default", "foreground").await.is_some(), "it waits");
    let free = json!({"metadata": {"finalizers": null}});
    bed.client
        .patch::<ConfigMap>("default", "blocking", PatchKind::Merge, &free, None)
        .await
        .unwrap();
    bed.goes::<ConfigMap>("default", "foreground").await;

    let absent = json!({"metadata": {"name": "lost", "ownerReferences": [{"apiVersion": "v1",
        "kind": "ConfigMap", "name": "never", "uid": "00000000-0000-0000-0000-000000000000"}]}});
    bed.create::<ConfigMap>("default", absent).await;
    bed.goes::<ConfigMap>("default", "lost").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_budgets_and_nodes_show_what_there_is() {
    let bed = Bed::start().await;
    bed.create::<Node>(
        "",
        json!({"metadata": {"name": "n1", "labels":
        {"topology.kubernetes.io/zone": "east"}}}),
    )
    .await;
    bed.becomes::<Node>("", "n1", |node| {
        node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()) == Some("10.42.0.0/24")
    })
    .await;
    bed.create::<Service>(
        "default",
        json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    )
    .await;
    bed.create::<PodDisruptionBudget>(
        "default",
        json!({"metadata": {"name": "web"}, "spec": {
        "minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
    )
    .await;
    bed.pod_on_node("a", "10.42.0.5").await;
    bed.pod_on_node("b", "10.42.0.6").await;
    bed.becomes::<Endpoints>("default", "web", |it| {
        it.subsets.as_deref().unwrap_or_default().iter().any(|subset| {
            subset.addresses.as_ref().is_some_and(|it| it.len() == 2)
                && subset.ports.as_ref().is_some_and(|it| it[0].port == 8080)
        })
    })
    .await;
    bed.becomes::<PodDisruptionBudget>("default", "web", |it| {
        it.status.as_ref().is_some_and(|status| {
            status.disruptions_allowed == Some(1) && status.expected_pods == Some(2)
        })
    })
    .await;
    let waiting = async {
        loop {
            let options = Options {
                label_selector: Some("kubernetes.io/service-name=web".into()),
                ..Options::default()
            };
            let slices = bed.client.list::<EndpointSlice>("default", options).await.unwrap().items;
            let endpoints = slices.iter().flat_map(|it| it.endpoints.iter().flatten());
            let zones: Vec<_> = endpoints.filter_map(|it| it.zone.as_deref()).collect();
            if zones == ["east", "east"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the slices show both pods");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_given_back_and_claims_are_held() {
    let bed = Bed::start().await;
    let used = |wanted: &'static str| {
        move |quota: &ResourceQuota| {
            let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
            used.and_then(|used| used.get("count/configmaps")).is_some_and(|it| it.0 == wanted)
        }
    };
    bed.create::<Namespace>("", json!({"metadata": {"name": "shop"}})).await;
    bed.becomes::<ConfigMap>("shop", "kube-root-ca.crt", |_| true).await;
    bed.create::<ResourceQuota>(
        "shop",
        json!({"metadata": {"name": "q"}, "spec":
        {"hard": {"count/configmaps": "3"}}}),
    )
    .await;
    bed.becomes::<ResourceQuota>("shop", "q", used("1")).await;
    bed.create::<ConfigMap>("shop", json!({"metadata": {"name": "a"}})).await;
    bed.becomes::<ResourceQuota>("shop", "q", used("2")).await;
    bed.delete::<ConfigMap>("shop", "a", "Background").await;
    bed.becomes::<ResourceQuota>("shop", "q", used("1")).await;

    bed.create::<PersistentVolumeClaim>(
        "shop",
        json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    bed.becomes::<PersistentVolumeClaim>("shop", "data", |it| {
        it.metadata.finalizers.iter().flatten().any(|it| it == "kubernetes.io/pvc-protection")
    })
    .await;
    bed.delete::<PersistentVolumeClaim>("shop", "data", "Background").await;
    bed.goes::<PersistentVolumeClaim>("shop", "data").await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_of_volume_attributes_stays_as_long_as_a_claim_names_it() {
    let bed = Bed::start().await;
    for name in ["gold", "silver"] {
        let class = json!({"metadata": {"name": name}, "driverName": "csi.example.com",
            "parameters": {"iops": "1000"}});
        let class = bed.create::<VolumeAttributesClass>("", class).await;
        assert_eq!(class.metadata.finalizers.unwrap(), ["kubernetes.io/vac-protection"]);
    }
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "volumeAttributesClassName": "gold", "storageClassName": "none",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    bed.create::<PersistentVolumeClaim>("default", claim).await;
    bed.becomes::<PersistentVolumeClaim>("default", "data", |it| {
        it.metadata.finalizers.iter().flatten().any(|it| it == "kubernetes.io/pvc-protection")
    })
    .await;
    bed.delete::<VolumeAttributesClass>("", "gold", "Background").await;
    bed.delete::<VolumeAttributesClass>("", "silver", "Background").await;
    bed.goes::<VolumeAttributesClass>("", "silver").await;
    let gold = bed.find::<VolumeAttributesClass>("", "gold").await.expect("a claim names it");
    assert!(gold.metadata.deletion_timestamp.is_some());
    bed.delete::<PersistentVolumeClaim>("default", "data", "Background").await;
    bed.goes::<VolumeAttributesClass>("", "gold").await;
    bed.stop().await;
}
