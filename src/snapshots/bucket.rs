//! A bucket, and the archives in it.
//!
//! Keeps: an object appears when all of it has arrived and was found to be an archive, or not at all: it
//! is sent in parts, and only the last request makes it one. Memory has room for a few parts, whatever the
//! size. Every wait has a bound, and every refusal says what was refused, by whom, and what to look at.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kontiki_raft::storage::snapshot::Manifest;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore as _, ObjectStoreExt as _, RetryConfig,
    WriteMultipart,
};
use tokio::time::timeout;

use super::access::{Access, Style};
use super::check::Check;
use super::transport::Transport;
use super::{Error, Object};

/// Ten thousand parts, as many as an object may have, are 160 GB.
const PART_BYTES: usize = 16 << 20;
const PARTS_AT_ONCE: usize = 2;
/// For one request with all its attempts.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(300);
/// Between two pieces of what is read.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// To take back parts that are of no use.
const ABORT_WAIT_MAX: Duration = Duration::from_secs(10);
/// In one folder; retention keeps it far below.
const ENTRIES_MAX: usize = 10_000;

/// An archive, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub object: Object,
    pub bytes: u64,
    /// When it came to be, in UTC.
    pub written: String,
}

#[derive(Clone)]
pub struct Bucket {
    store: AmazonS3,
    name: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Credentials have no business in a log.
        f.debug_struct("Bucket").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Nothing is asked yet: what is wrong here is wrong with what was said.
    pub fn open(name: &str, access: &Access) -> Result<Bucket, Error> {
        let ready = access.complete(&|variable| std::env::var(variable).ok())?;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_region(ready.region)
            .with_access_key_id(ready.id)
            .with_secret_access_key(ready.secret.shown())
            .with_virtual_hosted_style_request(ready.style == Style::Host)
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(retries())
            .with_http_connector(Transport::new(ready.roots)?);
        if let Some(token) = ready.session {
            builder = builder.with_token(token.shown());
        }
        if let Some(endpoint) = ready.endpoint {
            builder = builder.with_endpoint(match ready.style {
                Style::Path => endpoint,
                Style::Host => endpoint.replacen("://", &format!("://{name}."), 1),
            });
        }
        let store = builder.build().map_err(|error| Error::Refused(format!("s3: {error}")))?;
        Ok(Bucket { store, name: name.to_owned() })
    }

    /// The archives of a folder, and of folders in it, in the order of their names.
    pub async fn list(&self, folder: &Object) -> Result<Vec<Entry>, Error> {
        let prefix = (!folder.key.is_empty()).then(|| path(folder)).transpose()?;
        let found = self.store.list(prefix.as_ref()).map_ok(|found| Entry {
            object: Object { bucket: self.name.clone(), key: found.location.to_string() },
            bytes: found.size,
            written: found.last_modified.to_rfc3339(),
        });
        let found = found.try_filter(|entry| {
            let is_archive = super::is_archive(entry.object.name());
            async move { is_archive }
        });
        let found = found.take(ENTRIES_MAX + 1).try_collect::<Vec<Entry>>();
        let mut found = self.bounded(folder, found).await?;
        if found.len() > ENTRIES_MAX {
            return Err(Error::Failed(format!(
                "{folder} holds more than {ENTRIES_MAX} archives; name a folder in it"
            )));
        }
        found.sort_by(|a, b| a.object.key.cmp(&b.object.key));
        Ok(found)
    }

    pub async fn delete(&self, object: &Object) -> Result<(), Error> {
        self.bounded(object, self.store.delete(&path(object)?)).await
    }

    /// Checks all of an archive and says what it holds.
    pub async fn inspect(&self, object: &Object) -> Result<Manifest, Error> {
        self.fetch(object, std::io::sink()).await
    }

    /// Reads an archive into a file; what is there after an error is of no use. Returns what it holds.
    pub async fn fetch(&self, object: &Object, mut to: impl Write) -> Result<Manifest, Error> {
        let found = self.bounded(object, self.store.get(&path(object)?)).await?;
        let mut pieces: BoxStream<'static, object_store::Result<Bytes>> = found.into_stream();
        let check = Check::begin();
        loop {
            let piece = timeout(SILENCE_MAX, pieces.next()).await;
            let piece = piece.map_err(|_| Error::Failed(format!("{object} does not go on")))?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|error| self.explain(object, &error))?;
            to.write_all(&piece).map_err(|error| Error::Failed(format!("{object}: {error}")))?;
            if !check.take(piece).await {
                break;
            }
        }
        let wrong = |reason| Error::Failed(format!("{object}: {reason}"));
        check.finish().await.map_err(wrong)
    }

    /// Puts an archive there. `pieces` may break off, or turn out to be no archive: then there is no object.
    pub async fn write(
        &self,
        object: &Object,
        pieces: impl Stream<Item = Result<Bytes, String>>,
    ) -> Result<Manifest, Error> {
        let key = path(object)?;
        if self.is_there(&key).await {
            return Err(Error::Refused(format!(
                "{object} is there already; choose another name, or remove it first"
            )));
        }
        let upload = self.bounded(object, self.store.put_multipart(&key)).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        match self.feed(object, pieces, &mut parts).await {
            Ok(manifest) => {
                self.bounded(object, parts.finish()).await?;
                Ok(manifest)
            }
            Err(error) => {
                // Where that fails too, parts stay that nobody sees, until the bucket's own rules let them go.
                let _ = timeout(ABORT_WAIT_MAX, parts.abort()).await;
                Err(error)
            }
        }
    }

    async fn feed(
        &self,
        object: &Object,
        pieces: impl Stream<Item = Result<Bytes, String>>,
        parts: &mut WriteMultipart,
    ) -> Result<Manifest, Error> {
        let check = Check::begin();
        let mut pieces = std::pin::pin!(pieces);
        loop {
            let piece = timeout(SILENCE_MAX, pieces.next()).await;
            let piece = piece.map_err(|_| Error::Failed("the snapshot does not go on".into()))?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(Error::Failed)?;
            if !check.take(piece.clone()).await {
                break;
            }
            self.bounded(object, parts.wait_for_capacity(PARTS_AT_ONCE)).await?;
            parts.put(piece);
        }
        check.finish().await.map_err(Error::Failed)
    }

    /// Whoever may write but not look is not held up: what is wrong is said by the next request.
    async fn is_there(&self, key: &Path) -> bool {
        timeout(REQUEST_WAIT_MAX, self.store.head(key)).await.is_ok_and(|found| found.is_ok())
    }

    async fn bounded<T>(
        &self,
        object: &Object,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(REQUEST_WAIT_MAX, request).await {
            Ok(done) => done.map_err(|error| self.explain(object, &error)),
            Err(_) => Err(Error::Failed(format!("{object}: no answer in time"))),
        }
    }

    fn explain(&self, object: &Object, error: &object_store::Error) -> Error {
        explain(object, &error.to_string(), &root_of(error))
    }
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
        max_retries: 3,
        retry_timeout: Duration::from_secs(60),
    }
}

fn path(object: &Object) -> Result<Path, Error> {
    Path::parse(&object.key).map_err(|error| Error::Refused(format!("{object}: {error}")))
}

/// The first cause: what the connection, or the server, said.
fn root_of(error: &object_store::Error) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// What a refusal means for who asked. Pure. S3 says why in XML; `said` has it somewhere in its text.
fn explain(object: &Object, said: &str, root: &str) -> Error {
    let element = |name: &str| {
        let (_, rest) = said.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    let why = match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => root.to_owned(),
    };
    let credentials = "check the access key (AWS_ACCESS_KEY_ID), its secret \
                       (AWS_SECRET_ACCESS_KEY) and what it may do";
    match element("Code") {
        Some("NoSuchBucket") => Error::Refused(format!(
            "there is no bucket {:?}; make it, or check --s3-endpoint and --s3-region",
            object.bucket
        )),
        Some("NoSuchKey") => Error::Refused(format!(
            "{object} is not there; `kontiki snapshot list s3://{}` shows what is",
            object.bucket
        )),
        Some(
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "InvalidClientTokenId"
            | "ExpiredToken",
        ) => Error::Refused(format!("{object} is refused: {why}; {credentials}")),
        None if [" 401 ", " 403 "].iter().any(|code| said.contains(code)) => {
            Error::Refused(format!("{object} is refused: {why}; {credentials}"))
        }
        _ => Error::Failed(format!("{object}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str, root: &str) -> (bool, String) {
        let object = "s3://b/a/1.kontiki".parse().unwrap();
        match explain(&object, body, root) {
            Error::Refused(reason) => (true, reason),
            Error::Failed(reason) => (false, reason),
        }
    }

    #[test]
    fn a_refusal_says_what_to_look_at() {
        let xml = |code: &str| format!("… <Error><Code>{code}</Code><Message>m</Message></Error>");
        let (refused, reason) = said(&xml("SignatureDoesNotMatch"), "");
        assert!(refused && reason.contains("SignatureDoesNotMatch: m"), "{reason}");
        assert!(reason.contains("AWS_SECRET_ACCESS_KEY"), "{reason}");
        let (refused, reason) = said(&xml("NoSuchBucket"), "");
        assert!(refused && reason.contains("no bucket \"b\""), "{reason}");
        let (refused, reason) = said(&xml("NoSuchKey"), "");
        assert!(refused && reason.contains("kontiki snapshot list s3://b"), "{reason}");
        let (refused, reason) = said(&xml("SlowDown"), "");
        assert!(!refused && reason == "s3://b/a/1.kontiki: SlowDown: m", "{reason}");
        let (refused, reason) = said("Error performing PUT", "cannot reach h:1: refused");
        assert!(!refused && reason.contains("cannot reach h:1"), "{reason}");
        let (refused, _) = said("non-2xx status code: 403 Forbidden: ", "403");
        assert!(refused);
    }
}
