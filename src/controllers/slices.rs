//! Spreads endpoints over EndpointSlices with as few writes as may be: what every loop that fills slices
//! shares.
//!
//! Keeps: an endpoint that is in a slice stays in it; what is new goes where something is written anyway, then
//! where it fits, and only then into a new slice. A slice to delete and one to create become one update.
//! Deciding is pure; only [`Plan::perform`] acts.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions};
use kontiki_api::error::Reason;

use super::service_account::is_settled;
use crate::reconcile::{Key, Pending};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints that may share slices: one address family, the same ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub address_type: String,
    pub ports: Vec<EndpointPort>,
    /// None at all: one empty slice says that there is nothing.
    pub endpoints: Vec<Endpoint>,
}

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// By which ports a slice is told from another. An empty name and none are the same.
fn ports_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<_> = ports
        .iter()
        .map(|port| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let number = port.port.map_or_else(String::new, |it| it.to_string());
            let (name, protocol) = (text(&port.name), text(&port.protocol));
            format!("{name}|{protocol}|{number}|{}", text(&port.app_protocol))
        })
        .collect();
    keys.sort();
    keys.join(",")
}

/// Which endpoint it is, whatever its state.
fn endpoint_key(endpoint: &Endpoint) -> (Vec<String>, String, String) {
    let target = endpoint.target_ref.as_ref();
    let name = target.and_then(|it| it.name.clone()).unwrap_or_default();
    let uid = target.and_then(|it| it.uid.clone()).unwrap_or_default();
    (endpoint.addresses.clone(), name, uid)
}

/// Decides how `groups` lie in slices of `most` endpoints each. `dress` gives a slice the labels, annotations
/// and owner it should have, and is asked for new and for existing ones.
#[must_use]
pub fn plan(
    existing: &[Arc<EndpointSlice>],
    groups: Vec<Group>,
    most: usize,
    dress: impl Fn(&mut ObjectMeta),
) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<Arc<EndpointSlice>> = existing.to_vec();
    for group in groups {
        let key = ports_key(&group.ports);
        let (ours, others) = left.into_iter().partition(|slice| {
            slice.address_type == group.address_type
                && ports_key(slice.ports.as_deref().unwrap_or_default()) == key
        });
        left = others;
        plan_group(ours, group, most, &dress, &mut plan);
    }
    plan.delete.extend(left);
    recycle(&mut plan);
    plan
}

/// A slice that is there, as it should be.
struct Kept {
    slice: EndpointSlice,
    old: Arc<EndpointSlice>,
}

impl Kept {
    fn is_changed(&self) -> bool {
        self.slice != *self.old
    }

    fn len(&self) -> usize {
        self.slice.endpoints.as_ref().map_or(0, Vec::len)
    }

    fn extend(&mut self, more: impl Iterator<Item = Endpoint>) {
        self.slice.endpoints.get_or_insert_default().extend(more);
    }
}

fn plan_group(
    ours: Vec<Arc<EndpointSlice>>,
    group: Group,
    most: usize,
    dress: &impl Fn(&mut ObjectMeta),
    plan: &mut Plan,
) {
    let wants_nothing = group.endpoints.is_empty();
    let mut wanted: BTreeMap<_, _> =
        group.endpoints.into_iter().map(|it| (endpoint_key(&it), it)).collect();
    let mut kept = Vec::new();
    for old in ours {
        let mut slice = EndpointSlice::clone(&old);
        let there = old.endpoints.iter().flatten();
        let kept_endpoints: Vec<_> =
            there.filter_map(|it| wanted.remove(&endpoint_key(it))).collect();
        // One empty slice is enough to say that there is nothing.
        if kept_endpoints.is_empty() && !(wants_nothing && kept.is_empty()) {
            plan.delete.push(old);
            continue;
        }
        // None and an empty list are the same; what is there is left as it is.
        if kept_endpoints.as_slice() != slice.endpoints.as_deref().unwrap_or_default() {
            slice.endpoints = Some(kept_endpoints);
        }
        dress(&mut slice.metadata);
        kept.push(Kept { slice, old });
    }
    let mut wanted = wanted.into_values();
    // The fullest first, so that the others may become empty some day.
    kept.sort_by_key(|it| std::cmp::Reverse(it.len()));
    for it in kept.iter_mut().filter(|it| it.is_changed()) {
        let room = most.saturating_sub(it.len());
        it.extend(wanted.by_ref().take(room));
    }
    let rest = wanted.len();
    if rest > 0 {
        let fits = |it: &&mut Kept| it.len() + rest <= most;
        if let Some(it) = kept.iter_mut().find(fits) {
            it.extend(wanted.by_ref());
        }
    }
    plan.update.extend(kept.iter().filter(|it| it.is_changed()).map(|it| it.slice.clone()));
    let mut empty = wants_nothing && kept.is_empty();
    while empty || wanted.len() > 0 {
        empty = false;
        let mut metadata = ObjectMeta::default();
        dress(&mut metadata);
        plan.create.push(EndpointSlice {
            metadata,
            address_type: group.address_type.clone(),
            ports: Some(group.ports.clone()),
            endpoints: Some(wanted.by_ref().take(most).collect()),
        });
    }
}

/// A slice that would go becomes one that would come, where they are of one family and one owner.
fn recycle(plan: &mut Plan) {
    let mut fresh = Vec::new();
    for mut slice in std::mem::take(&mut plan.create) {
        let same = |old: &Arc<EndpointSlice>| {
            old.address_type == slice.address_type
                && old.metadata.owner_references == slice.metadata.owner_references
        };
        match plan.delete.iter().position(same) {
            Some(at) => {
                let old = plan.delete.remove(at);
                slice.metadata = ObjectMeta {
                    labels: slice.metadata.labels,
                    annotations: slice.metadata.annotations,
                    ..old.metadata.clone()
                };
                plan.update.push(slice);
            }
            None => fresh.push(slice),
        }
    }
    plan.create = fresh;
}

impl Plan {
    /// Writes it, for `owner`.
    pub async fn perform(
        self,
        client: &Client,
        owner: &Key,
        pending: &Pending,
    ) -> Result<(), Status> {
        for slice in self.create {
            match client.create(&slice).await {
                Ok(made) => pending.wrote(owner, &made),
                Err(status) if is_settled(&status) => return Ok(()),
                Err(status) => return Err(status),
            }
        }
        for slice in self.update {
            let updated = client.update(&slice).await?;
            pending.wrote(owner, &updated);
        }
        for slice in self.delete {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let options = DeleteOptions::default();
            match client.delete::<EndpointSlice>(&owner.namespace, name, &options).await {
                Ok(()) => pending.deleted(owner, slice.as_ref()),
                Err(status) if status.is(Reason::NotFound) => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }
}

/// The key of the service that a slice belongs to, if `manager` keeps the slice.
#[must_use]
pub fn service_of(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).map(String::as_str) != Some(manager) {
        return None;
    }
    Some(Key::new(slice.metadata.namespace.as_deref()?, labels.get(SERVICE_NAME)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint { addresses: vec![format!("10.0.0.{number}")], ..Endpoint::default() }
    }

    fn slice(name: &str, port: i32, numbers: std::ops::Range<usize>) -> Arc<EndpointSlice> {
        Arc::new(EndpointSlice {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            address_type: "IPv4".into(),
            ports: Some(ports(port)),
            endpoints: Some(numbers.map(endpoint).collect()),
        })
    }

    fn ports(port: i32) -> Vec<EndpointPort> {
        vec![EndpointPort { port: Some(port), ..EndpointPort::default() }]
    }

    fn group(port: i32, numbers: std::ops::Range<usize>) -> Group {
        Group {
            address_type: "IPv4".into(),
            ports: ports(port),
            endpoints: numbers.map(endpoint).collect(),
        }
    }

    fn told(existing: &[Arc<EndpointSlice>], groups: Vec<Group>) -> String {
        let plan = plan(existing, groups, 4, |_| {});
        let name = |it: &EndpointSlice| it.metadata.name.clone().unwrap_or_default();
        let each = |word: &str, it: &EndpointSlice| {
            format!("{word} {}={}", name(it), it.endpoints.as_ref().map_or(0, Vec::len))
        };
        let mut lines: Vec<_> = plan.create.iter().map(|it| each("create ", it)).collect();
        lines.extend(plan.update.iter().map(|it| each("update", it)));
        lines.extend(plan.delete.iter().map(|it| each("delete", it)));
        lines.join("; ")
    }

    #[test]
    fn endpoints_stay_where_they_are_and_new_ones_go_where_they_fit() {
        let two = [slice("a", 80, 0..3), slice("b", 80, 3..5)];
        let table = [
            (&two[..], vec![group(80, 0..5)], ""),
            (&[], vec![group(80, 0..6)], "create  =4; create  =2"),
            (&two, vec![group(80, 0..7)], "update b=4"),
            (&two, vec![group(80, 0..9)], "create  =4"),
            (&two, vec![group(80, 1..6)], "update a=3"),
            (&two, vec![group(80, 3..5)], "delete a=3"),
            (&two, vec![group(81, 0..2)], "update a=2; delete b=2"),
            (&[], vec![group(80, 0..0)], "create  =0"),
            (&two, vec![group(80, 0..0)], "update a=0; delete b=2"),
        ];
        for (existing, groups, expected) in table {
            let wanted: Vec<_> = groups.iter().map(|it| it.endpoints.len()).collect();
            assert_eq!(told(existing, groups), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_changed_label_is_an_update() {
        let existing = [slice("a", 80, 0..1)];
        let dress = |metadata: &mut ObjectMeta| {
            metadata.labels = Some([("tier".to_owned(), "web".to_owned())].into());
        };
        let changed = plan(&existing, vec![group(80, 0..1)], 4, dress);
        assert_eq!(changed.update.len(), 1);
        let settled = [Arc::new(changed.update[0].clone())];
        assert_eq!(plan(&settled, vec![group(80, 0..1)], 4, dress), Plan::default());
    }
}
