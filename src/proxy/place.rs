//! Where this is: the node's name, zone, addresses, and the range of its pods. Its object says what can change;
//! what it said last is on disk, for a start without any master.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::client::{Change, Client};
use kontiki_api::request::Options;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::kept::Kept;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Pause before a watch that ended is opened again; doubled up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A node, as rules see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    pub zone: Option<String>,
    pub addresses: Vec<IpAddr>,
    /// Ranges of the addresses of its pods.
    pub pods: Vec<IpNet>,
}

impl Place {
    /// What the node's object says of the place.
    #[must_use]
    pub fn told(&self, node: &Node) -> Place {
        let labels = node.metadata.labels.as_ref();
        let spec = node.spec.as_ref();
        let ranges = spec.and_then(|it| it.pod_cidrs.clone()).unwrap_or_default();
        let ranges = if ranges.is_empty() {
            spec.and_then(|it| it.pod_cidr.clone()).into_iter().collect()
        } else {
            ranges
        };
        Place {
            zone: labels.and_then(|it| it.get(ZONE)).cloned(),
            pods: ranges.iter().filter_map(|it| it.parse().ok()).collect(),
            ..self.clone()
        }
    }
}

/// Keeps `place` as the node's object says, until `stop`.
pub async fn follow(
    place: &watch::Sender<Place>,
    client: &Client,
    kept: Option<&Kept>,
    stop: CancellationToken,
) {
    let remembering = async {
        match kept {
            Some(kept) => remember(place, kept).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = ask(place, client, stop) => {}
        () = remembering => {}
    }
}

/// Zone and ranges, as text.
type Written = (Option<String>, Vec<String>);

/// Takes the place as it was said to be last until a master says it, and writes that down.
async fn remember(place: &watch::Sender<Place>, kept: &Kept) {
    let mut told = place.subscribe();
    if let Some((zone, pods)) = kept.value::<Written>().await {
        place.send_if_modified(|place| {
            let first = place.pods.is_empty();
            if first {
                // Its name and its addresses are those of today.
                place.zone = zone;
                place.pods = pods.iter().filter_map(|it| it.parse().ok()).collect();
            }
            first
        });
    }
    told.mark_changed();
    while told.changed().await.is_ok() {
        let now = told.borrow_and_update().clone();
        let pods: Vec<String> = now.pods.iter().map(ToString::to_string).collect();
        if !pods.is_empty() && kept.put_value(&(now.zone, pods)).await.is_err() {
            told.mark_changed();
        }
    }
}

async fn ask(place: &watch::Sender<Place>, client: &Client, stop: CancellationToken) {
    let mut pause = RETRY_FIRST;
    while !stop.is_cancelled() {
        let result = tokio::select! {
            result = follow_once(place, client) => result,
            () = stop.cancelled() => return,
        };
        match result {
            Ok(()) => pause = RETRY_FIRST,
            Err(status) => tracing::debug!(%status, "the node's object is not seen"),
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn follow_once(place: &watch::Sender<Place>, client: &Client) -> Result<(), Status> {
    let name = place.borrow().node.clone();
    let options = Options {
        field_selector: Some(format!("metadata.name={name}")),
        send_initial_events: Some(true),
        resource_version_match: Some("NotOlderThan".into()),
        allow_watch_bookmarks: true,
        ..Options::default()
    };
    let mut changes = std::pin::pin!(client.watch::<Node>("", options).await?);
    while let Some(change) = changes.next().await {
        if let Change::Added(node) | Change::Modified(node) = change? {
            place.send_if_modified(|place| {
                let told = place.told(&node);
                let differs = *place != told;
                *place = told;
                differs
            });
        }
    }
    Ok(())
}
