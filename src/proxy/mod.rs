//! The service proxy: packets to a service's address reach one of its endpoints, by rules in the kernel.
//!
//! ```text
//! Services, EndpointSlices, this Node ─► rules (pure) ─► step from what is there (pure) ─► nft -f -
//! ```
//!
//! The node's role calls [`kernel::prepare`] once and runs [`run`] beside the informers that it was given.
//! Rules stay when it ends: pods go on being reached without an agent. [`remove`] takes them away.
//!
//! Keeps: every change is one transaction of one table, [`ruleset::TABLE`], and nothing else is touched.
//! Between two transactions there is a pause by what the last one took; what changes meanwhile goes into the
//! next. A client that is bound to an endpoint stays with it over changes and over restarts of the agent.
//! Once a pod that ends is no longer led to, the agent hears of it ([`Served`]): only then is it stopped.
//! Never: applies a view that is not whole; opens a port, but for health checks that a service asks for.

pub mod endpoints;
pub mod family;
pub mod flows;
pub mod health;
pub mod kernel;
pub mod metrics;
pub mod nft;
pub mod place;
pub mod rules;
pub mod ruleset;
pub mod services;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_api::client::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::kept::Kept;
use crate::reconcile::{Informer, Informers};
use flows::Udp;
pub use metrics::Metrics;
use nft::Nft;
pub use place::Place;
use rules::{Rules, rules};
use ruleset::{Before, Ruleset, Step};

/// Bounds of the pause between two transactions: a pod that goes is led to until the next one, and a table of
/// thousands of services must not keep a processor busy.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// So many times what the last transaction took is the pause after it.
const PAUSE_TIMES: u32 = 4;
/// The first wait after a transaction that failed, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether the table is still there.
const LOOK: Duration = Duration::from_secs(30);
/// How long an emptied chain is left: kernels before 6.2 still believe in what led to it.
const SWEEP_AFTER: Duration = Duration::from_secs(2);

/// Whether the kernel shows us packets between pods on one bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridged {
    Seen,
    /// They are masqueraded where a service is between them, so that answers come by here.
    Unseen,
}

/// What becomes of the source of packets with which pods leave the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The node's address, so that answers find back.
    Masqueraded,
    /// Somebody else sees to it: the pods' network, or routers that know them.
    AsIs,
}

/// Addresses of this node's pods that services lead to, by the rules that are in place: ready, and not about
/// to end.
pub type Served = BTreeSet<IpAddr>;

/// What the proxy is told, all of it decided.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    /// Where pods' addresses come from; what comes from elsewhere is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where services' addresses come from; those that nobody has are not let out.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of services that this node answers itself, as the cluster's DNS.
    pub own: Vec<IpAddr>,
    /// What [`kernel::prepare`] has said.
    pub bridged: Bridged,
    pub leaving: Leaving,
    pub nft: Nft,
    pub metrics: Metrics,
    /// Where what the node's object said last is kept.
    pub kept: Option<Kept>,
}

/// Keeps the rules as the cluster's services are, until `stop`. `informers` are run by the caller.
pub async fn run(
    settings: Settings,
    client: Client,
    informers: Informers,
    served: watch::Sender<Served>,
    stop: CancellationToken,
) -> Result<(), String> {
    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    services.on(move |_| notify.notify_one());
    let notify = changed.clone();
    slices.on(move |_| notify.notify_one());
    let place = Place {
        node: settings.node.clone(),
        addresses: settings.addresses.clone(),
        ..Place::default()
    };
    let (place, placed) = watch::channel(place);
    let (health, answers) = watch::channel(health::All::new());
    let table = Table::new(settings.nft.clone());
    let kept = settings.kept.clone();
    let keeper = Keeper { settings, services, slices, changed, placed, health, served, table };
    tokio::join!(
        keeper.run(stop.clone()),
        place::follow(&place, &client, kept.as_ref(), stop.clone()),
        health::run(answers, stop),
    );
    Ok(())
}

/// Takes our table away. Services are not reached from this node any more.
pub async fn remove(nft: &Nft) -> Result<(), String> {
    nft.apply(ruleset::removal()).await
}

struct Keeper {
    settings: Settings,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    changed: Arc<Notify>,
    placed: watch::Receiver<Place>,
    health: watch::Sender<health::All>,
    served: watch::Sender<Served>,
    table: Table,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let whole = async { tokio::join!(self.services.synced(), self.slices.synced()) };
        tokio::select! {
            _ = whole => {}
            () = stop.cancelled() => return,
        }
        let mut retry = RETRY_FIRST;
        // The place may be told later; its end is the end of all.
        while !stop.is_cancelled() {
            let began = Instant::now();
            let pause = match self.apply().await {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    (began.elapsed() * PAUSE_TIMES).clamp(PAUSE_MIN, PAUSE_MAX)
                }
                Err(error) => {
                    self.settings.metrics.failed();
                    let wait_s = retry.as_secs_f32();
                    tracing::error!(error, wait_s, "the rules for services are not in place");
                    let longer = (retry * 2).min(RETRY_MAX);
                    std::mem::replace(&mut retry, longer)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            if retry > RETRY_FIRST {
                continue;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                Ok(()) = self.placed.changed() => {}
                () = self.table.looked() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn apply(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let place = self.placed.borrow_and_update().clone();
        let services = self.services.list();
        let rules = rules(&services, &self.slices.list(), &place, &self.settings);
        let chains = rules.ruleset.chains.len();
        let (health, served) = (rules.health.clone(), rules.served.clone());
        self.table.apply(rules).await?;
        self.settings.metrics.synced(began.elapsed(), services.len(), chains);
        tell(&self.health, health);
        tell(&self.served, served);
        Ok(())
    }
}

/// Wakes nobody for what was told already.
fn tell<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|told| {
        let differs = *told != value;
        *told = value;
        differs
    });
}

/// Our table in the kernel, as far as it is known.
pub struct Table {
    nft: Nft,
    known: Option<Ruleset>,
    udp: Udp,
    /// Chains that are empty, to be removed from then on.
    emptied: BTreeSet<String>,
    sweep_at: Option<Instant>,
    look_at: Instant,
    forgets: bool,
}

impl Table {
    #[must_use]
    pub fn new(nft: Nft) -> Table {
        Table {
            nft,
            known: None,
            udp: Udp::new(),
            emptied: BTreeSet::new(),
            sweep_at: None,
            look_at: Instant::now() + LOOK,
            forgets: true,
        }
    }

    /// Makes the table as `rules` say. After a failure nothing is taken for known.
    pub async fn apply(&mut self, rules: Rules) -> Result<(), String> {
        let known = self.known.take();
        let step = match &known {
            Some(known) => ruleset::step(Before::Known(known), &rules.ruleset),
            None => self.first_step(&rules.ruleset).await?,
        };
        if !step.text.is_empty()
            && let Err(error) = self.nft.apply(step.text).await
        {
            tracing::warn!(error, "a change of the rules was refused; the table is made anew");
            let anew = ruleset::step(Before::Nothing, &rules.ruleset);
            self.nft.apply(anew.text).await?;
            self.emptied.clear();
        }
        self.emptied.retain(|it| !rules.ruleset.chains.contains_key(it));
        if !step.emptied.is_empty() {
            self.emptied.extend(step.emptied);
            self.sweep_at = Some(Instant::now() + SWEEP_AFTER);
        }
        self.known = Some(rules.ruleset);
        let stale = flows::stale(&self.udp, &rules.udp);
        self.udp = rules.udp;
        self.forget(stale).await;
        Ok(())
    }

    /// From what an agent before us has left, if it can be seen what that is.
    async fn first_step(&self, after: &Ruleset) -> Result<Step, String> {
        let names = self.nft.names().await?;
        let before = names.as_ref().map_or(Before::Nothing, Before::Names);
        Ok(ruleset::step(before, after))
    }

    async fn forget(&mut self, stale: Vec<Vec<String>>) {
        for words in &stale {
            if !self.forgets {
                return;
            }
            if let Err(error) = self.nft.forget(words).await {
                tracing::warn!(error, "UDP clients may go on to endpoints that are gone");
                self.forgets = false;
            }
        }
    }

    /// Removes what was emptied when its time has come, and ends when somebody has taken the table away.
    async fn looked(&mut self) {
        loop {
            sleep_until(self.sweep_at.map_or(self.look_at, |at| at.min(self.look_at))).await;
            if self.sweep_at.is_some_and(|at| at <= Instant::now()) {
                self.sweep().await;
                continue;
            }
            self.look_at = Instant::now() + LOOK;
            if !self.nft.is_there().await {
                tracing::warn!("somebody has taken our table away; it is made anew");
                self.known = None;
                return;
            }
        }
    }

    /// May be cut short at any point.
    async fn sweep(&mut self) {
        let swept = match self.emptied.is_empty() {
            true => Ok(()),
            false => self.nft.apply(ruleset::sweep(&self.emptied)).await,
        };
        self.sweep_at = None;
        match swept {
            Ok(()) => self.emptied.clear(),
            Err(error) => {
                // Nothing leads there, so that the table is right as it is; but one of them may be gone.
                tracing::debug!(error, "empty chains stay for now");
                let there = self.nft.names().await.ok().flatten().unwrap_or_default();
                self.emptied.retain(|name| there.chains.contains(name));
                self.sweep_at = Some(Instant::now() + LOOK);
            }
        }
    }
}
