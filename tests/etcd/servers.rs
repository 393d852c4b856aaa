//! An etcd as processes, and the front in this one, each with one member or three, on ports of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kontiki_raft::log::{self, RealDisk};
use kontiki_raft::network::memory::Network;
use kontiki_raft::replica::{Parts, Role, Status};
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

/// The programs of a release of etcd.
#[derive(Clone, Debug)]
pub struct Programs {
    etcd: PathBuf,
    pub etcdctl: PathBuf,
}

impl Programs {
    /// The system's own: 3.4 on Debian.
    pub fn of_the_system() -> Programs {
        Programs { etcd: "etcd".into(), etcdctl: "etcdctl".into() }
    }

    /// 3.5, from PyPI.
    pub fn of_3_5() -> Programs {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/etcd-3.5");
        let output = Command::new(script).output().expect("the script starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Programs { etcd: folder.join("etcd"), etcdctl: folder.join("etcdctl") }
    }
}

pub struct Pair {
    programs: Programs,
    etcd: Etcd,
    ours: Ours,
    root: TempDir,
}

struct Etcd {
    processes: Vec<Child>,
    addresses: Vec<SocketAddr>,
}

struct Ours {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Pair {
    pub fn start(programs: Programs, members: usize) -> Pair {
        let root = tempfile::tempdir().expect("a folder");
        let etcd = Etcd::start(&programs.etcd, members, &root);
        let ours = Ours::start(members, &root);
        let pair = Pair { programs, etcd, ours, root };
        // A read that is linearizable waits for a leader.
        for side in Side::BOTH {
            let found = (0..100).any(|_| pair.etcdctl(side, "get none", "").status.success());
            assert!(found, "{side:?} has no leader");
        }
        pair
    }

    fn addresses(&self, side: Side) -> &[SocketAddr] {
        match side {
            Side::Etcd => &self.etcd.addresses,
            Side::Ours => &self.ours.addresses,
        }
    }

    fn command(&self, side: Side, command: &str) -> Command {
        self.command_at(self.addresses(side), command)
    }

    fn command_at(&self, addresses: &[SocketAddr], command: &str) -> Command {
        let endpoints = addresses.iter().map(SocketAddr::to_string);
        let mut etcdctl = Command::new(&self.programs.etcdctl);
        etcdctl
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(endpoints.collect::<Vec<_>>().join(","))
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
        // It is asked of one member alone.
        let saved = self.command_at(&self.ours.addresses[..1], &command).output();
        let saved = saved.expect("etcdctl is installed");
        assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
        file
    }

    /// Mirrors one into the other, and waits until a key that is put into the first is in the second.
    pub fn mirror(&self, ours_is_source: bool, key: &str) {
        let (from, to) = match ours_is_source {
            true => (Side::Ours, Side::Etcd),
            false => (Side::Etcd, Side::Ours),
        };
        let command = format!("make-mirror {}", self.addresses(to)[0]);
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
    fn start(program: &Path, members: usize, root: &TempDir) -> Etcd {
        // All are held until all are known, so that no two are the same.
        let held: Vec<TcpListener> =
            (0..members * 2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<SocketAddr> =
            held.iter().map(|held| held.local_addr().expect("it is bound")).collect();
        drop(held);
        let (clients, peers) = addresses.split_at(members);
        let cluster: Vec<String> =
            (0..members).map(|at| format!("m{}=http://{}", at + 1, peers[at])).collect();
        let start = |at: usize| {
            let (name, client) = (format!("m{}", at + 1), format!("http://{}", clients[at]));
            let peer = format!("http://{}", peers[at]);
            Command::new(program)
                .args(["--name", &name, "--log-level", "error", "--unsafe-no-fsync"])
                .arg("--data-dir")
                .arg(root.path().join(format!("etcd-{name}")))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &cluster.join(",")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("etcd is installed")
        };
        let etcd =
            Etcd { processes: (0..members).map(start).collect(), addresses: clients.to_vec() };
        clients.iter().for_each(|client| until_connected(*client));
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

impl Ours {
    fn start(members: usize, root: &TempDir) -> Ours {
        let listeners: Vec<TcpListener> =
            (0..members).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|one| one.local_addr().expect("it is bound")).collect();
        let stop = CancellationToken::new();
        let path = root.path().join("ours");
        let (ready, up) = std::sync::mpsc::channel();
        let (stopped, at) = (stop.clone(), addresses.clone());
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let replicas = cluster(&path, &at).await;
                let mut serving = tokio::task::JoinSet::new();
                for (replica, listener) in replicas.iter().zip(listeners) {
                    let config = kontiki_api::etcd::Config::new(Arc::new(|| 1_700_000_000));
                    let router = kontiki_api::etcd::router(replica.clone(), config);
                    listener.set_nonblocking(true).expect("a socket");
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                    serving.spawn(async move { axum::serve(listener, router).await });
                }
                ready.send(()).expect("the test waits");
                tokio::select! {
                    served = serving.join_next() => panic!("it serves no more: {served:?}"),
                    () = stopped.cancelled() => {}
                }
                for replica in replicas {
                    replica.shutdown().await;
                }
            });
        });
        up.recv().expect("the front starts");
        Ours { addresses, stop, serving: Some(serving) }
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

// As long in hexadecimal as etcd's own.
const CLUSTER: ClusterId = ClusterId(0xc1c2_c3c4_c5c6_c7c8);
const FIRST: u64 = 0xa1a2_a3a4_a5a6_a7a8;
const PATIENCE: Duration = Duration::from_secs(30);

/// As many members as there are addresses for clients, all of them voters.
async fn cluster(path: &Path, clients: &[SocketAddr]) -> Vec<Replica> {
    let network = Network::new(1);
    let mut replicas: Vec<Replica> = Vec::new();
    for (at, client) in clients.iter().enumerate() {
        let id = NodeId(FIRST + at as u64);
        let name = format!("m{}", at + 1);
        let replica = start(&network, &path.join(&name), id, &name).await;
        network.listen(id, replica.inbound());
        let peer = Peer {
            name,
            address: format!("127.0.0.1:{}", 2380 + at),
            client_urls: vec![format!("http://{client}")],
        };
        match replicas.first() {
            None => replica.bootstrap(peer).await.expect("an empty directory"),
            Some(first) => {
                first.add_learner(id, peer).await.expect("it is taken in");
                replica.wait(PATIENCE, |status| status.ready).await.expect("it catches up");
                while first.promote(id).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        let votes =
            |status: &Status| status.ready && matches!(status.role, Role::Leader | Role::Follower);
        replica.wait(PATIENCE, votes).await.expect("it votes");
        replicas.push(replica);
    }
    replicas
}

async fn start(network: &Network, path: &Path, id: NodeId, name: &str) -> Replica {
    let identity =
        Identity { cluster: CLUSTER.0, node: id.0, name: name.into(), release: "test".into() };
    std::fs::create_dir_all(path).expect("a folder");
    let directory = Directory::open_or_create(path, &Expect::default(), || identity).expect("new");
    let log_disk = RealDisk::new(directory.log()).expect("a folder for the log");
    let parts = Parts {
        log_disk: Arc::new(log_disk),
        directory: Arc::new(directory),
        engine: Arc::new(rocks::RocksFactory(rocks::Options::default())),
        store: kontiki_storage::Options::default(),
        log: log::Options { segment_bytes: 16 << 20, ..log::Options::default() },
        transport: network.transport(CLUSTER, id),
        space: None,
    };
    Replica::start(parts, kontiki_raft::Config::default()).await.expect("starts")
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

pub fn version(etcdctl: &Path) -> String {
    let output = Command::new(etcdctl).env("ETCDCTL_API", "3").arg("version").output();
    let output = output.expect("etcdctl is installed");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
