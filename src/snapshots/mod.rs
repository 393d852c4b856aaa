//! Where archives of the store lie: in files, or as objects of a bucket that is reached as S3 is.
//!
//! ```text
//! DIR/backups/<revision, 20 digits>.kontiki                    made by each master for itself
//! s3://BUCKET/PREFIX/<cluster>/<revision, 20 digits>.kontiki   made by the master that leads
//! s3://BUCKET/PREFIX/<revision, 20 digits>.kontiki             saved by hand into a prefix
//! ```
//! Keeps: an object of a name is whole: its bytes were checked on their way, and it appears when all of
//! them have arrived. What goes to make room is of this cluster, and was made by the schedule.
//! Never: asks a machine's metadata service for credentials, or keeps a secret where it could be logged.

mod access;
mod bucket;
mod check;
mod names;
mod transport;

#[cfg(test)]
mod tests;

pub use access::{Access, BUCKETS};
pub use bucket::Bucket;
pub use names::{is_archive, name_of, superfluous};

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Why an archive is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong settings, credentials or names: trying the same again is in vain.
    #[error("{0}")]
    Refused(String),
    /// It failed on its way.
    #[error("{0}")]
    Failed(String),
}

/// What is named where a file could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    Bucket(Object),
}

/// A name in a bucket: of an object, or what the names of several begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub bucket: String,
    /// Parts between slashes; empty for the bucket itself.
    pub key: String,
}

impl Object {
    /// A name below this one.
    #[must_use]
    pub fn join(&self, part: &str) -> Object {
        let key = if self.key.is_empty() { part.into() } else { format!("{}/{part}", self.key) };
        Object { bucket: self.bucket.clone(), key }
    }

    /// The last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Object, String> {
        let wrong = || format!("{text:?} is no name in a bucket; give s3://BUCKET/PREFIX");
        let rest = text.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = key.trim_end_matches('/');
        let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '.' | '_');
        let part = |part: &str| !matches!(part, "" | "." | "..");
        let key_is_right = key.is_empty()
            || (key.split('/').all(part) && !key.contains(|it: char| it.is_control()));
        if bucket.is_empty() || !bucket.chars().all(plain) || !key_is_right {
            return Err(wrong());
        }
        Ok(Object { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        if text.starts_with("s3://") {
            return text.parse().map(Place::Bucket);
        }
        if text.is_empty() {
            return Err("give a file, or s3://BUCKET/PREFIX".into());
        }
        Ok(Place::File(text.into()))
    }
}
