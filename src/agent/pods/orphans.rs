//! What is left on this node of pods that nobody knows any more.
//!
//! Never: touches a pod whose worker may be at work; sandboxes without our labels; what is below a
//! mount.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::{Ground, view};
use crate::agent::volumes::PodFolder;

/// As long as a pod usually has to end.
const GRACE_S: i64 = 30;

/// Ends and removes what is there of pods that are not `known`.
pub(super) async fn clear(ground: &Ground, known: &HashSet<String>) {
    let runtime = ground.parts.runtime.as_ref();
    let Ok(sandboxes) = runtime.sandboxes(None).await else { return };
    let Ok(containers) = runtime.containers(None).await else { return };
    let orphan = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(view::POD_UID).is_some_and(|uid| !known.contains(uid))
    };
    for it in containers.iter().filter(|it| orphan(&it.labels)) {
        tracing::info!(container = it.id, "belongs to a pod that is gone: removed");
        let stopped = runtime.stop_container(&it.id, GRACE_S).await;
        if let Err(error) = stopped.and(runtime.remove_container(&it.id).await) {
            tracing::warn!(container = it.id, %error, "does not go");
        }
    }
    for it in sandboxes.iter().filter(|it| orphan(&it.labels)) {
        let stopped = runtime.stop_sandbox(&it.id).await;
        if let Err(error) = stopped.and(runtime.remove_sandbox(&it.id).await) {
            tracing::warn!(sandbox = it.id, %error, "does not go");
        }
    }
    let pods = &ground.parts.settings.directories.pods;
    for entry in std::fs::read_dir(pods).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&uid)
            && let Err(error) = PodFolder::new(pods, &uid).remove()
        {
            tracing::warn!(uid, %error, "the folder of a pod that is gone does not go");
        }
    }
}

pub(super) fn remove_folder(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
