//! What befalls disks: their power goes, they fail, they are slow, and what lies on them changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::Faults;
use crate::client::Doors;
use crate::cluster::{Cluster, PATIENCE};
use crate::network::Member;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// What of a member's directory is the store's, and may be damaged. Keys and settings are not.
const STORE: [&str; 5] = ["log", "state", "snapshots", "identity", "member"];

/// Every file below a path that holds anything.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() && path.metadata().is_ok_and(|known| known.len() > 0) {
        found.push(path.to_owned());
    }
    let mut below: Vec<PathBuf> =
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    below.sort();
    below.iter().for_each(|path| files(path, found));
}

/// Changes a file of a member that is down. Says what it did.
fn strike(directory: &Path, random: &mut StdRng) -> Result<String, String> {
    let mut all = Vec::new();
    STORE.iter().for_each(|name| files(&directory.join(name), &mut all));
    if all.is_empty() {
        return Err(format!("{} holds nothing to damage", directory.display()));
    }
    let path = &all[random.random_range(0..all.len())];
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = std::fs::read(path).map_err(wrong)?;
    // Files are made longer than what is written to them so far.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    let at = random.random_range(0..written.min(bytes.len()).max(1));
    let name = path.strip_prefix(directory).unwrap_or(path).display();
    let what = match random.random_range(0..6) {
        0 => {
            std::fs::remove_file(path).map_err(wrong)?;
            return Ok(format!("{name} is gone"));
        }
        1 => {
            bytes.truncate(at);
            format!("{name} ends at {at}")
        }
        2 => {
            let from = at / PAGE * PAGE;
            let end = (from + PAGE).min(bytes.len());
            bytes[from..end].fill(0);
            format!("a page of {name} at {from} is zeros")
        }
        3 => {
            let from = at / SECTOR * SECTOR;
            let end = (from + SECTOR).min(bytes.len());
            bytes[from..end].iter_mut().for_each(|byte| *byte = random.random_range(0..=255));
            format!("a sector of {name} at {from} is noise")
        }
        _ => {
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {name} is flipped")
        }
    };
    std::fs::write(path, bytes).map_err(wrong)?;
    Ok(what)
}

impl Faults {
    /// One is killed, its files are damaged, and it is started: it must know, or need nothing of what is
    /// gone, and be back in time, by itself or replaced. What it meets of the damage while it serves ends
    /// it, and it comes back by itself.
    pub(super) async fn damage(
        &mut self,
        cluster: &mut Cluster,
        one: Member,
        and_the_leader: bool,
        doors: &Doors,
    ) -> Vec<Member> {
        cluster.kill(one).await;
        let directory = cluster.host(one).directory.clone();
        let what = match strike(&directory, &mut self.random) {
            Ok(what) => what,
            Err(error) => {
                self.failed.push(error);
                self.start(cluster, one);
                return vec![one];
            }
        };
        let leader = if and_the_leader { cluster.leader().await } else { None };
        if let Some(leader) = leader {
            cluster.kill(leader).await;
        }
        let from = self.recorder.now();
        self.start(cluster, one);
        if let Some(leader) = leader {
            self.start(cluster, leader);
        }
        let until = Instant::now() + PATIENCE;
        let fell = loop {
            if cluster.host(one).process.is_none() {
                break true;
            }
            let others = cluster.fallen();
            let fell = others.iter().any(|(member, _)| *member == one);
            for (member, how) in others.into_iter().filter(|(member, _)| *member != one) {
                self.fallen.push(format!("m{member} ended beside a damaged one: {how}"));
                self.start(cluster, member);
            }
            if fell {
                break true;
            }
            if cluster.serves(one).await.is_ok() {
                break false;
            }
            if Instant::now() > until {
                self.failed.push(format!("{what} at m{one}, and it does not serve"));
                break true;
            }
            sleep(Duration::from_millis(100)).await;
        };
        let now = self.recorder.now();
        let came = if fell { "refused" } else { "serves" };
        self.note(&format!("damage: {what}: {came}"), vec![one], from, now);
        self.hurt = Some(one);
        if !fell {
            return vec![one];
        }
        self.fell += 1;
        self.count(if and_the_leader { "damage-refused-leader-lost" } else { "damage-refused" });
        let doubt = directory.join("doubt");
        if doubt.exists() && self.comes_back(cluster, one).await {
            // Under a new id it has nothing of the damaged copy, and no reason to fall.
            self.hurt = self.hurt.filter(|_| doubt.exists());
            return vec![one];
        }
        self.make_whole(cluster, one, doors).await
    }

    /// Whether one that met damage takes its place again by itself.
    async fn comes_back(&mut self, cluster: &mut Cluster, one: Member) -> bool {
        self.start(cluster, one);
        let until = Instant::now() + PATIENCE;
        while cluster.serves(one).await.is_err() {
            let fell = cluster.fallen().iter().any(|(member, _)| *member == one);
            if fell || Instant::now() > until {
                self.failed.push(format!("m{one} met damage, and does not come back"));
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.count("damage-came-back");
        true
    }

    /// An operator puts a new one in the place of one whose copy is damaged.
    pub(super) async fn make_whole(
        &mut self,
        cluster: &mut Cluster,
        one: Member,
        doors: &Doors,
    ) -> Vec<Member> {
        cluster.kill(one).await;
        let until = Instant::now() + PATIENCE;
        loop {
            let touched = self.replace(cluster, one, doors).await;
            let gone = cluster.host(one).gone;
            if gone || Instant::now() > until {
                self.hurt = self.hurt.filter(|hurt| *hurt != one || !gone);
                return touched;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// The next writes or syncs of a member fail, for good: it must stop by itself.
    pub(super) fn fail_disk(&mut self, cluster: &Cluster, one: Member) -> Result<(), String> {
        let page = cluster.host(one).page.as_ref().ok_or("it has no page")?;
        let errors = [rustix::io::Errno::IO, rustix::io::Errno::NOSPC, rustix::io::Errno::ROFS];
        let errno = errors[self.random.random_range(0..errors.len())].raw_os_error();
        page.fail(errno, self.random.random_range(0..200))
    }
}
