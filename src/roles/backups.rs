//! Archives of the store, made now and then, the oldest let go: on this machine's own disk, and in a bucket
//! if there is one.
//!
//! ```text
//! DIR/backups/<revision, 20 digits>.kontiki                    by every master
//! s3://BUCKET/PREFIX/<cluster>/<revision, 20 digits>.kontiki   by the master that leads at its turn
//! ```
//!
//! Keeps: what has that name is whole: it was checked after it was written. The newest ones stay, as
//! many as were asked for; nothing else is touched, least of all what another cluster has in the bucket.
//! A failed archive is told, in the log and in `kontiki status`, and made at the next turn, which then comes
//! sooner; the master goes on.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use kontiki_api::cluster::ArchiveRecord;
use kontiki_raft::Replica;
use kontiki_raft::replica::Role;
use kontiki_raft::storage::snapshot::{Snapshot, archive};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::master::Schedule;
use crate::pki;
use crate::snapshots::{self, Bucket, Object};

const FOLDER: &str = "backups";
/// After something went wrong, unless the next turn comes sooner anyway.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(300);
const PIECE_BYTES: usize = 256 << 10;

/// Where copies are kept, away from this machine.
#[derive(Clone, Debug)]
pub struct Target {
    pub bucket: Bucket,
    pub folder: Object,
}

pub async fn run(
    replica: Replica,
    directory: PathBuf,
    schedule: Schedule,
    target: Option<Target>,
    record: ArchiveRecord,
    stop: CancellationToken,
) -> Result<(), String> {
    let folder = directory.join(FOLDER);
    record.scheduled(
        schedule.interval.as_secs().max(1),
        target.as_ref().map(|target| target.folder.to_string()),
    );
    let mut pause = schedule.interval;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let turn = async {
            let path = archive_here(&replica, &folder, schedule.retention).await?;
            match &target {
                Some(target) if replica.status().borrow().role == Role::Leader => {
                    let sent = send(target, &path, schedule.retention).await;
                    sent.map_err(|error| error.to_string())
                }
                _ => Ok(()),
            }
        };
        let done = tokio::select! {
            done = turn => done,
            () = stop.cancelled() => return Ok(()),
        };
        pause = match done {
            Ok(()) => {
                record.made();
                schedule.interval
            }
            Err(reason) => {
                record.failed(&reason);
                tracing::error!(reason, "the store is not archived");
                schedule.interval.min(TRY_AGAIN_AFTER)
            }
        };
    }
}

/// The archive of the store as it is now, on this machine.
async fn archive_here(
    replica: &Replica,
    folder: &Path,
    retention: usize,
) -> Result<PathBuf, String> {
    let snapshot = replica.take_snapshot().await.map_err(|error| error.to_string())?;
    let folder = folder.to_owned();
    let made = tokio::task::spawn_blocking(move || make(&snapshot, &folder, retention));
    let (path, fresh) = made.await.map_err(|panic| panic.to_string())??;
    if fresh {
        tracing::info!(path = %path.display(), "store archived");
    } else {
        tracing::debug!("nothing has changed since the last archive");
    }
    Ok(path)
}

/// Copies an archive into the bucket, unless it is there, and lets the oldest go.
async fn send(target: &Target, path: &Path, retention: usize) -> Result<(), snapshots::Error> {
    let Target { bucket, folder } = target;
    let there = bucket.list(folder).await?;
    let mut names: Vec<String> = there.iter().map(|entry| entry.object.name().to_owned()).collect();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if !names.contains(&name) {
        let failed = |error: std::io::Error| {
            snapshots::Error::Failed(format!("{}: {error}", path.display()))
        };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let pieces = ReaderStream::with_capacity(file, PIECE_BYTES);
        let object = folder.join(&name);
        bucket.write(&object, pieces.map_err(|error| error.to_string())).await?;
        tracing::info!(%object, "archive copied");
        names.push(name);
    }
    for name in snapshots::superfluous(names, retention) {
        bucket.delete(&folder.join(&name)).await?;
    }
    Ok(())
}

/// Makes an archive, unless there is one of this revision. Blocks for as long as that takes. Returns where
/// it is, and whether it is a new one.
fn make(
    snapshot: &Arc<Snapshot>,
    folder: &Path,
    retention: usize,
) -> Result<(PathBuf, bool), String> {
    pki::make_folder(folder).map_err(|error| error.to_string())?;
    let revision = snapshot.manifest().facts().revision;
    let path = folder.join(snapshots::name_of(revision.0));
    if path.exists() {
        return Ok((path, false));
    }
    let part = path.with_extension("part");
    let written = write(snapshot, &part).and_then(|()| {
        fs::rename(&part, &path)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|error| format!("{}: {error}", path.display()))
    });
    if let Err(reason) = written {
        let _ = fs::remove_file(&part);
        return Err(reason);
    }
    let names = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    for name in snapshots::superfluous(names, retention) {
        let old = folder.join(name);
        fs::remove_file(&old).map_err(|error| format!("{}: {error}", old.display()))?;
    }
    Ok((path, true))
}

fn write(snapshot: &Arc<Snapshot>, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    archive::write(snapshot, &mut file).map_err(|error| error.to_string())?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    let read = std::io::BufReader::new(File::open(path).map_err(failed)?);
    archive::inspect(read).map(drop).map_err(|error| error.to_string())
}
