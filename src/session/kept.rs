//! What is assigned, on disk, for the time when no master answers.
//!
//! ```text
//! DIR/assigned/set      `crate::kept`: one protobuf message, Assigned with all of the set
//! ```
//! What cannot be read is as good as none.

use std::path::Path;
use std::sync::Arc;

use kontiki_api::tunnel::wire::Assigned;
use prost::Message as _;
use tokio::task::spawn_blocking;

use super::Set;
use crate::kept::Kept;

fn file(path: &Path) -> Kept {
    Kept::new(path.to_owned(), "assignments")
}

/// What was kept, where there is something that can be read.
pub(super) async fn read(path: &Path, set: &Set) {
    let from = file(path);
    let read = spawn_blocking(move || parse(&from)).await;
    let read = read.unwrap_or_else(|error| Err(error.to_string()));
    match read.and_then(|kept| kept.map_or(Ok(()), |kept| set.remember(kept))) {
        Ok(()) => {}
        Err(why) => {
            let file = path.display();
            tracing::warn!(%file, why, "what was assigned last is not known; a master will say it");
        }
    }
}

fn parse(file: &Kept) -> Result<Option<Assigned>, String> {
    let Some(body) = file.read()? else { return Ok(None) };
    Assigned::decode(body.as_slice()).map(Some).map_err(|error| error.to_string())
}

/// Writes the set down whenever it has changed.
pub(super) async fn follow(path: &Path, set: &Arc<Set>) {
    let file = file(path);
    let mut changes = set.changes();
    while changes.changed().await.is_ok() {
        let Some(whole) = set.whole() else { continue };
        if file.put(whole.encode_to_vec()).await.is_err() {
            changes.mark_changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::set::tests::{item, sum};

    #[tokio::test]
    async fn what_is_kept_is_remembered_and_damage_is_as_good_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("assigned/set");
        let whole = Assigned {
            revision: 7,
            whole: true,
            put: vec![item("a", "1")],
            digest: sum(&[("a", "1")]),
            ..Assigned::default()
        };
        file(&path).write(&whole.encode_to_vec()).unwrap();
        let set = Set::default();
        read(&path, &set).await;
        assert!(set.trust() && set.get("pods", "n", "a").is_some());
        file(&path).write(b"no message").unwrap();
        let set = Set::default();
        read(&path, &set).await;
        assert!(!set.trust());
    }
}
