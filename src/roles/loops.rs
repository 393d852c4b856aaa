//! The loops of a process: controllers and scheduler on one set of informers, term after term.
//!
//! The same in a master that leads and in a process of their own; only the client differs.

use kontiki_api::client::Client;
use kontiki_api::object::time::Clock;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::controllers::{self, Selection, Settings};
use crate::reconcile::{Informers, Metrics, events};
use crate::scheduler;

/// What every term begins with.
#[derive(Clone)]
pub(super) struct Loops {
    pub client: Client,
    pub settings: Settings,
    pub clock: Clock,
    pub selection: Selection,
    pub counted: Counted,
}

/// What loops count, over all terms of the process.
#[derive(Clone)]
pub(super) struct Counted {
    queues: Metrics,
    scheduler: scheduler::Metrics,
}

impl Counted {
    pub fn new(registry: &mut Registry) -> Counted {
        Counted { queues: Metrics::new(registry), scheduler: scheduler::Metrics::new(registry) }
    }
}

/// Runs until `term` ends. Everything starts from full lists, and nothing of it is left behind.
pub(super) async fn run(loops: Loops, term: CancellationToken) {
    let Loops { client, settings, clock, selection, counted } = loops;
    let informers = Informers::new(client.clone());
    let (recorder, writer) = events::recorder(client.clone(), clock.clone());
    let scheduler = scheduler::start(
        scheduler::Context {
            client: client.clone(),
            informers: informers.clone(),
            recorder: recorder.clone(),
            clock: clock.clone(),
            metrics: counted.scheduler,
        },
        term.clone(),
    );
    let metrics = counted.queues;
    let context = controllers::Context { client, informers, recorder, metrics, clock, settings };
    tokio::join!(
        writer.run(term.clone()),
        scheduler,
        controllers::run_all(context, &selection, term),
    );
}
