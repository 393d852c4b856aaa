//! Disks of their own under members: small ones that can be full, and ones whose power can be cut. Both need
//! root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILLER: &str = "filler";
const PROBE: &str = "probe";
/// Room for a log and a store of some minutes.
const SMALL: &str = "size=600m";
const CUTTABLE_BYTES: u64 = 3 << 30;
const POWERCUT: &str = env!("KONTIKI_POWERCUT");

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disks {
    /// Directories beside each other.
    #[default]
    Plain,
    /// A small file system in memory each.
    Small,
    /// A file system each, on a loop device.
    Cuttable,
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let wrong = |what: String| {
        format!("a file system at {}: {program}: {what} (needs root)", directory.display())
    };
    let output = output.map_err(|error| wrong(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn image(directory: &Path) -> PathBuf {
    directory.with_extension("image")
}

/// Puts a file system at `directory`, where that is asked for.
pub fn mount(disks: Disks, directory: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", directory.display());
    if disks == Disks::Plain {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(wrong)?;
    let at = directory.display().to_string();
    if disks == Disks::Small {
        return run("mount", &["-t", "tmpfs", "-o", SMALL, "tmpfs", &at], directory);
    }
    let image = image(directory);
    File::create(&image).and_then(|file| file.set_len(CUTTABLE_BYTES)).map_err(wrong)?;
    run("mkfs.ext4", &["-q", "-F", &image.display().to_string()], directory)?;
    attach(directory)
}

fn attach(directory: &Path) -> Result<(), String> {
    let (image, at) = (image(directory).display().to_string(), directory.display().to_string());
    run("mount", &["-o", "loop", &image, &at], directory)
}

pub fn unmount(directory: &Path) {
    // Who still holds something of it lets go when it ends.
    Command::new("umount").arg("-l").arg(directory).status().ok();
}

/// What is not on the disk by now never will be.
pub fn cut(directory: &Path) -> Result<(), String> {
    run(POWERCUT, &[&directory.display().to_string()], directory)
}

/// The power is back. Nobody may hold anything of it any more.
pub fn again(directory: &Path) -> Result<(), String> {
    run("umount", &[&directory.display().to_string()], directory)?;
    attach(directory)?;
    // Held by somebody, a file system stays what it was, and is mounted again as it is.
    let probe = directory.join(PROBE);
    let alive = File::create(&probe).and_then(|_| fs::remove_file(&probe));
    alive.map_err(|error| format!("{}: its power does not come back: {error}", directory.display()))
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
