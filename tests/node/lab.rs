//! Several machines on this one: each a network, mounts and processes of its own, on one bridge.
//!
//! Keeps: nothing of them is left, however a test ends: the kernel ends what is in a namespace when the process
//! that holds it ends. A file that a runtime puts below `/run` or `/var/log/pods` is its machine's alone.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::kubectl::PATIENCE;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where all machines send what they know no way for.
const ROUTER: &str = "10.77.0.254";

/// A process that holds namespaces.
struct Holder {
    process: Child,
    /// The first process in them, as it is seen from outside.
    inside: i32,
}

impl Holder {
    /// Runs `script` in fresh namespaces, which stay when it has ended well.
    async fn new(kinds: &[&str], script: &str) -> Holder {
        // A shell as the first process: it takes in what others leave behind.
        let script = format!("set -e\n{script}\necho ready\nwhile :; do sleep 60 & wait $!; done");
        let mut command = Command::new("unshare");
        command.args(kinds).args(["--fork", "--kill-child", "--", "sh", "-c", &script]);
        command.env_clear().env("PATH", PATH).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().expect("it was asked for")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("namespaces in time").unwrap();
        assert_eq!(line.as_deref(), Some("ready"), "{kinds:?}");
        let inside = child_of(&process);
        Holder { process, inside }
    }

    async fn does(&self, words: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.inside.to_string(), "--"]).args(words.split(' '));
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{words}: {output:?}");
    }
}

/// The one child of a process.
pub fn child_of(process: &Child) -> i32 {
    let number = process.id().expect("it runs");
    let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
    let children = children.unwrap();
    children.split_whitespace().next().expect("it has one child").parse().unwrap()
}

/// A machine.
pub struct Host {
    holder: Holder,
    pub address: String,
    pub folder: PathBuf,
}

/// A process of a machine.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

/// The machines, and what connects them.
pub struct Lab {
    pub folder: TempDir,
    switch: Holder,
    pub hosts: Vec<Host>,
}

impl Lab {
    pub async fn with(count: usize) -> Lab {
        assert!(rustix::process::geteuid().is_root(), "this test runs containers: run it as root");
        // Short: a socket's path has a limit.
        let folder = tempfile::Builder::new().prefix("kt").tempdir_in("/var/tmp").unwrap();
        let script = format!(
            "ip link set lo up\n\
             ip link add bridge0 type bridge\n\
             ip addr add {ROUTER}/24 dev bridge0\n\
             ip link set bridge0 up"
        );
        let switch = Holder::new(&["--net"], &script).await;
        let mut lab = Lab { folder, switch, hosts: Vec::new() };
        for number in 1..=count {
            let host = Host::new(lab.folder.path(), number).await;
            let (link, inside) = (format!("h{number}"), host.holder.inside);
            let add = format!("ip link add {link} type veth peer name eth0 netns {inside}");
            lab.switch.does(&add).await;
            lab.switch.does(&format!("ip link set {link} master bridge0 up")).await;
            host.holder.does(&format!("ip addr add {}/24 dev eth0", host.address)).await;
            host.holder.does("ip link set eth0 up").await;
            host.holder.does(&format!("ip route add default via {ROUTER}")).await;
            lab.hosts.push(host);
        }
        lab
    }

    /// What a web server says to a machine that is no node.
    pub async fn fetch(&self, url: &str) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.switch.inside.to_string(), "--"]);
        command.args(["curl", "--silent", "--show-error", "--fail", "--max-time", "10", url]);
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Host {
    async fn new(lab: &Path, number: usize) -> Host {
        let folder = lab.join(format!("h{number}"));
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).unwrap();
        let script = format!(
            "ip link set lo up\n\
             mount -t tmpfs tmpfs /run\n\
             mkdir -p /var/log/pods\n\
             mount --bind {} /var/log/pods",
            logs.display()
        );
        let kinds = ["--net", "--mount", "--pid", "--mount-proc"];
        let holder = Holder::new(&kinds, &script).await;
        Host { holder, address: format!("10.77.0.{number}"), folder }
    }

    /// A process whose namespaces are the machine's.
    pub fn inside(&self) -> i32 {
        self.holder.inside
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target", &self.inside().to_string(), "--"]);
        command.arg(env!("CARGO_BIN_EXE_kontiki")).env_clear().env("PATH", PATH);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command of the system here, in whatever namespaces the machine has.
    pub async fn does(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target", &self.inside().to_string(), "--"]);
        command.args(words).env_clear().env("PATH", PATH).stdin(Stdio::null()).kill_on_drop(true);
        timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
    }

    /// Starts Kontiki here. Its log goes on where an earlier one's of that name has ended.
    pub fn starts(&self, name: &str, arguments: &[&str]) -> Process {
        let log = self.folder.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = self.command();
        command.arg("start").args(arguments).stdout(Stdio::null()).stderr(file);
        Process { child: command.spawn().unwrap(), log }
    }

    /// Runs a command of Kontiki to its end.
    pub async fn runs(&self, arguments: &[&str]) -> String {
        let output = timeout(PATIENCE, self.command().args(arguments).output()).await;
        let output = output.expect("it ends").unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Process {
    /// As when the power fails.
    pub async fn dies(mut self) {
        let number = rustix::process::Pid::from_raw(child_of(&self.child)).unwrap();
        rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
    }

    /// As an operator stops it. Returns the exit code.
    pub async fn stops(mut self) -> Option<i32> {
        let number = rustix::process::Pid::from_raw(child_of(&self.child)).unwrap();
        rustix::process::kill_process(number, rustix::process::Signal::TERM).unwrap();
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Not waited for by anybody else: what mounts and sockets it holds go with it.
        let _ = self.process.start_kill();
    }
}
