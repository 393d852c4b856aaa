//! A whole master as its users meet it: the API alone, and with its loops and hollow nodes.
//!
//! Keeps: processor time and memory are the server's own, never the driver's.

mod client;
mod cluster;
mod figures;
mod master;
mod node;
mod objects;
mod reads;
mod watchers;
mod writes;

use std::time::Duration;

use tokio::time::sleep;

use crate::Failure;
use crate::load::Servers;
use crate::options::Options;
use figures::{Figures, Goal};
use master::Master;

/// How many pods there are to be listed.
const PODS: usize = 10_000;

/// What one API server does: `kontiki start master api`, without controllers.
pub async fn api(options: &Options) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let folder = tempfile::Builder::new().prefix("api-").tempdir_in(&options.directory)?;
    let (master, took) = Master::start(options, folder.path(), &["api"]).await?;
    figures.once("start to ready", took.as_secs_f64(), "s", Some(4.3), Some(Goal::Below(1.0)));
    idle(options, &master, &mut figures).await?;
    let pods = options.pods.unwrap_or(if options.quick { PODS / 5 } else { PODS });
    let before = master.resident_mib();
    figures.once("memory, idle", before, "MiB", Some(330.0), Some(Goal::Below(80.0)));
    objects::namespace(&master, objects::LISTED).await?;
    objects::namespace(&master, objects::MADE).await?;
    objects::fill(&master, pods).await?;
    // What is behind the writes (tables of the store, caches) settles.
    sleep(options.duration()).await;
    let filled = master.resident_mib();
    let with = format!("memory, {pods} pods of 4 KiB");
    let whole = pods == PODS;
    let beside = whole.then_some(1070.0);
    figures.once(&with, filled, "MiB", beside, whole.then_some(Goal::Below(200.0)));
    let each = (filled - before) * 1024.0 / pods as f64;
    figures.once("memory for each pod", each, "KiB", whole.then_some(75.8), None);
    reads::measure(options, &master, pods, &mut figures).await?;
    writes::measure(options, &master, &mut figures).await?;
    watchers::measure(options, &master, &mut figures).await?;
    figures.once("memory, after all", master.resident_mib(), "MiB", None, None);
    Ok(figures)
}

/// What a server costs that nobody asks anything.
async fn idle(options: &Options, master: &Master, figures: &mut Figures) -> Result<(), Failure> {
    let wait = options.duration().max(Duration::from_secs(2));
    let before = master.processor();
    sleep(wait).await;
    let spent = master.processor().saturating_sub(before);
    let share = spent.as_secs_f64() / wait.as_secs_f64() * 1e3;
    figures.once("CPU, idle", share, "ms/s", None, None);
    Ok(())
}

/// A machine with containers, and an agent by itself.
pub async fn node(options: &Options) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    node::measure(options, &mut figures).await?;
    Ok(figures)
}

/// The whole of a master with so many hollow nodes, for each number of nodes that is asked for.
pub async fn cluster(options: &Options) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    for &nodes in &options.nodes {
        cluster::measure(options, nodes, &mut figures).await?;
    }
    Ok(figures)
}
