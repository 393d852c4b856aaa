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

/// Returns when the membership says what is true, or when told to stop.
pub async fn keep_true(
    replica: Replica,
    transport: Arc<dyn Transport>,
    me: Peer,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        let members = replica.members();
        let known = members.iter().find(|member| member.id == replica.id());
        if known.is_some_and(|member| member.peer == me) {
            return Ok(());
        }
        // Before it has heard that it is a member it does not know what others believe of it.
        if known.is_some() {
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
            () = tokio::time::sleep(PAUSE) => {}
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
