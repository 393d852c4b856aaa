//! Masters of Kontiki, by the commands that a user types: store and API, without controllers.

use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};
use tokio::time::{Instant, sleep};

use super::process::run;
use super::{Cluster, PATIENCE};
use crate::network::Member;

pub async fn grow(cluster: &mut Cluster, size: u32) -> Result<(), String> {
    first(cluster, &[]).await?;
    for _ in 1..size {
        join(cluster, 1).await?;
    }
    Ok(())
}

async fn first(cluster: &mut Cluster, more: &[String]) -> Result<Member, String> {
    let number = cluster.add_host().await?;
    launch(cluster, number, more).await?;
    Ok(number)
}

fn arguments(cluster: &Cluster, number: Member, more: &[String]) -> Vec<String> {
    let host = cluster.host(number);
    let place = host.place;
    let directory = host.directory.display().to_string();
    let flags = [
        ("--data-dir", directory),
        ("--name", host.name.clone()),
        ("--bind-address", place.address.to_string()),
        ("--advertise-address", place.outside.to_string()),
        ("--store-bind-address", place.address.to_string()),
        ("--tls-san", place.address.to_string()),
        ("--api-port", place.api.to_string()),
        ("--peer-port", place.peer.to_string()),
        ("--store-port", place.store.to_string()),
        ("--snapshot-interval", "0s".into()),
    ];
    let flags = flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    let start = ["start", "master", "api"].map(str::to_owned);
    start.into_iter().chain(flags).chain(more.iter().cloned()).collect()
}

/// Starts it for the first time and waits until it votes.
async fn launch(cluster: &mut Cluster, number: Member, more: &[String]) -> Result<(), String> {
    let arguments = arguments(cluster, number, more);
    cluster.host_mut(number).arguments = arguments;
    cluster.start_process(number)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let seen = match status(cluster, number).await {
            Ok(status) => {
                let id = &status["id"];
                let members = status["members"].as_array().cloned().unwrap_or_default();
                let mut votes = members.iter().filter(|it| it["id"] == *id);
                if status["ready"] == true && votes.any(|it| it["voter"] == true) {
                    return Ok(());
                }
                status.to_string()
            }
            Err(error) => error,
        };
        if let Some((_, how)) = cluster.fallen().first() {
            return Err(format!("m{number} ended: {how}"));
        }
        if Instant::now() > until {
            return Err(format!("m{number} does not vote: {seen}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn status(cluster: &Cluster, number: Member) -> Result<serde_json::Value, String> {
    let text = ask(cluster, number, &["status", "--output", "json"]).await?;
    let status: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    Ok(status["asked"].clone())
}

async fn ask(cluster: &Cluster, number: Member, command: &[&str]) -> Result<String, String> {
    let host = cluster.host(number);
    let endpoint = format!("https://{}:{}", host.place.address, host.place.store);
    let file = |name: &str| host.directory.join("pki/store").join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let shown = ["--endpoint", &endpoint, "--cacert", &ca, "--cert", &certificate, "--key", &key];
    let arguments: Vec<&str> = command.iter().copied().chain(shown).collect();
    run(&cluster.binary, &arguments).await
}

async fn join(cluster: &mut Cluster, through: Member) -> Result<Member, String> {
    let token = ask(cluster, through, &["token", "create", "--role", "master"]).await?;
    let place = cluster.host(through).place;
    let number = cluster.add_host().await?;
    let url = format!("https://{}:{}", place.address, place.api);
    let more = ["--join".into(), url, "--token".into(), token.trim().to_owned()];
    launch(cluster, number, &more).await?;
    Ok(number)
}

pub async fn replace(cluster: &mut Cluster, old: Member) -> Result<Member, String> {
    let mut others = cluster.running().into_iter().filter(|number| *number != old);
    let helper = others.next_back().ok_or("nobody is left to ask")?;
    let name = cluster.host(old).name.clone();
    ask(cluster, helper, &["member", "remove", &name]).await?;
    cluster.host_mut(old).gone = true;
    cluster.kill(old).await;
    join(cluster, helper).await
}

pub fn tls(cluster: &Cluster) -> Result<TlsOptions, String> {
    let folder = cluster.host(1).directory.join("pki/store");
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    Ok(TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("client.crt")?, read("client.key")?))
        .domain_name("localhost"))
}

pub async fn save(cluster: &Cluster, from: Member, file: &Path) -> Result<(), String> {
    ask(cluster, from, &["snapshot", "save", &file.display().to_string()]).await.map(drop)
}

pub async fn restore(cluster: &Cluster, file: &Path) -> Result<Cluster, String> {
    let mut restored = cluster.beside("restored");
    let number = restored.add_host().await?;
    let target = restored.host(number).directory.display().to_string();
    let pki = cluster.host(1).directory.join("pki").display().to_string();
    let file = file.display().to_string();
    let flags = ["--data-dir", &target, "--name", "m1", "--pki", &pki];
    let arguments: Vec<&str> = ["snapshot", "restore", &file].into_iter().chain(flags).collect();
    run(&cluster.binary, &arguments).await?;
    launch(&mut restored, number, &[]).await?;
    Ok(restored)
}
