//! Debian's etcd, with the timers it has by itself, over TLS.

use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::process::run;
use super::{Cluster, PATIENCE};
use crate::network::Member;

const STATE_NEW: &str = "new";

pub async fn create(cluster: &mut Cluster, size: u32) -> Result<(), String> {
    for _ in 0..size {
        cluster.add_host().await?;
    }
    certificates(cluster)?;
    let members: Vec<String> = cluster.hosts.iter().map(peer).collect();
    for number in 1..=size {
        launch(cluster, number, &members.join(","))?;
    }
    match cluster.until_serving(PATIENCE).await {
        silent if silent.is_empty() => Ok(()),
        silent => Err(silent.join("; ")),
    }
}

fn peer(host: &super::Host) -> String {
    format!("{}=https://{}:{}", host.name, host.place.outside, host.place.peer)
}

fn launch(cluster: &mut Cluster, number: Member, members: &str) -> Result<(), String> {
    let folder = pki(cluster);
    let file = |name: &str| folder.join(name).display().to_string();
    let host = cluster.host(number);
    let place = host.place;
    let clients = format!("https://{}:{}", place.address, place.store);
    let flags = [
        ("--name", host.name.clone()),
        ("--data-dir", host.directory.display().to_string()),
        ("--listen-client-urls", clients.clone()),
        ("--advertise-client-urls", clients),
        ("--listen-peer-urls", format!("https://{}:{}", place.address, place.peer)),
        ("--initial-advertise-peer-urls", format!("https://{}:{}", place.outside, place.peer)),
        ("--initial-cluster", members.to_owned()),
        ("--initial-cluster-state", STATE_NEW.to_owned()),
        ("--cert-file", file("server.crt")),
        ("--key-file", file("server.key")),
        ("--trusted-ca-file", file("ca.crt")),
        ("--peer-cert-file", file("server.crt")),
        ("--peer-key-file", file("server.key")),
        ("--peer-trusted-ca-file", file("ca.crt")),
        ("--log-level", "error".into()),
    ];
    let flags = flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    let arguments = flags.chain(["--client-cert-auth".into()]).collect();
    cluster.host_mut(number).arguments = arguments;
    cluster.start_process(number)
}

fn pki(cluster: &Cluster) -> PathBuf {
    cluster.root.join("pki")
}

/// One certificate for all of them, members and clients.
fn certificates(cluster: &Cluster) -> Result<(), String> {
    let wrong = |error: rcgen::Error| format!("certificates for etcd: {error}");
    let mut ca = CertificateParams::new(vec!["ca".into()]).map_err(wrong)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca =
        CertifiedIssuer::self_signed(ca, KeyPair::generate().map_err(wrong)?).map_err(wrong)?;
    let mut names = vec!["localhost".to_owned()];
    for host in &cluster.hosts {
        names.extend([host.place.address.to_string(), host.place.outside.to_string()]);
    }
    // Doors are met from an address of loopback's own.
    names.push("127.0.0.1".into());
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate =
        CertificateParams::new(names).map_err(wrong)?.signed_by(&key, &ca).map_err(wrong)?;
    let folder = pki(cluster);
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    write("ca.crt", ca.pem())?;
    write("server.crt", certificate.pem())?;
    write("server.key", key.serialize_pem())
}

pub fn tls(cluster: &Cluster) -> Result<TlsOptions, String> {
    let folder = pki(cluster);
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    Ok(TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("server.crt")?, read("server.key")?))
        .domain_name("localhost"))
}

pub async fn save(cluster: &Cluster, from: Member, file: &Path) -> Result<(), String> {
    let folder = pki(cluster);
    let place = cluster.host(from).place;
    let endpoint = format!("https://{}:{}", place.address, place.store);
    let shown = |name: &str| folder.join(name).display().to_string();
    let (ca, certificate, key) = (shown("ca.crt"), shown("server.crt"), shown("server.key"));
    let file = file.display().to_string();
    let arguments = [
        "--endpoints",
        &endpoint,
        "--cacert",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
        "snapshot",
        "save",
        &file,
    ];
    run(Path::new("etcdctl"), &arguments).await.map(drop)
}

pub async fn restore(cluster: &Cluster, file: &Path) -> Result<Cluster, String> {
    let mut restored = cluster.beside("restored");
    let number = restored.add_host().await?;
    std::fs::create_dir_all(&restored.root).map_err(|error| error.to_string())?;
    certificates(&restored)?;
    let members = peer(restored.host(number));
    let directory = restored.host(number).directory.display().to_string();
    let place = restored.host(number).place;
    let url = format!("https://{}:{}", place.outside, place.peer);
    let file = file.display().to_string();
    let arguments = [
        "snapshot",
        "restore",
        &file,
        "--data-dir",
        &directory,
        "--name",
        "m1",
        "--initial-cluster",
        &members,
        "--initial-advertise-peer-urls",
        &url,
    ];
    run(Path::new("etcdctl"), &arguments).await?;
    launch(&mut restored, number, &members)?;
    match restored.until_serving(PATIENCE).await {
        silent if silent.is_empty() => Ok(restored),
        silent => Err(silent.join("; ")),
    }
}
