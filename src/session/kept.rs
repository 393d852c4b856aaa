//! The set on disk, for the time when no master answers.
//!
//! ```text
//! kontiki-assignments 1 SHA256\n      of what follows, in hex
//! the message `Assigned` that is all of the set
//! ```
//! Keeps: the file is whole or not there, and nobody but its owner may read it: there are secrets in it. It
//! is a copy; one that cannot be read is as good as none.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::tunnel::wire::Assigned;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use super::Set;
use crate::pki::{self, Readers};

const HEAD: &str = "kontiki-assignments 1 ";
const BYTES_MAX: u64 = 1 << 30;
/// Changes of so long are written together.
const GATHER: Duration = Duration::from_secs(1);
/// After a disk that could not be written to.
const PAUSE: Duration = Duration::from_secs(30);

/// What was kept, where there is something that can be read.
pub(super) async fn read(path: &Path, set: &Set) {
    let from = path.to_owned();
    let read = tokio::task::spawn_blocking(move || parse(&from)).await;
    let read = read.unwrap_or_else(|error| Err(error.to_string()));
    match read.and_then(|kept| kept.map_or(Ok(()), |kept| set.remember(kept))) {
        Ok(()) => {}
        Err(why) => {
            let file = path.display();
            tracing::warn!(%file, why, "what was assigned last is not known; a master will say it");
        }
    }
}

fn parse(path: &Path) -> Result<Option<Assigned>, String> {
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| error.to_string())?.len(),
    };
    if length > BYTES_MAX {
        return Err(format!("{length} bytes are more than it can have"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let damaged = || "it is damaged".to_owned();
    let rest = bytes.strip_prefix(HEAD.as_bytes()).ok_or_else(damaged)?;
    let end = rest.iter().position(|it| *it == b'\n').ok_or_else(damaged)?;
    let (sum, body) = (&rest[..end], &rest[end + 1..]);
    if sum != hex(body).as_bytes() {
        return Err(damaged());
    }
    Assigned::decode(body).map(Some).map_err(|error| error.to_string())
}

fn hex(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the set down whenever it has changed.
pub(super) async fn follow(path: &Path, set: &Arc<Set>) {
    let mut changes = set.changes();
    while changes.changed().await.is_ok() {
        let Some(whole) = set.whole() else { continue };
        let to = path.to_owned();
        let written = tokio::task::spawn_blocking(move || write(&to, &whole)).await;
        match written.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => sleep(GATHER).await,
            Err(why) => {
                let file = path.display();
                tracing::warn!(%file, why, "what is assigned cannot be kept");
                sleep(PAUSE).await;
                changes.mark_changed();
            }
        }
    }
}

fn write(path: &Path, whole: &Assigned) -> Result<(), String> {
    let body = whole.encode_to_vec();
    let mut bytes = format!("{HEAD}{}\n", hex(&body)).into_bytes();
    bytes.extend(body);
    if let Some(folder) = path.parent() {
        pki::make_folder(folder).map_err(|error| error.to_string())?;
    }
    pki::replace(path, &bytes, Readers::Owner).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::session::set::tests::{item, sum};

    #[tokio::test]
    async fn what_is_kept_is_read_again_by_its_owner_alone_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("assigned/set");
        assert_eq!(parse(&path), Ok(None));
        let whole = Assigned {
            revision: 7,
            whole: true,
            put: vec![item("a", "1")],
            digest: sum(&[("a", "1")]),
            ..Assigned::default()
        };
        write(&path, &whole).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let set = Set::default();
        read(&path, &set).await;
        assert!(set.trust() && set.get("pods", "n", "a").is_some());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(parse(&path), Err("it is damaged".into()));
        let set = Set::default();
        read(&path, &set).await;
        assert!(!set.trust());
    }
}
