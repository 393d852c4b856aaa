//! Says that ServiceCIDRs are ready, and holds those that addresses in use come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind};
use kontiki_api::error::Reason;
use kontiki_api::object::time::{Clock, Timestamp};
use serde_json::json;

use super::{Context, Loop, WORKERS};
use crate::reconcile::{Delta, Informer, Key, Next, Reconcile};

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// For how long a range that is going may still be given addresses from, by masters that did not hear of it.
const GRACE_S: i64 = 10;

struct Controller {
    client: Client,
    clock: Clock,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

pub fn start(context: &Context) -> Vec<Loop> {
    let queue = context.queue(NAME);
    let ranges = context.informers.of::<ServiceCIDR>();
    let addresses = context.informers.of::<IPAddress>();
    // What one range covers decides whether another may go.
    ranges.on({
        let (queue, ranges) = (queue.clone(), ranges.clone());
        move |delta| {
            queue.add(Key::of(&delta.object().metadata));
            for range in ranges.list() {
                if range.metadata.deletion_timestamp.is_some() {
                    queue.add(Key::of(&range.metadata));
                }
            }
        }
    });
    addresses.on({
        let (queue, ranges) = (queue.clone(), ranges.clone());
        move |delta| {
            if matches!(delta, Delta::Deleted(_)) {
                let going = ranges.list().into_iter();
                going
                    .filter(|range| range.metadata.deletion_timestamp.is_some())
                    .for_each(|range| queue.add(Key::of(&range.metadata)));
            }
        }
    });
    let client = context.client(NAME);
    let controller = Controller { client, clock: context.clock.clone(), ranges, addresses };
    vec![Loop::new(controller, queue, WORKERS)]
}

impl Reconcile for Controller {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(range) = self.ranges.get(key) else { return Ok(Next::WhenChanged) };
        match self.settle(&range).await {
            Err(status) if status.is(Reason::NotFound) => Ok(Next::WhenChanged),
            result => result,
        }
    }
}

impl Controller {
    async fn settle(&self, range: &ServiceCIDR) -> Result<Next, Status> {
        let now = self.clock.now();
        let holds = |range: &ServiceCIDR| {
            range.metadata.finalizers.iter().flatten().any(|it| it == FINALIZER)
        };
        let Some(since) = &range.metadata.deletion_timestamp else {
            if !holds(range) {
                let mut finalizers = range.metadata.finalizers.clone().unwrap_or_default();
                finalizers.push(FINALIZER.into());
                self.set_finalizers(range, &finalizers).await?;
                return Ok(Next::WhenChanged);
            }
            let ready = ("True", "", "Kubernetes Service CIDR is ready");
            self.say(range, ready, now).await?;
            return Ok(Next::WhenChanged);
        };
        if !holds(range) {
            return Ok(Next::WhenChanged);
        }
        let names = self.addresses.list();
        let addresses: Vec<IpAddr> =
            names.iter().filter_map(|it| it.metadata.name.as_deref()?.parse().ok()).collect();
        if !may_go(range, &self.ranges.list(), &addresses) {
            let text = "There are still IPAddresses referencing the ServiceCIDR, please remove \
                        them or create a new ServiceCIDR";
            self.say(range, ("False", "Terminating", text), now).await?;
            return Ok(Next::WhenChanged);
        }
        let left_us = Timestamp::from(since.0).plus_seconds(GRACE_S).micros_since(now);
        if left_us > 0 {
            let left = u64::try_from(left_us).unwrap_or(0);
            return Ok(Next::After(std::time::Duration::from_micros(left)));
        }
        let mut finalizers = range.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|it| it != FINALIZER);
        self.set_finalizers(range, &finalizers).await?;
        Ok(Next::WhenChanged)
    }

    async fn set_finalizers(
        &self,
        range: &ServiceCIDR,
        finalizers: &[String],
    ) -> Result<(), Status> {
        let patch = json!({"metadata": {"uid": range.metadata.uid,
            "resourceVersion": range.metadata.resource_version, "finalizers": finalizers}});
        let name = range.metadata.name.as_deref().unwrap_or_default();
        let patched = self.client.patch::<ServiceCIDR>("", name, PatchKind::Merge, &patch, None);
        patched.await.map(drop)
    }

    async fn say(
        &self,
        range: &ServiceCIDR,
        (state, reason, message): (&str, &str, &str),
        now: Timestamp,
    ) -> Result<(), Status> {
        let mut said = range.clone();
        let conditions = said.status.get_or_insert_default().conditions.get_or_insert_default();
        let before = conditions.iter().find(|it| it.type_ == "Ready").cloned();
        if before.as_ref().is_some_and(|it| it.status == state && it.reason == reason) {
            return Ok(());
        }
        conditions.retain(|it| it.type_ != "Ready");
        let since = before.filter(|it| it.status == state).map(|it| it.last_transition_time);
        conditions.push(Condition {
            type_: "Ready".into(),
            status: state.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: since.unwrap_or_else(|| Time(now.moment())),
            observed_generation: None,
        });
        self.client.update_status(&said).await.map(drop)
    }
}

fn networks(range: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = range.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    cidrs.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether every address of the range is in another one that stays. Pure.
fn may_go(range: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &[IpAddr]) -> bool {
    let others: Vec<_> = all
        .iter()
        .filter(|it| it.metadata.name != range.metadata.name)
        .filter(|it| it.metadata.deletion_timestamp.is_none())
        .flat_map(|it| networks(it))
        .collect();
    networks(range).iter().all(|network| {
        let mut inside = addresses.iter().filter(|it| network.contains(*it));
        inside.all(|address| others.iter().any(|other| other.contains(address)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_when_no_address_needs_it() {
        let range = |name: &str, cidr: &str| {
            let value = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
            Arc::new(serde_json::from_value::<ServiceCIDR>(value).unwrap())
        };
        let small = range("small", "10.43.1.0/24");
        let all = [small.clone(), range("other", "10.44.0.0/16")];
        let at = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert!(may_go(&small, &all, &[]));
        assert!(!may_go(&small, &all, &at("10.43.1.5")));
        assert!(may_go(&small, &all, &at("10.44.0.5")));
        let covered = [small.clone(), range("wide", "10.43.0.0/16")];
        assert!(may_go(&small, &covered, &at("10.43.1.5")));
    }
}
