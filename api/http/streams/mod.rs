//! What clients speak to reach into nodes: upgrades to SPDY/3.1 and to WebSockets, and plain answers.
//!
//! A node's side is always the same: bytes, which are SPDY/3.1 for everything that the container runtime
//! serves. A client that upgrades to SPDY gets them as they are ([`raw`]); WebSockets with channels are
//! translated ([`channels`], [`forward`]); a log is an answer without an end ([`log`]).
//!
//! Keeps: whoever goes, client or node, ends both sides. A node is asked before a client is told that its
//! connection is upgraded, so that a refusal is an ordinary answer.
//! Never: holds more than a message of what one side sends and the other does not take.

pub mod channels;
pub mod forward;
mod links;
pub mod log;
pub mod proxy;
pub mod raw;
mod spdy;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::IntoResponse as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};

use crate::error::Status;

/// Of a WebSocket's message. Clients send some ten kilobytes at a time.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// How a client wants to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    Spdy,
    WebSocket,
    Not,
}

impl Upgrade {
    pub fn wanted(headers: &HeaderMap) -> Upgrade {
        let name = headers.get("upgrade").and_then(|it| it.to_str().ok()).unwrap_or_default();
        if name.eq_ignore_ascii_case("websocket") {
            Upgrade::WebSocket
        } else if name.to_ascii_lowercase().starts_with("spdy/") {
            Upgrade::Spdy
        } else {
            Upgrade::Not
        }
    }
}

/// What answers a request that has to be an upgrade and is none.
pub(super) fn not_upgraded() -> Status {
    Status::bad_request("Upgrade request required")
}

/// A WebSocket that is about to be, with the first of the client's protocols that is `known`. Who names none
/// gets `unnamed`, if that is anything.
async fn websocket<T: Copy>(
    parts: &mut Parts,
    known: &[(&'static str, T)],
    unnamed: Option<T>,
) -> Result<(WebSocketUpgrade, T), Response<axum::body::Body>> {
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
    let mut upgrade = upgrade.map_err(|rejected| rejected.into_response())?;
    let wanted: Vec<String> = upgrade
        .requested_protocols()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|list| list.split(',').map(|it| it.trim().to_owned()))
        .filter(|it| !it.is_empty() && !it.starts_with("base64url.bearer."))
        .collect();
    let chosen = wanted.iter().find_map(|it| known.iter().find(|(name, _)| name == it));
    let of = match (chosen, unnamed) {
        (Some((name, of)), _) => {
            upgrade.set_selected_protocol(HeaderValue::from_static(name));
            *of
        }
        (None, Some(of)) if wanted.is_empty() => of,
        _ => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let why = format!(
                "none of the protocols {wanted:?} is spoken here; there are {}",
                names.join(", ")
            );
            return Err(super::respond::error(&parts.headers, &Status::bad_request(why)));
        }
    };
    Ok((upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX), of))
}
