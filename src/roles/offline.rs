//! What is done to a data directory while no master runs from it: begun anew from an archive, or made a
//! cluster of its own when the others are gone for good.
//!
//! Keeps: an archive is checked to its last byte before anything is written; a restore that fails leaves
//! the directory as empty as it was. The directory's lock keeps a running master away. An id is never
//! given twice, even where whoever gave it last is lost.
//! Never: decides that it is time for this: a person does.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kontiki_api::cluster::Records;
use kontiki_api::cluster::wire::ClusterSettings;
use kontiki_raft::log::{self, RealDisk};
use kontiki_raft::recovery::{self, Forced, Offline, Restored};
use kontiki_raft::storage::compaction::Floor;
use kontiki_raft::storage::directory::{self, Directory, Expect};
use kontiki_raft::storage::engine::Open as _;
use kontiki_raft::storage::engine::rocks::RocksFactory;
use kontiki_raft::storage::snapshot::archive;
use kontiki_raft::storage::{Options, Store};
use kontiki_raft::{ClusterId, NodeId, Peer};
use rand::RngExt as _;

use super::master::RELEASE;
use crate::failure::Failure;
use crate::pki::{self, Beginning, Origin};

/// All that a restore creates in a directory.
const CREATED: [&str; 9] =
    ["begun", "identity", "lock", "log", "pki", "reserve", "run", "snapshots", "state"];

/// How many ids are passed over where the last ones that were given may be known to nobody. As many
/// masters have not joined since this one heard of it.
const IDS_PASSED_OVER: u64 = 1 << 20;

/// What becomes of an archive.
pub struct Restore {
    pub archive: PathBuf,
    pub directory: PathBuf,
    pub name: String,
    /// Where the others will reach it; put right when it is started.
    pub address: String,
    /// The `pki` of a lost master, to go on with its CAs; without it there are new ones.
    pub pki: Option<PathBuf>,
    pub bump: u64,
    /// Where the archive says nothing of it.
    pub settings: ClusterSettings,
}

impl Restore {
    /// Makes a directory that starts as a cluster of one. `watch` sees the archive's bytes pass.
    pub fn run<R: Read>(&self, watch: impl Fn(File) -> R) -> Result<Restored, Failure> {
        let open = || {
            File::open(&self.archive)
                .map_err(|error| Failure::Run(format!("{}: {error}", self.archive.display())))
        };
        archive::inspect(BufReader::new(open()?))
            .map_err(|error| Failure::Run(format!("{}: {error}", self.archive.display())))?;
        let path = &self.directory;
        is_empty(path)?;
        let existed = path.exists();
        let restored = self.fill(BufReader::new(watch(open()?)));
        if restored.is_err() {
            clear(path, existed);
        }
        restored
    }

    fn fill(&self, from: impl Read) -> Result<Restored, Failure> {
        // Another cluster than the one that was lost: whoever is left of it must not be taken for ours.
        let cluster = ClusterId(rand::rng().random_range(1..=u64::MAX));
        let (node, name) = (NodeId(1), self.name.clone());
        let origin = Origin::new(cluster, node, name.clone(), Vec::new(), self.settings.clone());
        let beginning = match &self.pki {
            Some(folder) => Beginning::with_authorities_of(origin, folder)?,
            None => Beginning::found(origin, pki::now())?,
        };
        beginning.write(&self.directory)?;
        let owner = directory::Identity {
            cluster: cluster.0,
            node: node.0,
            name: name.clone(),
            release: RELEASE.into(),
        };
        let expect = Expect { cluster: Some(cluster.0), node: Some(node.0), ..Expect::default() };
        let directory = Directory::open_or_create(&self.directory, &expect, || owner)?;
        let me = Peer { name, address: self.address.clone(), client_urls: Vec::new() };
        let engine = RocksFactory::default();
        let restored = recovery::restore(&offline(&directory, &engine)?, me, from, self.bump)?;
        // The archive knows better than anybody's flags what the cluster was.
        let floor = Floor::default();
        let store = engine.open(&directory.state()?, floor.retain())?;
        let store = Store::open(store, floor, Options::default())?;
        if let Some(settings) = Records::settings_in(&store)? {
            beginning.origin.with_settings(settings).write(&self.directory)?;
        }
        Ok(restored)
    }
}

/// Refuses a directory in which there is a master.
pub fn is_empty(directory: &Path) -> Result<(), Failure> {
    if Directory::inspect(directory)?.is_some() || pki::origin(directory)?.is_some() {
        return Err(Failure::Usage(format!(
            "data directory {} holds a master already; restore into an empty one (--data-dir)",
            directory.display()
        )));
    }
    Ok(())
}

fn clear(directory: &Path, existed: bool) {
    for name in CREATED {
        let path = directory.join(name);
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "this stays of a restore that failed");
        }
    }
    if !existed {
        // Fails where something else is in it, which then is not ours.
        let _ = fs::remove_dir(directory);
    }
}

/// Makes the member of a directory the only one of its cluster.
pub fn force(path: &Path) -> Result<Forced, Failure> {
    let Some(origin) = super::place::origin(path)? else {
        return Err(Failure::Usage(format!(
            "no master was ever started from {}; say from which directory (--data-dir)",
            path.display()
        )));
    };
    let expect = Expect {
        cluster: Some(origin.cluster()?.0),
        node: Some(origin.node()?.0),
        ..Expect::default()
    };
    let directory = Directory::open_or_create(path, &expect, || unreachable!("it has an owner"))?;
    let name = directory.identity().name.clone();
    // Before the cluster begins: were it to end here, ids would be passed over for nothing.
    origin.with_ids_from(unseen(&directory)?).write(path)?;
    // Where it is reached is put right when it is started.
    let me = Peer { name, address: "127.0.0.1:2380".into(), client_urls: Vec::new() };
    Ok(recovery::force_new_cluster(&offline(&directory, &RocksFactory::default())?, me)?)
}

/// An id that no lost master can have given.
fn unseen(directory: &Directory) -> Result<NodeId, Failure> {
    let floor = Floor::default();
    let store = RocksFactory::default().open(&directory.state()?, floor.retain())?;
    let known = Records::next_node_in(&Store::open(store, floor, Options::default())?)?;
    Ok(NodeId(known.map_or(0, |id| id.0).saturating_add(IDS_PASSED_OVER)))
}

fn offline<'a>(directory: &'a Directory, engine: &'a RocksFactory) -> Result<Offline<'a>, Failure> {
    let log_disk = Arc::new(RealDisk::new(directory.log())?);
    Ok(Offline { directory, engine, log_disk, log: log::Options::default() })
}
