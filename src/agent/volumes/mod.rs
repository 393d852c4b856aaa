//! The volumes of pods, as folders on this node.
//!
//! ```text
//! PODS/UID/volumes/NAME/            emptyDir, or files written from the API (see `atomic`)
//! PODS/UID/containers/NAME/ATTEMPT  what a container says before it ends
//! PODS/UID/etc-hosts
//! PODS/UID/amounts                  what the pod was given of the node (see `pods::allocation`)
//! ```
//! Keeps: files that come from the API change all at once. A path below a volume never leads out of
//! it.
//! Never: removes anything of a host path.

pub mod atomic;
pub mod content;
pub mod trust;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume, VolumeMount,
};
use kontiki_api::object::quantity::Quantity;
use kontiki_api::object::time::Timestamp;
use rustix::fs::{Gid, chown};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::cri::v1::{Mount, MountPropagation};
use super::masters::Masters;
use super::pods::fields::Place;
use super::pods::view;
use content::{Payload, Tokens};

/// Upstream's default for files of secrets and the like.
const FILE_MODE: u32 = 0o644;

/// Where each volume of a pod is on this node.
pub type Prepared = BTreeMap<String, PathBuf>;

/// The folders of one pod.
#[derive(Clone, Debug)]
pub struct PodFolder(PathBuf);

impl PodFolder {
    #[must_use]
    pub fn new(pods: &Path, uid: &str) -> PodFolder {
        PodFolder(pods.join(uid))
    }

    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.0.join("volumes").join(name)
    }

    /// Where a container's last words are collected.
    #[must_use]
    pub fn last_words(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join("containers").join(container).join(attempt.to_string())
    }

    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }

    #[must_use]
    pub fn amounts(&self) -> PathBuf {
        self.0.join("amounts")
    }

    /// Removes all of it. What was mounted is taken off first; while something is busy nothing is
    /// removed.
    pub fn remove(&self) -> io::Result<()> {
        let volumes = self.0.join("volumes");
        for entry in fs::read_dir(&volumes).into_iter().flatten().flatten() {
            match unmount(entry.path(), UnmountFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        }
        other => other?,
    }
    // Whatever the umask is.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes the pod's volumes ready, or brings those that come from the API up to date.
pub async fn prepare(
    masters: &dyn Masters,
    pod: &Pod,
    folder: &PodFolder,
    place: &Place,
    tokens: &mut Tokens,
    now: Timestamp,
) -> Result<Prepared, String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&folder.0)
        .map_err(|error| format!("{}: {error}", folder.0.display()))?;
    let mut prepared = Prepared::new();
    let group = view::security(pod).fs_group;
    for volume in view::spec(pod).volumes.iter().flatten() {
        let name = &volume.name;
        let failed =
            |error: io::Error| format!("MountVolume.SetUp failed for volume {name:?}: {error}");
        let path = folder.volume(name);
        if let Some(source) = &volume.empty_dir {
            empty(&path, source, group).map_err(failed)?;
            prepared.insert(name.clone(), path);
        } else if let Some(source) = &volume.host_path {
            host(source)
                .map_err(|why| format!("MountVolume.SetUp failed for volume {name:?}: {why}"))?;
            prepared.insert(name.clone(), source.path.clone().into());
        } else if let Some(source) = &volume.persistent_volume_claim {
            let claimed = masters.volume(view::namespace(pod), &source.claim_name).await;
            let claimed = claimed.map_err(|status| status.message().to_owned())?;
            prepared.insert(name.clone(), persistent(&claimed.spec.unwrap_or_default())?);
        } else {
            let payload = content::payload(masters, pod, volume, place, tokens, now).await;
            let payload = payload
                .map_err(|why| format!("MountVolume.SetUp failed for volume {name:?} : {why}"))?;
            let Some(payload) = payload else {
                return Err(unsupported(volume));
            };
            make_folder(&path, 0o755).map_err(failed)?;
            write(&path, &payload, group).map_err(failed)?;
            prepared.insert(name.clone(), path);
        }
    }
    Ok(prepared)
}

fn unsupported(volume: &Volume) -> String {
    format!("volume {:?} is of a kind that this node cannot mount", volume.name)
}

fn write(path: &Path, payload: &Payload, group: Option<i64>) -> io::Result<()> {
    atomic::write(path, payload)?;
    own(path, group)
}

/// Persistent volumes that need no driver.
fn persistent(spec: &k8s_openapi::api::core::v1::PersistentVolumeSpec) -> Result<PathBuf, String> {
    if let Some(source) = &spec.host_path {
        host(source)?;
        return Ok(source.path.clone().into());
    }
    match &spec.local {
        Some(source) if Path::new(&source.path).exists() => Ok(source.path.clone().into()),
        Some(source) => Err(format!("local volume path {} does not exist", source.path)),
        None => Err("the persistent volume needs a driver that this node does not have".into()),
    }
}

fn empty(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    make_folder(path, 0o777)?;
    if source.medium.as_deref() == Some("Memory") {
        let size = source.size_limit.as_ref().and_then(|it| it.0.parse::<Quantity>().ok());
        let size = size.map(Quantity::value).filter(|it| *it > 0);
        let options = match size {
            Some(size) => format!("mode=1777,size={size}"),
            None => "mode=1777".to_owned(),
        };
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).map_err(
            |error| {
                // Without the mount it would be a folder on the disk, and be taken for ready the
                // next time.
                let _ = fs::remove_dir(path);
                io::Error::from(error)
            },
        )?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    own(path, group)
}

/// Gives everything below `path` to the group, which may do what the owner may.
fn own(path: &Path, group: Option<i64>) -> io::Result<()> {
    let Some(group) = group.and_then(|it| u32::try_from(it).ok()) else { return Ok(()) };
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(Gid::from_raw(group)))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))?;
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), Some(i64::from(group)))?;
        }
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | ((mode & 0o700) >> 3)))
}

/// Checks, and where it is asked for makes, what is at a path of the node.
fn host(source: &HostPathVolumeSource) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let made = |result: io::Result<()>| result.map_err(|error| format!("{}: {error}", source.path));
    match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => return made(make_folder(path, 0o755)),
        "FileOrCreate" if !path.exists() => return made(fs::write(path, "")),
        _ => {}
    }
    let found = fs::metadata(path).map(|it| it.file_type());
    let fits = found.is_ok_and(|it| match kind {
        "Directory" | "DirectoryOrCreate" => it.is_dir(),
        "File" | "FileOrCreate" => it.is_file(),
        "Socket" => it.is_socket(),
        "CharDevice" => it.is_char_device(),
        "BlockDevice" => it.is_block_device(),
        _ => false,
    });
    if fits {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not a {kind}", source.path))
    }
}

/// A container's mounts. The error is what its status says.
pub fn mounts(
    container: &Container,
    prepared: &Prepared,
    expand: &dyn Fn(&str) -> String,
) -> Result<Vec<Mount>, String> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.map(|it| one_mount(it, prepared, expand)).collect()
}

fn one_mount(
    wanted: &VolumeMount,
    prepared: &Prepared,
    expand: &dyn Fn(&str) -> String,
) -> Result<Mount, String> {
    let volume = prepared
        .get(&wanted.name)
        .ok_or_else(|| format!("cannot find volume {:?} to mount", wanted.name))?;
    let below = match (&wanted.sub_path_expr, &wanted.sub_path) {
        (Some(expression), _) if !expression.is_empty() => expand(expression),
        (_, Some(path)) => path.clone(),
        _ => String::new(),
    };
    let path = if below.is_empty() { volume.clone() } else { inside(volume, &below)? };
    Ok(Mount {
        container_path: wanted.mount_path.clone(),
        host_path: path.to_string_lossy().into_owned(),
        readonly: wanted.read_only == Some(true),
        selinux_relabel: false,
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => MountPropagation::PropagationBidirectional,
            _ => MountPropagation::PropagationPrivate,
        }
        .into(),
    })
}

/// A path below a volume, made where it is not there. What a container has put there may be links:
/// the way is followed and has to end inside.
fn inside(volume: &Path, below: &str) -> Result<PathBuf, String> {
    let failed = |error: io::Error| format!("failed to prepare subPath {below:?}: {error}");
    let parts = Path::new(below).components();
    if parts.clone().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(format!("subPath {below:?} must stay below its volume"));
    }
    let root = volume.canonicalize().map_err(failed)?;
    let mut path = root.clone();
    for part in parts {
        let next = path.join(part);
        path = match next.canonicalize() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&next, 0o755).map_err(failed)?;
                next
            }
            Err(error) => return Err(failed(error)),
        };
        if !path.starts_with(&root) {
            return Err(format!("subPath {below:?} leads out of its volume"));
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_a_volume_never_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("real", volume.join("in")).unwrap();
        fs::create_dir(volume.join("real")).unwrap();
        let root = volume.canonicalize().unwrap();
        assert_eq!(inside(&volume, "in/new").unwrap(), root.join("real/new"));
        assert!(root.join("real/new").is_dir());
        for bad in ["out", "out/x", "../x", "/etc"] {
            assert!(inside(&volume, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_path_has_to_be_what_it_is_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it").to_string_lossy().into_owned();
        let source =
            |kind: &str| HostPathVolumeSource { path: path.clone(), type_: Some(kind.into()) };
        assert!(host(&source("Directory")).is_err());
        assert!(host(&source("DirectoryOrCreate")).is_ok());
        assert!(host(&source("Directory")).is_ok());
        assert!(host(&source("File")).unwrap_err().contains("File"));
        assert!(host(&source("")).is_ok());
    }
}
