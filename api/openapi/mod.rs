//! OpenAPI of everything that is served: version 3 by group and version, version 2 in one document, as
//! JSON and as protobuf.
//!
//! Made of the rows when it is asked for. Keeps: a document's tag is known without making the document; what
//! was made is kept compressed, and thrown away when its rows change.

mod definitions;
mod gnostic;
mod operations;
mod render;

use std::collections::HashMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use serde_json::{Map as Json, Value, json};

use crate::document::{Document, tag};
use crate::kinds::{Kind, Snapshot};
use operations::Path;
use render::Edition;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The content type of [`OpenApi::v2_protobuf`] as clients ask for it and as it is answered.
pub const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
pub const V2_PROTOBUF_TYPE_ASKED: &str =
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Makes documents, and keeps those it made.
#[derive(Default)]
pub struct OpenApi {
    /// What the documents say of the server.
    version: String,
    kept: Mutex<HashMap<String, Kept>>,
}

struct Kept {
    etag: String,
    zipped: Vec<u8>,
}

impl OpenApi {
    /// `version` is the server's, such as `v1.37.0`.
    #[must_use]
    pub fn new(version: &str) -> OpenApi {
        OpenApi { version: version.into(), kept: Mutex::default() }
    }

    /// `/openapi/v3`: which documents there are, each with its hash.
    #[must_use]
    pub fn v3_root(&self, rows: &Snapshot) -> Document {
        let mut paths = Json::new();
        for name in v3_names(rows) {
            let url = format!("/openapi/v3/{name}?hash={}", self.v3_etag(rows, &name));
            paths.insert(name, json!({"serverRelativeURL": url}));
        }
        Document::of(json!({"paths": paths}).to_string().into_bytes())
    }

    /// The tag, and so the hash, of one document of version 3.
    #[must_use]
    pub fn v3_etag(&self, rows: &Snapshot, name: &str) -> String {
        let kinds = kinds_of(rows, name).unwrap_or_default();
        self.fingerprint(&format!("v3 {name}"), &kinds)
    }

    /// `/openapi/v3/<name>`, where the name is `api/v1`, `apis/apps/v1` or `version`.
    #[must_use]
    pub fn v3(&self, rows: &Snapshot, name: &str) -> Option<Document> {
        let kinds = kinds_of(rows, name)?;
        let etag = self.v3_etag(rows, name);
        Some(self.keep(&format!("v3 {name}"), etag, || {
            let (paths, others) = if name == VERSION {
                (vec![version_path()], vec![VERSION_TYPE])
            } else {
                (paths_of(rows, &kinds), MACHINERY.to_vec())
            };
            let definitions = definitions::collect(rows, &kinds, &others);
            render::document(Edition::V3, &self.version, definitions, &paths)
                .to_string()
                .into_bytes()
        }))
    }

    /// `/openapi/v2` as JSON.
    #[must_use]
    pub fn v2(&self, rows: &Snapshot) -> Document {
        let etag = self.v2_etag(rows, "json");
        self.keep("v2", etag, || self.make_v2(rows).to_string().into_bytes())
    }

    /// `/openapi/v2` as protobuf.
    #[must_use]
    pub fn v2_protobuf(&self, rows: &Snapshot) -> Document {
        let etag = self.v2_etag(rows, "protobuf");
        self.keep("v2 protobuf", etag, || gnostic::encode(&self.make_v2(rows)))
    }

    fn make_v2(&self, rows: &Snapshot) -> Value {
        let kinds: Vec<&Kind> = rows.kinds().map(AsRef::as_ref).collect();
        let mut paths = paths_of(rows, &kinds);
        paths.push(version_path());
        let others: Vec<&str> = MACHINERY.iter().copied().chain([VERSION_TYPE]).collect();
        let definitions = definitions::collect(rows, &kinds, &others);
        render::document(Edition::V2, &self.version, definitions, &paths)
    }

    fn v2_etag(&self, rows: &Snapshot, form: &str) -> String {
        let kinds: Vec<&Kind> = rows.kinds().map(AsRef::as_ref).collect();
        self.fingerprint(&format!("v2 {form}"), &kinds)
    }

    /// Changes whenever the document would: it is made of nothing but these rows and this program.
    fn fingerprint(&self, name: &str, kinds: &[&Kind]) -> String {
        let mut text = format!("{} {} {name}", env!("CARGO_PKG_VERSION"), self.version);
        for kind in kinds {
            text.push_str(&format!(
                "\n{} {} {} {:?} {:?} {} {}",
                kind.gvk(),
                kind.resource,
                kind.namespaced,
                kind.verbs,
                kind.subresources,
                kind.returns_deleted,
                kind.published.as_deref().unwrap_or(&Value::Null),
            ));
        }
        tag(text.as_bytes())
    }

    fn keep(&self, name: &str, etag: String, make: impl FnOnce() -> Vec<u8>) -> Document {
        let mut kept = self.kept.lock();
        if let Some(found) = kept.get(name).filter(|it| it.etag == etag)
            && let Some(bytes) = unzip(&found.zipped)
        {
            return Document { bytes: bytes.into(), etag };
        }
        let bytes = make();
        match zip(&bytes) {
            Some(zipped) => kept.insert(name.into(), Kept { etag: etag.clone(), zipped }),
            None => kept.remove(name),
        };
        // Of groups that are gone nobody asks again: do not keep more than there can be.
        if kept.len() > KEPT_MAX {
            kept.retain(|other, _| other == name);
        }
        Document { bytes: bytes.into(), etag }
    }
}

const KEPT_MAX: usize = 512;
const VERSION: &str = "version";
const VERSION_TYPE: &str = "io.k8s.apimachinery.pkg.version.Info";

/// What every group and version answers besides its own types.
const MACHINERY: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

fn v3_names(rows: &Snapshot) -> Vec<String> {
    let mut names = vec![VERSION.to_owned()];
    for group in rows.groups() {
        names.extend(group.versions.iter().map(|version| match &*group.name {
            "" => format!("api/{}", version.name),
            group => format!("apis/{group}/{}", version.name),
        }));
    }
    names
}

/// The rows behind a document of version 3, if there is such a document.
fn kinds_of<'a>(rows: &'a Snapshot, name: &str) -> Option<Vec<&'a Kind>> {
    let (group, version) = match name.split('/').collect::<Vec<_>>()[..] {
        [VERSION] => return Some(Vec::new()),
        ["api", version] => ("", version),
        ["apis", group, version] if !group.is_empty() => (group, version),
        _ => return None,
    };
    Some(rows.group(group)?.version(version)?.kinds.iter().map(AsRef::as_ref).collect())
}

fn paths_of(rows: &Snapshot, kinds: &[&Kind]) -> Vec<Path> {
    kinds.iter().flat_map(|kind| operations::paths(rows, kind)).collect()
}

fn version_path() -> Path {
    operations::version(VERSION_TYPE)
}

fn zip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn unzip(zipped: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(zipped).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
