//! From a crash to the first read, with much in the store and some of it only in the log.

use kontiki_raft::storage::request::KeyRange;
use tokio::task::JoinSet;

use crate::Failure;
use crate::ground::Cluster;
use crate::load::{key, values};
use crate::meter::Meter;
use crate::options::Options;
use crate::report::{Figure, Measured, Report};
use crate::writes::{fill, put};

const VALUE_BYTES: usize = 4096;
/// Put after the last sync of the store: what has to be applied again.
const TAIL_MIB: u64 = 64;

pub async fn measure(options: &Options, report: &mut Report) -> Result<(), Failure> {
    if !options.wants("restart") {
        return Ok(());
    }
    let mut cluster = Cluster::of(1, options).await?;
    let keys = |mib: u64| mib * (1 << 20) / VALUE_BYTES as u64;
    let all = keys(options.restart_mib);
    restart(&mut cluster, "restart, empty".into(), 0, report).await?;
    fill(cluster.leader(), all, VALUE_BYTES).await?;
    let mib = options.restart_mib;
    restart(&mut cluster, format!("restart, {mib} MiB"), all, report).await?;
    put_again(&cluster, keys(TAIL_MIB).min(all)).await?;
    let what = format!("restart, {mib} MiB and {TAIL_MIB} MiB to apply again");
    restart(&mut cluster, what, all, report).await?;
    cluster.stop().await;
    Ok(())
}

async fn put_again(cluster: &Cluster, keys: u64) -> Result<(), Failure> {
    let values = values(VALUE_BYTES);
    let mut tasks = JoinSet::new();
    for number in 0..keys {
        let (replica, value) = (cluster.leader().clone(), values[number as usize % 64].clone());
        tasks.spawn(async move { replica.propose(put(key(number), value)).await });
        // No more at once than a member lets wait.
        if tasks.len() == 1000 {
            while let Some(done) = tasks.join_next().await {
                done??;
            }
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn restart(
    cluster: &mut Cluster,
    what: String,
    keys: u64,
    report: &mut Report,
) -> Result<(), Failure> {
    let meter = Meter::start();
    cluster.restart().await?;
    let measured = Measured::Took(meter.stop().wall);
    let (members, at_once, value_bytes) = (1, 0, VALUE_BYTES);
    report.figure(Figure { what, members, at_once, value_bytes, measured, goal: None });
    let found = cluster.leader().store().view().count(&KeyRange::prefix("/registry/pods/"))?;
    if found == keys { Ok(()) } else { Err(format!("{found} of {keys} keys are there").into()) }
}
