//! A log that loses or changes what its member had acknowledged, while the member is down.
//!
//! The cluster is first brought to where the damaged copy matters: some members are cut off, so that what
//! is written meanwhile lies on the others alone, and one of those is damaged. Then the rest of those goes
//! down and the ones that were cut off come back: with the damaged one they have a quorum, and whatever
//! it should have forgotten in silence is lost.
//!
//! Keeps: at most one copy is damaged at a time, and an intact copy of everything is left.

use std::time::Duration;

use kontiki_raft::NodeId;
use kontiki_raft::log::{Disk, SimDisk};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::clients::Ground;
use crate::cluster::Cluster;
use crate::run::{self, Counts};

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Changes what lies on a disk behind everybody's back. Says what it did. Not `all` of it may go where the
/// store holds nothing yet: a member like that looks like one that never was, to all but the peers it wrote
/// down elsewhere, which are not part of this.
fn strike(disk: &SimDisk, all: bool, random: &mut StdRng) -> String {
    let names = disk.list().unwrap_or_default();
    let names: Vec<&String> = names.iter().filter(|name| !name.ends_with(".prepared")).collect();
    if names.is_empty() {
        return "nothing was there".into();
    }
    let name = names[random.random_range(0..names.len())].as_str();
    let mut bytes = disk.contents(name);
    // What was written, and a little of what may be written next.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let reach = (written + SECTOR).min(bytes.len()).max(1);
    let at = random.random_range(0..reach);
    let what = match random.random_range(0..7) {
        0 if all => {
            for name in names {
                disk.delete(name);
            }
            return "the whole log is gone".into();
        }
        1 => {
            disk.delete(name);
            return format!("{name} is gone");
        }
        2 => {
            bytes.truncate(at);
            format!("{name} ends at {at}")
        }
        3 => {
            let (from, end) = (at / PAGE * PAGE, (at / PAGE * PAGE + PAGE).min(bytes.len()));
            bytes[from..end].fill(0);
            format!("a page of {name} at {from} is zeros")
        }
        4 => {
            let other = random.random_range(0..reach) / SECTOR * SECTOR;
            let at = at / SECTOR * SECTOR;
            for offset in 0..SECTOR {
                if at + offset < bytes.len() && other + offset < bytes.len() {
                    bytes.swap(at + offset, other + offset);
                }
            }
            format!("sectors of {name} at {at} and {other} are swapped")
        }
        _ => {
            let bit = random.random_range(0..8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
            format!("bit {bit} of byte {at} of {name} is flipped")
        }
    };
    disk.set_contents(name, &bytes);
    what
}

/// See above. Clusters of one are left alone: nobody could make good what they lose.
pub async fn befall(
    cluster: &mut Cluster,
    ground: &Ground,
    random: &mut StdRng,
    counts: &mut Counts,
) -> Result<String, String> {
    let ids = run::whole(cluster, ground).await?;
    if ids.len() < 3 {
        return Ok("nothing is damaged where there is one copy".into());
    }
    let victim = ids[random.random_range(0..ids.len())];
    let others: Vec<u64> = ids.iter().copied().filter(|id| *id != victim).collect();
    let (apart, beside) = others.split_at(others.len() / 2);
    for id in apart {
        for other in beside.iter().chain([&victim]) {
            cluster.network.cut(NodeId(*id), NodeId(*other));
        }
    }
    sleep(cluster.heartbeat() * random.random_range(10..60)).await;
    ground.open(Vec::new());
    let kept = cluster.replica(victim)?.store().durable();
    cluster.crash(victim).await?;
    let what = strike(&cluster.members[&victim].log_disk, kept.0 > 0, random);
    counts.damages += 1;
    for id in beside {
        cluster.crash(*id).await?;
    }
    cluster.heal();
    let started = cluster.start(victim).await;
    run::open(ground, cluster);
    let Err(error) = started else {
        sleep(cluster.heartbeat() * random.random_range(20..100)).await;
        return Ok(format!("{what} at {victim}, which needs none of it"));
    };
    counts.found += 1;
    // Whoever is refused for what it lost has that written down: it must not be tried a second time.
    if error.contains("has lost data") && cluster.condemned(victim)?.is_none() {
        return Err(format!("{victim} forgets that it has lost data: {error}"));
    }
    for id in beside {
        cluster.start(*id).await?;
    }
    run::open(ground, cluster);
    sleep(Duration::from_millis(1)).await;
    let fresh = run::stand_in(cluster, ground, victim).await?;
    counts.changes += 2;
    Ok(format!("{what} at {victim}, which knows; {fresh} takes its place"))
}
