//! What the API is filled with.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::{Ask, Client};
use super::master::Master;
use crate::Failure;

/// Where the pods are that are listed.
pub const LISTED: &str = "listed";
/// Where pods are made, changed and watched.
pub const MADE: &str = "made";

/// How long a pod is, as it is answered.
pub const POD_BYTES: usize = 4096;
/// One pod in so many has the label that is selected.
const SELECTED_IN: usize = 100;

/// A namespace whose pods are let in without a controller.
pub async fn namespace(master: &Master, name: &str) -> Result<(), Failure> {
    let mut client = master.client().await?;
    let body = json!({"metadata": {"name": name}}).to_string();
    client.ask(Ask::post("/api/v1/namespaces", body)).await?;
    let body = json!({"metadata": {"name": "default"}}).to_string();
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    client.ask(Ask::post(path, body)).await.map(drop)
}

pub fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

pub fn name(number: usize) -> String {
    format!("pod-{number:06}")
}

/// A pod with so many bytes to fill it up. `bench/at` is what changes later.
pub fn pod(name: &str, number: usize, filler: usize) -> Value {
    let environment: Vec<Value> =
        (0..8).map(|at| json!({"name": format!("SETTING_{at}"), "value": "value"})).collect();
    let selected = if number.is_multiple_of(SELECTED_IN) { "yes" } else { "no" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "bench", "selected": selected},
            "annotations": {"bench/at": "0", "bench/filler": "f".repeat(filler)},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": "registry.example/bench:1", "env": environment,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}

/// How much filler makes a pod as long as it is to be.
pub async fn filler(master: &Master) -> Result<usize, Failure> {
    let mut client = master.client().await?;
    let path = format!("{}?dryRun=All", pods(MADE));
    let answer = client.ask(Ask::post(path, pod("measure", 1, 0).to_string())).await?;
    Ok(POD_BYTES.saturating_sub(answer.len()))
}

/// Makes so many pods, by many clients.
pub async fn fill(master: &Master, count: usize) -> Result<(), Failure> {
    let filler = filler(master).await?;
    let path = pods(LISTED);
    each(master, count, move |number| {
        Ask::post(path.clone(), pod(&name(number), number, filler).to_string())
    })
    .await
}

/// Asks once for each number, 64 at a time.
pub async fn each(
    master: &Master,
    count: usize,
    ask: impl Fn(usize) -> Ask + Clone + Send + 'static,
) -> Result<(), Failure> {
    let clients = master.access.clients(64).await?;
    let (step, mut tasks) = (clients.len(), JoinSet::new());
    for (first, mut client) in clients.into_iter().enumerate() {
        let ask = ask.clone();
        tasks.spawn(async move {
            for number in (first..count).step_by(step) {
                client.ask(ask(number)).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// The text between a mark and the next quote.
pub fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let from = text.find(mark)? + mark.len();
    text[from..].split('"').next()
}

/// The same object with another number in `bench/at`.
pub fn changed(object: &str, number: u128) -> Result<Bytes, Failure> {
    const MARK: &str = "\"bench/at\":\"";
    let from = object.find(MARK).ok_or("the object has no number")? + MARK.len();
    let to = from + object[from..].find('"').ok_or("the number has no end")?;
    Ok(format!("{}{number}{}", &object[..from], &object[to..]).into())
}

/// The pod as it is there.
pub async fn made(client: &mut Client, name: &str, filler: usize) -> Result<Bytes, Failure> {
    client.ask(Ask::post(pods(MADE), pod(name, 1, filler).to_string())).await
}
