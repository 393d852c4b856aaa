//! Where a master comes from: founded a cluster, or joined one. Kept in `pki/origin.json`.
//!
//! Keeps: it appears together with the CAs, before the directory has an owner, and never changes but for
//! a new id after amnesia, and for the ids that are passed over after a recovery by force. What it says decides
//! whether a blank store is founded anew or filled by the others: a joiner never founds a cluster.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use kontiki_api::cluster::wire::{self, Address, ClusterSettings, parse_cluster, parse_id};
use kontiki_raft::{ClusterId, NodeId};
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use super::Error;
use super::authority::Authority;
use super::files::{self, Readers};
use super::leaf::Realm;

pub(super) const FOLDER: &str = "pki";
const ORIGIN: &str = "origin.json";
/// Where the other members are, as last known; for a member that has lost what it knew.
const PEERS: &str = "peers.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    cluster: String,
    node: String,
    pub name: String,
    /// Whom to ask to be let in; empty for the master that founded the cluster.
    pub members: Vec<Address>,
    pub settings: ClusterSettings,
    /// Ids below it may have been given by masters that are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids_from: Option<String>,
}

impl Origin {
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        name: String,
        members: Vec<Address>,
        settings: ClusterSettings,
    ) -> Origin {
        let (cluster, node) = (cluster.to_string(), node.to_string());
        Origin { cluster, node, name, members, settings, ids_from: None }
    }

    /// The same master under a new id, to be let in by `members`.
    #[must_use]
    pub fn anew(self, node: NodeId, members: Vec<Address>) -> Origin {
        Origin { node: node.to_string(), members, ..self }
    }

    #[must_use]
    pub fn with_settings(self, settings: ClusterSettings) -> Origin {
        Origin { settings, ..self }
    }

    #[must_use]
    pub fn with_ids_from(self, ids_from: NodeId) -> Origin {
        Origin { ids_from: Some(ids_from.to_string()), ..self }
    }

    /// No id below it is given to a new member.
    pub fn ids_from(&self) -> Result<NodeId, Error> {
        let ids_from = self.ids_from.as_deref().map_or(Ok(NodeId(0)), parse_id);
        ids_from.map_err(Error::Unusable)
    }

    /// Writes it in the place of the former.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        files::replace(&directory.join(FOLDER).join(ORIGIN), encode(self), Readers::Owner)
    }

    /// Whether this master was let in by others.
    #[must_use]
    pub fn joined(&self) -> bool {
        !self.members.is_empty()
    }

    pub fn cluster(&self) -> Result<ClusterId, Error> {
        parse_cluster(&self.cluster).map_err(Error::Unusable)
    }

    pub fn node(&self) -> Result<NodeId, Error> {
        parse_id(&self.node).map_err(Error::Unusable)
    }
}

/// CAs and origin of a directory that is about to come into being.
pub struct Beginning {
    pub origin: Origin,
    pub authorities: wire::Authorities,
}

impl Beginning {
    /// The CAs of a new cluster.
    pub fn found(origin: Origin, now: SystemTime) -> Result<Beginning, Error> {
        let authority = |name: &str| -> Result<wire::Authority, Error> {
            let authority = Authority::create(name, now)?;
            Ok(wire::Authority {
                bundle: authority.bundle().to_owned(),
                key: authority.key_pem().to_owned(),
            })
        };
        let authorities = wire::Authorities {
            cluster: authority("kontiki-cluster")?,
            peer: authority("kontiki-peer")?,
            store: authority("kontiki-store")?,
            service_account_key: KeyPair::generate()?.serialize_pem(),
        };
        Ok(Beginning { origin, authorities })
    }

    /// With the CAs that lie in the `pki` folder of another directory.
    pub fn with_authorities_of(origin: Origin, folder: &Path) -> Result<Beginning, Error> {
        let authority = |realm: Realm| -> Result<wire::Authority, Error> {
            let folder = folder.join(realm.folder());
            Ok(wire::Authority {
                bundle: files::read(&folder.join("ca.crt"))?,
                key: files::read(&folder.join("ca.key"))?,
            })
        };
        let key = folder.join(Realm::Cluster.folder()).join("service-account.key");
        let authorities = wire::Authorities {
            cluster: authority(Realm::Cluster)?,
            peer: authority(Realm::Peer)?,
            store: authority(Realm::Store)?,
            service_account_key: files::read(&key)?,
        };
        Ok(Beginning { origin, authorities })
    }

    /// Writes everything below `directory` at once: after a crash all of it is there, or none.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        // `run` is what the directory lets us have before it has an owner.
        let run = directory.join("run");
        let fresh = run.join(format!("pki-{}", std::process::id()));
        files::make_folder(&fresh)?;
        let all = [
            (Realm::Cluster, &self.authorities.cluster),
            (Realm::Peer, &self.authorities.peer),
            (Realm::Store, &self.authorities.store),
        ];
        let write = |(realm, authority): (Realm, &wire::Authority)| {
            // Read once, so that what was handed over is known to be usable before it is kept.
            Authority::from_pem(&authority.bundle, &authority.key)?;
            let folder = fresh.join(realm.folder());
            files::make_folder(&folder)?;
            files::replace(&folder.join("ca.crt"), &authority.bundle, Readers::Everyone)?;
            files::replace(&folder.join("ca.key"), &authority.key, Readers::Owner)?;
            if realm == Realm::Cluster {
                let key = &self.authorities.service_account_key;
                let public = KeyPair::from_pem(key)?.public_key_pem();
                files::replace(&folder.join("service-account.key"), key, Readers::Owner)?;
                files::replace(&folder.join("service-account.pub"), public, Readers::Everyone)?;
            }
            Ok::<(), Error>(())
        };
        // Each waits for the disk, file by file.
        std::thread::scope(|scope| {
            let written = all.map(|one| scope.spawn(move || write(one)));
            written.into_iter().try_for_each(|written| {
                written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        files::replace(&fresh.join(ORIGIN), encode(&self.origin), Readers::Owner)?;
        let folder = directory.join(FOLDER);
        let renamed = fs::rename(&fresh, &folder);
        if renamed.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        renamed.and_then(|()| fs::File::open(directory)?.sync_all()).map_err(|source| Error::File {
            what: "create",
            path: folder,
            source,
        })
    }
}

impl Beginning {
    /// Takes back what [`Beginning::write`] wrote.
    pub fn undo(directory: &Path) {
        let folder = directory.join(FOLDER);
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(%error, folder = %folder.display(), "a beginning stays on the disk");
        }
    }
}

/// Where the directory's master comes from; `None` where nothing has begun yet.
pub fn origin(directory: &Path) -> Result<Option<Origin>, Error> {
    let path = directory.join(FOLDER).join(ORIGIN);
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read(&path)?;
    let damaged = |error| Error::Unusable(format!("{}: {error}", path.display()));
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

/// Keeps where the other members are.
pub fn write_peers(directory: &Path, peers: &[Address]) -> Result<(), Error> {
    files::replace(&directory.join(FOLDER).join(PEERS), encode(&peers), Readers::Owner)
}

/// Where the other members were when that was last written; `None` where this master was never a member.
pub fn read_peers(directory: &Path) -> Result<Option<Vec<Address>>, Error> {
    let path = directory.join(FOLDER).join(PEERS);
    if !path.exists() {
        return Ok(None);
    }
    let damaged = |error| Error::Unusable(format!("{}: {error}", path.display()));
    serde_json::from_str(&files::read(&path)?).map(Some).map_err(damaged)
}

fn encode(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value);
    text.expect("plain structs of text become JSON") + "\n"
}
