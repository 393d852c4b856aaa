//! One process, and signals to it.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use super::PATIENCE;
use crate::preload::Page;

pub struct Process {
    child: Child,
    pid: i32,
}

impl Process {
    /// What it says on standard error is added to `log`.
    pub fn start(
        binary: &Path,
        arguments: &[String],
        page: Option<&Page>,
        log: &Path,
    ) -> Result<Process, String> {
        let wrong = |error| format!("{}: {error}", binary.display());
        let log = OpenOptions::new().create(true).append(true).open(log).map_err(wrong)?;
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        // Debian's etcd asks for a path; nothing of it is a setting.
        command.env("PATH", "/usr/bin:/bin").stderr(log).kill_on_drop(true);
        if let Some(page) = page {
            command.envs(page.environment());
        }
        let child = command.spawn().map_err(wrong)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| format!("{} ended at once", binary.display()))?;
        Ok(Process { child, pid })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended; that shows elsewhere.
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    /// How it ended, if it did by itself.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Sends a signal and waits for the end; who does not hear is killed.
    pub async fn end(mut self, signal: Signal) {
        self.signal(Signal::CONT);
        self.signal(signal);
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}

/// Runs a command to its end and returns what it printed.
pub async fn run(binary: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(binary);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("ETCDCTL_API", "3");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = format!("{} {}", binary.display(), arguments.join(" "));
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.map_err(|_| format!("{name} does not end"))?;
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
