//! What the volumes of pods hold.
//!
//! Keeps: the files of a volume are counted at most once a minute, however often somebody looks.
//! Never: follows a link or leaves the volume's file system; counts without end ([`FILES_MAX`]); counts what is
//! on a path of the node, which is not the pod's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kontiki_api::object::time::Timestamp;
use parking_lot::Mutex;

use super::{Disk, kernel};
use crate::agent::pods::view;
use crate::agent::volumes::PodFolder;
use crate::session::Set;

/// As upstream.
const AGE_MAX_MICROS: i64 = 60_000_000;
/// A volume with more is told without what it holds.
const FILES_MAX: usize = 200_000;
/// The unit of a file's blocks.
const BLOCK_BYTES: u64 = 512;

/// A volume of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfVolume {
    pub name: String,
    /// The claim that it is of, which is in the pod's namespace.
    pub claim: Option<String>,
    pub disk: Disk,
    /// It is on the node's disk and goes with the pod.
    pub is_local: bool,
}

/// Counts, and remembers for a while.
#[derive(Debug, Default)]
pub struct Volumes {
    known: Mutex<BTreeMap<PathBuf, (Timestamp, Disk)>>,
}

impl Volumes {
    pub async fn of(
        &self,
        pod: &Pod,
        folder: &PodFolder,
        set: &Set,
        now: Timestamp,
    ) -> Vec<OfVolume> {
        let mut all = Vec::new();
        for volume in view::spec(pod).volumes.iter().flatten() {
            let claim = volume.persistent_volume_claim.as_ref().map(|it| it.claim_name.clone());
            let disk = match &claim {
                // Who has claimed it has it alone: what its file system says is said of it.
                Some(claim) => {
                    claimed(set, view::namespace(pod), claim).and_then(|it| kernel::disk(&it))
                }
                None if volume.host_path.is_some() => None,
                None => self.counted(folder.volume(&volume.name), now).await,
            };
            let Some(disk) = disk else { continue };
            let is_local = is_local(volume);
            all.push(OfVolume { name: volume.name.clone(), claim, disk, is_local });
        }
        all
    }

    async fn counted(&self, path: PathBuf, now: Timestamp) -> Option<Disk> {
        {
            let mut known = self.known.lock();
            known.retain(|_, (at, _)| now.micros_since(*at) < AGE_MAX_MICROS);
            if let Some((_, disk)) = known.get(&path) {
                return Some(*disk);
            }
        }
        let of = path.clone();
        let disk = tokio::task::spawn_blocking(move || count(&of)).await.ok().flatten()?;
        self.known.lock().insert(path, (now, disk));
        Some(disk)
    }
}

/// What upstream counts as ephemeral storage.
fn is_local(volume: &Volume) -> bool {
    let on_disk = volume
        .empty_dir
        .as_ref()
        .is_some_and(|it| it.medium.as_deref().unwrap_or_default().is_empty());
    on_disk || volume.config_map.is_some()
}

/// Where the volume is that a claim is bound to.
fn claimed(set: &Set, namespace: &str, claim: &str) -> Option<PathBuf> {
    let claim = set.get("persistentvolumeclaims", namespace, claim)?;
    let claim: PersistentVolumeClaim = claim.read().ok()?;
    let volume = set.get("persistentvolumes", "", &claim.spec?.volume_name?)?;
    let volume: PersistentVolume = volume.read().ok()?;
    let spec = volume.spec?;
    let path = spec.local.map(|it| it.path).or_else(|| spec.host_path.map(|it| it.path))?;
    Some(PathBuf::from(path)).filter(|it| it.exists())
}

/// All files of a folder and below it, each once, and the file system they are on.
fn count(path: &Path) -> Option<Disk> {
    let top = fs::symlink_metadata(path).ok()?;
    let disk = kernel::disk(path)?;
    let (mut used, mut inodes) = (top.blocks() * BLOCK_BYTES, 1);
    let mut linked = BTreeSet::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes while it is counted is not there.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(it) = entry.metadata() else { continue };
            let is_other = it.dev() != top.dev();
            if is_other || (it.nlink() > 1 && !it.is_dir() && !linked.insert(it.ino())) {
                continue;
            }
            used += it.blocks() * BLOCK_BYTES;
            inodes += 1;
            if inodes > FILES_MAX {
                return Some(Disk { used: None, inodes_used: None, ..disk });
            }
            if it.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(Disk { used: Some(used), inodes_used: u64::try_from(inodes).ok(), ..disk })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_volume_holds_its_files_once_each_and_nothing_that_they_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let folder = PodFolder::new(place.path(), "u");
        let volume = folder.volume("work");
        fs::create_dir_all(volume.join("below")).unwrap();
        fs::write(volume.join("below/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(volume.join("below/file"), volume.join("again")).unwrap();
        std::os::unix::fs::symlink("/", volume.join("out")).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "work", "emptyDir": {}},
                {"name": "node", "hostPath": {"path": "/"}},
                {"name": "absent", "emptyDir": {"medium": "Memory"}},
                {"name": "unbound", "persistentVolumeClaim": {"claimName": "none"}},
            ]},
        }))
        .unwrap();
        let (volumes, set) = (Volumes::default(), Set::default());
        let at = Timestamp::from_seconds;
        let found = volumes.of(&pod, &folder, &set, at(100)).await;
        let [work] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*work.name, &work.claim, work.is_local), ("work", &None, true));
        // The folder, the one below, the file and the link.
        assert_eq!(work.disk.inodes_used, Some(4));
        let used = work.disk.used.unwrap();
        assert!((100_000..200_000).contains(&used), "{used}");
        assert!(work.disk.bytes > used);

        fs::write(volume.join("new"), "new").unwrap();
        let soon = volumes.of(&pod, &folder, &set, at(159)).await;
        assert_eq!(soon[0].disk.inodes_used, Some(4), "it is not counted again yet");
        let later = volumes.of(&pod, &folder, &set, at(160)).await;
        assert_eq!(later[0].disk.inodes_used, Some(5));
    }
}
