//! The rooms of this page on the whole road: a server in memory, with all its defaults.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::bootstrap;
use crate::client::{Client, PatchKind};
use crate::error::Status;
use crate::object::GroupVersionResource;
use crate::request::{Body, Options, Request, User, Verb};
use crate::sandbox::Sandbox;

const RBAC: &str = "rbac.authorization.k8s.io";

fn request(verb: Verb, group: &str, resource: &str, namespace: &str, name: &str) -> Request {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Request {
        verb,
        resource: GroupVersionResource::new(group, "v1", resource),
        subresource: None,
        namespace: some(namespace),
        name: some(name),
        options: Options::default(),
        body: Body::None,
    }
}

async fn create(
    client: &Client,
    group: &str,
    resource: &str,
    namespace: &str,
    object: Value,
) -> Result<Value, Status> {
    let mut request = request(Verb::Create, group, resource, namespace, "");
    request.body = Body::Object(object);
    let answer = client.call(request).await?;
    Ok(serde_json::from_slice(&answer).expect("the answer is JSON"))
}

fn someone(name: &str, groups: &[&str]) -> User {
    let mut all = vec!["system:authenticated".to_owned()];
    all.extend(groups.iter().map(|&group| group.to_owned()));
    User { name: name.into(), groups: all, ..User::default() }
}

fn account() -> Value {
    json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}})
}

fn pod(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name},
           "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

#[tokio::test]
async fn rights_are_what_bindings_say_and_nobody_gives_more_than_they_have() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.client();
    let eve = sandbox.server.road().client(someone("eve", &[]), "eve");
    let list = request(Verb::List, "", "pods", "default", "");
    assert_eq!(
        eve.call(list.clone()).await.unwrap_err().message(),
        "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
    let binding = |name: &str, role: &str| {
        json!({"kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
               "metadata": {"name": name},
               "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
               "subjects": [{"apiGroup": RBAC, "kind": "User", "name": "eve"}]})
    };
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [RBAC], "resources": ["rolebindings", "roles"], "verbs": ["create"]},
    ]);
    let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "lister"}, "rules": rules});
    create(&admin, RBAC, "clusterroles", "", role).await.unwrap();
    create(&admin, RBAC, "rolebindings", "default", binding("b", "lister")).await.unwrap();
    let allowed = async {
        while eve.call(list.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), allowed).await.expect("it is allowed");
    let refused = create(&eve, RBAC, "rolebindings", "default", binding("c", "cluster-admin"));
    let refused = refused.await.unwrap_err();
    assert!(
        refused.message().starts_with(
            "rolebindings.rbac.authorization.k8s.io \"c\" is forbidden: user \"eve\" \
             (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
             currently held:\n"
        ),
        "{refused}"
    );
    create(&eve, RBAC, "rolebindings", "default", binding("d", "lister")).await.unwrap();
}

#[tokio::test]
async fn a_pod_gets_its_token_and_a_node_sees_its_own_pods_alone() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.client();
    create(&admin, "", "serviceaccounts", "default", account()).await.unwrap();
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    let made = create(&admin, "", "pods", "default", bound).await.unwrap();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let volume = made["spec"]["volumes"][0]["name"].as_str().unwrap();
    assert!(volume.starts_with("kube-api-access-"));

    let node = |name: &str| {
        let user = someone(&format!("system:node:{name}"), &["system:nodes"]);
        sandbox.server.road().client(user, "node")
    };
    let get = request(Verb::Get, "", "pods", "default", "p");
    let related = async {
        while node("n1").call(get.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), related).await.expect("it is related");
    assert!(node("n2").call(get).await.is_err());
    let mut list = request(Verb::List, "", "pods", "", "");
    assert!(node("n1").call(list.clone()).await.is_err());
    list.options.field_selector = Some("spec.nodeName=n1".into());
    node("n1").call(list.clone()).await.unwrap();
    assert!(node("n2").call(list).await.is_err());

    let uid = made["metadata"]["uid"].clone();
    let to = |uid: &Value| {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
               "spec": {"boundObjectRef": bound}})
    };
    let asked = |body: Value| {
        let mut request = request(Verb::Create, "", "serviceaccounts", "default", "default");
        request.subresource = Some("token".into());
        request.body = Body::Object(body);
        request
    };
    let issued = node("n1").call(asked(to(&uid))).await.unwrap();
    let issued: Value = serde_json::from_slice(&issued).unwrap();
    assert!(issued["status"]["token"].as_str().unwrap().split('.').count() == 3);
    assert!(node("n2").call(asked(to(&uid))).await.is_err());
    let mut unbound = to(&uid);
    unbound["spec"] = json!({});
    assert_eq!(
        node("n1").call(asked(unbound)).await.unwrap_err().message(),
        "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod"
    );
}

#[tokio::test]
async fn a_quota_holds_on_the_road() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.client();
    create(&admin, "", "serviceaccounts", "default", account()).await.unwrap();
    let quota = json!({"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "3"}}});
    create(&admin, "", "resourcequotas", "default", quota).await.unwrap();
    let status = async |status: Value| {
        let mut patch = request(Verb::Patch, "", "resourcequotas", "default", "q");
        patch.subresource = Some("status".into());
        let bytes = json!({ "status": status }).to_string().into();
        patch.body = Body::Bytes { content_type: PatchKind::Merge.content_type().into(), bytes };
        admin.call(patch).await.unwrap();
    };
    status(json!({"hard": {"pods": "3"}})).await;
    assert_eq!(
        create(&admin, "", "pods", "default", pod("early")).await.unwrap_err().message(),
        "pods \"early\" is forbidden: status unknown for quota: q, resources: pods"
    );
    status(json!({"used": {"pods": "0"}})).await;
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..12 {
        let admin = admin.clone();
        writers.spawn(async move {
            create(&admin, "", "pods", "default", pod(&format!("p{number}"))).await
        });
    }
    let (mut made, mut refused) = (0, Vec::new());
    while let Some(written) = writers.join_next().await {
        match written.unwrap() {
            Ok(_) => made += 1,
            Err(status) => refused.push(status.message().to_owned()),
        }
    }
    assert_eq!(made, 3, "{refused:?}");
    for message in refused {
        assert!(
            message.ends_with(
                "is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"
            ),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_protected_namespace_stays() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.client();
    let delete = request(Verb::Delete, "", "namespaces", "", "kube-system");
    assert_eq!(
        admin.call(delete).await.unwrap_err().message(),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn the_defaults_of_a_cluster_are_written_once() {
    let sandbox = Sandbox::start().await;
    let admin = sandbox.client();
    let config = bootstrap::Config {
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        client_ca: String::new(),
        front_proxy_ca: String::new(),
        server_ca: String::new(),
        server: sandbox.url(),
    };
    let masters: BTreeSet<SocketAddr> =
        ["10.0.0.1:6443", "10.0.0.2:6443"].iter().map(|it| it.parse().unwrap()).collect();
    let ip = bootstrap::masters::service_ip(&config.service_cidrs[0]);
    bootstrap::masters::reconcile(&admin, ip, &masters).await.unwrap();
    let service = request(Verb::Get, "", "services", "default", "kubernetes");
    let service: Value = serde_json::from_slice(&admin.call(service).await.unwrap()).unwrap();
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    let before = sandbox.server.road().objects().revision();
    bootstrap::bootstrap(&admin, &config).await.unwrap();
    bootstrap::masters::reconcile(&admin, ip, &masters).await.unwrap();
    assert_eq!(sandbox.server.road().objects().revision(), before);
}
