//! A machine that runs containers: how long until it is ready, and what its processes hold.
//!
//! Runs as root in namespaces of its own (`make bench-node` makes them), so that nothing of it is left: the
//! kernel ends what is in them with the driver.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::client::Ask;
use super::cluster::{is_true, until};
use super::figures::{Figures, Goal};
use super::master::{PORTS, until_ready};
use super::objects::pods;
use super::writes::deployment;
use crate::options::Options;
use crate::servers::{port, spawn};
use crate::{Failure, processes};

/// What Kontiki brings along.
const IMAGE: &str = "kontiki.local/demo:1";
const MIB: f64 = 1024.0 * 1024.0;

pub async fn measure(options: &Options, figures: &mut Figures) -> Result<(), Failure> {
    // Short: a socket's path has a limit.
    let folder = tempfile::Builder::new().prefix("kt").tempdir_in("/var/tmp")?;
    if options.wants("binary") {
        binary(options, folder.path(), figures).await?;
    }
    if options.wants("agent") {
        agent(options, folder.path(), figures).await?;
    }
    if options.wants("machine") {
        machine(options, folder.path(), figures).await?;
    }
    Ok(())
}

async fn binary(options: &Options, folder: &Path, figures: &mut Figures) -> Result<(), Failure> {
    let stripped = folder.join("stripped");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(&options.binary).status().await;
    if !done.map_err(|error| format!("strip, of Debian's binutils: {error}"))?.success() {
        return Err(format!("{} cannot be stripped", options.binary.display()).into());
    }
    let size = std::fs::metadata(&stripped)?.len() as f64 / 1e6;
    figures.once("the binary, without symbols", size, "MB", None, Some(Goal::Below(60.0)));
    Ok(())
}

/// `kontiki start node` beside a master in another process.
async fn agent(options: &Options, folder: &Path, figures: &mut Figures) -> Result<(), Failure> {
    let (master, began) = start(options, &folder.join("master"), &["master"])?;
    let access = until_ready(&folder.join("master"), began).await?;
    let token = Command::new(&options.binary)
        .args(["token", "create", "--role", "node", "--data-dir"])
        .arg(folder.join("master"))
        .output()
        .await?;
    let token = String::from_utf8(token.stdout)?.trim().to_owned();
    let join = format!("https://127.0.0.1:{}", port(&folder.join("master"), "api")?);
    let command = [
        &options.binary.display().to_string(),
        "start",
        "node",
        "--name",
        "agent",
        "--data-dir",
        &folder.join("node").display().to_string(),
        "--node-ip",
        "127.0.0.1",
        "--join",
        &join,
        "--token",
        &token,
    ]
    .map(str::to_owned);
    let began = Instant::now();
    let node = spawn(&command)?;
    let ready = until(access.connect().await?, "/api/v1/nodes", 1, |it| is_true(it, "Ready"));
    let took = ready.await? - began;
    figures.once("an agent: start to node Ready", took.as_secs_f64(), "s", None, None);
    sleep(settling(options)).await;
    let held = processes::resident_mib(&[id(&node)]);
    figures.once("an agent: memory, idle", held, "MiB", None, Some(Goal::Below(40.0)));
    end([node, master]).await
}

/// `kontiki start`: everything in one process, and then pods.
async fn machine(options: &Options, folder: &Path, figures: &mut Figures) -> Result<(), Failure> {
    let directory = folder.join("all");
    let (process, began) = start(options, &directory, &["--name", "machine"])?;
    let access = until_ready(&directory, began).await?;
    let took = began.elapsed().as_secs_f64();
    figures.once("all in one: start to ready", took, "s", None, Some(Goal::Below(1.0)));
    let ready = until(access.connect().await?, "/api/v1/nodes", 1, |it| is_true(it, "Ready"));
    let took = (ready.await? - began).as_secs_f64();
    figures.once("all in one: start to node Ready", took, "s", None, Some(Goal::Below(3.0)));
    sleep(settling(options)).await;
    let idle = processes::resident_mib(&[id(&process)]);
    figures.once("all in one: memory, idle", idle, "MiB", None, Some(Goal::Below(120.0)));
    let own = processes::anonymous_mib(&[id(&process)]);
    figures.once("all in one: memory, idle, without the program", own, "MiB", None, None);
    let before = processes::processor(&[id(&process)]);
    let wait = options.duration() * 2;
    sleep(wait).await;
    let spent = processes::processor(&[id(&process)]).saturating_sub(before);
    let share = spent.as_secs_f64() / wait.as_secs_f64() * 1e3;
    figures.once("all in one: CPU, idle", share, "ms/s", None, None);

    let count = if options.quick { 10 } else { 50 };
    let mut body = deployment("demo", count);
    body["spec"]["template"]["spec"]["containers"][0] =
        json!({"name": "demo", "image": IMAGE, "imagePullPolicy": "IfNotPresent"});
    let mut client = access.connect().await?;
    let began = Instant::now();
    client.ask(Ask::post("/apis/apps/v1/namespaces/default/deployments", body.to_string())).await?;
    let number = usize::try_from(count)?;
    let path = pods("default");
    let run = until(access.connect().await?, &path, number, |it| is_true(it, "Ready"));
    let took = (run.await? - began).as_secs_f64();
    figures.once(&format!("all in one: {count} pods run"), took, "s", None, None);
    sleep(settling(options)).await;
    let each = (processes::resident_mib(&[id(&process)]) - idle) * MIB / 1024.0 / number as f64;
    figures.once("all in one: memory for each pod", each, "KiB", None, None);
    end([process]).await
}

/// Until what a start leaves behind is done with.
fn settling(options: &Options) -> Duration {
    options.duration() * 3
}

fn id(process: &Child) -> u32 {
    process.id().unwrap_or(0)
}

fn start(options: &Options, directory: &Path, words: &[&str]) -> Result<(Child, Instant), Failure> {
    let mut command = vec![options.binary.display().to_string(), "start".to_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    command.extend(["--data-dir".to_owned(), directory.display().to_string()]);
    let local = ["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"];
    command.extend(local.map(str::to_owned));
    for (flag, _) in PORTS {
        command.extend([flag.to_owned(), "0".to_owned()]);
    }
    let began = Instant::now();
    Ok((spawn(&command)?, began))
}

async fn end<const N: usize>(processes: [Child; N]) -> Result<(), Failure> {
    for mut process in processes {
        process.kill().await?;
    }
    Ok(())
}
