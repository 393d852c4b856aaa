//! The plugins in their chain, over a store of one or several members.

use kontiki_storage::revision::Revision;
use serde_json::json;

use super::*;
use crate::auth::authorize::Authorization;
use crate::bed::{Bed, until};
use crate::kinds::Registry;
use crate::live;
use crate::object::time::Timestamp;
use crate::objects::Committed;

/// A member with its tables and its chain.
struct Master {
    live: Arc<Live>,
    objects: Objects,
    chain: Chain,
    registry: Registry,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Master {
    async fn start(objects: Objects) -> Master {
        let live = Arc::new(Live::default());
        let running = tokio::spawn({
            let (live, objects) = (live.clone(), objects.clone());
            async move { live.run(&objects).await }
        });
        live.ready().await;
        let sources = Sources {
            live: live.clone(),
            objects: objects.clone(),
            authorizer: Arc::new(Authorization::new(live.clone())),
            clock: Clock::set_at(Timestamp::parse("2026-01-01T00:00:00Z").unwrap()),
        };
        let chain = plugins(&sources, false);
        Master { live, objects, chain, registry: Registry::builtin(), running }
    }

    /// What becomes of a new object on its way, with the warnings.
    async fn create(&self, group: &str, resource: &str, object: Value) -> Result<Admitted, Status> {
        let kind = self.registry.find(group, "v1", resource).expect("it is served");
        let user = User { name: "eve".into(), ..User::default() };
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut attempt = attempt(&user, &kind, &namespace, &name, object);
        self.chain.mutate(&mut attempt).await?;
        self.chain.validate(&mut attempt).await?;
        let object = attempt.object.take().unwrap_or_default();
        Ok(Admitted { object, warnings: attempt.warnings })
    }

    /// Charges and commits a new object, again while it is outrun, as the road does.
    async fn commit(
        &self,
        group: &str,
        resource: &str,
        object: &Value,
    ) -> Result<Revision, Status> {
        let kind = self.registry.find(group, "v1", resource).expect("it is served");
        let user = User::default();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let mut attempt = attempt(&user, &kind, namespace, name, object.clone());
        loop {
            self.chain.charge(&mut attempt).await?;
            let mut writes =
                vec![Write::put(&kind.stored, namespace, name, object, Revision::ZERO)];
            writes.append(&mut attempt.along);
            if let Committed::At(revision) = self.objects.commit(&writes).await? {
                return Ok(revision);
            }
        }
    }
}

struct Admitted {
    object: Value,
    warnings: Vec<String>,
}

fn attempt<'a>(
    user: &'a User,
    kind: &'a Kind,
    namespace: &'a str,
    name: &'a str,
    object: Value,
) -> Attempt<'a> {
    Attempt {
        user,
        operation: Operation::Create,
        kind,
        subresource: "",
        namespace,
        name,
        object: Some(object),
        old: None,
        options: &Value::Null,
        dry_run: false,
        warnings: Vec::new(),
        annotations: Vec::new(),
        along: Vec::new(),
        held: Vec::new(),
    }
}

fn namespace(name: &str, labels: Value, phase: &str) -> Value {
    json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "labels": labels},
           "status": {"phase": phase}})
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "apiVersion": "v1",
           "metadata": {"namespace": namespace, "name": name}})
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": namespace, "name": name},
           "spec": {"containers": [{"name": "c", "image": "i",
               "resources": {"requests": {"cpu": "100m"}}}]}})
}

#[tokio::test]
async fn nothing_is_made_where_there_is_no_namespace_or_no_account() {
    let bed = Bed::of(1).await;
    let master = Master::start(bed.objects()).await;
    let told =
        async |object: Value| master.create("", "pods", object).await.map(|_| ()).unwrap_err();
    assert_eq!(told(pod("none", "p")).await.message(), "namespaces \"none\" not found");
    bed.put("", "namespaces", &namespace("going", json!({}), "Terminating")).await;
    let status = told(pod("going", "p")).await;
    assert_eq!(
        status.message(),
        "pods \"p\" is forbidden: unable to create new content in namespace going because it is \
         being terminated"
    );
    assert_eq!(status.details().unwrap().causes[0].reason, "NamespaceTerminating");
    bed.put("", "namespaces", &namespace("ns", json!({}), "Active")).await;
    let mut foreign = pod("ns", "p");
    foreign["spec"]["serviceAccountName"] = "bot".into();
    assert_eq!(
        told(foreign).await.message(),
        "pods \"p\" is forbidden: error looking up service account ns/bot: serviceaccount \
         \"bot\" not found"
    );
}

#[tokio::test]
async fn a_pod_waits_for_the_account_that_every_namespace_gets() {
    let bed = Bed::of(1).await;
    let master = Master::start(bed.objects()).await;
    bed.put("", "namespaces", &namespace("ns", json!({}), "Active")).await;
    let early = async { master.create("", "pods", pod("ns", "p")).await.map(|_| ()) };
    let account = account("ns", "default");
    let later = bed.put("", "serviceaccounts", &account);
    let (early, _) = tokio::join!(early, later);
    early.unwrap();
}

#[tokio::test]
async fn a_pod_is_filled_in_on_its_way() {
    let bed = Bed::of(1).await;
    let master = Master::start(bed.objects()).await;
    bed.put("", "namespaces", &namespace("ns", json!({}), "Active")).await;
    bed.put("", "serviceaccounts", &account("ns", "default")).await;
    let range = json!({"kind": "LimitRange", "apiVersion": "v1",
        "metadata": {"namespace": "ns", "name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "64Mi"}}]}});
    bed.put("", "limitranges", &range).await;
    let class = json!({"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
        "metadata": {"name": "high"}, "value": 1000, "globalDefault": true});
    bed.put("scheduling.k8s.io", "priorityclasses", &class).await;
    until("the class", || !master.live.priority_classes.all().is_empty()).await;
    let admitted = master.create("", "pods", pod("ns", "p")).await.unwrap();
    let spec = &admitted.object["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["priority"], 1000);
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(spec["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    let volume = spec["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
    let again = master.create("", "pods", admitted.object.clone()).await.unwrap();
    assert_eq!(again.object, admitted.object, "again it changes nothing");
}

#[tokio::test]
async fn a_namespace_asks_its_pods_to_be_safe() {
    let bed = Bed::of(1).await;
    let master = Master::start(bed.objects()).await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    bed.put("", "namespaces", &namespace("ns", labels, "Active")).await;
    bed.put("", "serviceaccounts", &account("ns", "default")).await;
    let mut bad = pod("ns", "p");
    bad["spec"]["hostNetwork"] = true.into();
    let status = master.create("", "pods", bad.clone()).await.map(|_| ()).unwrap_err();
    assert_eq!(
        status.message(),
        "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces \
         (hostNetwork=true)"
    );
    let deployment = json!({"kind": "Deployment", "apiVersion": "apps/v1",
        "metadata": {"namespace": "ns", "name": "d"}, "spec": {"template": {"spec": bad["spec"]}}});
    let admitted = master.create("apps", "deployments", deployment).await.unwrap();
    assert_eq!(
        admitted.warnings,
        ["would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"]
    );
}

#[tokio::test]
async fn a_role_cannot_grant_more_than_its_writer_has() {
    let bed = Bed::of(1).await;
    let master = Master::start(bed.objects()).await;
    bed.put("", "namespaces", &namespace("ns", json!({}), "Active")).await;
    let rule = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]});
    let role = json!({"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"namespace": "ns", "name": "r"}, "rules": [rule]});
    let status =
        master.create("rbac.authorization.k8s.io", "roles", role).await.map(|_| ()).unwrap_err();
    assert_eq!(
        status.message(),
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"eve\" (groups=[]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], \
         Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
    );
}

#[tokio::test]
async fn a_quota_is_never_passed_however_many_write_at_once() {
    const LIMIT: usize = 20;
    let bed = Bed::of(3).await;
    let quota = json!({"kind": "ResourceQuota", "apiVersion": "v1",
        "metadata": {"namespace": "ns", "name": "q"},
        "status": {"hard": {"pods": LIMIT.to_string()}, "used": {"pods": "0"}}});
    bed.put("", "resourcequotas", &quota).await;
    let mut masters = Vec::new();
    for member in &bed.members {
        member.barrier().await.unwrap();
        masters.push(Arc::new(Master::start(member.clone()).await));
    }
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..LIMIT * 2 {
        let master = masters[number % masters.len()].clone();
        writers.spawn(
            async move { master.commit("", "pods", &pod("ns", &format!("p{number}"))).await },
        );
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(written) = writers.join_next().await {
        match written.unwrap() {
            Ok(_) => made += 1,
            Err(status) => {
                assert!(
                    status.message().contains("exceeded quota: q, requested: pods=1"),
                    "{status}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!((made, refused), (LIMIT, LIMIT));
    let objects = bed.objects();
    objects.barrier().await.unwrap();
    let pods = live::stored("", "pods", "v1", "Pod");
    assert_eq!(objects.list(&pods, Some("ns")).unwrap().0.len(), LIMIT);
    let quotas = live::stored("", "resourcequotas", "v1", "ResourceQuota");
    let quota = objects.get(&quotas, "ns", "q").unwrap().unwrap();
    assert_eq!(quota.value().unwrap()["status"]["used"]["pods"], LIMIT.to_string());
}
