//! Keeps containers' logs from filling the disk: a file that has grown is given another name, and the runtime
//! begins a new one.
//!
//! ```text
//! 0.log                    what is written now
//! 0.log.20260101-120000    what was before, the youngest last
//! ```
//! Keeps: upstream's bounds: [`BYTES_MAX`] in a file, [`FILES_MAX`] files of a container. Whoever reads sees
//! all of them as one.
//! Never: touches the log of a container that has ended: nobody writes to it any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::object::time::{Clock, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::cri::Runtime;
use super::cri::v1::{Container, ContainerState};
use super::pods::container::log_path;
use super::pods::view;

pub const BYTES_MAX: u64 = 10 << 20;
pub const FILES_MAX: usize = 5;
const LOOK: Duration = Duration::from_secs(10);

/// What a log was before, the oldest first.
#[must_use]
pub fn rotated(log: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let start = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_ours = |it: &fs::DirEntry| it.file_name().to_string_lossy().starts_with(&start);
    let mut all: Vec<PathBuf> = entries.filter(is_ours).map(|it| it.path()).collect();
    all.sort();
    all
}

/// Removes a log and what it was before.
pub fn remove(log: &Path) -> io::Result<()> {
    for file in rotated(log).iter().map(PathBuf::as_path).chain([log]) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

pub struct Rotation {
    runtime: Arc<dyn Runtime>,
    /// Logs of pods.
    logs: PathBuf,
    clock: Clock,
}

impl Rotation {
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, logs: PathBuf, clock: Clock) -> Rotation {
        Rotation { runtime, logs, clock }
    }

    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(LOOK) => self.look().await,
                () = stop.cancelled() => return,
            }
        }
    }

    pub async fn look(&self) {
        let Ok(containers) = self.runtime.containers(None).await else { return };
        for it in containers.iter().filter(|it| it.state() == ContainerState::ContainerRunning) {
            let Some(log) = log_of(&self.logs, it) else { continue };
            if fs::metadata(&log).is_ok_and(|it| it.len() >= BYTES_MAX)
                && let Err(why) = self.rotate(&it.id, &log).await
            {
                tracing::warn!(log = %log.display(), why, "a log that has grown stays as it is");
            }
        }
    }

    async fn rotate(&self, container: &str, log: &Path) -> Result<(), String> {
        let said = |error: io::Error| error.to_string();
        let before = rotated(log);
        // With this one and the next there are as many as there may be.
        let surplus = (before.len() + 2).saturating_sub(FILES_MAX);
        for oldest in before.iter().take(surplus) {
            fs::remove_file(oldest).map_err(said)?;
        }
        let name = format!("{}.{}", log.display(), stamp(self.clock.now()));
        let aside = PathBuf::from(name);
        if aside.exists() {
            return Err("it has grown twice within a second".into());
        }
        fs::rename(log, &aside).map_err(said)?;
        let opened = self.runtime.reopen_log(container).await;
        opened.or_else(|error| {
            // It goes on writing there: then that has to be found by its name.
            fs::rename(&aside, log).map_err(said)?;
            Err(error.to_string())
        })
    }
}

/// Where a container of a pod writes; `None` for one that is nobody's we know.
fn log_of(logs: &Path, container: &Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key).map(String::as_str);
    let folder = format!(
        "{}_{}_{}",
        label(view::POD_NAMESPACE)?,
        label(view::POD_NAME)?,
        label(view::POD_UID)?
    );
    let attempt = container.metadata.as_ref()?.attempt;
    Some(logs.join(folder).join(log_path(label(view::CONTAINER_NAME)?, attempt)))
}

/// `20260101-120000`, in the order of time.
fn stamp(now: Timestamp) -> String {
    let text = now.rfc3339_micros().replace(['-', ':'], "").replace('T', "-");
    text.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::cri::fake::Fake;
    use crate::agent::cri::v1;

    async fn container(fake: &Fake) {
        let labels = [
            (view::POD_NAMESPACE, "shop"),
            (view::POD_NAME, "web"),
            (view::POD_UID, "u"),
            (view::CONTAINER_NAME, "main"),
        ];
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 3 }),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..v1::ContainerConfig::default()
        };
        let sandbox = v1::PodSandboxConfig::default();
        let id = fake.create_container("s", &config, &sandbox).await.unwrap();
        fake.start_container(&id).await.unwrap();
        fake.told();
    }

    #[tokio::test]
    async fn a_log_that_has_grown_is_set_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let fake = Arc::new(Fake::default());
        container(&fake).await;
        let clock = Clock::set_at(Timestamp::from_seconds(1_700_000_000));
        let rotation = Rotation::new(fake.clone(), folder.path().into(), clock.clone());
        let log = folder.path().join("shop_web_u/main/3.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        let grow = |bytes: u64| fs::File::create(&log).unwrap().set_len(bytes).unwrap();
        grow(BYTES_MAX - 1);
        rotation.look().await;
        assert!(rotated(&log).is_empty() && fake.told().is_empty());
        for _ in 0..FILES_MAX + 2 {
            grow(BYTES_MAX);
            clock.advance_seconds(1);
            rotation.look().await;
            assert_eq!(fake.told(), ["reopen container-001"]);
            assert!(!log.exists());
        }
        let extension = |it: &PathBuf| it.extension().unwrap().to_string_lossy().into_owned();
        let left: Vec<String> = rotated(&log).iter().map(extension).collect();
        let times = [4, 5, 6, 7].map(|it| format!("20231114-22132{}", it));
        assert_eq!(left, times);
        remove(&log).unwrap();
        assert!(rotated(&log).is_empty());
    }
}
