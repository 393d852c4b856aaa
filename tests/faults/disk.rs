//! Disks that can be full: a small file system in memory under each member. Needs root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILLER: &str = "filler";
/// Room for a log and a store of some minutes.
const SIZE: &str = "size=600m";

/// Puts a small file system at `directory`.
pub fn mount(directory: &Path) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!("a file system at {}: {error} (needs root)", directory.display())
    };
    fs::create_dir_all(directory).map_err(|error| wrong(&error))?;
    let command = ["-t", "tmpfs", "-o", SIZE, "tmpfs"];
    let ended = Command::new("mount").args(command).arg(directory).status();
    let ended = ended.map_err(|error| wrong(&error))?;
    if ended.success() { Ok(()) } else { Err(wrong(&ended)) }
}

pub fn unmount(directory: &Path) {
    // Who still holds something of it lets go when it ends.
    Command::new("umount").arg("-l").arg(directory).status().ok();
}

/// Takes every byte that is left, and returns what to delete to give them back.
pub fn fill(directory: &Path) -> Result<PathBuf, String> {
    let path = directory.join(FILLER);
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::create(&path).map_err(wrong)?;
    let zeros = [0; 64 << 10];
    loop {
        match file.write(&zeros) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(path),
            Err(error) => return Err(wrong(error)),
        }
    }
}
