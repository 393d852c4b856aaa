//! A containerd of our own, for machines where none runs.
//!
//! ```text
//! DIR/containerd/               images and snapshots
//! DIR/containerd/config.toml    written at each start
//! DIR/containerd/cni/           the pods' network
//! DIR/containerd/certs.d/       how registries are reached, a folder each (see containerd's `hosts.toml`)
//! DIR/run/containerd.sock       where it answers
//! DIR/run/containerd            leads to what dies with the machine: a folder below /run/kontiki/
//! ```
//! Keeps: containers go on while it is away; one that was left running by an agent that was killed
//! is used again. One that ends by itself is started again. A shell in a container that runs needs no room on
//! the disk: what is written for it lies in memory.
//! Never: touches the system's containerd, its files or its images.

use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cri::client::Client;
use super::cri::{Error, Runtime};
use super::images::{archives, own};
use super::network;

/// The kernel's limit of a socket's path.
const SOCKET_BYTES_MAX: usize = 107;
const START_WAIT_MAX: Duration = Duration::from_secs(60);
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause before one that has ended is started again; doubled each time, and given up past the longest.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// One that has run as long ended for a reason of its own.
const LASTED_MIN: Duration = Duration::from_secs(300);
/// How one that is not our child is watched.
const LOOK: Duration = Duration::from_secs(2);
const SILENCES_MAX: u32 = 3;
/// Where the system's containerd is told how registries are reached.
const REGISTRIES: &str = "/etc/containerd/certs.d";
/// Where the states of all of them lie, on the machine's memory.
const STATES: &str = "/run/kontiki";
/// Below a state: a folder for each container that runs.
const RUNNING: &str = "io.containerd.runtime.v2.task/k8s.io";
/// A file system that overlays cannot be put on.
const OVERLAY: i64 = 0x794c_7630;

/// Where a containerd of our own keeps what it has.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
    run: PathBuf,
}

impl Places {
    #[must_use]
    pub fn new(data_dir: &Path) -> Places {
        Places { root: data_dir.join("containerd"), run: data_dir.join("run") }
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Folders in which a registry has one by its name, with `hosts.toml`: where the system has them, and ours.
    fn registries(&self) -> String {
        format!("{REGISTRIES}:{}", self.root.join("certs.d").display())
    }

    fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The folder of what dies with the machine, which is there then.
    fn state(&self) -> io::Result<PathBuf> {
        let link = self.run.join("containerd");
        let is_folder = std::fs::symlink_metadata(&link).is_ok_and(|it| it.is_dir());
        // One of an earlier release, beside the data. Containers that run stay where they are known.
        if is_folder
            && std::fs::read_dir(link.join(RUNNING)).is_ok_and(|mut it| it.next().is_some())
        {
            return Ok(link);
        }
        if is_folder {
            std::fs::remove_dir_all(&link)?;
        }
        // Since the machine has started anew it leads nowhere.
        let known = std::fs::read_link(&link).ok();
        let state = match known {
            Some(state) => state,
            None => {
                std::fs::create_dir_all(STATES)?;
                let state =
                    tempfile::Builder::new().prefix("containerd-").tempdir_in(STATES)?.keep();
                symlink(&state, &link)?;
                state
            }
        };
        std::fs::create_dir_all(&state)?;
        // As containerd makes it: users of a container's may pass, and not look around.
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o711))?;
        Ok(state)
    }

    fn snapshotter(&self) -> &'static str {
        match rustix::fs::statfs(&self.root) {
            Ok(found) if found.f_type == OVERLAY => "native",
            _ => "overlayfs",
        }
    }

    fn config(&self, state: &Path) -> String {
        let plugins = network::plugins().unwrap_or_else(|| network::PLUGINS[0].into());
        // TOML's basic strings take Rust's escapes for all that a path can be.
        format!(
            "version = 2\n\
             root = {root:?}\n\
             state = {state:?}\n\
             [grpc]\n\
             address = {socket:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = {pause:?}\n\
             stream_server_address = \"127.0.0.1\"\n\
             stream_server_port = \"0\"\n\
             restrict_oom_score_adj = {restricted}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = {plugins:?}\n\
             conf_dir = {network:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
             config_path = {registries:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
             snapshotter = {snapshotter:?}\n",
            root = self.root.join("data"),
            socket = self.socket(),
            pause = own::PAUSE,
            restricted = !may_protect_from_the_kernel(),
            network = self.network(),
            registries = self.registries(),
            snapshotter = self.snapshotter(),
        )
    }
}

/// One that runs, as our child or from before.
pub struct Containerd {
    places: Places,
    child: Option<Child>,
}

impl Containerd {
    /// Starts it, unless it runs already, and sees to our own images being there.
    pub async fn start(places: Places) -> Result<Containerd, String> {
        let socket = places.socket();
        if socket.as_os_str().len() > SOCKET_BYTES_MAX {
            return Err(format!(
                "{} is too long for a socket; choose a shorter --data-dir",
                socket.display()
            ));
        }
        let client = Client::new(&socket.to_string_lossy())?;
        let mut child = None;
        if client.version().await.is_err() {
            child = Some(places.spawn()?);
            places.answers(&client, child.as_mut()).await?;
        }
        let containerd = Containerd { places, child };
        containerd.import(&client).await?;
        Ok(containerd)
    }

    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.places.socket().display())
    }

    /// Until `stop`. One that ends before is started again; containers go on meanwhile. An error: it does not
    /// come back.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let client = Client::new(&self.places.socket().to_string_lossy())?;
        let mut pause = RESTART_FIRST;
        loop {
            let began = Instant::now();
            tokio::select! {
                why = self.ends(&client) => {
                    tracing::error!(why, "containerd is started again; containers go on");
                }
                () = stop.cancelled() => {
                    if let Some(child) = &mut self.child {
                        terminate(child).await;
                    }
                    return Ok(());
                }
            }
            if began.elapsed() > LASTED_MIN {
                pause = RESTART_FIRST;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return Ok(()),
            }
            if pause > RESTART_MAX {
                let log = self.places.root.join("log");
                return Err(format!("containerd ends again and again; see {}", log.display()));
            }
            pause *= 2;
            let child = self.child.insert(self.places.spawn()?);
            self.places.answers(&client, Some(child)).await?;
        }
    }

    /// Until it is not there any more. Says why.
    async fn ends(&mut self, client: &Client) -> String {
        let Some(child) = &mut self.child else {
            // It is nobody's child: whether it lives is seen by its answers.
            let mut silent = 0;
            while silent < SILENCES_MAX {
                sleep(LOOK).await;
                silent = match client.version().await {
                    Err(Error::Unreachable(_)) => silent + 1,
                    _ => 0,
                };
            }
            return "it does not answer".into();
        };
        match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Brings the images of our own into the runtime.
    async fn import(&self, client: &Client) -> Result<(), String> {
        for (name, build) in own::all() {
            if client.image(name).await.is_ok_and(|it| it.is_some()) {
                continue;
            }
            let archive = self.places.root.join("image.tar");
            let at = archive.clone();
            let written = tokio::task::spawn_blocking(move || {
                let mut file = std::io::BufWriter::new(std::fs::File::create(at)?);
                build(&mut file)?;
                file.into_inner()?.sync_all()
            });
            let written = written.await.map_err(io::Error::other).and_then(|it| it);
            written.map_err(|error| format!("image {name}: {error}"))?;
            let imported = archives::import(&self.places.socket(), &archive).await;
            tokio::fs::remove_file(&archive).await.map_err(|it| it.to_string())?;
            imported.map_err(|why| format!("image {name} cannot be brought in: {why}"))?;
            self.appears(client, name).await?;
        }
        Ok(())
    }

    /// The runtime's front learns of new images a moment later.
    async fn appears(&self, client: &Client, name: &str) -> Result<(), String> {
        let until = Instant::now() + START_WAIT_MAX;
        while Instant::now() < until {
            if client.image(name).await.is_ok_and(|it| it.is_some()) {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(format!("image {name} was brought in and does not show"))
    }
}

impl Places {
    fn spawn(&self) -> Result<Child, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.root.display());
        for folder in [&self.root, &self.run, &self.network()] {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let state = self.state().map_err(failed)?;
        let (file, config) = (self.config_file(), self.config(&state));
        // On a full disk it could not be written again.
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&config) {
            std::fs::write(&file, config).map_err(failed)?;
        }
        let log = std::fs::File::create(self.root.join("log")).map_err(failed)?;
        Command::new("containerd")
            .arg("--config")
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // A signal from the terminal is for us; we tell it.
            .process_group(0)
            // It is not what a service manager waits for.
            .env_remove(crate::service::VARIABLE)
            // Where its helpers write what a command is to be.
            .env("XDG_RUNTIME_DIR", &state)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                format!(
                    "containerd cannot be run ({error}); install it (Debian: containerd runc \
                     containernetworking-plugins iptables) or name another runtime \
                     (--container-runtime-endpoint)"
                )
            })
    }

    async fn answers(&self, client: &Client, mut child: Option<&mut Child>) -> Result<(), String> {
        let until = Instant::now() + START_WAIT_MAX;
        loop {
            let last = match client.version().await {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let ended = match child.as_mut().map(|it| it.try_wait()) {
                Some(Ok(Some(status))) => Some(status),
                _ => None,
            };
            if let Some(status) = ended {
                let log = self.root.join("log");
                return Err(format!("containerd has ended ({status}); see {}", log.display()));
            }
            if Instant::now() > until {
                return Err(format!("containerd does not answer: {last}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether processes may be made less likely to be killed when memory runs out. Where not, as within many
/// containers, a runtime that tried could start nothing.
fn may_protect_from_the_kernel() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    mask.is_some_and(|it| it & (1 << SYS_RESOURCE) != 0)
}

/// Asks it to end, and kills it if it does not.
async fn terminate(child: &mut Child) {
    let Some(pid) = child.id().and_then(|it| i32::try_from(it).ok()) else { return };
    if let Some(pid) = rustix::process::Pid::from_raw(pid)
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!(%error, "containerd cannot be told to end");
    }
    if tokio::time::timeout(STOP_WAIT_MAX, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!(%error, "containerd does not end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_lies_in_memory_and_is_found_again_but_not_torn_from_containers_that_run() {
        assert!(rustix::process::geteuid().is_root(), "states lie below {STATES}: run it as root");
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(folder.path());
        let old = folder.path().join("run/containerd");
        std::fs::create_dir_all(old.join(RUNNING).join("id")).unwrap();
        assert_eq!(places.state().unwrap(), old, "it was begun there");
        std::fs::remove_dir(old.join(RUNNING).join("id")).unwrap();
        let state = places.state().unwrap();
        assert!(state.starts_with(STATES), "{}", state.display());
        assert_eq!(places.state().unwrap(), state);
        // The machine starts anew.
        std::fs::remove_dir(&state).unwrap();
        assert_eq!(places.state().unwrap(), state);
        assert!(state.is_dir());
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir(other.path().join("run")).unwrap();
        let another = Places::new(other.path()).state().unwrap();
        assert_ne!(another, state, "each has its own");
        std::fs::remove_dir(&state).unwrap();
        std::fs::remove_dir(&another).unwrap();
    }
}
