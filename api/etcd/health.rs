//! Plain HTTP beside the services: health, version, metrics.
//!
//! `/health`, `/livez` and `/readyz` answer as etcd's do, so that what watches over an etcd can watch over
//! this. None of them asks who the caller is.

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use kontiki_raft::replica::Role;
use kontiki_storage::request::{KeyRange, Range};

use super::front::Front;
use super::wire::etcdserverpb::AlarmType;
use super::{VERSION, metrics};

pub(crate) fn routes(front: Front) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(live))
        .route("/livez/serializable_read", get(|state| one(state, Check::SerializableRead)))
        .route("/readyz", get(ready))
        .route("/readyz/data_corruption", get(|state| one(state, Check::DataCorruption)))
        .route("/readyz/serializable_read", get(|state| one(state, Check::SerializableRead)))
        .route("/readyz/linearizable_read", get(|state| one(state, Check::LinearizableRead)))
        .route("/readyz/non_learner", get(|state| one(state, Check::NonLearner)))
        .route("/version", get(version))
        .route("/metrics", get(page))
        .with_state(front)
}

#[derive(Clone, Copy)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, front: &Front) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                let view = front.replica().store().view();
                let control = front.control(&view).map_err(|it| it.message().to_owned())?;
                match control.has_alarm(AlarmType::Corrupt) {
                    true => Err("alarm activated: CORRUPT".to_owned()),
                    false => Ok(()),
                }
            }
            Check::SerializableRead => read(front, true).await,
            Check::LinearizableRead => read(front, false).await,
            Check::NonLearner => match front.status().role == Role::Learner {
                true => Err("this member is a learner".to_owned()),
                false => Ok(()),
            },
        }
    }
}

/// One key, read as a client would.
async fn read(front: &Front, serializable: bool) -> Result<(), String> {
    let failed = |refused: tonic::Status| refused.message().to_owned();
    let view = front.view(serializable).await.map_err(failed)?;
    let range = Range { limit: 1, keys_only: true, ..Range::new(KeyRange::all()) };
    view.range(&range).map(drop).map_err(|error| error.to_string())
}

async fn health(State(front): State<Front>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let serializable = values(&query, "serializable").any(|value| value == "true");
    let reason = unhealthy(&front, serializable, &query).await;
    let count = match reason {
        None => &front.metrics().health_good,
        Some(_) => &front.metrics().health_bad,
    };
    count.inc();
    let code = match reason {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::json!({
        "health": if reason.is_none() { "true" } else { "false" },
        "reason": reason.unwrap_or_default(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn unhealthy(front: &Front, serializable: bool, query: &str) -> Option<String> {
    let control = match front.control(&front.replica().store().view()) {
        Ok(control) => control,
        Err(refused) => return Some(format!("RANGE ERROR:{}", refused.message())),
    };
    for alarm in &control.state.alarms {
        let name = alarm.kind().as_str_name();
        if !values(query, "exclude").any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && front.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(front, serializable).await.err().map(|reason| format!("RANGE ERROR:{reason}"))
}

async fn live(State(front): State<Front>, RawQuery(query): RawQuery) -> Response {
    checks(&front, LIVE, &query.unwrap_or_default()).await
}

async fn ready(State(front): State<Front>, RawQuery(query): RawQuery) -> Response {
    checks(&front, READY, &query.unwrap_or_default()).await
}

async fn one(State(front): State<Front>, check: Check) -> Response {
    checks(&front, &[check], "").await
}

async fn checks(front: &Front, checks: &[Check], query: &str) -> Response {
    let mut all_good = true;
    let mut lines = String::new();
    for check in checks {
        let name = check.name();
        if values(query, "exclude").any(|excluded| excluded == name) {
            continue;
        }
        match check.run(front).await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                all_good = false;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if !all_good {
        return (StatusCode::SERVICE_UNAVAILABLE, lines).into_response();
    }
    let verbose = query.split('&').any(|pair| pair.split('=').next() == Some("verbose"));
    format!("{}ok\n", if verbose { &lines } else { "" }).into_response()
}

fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = &'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

async fn version() -> Response {
    let cluster = VERSION.rsplit_once('.').map_or(VERSION, |(level, _)| level);
    let body = serde_json::json!({
        "etcdserver": VERSION,
        "etcdcluster": format!("{cluster}.0"),
        "storage": format!("{cluster}.0"),
    });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn page(State(front): State<Front>) -> Response {
    const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], metrics::page(&front)).into_response()
}
