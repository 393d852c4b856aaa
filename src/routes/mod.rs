//! Ways to the pods of other nodes: a route for each range of pod addresses, by the address of the node that
//! has it.
//!
//! ```text
//! Nodes ─► Ways (what their objects say) ─► wanted (pure) ─► difference to what is there ─► rtnetlink
//! ```
//!
//! Keeps: our routes are known by their protocol number ([`kernel::OURS`]), also after a restart: those of
//! nodes that are gone go, those that somebody has taken away come back. They stay when this ends. What nodes
//! said last is on disk, for a start without any master.
//! Never: touches a route of another's, even one to the same range; keeps more of a node than the few words
//! that are needed.

mod kernel;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kontiki_api::Status;
use kontiki_api::client::{Change, Client};
use kontiki_api::request::Options;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::kept::{AFTER, Kept};

/// How often it is looked whether our routes are still there: a link that was down has none.
const LOOK: Duration = Duration::from_secs(30);
/// Nodes that come together are routed together.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause before a watch that ended is opened again; doubled up to the most.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// This node.
#[derive(Clone, Debug)]
pub struct Me {
    pub node: String,
    pub addresses: Vec<IpAddr>,
}

/// Where a node is, and which pods are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    pub addresses: Vec<IpAddr>,
    pub pods: Vec<IpNet>,
}

/// By the node's name.
pub type Ways = BTreeMap<String, Way>;
/// Range and gateway.
pub type Routes = BTreeMap<IpNet, IpAddr>;

impl Way {
    fn of(node: &Node) -> Way {
        let spec = node.spec.as_ref();
        let many = spec.and_then(|it| it.pod_cidrs.as_deref()).unwrap_or_default();
        let one = spec.and_then(|it| it.pod_cidr.as_ref()).filter(|_| many.is_empty());
        let told = node.status.as_ref().and_then(|it| it.addresses.as_deref()).unwrap_or_default();
        let internal = told.iter().filter(|it| it.type_ == "InternalIP");
        Way {
            addresses: internal.filter_map(|it| it.address.parse().ok()).collect(),
            pods: many.iter().chain(one).filter_map(|it| it.parse().ok()).collect(),
        }
    }

    /// Where the node is reached in the family of a range.
    fn gateway(&self, range: &IpNet) -> Option<IpAddr> {
        let reached =
            |it: &&IpAddr| !it.is_loopback() && !it.is_unspecified() && !it.is_multicast();
        let same = |it: &&IpAddr| it.is_ipv4() == range.addr().is_ipv4();
        self.addresses.iter().filter(reached).find(same).copied()
    }
}

/// The routes that the cluster's nodes come to here. Several nodes on one machine need none between them.
#[must_use]
pub fn wanted(ways: &Ways, me: &Me) -> Routes {
    let mine = ways.get(&me.node).map(|it| it.pods.as_slice()).unwrap_or_default();
    let mut routes = Routes::new();
    for way in ways.iter().filter(|(name, _)| **name != me.node).map(|(_, way)| way) {
        for range in way.pods.iter().filter(|it| !mine.contains(it)) {
            if let Some(gateway) = way.gateway(range).filter(|it| !me.addresses.contains(it)) {
                routes.insert(range.trunc(), gateway);
            }
        }
    }
    routes
}

/// Keeps the routes as the cluster's nodes are, until `stop`.
pub async fn run(
    me: Me,
    client: Client,
    kept: Option<Kept>,
    stop: CancellationToken,
) -> Result<(), String> {
    let (ways, known) = watch::channel(None);
    let remembering = async {
        match kept {
            Some(kept) => remember(&kept, &ways).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = async { tokio::join!(follow(&ways, &client), keep(&me, known), remembering); } => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

async fn keep(me: &Me, mut known: watch::Receiver<Option<Ways>>) {
    // What has been said once is not said again every half minute.
    let mut said = BTreeSet::new();
    loop {
        let routes = known.borrow_and_update().as_ref().map(|ways| wanted(ways, me));
        if let Some(routes) = routes {
            let trouble = match kernel::apply(&routes).await {
                Ok(refused) => refused.into_iter().collect(),
                Err(error) => BTreeSet::from([error]),
            };
            for why in trouble.difference(&said) {
                tracing::warn!(why, "pods of another node are not reached from here");
            }
            said = trouble;
            sleep(PAUSE).await;
        }
        // Told or not: what is there is looked at again.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, known.changed()).await {
            return;
        }
    }
}

/// Addresses and ranges by the node's name, as text.
type WrittenWays = BTreeMap<String, (Vec<String>, Vec<String>)>;

fn written(ways: &Ways) -> WrittenWays {
    let one = |way: &Way| {
        let addresses = way.addresses.iter().map(ToString::to_string).collect();
        (addresses, way.pods.iter().map(ToString::to_string).collect())
    };
    ways.iter().map(|(name, way)| (name.clone(), one(way))).collect()
}

fn read(written: WrittenWays) -> Ways {
    let one = |(addresses, pods): (Vec<String>, Vec<String>)| Way {
        addresses: addresses.iter().filter_map(|it| it.parse().ok()).collect(),
        pods: pods.iter().filter_map(|it| it.parse().ok()).collect(),
    };
    written.into_iter().map(|(name, way)| (name, one(way))).collect()
}

/// Takes the ways that were known last for true when no master answers, and writes down what is known.
async fn remember(kept: &Kept, ways: &watch::Sender<Option<Ways>>) {
    let mut known = ways.subscribe();
    let last = kept.value::<WrittenWays>().await.map(read);
    let told = timeout(AFTER, known.wait_for(Option::is_some)).await.is_ok();
    if let Some(last) = last.filter(|_| !told) {
        tracing::warn!("no master answers: other nodes' pods are where they were last");
        ways.send_if_modified(|ways| {
            let first = ways.is_none();
            if first {
                *ways = Some(last);
            }
            first
        });
    }
    known.mark_changed();
    while known.changed().await.is_ok() {
        let now = known.borrow_and_update().clone();
        if let Some(now) = now
            && kept.put_value(&written(&now)).await.is_err()
        {
            known.mark_changed();
        }
    }
}

/// Keeps `ways` as the nodes' objects say.
async fn follow(ways: &watch::Sender<Option<Ways>>, client: &Client) {
    let mut pause = RETRY_FIRST;
    loop {
        match follow_once(ways, client).await {
            Ok(()) => pause = RETRY_FIRST,
            Err(status) => tracing::debug!(%status, "the nodes are not seen"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn follow_once(ways: &watch::Sender<Option<Ways>>, client: &Client) -> Result<(), Status> {
    let options = Options {
        send_initial_events: Some(true),
        resource_version_match: Some("NotOlderThan".into()),
        allow_watch_bookmarks: true,
        ..Options::default()
    };
    let mut changes = std::pin::pin!(client.watch::<Node>("", options).await?);
    // What is there is read whole before anything is taken away for not being in it.
    let mut fresh = Some(Ways::new());
    while let Some(change) = changes.next().await {
        let (name, way) = match change? {
            Change::Added(node) | Change::Modified(node) => {
                (node.metadata.name.clone().unwrap_or_default(), Some(Way::of(&node)))
            }
            Change::Deleted(node) => (node.metadata.name.unwrap_or_default(), None),
            Change::Bookmark { initial: true, .. } => {
                if let Some(whole) = fresh.take() {
                    ways.send_replace(Some(whole));
                }
                continue;
            }
            Change::Bookmark { .. } => continue,
        };
        match &mut fresh {
            Some(fresh) => {
                put(fresh, name, way);
            }
            None => {
                let change = |ways: &mut Option<Ways>| {
                    ways.as_mut().is_some_and(|ways| put(ways, name, way))
                };
                ways.send_if_modified(change);
            }
        }
    }
    Ok(())
}

/// Whether that was a change.
fn put(ways: &mut Ways, name: String, way: Option<Way>) -> bool {
    match way {
        Some(way) if ways.get(&name) == Some(&way) => false,
        Some(way) => {
            ways.insert(name, way);
            true
        }
        None => ways.remove(&name).is_some(),
    }
}
