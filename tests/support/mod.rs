//! Clusters of real processes on loopback, started by the commands that a user types.
//!
//! Keeps: every port is a free one, every directory a temporary one; what is still running when a test
//! ends is killed. Waits are for a state, and end by saying what was seen last.

pub mod https;
pub mod kubectl;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Far longer than anything takes on a machine that is merely busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_kontiki");

/// A command that nobody's environment has a say in.
pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn kontiki<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = command(arguments);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    ended.expect("the command ends").expect("the command starts")
}

/// Exit code and what was said on standard error.
pub async fn refused<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> (Option<i32>, String) {
    let output = kontiki(arguments).await;
    (output.status.code(), text(&output.stderr))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    look: impl FnMut() -> F,
) -> impl Future<Output = T> {
    wait_longer_for(what, PATIENCE, look)
}

/// The same for what takes long by itself.
#[track_caller]
pub fn wait_longer_for<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    let until = Instant::now() + patience;
    async move {
        loop {
            let seen = match look().await {
                Ok(found) => return found,
                Err(seen) => seen,
            };
            assert!(Instant::now() < until, "{place}: {what} has not come; last seen: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A master: its directory, and its process while it runs.
pub struct Master {
    pub name: String,
    pub directory: PathBuf,
    more: Vec<String>,
    /// Those it is started with: free ones, unless it keeps the ones that it had.
    numbers: [u16; 3],
    process: Option<Child>,
}

const PORTS: [&str; 3] = ["api", "peer", "store"];

impl Master {
    pub fn new(root: &Path, name: &str) -> Master {
        let directory = root.join(name);
        Master { name: name.into(), directory, more: Vec::new(), numbers: [0; 3], process: None }
    }

    /// From now on it comes back where it is.
    pub fn keep_ports(&mut self) {
        self.numbers = PORTS.map(|name| self.port(name));
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Flags beside those that every master here is started with.
    pub fn with<S: Into<String>>(mut self, more: impl IntoIterator<Item = S>) -> Master {
        self.more.extend(more.into_iter().map(Into::into));
        self
    }

    pub fn arguments(&self) -> Vec<String> {
        let directory = self.directory.display().to_string();
        let mut arguments: Vec<String> =
            ["start", "master", "--bind-address", "127.0.0.1"].map(str::to_owned).into();
        for (name, number) in PORTS.iter().zip(self.numbers) {
            arguments.extend([format!("--{name}-port"), number.to_string()]);
        }
        arguments.extend(["--data-dir".into(), directory, "--name".into(), self.name.clone()]);
        arguments.extend(self.more.iter().cloned());
        arguments
    }

    /// Starts the process and waits until it has bound its ports.
    pub async fn start(&mut self) {
        let _ = std::fs::remove_file(self.directory.join("run/ports.json"));
        let log = self.directory.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command(self.arguments()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.process = Some(child);
        let ports = self.directory.join("run/ports.json");
        let (process, log) = (&mut self.process, self.directory.with_extension("log"));
        let until = Instant::now() + PATIENCE;
        while !ports.exists() {
            let ended = process.as_mut().unwrap().try_wait().unwrap();
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "{} ended: {ended:?}\n{}", self.name, said());
            assert!(Instant::now() < until, "{} binds no ports\n{}", self.name, said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the process and waits until it serves.
    pub async fn start_ready(&mut self) {
        self.start().await;
        self.until_ready().await;
    }

    pub async fn until_ready(&self) {
        wait_for("readiness", || async {
            match self.get("/readyz").await {
                Ok((200, body)) if body == "ok" => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log())),
            }
        })
        .await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.with_extension("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        let id = self.process.as_ref().and_then(Child::id).expect("it runs");
        i32::try_from(id).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// As when the machine's power goes, but for what the kernel still writes.
    pub async fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.process.take().unwrap().wait().await.unwrap();
    }

    /// As an operator stops it. Returns the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("{} does not end\n{}", self.name, self.log()))
            .unwrap()
            .code()
    }

    pub fn ports(&self) -> Value {
        let text = std::fs::read_to_string(self.directory.join("run/ports.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub fn port(&self, name: &str) -> u16 {
        u16::try_from(self.ports()[name].as_u64().unwrap()).unwrap()
    }

    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.port("api"))
    }

    /// GET at the API's port, without a certificate of our own.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let ca = self.directory.join("pki/cluster/ca.crt");
        https::get(self.port("api"), path, &https::Client::trusting(&ca)).await
    }

    /// Runs a command against this master and returns what it printed.
    pub async fn ask(&self, command: &[&str]) -> Result<String, String> {
        let directory = self.directory.display().to_string();
        let arguments = command.iter().copied().chain(["--data-dir", &directory]);
        let output = kontiki(arguments).await;
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub async fn ask_json(&self, command: &[&str]) -> Result<Value, String> {
        let command: Vec<&str> = command.iter().copied().chain(["--output", "json"]).collect();
        let answer = self.ask(&command).await?;
        serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Value, String> {
        Ok(self.ask_json(&["status"]).await?["asked"].clone())
    }

    pub async fn token(&self, role: &str) -> String {
        let token = self.ask(&["token", "create", "--role", role]).await.unwrap();
        token.trim().to_owned()
    }

    /// Waits until it votes, and until all it sees vote.
    pub async fn until_voters(&self, count: usize) {
        wait_for("voters", || async {
            let status = self.status().await?;
            let members = status["members"].as_array().cloned().unwrap_or_default();
            let voters = members.iter().filter(|member| member["voter"] == true).count();
            let all = voters == count && members.len() == count && status["ready"] == true;
            if all { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
        })
        .await;
    }
}

/// Masters of one cluster, on this machine.
pub struct Cluster {
    pub root: TempDir,
    pub masters: Vec<Master>,
}

impl Cluster {
    /// A cluster of one, ready.
    pub async fn of_one() -> Cluster {
        let root = tempfile::tempdir().unwrap();
        let mut first = Master::new(root.path(), "m1");
        first.start_ready().await;
        Cluster { root, masters: vec![first] }
    }

    /// A cluster in which all vote.
    pub async fn of(size: usize) -> Cluster {
        let mut cluster = Cluster::of_one().await;
        for number in 2..=size {
            cluster.join(&format!("m{number}"), 0).await;
        }
        cluster
    }

    /// Adds a master through that at `through`, and waits until it votes.
    pub async fn join(&mut self, name: &str, through: usize) -> usize {
        let helper = &self.masters[through];
        let (api, token) = (helper.api(), helper.token("master").await);
        let joiner = Master::new(self.root.path(), name);
        let mut joiner = joiner.with(["--join", &api, "--token", &token]);
        joiner.start_ready().await;
        let before = self.masters.len();
        self.masters.push(joiner);
        wait_for("a vote", || async {
            let status = self.masters[before].status().await?;
            let id = status["id"].clone();
            let members = status["members"].as_array().cloned().unwrap_or_default();
            let votes = members.iter().any(|member| member["id"] == id && member["voter"] == true);
            if votes { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        before
    }

    /// Which of the running masters leads, as it says itself.
    pub async fn leader(&self) -> usize {
        wait_for("a leader", || async {
            let mut seen = String::new();
            for (at, master) in self.masters.iter().enumerate() {
                if master.process.is_none() {
                    continue;
                }
                match master.status().await {
                    Ok(status) if status["role"] == "leader" => return Ok(at),
                    other => seen = format!("{seen}\n{}: {other:?}", master.name),
                }
            }
            Err(seen)
        })
        .await
    }
}
