//! Where members are: the cluster is told where this one is, and this one remembers where the others are.
//!
//! A member that moved is not found by the leader, and so hears of no leader: it asks the others itself.
//! One that has lost its store knows nobody: so it is written down beside the store, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::cluster::wire::{Address, id_of};
use kontiki_raft::network::{Forward, Forwarded, Transport};
use kontiki_raft::{Peer, Replica};
use tokio_util::sync::CancellationToken;

use crate::pki;

const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);

/// What is known here of the membership may not be agreed on yet: a leader that falls can take back what
/// it was told. So it is looked at again, so often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Sees to it that the membership says what is true of this member, until told to stop.
pub async fn keep_true(
    replica: Replica,
    transport: Arc<dyn Transport>,
    me: Peer,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        let members = replica.members();
        let known = members.iter().find(|member| member.id == replica.id());
        let is_true = known.is_some_and(|member| member.peer == me);
        // Before it has heard that it is a member it does not know what others believe of it.
        if known.is_some() && !is_true {
            let told = tokio::select! {
                told = tell(&replica, &*transport, &me) => told,
                () = stop.cancelled() => return Ok(()),
            };
            match told {
                Ok(()) => tracing::info!(address = me.address, "the cluster was told where we are"),
                Err(reason) => tracing::debug!(reason, "the cluster does not know where we are"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(if is_true { LOOK_AGAIN } else { PAUSE }) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn tell(replica: &Replica, transport: &dyn Transport, me: &Peer) -> Result<(), String> {
    if replica.status().borrow().leader.is_some() {
        return replica.update(replica.id(), me.clone()).await.map_err(|error| error.to_string());
    }
    let mut last = "no other member is known".to_owned();
    for member in replica.members() {
        if member.id == replica.id() {
            continue;
        }
        let request = Forward::Update { id: replica.id(), peer: me.clone() };
        match transport.link(member.id, &member.peer).forward(request, PATIENCE).await {
            Ok(Forwarded::Done) => return Ok(()),
            Ok(other) => last = format!("{}: {other:?}", member.id),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// Keeps written where the other members are, until told to stop.
pub async fn keep_written(
    replica: Replica,
    directory: PathBuf,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut status = replica.status();
    let mut written = pki::read_peers(&directory).ok().flatten();
    loop {
        let others = replica.members().into_iter().filter(|member| member.id != replica.id());
        let peers: Vec<Address> = others
            .map(|member| {
                let Peer { name, address, .. } = member.peer;
                Address { id: id_of(member.id), name, address }
            })
            .collect();
        // A member that knows nobody yet has not heard of anybody.
        let has_heard = !replica.members().is_empty();
        if has_heard && written.as_ref() != Some(&peers) {
            match pki::write_peers(&directory, &peers) {
                Ok(()) => written = Some(peers),
                Err(error) => tracing::warn!(%error, "where the others are is not written down"),
            }
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = stop.cancelled() => return Ok(()),
        }
        // The status changes with every write, members hardly ever.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kontiki_raft::log::{self, FlusherMode, SimDisk};
    use kontiki_raft::network::memory::Network;
    use kontiki_raft::replica::{Config, Parts};
    use kontiki_raft::storage::Options;
    use kontiki_raft::storage::directory::{Directory, Expect, Identity};
    use kontiki_raft::storage::engine::memory::MemoryFactory;
    use kontiki_raft::{ClusterId, NodeId};

    use super::*;

    async fn replica(folder: &std::path::Path, network: &Network) -> Replica {
        let identity = Identity { cluster: 7, node: 1, name: "m1".into(), release: "t".into() };
        let directory = Directory::open_or_create(folder, &Expect::default(), || identity).unwrap();
        let parts = Parts {
            directory: Arc::new(directory),
            engine: Arc::new(MemoryFactory::new(1)),
            store: Options::default(),
            log_disk: Arc::new(SimDisk::new(1)),
            log: log::Options {
                segment_bytes: 4 << 20,
                flusher: FlusherMode::Inline,
                zeros_written_ahead: false,
                ..log::Options::default()
            },
            transport: network.transport(ClusterId(7), NodeId(1)),
            space: None,
        };
        Replica::start(parts, Config::default()).await.unwrap()
    }

    async fn until_known_as(replica: &Replica, peer: &Peer) {
        let known = async {
            while replica.members()[0].peer != *peer {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), known).await.expect("it is put right");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_this_member_is_put_right_whenever_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let network = Network::new(1);
        let replica = replica(&folder.path().join("data"), &network).await;
        let at = |address: &str| Peer { address: address.into(), ..Peer::default() };
        replica.bootstrap(at("192.0.2.2:2380")).await.unwrap();
        let (me, stop) = (at("10.0.0.1:2380"), CancellationToken::new());
        let transport = network.transport(ClusterId(7), NodeId(1));
        let keeping = tokio::spawn(keep_true(replica.clone(), transport, me.clone(), stop.clone()));
        until_known_as(&replica, &me).await;
        // As if a leader had fallen and taken it back.
        replica.update(NodeId(1), at("192.0.2.2:2380")).await.unwrap();
        until_known_as(&replica, &me).await;
        stop.cancel();
        keeping.await.unwrap().unwrap();
        replica.shutdown().await;
    }
}
