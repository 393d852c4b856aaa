//! A cluster in this process: API, loops and nodes, of which the loops can be stopped and begun anew.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ListableResource;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kontiki::controllers::{self, Selection, Settings};
use kontiki::hollow;
use kontiki::reconcile::{Informers, Metrics, events};
use kontiki::scheduler;
use kontiki::session::Door;
use kontiki_api::client::{Client, Typed};
use kontiki_api::object::time::Clock;
use kontiki_api::sandbox::Sandbox;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(90);

/// The seeds of a test: `most` of them, unless the environment says otherwise.
pub fn seeds(most: u64) -> Vec<u64> {
    let said = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match said("KONTIKI_SEED") {
        Some(seed) => vec![seed],
        None => (1..=said("KONTIKI_SEEDS").unwrap_or(most)).collect(),
    }
}

pub struct Bed {
    pub client: Client,
    sandbox: Sandbox,
    stop: CancellationToken,
    nodes: Option<JoinHandle<()>>,
    term: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Bed {
    pub async fn start(nodes: usize) -> Bed {
        let sandbox = Sandbox::start().await;
        let (client, stop) = (sandbox.client(), CancellationToken::new());
        let mut bed = Bed { client, sandbox, stop, nodes: None, term: None };
        bed.lead();
        let settings = hollow::Settings { nodes, ..hollow::Settings::default() };
        let server = bed.sandbox.server.clone();
        let doors = Arc::new(move |node: &str| Door::Here(server.node_channel(node)));
        let running = hollow::run(bed.client.clone(), doors, settings, bed.stop.clone());
        bed.nodes = Some(tokio::spawn(running));
        let open = |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.taints.is_none());
        for number in 0..nodes {
            let name = format!("hollow-{number}");
            bed.until("a node", async || {
                let node = bed.client.get::<Node>("", &name).await.map_err(|it| it.to_string())?;
                if open(&node) { Ok(()) } else { Err(format!("{:?}", node.spec)) }
            })
            .await;
        }
        bed.until("an account", async || {
            let found = bed.client.get::<ServiceAccount>(NAMESPACE, "default").await;
            found.map(drop).map_err(|it| it.to_string())
        })
        .await;
        bed
    }

    fn lead(&mut self) {
        let (client, term) = (self.client.clone(), CancellationToken::new());
        let token = term.clone();
        let task = tokio::spawn(async move {
            let (clock, informers) = (Clock::System, Informers::new(client.clone()));
            let (recorder, writer) = events::recorder(client.clone(), clock.clone());
            let mut registry = Registry::default();
            let scheduler = scheduler::start(
                scheduler::Context {
                    client: client.clone(),
                    informers: informers.clone(),
                    recorder: recorder.clone(),
                    clock: clock.clone(),
                    metrics: scheduler::Metrics::new(&mut registry),
                },
                token.clone(),
            );
            let settings = Settings {
                cluster_cidr: "10.42.0.0/16".into(),
                node_prefix_length: 24,
                service_cidr: "10.43.0.0/16".into(),
                ..Settings::default()
            };
            let metrics = Metrics::new(&mut registry);
            let context =
                controllers::Context { client, informers, recorder, metrics, clock, settings };
            let selection = Selection::default();
            tokio::join!(
                writer.run(token.clone()),
                scheduler,
                controllers::run_all(context, &selection, token),
            );
        });
        self.term = Some((term, task));
    }

    /// The loops end wherever they are, and begin anew from full lists.
    pub async fn lead_anew(&mut self) {
        if let Some((term, task)) = self.term.take() {
            term.cancel();
            task.await.unwrap();
        }
        self.lead();
    }

    pub async fn stop(mut self) {
        if let Some((term, task)) = self.term.take() {
            term.cancel();
            task.await.unwrap();
        }
        self.stop.cancel();
        if let Some(nodes) = self.nodes.take() {
            nodes.await.unwrap();
        }
        self.sandbox.stop().await;
    }

    pub async fn list<K: Typed + ListableResource>(&self) -> Vec<K> {
        self.client.list(NAMESPACE, Default::default()).await.unwrap().items
    }

    /// Looks until there is an answer.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Result<T, String>) -> T {
        let mut seen = String::new();
        let waiting = async {
            loop {
                match look().await {
                    Ok(found) => return found,
                    Err(said) => seen = said,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("{what} has not come; last seen: {seen}"),
        }
    }
}
