//! Processes as the kernel shows them below /proc.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Entry {
    pub pid: u32,
    pub parent: u32,
    /// Its command line.
    pub words: Vec<String>,
    pub resident_bytes: Option<u64>,
    path: PathBuf,
}

/// All that can be read, by number.
pub fn all(proc: &Path) -> Vec<Entry> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut all: Vec<Entry> = entries.filter_map(|it| read(it.path())).collect();
    all.sort_by_key(|it| it.pid);
    all
}

fn read(path: PathBuf) -> Option<Entry> {
    let pid = path.file_name()?.to_str()?.parse().ok()?;
    let words = texts(&fs::read(path.join("cmdline")).ok()?);
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    // Behind the name, which may have anything in it, come the state and the parent.
    let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    let status = fs::read_to_string(path.join("status")).unwrap_or_default();
    Some(Entry { pid, parent, words, resident_bytes: resident(&status), path })
}

/// Texts that end with a zero each.
fn texts(bytes: &[u8]) -> Vec<String> {
    let texts = bytes.split(|byte| *byte == 0).filter(|it| !it.is_empty());
    texts.map(|it| String::from_utf8_lossy(it).into_owned()).collect()
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

impl Entry {
    /// The name of its program.
    pub fn program(&self) -> Option<&str> {
        Path::new(self.words.first()?).file_name()?.to_str()
    }

    /// The word after a flag.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let at = self.words.iter().position(|it| it == name)?;
        self.words.get(at + 1).map(String::as_str)
    }

    pub fn variable(&self, name: &str) -> Option<String> {
        let all = texts(&fs::read(self.path.join("environ")).ok()?);
        all.into_iter().find_map(|it| Some(it.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// Where it is at work.
    pub fn folder(&self) -> PathBuf {
        fs::read_link(self.path.join("cwd")).unwrap_or_default()
    }

    /// The last part of its control group's name, where it is a pod's.
    pub fn group(&self) -> Option<String> {
        let text = fs::read_to_string(self.path.join("cgroup")).ok()?;
        let line = text.lines().find(|it| it.contains("kubepods"))?;
        line.rsplit('/').next().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        assert_eq!(resident("Name:\tkontiki\nVmRSS:\t   2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tkontiki\n"), None);
    }
}
