//! The two sides as processes: an etcd and the binary of this build, both with mutual TLS for
//! clients and among members, both with every write on the disk before it is acknowledged.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::load::Servers;
use crate::options::Options;
use crate::{Failure, processes};

/// Longer than a start takes on any machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Etcd,
    Kontiki,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Etcd, Side::Kontiki];

    pub fn name(self) -> &'static str {
        match self {
            Side::Etcd => "etcd",
            Side::Kontiki => "kontiki",
        }
    }
}

/// A cluster of one side.
pub struct Server {
    pub side: Side,
    members: Vec<Member>,
    tls: Tls,
}

struct Member {
    command: Vec<String>,
    process: Child,
    endpoint: String,
}

/// Where a client finds what it proves itself with.
#[derive(Clone)]
struct Tls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Server {
    /// Starts a cluster in a folder of its own, and says how long its first member took from nothing until
    /// it answered a linearizable read.
    pub async fn start(
        side: Side,
        members: usize,
        folder: &Path,
        options: &Options,
    ) -> Result<(Server, Duration), Failure> {
        let folder = folder.join(side.name());
        std::fs::create_dir_all(&folder)?;
        match side {
            Side::Etcd => etcd(members, &folder, &options.etcd).await,
            Side::Kontiki => kontiki(members, &folder, &options.binary).await,
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.id()).collect()
    }

    pub fn resident_mib(&self) -> f64 {
        processes::resident_mib(&self.pids())
    }

    pub fn anonymous_mib(&self) -> f64 {
        processes::anonymous_mib(&self.pids())
    }

    /// Connections, spread over the members.
    pub async fn connections(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::new();
        for number in 0..count {
            let member = &self.members[number % self.members.len()];
            clients.push(connect(&self.tls, &member.endpoint).await?);
        }
        Ok(clients)
    }

    /// As many clients as are asked for, ten to a connection, as etcd's own figures are made.
    pub async fn clients(&self, count: usize) -> Result<Vec<Client>, Failure> {
        let connections = self.connections(count.div_ceil(10)).await?;
        Ok((0..count).map(|number| connections[number % connections.len()].clone()).collect())
    }

    /// Kills the only member and starts it again; how long it takes until it answers.
    pub async fn restart(&mut self) -> Result<Duration, Failure> {
        let member = &mut self.members[0];
        member.process.kill().await?;
        let began = Instant::now();
        member.process = spawn(&member.command)?;
        until_it_answers(&self.tls, &member.endpoint).await?;
        Ok(began.elapsed())
    }
}

impl Servers for Server {
    fn processor(&self) -> Duration {
        processes::processor(&self.pids())
    }
}

pub fn spawn(command: &[String]) -> Result<Child, Failure> {
    let child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    child.map_err(|error| format!("{}: {error}", command[0]).into())
}

async fn connect(tls: &Tls, endpoint: &str) -> Result<Client, Failure> {
    let read = |path: &Path| std::fs::read(path);
    let options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(&tls.ca)?))
        .identity(Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?));
    let options = ConnectOptions::new().with_tls(options);
    Ok(Client::connect([endpoint], Some(options)).await?)
}

async fn until_it_answers(tls: &Tls, endpoint: &str) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = async { Ok::<_, Failure>(connect(tls, endpoint).await?.get("k", None).await?) };
        match asked.await {
            Ok(_) => return Ok(()),
            Err(failure) if Instant::now() > until => return Err(failure),
            Err(_) => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The first line of what an etcd says of its version.
pub fn version(etcd: &Path) -> Result<String, Failure> {
    let output = std::process::Command::new(etcd).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", etcd.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.lines().next().unwrap_or_default().trim_start_matches("etcd Version: ").to_owned())
}

async fn etcd(
    members: usize,
    folder: &Path,
    program: &Path,
) -> Result<(Server, Duration), Failure> {
    let tls = certificates(folder)?;
    // All are held until all are known, so that no two are the same.
    let held: Vec<TcpListener> =
        (0..members * 2).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let urls: Vec<String> = addresses.iter().map(|address| format!("https://{address}")).collect();
    drop(held);
    let (clients, peers) = urls.split_at(members);
    let cluster: Vec<String> = (0..members).map(|at| format!("m{at}={}", peers[at])).collect();
    let text = |path: &Path| path.display().to_string();
    let mut server = Server { side: Side::Etcd, members: Vec::new(), tls: tls.clone() };
    let began = Instant::now();
    for at in 0..members {
        let mut command = vec![text(program)];
        command.extend(["--log-level", "error", "--name"].map(str::to_owned));
        command.extend([format!("m{at}"), "--data-dir".into()]);
        command.push(text(&folder.join(format!("m{at}"))));
        for (flag, value) in [
            ("--listen-client-urls", clients[at].clone()),
            ("--advertise-client-urls", clients[at].clone()),
            ("--listen-peer-urls", peers[at].clone()),
            ("--initial-advertise-peer-urls", peers[at].clone()),
            ("--initial-cluster", cluster.join(",")),
            ("--trusted-ca-file", text(&tls.ca)),
            ("--cert-file", text(&tls.certificate)),
            ("--key-file", text(&tls.key)),
            ("--peer-trusted-ca-file", text(&tls.ca)),
            ("--peer-cert-file", text(&tls.certificate)),
            ("--peer-key-file", text(&tls.key)),
            // The lists and fan-outs here are larger than its own 2 GiB and 1.5 MiB allow for.
            ("--quota-backend-bytes", (8u64 << 30).to_string()),
        ] {
            command.extend([flag.to_owned(), value]);
        }
        command.extend(["--client-cert-auth".into(), "--peer-client-cert-auth".into()]);
        let process = spawn(&command)?;
        server.members.push(Member { command, process, endpoint: clients[at].clone() });
    }
    until_it_answers(&tls, &clients[0]).await?;
    let took = began.elapsed();
    for endpoint in clients {
        until_it_answers(&tls, endpoint).await?;
    }
    Ok((server, took))
}

/// A CA and one certificate for everything.
fn certificates(folder: &Path) -> Result<Tls, Failure> {
    let key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "beside");
    let ca_pem = ca.self_signed(&key)?.pem();
    let issuer = Issuer::new(ca, key);
    let leaf_key = KeyPair::generate()?;
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names)?.signed_by(&leaf_key, &issuer)?;
    let file = |name: &str| folder.join(name);
    let tls = Tls { ca: file("ca.crt"), certificate: file("tls.crt"), key: file("tls.key") };
    std::fs::write(&tls.ca, ca_pem)?;
    std::fs::write(&tls.certificate, leaf.pem())?;
    std::fs::write(&tls.key, leaf_key.serialize_pem())?;
    Ok(tls)
}

async fn kontiki(
    members: usize,
    folder: &Path,
    binary: &Path,
) -> Result<(Server, Duration), Failure> {
    let store = folder.join("m0/pki/store");
    let tls = Tls {
        ca: store.join("ca.crt"),
        certificate: store.join("client.crt"),
        key: store.join("client.key"),
    };
    let mut server = Server { side: Side::Kontiki, members: Vec::new(), tls: tls.clone() };
    let mut took = Duration::ZERO;
    for at in 0..members {
        let directory = folder.join(format!("m{at}"));
        let words = ["start", "master", "api", "--bind-address", "127.0.0.1"];
        let mut command: Vec<String> = vec![binary.display().to_string()];
        command.extend(words.map(str::to_owned));
        for port in ["--api-port", "--peer-port", "--store-port"] {
            command.extend([port.to_owned(), "0".to_owned()]);
        }
        command.extend(["--name".into(), format!("m{at}"), "--data-dir".into()]);
        command.push(directory.display().to_string());
        if at > 0 {
            let first = folder.join("m0");
            command
                .extend(["--join".into(), format!("https://127.0.0.1:{}", port(&first, "api")?)]);
            let invited = Command::new(binary)
                .args(["token", "create", "--role", "master", "--data-dir"])
                .arg(&first)
                .output()
                .await?;
            command.extend(["--token".into(), String::from_utf8(invited.stdout)?.trim().into()]);
        }
        let began = Instant::now();
        let process = spawn(&command)?;
        while port(&directory, "store").is_err() {
            if began.elapsed() > PATIENCE {
                return Err("the master does not start".into());
            }
            sleep(Duration::from_millis(2)).await;
        }
        let endpoint = format!("https://127.0.0.1:{}", port(&directory, "store")?);
        until_it_answers(&tls, &endpoint).await?;
        if at == 0 {
            took = began.elapsed();
        }
        server.members.push(Member { command, process, endpoint });
    }
    until_voters(binary, folder, members).await?;
    Ok((server, took))
}

async fn until_voters(binary: &Path, folder: &Path, members: usize) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let listed = Command::new(binary)
            .args(["member", "list", "--output", "json", "--data-dir"])
            .arg(folder.join("m0"))
            .output()
            .await?;
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout)?;
        if listed.iter().filter(|member| member["voter"] == true).count() == members {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("the cluster does not grow to {members}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

pub fn port(directory: &Path, name: &str) -> Result<u64, Failure> {
    let text = std::fs::read_to_string(directory.join("run/ports.json"))?;
    let ports: serde_json::Value = serde_json::from_str(&text)?;
    ports[name].as_u64().ok_or_else(|| format!("no port {name}").into())
}
