//! The tunnels that a master orders on the node's session.
//!
//! Each is a stream of its own: a shell ([`streams`]), a log ([`logs`]), a port of a pod, the agent's pages
//! ([`pages`]). `docs/node-protocol.md` tells the whole.
//!
//! Keeps: tunnels end with their session; containers do not notice.
//! Never: opens a tunnel that was not ordered.

mod carry;
mod logs;
mod pages;
mod streams;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use kontiki_api::Status;
use kontiki_api::error::Reason;
use kontiki_api::node::Channel;
use kontiki_api::object::time::Clock;
use kontiki_api::tunnel::wire::node_client::NodeClient;
use kontiki_api::tunnel::wire::want::Kind;
use kontiki_api::tunnel::{Duplex, Tunnel, wire};
use prometheus_client::registry::Registry;

use super::cri::Runtime;
use super::cri::v1::ContainerState;
use super::pods::observed::{self, Observed, Seen};
use super::stats::Stats;
use crate::session::Orders;

/// What tunnels lead to. Cheap to clone.
#[derive(Clone)]
pub struct Ends {
    pub node: String,
    pub runtime: Arc<dyn Runtime>,
    pub clock: Clock,
    /// Logs of pods.
    pub logs: PathBuf,
    pub metrics: Arc<Registry>,
    /// What the node and its pods take.
    pub stats: Arc<Stats>,
}

impl Orders for Ends {
    fn carry(&self, client: NodeClient<Channel>, order: wire::Open) -> BoxFuture<'static, ()> {
        Box::pin(carry::order(client, order, self.clone()))
    }
}

impl Ends {
    /// Opens what is wanted.
    async fn open(&self, want: wire::Want) -> Result<Tunnel, Status> {
        match want.kind {
            Some(Kind::Exec(exec)) => streams::exec(self, exec).await,
            Some(Kind::Attach(attach)) => streams::attach(self, attach).await,
            Some(Kind::PortForward(forward)) => streams::port_forward(self, forward).await,
            Some(Kind::Logs(logs)) => plain(logs::open(self, logs).await?),
            Some(Kind::Dial(dial)) => plain(streams::dial(self, dial).await?),
            Some(Kind::Kubelet(_)) => plain(pages::open(self.clone())),
            None => {
                let why = "this agent does not know what is wanted of it; it may be older than \
                           the master";
                Err(Status::new(Reason::BadRequest, why))
            }
        }
    }

    /// The pod as the runtime shows it.
    async fn pod(&self, pod: Option<&wire::Pod>) -> Result<Observed, Status> {
        let uid = pod.map(|it| it.uid.as_str()).unwrap_or_default();
        if uid.is_empty() {
            return Err(Status::bad_request("no pod is named"));
        }
        let mut ended = HashMap::new();
        let seen = observed::observe(&*self.runtime, uid, &mut ended);
        seen.await.map_err(|error| Status::internal(error.to_string()))
    }

    /// The container of that name that runs now.
    async fn running(&self, pod: Option<&wire::Pod>, name: &str) -> Result<Seen, Status> {
        let observed = self.pod(pod).await?;
        match observed.newest(name) {
            Some(seen) if seen.state() == ContainerState::ContainerRunning => Ok(seen.clone()),
            Some(_) => {
                let why = format!("container {name} is not running");
                Err(Status::internal(format!("unable to upgrade connection: {why}")))
            }
            None => {
                let why = format!("container not found (\"{name}\")");
                Err(Status::internal(format!("unable to upgrade connection: {why}")))
            }
        }
    }
}

fn plain(bytes: Box<dyn Duplex>) -> Result<Tunnel, Status> {
    Ok(Tunnel { protocol: String::new(), bytes })
}
