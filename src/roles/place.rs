//! Takes up a master's place in the replicated store: directory, certificates, links, replica.
//!
//! A member that has lost what it had acknowledged comes back from here under a new id, by itself, while
//! the others have a quorum; one that was removed does not. One that met damage while it served (`doubted`)
//! asks for the same, and starts with what it has where the others can't take it back: without a quorum of
//! them its log, and what is whole of its state, are needed.
//!
//! Keeps: the directory's own identity is the truth about which id this is. Certificates and origin follow
//! it, so that a start can be cut short anywhere and begun again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::cluster::wire::parse_id;
use kontiki_raft::lifecycle::{self, Stage};
use kontiki_raft::log::{self, RealDisk};
use kontiki_raft::network::Transport;
use kontiki_raft::network::grpc::{GrpcTransport, Identity, Tls};
use kontiki_raft::replica::{Config, Parts};
use kontiki_raft::storage::Options;
use kontiki_raft::storage::directory::{self, Directory, Expect};
use kontiki_raft::storage::engine::rocks::RocksFactory;
use kontiki_raft::{ClusterId, NodeId, Peer, Replica};

use super::master::{RELEASE, Settings};
use super::ports;
use crate::failure::Failure;
use crate::pki::{self, Beginning, Hosts, Material, Origin};

/// How long a member that comes back asks for it, before its process ends and is started again.
const RETURN_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long one asks that can start with what it has.
const DOUBTED_WAIT_MAX: Duration = Duration::from_secs(10);

/// Ids that are counted stay far below; those of members that come back are chosen at random above.
const RANDOM_IDS_FROM: u64 = 1 << 32;

pub struct Place {
    pub origin: Origin,
    pub identity: Identity,
    pub directory: Arc<Directory>,
    pub material: Arc<Material>,
    pub peer_tls: Arc<Tls>,
    pub transport: Arc<GrpcTransport>,
    pub replica: Replica,
}

/// Where the master of a directory comes from; `None` where nothing has begun. Refuses a directory that
/// is not ours, and one that is not whole.
pub fn origin(directory: &Path) -> Result<Option<Origin>, Failure> {
    let found = Directory::inspect(directory)?;
    let origin = pki::origin(directory)?;
    match (found, origin) {
        (Some(_), None) => Err(Failure::Usage(format!(
            "data directory {}: its certificates (pki/) are gone; restore pki/ from a backup, or \
             start with an empty directory as a new member",
            directory.display()
        ))),
        (None, Some(_)) if pki::read_peers(directory)?.is_some() => Err(Failure::Usage(format!(
            "data directory {}: its master's data is gone, but its certificates (pki/) are there; \
             restore all of it, or remove all of it, remove the member from the cluster, and join \
             anew",
            directory.display()
        ))),
        // It was on its way back under a new id when it was stopped.
        (Some(found), Some(origin))
            if found.cluster == origin.cluster()?.0 && found.node != origin.node()?.0 =>
        {
            let origin =
                origin.anew(NodeId(found.node), pki::read_peers(directory)?.unwrap_or_default());
            origin.write(directory)?;
            Ok(Some(origin))
        }
        (_, origin) => Ok(origin),
    }
}

impl Place {
    /// In a directory that has just begun; it is as if it never had, where the place can't be taken.
    pub async fn take_first(
        settings: &Settings,
        origin: Origin,
        me: &Peer,
    ) -> Result<Place, Failure> {
        let identity = identity_of(&origin)?;
        match open_directory(settings, identity) {
            Ok(directory) => Place::take_in(settings, origin, directory, me).await,
            Err(failure) => {
                Beginning::undo(&settings.data_dir);
                Err(failure)
            }
        }
    }

    pub async fn take(settings: &Settings, origin: Origin, me: &Peer) -> Result<Place, Failure> {
        let directory = open_directory(settings, identity_of(&origin)?)?;
        Place::take_in(settings, origin, directory, me).await
    }

    async fn take_in(
        settings: &Settings,
        origin: Origin,
        mut directory: Directory,
        me: &Peer,
    ) -> Result<Place, Failure> {
        ports::forget(&directory.run());
        let mut links = Links::open(settings, identity_of(&origin)?)?;
        if let Some(reason) = directory.doubted()? {
            tracing::error!(reason, "this member's data was found damaged");
            match come_back(settings, &mut directory, &links, me, DOUBTED_WAIT_MAX).await {
                Ok(new) => return Place::settle(settings, origin, directory, new).await,
                Err(failure) if directory.identity().node != links.identity.node.0 => {
                    return Err(failure);
                }
                Err(failure) => {
                    tracing::error!(%failure, "starting with what is there of damaged data");
                    // The certificates on disk are the old id's again.
                    links = Links::open(settings, links.identity)?;
                }
            }
        }
        let directory = Arc::new(directory);
        let failure = match start(&directory, &links).await {
            Ok(replica) => return Ok(links.with(origin, directory, replica)),
            Err(failure) => failure,
        };
        let lost = match lifecycle::verdict(&directory)? {
            Some(Stage::Condemned(reason)) => Some(reason),
            Some(_) => None,
            None => directory.doubted()?,
        };
        let Some(reason) = lost else {
            return Err(failure.into());
        };
        tracing::error!(reason, "this member has lost what it had acknowledged");
        let mut directory = Arc::into_inner(directory)
            .ok_or_else(|| Failure::Run("the directory is still in use; start again".into()))?;
        let back = come_back(settings, &mut directory, &links, me, RETURN_WAIT_MAX).await;
        let new = back.map_err(|why| Failure::Run(format!("{failure}; {why}")))?;
        Place::settle(settings, origin, directory, new).await
    }

    /// Starts under the id that the directory came back under.
    async fn settle(
        settings: &Settings,
        origin: Origin,
        directory: Directory,
        links: Links,
    ) -> Result<Place, Failure> {
        let known = pki::read_peers(&settings.data_dir)?.unwrap_or_default();
        let origin = origin.anew(links.identity.node, known);
        origin.write(&settings.data_dir)?;
        let directory = Arc::new(directory);
        let replica = start(&directory, &links).await?;
        Ok(links.with(origin, directory, replica))
    }
}

/// By what a member is believed, and how it reaches the others, under one id.
struct Links {
    identity: Identity,
    material: Arc<Material>,
    peer_tls: Arc<Tls>,
    transport: Arc<GrpcTransport>,
}

impl Links {
    fn open(settings: &Settings, identity: Identity) -> Result<Links, Failure> {
        let (hosts, life) = (hosts(settings), settings.certificate_life);
        let material = Material::open(&settings.data_dir, hosts, identity, life, pki::now())?;
        let peer_tls = Tls::new(&material.peer_tls()).map_err(pki::Error::from)?;
        let transport = GrpcTransport::new(identity, Arc::clone(&peer_tls));
        Ok(Links { identity, material: Arc::new(material), peer_tls, transport })
    }

    fn with(self, origin: Origin, directory: Arc<Directory>, replica: Replica) -> Place {
        let Links { identity, material, peer_tls, transport } = self;
        Place { origin, identity, directory, material, peer_tls, transport, replica }
    }
}

/// Has the old id removed, empties the directory, and is let in under a new id.
async fn come_back(
    settings: &Settings,
    directory: &mut Directory,
    old: &Links,
    me: &Peer,
    limit: Duration,
) -> Result<Links, Failure> {
    let mut peers = BTreeMap::new();
    for peer in pki::read_peers(&settings.data_dir)?.unwrap_or_default() {
        let id = parse_id(&peer.id).map_err(Failure::Run)?;
        let (name, address) = (peer.name, peer.address);
        peers.insert(id, Peer { name, address, client_urls: Vec::new() });
    }
    if peers.is_empty() {
        return Err(Failure::Run(
            "there are no others to come back to: restore a snapshot into an empty directory \
             (`kontiki snapshot restore`)"
                .into(),
        ));
    }
    let node = NodeId(rand::random_range(RANDOM_IDS_FROM..=u64::MAX));
    let new = Links::open(settings, Identity { node, ..old.identity })?;
    let owner = owner(settings, new.identity);
    tracing::info!(old = %old.identity.node, new = %node, "coming back under a new id");
    let transport_as = |id: NodeId| -> Arc<dyn Transport> {
        if id == node { Arc::clone(&new.transport) as _ } else { Arc::clone(&old.transport) as _ }
    };
    let asked = lifecycle::rejoin(directory, owner, me.clone(), &peers, &transport_as, limit).await;
    asked.map_err(|error| {
        Failure::Run(format!("cannot come back while the others have no quorum: {error}"))
    })?;
    Ok(new)
}

fn identity_of(origin: &Origin) -> Result<Identity, Failure> {
    Ok(Identity { cluster: origin.cluster()?, node: origin.node()? })
}

fn owner(settings: &Settings, identity: Identity) -> directory::Identity {
    let Identity { cluster: ClusterId(cluster), node: NodeId(node) } = identity;
    directory::Identity { cluster, node, name: settings.name.clone(), release: RELEASE.into() }
}

fn open_directory(settings: &Settings, identity: Identity) -> Result<Directory, Failure> {
    let expect = Expect {
        cluster: Some(identity.cluster.0),
        node: Some(identity.node.0),
        name: settings.name_given.then(|| settings.name.clone()),
        ..Expect::default()
    };
    let owner = owner(settings, identity);
    Ok(Directory::open_or_create(&settings.data_dir, &expect, || owner)?)
}

async fn start(directory: &Arc<Directory>, links: &Links) -> Result<Replica, kontiki_raft::Error> {
    let failed = |error: std::io::Error| kontiki_raft::Error::Directory {
        path: directory.log(),
        reason: error.to_string(),
    };
    let log_disk = RealDisk::new(directory.log()).map_err(failed)?;
    let space = directory.space(directory::space::Options::default())?;
    let parts = Parts {
        directory: Arc::clone(directory),
        engine: Arc::new(RocksFactory::default()),
        store: Options { directory: directory.path().to_owned(), ..Options::default() },
        log_disk: Arc::new(log_disk),
        log: log::Options::default(),
        transport: Arc::clone(&links.transport) as _,
        space: Some(Arc::new(space)),
    };
    let config = Config { become_voter: true, ..Config::default() };
    Replica::start(parts, config).await
}

fn hosts(settings: &Settings) -> Hosts {
    let mut addresses = vec![settings.advertise, settings.bind, settings.store_bind];
    addresses.retain(|address| !address.is_unspecified());
    Hosts {
        hostname: settings.host.clone(),
        addresses,
        service: settings.first_service,
        more: settings.tls_san.clone(),
    }
}
