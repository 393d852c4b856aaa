//! Archives in a bucket, on a real server that speaks S3 and checks signatures (`s3/server.py`; `.ci/setup`
//! installs it).

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

use crate::support::{Cluster, Master, PATIENCE, command, text, wait_for};

struct S3 {
    url: String,
    id: String,
    secret: String,
    process: Child,
}

impl S3 {
    async fn start() -> S3 {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = Command::new(top.join(".ci/python")).arg("tests/it/s3").output();
        let python = python.await.unwrap();
        assert!(python.status.success(), "{}", text(&python.stderr));
        let mut process = Command::new(text(&python.stdout).trim())
            .arg(top.join("tests/it/s3/server.py"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut told = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let line = tokio::time::timeout(PATIENCE, out.read_line(&mut told)).await;
        line.expect("the server starts").unwrap();
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told:?}"));
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        S3 { url: text("url"), id: text("id"), secret: text("secret"), process }
    }

    fn flags(&self) -> Vec<String> {
        self.flags_at(&self.url)
    }

    fn flags_at(&self, url: &str) -> Vec<String> {
        let flags = [
            ("--s3-endpoint", url),
            ("--s3-access-key-id", &self.id),
            ("--s3-secret-access-key", &self.secret),
        ];
        flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect()
    }

    async fn list(&self, place: &str) -> Vec<String> {
        let said = run(&["snapshot", "list", place, "--output", "json"], &self.flags()).await;
        assert!(said.status.success(), "{}", text(&said.stderr));
        let listed: Vec<Value> = serde_json::from_slice(&said.stdout).unwrap();
        listed.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }
}

async fn run(words: &[&str], more: &[String]) -> Output {
    let all = words.iter().map(|word| (*word).to_owned()).chain(more.iter().cloned());
    let mut command = command(all);
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts")
}

/// Runs what can't go well: one line, with the code and these words.
async fn refused(words: &[&str], more: &[String], code: i32, parts: &[&str]) {
    let output = run(words, more).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{words:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{words:?}: {part:?} is missing in: {said}");
    }
}

fn of(master: &Master) -> [String; 2] {
    ["--data-dir".into(), master.directory.display().to_string()]
}

fn joined(one: &[String], other: &[String]) -> Vec<String> {
    one.iter().chain(other).cloned().collect()
}

/// Passes connections on, until so many bytes have gone to the server; then it is as if that had died.
struct Between {
    port: u16,
    serving: tokio::task::JoinHandle<()>,
}

impl Between {
    async fn start(s3: &S3, bytes_max: u64, tls: Option<Arc<ServerConfig>>) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = s3.url.strip_prefix("http://").unwrap().to_owned();
        let passed = Arc::new(AtomicU64::new(0));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while passed.load(Ordering::Relaxed) < bytes_max {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (client, _) = accepted.unwrap();
                        let server = TcpStream::connect(&to).await.unwrap();
                        let (tls, passed) = (tls.clone(), passed.clone());
                        connections.spawn(async move {
                            let Some(tls) = tls else {
                                return pass(client, server, &passed, bytes_max).await;
                            };
                            if let Ok(client) = TlsAcceptor::from(tls).accept(client).await {
                                pass(client, server, &passed, bytes_max).await;
                            }
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Between { port, serving }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(
    client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite,
    server: TcpStream,
    passed: &AtomicU64,
    bytes_max: u64,
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut buffer = vec![0; 8192];
        loop {
            let read = from_client.read(&mut buffer).await.unwrap_or(0);
            let all = passed.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
            if read == 0 || all >= bytes_max || to_server.write_all(&buffer[..read]).await.is_err()
            {
                return;
            }
        }
    };
    let back = async {
        tokio::io::copy(&mut from_server, &mut to_client).await.ok();
        to_client.shutdown().await.ok();
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

#[tokio::test]
async fn a_store_is_saved_into_a_bucket_listed_checked_and_restored() {
    let (s3, mut cluster) = tokio::join!(S3::start(), Cluster::of_one());
    let master = &cluster.masters[0];
    master.token("node").await;
    let save = ["snapshot", "save", "s3://backups/prod"];
    let saved = run(&save, &joined(&of(master), &s3.flags())).await;
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    let names = s3.list("s3://backups/prod").await;
    let [name] = &names[..] else { panic!("{names:?}") };
    assert!(text(&saved.stdout).starts_with(&format!("{name}: revision ")), "{saved:?}");

    let inspect = ["snapshot", "inspect", name, "--output", "json"];
    let contents = run(&inspect, &s3.flags()).await;
    let contents: Value = serde_json::from_slice(&contents.stdout).unwrap();
    let revision = contents["revision"].as_u64().unwrap();
    assert!(name.ends_with(&format!("/{revision:020}.kontiki")), "{name}: {contents}");

    // The same name twice; a folder where an archive is meant; one that is not there.
    let words = ["snapshot", "save", name.as_str()];
    refused(&words, &joined(&of(master), &s3.flags()), 2, &["there already", name]).await;
    let list = "kontiki snapshot list";
    refused(&["snapshot", "inspect", "s3://backups/prod"], &s3.flags(), 2, &[list]).await;
    let missing = ["snapshot", "inspect", "s3://backups/prod/none.kontiki"];
    refused(&missing, &s3.flags(), 2, &["is not there", list]).await;

    let held = master.ask_json(&["token", "list"]).await.unwrap();
    let restored = Master::new(cluster.root.path(), "restored");
    // From the environment, by AWS's own names.
    let mut restore = command(["snapshot", "restore", name, "--name", "restored"]);
    restore.args(of(&restored)).env("AWS_ENDPOINT_URL", &s3.url);
    restore.env("AWS_ACCESS_KEY_ID", &s3.id).env("AWS_SECRET_ACCESS_KEY", &s3.secret);
    let output = restore.output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(name), "{output:?}");
    let left: Vec<_> = fs::read_dir(cluster.root.path()).unwrap().map(|it| it.unwrap()).collect();
    assert!(
        left.iter().all(|it| !it.file_name().to_string_lossy().starts_with(".tmp")),
        "{left:?}"
    );

    cluster.masters.push(restored);
    cluster.masters[1].start_ready().await;
    let found = cluster.masters[1].ask_json(&["token", "list"]).await.unwrap();
    assert_eq!(found, held);
}

#[tokio::test]
async fn wrong_credentials_buckets_and_endpoints_are_refused_by_name_and_nothing_is_written() {
    let (s3, cluster) = tokio::join!(S3::start(), Cluster::of_one());
    let master = &cluster.masters[0];
    let with = |id: &str, secret: &str, url: &str| {
        let flags =
            ["--s3-endpoint", url, "--s3-access-key-id", id, "--s3-secret-access-key", secret];
        joined(&of(master), &flags.map(str::to_owned))
    };
    let save = ["snapshot", "save", "s3://backups/prod"];
    let secret = "AWS_SECRET_ACCESS_KEY";
    let wrong = ["SignatureDoesNotMatch", secret];
    refused(&save, &with(&s3.id, "wrong", &s3.url), 2, &wrong).await;
    refused(&save, &with("nobody", "wrong", &s3.url), 2, &["InvalidAccessKeyId"]).await;
    refused(&save, &of(master), 2, &["no credentials", "AWS_ACCESS_KEY_ID"]).await;
    let none = ["snapshot", "save", "s3://nowhere/prod"];
    refused(&none, &with(&s3.id, &s3.secret, &s3.url), 2, &["no bucket \"nowhere\""]).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = format!("http://{free}");
    let unreachable = [format!("cannot reach {free}")];
    refused(&save, &with(&s3.id, &s3.secret, &gone), 1, &[&unreachable[0]]).await;
    let list = ["snapshot", "list", "s3://backups"];
    let flags = ["--s3-endpoint", &s3.url, "--s3-access-key-id", &s3.id, "--s3-secret-access-key"];
    let flags = joined(&flags.map(str::to_owned), &["wrong".into()]);
    refused(&list, &flags, 2, &["SignatureDoesNotMatch"]).await;
    assert_eq!(s3.list("s3://backups").await, Vec::<String>::new());

    // A master that could never copy its archives does not start.
    let other = Master::new(cluster.root.path(), "m2").with(["--snapshot-target", "s3://backups"]);
    let arguments = other.arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refused(&words, &[], 2, &["no credentials"]).await;
    assert!(!other.directory.exists());
}

#[tokio::test]
async fn a_server_that_goes_midway_leaves_nothing_half_written() {
    let (s3, cluster) = tokio::join!(S3::start(), Cluster::of_one());
    let master = &cluster.masters[0];
    // Enough for the questions before it, and not for the archive.
    let between = Between::start(&s3, 100_000, None).await;
    let flags = joined(&of(master), &s3.flags_at(&format!("http://127.0.0.1:{}", between.port)));
    let at = format!("127.0.0.1:{}", between.port);
    refused(&["snapshot", "save", "s3://backups/prod"], &flags, 1, &["s3://backups/prod", &at])
        .await;
    assert_eq!(s3.list("s3://backups").await, Vec::<String>::new());
    // The store is as well as before, and so is the server.
    let flags = joined(&of(master), &s3.flags());
    let again = run(&["snapshot", "save", "s3://backups/prod"], &flags).await;
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(s3.list("s3://backups").await.len(), 1);
}

#[tokio::test]
async fn a_bucket_behind_tls_is_believed_by_its_ca_alone() {
    let (s3, cluster) = tokio::join!(S3::start(), Cluster::of_one());
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = cluster.root.path().join("s3-ca.crt");
    fs::write(&ca, key.cert.pem()).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.unwrap())
        .unwrap();
    let between = Between::start(&s3, u64::MAX, Some(Arc::new(tls))).await;
    let flags = s3.flags_at(&format!("https://localhost:{}", between.port));
    let flags = joined(&of(&cluster.masters[0]), &flags);
    let save = ["snapshot", "save", "s3://backups/prod"];
    let believing = ["--s3-ca".into(), ca.display().to_string()];
    let other = cluster.masters[0].directory.join("pki/store/ca.crt");
    let store = ["--s3-ca".into(), other.display().to_string()];
    refused(&save, &joined(&flags, &store), 1, &["not to be trusted", "localhost"]).await;
    let saved = run(&save, &joined(&flags, &believing)).await;
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    assert_eq!(s3.list("s3://backups").await.len(), 1);
}

#[tokio::test]
async fn archives_are_copied_by_themselves_and_the_oldest_go() {
    let mut s3 = S3::start().await;
    let root = tempfile::tempdir().unwrap();
    let target = ["--snapshot-target", "s3://backups/prod", "--snapshot-retention", "2"];
    let mut master = Master::new(root.path(), "m1")
        .with(["--snapshot-interval", "1s"])
        .with(target)
        .with(s3.flags());
    master.start_ready().await;
    let flags = joined(&of(&master), &s3.flags());
    // What was saved by hand is nobody's to remove.
    let kept = run(&["snapshot", "save", "s3://backups/prod/kept.kontiki"], &flags).await;
    assert!(kept.status.success(), "{}", text(&kept.stderr));
    let cluster = master.status().await.unwrap()["cluster"].as_str().unwrap().to_owned();
    let folder = format!("s3://backups/prod/{cluster}");
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 4 {
        master.token("node").await;
        let newest = wait_for("a copy", || async {
            let newest = s3.list(&folder).await.pop().filter(|name| !seen.contains(name));
            newest.ok_or_else(|| master.log())
        })
        .await;
        seen.push(newest);
    }
    wait_for("retention", || async {
        let names = s3.list(&folder).await;
        if names.len() <= 2 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    let all = s3.list("s3://backups/prod").await;
    assert!(all.contains(&"s3://backups/prod/kept.kontiki".to_owned()), "{all:?}");
    let newest = s3.list(&folder).await.pop().unwrap();
    let checked = run(&["snapshot", "inspect", &newest], &s3.flags()).await;
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    assert!(!master.log().contains(&s3.secret), "a secret is in the log");

    // Without the bucket the master goes on, makes its own archives, and says what is wrong.
    s3.process.kill().await.unwrap();
    master.token("node").await;
    wait_for("words about it", || async {
        let log = master.log();
        let said = log.contains("the store is not archived") && log.contains("cannot reach");
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    master.until_ready().await;
    let shown = master.status().await.unwrap()["archives"].clone();
    assert!(shown["target"].as_str().unwrap().starts_with("s3://backups/prod/"), "{shown}");
    assert!(shown["made_ago_s"].is_u64() && shown["failure"]["turns"].is_u64(), "{shown}");
    let said = run(&["status"], &of(&master)).await;
    let said = text(&said.stdout);
    assert!(
        said.contains("no archive was made as a whole") && said.contains("cannot reach"),
        "{said}"
    );
    let said = run(&["status", "--output", "json"], &of(&master)).await;
    let report: Value = serde_json::from_slice(&said.stdout).unwrap();
    let reason = report["asked"]["archives"]["failure"]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot reach"), "{reason}");
    assert_eq!(master.stop().await, Some(0), "{}", master.log());
}
