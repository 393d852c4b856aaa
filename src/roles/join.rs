//! Joining a cluster as a master: first asked for over the API by a token, then over the peers' port by
//! the certificate that came of it.
//!
//! Keeps: before the cluster has said yes nothing is written. Whoever was let in can be stopped and
//! started at any point: the id and the CAs are in the directory, and asking twice is asking once.
//! Never: founds a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use kontiki_api::cluster::wire::{JoinMaster, MasterJoined, PREFIX, parse_cluster, parse_id};
use kontiki_raft::error::MembershipError;
use kontiki_raft::network::Transport;
use kontiki_raft::{NodeId, Peer, lifecycle};
use tokio_util::sync::CancellationToken;

use super::master::{Join, Settings};
use crate::failure::Failure;
use crate::pki::{self, Beginning, Origin, Trust};
use crate::remote::{self, Remote};

/// How long one attempt to be added may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Others may be joining: they are taken in one after the other.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks a master of the cluster for an id, for its CAs and for where the others are.
pub async fn ask(settings: &Settings, join: &Join, address: &str) -> Result<Beginning, Failure> {
    let tls = pki::client_config(Trust::Fingerprint(join.token.ca), None)?;
    let remote = Remote::new(&join.endpoint, tls)
        .map_err(|reason| Failure::Usage(format!("--join: {reason}")))?;
    let mut headers = HeaderMap::new();
    let bearer = HeaderValue::from_str(&join.token.bearer()).expect("tokens are plain letters");
    headers.insert(header::AUTHORIZATION, bearer);
    let request = JoinMaster {
        name: settings.name.clone(),
        peer_address: address.to_owned(),
        release: env!("CARGO_PKG_VERSION").into(),
    };
    let path = format!("{PREFIX}/join/master");
    let joined: MasterJoined =
        remote.post(&path, headers, &request).await.map_err(|error| understood(error, join))?;
    let strange = |reason: String| Failure::Run(format!("{}: {reason}", join.endpoint));
    let origin = Origin::new(
        parse_cluster(&joined.cluster).map_err(strange)?,
        parse_id(&joined.node).map_err(strange)?,
        settings.name.clone(),
        joined.members,
        joined.settings,
    );
    if !origin.joined() {
        return Err(strange("it knows no members, so there is nobody to join".into()));
    }
    Ok(Beginning { origin, authorities: joined.authorities })
}

pub(super) fn understood(error: remote::Error, join: &Join) -> Failure {
    match error {
        remote::Error::Refused { status: StatusCode::UNAUTHORIZED, endpoint, reason } => {
            Failure::Usage(format!("cannot join {endpoint}: {reason}"))
        }
        remote::Error::Refused { status: StatusCode::CONFLICT, endpoint, reason } => {
            Failure::Usage(format!("cannot join {endpoint}: {reason}"))
        }
        remote::Error::Untrusted { .. } => Failure::Usage(format!(
            "{} is no master of the cluster that the token is for: it does not show the CA that \
             the token names; check --join and --token",
            join.endpoint
        )),
        other => Failure::Run(format!("cannot join: {other}")),
    }
}

/// Asks the members to be added as a learner, until they have agreed.
pub async fn be_added(
    transport: &dyn Transport,
    origin: &Origin,
    id: NodeId,
    me: Peer,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut members = BTreeMap::new();
    for member in &origin.members {
        let peer = Peer {
            name: member.name.clone(),
            address: member.address.clone(),
            client_urls: Vec::new(),
        };
        members.insert(parse_id(&member.id).map_err(Failure::Run)?, peer);
    }
    loop {
        let asked = lifecycle::join(transport, id, me.clone(), &members, ATTEMPT);
        let answer = tokio::select! {
            answer = asked => answer,
            () = stop.cancelled() => return Ok(()),
        };
        use kontiki_raft::Error::{Membership, NoLeader};
        match answer {
            Ok(()) | Err(Membership(MembershipError::Exists(_))) => return Ok(()),
            Err(Membership(MembershipError::TooManyLearners(_))) => {
                tracing::info!("others are joining; this master waits for its turn");
            }
            Err(error @ NoLeader(_)) => tracing::warn!(%error, "not added yet; asked again"),
            Err(error) => return Err(Failure::Run(format!("cannot join: {error}"))),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}
