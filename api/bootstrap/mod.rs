//! What every cluster holds, and is brought back to at each start.
//!
//! Keeps: it writes only what differs, so a cluster that has all of it sees no change. What an administrator
//! took out of its hands (an annotation says so) stays as it is.
//! Never: takes a permission away from a default role; it only adds what is missing.

mod defaults;
pub mod dns;
mod flows;
pub mod masters;
mod reconcile;

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, TryStreamExt};
use ipnet::IpNet;
use serde_json::Value;

use crate::auth::rbac::policy;
use crate::client::Client;
use crate::error::{Reason, Status};
use crate::object::GroupVersionResource;
use crate::request::{Body, Options, Request, Verb};

use reconcile::{Rule, Step, step};

/// Objects that are looked after at the same time.
const AT_ONCE: usize = 64;
/// An object that changes under our hands is read again so often.
const TRIES: usize = 4;
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What differs from cluster to cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where services get their addresses from: one, or one of each family.
    pub service_cidrs: Vec<IpNet>,
    /// PEM of who signs clients' certificates.
    pub client_ca: String,
    /// PEM of who signs the certificate with which this server calls extension servers.
    pub front_proxy_ca: String,
    /// PEM of who signs this server's certificate.
    pub server_ca: String,
    /// Under which clients outside find the API (`https://10.0.0.1:6443`).
    pub server: String,
}

/// An object that has to be there.
#[derive(Clone, Debug)]
struct Wanted {
    resource: GroupVersionResource,
    object: Value,
    rule: Rule,
}

impl Wanted {
    fn new(group: &str, version: &str, resource: &str, rule: Rule, object: Value) -> Wanted {
        Wanted { resource: GroupVersionResource::new(group, version, resource), object, rule }
    }
}

/// Brings everything about once. It may be run again at any time, and on all masters at once.
pub async fn bootstrap(client: &Client, config: &Config) -> Result<(), Status> {
    // What lies in a namespace needs it; bindings need their roles.
    for stage in [defaults::namespaces(), roles(), bindings(), others(config)] {
        let all = stream::iter(stage.into_iter().map(Ok::<Wanted, Status>));
        all.try_for_each_concurrent(AT_ONCE, |wanted| async move { ensure(client, &wanted).await })
            .await?;
    }
    Ok(())
}

/// Tries until it is done: the store may have no leader yet.
pub async fn bootstrap_until_done(client: &Client, config: &Config) {
    let mut wait = RETRY_MIN;
    while let Err(status) = bootstrap(client, config).await {
        tracing::warn!(%status, "the defaults of the cluster are not all there yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

fn is_binding(object: &Value) -> bool {
    object["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding"))
}

fn rbac(objects: impl Iterator<Item = Value>) -> Vec<Wanted> {
    let wanted = |object: Value| {
        let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
        let resource = format!("{kind}s");
        Wanted::new("rbac.authorization.k8s.io", "v1", &resource, Rule::Rbac, object)
    };
    objects.map(wanted).collect()
}

fn roles() -> Vec<Wanted> {
    rbac(policy::objects().into_iter().filter(|object| !is_binding(object)))
}

fn bindings() -> Vec<Wanted> {
    rbac(policy::objects().into_iter().filter(is_binding))
}

fn others(config: &Config) -> Vec<Wanted> {
    let mut all = flows::levels();
    all.extend(flows::schemas());
    all.extend(defaults::priority_classes());
    all.extend(defaults::of(config));
    all
}

/// Makes or mends one object.
async fn ensure(client: &Client, wanted: &Wanted) -> Result<(), Status> {
    let mut last = None;
    for _ in 0..TRIES {
        let there = read(client, wanted).await?;
        let done = match step(there.as_ref(), &wanted.object, wanted.rule) {
            Step::Nothing => return Ok(()),
            Step::Create(object) => send(client, wanted, Verb::Create, object).await,
            Step::Update(object) => send(client, wanted, Verb::Update, object).await,
            Step::Replace => {
                send(client, wanted, Verb::Delete, Value::Null).await?;
                continue;
            }
        };
        match done {
            Ok(_) => return Ok(()),
            // Another master was quicker, or the object changed: look again.
            Err(status)
                if status.is(Reason::AlreadyExists)
                    || status.is(Reason::Conflict)
                    || status.is(Reason::NotFound) =>
            {
                last = Some(status);
            }
            Err(status) => return Err(named(wanted, &status)),
        }
    }
    let outrun = || Status::internal("it changes each time it is looked at");
    Err(named(wanted, &last.unwrap_or_else(outrun)))
}

/// Says which object it was.
fn named(wanted: &Wanted, status: &Status) -> Status {
    let name = wanted.object["metadata"]["name"].as_str().unwrap_or_default();
    let text = format!("{} {name:?}: {}", wanted.resource.group_resource(), status.message());
    Status::new(status.reason(), text)
}

async fn read(client: &Client, wanted: &Wanted) -> Result<Option<Value>, Status> {
    match send(client, wanted, Verb::Get, Value::Null).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(Status::internal),
        Err(status) if status.is(Reason::NotFound) => Ok(None),
        Err(status) => Err(named(wanted, &status)),
    }
}

async fn send(client: &Client, wanted: &Wanted, verb: Verb, body: Value) -> Result<Bytes, Status> {
    let metadata = &wanted.object["metadata"];
    let text = |field: &str| metadata[field].as_str().map(str::to_owned);
    let request = Request {
        verb,
        resource: wanted.resource.clone(),
        subresource: None,
        namespace: text("namespace"),
        name: text("name").filter(|_| verb != Verb::Create),
        options: Options::default(),
        body: if body.is_null() { Body::None } else { Body::Object(body) },
    };
    client.call(request).await
}

#[cfg(test)]
mod tests;
