//! What a node has on disk of what masters last told it, for the time when none answers.
//!
//! ```text
//! kontiki-WHAT 1 SHA-256 of what follows, in hex
//! ...
//! ```
//! Keeps: a file is whole or not there, and its owner's alone; damage is seen.
//! Never: is waited for by anybody who serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::pki::{self, Readers};

/// Without a master for so long, what is on disk has to do.
pub const AFTER: Duration = Duration::from_secs(10);
const BYTES_MAX: u64 = 1 << 30;
/// Changes of so long are written together.
const GATHER: Duration = Duration::from_secs(1);
/// No more than so much is written in a second, whatever changes.
const BYTES_A_SECOND: usize = 1 << 20;
/// After a disk that could not be written to.
const PAUSE: Duration = Duration::from_secs(30);

/// A file, and what it holds: a word of its head.
#[derive(Clone, Debug)]
pub struct Kept {
    path: PathBuf,
    what: &'static str,
}

impl Kept {
    #[must_use]
    pub fn new(path: PathBuf, what: &'static str) -> Kept {
        Kept { path, what }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn head(&self) -> String {
        format!("kontiki-{} 1 ", self.what)
    }

    /// What was written, where there is something.
    pub fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let length = match fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| error.to_string())?.len(),
        };
        if length > BYTES_MAX {
            return Err(format!("{length} bytes are more than it can have"));
        }
        let mut bytes = fs::read(&self.path).map_err(|error| error.to_string())?;
        let damaged = || "it is damaged".to_owned();
        let rest = bytes.strip_prefix(self.head().as_bytes()).ok_or_else(damaged)?;
        let end = rest.iter().position(|it| *it == b'\n').ok_or_else(damaged)?;
        let (sum, body) = (&rest[..end], &rest[end + 1..]);
        if sum != hex(body).as_bytes() {
            return Err(damaged());
        }
        let head = bytes.len() - body.len();
        bytes.drain(..head);
        Ok(Some(bytes))
    }

    pub fn write(&self, body: &[u8]) -> Result<(), String> {
        let mut bytes = format!("{}{}\n", self.head(), hex(body)).into_bytes();
        bytes.extend(body);
        if let Some(folder) = self.path.parent() {
            pki::make_folder(folder).map_err(|error| error.to_string())?;
        }
        pki::replace(&self.path, &bytes, Readers::Owner).map_err(|error| error.to_string())
    }

    /// The same as a value; what cannot be read is as good as none.
    pub async fn value<T: DeserializeOwned + Send + 'static>(&self) -> Option<T> {
        let from = self.clone();
        let read = spawn_blocking(move || {
            let bytes = from.read()?;
            let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
            bytes.map(parse).transpose().map_err(|error| error.to_string())
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.unwrap_or_else(|why| {
            tracing::warn!(file = %self.path.display(), why, "is passed over");
            None
        })
    }

    /// Writes a body down, and waits as long as it has to rest before the next one.
    pub async fn put(&self, body: Vec<u8>) -> Result<(), String> {
        let (to, length) = (self.clone(), body.len());
        let written = spawn_blocking(move || to.write(&body)).await;
        match written.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                let seconds = u64::try_from(length / BYTES_A_SECOND).unwrap_or(u64::MAX);
                sleep(GATHER.saturating_add(Duration::from_secs(seconds))).await;
                Ok(())
            }
            Err(why) => {
                tracing::warn!(file = %self.path.display(), why, "cannot be kept");
                sleep(PAUSE).await;
                Err(why)
            }
        }
    }

    /// The same with a value.
    pub async fn put_value(&self, value: &impl Serialize) -> Result<(), String> {
        let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        self.put(body).await
    }
}

fn hex(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_by_its_owner_alone_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("assigned/things"), "things");
        assert_eq!(kept.read(), Ok(None));
        kept.write(b"one\ntwo").unwrap();
        assert_eq!(kept.read(), Ok(Some(b"one\ntwo".to_vec())));
        assert_eq!(fs::metadata(kept.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let other = Kept::new(kept.path().to_owned(), "others");
        assert_eq!(other.read(), Err("it is damaged".into()));
        let mut bytes = fs::read(kept.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(kept.path(), bytes).unwrap();
        assert_eq!(kept.read(), Err("it is damaged".into()));
    }
}
