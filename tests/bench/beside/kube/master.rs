//! A master of this build in a process of its own, and a process of hollow nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::client::{Access, Ask, Client};
use crate::load::Servers;
use crate::options::Options;
use crate::servers::{PATIENCE, port, spawn};
use crate::{Failure, processes};

/// Its ports: how they are said, and how they are listed.
pub const PORTS: [(&str, &str); 3] =
    [("--api-port", "api"), ("--peer-port", "peer"), ("--store-port", "store")];

pub struct Master {
    process: Child,
    command: Vec<String>,
    directory: PathBuf,
    pub access: Access,
}

impl Servers for Master {
    fn processor(&self) -> Duration {
        processes::processor(&[self.pid()])
    }
}

impl Master {
    /// Starts `kontiki start master` with these words behind, and says how long it took until `/readyz`
    /// said `ok`.
    pub async fn start(
        options: &Options,
        folder: &Path,
        words: &[&str],
    ) -> Result<(Master, Duration), Failure> {
        let directory = folder.join("master");
        let mut command = vec![options.binary.display().to_string()];
        command.extend(["start", "master"].map(str::to_owned));
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command.extend(["--bind-address", "127.0.0.1", "--data-dir"].map(str::to_owned));
        command.push(directory.display().to_string());
        for (flag, _) in PORTS {
            command.extend([flag.to_owned(), "0".to_owned()]);
        }
        let began = Instant::now();
        let process = spawn(&command)?;
        let access = until_ready(&directory, began).await?;
        let took = began.elapsed();
        // The next time it has the same ports.
        for (flag, name) in PORTS {
            let at = command.iter().position(|word| word == flag).expect("it was given");
            command[at + 1] = port(&directory, name)?.to_string();
        }
        Ok((Master { process, command, directory, access }, took))
    }

    /// Kills it and starts it again; how long it takes until `/readyz` says `ok`.
    pub async fn restart(&mut self) -> Result<Duration, Failure> {
        self.process.kill().await?;
        let began = Instant::now();
        self.process = spawn(&self.command)?;
        self.access = until_ready(&self.directory, began).await?;
        Ok(began.elapsed())
    }

    /// The most memory that it has had since it began.
    pub fn peak_mib(&self) -> f64 {
        processes::peak_mib(&[self.pid()])
    }

    pub fn pid(&self) -> u32 {
        self.process.id().unwrap_or(0)
    }

    pub fn resident_mib(&self) -> f64 {
        processes::resident_mib(&[self.pid()])
    }

    pub async fn client(&self) -> Result<Client, Failure> {
        self.access.connect().await
    }

    /// So many nodes without containers, in a process that goes when this is dropped.
    pub fn hollow_nodes(&self, options: &Options, nodes: usize) -> Result<Child, Failure> {
        let kubeconfig = self.directory.join("kubeconfig").display().to_string();
        let (binary, nodes) = (options.binary.display().to_string(), nodes.to_string());
        let words = ["start", "hollow", "--kubeconfig", &kubeconfig, "--nodes", &nodes];
        let mut command = vec![binary];
        command.extend(words.map(str::to_owned));
        spawn(&command)
    }
}

/// What it takes to ask the master of this directory, as soon as it says that it is ready.
pub async fn until_ready(directory: &Path, began: Instant) -> Result<Access, Failure> {
    loop {
        let asked = async {
            let port = u16::try_from(port(directory, "api")?)?;
            let access = Access::read(directory, port)?;
            access.connect().await?.ask(Ask::get("/readyz")).await?;
            Ok::<_, Failure>(access)
        };
        match asked.await {
            Ok(access) => return Ok(access),
            Err(failure) if began.elapsed() > PATIENCE => return Err(failure),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}
