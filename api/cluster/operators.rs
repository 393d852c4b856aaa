//! What operators ask of a master: status, members, tokens, archives, CAs.
//!
//! Keeps: every change is one request with one answer, and can be asked of any master.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use kontiki_raft::NodeId;
use rand::RngExt as _;

use super::token::Token;
use super::wire::{Member, PREFIX, Status, TokenCreated, TokenInfo, TokenRequest, Trust, parse_id};
use super::{Error, Front, snapshots, status};
use crate::listener::Peer;

const BODY_BYTES_MAX: usize = 64 << 10;
/// A year. Who needs a longer one should ask why.
const TTL_MAX_S: i64 = 365 * 24 * 3600;

pub(super) fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route(&format!("{PREFIX}/status"), get(tell_status))
        .route(&format!("{PREFIX}/members"), get(list_members))
        .route(&format!("{PREFIX}/members/{{id}}"), delete(remove_member))
        .route(&format!("{PREFIX}/members/{{id}}/promote"), post(promote_member))
        .route(&format!("{PREFIX}/members/{{id}}/lead"), post(transfer_leader))
        .route(&format!("{PREFIX}/tokens"), get(list_tokens).post(create_token))
        .route(&format!("{PREFIX}/tokens/{{id}}"), delete(revoke_token))
        .route(&format!("{PREFIX}/snapshot"), get(snapshots::download))
        .route(&format!("{PREFIX}/authorities"), get(tell_trust).post(reload_authorities))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(front)
}

/// Turns away who has not shown an administrator's certificate.
pub(super) async fn administrators_only(
    front: Arc<Front>,
    request: Request,
    next: Next,
) -> Response {
    let may =
        request.extensions().get::<Peer>().is_some_and(|peer| front.pki.is_administrator(peer));
    if may {
        return next.run(request).await;
    }
    let reason = "this takes an administrator's certificate (organization system:masters), as the \
                  one in pki/cluster/admin.crt of a master's data directory (--cert, --key)";
    Error::new(StatusCode::FORBIDDEN, reason).into_response()
}

async fn tell_status(State(front): State<Arc<Front>>) -> Json<Status> {
    Json(status::of(&front))
}

async fn list_members(State(front): State<Arc<Front>>) -> Json<Vec<Member>> {
    Json(status::members(&front))
}

async fn promote_member(
    State(front): State<Arc<Front>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    front.replica.promote(member(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_member(
    State(front): State<Arc<Front>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let id = member(&id)?;
    front.replica.remove(id).await?;
    tracing::info!(member = %id, "removed by an operator");
    // The record only tells where it was; a leftover is harmless, and this master may be the one.
    if id != front.replica.id()
        && let Err(error) = front.records.strike_master(id).await
    {
        tracing::debug!(%error, member = %id, "its record stays");
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn transfer_leader(
    State(front): State<Arc<Front>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    front.replica.transfer_leader(member(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_tokens(State(front): State<Arc<Front>>) -> Result<Json<Vec<TokenInfo>>, Error> {
    Ok(Json(front.records.tokens().await?))
}

async fn create_token(
    State(front): State<Arc<Front>>,
    Json(request): Json<TokenRequest>,
) -> Result<Json<TokenCreated>, Error> {
    if !(1..=TTL_MAX_S).contains(&request.ttl_s) || request.uses == Some(0) {
        let reason = format!("a token lasts from 1 to {TTL_MAX_S} seconds, for one use or more");
        return Err(Error::new(StatusCode::BAD_REQUEST, reason));
    }
    let token = Token::new(front.pki.fingerprint(), rand::rng().random());
    let expires_in_s = front.records.add_token(&token.id, token.hash(), &request).await?;
    tracing::info!(token = token.id, role = %request.role, expires_in_s, "token created");
    let about = TokenInfo {
        id: token.id.clone(),
        role: request.role,
        uses_left: request.uses,
        expires_in_s,
    };
    Ok(Json(TokenCreated { token: token.to_string(), about }))
}

async fn revoke_token(
    State(front): State<Arc<Front>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    if front.records.revoke_token(&id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let reason = format!("there is no token {id:?}; `kontiki token list` shows those there are");
    Err(Error::new(StatusCode::NOT_FOUND, reason))
}

async fn tell_trust(State(front): State<Arc<Front>>) -> Json<Vec<Trust>> {
    Json(front.pki.trust())
}

/// After the files have been changed by somebody who may.
async fn reload_authorities(State(front): State<Arc<Front>>) -> Result<Json<Vec<Trust>>, Error> {
    let failed = |reason| Error::new(StatusCode::CONFLICT, reason);
    if front.pki.reload().map_err(failed)? {
        tracing::info!("the CAs on the disk are in use now");
    }
    Ok(Json(front.pki.trust()))
}

fn member(id: &str) -> Result<NodeId, Error> {
    parse_id(id).map_err(|reason| Error::new(StatusCode::BAD_REQUEST, reason))
}
