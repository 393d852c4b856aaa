//! The store port of a master, as its clients reach it.

use std::path::PathBuf;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::support::https;
use crate::support::{Master, PATIENCE};

/// A file by which clients prove themselves there, or believe it.
pub fn pki(master: &Master, file: &str) -> PathBuf {
    master.directory.join("pki/store").join(file)
}

/// The Rust client, which goes to whichever of these masters answers.
pub async fn client(masters: &[&Master]) -> Client {
    let read = |file| std::fs::read(pki(masters[0], file)).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(Identity::from_pem(read("client.crt"), read("client.key")));
    let options = ConnectOptions::new().with_tls(tls).with_timeout(PATIENCE);
    let endpoints: Vec<String> = masters
        .iter()
        .map(|master| format!("https://localhost:{}", master.port("store")))
        .collect();
    Client::connect(endpoints, Some(options)).await.unwrap()
}

/// What makes bare connections there.
pub fn bare(master: &Master) -> https::Client {
    https::Client::showing(
        &pki(master, "ca.crt"),
        &pki(master, "client.crt"),
        &pki(master, "client.key"),
    )
}
