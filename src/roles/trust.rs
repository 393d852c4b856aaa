//! Whom a node believes: kept as the masters say, while it runs.
//!
//! Keeps: a bundle is taken from a master that is believed already, and from nobody else. What is believed
//! and what lies on the disk are the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::cluster::wire::{ClusterCa, PREFIX};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use crate::pki::{self, LiveTrust, Readers};
use crate::remote::Remote;

/// CAs are replaced within minutes, once in years.
const LOOK_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    /// Where the bundle is kept.
    pub path: PathBuf,
    pub bundle: String,
    pub live: Arc<LiveTrust>,
    /// `https://HOST:PORT` each.
    pub masters: Vec<String>,
    pub tls: Arc<ClientConfig>,
}

impl Keeper {
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
            let looked = tokio::select! {
                looked = self.look() => looked,
                () = stop.cancelled() => return Ok(()),
            };
            match looked {
                Ok(true) => tracing::info!("the masters have other CAs, which are believed now"),
                Ok(false) => {}
                Err(reason) => tracing::debug!(reason, "whom to believe is not known anew"),
            }
        }
    }

    /// Asks the masters, one after the other, until one has answered. Says whether anything was new.
    async fn look(&mut self) -> Result<bool, String> {
        let mut last = "no master is known".to_owned();
        for master in &self.masters {
            let remote = Remote::new(master, Arc::clone(&self.tls))?;
            match remote.get::<ClusterCa>(&format!("{PREFIX}/ca")).await {
                Ok(told) => return self.take(told.ca).map_err(|error| error.to_string()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    fn take(&mut self, told: String) -> Result<bool, pki::Error> {
        if told == self.bundle {
            return Ok(false);
        }
        self.live.replace(&told)?;
        pki::replace(&self.path, &told, Readers::Everyone)?;
        self.bundle = told;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::Path;

    use axum::Json;
    use axum::routing::get;
    use kontiki_api::cluster::Pki as _;
    use kontiki_api::cluster::wire::ClusterSettings;
    use kontiki_api::listener::{Listener, TlsSource};
    use kontiki_raft::network::grpc::Identity;
    use kontiki_raft::{ClusterId, NodeId};

    use super::*;
    use crate::pki::{Beginning, Hosts, Material, Origin, Trust, rotation};

    const ME: Identity = Identity { cluster: ClusterId(7), node: NodeId(1) };

    fn material(directory: &Path) -> Arc<Material> {
        let settings = ClusterSettings {
            service_cidr: "10.43.0.0/16".into(),
            cluster_cidr: "10.42.0.0/16".into(),
        };
        let origin = Origin::new(ME.cluster, ME.node, "m1".into(), Vec::new(), settings);
        Beginning::found(origin, pki::now()).unwrap().write(directory).unwrap();
        let hosts = Hosts {
            hostname: "m1".into(),
            addresses: Vec::new(),
            service: IpAddr::from([10, 43, 0, 1]),
            more: Vec::new(),
        };
        let life = Duration::from_secs(3600);
        Arc::new(Material::open(directory, hosts, ME, life, pki::now()).unwrap())
    }

    #[tokio::test]
    async fn a_node_follows_a_replacement_of_the_ca_and_believes_nobody_else_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, new) = (folder.path().join("data"), folder.path().join("new"));
        std::fs::create_dir(&directory).unwrap();
        let pki = material(&directory);
        let tls = TlsSource::new(&pki.api_tls()).unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), tls.clone()).await.unwrap();
        let master = format!("https://localhost:{}", listener.local_addr().port());
        let told = pki.clone();
        let answer = move || {
            let ca = told.cluster_ca();
            async move { Json(ClusterCa { ca }) }
        };
        let router = axum::Router::new().route(&format!("{PREFIX}/ca"), get(answer));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(router, stop.clone()));

        let bundle = pki.cluster_ca();
        let live = LiveTrust::new(&bundle).unwrap();
        let path = folder.path().join("ca.crt");
        let mut node = Keeper {
            path: path.clone(),
            bundle: bundle.clone(),
            live: live.clone(),
            masters: vec!["https://localhost:1".into(), master],
            tls: pki::client_config(Trust::Live(live), None).unwrap(),
        };
        assert_eq!(node.look().await, Ok(false));

        // The master's own steps, and what its process does after each.
        let take_over = || {
            assert!(pki.reload(pki::now()).unwrap());
            tls.replace(&pki.api_tls()).unwrap();
        };
        rotation::create(&new, pki::now()).unwrap();
        rotation::trust(&directory, &new).unwrap();
        take_over();
        assert_eq!(node.look().await, Ok(true));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), pki.cluster_ca());
        rotation::sign_by(&directory, &new).unwrap();
        take_over();
        assert_eq!(node.look().await, Ok(true));
        rotation::forget(&directory).unwrap();
        take_over();
        assert_eq!(node.look().await, Ok(true));
        assert_eq!(node.look().await, Ok(false));

        // Who slept through it all does not believe the master, and keeps what it had.
        let live = LiveTrust::new(&bundle).unwrap();
        let tls = pki::client_config(Trust::Live(live.clone()), None).unwrap();
        let mut late = Keeper { bundle: bundle.clone(), live, tls, ..node };
        let reason = late.look().await.unwrap_err();
        assert!(reason.contains("not to be trusted"), "{reason}");
        assert_eq!(late.bundle, bundle);
        stop.cancel();
        serving.await.unwrap();
    }
}
