//! One run: a cluster is started, worked on and broken, healed, looked at, and judged.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::GetOptions;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::check::{self, Verdict};
use crate::client::{Doors, stored, unsigned};
use crate::cluster::{Cluster, Footing, PATIENCE, Target};
use crate::disk::Disks;
use crate::fault::{Faults, Kind};
use crate::history::{Ask, History, Outcome, Record, Recorder, Rest, Run, Step, Stored};
use crate::workload::{self, Ground, PREFIX, Witnesses, Workload};

#[derive(Clone, Debug)]
pub struct Options {
    pub target: Target,
    pub binary: PathBuf,
    pub members: u32,
    pub time: Duration,
    pub seed: u64,
    pub faults: Vec<Kind>,
    pub workloads: Vec<Workload>,
    /// Disks say that they have synced what they have not.
    pub lying: bool,
    /// How long each client rests between two requests, at most.
    pub rest_max: Duration,
    /// How long it is from one fault to the next, at most.
    pub pause_max: Duration,
    /// Where the cluster lives and the history is written.
    pub folder: PathBuf,
}

pub struct Ended {
    pub history: History,
    pub verdict: Verdict,
    /// Refused or failed commands of an operator: told, and no violation.
    pub failed: Vec<String>,
    /// How often each fault was begun.
    pub faults: BTreeMap<String, usize>,
    /// How often a process ended by itself.
    pub fell: usize,
}

/// Leases that ended in the last second have this long to take their keys with them.
const LEASES_END: Duration = Duration::from_secs(8);

pub async fn run(options: &Options) -> Result<Ended, String> {
    let folder = &options.folder;
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join("history.jsonl");
    let recorder = Recorder::create(&file)?;
    recorder.add(&Record::Run(described(options).await));
    let number = (std::process::id() as u16) ^ (options.seed as u16).rotate_left(3);
    let disks = disks(&options.faults);
    let pages = options.lying || options.faults.iter().any(|kind| kind.needs_page());
    let footing = Footing { disks, pages, lying: options.lying };
    let root = folder.join("cluster");
    let mut cluster =
        Cluster::start(options.target, &options.binary, &root, options.members, number, footing)
            .await?;
    let mut faults = Faults::new(options, recorder.clone());
    let rest = drive(options, &mut cluster, &mut faults, &recorder).await?;
    recorder.add(&Record::Rest(rest));
    recorder.finish();
    for member in cluster.members() {
        cluster.stop(member).await;
    }
    drop(cluster);
    let history = History::read(&file)?;
    let verdict = check::judge(&history);
    Ok(Ended { history, verdict, failed: faults.failed, faults: faults.counts, fell: faults.fell })
}

/// What members must stand on for these.
#[must_use]
pub fn disks(faults: &[Kind]) -> Disks {
    if faults.iter().any(|kind| kind.cuts_power()) {
        Disks::Cuttable
    } else if faults.contains(&Kind::DiskFull) {
        Disks::Small
    } else {
        Disks::Plain
    }
}

async fn described(options: &Options) -> Run {
    let version = tokio::process::Command::new(&options.binary)
        .arg(if options.target == Target::Etcd { "--version" } else { "version" })
        .output()
        .await;
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    Run {
        target: format!("{:?}", options.target).to_lowercase(),
        version: version.unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
        seed: options.seed,
        members: options.members,
        seconds: options.time.as_secs(),
        faults: options.faults.iter().map(|kind| kind.name()).collect(),
        workloads: options.workloads.iter().map(|it| it.name().to_owned()).collect(),
        prefix: PREFIX.to_owned(),
    }
}

fn doors(cluster: &Cluster) -> Result<Doors, String> {
    let doors = cluster.members().into_iter().map(|member| cluster.door(member));
    Ok(Arc::new(Mutex::new(doors.collect::<Result<_, _>>()?)))
}

async fn drive(
    options: &Options,
    cluster: &mut Cluster,
    faults: &mut Faults,
    recorder: &Recorder,
) -> Result<Rest, String> {
    let refuses = options.target == Target::Kontiki;
    let doors = doors(cluster)?;
    let ground = Ground::new(doors, recorder.clone(), options.seed, refuses, options.rest_max);
    let ground = Arc::new(ground);
    // The first write there is: from it on the witnesses know everything.
    let first = write(&ground, "t/first", "first").await?;
    let witnesses = Witnesses::start(&ground, first);
    let mut clients = workload::start(&ground, &options.workloads);

    faults.run(cluster, &ground, &witnesses, Instant::now() + options.time).await;
    faults.heal(cluster).await;
    let mut rest = Rest::default();
    rest.stuck.extend(cluster.until_serving(PATIENCE).await);
    rest.healed = recorder.now();
    // In peace for a while: what was promised is also to go on.
    sleep(Duration::from_secs(2)).await;
    ground.stop.store(true, Ordering::Relaxed);
    if timeout(PATIENCE, async { while clients.join_next().await.is_some() {} }).await.is_err() {
        rest.stuck.push("a client does not end".into());
    }
    sleep(LEASES_END).await;
    let last = write(&ground, "t/last", "last").await?;
    ground.last.store(last, Ordering::Relaxed);
    rest.stuck.extend(witnesses.finish().await);
    rest.compacted = ground.compacted.load(Ordering::Relaxed);
    look(cluster, &mut rest, recorder).await;
    if let Some(copy) = faults.copy.take() {
        match restored(cluster, &copy).await {
            Ok(found) => rest.restored = Some(found),
            Err(error) => rest.stuck.push(format!("a copy was not restored: {error}")),
        }
    }
    faults.look_after(cluster);
    rest.stuck.append(&mut faults.fallen);
    rest.at = recorder.now();
    Ok(rest)
}

/// Writes until it is acknowledged, each time another value.
async fn write(ground: &Ground, key: &str, value: &str) -> Result<u64, String> {
    let mut client = ground.client(3000);
    let until = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let value = format!("{value}-{attempt}");
        let step = Step::Put { key: key.to_owned(), value, lease: 0 };
        let outcome = client.ask("mark", Ask { then: vec![step], ..Ask::default() }).await;
        match outcome {
            Outcome::Done { revision, .. } => return Ok(revision),
            other if Instant::now() > until => {
                return Err(format!("nothing is written: {other:?}"));
            }
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
    Err("nothing is written".to_owned())
}

type Keys = Vec<(String, Stored)>;

async fn keys(cluster: &Cluster, member: u32, revision: u64) -> Result<(u64, Keys), String> {
    let mut client = cluster.door(member)?.connect().await?;
    let at = i64::try_from(revision).unwrap_or(i64::MAX);
    let options = GetOptions::new().with_prefix().with_revision(at);
    let asked = timeout(PATIENCE, client.get(PREFIX, Some(options))).await;
    let got = asked.map_err(|_| format!("m{member} does not answer"))?;
    let got = got.map_err(|error| format!("m{member}: {error}"))?;
    let at = unsigned(got.header().map_or(0, |header| header.revision()));
    Ok((at, got.kvs().iter().map(stored).collect()))
}

/// Waits until all members say the same of one revision, or patience ends.
async fn look(cluster: &Cluster, rest: &mut Rest, recorder: &Recorder) {
    let Some(first) = cluster.members().first().copied() else { return };
    match keys(cluster, first, 0).await {
        Ok((revision, keys)) => {
            (rest.revision, rest.keys, rest.at) = (revision, keys, recorder.now());
        }
        Err(error) => rest.stuck.push(error),
    }
    let revision = i64::try_from(rest.revision).unwrap_or(i64::MAX);
    for member in cluster.members() {
        let until = Instant::now() + PATIENCE;
        loop {
            let asked = async {
                let mut client = cluster.door(member)?.connect().await?;
                client.hash_kv(revision).await.map_err(|error| error.to_string())
            };
            let asked = timeout(Duration::from_secs(5), asked).await;
            match asked.map_err(|_| "no answer".to_owned()).and_then(|asked| asked) {
                Ok(hash) => {
                    rest.hashes.push((format!("m{member}"), u64::from(hash.hash())));
                    break;
                }
                Err(error) if Instant::now() > until => {
                    rest.stuck.push(format!("m{member} has no hash of {revision}: {error}"));
                    break;
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// What a copy holds, as of the revision up to which it goes.
async fn restored(cluster: &Cluster, copy: &Path) -> Result<(u64, Keys), String> {
    // Revisions of the restored cluster go on far above those of the lost one, and the newest key does not tell: what
    // came after it may have been a deletion.
    let revision = cluster.revision_of(copy).await?;
    let restored = cluster.restore(copy).await?;
    let (_, keys) = keys(&restored, 1, 0).await?;
    Ok((revision, keys))
}

/// How many operations ended in which way, by workload.
#[must_use]
pub fn outcomes(history: &History) -> HashMap<String, [usize; 3]> {
    let mut counts: HashMap<String, [usize; 3]> = HashMap::new();
    for operation in &history.operations {
        let count = counts.entry(operation.workload.clone()).or_default();
        count[match operation.outcome {
            Outcome::Done { .. } => 0,
            Outcome::Refused(_) => 1,
            Outcome::Unknown(_) => 2,
        }] += 1;
    }
    counts
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::ValueEnum;

    use super::*;

    /// The binary that the workspace's tests are built with.
    pub(crate) fn binary() -> PathBuf {
        let own = std::env::current_exe().unwrap();
        let binary = own.parent().and_then(Path::parent).unwrap().join("kontiki");
        assert!(binary.exists(), "build {} first: `cargo build`", binary.display());
        binary
    }

    /// The short form of `make faults`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn three_processes_keep_their_promises_under_faults() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            target: Target::Kontiki,
            binary: binary(),
            members: 3,
            time: Duration::from_secs(20),
            seed: 1,
            faults: Kind::USUAL.into_iter().filter(|kind| *kind != Kind::Replace).collect(),
            workloads: Workload::value_variants().to_vec(),
            lying: false,
            rest_max: Duration::from_millis(100),
            pause_max: Duration::from_millis(2500),
            folder: folder.path().to_owned(),
        };
        let ended = run(&options).await.unwrap();
        assert!(ended.verdict.holds(), "{:#?}", ended.verdict.violations);
        assert!(ended.verdict.operations > 200, "{:?}", ended.verdict);
    }
}
