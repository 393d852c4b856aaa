//! The page by which a process is told that its disk or its clock fails: see `preload.c`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIE: u64 = 0;
const SYNC_DELAY_MS: u64 = 8;
const ERROR: u64 = 16;
const FAILS_AFTER: u64 = 24;
const CALLS: u64 = 32;
const CLOCK_S: u64 = 40;

/// What the library is told by its environment.
const PAGE: &str = "KONTIKI_FAULTS_PAGE";
const LIBRARY: &str = env!("KONTIKI_PRELOAD");

pub struct Page {
    path: PathBuf,
    file: File,
}

impl Page {
    /// A page that lets everything pass.
    pub fn create(path: PathBuf) -> Result<Page, String> {
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        let page = Page { path, file };
        page.lie(false)?;
        page.calm()?;
        Ok(page)
    }

    /// What a process must have in its environment to look at this page.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", Path::new(LIBRARY)), (PAGE, &self.path)]
    }

    fn set(&self, at: u64, number: i64) -> Result<(), String> {
        let written = self.file.write_all_at(&number.to_ne_bytes(), at);
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Everything passes again, and the clock is right. A disk that lies goes on to.
    pub fn calm(&self) -> Result<(), String> {
        self.set(FAILS_AFTER, -1)?;
        for at in [SYNC_DELAY_MS, ERROR, CLOCK_S] {
            self.set(at, 0)?;
        }
        // The page is as long as the library maps.
        self.set(CALLS, 0)
    }

    pub fn lie(&self, lies: bool) -> Result<(), String> {
        self.set(LIE, i64::from(lies))
    }

    pub fn slow(&self, delay: Duration) -> Result<(), String> {
        self.set(SYNC_DELAY_MS, i64::try_from(delay.as_millis()).unwrap_or(i64::MAX))
    }

    /// After so many more calls all fail with this error.
    pub fn fail(&self, errno: i32, after: u32) -> Result<(), String> {
        self.set(ERROR, i64::from(errno))?;
        self.set(FAILS_AFTER, i64::from(after))
    }

    pub fn clock(&self, wrong_by_s: i64) -> Result<(), String> {
        self.set(CLOCK_S, wrong_by_s)
    }

    /// Calls that could have failed since the page was calmed.
    #[must_use]
    pub fn calls(&self) -> i64 {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, CALLS) {
            Ok(()) => i64::from_ne_bytes(bytes),
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    fn with(page: &Page, command: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).envs(page.environment()).output().unwrap()
    }

    #[test]
    fn a_process_under_a_page_meets_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let page = Page::create(folder.path().join("page")).unwrap();
        let file = folder.path().join("file");
        let write = format!("dd if=/dev/zero of={} bs=1 count=3 conv=fsync", file.display());
        assert!(with(&page, &write).status.success());
        let calls = page.calls();
        assert!(calls >= 4, "three bytes and a sync are {calls} calls");

        page.fail(rustix::io::Errno::NOSPC.raw_os_error(), 2).unwrap();
        let failed = with(&page, &write);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success() && said.contains("No space left"), "{said}");

        page.calm().unwrap();
        page.clock(-86_400 * 3650).unwrap();
        let year = String::from_utf8(with(&page, "date +%Y").stdout).unwrap();
        let now = String::from_utf8(Command::new("date").arg("+%Y").output().unwrap().stdout);
        let (year, now) = (year.trim().parse::<u32>(), now.unwrap().trim().parse::<u32>());
        assert!(year.unwrap() + 9 <= now.unwrap());
    }
}
