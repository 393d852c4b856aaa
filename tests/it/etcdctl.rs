//! `etcdctl` with three members of real processes: Debian's etcd and the binary, the latter over its own
//! TLS. What it prints is compared; what may differ (ids, ports, sizes, versions) is normalized alike.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::printed::Printed;
use crate::store::pki;
use crate::support::{Cluster, Master, PATIENCE, text, wait_for};

const MEMBERS: usize = 3;

/// Three members of etcd.
struct Etcd {
    clients: Vec<String>,
    _members: Vec<Child>,
    _folder: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Etcd {
        let folder = tempfile::tempdir().unwrap();
        // All are held until all are known, so that no two are the same.
        let held: Vec<TcpListener> =
            (0..MEMBERS * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let urls: Vec<String> =
            held.iter().map(|held| format!("http://{}", held.local_addr().unwrap())).collect();
        drop(held);
        let (clients, peers) = urls.split_at(MEMBERS);
        let all: Vec<String> =
            (0..MEMBERS).map(|at| format!("m{}={}", at + 1, peers[at])).collect();
        let members = (0..MEMBERS).map(|at| {
            let name = format!("m{}", at + 1);
            Command::new("etcd")
                .args(["--name", &name, "--log-level", "error", "--unsafe-no-fsync"])
                .arg("--data-dir")
                .arg(folder.path().join(&name))
                .args(["--listen-client-urls", &clients[at]])
                .args(["--advertise-client-urls", &clients[at]])
                .args(["--listen-peer-urls", &peers[at]])
                .args(["--initial-advertise-peer-urls", &peers[at]])
                .args(["--initial-cluster", &all.join(",")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("etcd is installed")
        });
        Etcd { _members: members.collect(), clients: clients.to_vec(), _folder: folder }
    }
}

/// Both clusters, asked the same.
struct Both {
    etcd: Etcd,
    ours: Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Etcd,
    Ours,
}

impl Both {
    async fn start() -> Both {
        let both = Both { etcd: Etcd::start(), ours: Cluster::of(MEMBERS).await };
        both.ours.masters[0].until_voters(MEMBERS).await;
        for side in [Side::Etcd, Side::Ours] {
            wait_for("health", || async {
                let output = both.run(side, &both.endpoints(side), "endpoint health").await;
                if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
            })
            .await;
        }
        both
    }

    fn endpoints(&self, side: Side) -> Vec<String> {
        match side {
            Side::Etcd => self.etcd.clients.clone(),
            Side::Ours => {
                let masters = self.ours.masters.iter();
                masters.map(|one| format!("https://127.0.0.1:{}", one.port("store"))).collect()
            }
        }
    }

    async fn run(&self, side: Side, endpoints: &[String], command: &str) -> Output {
        let ours = (side == Side::Ours).then(|| &self.ours.masters[0]);
        run(etcdctl(endpoints, ours, command)).await
    }

    /// Runs a command at all endpoints of both, and compares what is printed, line by line in any order.
    async fn alike(&self, command: &str) {
        let mut printed = Vec::new();
        for side in [Side::Etcd, Side::Ours] {
            let output = self.run(side, &self.endpoints(side), command).await;
            let said = Printed::of(&output);
            printed.push((said.succeeded, lines(&said)));
        }
        assert_eq!(printed[1], printed[0], "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    async fn status(&self, side: Side) -> Vec<Value> {
        let output = self.run(side, &self.endpoints(side), "endpoint status -w json").await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    /// Where the leader is, and where another member is, with that one's id.
    async fn leader(&self, side: Side) -> (String, String, u64) {
        wait_for("a leader", || async {
            let status = self.status(side).await;
            let id = |one: &Value| one["Status"]["header"]["member_id"].as_u64().unwrap();
            let endpoint = |one: &Value| one["Endpoint"].as_str().unwrap().to_owned();
            let leads = |one: &&Value| one["Status"]["leader"].as_u64() == Some(id(one));
            let agreed =
                status.iter().all(|one| one["Status"]["leader"] == status[0]["Status"]["leader"]);
            let leader = status.iter().find(leads).filter(|_| agreed && status.len() == MEMBERS);
            let other = status.iter().find(|one| !leads(one));
            match (leader, other) {
                (Some(leader), Some(other)) => Ok((endpoint(leader), endpoint(other), id(other))),
                _ => Err(format!("{status:?}")),
            }
        })
        .await
    }
}

/// A command for these endpoints, with the certificate of a master where they want one.
fn etcdctl(endpoints: &[String], prove: Option<&Master>, command: &str) -> Command {
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
    if let Some(master) = prove {
        let files = [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")];
        for (flag, file) in files {
            etcdctl.arg(flag).arg(pki(master, file));
        }
    }
    etcdctl.args(command.split(' ')).stdin(Stdio::null()).kill_on_drop(true);
    etcdctl
}

async fn run(mut command: Command) -> Output {
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    ended.expect("etcdctl ends").expect("etcdctl is installed")
}

/// What was printed, without what two clusters never have in common.
fn lines(printed: &Printed) -> Vec<String> {
    let all = format!("{}{}", printed.out, printed.error).replace("https", "http");
    let mut lines: Vec<String> = all.lines().map(short_ids).collect();
    lines.sort();
    lines
}

/// Ids of ours are short; those of etcd have been replaced already.
fn short_ids(line: &str) -> String {
    match line.split_once(", started, ") {
        Some((_, rest)) => format!("ID, started, {rest}"),
        None => line.to_owned(),
    }
}

#[tokio::test]
async fn three_members_are_described_and_led_alike() {
    let both = Both::start().await;
    for number in 0..5 {
        both.alike(&format!("put k{number} v")).await;
    }
    both.alike("endpoint health").await;
    both.alike("endpoint health --cluster").await;
    both.alike("member list").await;
    both.alike("alarm list").await;
    both.alike("alarm disarm").await;
    both.alike("defrag").await;
    both.alike("get k --prefix").await;
    both.alike("get k1 --consistency=s").await;
    for side in [Side::Etcd, Side::Ours] {
        // The members of a side agree on what they hold and on who leads them.
        let hashes = || async {
            let output = both.run(side, &both.endpoints(side), "endpoint hashkv -w json").await;
            let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let hash = |one: &Value| one["HashKV"]["hash"].clone();
            let same = all.len() == MEMBERS && all.iter().all(|one| hash(one) == hash(&all[0]));
            if same { Ok(()) } else { Err(format!("{output:?}")) }
        };
        wait_for("one hash", hashes).await;
        for one in both.status(side).await {
            let status = &one["Status"];
            for field in ["raftTerm", "raftIndex", "raftAppliedIndex", "dbSize"] {
                assert!(status[field].as_u64().unwrap_or(0) > 0, "{side:?}: {field} of {one}");
            }
        }

        // Leadership goes where it is sent, from the leader alone.
        let (leader, other, id) = both.leader(side).await;
        let command = format!("move-leader {id:x}");
        let refused = both.run(side, std::slice::from_ref(&other), &command).await;
        assert!(!refused.status.success());
        assert!(text(&refused.stderr).contains("no leader endpoint given at"), "{refused:?}");
        let moved = both.run(side, &[leader], &command).await;
        let said = text(&moved.stdout);
        assert!(
            moved.status.success() && said.contains("Leadership transferred from"),
            "{moved:?}"
        );
        assert!(said.trim().ends_with(&format!("to {id:x}")), "{said}");
        wait_for("the new leader", || async {
            let (leader, ..) = both.leader(side).await;
            if leader == other { Ok(()) } else { Err(leader) }
        })
        .await;
    }
}

/// It takes a minute, and says how quick the machine is: here it is seen that it has begun to work.
#[tokio::test]
async fn check_perf_writes_its_load() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let endpoints = [format!("https://127.0.0.1:{}", master.port("store"))];
    let mut check = etcdctl(&endpoints, Some(master), "check perf --load=s");
    let _running = check.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("what it writes", || async {
        let command = "get /etcdctl-check-perf/ --prefix --keys-only --limit 100";
        let output = run(etcdctl(&endpoints, Some(master), command)).await;
        let count = text(&output.stdout).lines().filter(|line| !line.is_empty()).count();
        if count > 50 { Ok(()) } else { Err(format!("{output:?}")) }
    })
    .await;
}
