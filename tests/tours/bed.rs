//! What every tour begins with: a master in a process of its own, hollow nodes in this one, and kubectl.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki::hollow;
use kontiki::kubeconfig::Access;
use kontiki::reconcile::Informers;
use kontiki_api::client::{Client, Typed};
use kontiki_api::request::Options;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::kubectl::Kubectl;
use crate::support::{Cluster, Master, PATIENCE, wait_for, wait_longer_for};

/// The namespace that tours happen in, unless they say otherwise.
pub const NAMESPACE: &str = "default";

pub struct Tour {
    pub cluster: Cluster,
    pub kubectl: Kubectl,
    pub client: Client,
    stop: CancellationToken,
}

impl Drop for Tour {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Tour {
    /// One master and so many nodes, all of them ready.
    pub async fn with_nodes(nodes: usize) -> Tour {
        Tour::on(Cluster::of_one().await, nodes).await
    }

    pub async fn on(cluster: Cluster, nodes: usize) -> Tour {
        let kubeconfig = cluster.masters[0].directory.join("kubeconfig");
        let kubectl = Kubectl::new(&kubeconfig, cluster.root.path());
        let servers: Vec<String> = cluster.masters.iter().map(Master::api).collect();
        let access = Access::read(&kubeconfig).unwrap();
        let client = access.client_of(&servers, "tour").unwrap();
        let stop = CancellationToken::new();
        let settings = hollow::Settings { nodes, ..hollow::Settings::default() };
        let doors = Arc::new(move |node: &str| access.door(servers.clone(), node));
        tokio::spawn(hollow::run(client.clone(), doors, settings, stop.clone()));
        let tour = Tour { cluster, kubectl, client, stop };
        let ready = |node: &Value| is_true(node, "Ready") && node["spec"]["taints"].is_null();
        for number in 0..nodes {
            tour.until::<Node>(&format!("hollow-{number}"), ready).await;
        }
        // Pods are admitted once their namespace has an account.
        tour.until::<k8s_openapi::api::core::v1::ServiceAccount>("default", |_| true).await;
        tour
    }

    /// kubectl, which must succeed.
    #[track_caller]
    pub fn run<'a>(&'a self, line: &'a str) -> impl Future<Output = String> + 'a {
        self.kubectl.run(line)
    }

    pub async fn get<K: Typed + ListableResource>(&self, name: &str) -> Result<Value, String> {
        let (namespace, name) = name.split_once('/').unwrap_or((NAMESPACE, name));
        let namespace = if is_cluster_wide(K::KIND) { "" } else { namespace };
        let found =
            self.client.get::<K>(namespace, name).await.map_err(|error| error.to_string())?;
        Ok(json!(found))
    }

    /// Waits until an object is as wanted. The name may begin with a namespace: `shop/web`.
    #[track_caller]
    pub fn until<'a, K: Typed + ListableResource>(
        &'a self,
        name: &'a str,
        wanted: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        self.until_for::<K>(name, PATIENCE.as_secs(), wanted)
    }

    /// The same for what takes so many seconds by itself.
    #[track_caller]
    pub fn until_for<'a, K: Typed + ListableResource>(
        &'a self,
        name: &'a str,
        seconds: u64,
        wanted: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        let wanted = Arc::new(wanted);
        let master = &self.cluster.masters[0];
        wait_longer_for("a state", Duration::from_secs(seconds), move || {
            let wanted = wanted.clone();
            async move {
                let found = self.get::<K>(name).await?;
                if wanted(&found) {
                    return Ok(found);
                }
                Err(format!("{found:#}\n{}", tail(&master.log())))
            }
        })
    }

    /// Waits until an object is gone.
    #[track_caller]
    pub fn until_gone<'a, K: Typed + ListableResource>(
        &'a self,
        name: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        wait_for("an end", move || async move {
            match self.get::<K>(name).await {
                Ok(found) => Err(format!("{found:#}")),
                Err(said) if said.contains("not found") => Ok(()),
                Err(said) => Err(said),
            }
        })
    }

    pub async fn list<K: Typed + ListableResource>(&self, labels: &str) -> Vec<Value> {
        let options = Options {
            label_selector: Some(labels.to_owned()).filter(|it| !it.is_empty()),
            ..Options::default()
        };
        let listed = self.client.list::<K>(NAMESPACE, options).await.unwrap();
        listed.items.into_iter().map(|it| json!(it)).collect()
    }

    /// Waits until all objects of a kind with these labels, together, are as wanted.
    #[track_caller]
    pub fn until_all<'a, K: Typed + ListableResource>(
        &'a self,
        labels: &'a str,
        wanted: impl Fn(&[Value]) -> bool + 'a,
    ) -> impl Future<Output = Vec<Value>> + 'a {
        let wanted = Arc::new(wanted);
        let master = &self.cluster.masters[0];
        wait_for("a state of all", move || {
            let wanted = wanted.clone();
            async move {
                let found = self.list::<K>(labels).await;
                if wanted(&found) {
                    return Ok(found);
                }
                Err(format!("{:#}\n{}", Value::from(found), tail(&master.log())))
            }
        })
    }

    /// Waits until there are so many pods with these labels, all ready.
    #[track_caller]
    pub fn until_ready<'a>(
        &'a self,
        labels: &'a str,
        count: usize,
    ) -> impl Future<Output = Vec<Value>> + 'a {
        self.until_all::<Pod>(labels, move |pods| pods.len() == count && pods.iter().all(is_ready))
    }

    /// Follows all pods of the namespace from now on, and looks at them together after each change. It goes
    /// on when a master is lost.
    pub async fn witness(
        &self,
        look: impl Fn(&[Value]) -> Option<String> + Send + Sync + 'static,
    ) -> Witness {
        let informers = Informers::new(self.client.clone());
        let pods = informers.of::<Pod>();
        let stop = CancellationToken::new();
        let running = informers.clone();
        let token = stop.clone();
        tokio::spawn(async move { running.run(token).await });
        informers.synced().await;
        let seen = Arc::new(Mutex::new((0, Vec::new())));
        let told = seen.clone();
        let all = pods.clone();
        // What is there already is told of one by one, but is there together: one look is enough.
        pods.on(move |_| {
            let all = all.in_namespace(NAMESPACE);
            let all: Vec<Value> = all.iter().map(|pod| json!(**pod)).collect();
            let mut told = told.lock();
            told.0 += 1;
            told.1.extend(look(&all));
        });
        seen.lock().0 = 0;
        Witness { seen, stop }
    }
}

/// Somebody who looks all the time.
pub struct Witness {
    seen: Arc<Mutex<(usize, Vec<String>)>>,
    stop: CancellationToken,
}

impl Witness {
    /// Nothing that must not be was seen, and something was seen.
    #[track_caller]
    pub fn end(self) {
        self.stop.cancel();
        let (changes, complaints) = &*self.seen.lock();
        assert!(*changes > 0, "nothing happened");
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

/// The end of a log.
fn tail(log: &str) -> &str {
    let from = log.len().saturating_sub(3000);
    let from = (from..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
    &log[from..]
}

fn is_cluster_wide(kind: &str) -> bool {
    matches!(kind, "Node" | "Namespace" | "PersistentVolume" | "ClusterRole")
}

/// Whether a condition of the object is true.
pub fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|it| it["type"] == kind && it["status"] == "True")
}

/// Ready, and not on its way out.
pub fn is_ready(pod: &Value) -> bool {
    is_true(pod, "Ready") && !is_going(pod)
}

pub fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

pub fn node(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// A template of pods with a label `app` and orders for the hollow node (`{"does": "fail"}`).
pub fn template(app: &str, image: &str, orders: Value) -> Value {
    let orders = orders.as_object().cloned().unwrap_or_default();
    let orders: serde_json::Map<_, _> = orders
        .into_iter()
        .map(|(key, value)| (format!("hollow.kontiki.io/{key}"), value))
        .collect();
    json!({
        "metadata": {"labels": {"app": app}, "annotations": orders},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

/// A workload of `apps/v1` with more in its spec.
pub fn workload(kind: &str, app: &str, template: &Value, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": template},
    });
    merge(&mut object["spec"], more);
    object
}

pub fn merge(into: &mut Value, more: Value) {
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        into[key] = value;
    }
}
