//! Creates, updates and server-side applies, each client on objects of its own.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::client::{Ask, Client};
use super::figures::{Beside, Figures, Goal};
use super::master::Master;
use super::objects::{MADE, changed, filler, made, pod, pods};
use crate::Failure;
use crate::load::{Done, drive};
use crate::options::Options;

const APPLY: &str = "application/apply-patch+yaml";

pub async fn measure(
    options: &Options,
    master: &Master,
    figures: &mut Figures,
) -> Result<(), Failure> {
    for &clients in &options.clients {
        if options.wants("create") {
            let done = creates(options, master, clients).await?;
            let per_second = match clients {
                1 => Some(127.0),
                64 => Some(609.0),
                _ => None,
            };
            let beside = Beside { per_second, cpu_ms: Some(2.0), ..Beside::default() };
            let goal = match per_second {
                Some(per_second) => Goal::Both(per_second * 5.0, 0.3),
                None => Goal::CpuMs(0.3),
            };
            figures.rate("create", clients, done, beside, Some(goal));
        }
        if options.wants("update") {
            let done = updates(options, master, clients).await?;
            figures.rate("update", clients, done, Beside::default(), None);
        }
        if options.wants("apply") {
            let done = applies(options, master, clients).await?;
            figures.rate("server-side apply", clients, done, Beside::default(), None);
        }
    }
    Ok(())
}

async fn creates(options: &Options, master: &Master, clients: usize) -> Result<Done, Failure> {
    let filler = filler(master).await?;
    let workers = master.access.clients(clients).await?.into_iter().enumerate();
    let workers = workers.map(|(at, client)| (client, at, 0_usize)).collect();
    drive(
        options,
        master,
        workers,
        move |(mut client, at, number): (Client, usize, usize)| async move {
            let name = format!("new-{clients}-{at}-{number}");
            client.ask(Ask::post(pods(MADE), pod(&name, 1, filler).to_string())).await?;
            Ok((client, at, number + 1))
        },
    )
    .await
}

/// Replaces a pod by what was answered last, with another annotation.
async fn updates(options: &Options, master: &Master, clients: usize) -> Result<Done, Failure> {
    let filler = filler(master).await?;
    let mut workers = Vec::new();
    for (at, mut client) in master.access.clients(clients).await?.into_iter().enumerate() {
        let name = format!("old-{clients}-{at}");
        let object = made(&mut client, &name, filler).await?;
        workers.push((client, format!("{}/{name}", pods(MADE)), object, 1_u128));
    }
    drive(options, master, workers, |worker: (Client, String, Bytes, u128)| async move {
        let (mut client, path, object, number) = worker;
        let body = changed(std::str::from_utf8(&object)?, number)?;
        let ask = Ask { method: Method::PUT, ..Ask::post(path.clone(), body) };
        let object = client.ask(ask).await?;
        Ok((client, path, object, number + 1))
    })
    .await
}

/// Applies a Deployment again and again, with another number of replicas.
async fn applies(options: &Options, master: &Master, clients: usize) -> Result<Done, Failure> {
    let workers = master.access.clients(clients).await?.into_iter().enumerate();
    let workers = workers.map(|(at, client)| (client, format!("d-{clients}-{at}"), 0)).collect();
    drive(
        options,
        master,
        workers,
        |(mut client, name, number): (Client, String, u64)| async move {
            let path = format!(
                "/apis/apps/v1/namespaces/{MADE}/deployments/{name}?fieldManager=bench&force=true"
            );
            let body = deployment(&name, number % 10).to_string();
            let ask = Ask { method: Method::PATCH, content_type: APPLY, ..Ask::post(path, body) };
            client.ask(ask).await?;
            Ok((client, name, number + 1))
        },
    )
    .await
}

pub fn deployment(name: &str, replicas: u64) -> Value {
    let mut template = pod("", 1, 0);
    template["metadata"] = json!({"labels": {"app": name}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    })
}
