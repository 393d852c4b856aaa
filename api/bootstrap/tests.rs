//! A cluster is brought about through a client that only remembers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::client::{Events, Served, Transport};
use crate::object::GroupResource;

/// Keeps what it is sent, and counts the writes.
#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<String, Value>>,
    writes: Mutex<usize>,
}

impl Memory {
    fn answer(&self, request: Request) -> Result<Bytes, Status> {
        let resource = request.resource.group_resource();
        let namespace = request.namespace.unwrap_or_default();
        let body = match request.body {
            Body::Object(value) => value,
            _ => Value::Null,
        };
        let of_body = || body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let name = request.name.unwrap_or_else(of_body);
        let key = format!("{resource} {namespace}/{name}");
        let mut objects = self.objects.lock();
        let there = objects.get(&key).cloned();
        let missing = || Status::not_found(&GroupResource::new("", &resource.resource), &name);
        match request.verb {
            Verb::Get => Ok(there.ok_or_else(missing)?.to_string().into()),
            Verb::List => {
                let prefix = format!("{resource} {namespace}/");
                let items: Vec<&Value> = objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .map(|(_, object)| object)
                    .collect();
                Ok(json!({ "items": items }).to_string().into())
            }
            Verb::Create if there.is_some() => {
                Err(Status::already_exists(&GroupResource::new("", &resource.resource), &name))
            }
            Verb::Create | Verb::Update => {
                *self.writes.lock() += 1;
                objects.insert(key, body.clone());
                Ok(body.to_string().into())
            }
            _ => {
                *self.writes.lock() += 1;
                objects.remove(&key).ok_or_else(missing)?;
                Ok(Bytes::new())
            }
        }
    }
}

struct Remembers(Arc<Memory>);

impl Transport for Remembers {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Bytes, Status>> {
        let answer = self.0.answer(request);
        Box::pin(async { answer })
    }

    fn watch(&self, _: Request) -> BoxFuture<'static, Result<Events, Status>> {
        Box::pin(async { Err(Status::bad_request("nothing is watched here")) })
    }

    fn resources(&self) -> BoxFuture<'static, Result<Vec<Served>, Status>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

fn cluster() -> (Arc<Memory>, Client, Config) {
    let memory = Arc::new(Memory::default());
    let client = Client::new(Arc::new(Remembers(memory.clone())), "test");
    let config = Config {
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        client_ca: "client".into(),
        front_proxy_ca: "front".into(),
        server_ca: "server".into(),
        server: "https://10.0.0.1:6443".into(),
    };
    (memory, client, config)
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let (memory, client, config) = cluster();
    bootstrap(&client, &config).await.unwrap();
    let first = *memory.writes.lock();
    assert_eq!(first, memory.objects.lock().len());
    for key in [
        "namespaces /kube-node-lease",
        "clusterroles.rbac.authorization.k8s.io /cluster-admin",
        "clusterrolebindings.rbac.authorization.k8s.io /system:controller:job-controller",
        "rolebindings.rbac.authorization.k8s.io kube-system/system::leader-locking-kube-scheduler",
        "flowschemas.flowcontrol.apiserver.k8s.io /catch-all",
        "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io /exempt",
        "priorityclasses.scheduling.k8s.io /system-node-critical",
        "servicecidrs.networking.k8s.io /kubernetes",
        "configmaps kube-system/extension-apiserver-authentication",
        "configmaps kube-public/cluster-info",
    ] {
        assert!(memory.objects.lock().contains_key(key), "{key} is missing");
    }
    bootstrap(&client, &config).await.unwrap();
    assert_eq!(*memory.writes.lock(), first);
}

#[tokio::test]
async fn what_was_broken_is_mended_at_the_next_start() {
    let (memory, client, config) = cluster();
    bootstrap(&client, &config).await.unwrap();
    let key = "clusterroles.rbac.authorization.k8s.io /system:kube-dns";
    let whole = memory.objects.lock()[key].clone();
    memory.objects.lock().get_mut(key).unwrap()["rules"] = json!([]);
    let before = *memory.writes.lock();
    bootstrap(&client, &config).await.unwrap();
    assert_eq!(*memory.writes.lock(), before + 1);
    let mended = crate::live::rbac::Rule::read_all(&memory.objects.lock()[key]);
    let wanted = crate::live::rbac::Rule::read_all(&whole);
    assert!(crate::auth::rbac::escalation::uncovered(&mended, &wanted).is_empty());
}

#[tokio::test]
async fn the_endpoints_of_the_api_follow_the_masters() {
    let (memory, client, _) = cluster();
    let ip = "10.43.0.1".parse().unwrap();
    let masters = |list: &[&str]| list.iter().map(|it| it.parse().unwrap()).collect();
    let both = masters(&["10.0.0.1:6443", "10.0.0.2:7443"]);
    masters::reconcile(&client, ip, &both).await.unwrap();
    let slice = |name: &str| {
        let key = format!("endpointslices.discovery.k8s.io default/{name}");
        memory.objects.lock().get(&key).cloned()
    };
    assert!(slice("kubernetes").is_some() && slice("kubernetes-7443").is_some());
    let writes = *memory.writes.lock();
    masters::reconcile(&client, ip, &both).await.unwrap();
    assert_eq!(*memory.writes.lock(), writes);
    masters::reconcile(&client, ip, &masters(&["10.0.0.2:7443"])).await.unwrap();
    assert_eq!(slice("kubernetes-7443"), None);
    let slice = slice("kubernetes").unwrap();
    assert_eq!(slice["ports"][0]["port"], 7443);
    assert_eq!(slice["endpoints"][0]["addresses"][0], "10.0.0.2");
    let endpoints = memory.objects.lock()["endpoints default/kubernetes"].clone();
    assert_eq!(endpoints["subsets"].as_array().unwrap().len(), 1);
}
