//! Archives of images that lie on this machine, for clusters without a registry: `DIR/images/*.tar`, and those
//! that `kontiki image import` is given.
//!
//! Keeps: what is there already is not brought in again. An image that came from an archive is pinned, so that
//! it is not cleared away when it is of no use for a while: nobody could bring it back.
//! Never: holds an archive in memory; it may be larger than that.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::normal;
use crate::agent::cri::Runtime;

/// By which containerd's front knows that an image is to stay.
const PINNED: &str = "io.cri-containerd.pinned=pinned";
/// Of the files in an archive that say what is in it.
const INDEX_BYTES_MAX: u64 = 4 << 20;

/// Brings in what lies in a folder and is not there yet. What is wrong with one archive is said, and the others
/// are brought in.
pub async fn bring_in_all(folder: &Path, socket: &Path, runtime: &dyn Runtime) {
    for archive in archives(folder) {
        let path = archive.display().to_string();
        match bring_in(&archive, socket, runtime).await {
            Ok(fresh) if fresh.is_empty() => {}
            Ok(fresh) => tracing::info!(archive = path, images = fresh.join(" "), "brought in"),
            Err(why) => tracing::warn!(archive = path, why, "an archive of images is of no use"),
        }
    }
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_archive = |it: &PathBuf| it.extension().is_some_and(|it| it == "tar");
    let mut all: Vec<PathBuf> = entries.map(|it| it.path()).filter(is_archive).collect();
    all.sort();
    all
}

/// Brings in the images of one archive, if one of them is not there. Returns the names of those that came.
pub async fn bring_in(
    archive: &Path,
    socket: &Path,
    runtime: &dyn Runtime,
) -> Result<Vec<String>, String> {
    let path = archive.to_owned();
    let names = tokio::task::spawn_blocking(move || names(&path)).await;
    let names = names.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if names.is_empty() {
        return Err("it names no image; save it by its name and tag".into());
    }
    let mut missing = false;
    for name in &names {
        missing |= runtime.image(name).await.map_err(|error| error.to_string())?.is_none();
    }
    if !missing {
        return Ok(Vec::new());
    }
    import(socket, archive).await?;
    for name in &names {
        ctr(socket, &["images", "label", name, PINNED]).await?;
    }
    Ok(names)
}

/// Brings an archive of images into a containerd: its runtime interface cannot.
pub async fn import(socket: &Path, archive: &Path) -> Result<(), String> {
    let archive = archive.to_str().ok_or("its path is no text")?;
    ctr(socket, &["images", "import", "--no-unpack", archive]).await
}

async fn ctr(socket: &Path, words: &[&str]) -> Result<(), String> {
    let ran = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io"])
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("ctr (of containerd) cannot be run: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned())
}

/// The full names of the images in an archive: Docker's, or an OCI layout.
fn names(archive: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut archive = tar::Archive::new(File::open(archive)?);
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if path != "manifest.json" && path != "index.json" {
            continue;
        }
        let mut text = Vec::new();
        entry.by_ref().take(INDEX_BYTES_MAX).read_to_end(&mut text)?;
        let value: Value = serde_json::from_slice(&text)?;
        names.extend(named(&value).iter().filter_map(|it| normal(it)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What an index says that its images are called.
fn named(index: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let tags = list(index).into_iter().flat_map(|it| list(&it["RepoTags"]));
    let tags = tags.filter_map(|it| it.as_str().map(str::to_owned));
    let annotated = list(&index["manifests"]).into_iter().filter_map(|it| {
        let text = |key: &str| it["annotations"][key].as_str().map(str::to_owned);
        // A tag alone is no name.
        let reference = text("org.opencontainers.image.ref.name").filter(|it| it.contains(':'));
        text("io.containerd.image.name").or(reference)
    });
    tags.chain(annotated).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::images::own;

    #[test]
    fn an_archive_says_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout.tar");
        let config = serde_json::json!({});
        std::fs::write(&layout, own::archive("a/b:1", &[], &config).unwrap()).unwrap();
        assert_eq!(names(&layout).unwrap(), ["docker.io/a/b:1"]);

        let docker = folder.path().join("docker.tar");
        let mut builder = tar::Builder::new(File::create(&docker).unwrap());
        let manifest = br#"[{"Config": "c", "RepoTags": ["nginx:1.27", "quay.io/x/y:2"]}]"#;
        for (name, bytes) in [("layer", &[0; 5000][..]), ("manifest.json", &manifest[..])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, name, bytes).unwrap();
        }
        builder.finish().unwrap();
        assert_eq!(names(&docker).unwrap(), ["docker.io/library/nginx:1.27", "quay.io/x/y:2"]);

        std::fs::write(folder.path().join("other.txt"), "").unwrap();
        assert_eq!(archives(folder.path()), [docker.clone(), layout]);
        std::fs::write(&docker, "this is no archive at all, and says nothing").unwrap();
        assert!(names(&docker).is_err());
    }
}
