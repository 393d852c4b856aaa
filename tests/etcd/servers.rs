//! Debian's etcd as a process, and the front in this one, each on ports of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use kontiki_raft::log::{self, RealDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::Parts;
use kontiki_raft::{ClusterId, NodeId, Peer, Replica};
use kontiki_storage::directory::{Directory, Expect, Identity};
use kontiki_storage::engine::rocks;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Etcd,
    Ours,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Etcd, Side::Ours];
}

pub struct Pair {
    etcd: Etcd,
    ours: Ours,
    root: TempDir,
}

struct Etcd {
    process: Child,
    address: SocketAddr,
}

struct Ours {
    address: SocketAddr,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Pair {
    pub fn start() -> Pair {
        let root = tempfile::tempdir().expect("a folder");
        let etcd = Etcd::start(&root);
        let ours = Ours::start(&root);
        Pair { etcd, ours, root }
    }

    fn address(&self, side: Side) -> SocketAddr {
        match side {
            Side::Etcd => self.etcd.address,
            Side::Ours => self.ours.address,
        }
    }

    fn command(&self, side: Side, command: &str) -> Command {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.address(side).to_string())
            .args(words(command));
        etcdctl
    }

    pub fn etcdctl(&self, side: Side, command: &str, input: &str) -> Output {
        let mut child = self
            .command(side, command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl is installed");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may end without reading all of it.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        child.wait_with_output().expect("etcdctl ends")
    }

    /// Runs a command until it has printed so many lines.
    pub fn first_lines(&self, side: Side, command: &str, lines: usize) -> String {
        let mut child = Stopped(
            self.command(side, command)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("etcdctl is installed"),
        );
        let out = BufReader::new(child.0.stdout.take().expect("it is piped"));
        let read: Vec<String> = out.lines().take(lines).map(|line| line.expect("text")).collect();
        read.join("\n")
    }

    pub fn save_ours(&self) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new_in(self.root.path()).expect("a file");
        let command = format!("snapshot save {}", file.path().display());
        let saved = self.etcdctl(Side::Ours, &command, "");
        assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
        file
    }

    /// Mirrors one into the other, and waits until a key that is put into the first is in the second.
    pub fn mirror(&self, ours_is_source: bool, key: &str) {
        let (from, to) = match ours_is_source {
            true => (Side::Ours, Side::Etcd),
            false => (Side::Etcd, Side::Ours),
        };
        let command = format!("make-mirror {}", self.address(to));
        let child =
            self.command(from, &command).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _mirror = Stopped(child.expect("etcdctl is installed"));
        assert!(self.etcdctl(from, &format!("put {key} here"), "").status.success());
        for _ in 0..300 {
            let got = self.etcdctl(to, &format!("get {key} --print-value-only"), "");
            if got.stdout == b"here\n" {
                return;
            }
        }
        panic!("{key} did not come from {from:?} to {to:?}");
    }
}

/// A process that does not outlive this.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Etcd {
    fn start(root: &TempDir) -> Etcd {
        let [client, peer] = [free_port(), free_port()];
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let process = Command::new("etcd")
            .args(["--name", "m1", "--log-level", "error", "--unsafe-no-fsync"])
            .arg("--data-dir")
            .arg(root.path().join("etcd"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("m1={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed");
        let etcd = Etcd { process, address: client };
        until_connected(client);
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Ours {
    fn start(root: &TempDir) -> Ours {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let path = root.path().join("ours");
        let (ready, up) = std::sync::mpsc::channel();
        let stopped = stop.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let replica = replica(&path, address).await;
                let config = kontiki_api::etcd::Config::new(Arc::new(|| 1_700_000_000));
                let router = kontiki_api::etcd::router(replica.clone(), config);
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                ready.send(()).expect("the test waits");
                let serving = axum::serve(listener, router);
                tokio::select! {
                    served = serving => served.expect("it serves"),
                    () = stopped.cancelled() => {}
                }
                replica.shutdown().await;
            });
        });
        up.recv().expect("the front starts");
        Ours { address, stop, serving: Some(serving) }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.join().ok();
        }
    }
}

async fn replica(path: &std::path::Path, address: SocketAddr) -> Replica {
    // As long in hexadecimal as etcd's own.
    const CLUSTER: ClusterId = ClusterId(0xc1c2_c3c4_c5c6_c7c8);
    const MEMBER: NodeId = NodeId(0xa1a2_a3a4_a5a6_a7a8);
    let identity =
        Identity { cluster: CLUSTER.0, node: MEMBER.0, name: "m1".into(), release: "test".into() };
    let directory = Directory::open_or_create(path, &Expect::default(), || identity).expect("new");
    let network = Network::new(1);
    let log_disk = RealDisk::new(directory.log()).expect("a folder for the log");
    let parts = Parts {
        log_disk: Arc::new(log_disk),
        directory: Arc::new(directory),
        engine: Arc::new(rocks::RocksFactory(rocks::Options::default())),
        store: kontiki_storage::Options::default(),
        log: log::Options { segment_bytes: 16 << 20, ..log::Options::default() },
        transport: network.transport(CLUSTER, MEMBER),
        space: None,
    };
    let replica = Replica::start(parts, kontiki_raft::Config::default()).await.expect("starts");
    let peer = Peer {
        name: "m1".into(),
        address: "127.0.0.1:2380".into(),
        client_urls: vec![format!("http://{address}")],
    };
    replica.bootstrap(peer).await.expect("an empty directory");
    let ready = replica.wait(std::time::Duration::from_secs(30), |status| status.ready).await;
    ready.expect("it leads");
    replica
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound")
}

fn until_connected(address: SocketAddr) {
    for _ in 0..100_000 {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("etcd does not listen on {address}");
}

/// Words of a command line; one in double quotes may be empty.
fn words(command: &str) -> Vec<String> {
    let words = command.split(' ').filter(|word| !word.is_empty());
    words.map(|word| word.trim_matches('"').to_owned()).collect()
}

pub fn etcdctl_version() -> String {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").arg("version").output();
    let output = output.expect("etcdctl is installed");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
