//! One process per directory, on a disk whose locks and syncs mean what they say.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, statfs};

use super::disk;
use super::identity::refused;
use crate::error::Error;

pub(super) const FILE: &str = "lock";

/// The lock of a directory. The kernel takes it back when the process ends, however it ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(directory: &Path) -> Result<Lock, Error> {
        let path = directory.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                refused(directory, "permission denied; start as the user who owns it")
            }
            ErrorKind::ReadOnlyFilesystem => {
                refused(directory, "is on a read-only file system; mount it writable")
            }
            _ => disk::failed("open", &path, error),
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                return Err(refused(directory, in_use(&mut file)));
            }
            Err(error) => return Err(disk::failed("lock", &path, error.into())),
        }
        // For the message above only; nothing depends on it, and a full disk may refuse it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock { _file: file })
    }
}

fn in_use(file: &mut File) -> String {
    let mut text = String::new();
    let holder = match file.take(32).read_to_string(&mut text) {
        Ok(_) if text.trim().parse::<u32>().is_ok() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    };
    format!("is in use by {holder}; stop it or choose another --data-dir")
}

/// The kind of file system that `path`, which exists, lies on.
pub(super) fn file_system(path: &Path) -> Result<u64, Error> {
    let found = statfs(path).map_err(|error| disk::failed("look at", path, error.into()))?;
    #[expect(
        clippy::cast_sign_loss,
        reason = "32 bits of it are the magic number, on every platform"
    )]
    Ok(found.f_type as u64 & 0xffff_ffff)
}

/// Refuses a network file system, at `path` or where it will be created.
pub(super) fn refuse_network(
    path: &Path,
    file_system: &dyn Fn(&Path) -> Result<u64, Error>,
) -> Result<(), Error> {
    let there = path.ancestors().find(|one| one.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let Some(kind) = network(file_system(there)?) else {
        return Ok(());
    };
    let reason = format!(
        "is on a network file system ({kind}), where locks and syncs may not hold; use a local \
         disk, or accept the risk (--allow-network-file-system)"
    );
    Err(refused(path, reason))
}

/// The name of a network file system, by the magic number that `statfs` gives.
fn network(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x6573_5546 => "FUSE",
        _ => return None,
    })
}
