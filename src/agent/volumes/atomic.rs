//! Files of a volume that change all at once.
//!
//! ```text
//! VOLUME/..2f1c9e/key        the files, in a folder of their own
//! VOLUME/..data -> ..2f1c9e  which folder counts: replaced by one rename
//! VOLUME/key -> ..data/key   what the pod opens
//! ```
//! Keeps: a reader sees all of one state, never a mixture. A state that is there already is not
//! written again.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::content::Payload;

const DATA: &str = "..data";
const FRESH: &str = "..data_tmp";

/// Makes `payload` what the volume shows.
pub fn write(volume: &Path, payload: &Payload) -> io::Result<()> {
    for path in payload.keys() {
        check(path)?;
    }
    let folder = format!("..{}", digest(payload));
    let now = fs::read_link(volume.join(DATA)).ok();
    if now.as_deref() == Some(Path::new(&folder)) && volume.join(&folder).is_dir() {
        return Ok(());
    }
    let fresh = volume.join(&folder);
    // Left by a write that was cut short.
    remove(&fresh)?;
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&path)?;
        out.write_all(&file.bytes)?;
        // Whatever the umask is.
        out.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    remove(&volume.join(FRESH))?;
    symlink(&folder, volume.join(FRESH))?;
    fs::rename(volume.join(FRESH), volume.join(DATA))?;
    link(volume, payload)?;
    if let Some(old) = now {
        remove(&volume.join(old))?;
    }
    Ok(())
}

/// What the pod opens leads over `..data`.
fn link(volume: &Path, payload: &Payload) -> io::Result<()> {
    let tops: std::collections::BTreeSet<PathBuf> = payload
        .keys()
        .filter_map(|path| Path::new(path).components().next())
        .map(|top| PathBuf::from(top.as_os_str()))
        .collect();
    for top in &tops {
        match symlink(Path::new(DATA).join(top), volume.join(top)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    for entry in fs::read_dir(volume)? {
        let name = PathBuf::from(entry?.file_name());
        if !name.to_string_lossy().starts_with("..") && !tops.contains(&name) {
            remove(&volume.join(name))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(it) if it.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

fn check(path: &str) -> io::Result<()> {
    let mut parts = Path::new(path).components();
    let first = parts.clone().next();
    let hidden = first.is_some_and(|it| it.as_os_str().to_string_lossy().starts_with(".."));
    if first.is_none() || hidden || parts.any(|part| !matches!(part, Component::Normal(_))) {
        return Err(io::Error::other(format!("{path:?} is no path below a volume")));
    }
    Ok(())
}

fn digest(payload: &Payload) -> String {
    let mut hash = Sha256::new();
    for (path, file) in payload {
        for part in [path.as_bytes(), &file.mode.to_le_bytes(), &file.bytes] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::volumes::content::File;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        let file = |(path, text, mode): &(&str, &str, u32)| {
            ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: *mode })
        };
        files.iter().map(file).collect()
    }

    #[test]
    fn the_files_change_at_once_and_what_is_gone_goes() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path();
        write(volume, &payload(&[("a", "1", 0o644), ("deep/er/b", "2", 0o400)])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("deep/er/b")).unwrap(), "2");
        let mode = fs::metadata(volume.join("deep/er/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        let before = fs::read_link(volume.join(DATA)).unwrap();
        write(volume, &payload(&[("a", "3", 0o644), ("c", "4", 0o644)])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(volume.join("c")).unwrap(), "4");
        assert!(!volume.join("deep").exists() && !volume.join(before).exists());
    }

    #[test]
    fn a_state_that_is_there_is_not_written_again() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path();
        let it = payload(&[("a", "1", 0o644)]);
        write(volume, &it).unwrap();
        let inode = fs::metadata(volume.join("a")).unwrap().ino();
        write(volume, &it).unwrap();
        assert_eq!(fs::metadata(volume.join("a")).unwrap().ino(), inode);
    }

    #[test]
    fn a_file_never_leads_out_of_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../../x", "", "..data"] {
            let refused = write(folder.path(), &payload(&[(bad, "1", 0o644)]));
            assert!(refused.is_err(), "{bad}");
        }
    }
}
