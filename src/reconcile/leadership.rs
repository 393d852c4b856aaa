//! Who runs the loops: where Raft leads in a master, or whoever holds a Lease among processes of their own.
//!
//! Keeps: what runs is told to stop before another may begin, as far as clocks allow. Loops stay right
//! where they do not: every write says which revision it saw.
//! The Lease protocol is client-go's leader election: holders renew, others wait until a lease they watched
//! has not changed for its duration by their own clock.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kontiki_api::Status;
use kontiki_api::client::Client;
use kontiki_api::error::Reason;
use kontiki_api::object::time::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upstream's defaults (`--leader-elect-*`).
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How a process comes to lead.
pub enum Leadership {
    /// While the value is true: the master's Raft role.
    Follow(watch::Receiver<bool>),
    Lease(Elector),
}

impl Leadership {
    /// Runs `body` whenever this process leads, until `stop`. The token that `body` gets ends with the
    /// leadership; `body` has to return then, and is waited for.
    pub async fn run<F: Future<Output = ()>>(
        self,
        stop: CancellationToken,
        body: impl Fn(CancellationToken) -> F,
    ) {
        match self {
            Leadership::Follow(leads) => follow(leads, &stop, body).await,
            Leadership::Lease(elector) => elector.run(&stop, body).await,
        }
    }
}

async fn follow<F: Future<Output = ()>>(
    mut leads: watch::Receiver<bool>,
    stop: &CancellationToken,
    body: impl Fn(CancellationToken) -> F,
) {
    loop {
        tokio::select! {
            begun = leads.wait_for(|leads| *leads) => if begun.is_err() { return },
            () = stop.cancelled() => return,
        }
        let term = stop.child_token();
        let running = body(term.clone());
        tokio::pin!(running);
        tokio::select! {
            () = &mut running => {}
            _ = leads.wait_for(|leads| !*leads) => {}
            () = stop.cancelled() => {}
        }
        term.cancel();
        running.await;
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Competes for a Lease in `kube-system`.
pub struct Elector {
    pub client: Client,
    /// Of the Lease: `kontiki-controllers`.
    pub name: String,
    /// Of this process: host and a random part.
    pub identity: String,
    pub clock: Clock,
}

/// A lease as another holds it, and when by our clock it was last seen to change.
struct Observed {
    version: Option<String>,
    at: Instant,
}

impl Elector {
    async fn run<F: Future<Output = ()>>(
        self,
        stop: &CancellationToken,
        body: impl Fn(CancellationToken) -> F,
    ) {
        let mut observed = Observed { version: None, at: Instant::now() };
        loop {
            tokio::select! {
                () = self.acquire(&mut observed) => {}
                () = stop.cancelled() => return,
            }
            tracing::info!(lease = self.name, identity = self.identity, "leading");
            let term = stop.child_token();
            let running = body(term.clone());
            tokio::pin!(running);
            tokio::select! {
                () = &mut running => {}
                () = self.renew(&mut observed) =>
                    tracing::warn!(lease = self.name, "lost the lease"),
                () = stop.cancelled() => {}
            }
            term.cancel();
            running.await;
            if stop.is_cancelled() {
                self.release().await;
                return;
            }
        }
    }

    /// Returns when the lease is ours.
    async fn acquire(&self, observed: &mut Observed) {
        let mut said = String::new();
        loop {
            match self.attempt(observed).await {
                Ok(true) => return,
                Ok(false) => said.clear(),
                // Another was quicker.
                Err(status) if status.is(Reason::Conflict) || status.is(Reason::AlreadyExists) => {}
                Err(status) => {
                    // Told once, and not every two seconds.
                    if said != status.message() {
                        tracing::warn!(lease = self.name, %status, "cannot ask for the lease");
                        said = status.message().to_owned();
                    }
                }
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Returns when the lease is lost, or could not be renewed in time.
    async fn renew(&self, observed: &mut Observed) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt(observed)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(status)) => {
                    tracing::warn!(lease = self.name, %status, "the lease was not renewed");
                }
            }
        }
    }

    /// Takes or renews the lease if that is allowed now; tells whether it is ours.
    async fn attempt(&self, observed: &mut Observed) -> Result<bool, Status> {
        let found = match self.client.get::<Lease>("kube-system", &self.name).await {
            Ok(lease) => lease,
            Err(status) if status.is(Reason::NotFound) => {
                let fresh = self.claim(Lease::default());
                self.client.create(&fresh).await?;
                return Ok(true);
            }
            Err(status) => return Err(status),
        };
        if observed.version != found.metadata.resource_version {
            observed.version.clone_from(&found.metadata.resource_version);
            observed.at = Instant::now();
        }
        let spec = found.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let theirs = !holder.is_empty() && holder != self.identity;
        if theirs && observed.at.elapsed() < duration {
            return Ok(false);
        }
        let lease = self.client.update(&self.claim(found)).await?;
        observed.version = lease.metadata.resource_version;
        observed.at = Instant::now();
        Ok(true)
    }

    /// The lease with us as its holder, from now on.
    fn claim(&self, found: Lease) -> Lease {
        let now = MicroTime(self.clock.now().moment());
        let before = found.spec.unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.lease_transitions.unwrap_or(0);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some("kube-system".into()),
                ..found.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
                renew_time: Some(now),
                lease_transitions: Some(if ours || before.holder_identity.is_none() {
                    transitions
                } else {
                    transitions + 1
                }),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets the next one have the lease at once.
    async fn release(&self) {
        let give_up = async {
            let mut lease = self.client.get::<Lease>("kube-system", &self.name).await?;
            let ours = |spec: &LeaseSpec| spec.holder_identity.as_deref() == Some(&self.identity);
            if let Some(spec) = lease.spec.as_mut().filter(|spec| ours(spec)) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.client.update(&lease).await?;
            }
            Ok::<(), Status>(())
        };
        if let Ok(Err(status)) = tokio::time::timeout(RETRY_PERIOD, give_up).await {
            tracing::debug!(lease = self.name, %status, "the lease was not given up");
        }
    }
}
