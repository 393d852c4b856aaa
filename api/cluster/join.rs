//! Takes in masters and nodes that hold a token.
//!
//! A joining master is given an id, the CAs and where the others are. It asks the leader to be added by
//! itself, over the peers' port, when it can be reached there: a join that goes no further than this
//! leaves nothing in the membership.
//!
//! Keeps: the token is checked before anything is given, and one use of it is counted by then.
//! Never: takes the word of a request for what its certificate may say.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use kontiki_raft::membership::Member;

use super::records::TokenError;
use super::token::parse_bearer;
use super::wire::{
    Address, ClusterCa, JoinMaster, JoinNode, MasterJoined, NodeJoined, PREFIX, Role, id_of,
};
use super::{Error, Front};
use crate::live;
use crate::objects::Objects;

/// A request to join is a name, an address, a signing request.
const BODY_BYTES_MAX: usize = 64 << 10;

pub(super) fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route(&format!("{PREFIX}/join/master"), post(master))
        .route(&format!("{PREFIX}/join/node"), post(node))
        .route(&format!("{PREFIX}/ca"), get(ca))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(front)
}

async fn master(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    Json(request): Json<JoinMaster>,
) -> Result<Json<MasterJoined>, Error> {
    use_token(&front, &headers, Role::Master, || free_name(&front, &request)).await?;
    let id = front.records.next_node().await?;
    tracing::info!(member = %id, name = request.name, address = request.peer_address, "joins");
    Ok(Json(MasterJoined {
        cluster: front.replica.cluster().to_string(),
        node: id_of(id),
        members: members(&front).into_iter().map(address).collect(),
        settings: front.settings.clone(),
        authorities: front.pki.authorities(),
    }))
}

/// The members, and this one as it is: one that was restored, or has moved, may be asked by someone who
/// joins before the cluster has agreed on where it is now.
fn members(front: &Front) -> Vec<Member> {
    let mut members = front.replica.members();
    for member in members.iter_mut().filter(|member| member.id == front.replica.id()) {
        member.peer = front.peer.clone();
    }
    members
}

/// Two members of one name or address could not be told apart. Said before the token is used up.
fn free_name(front: &Front, request: &JoinMaster) -> Result<(), Error> {
    let taken = |member: &Member| {
        if member.peer.name == request.name {
            Some(format!("the name {:?} (--name)", request.name))
        } else if member.peer.address == request.peer_address {
            Some(format!("the address {}", request.peer_address))
        } else {
            None
        }
    };
    let Some((what, id)) =
        members(front).iter().find_map(|member| Some((taken(member)?, member.id)))
    else {
        return Ok(());
    };
    let reason = format!(
        "{what} belongs to member {id} already; choose another, or, if that one is gone for good, \
         `kontiki member remove {id}`"
    );
    Err(Error::new(StatusCode::CONFLICT, reason))
}

async fn node(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    Json(request): Json<JoinNode>,
) -> Result<Json<NodeJoined>, Error> {
    let name = request.name.clone();
    let check = || {
        check_node_name(&name)?;
        check_node_is_new(&front, &name)
    };
    use_token(&front, &headers, Role::Node, check).await?;
    let certificate = front
        .pki
        .sign_node(&request.name, &request.request)
        .map_err(|reason| Error::new(StatusCode::BAD_REQUEST, reason))?;
    tracing::info!(name = request.name, "a node joins");
    Ok(Json(NodeJoined {
        certificate,
        ca: front.pki.cluster_ca(),
        masters: front.records.masters()?.into_iter().map(|master| master.api).collect(),
        settings: front.settings.clone(),
    }))
}

/// For nodes that want to know whom to believe from now on. It is no secret: it is shown in each handshake.
async fn ca(State(front): State<Arc<Front>>) -> Json<ClusterCa> {
    Json(ClusterCa { ca: front.pki.cluster_ca() })
}

/// A node's name becomes that of an object, and part of a certificate's name.
fn check_node_name(name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|byte| inner(*byte))
            && bytes.last().is_some_and(|byte| inner(*byte))
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    let reason = format!(
        "{name:?} cannot be a node's name: lower case letters, digits, '-' and '.', at most 253 \
         (--name)"
    );
    Err(Error::new(StatusCode::BAD_REQUEST, reason))
}

/// A token must not become the certificate of a node that is there, and with it what that one may read.
fn check_node_is_new(front: &Front, name: &str) -> Result<(), Error> {
    let nodes = live::stored("", "nodes", "v1", "Node");
    let there = Objects::new(front.replica.clone()).get(&nodes, "", name);
    let internal =
        |status: crate::Status| Error::new(StatusCode::INTERNAL_SERVER_ERROR, status.to_string());
    if there.map_err(internal)?.is_none() {
        return Ok(());
    }
    let reason = format!(
        "there is a node {name:?} already; choose another name (--name), or, if that one is gone \
         for good, `kubectl delete node {name}`"
    );
    Err(Error::new(StatusCode::CONFLICT, reason))
}

/// Counts one use of the token that the request carries. `check` is what must hold besides; it is asked
/// only of someone who holds a valid token, and before the use is counted.
async fn use_token(
    front: &Front,
    headers: &HeaderMap,
    role: Role,
    check: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let refused = || Error::new(StatusCode::UNAUTHORIZED, TokenError::Refused.to_string());
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (id, secret) = header.and_then(parse_bearer).ok_or_else(refused)?;
    let understood = |error| match error {
        TokenError::Refused => refused(),
        TokenError::Raft(error) => Error::from(error),
    };
    front.records.check_token(id, secret, role).await.map_err(understood)?;
    check()?;
    front.records.use_token(id, secret, role).await.map_err(understood)
}

fn address(member: Member) -> Address {
    Address { id: id_of(member.id), name: member.peer.name, address: member.peer.address }
}

#[cfg(test)]
mod tests {
    use super::check_node_name;

    #[test]
    fn a_node_is_named_as_an_object_is() {
        for good in ["a", "edge-1", "node1.example.com", "0"] {
            assert!(check_node_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Node", "a_b", "-a", "a-", "a..b", "a/b", &"a".repeat(254)] {
            let error = check_node_name(bad).unwrap_err();
            assert!(error.reason().contains("--name"), "{bad}");
        }
    }
}
