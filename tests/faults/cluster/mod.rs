//! A cluster of real processes on this machine, of Kontiki or of etcd, that faults and clients can use alike.
//!
//! Keeps: members keep their addresses over restarts; each run has addresses of its own below 127.0.0.0/8.
//! Everything lies in one directory; what still runs is killed when the cluster is dropped.

mod etcd;
mod kontiki;
mod process;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use rustix::process::Signal;
use tokio::time::Instant;

pub use process::Process;

use crate::disk::{self, Disks};
use crate::network::{Member, Network};
use crate::preload::Page;

/// Far longer than anything takes on a machine that is merely busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    Kontiki,
    Etcd,
}

/// Where one member listens.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub address: Ipv4Addr,
    /// Its door's, where the others look for it.
    pub outside: Ipv4Addr,
    pub api: u16,
    pub peer: u16,
    pub store: u16,
}

pub struct Host {
    pub number: Member,
    pub name: String,
    pub place: Place,
    pub directory: PathBuf,
    pub process: Option<Process>,
    /// By which its disk and its clock are made to fail.
    pub page: Option<Page>,
    /// It is no member any more.
    pub gone: bool,
    /// How it is started.
    arguments: Vec<String>,
}

/// What members stand on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footing {
    pub disks: Disks,
    /// Each process has a page by which its disk and its clock can be made to fail.
    pub pages: bool,
    /// Disks say that they have synced what they have not.
    pub lying: bool,
}

pub struct Cluster {
    pub target: Target,
    pub binary: PathBuf,
    pub root: PathBuf,
    pub network: Network,
    pub hosts: Vec<Host>,
    footing: Footing,
    run: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in self.hosts.drain(..).filter(|_| self.footing.disks != Disks::Plain) {
            drop(host.process);
            disk::unmount(&host.directory);
        }
    }
}

fn free_port(address: Ipv4Addr) -> Result<u16, String> {
    let free = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    free.map(|address| address.port()).map_err(|error| format!("a port at {address}: {error}"))
}

impl Cluster {
    /// Starts a cluster in which all `size` vote. `run` sets it apart from others on this machine.
    pub async fn start(
        target: Target,
        binary: &Path,
        root: &Path,
        size: u32,
        run: u16,
        footing: Footing,
    ) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            target,
            binary: binary.to_owned(),
            root: root.to_owned(),
            network: Network::new(u64::from(run)),
            hosts: Vec::new(),
            footing,
            run,
        };
        std::fs::create_dir_all(root).map_err(|error| format!("{}: {error}", root.display()))?;
        match target {
            Target::Kontiki => kontiki::grow(&mut cluster, size).await?,
            Target::Etcd => etcd::create(&mut cluster, size).await?,
        }
        // What makes it a cluster is on the disk by now; what clients write from here on may not be.
        for page in cluster.hosts.iter().filter_map(|host| host.page.as_ref()) {
            page.lie(footing.lying)?;
        }
        Ok(cluster)
    }

    async fn add_host(&mut self) -> Result<Member, String> {
        let number = u32::try_from(self.hosts.len() + 1).unwrap_or(u32::MAX);
        let last = u8::try_from(number).ok().filter(|last| *last < 100);
        let last = last.ok_or("a run has at most 99 members, one after another")?;
        let [high, low] = self.run.to_be_bytes();
        let address = Ipv4Addr::new(127, high | 1, low, last);
        let outside = Ipv4Addr::new(127, high | 1, low, last + 100);
        let place = Place {
            address,
            outside,
            api: free_port(address)?,
            peer: free_port(address)?,
            store: free_port(address)?,
        };
        let (from, to) = ((outside, place.peer), (address, place.peer));
        self.network.open(number, SocketAddr::from(from), SocketAddr::from(to)).await?;
        let name = format!("m{number}");
        let directory = self.root.join(&name);
        disk::mount(self.footing.disks, &directory)?;
        let page = match self.footing.pages {
            true => Some(Page::create(directory.with_extension("page"))?),
            false => None,
        };
        let host = Host {
            number,
            name,
            place,
            directory,
            process: None,
            page,
            gone: false,
            arguments: Vec::new(),
        };
        self.hosts.push(host);
        Ok(number)
    }

    pub fn host(&self, number: Member) -> &Host {
        &self.hosts[number as usize - 1]
    }

    fn host_mut(&mut self, number: Member) -> &mut Host {
        &mut self.hosts[number as usize - 1]
    }

    /// All that are members, whether they run or not.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.hosts.iter().filter(|host| !host.gone).map(|host| host.number).collect()
    }

    #[must_use]
    pub fn running(&self) -> Vec<Member> {
        let hosts = self.hosts.iter().filter(|host| !host.gone && host.process.is_some());
        hosts.map(|host| host.number).collect()
    }

    /// Starts a member's process, unless it runs.
    pub fn start_process(&mut self, number: Member) -> Result<(), String> {
        let (binary, network) = (self.binary.clone(), self.network.clone());
        let host = self.host_mut(number);
        if host.process.is_some() {
            return Ok(());
        }
        let log = host.directory.with_extension("log");
        let process = Process::start(&binary, &host.arguments, host.page.as_ref(), &log)?;
        network.process(number, process.pid());
        host.process = Some(process);
        Ok(())
    }

    /// As when the machine's power goes, but for what the kernel still writes.
    pub async fn kill(&mut self, number: Member) {
        if let Some(process) = self.host_mut(number).process.take() {
            process.end(Signal::KILL).await;
        }
    }

    /// The power of some goes at once: what was not synced is lost. They are down then, and their disks whole.
    pub async fn cut_power(&mut self, numbers: &[Member]) -> Result<(), String> {
        for number in numbers {
            disk::cut(&self.host(*number).directory)?;
        }
        for number in numbers {
            self.kill(*number).await;
            disk::again(&self.host(*number).directory)?;
        }
        Ok(())
    }

    /// As an operator stops it.
    pub async fn stop(&mut self, number: Member) {
        if let Some(process) = self.host_mut(number).process.take() {
            process.end(Signal::TERM).await;
        }
    }

    pub fn signal(&self, number: Member, signal: Signal) {
        if let Some(process) = &self.host(number).process {
            process.signal(signal);
        }
    }

    /// Members whose processes ended by themselves, with what they said last. They count as not running.
    pub fn fallen(&mut self) -> Vec<(Member, String)> {
        let mut fallen = Vec::new();
        for host in &mut self.hosts {
            let ended = host.process.as_mut().and_then(Process::ended);
            if let Some(how) = ended {
                host.process = None;
                let log = std::fs::read_to_string(host.directory.with_extension("log"));
                let last = log.unwrap_or_default().lines().last().unwrap_or_default().to_owned();
                fallen.push((host.number, format!("{how}: {last}")));
            }
        }
        fallen
    }

    /// Whether a member answers a linearizable read within a moment.
    pub async fn serves(&self, number: Member) -> Result<(), String> {
        let asked = async {
            let mut client = self.door(number)?.connect().await?;
            client.get("t/", None).await.map_err(|error| error.to_string())
        };
        match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("m{number}: {error}")),
            Err(_) => Err(format!("m{number} does not answer")),
        }
    }

    /// Where a member's clients find it, and what they must show there.
    pub fn door(&self, number: Member) -> Result<Door, String> {
        let host = self.host(number);
        let endpoint = format!("https://{}:{}", host.place.address, host.place.store);
        let tls = match self.target {
            Target::Kontiki => kontiki::tls(self)?,
            Target::Etcd => etcd::tls(self)?,
        };
        Ok(Door { member: number, endpoint, tls })
    }

    /// Takes a member out and lets a new one in. Returns both.
    pub async fn replace(&mut self, old: Member) -> Result<Member, String> {
        match self.target {
            Target::Kontiki => kontiki::replace(self, old).await,
            Target::Etcd => Err("members of etcd are not replaced here".into()),
        }
    }

    /// A copy of the whole store of a running member.
    pub async fn save(&self, from: Member, file: &Path) -> Result<(), String> {
        match self.target {
            Target::Kontiki => kontiki::save(self, from, file).await,
            Target::Etcd => etcd::save(self, from, file).await,
        }
    }

    /// The revision up to which a copy goes, as those say who read it.
    pub async fn revision_of(&self, file: &Path) -> Result<u64, String> {
        let file = file.display().to_string();
        let said = match self.target {
            Target::Kontiki => {
                process::run(&self.binary, &["snapshot", "inspect", "--output", "json", &file])
                    .await?
            }
            Target::Etcd => {
                let arguments = ["snapshot", "status", "--write-out", "json", &file];
                process::run(Path::new("etcdctl"), &arguments).await?
            }
        };
        let told: serde_json::Value =
            serde_json::from_str(&said).map_err(|error| format!("{file}: {error}: {said}"))?;
        told["revision"].as_u64().ok_or_else(|| format!("{file}: no revision in {said}"))
    }

    /// A new cluster of one from a copy, beside this one.
    pub async fn restore(&self, file: &Path) -> Result<Cluster, String> {
        match self.target {
            Target::Kontiki => kontiki::restore(self, file).await,
            Target::Etcd => etcd::restore(self, file).await,
        }
    }

    fn beside(&self, name: &str) -> Cluster {
        Cluster {
            target: self.target,
            binary: self.binary.clone(),
            root: self.root.join(name),
            network: Network::new(0),
            hosts: Vec::new(),
            footing: Footing::default(),
            run: self.run ^ 0x5a,
        }
    }

    /// Who leads as the members say, if any does.
    pub async fn leader(&self) -> Option<Member> {
        let mut newest = None;
        for number in self.running() {
            let asked = tokio::time::timeout(Duration::from_millis(500), self.leads(number)).await;
            if let Ok(Some(term)) = asked {
                newest = newest.max(Some((term, number)));
            }
        }
        newest.map(|(_, number)| number)
    }

    /// The term in which a member says that it leads.
    async fn leads(&self, number: Member) -> Option<u64> {
        let mut client = self.door(number).ok()?.connect().await.ok()?;
        let status = client.status().await.ok()?;
        let member = status.header()?.member_id();
        (member == status.leader()).then(|| status.raft_term())
    }

    /// Waits until all that are to run answer a linearizable read. Returns those that do not.
    pub async fn until_serving(&mut self, patience: Duration) -> Vec<String> {
        let until = Instant::now() + patience;
        loop {
            let mut silent = Vec::new();
            for number in self.members() {
                if self.host(number).process.is_none() {
                    silent.push(format!("m{number} does not run"));
                    continue;
                }
                silent.extend(self.serves(number).await.err());
            }
            if silent.is_empty() || Instant::now() > until {
                return silent;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[derive(Clone)]
pub struct Door {
    pub member: Member,
    endpoint: String,
    tls: etcd_client::TlsOptions,
}

impl Door {
    /// The connection itself is made when something is asked.
    pub async fn connect(&self) -> Result<Client, String> {
        self.connect_with(ConnectOptions::new()).await
    }

    /// As a user whose password is its name.
    pub async fn connect_as(&self, user: &str) -> Result<Client, String> {
        self.connect_with(ConnectOptions::new().with_user(user, user)).await
    }

    async fn connect_with(&self, options: ConnectOptions) -> Result<Client, String> {
        let options =
            options.with_tls(self.tls.clone()).with_connect_timeout(Duration::from_secs(2));
        let client = Client::connect([&self.endpoint], Some(options)).await;
        client.map_err(|error| format!("{}: {error}", self.endpoint))
    }
}
