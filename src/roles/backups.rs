//! Archives of the store on this machine's own disk, made now and then, the oldest let go.
//!
//! ```text
//! DIR/backups/<revision, 20 digits>.kontiki
//! ```
//!
//! Keeps: a file of that name is whole: it was checked after it was written. The newest ones stay, as
//! many as were asked for; nothing else in the folder is touched.
//! A failed archive is told and made at the next turn; the master goes on.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kontiki_raft::Replica;
use kontiki_raft::storage::snapshot::{Snapshot, archive};
use tokio_util::sync::CancellationToken;

use super::master::Schedule;
use crate::pki;

const FOLDER: &str = "backups";
const EXTENSION: &str = "kontiki";

pub async fn run(
    replica: Replica,
    directory: PathBuf,
    schedule: Schedule,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(schedule.interval) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let snapshot = match replica.take_snapshot().await {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::error!(%error, "the store is not archived");
                continue;
            }
        };
        let folder = directory.join(FOLDER);
        let made =
            tokio::task::spawn_blocking(move || make(&snapshot, &folder, schedule.retention));
        match made.await {
            Ok(Ok(Some(path))) => tracing::info!(path = %path.display(), "store archived"),
            Ok(Ok(None)) => tracing::debug!("nothing has changed since the last archive"),
            Ok(Err(reason)) => tracing::error!(reason, "the store is not archived"),
            Err(panic) => tracing::error!(%panic, "the store is not archived"),
        }
    }
}

/// Makes an archive, unless there is one of this revision. Blocks for as long as that takes.
fn make(
    snapshot: &Arc<Snapshot>,
    folder: &Path,
    retention: usize,
) -> Result<Option<PathBuf>, String> {
    pki::make_folder(folder).map_err(|error| error.to_string())?;
    let revision = snapshot.manifest().facts().revision;
    let path = folder.join(format!("{:020}.{EXTENSION}", revision.0));
    if path.exists() {
        return Ok(None);
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
    for name in superfluous(names, retention) {
        let old = folder.join(name);
        fs::remove_file(&old).map_err(|error| format!("{}: {error}", old.display()))?;
    }
    Ok(Some(path))
}

fn write(snapshot: &Arc<Snapshot>, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    archive::write(snapshot, &mut file).map_err(|error| error.to_string())?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    let read = std::io::BufReader::new(File::open(path).map_err(failed)?);
    archive::inspect(read).map(drop).map_err(|error| error.to_string())
}

/// Which archives go, so that the newest `retention` stay.
fn superfluous(names: Vec<String>, retention: usize) -> Vec<String> {
    let ours = |name: &String| {
        name.strip_suffix(EXTENSION)
            .and_then(|name| name.strip_suffix('.'))
            .is_some_and(|revision| revision.len() == 20 && revision.parse::<u64>().is_ok())
    };
    let mut names: Vec<String> = names.into_iter().filter(ours).collect();
    names.sort();
    names.truncate(names.len().saturating_sub(retention));
    names
}

#[cfg(test)]
mod tests {
    use super::superfluous;

    #[test]
    fn the_newest_stay_and_what_is_not_ours_is_not_touched() {
        let name = |revision: u64| format!("{revision:020}.kontiki");
        let mut names: Vec<String> = [9, 100, 20, 3].map(name).into();
        names.extend(["notes.txt".into(), "1.kontiki".into()]);
        assert_eq!(superfluous(names.clone(), 2), [name(3), name(9)]);
        assert!(superfluous(names, 4).is_empty());
    }
}
