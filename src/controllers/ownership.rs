//! Which objects belong to which controller object: adopting what matches, letting go of what no longer does.
//!
//! Keeps: an object has one controller at most; nothing is adopted by an owner that is being deleted, as a
//! fresh read (not a cache) says. The rules are upstream's `ControllerRefManager`.

use std::sync::Arc;

use k8s_openapi::ListableResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kontiki_api::Status;
use kontiki_api::client::{Client, PatchKind, Typed};
use kontiki_api::error::Reason;
use serde_json::json;

use crate::reconcile::{Delta, Informer, Key, Queue, labels};

/// The owner that controls an object, if one does.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The reference by which `owner` controls an object.
#[must_use]
pub fn reference_to<K: Typed>(owner: &K) -> OwnerReference {
    let metadata = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What is to be done with an object that an owner comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Keep,
    Adopt,
    Release,
    /// Not ours, and not to be.
    Leave,
}

/// Decides on one object. Pure.
#[must_use]
pub fn claim(owner: &ObjectMeta, object: &ObjectMeta, selected: bool) -> Claim {
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Leave,
        Some(_) if selected => Claim::Keep,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Leave,
        Some(_) => Claim::Release,
        None if !selected
            || owner.deletion_timestamp.is_some()
            || object.deletion_timestamp.is_some() =>
        {
            Claim::Leave
        }
        None => Claim::Adopt,
    }
}

/// Goes through `candidates` and answers with those that `owner` controls now, in their order.
pub async fn claim_all<O, K>(
    client: &Client,
    owner: &O,
    candidates: Vec<Arc<K>>,
    selected: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, Status>
where
    O: Typed + ListableResource,
    K: Typed + ListableResource,
{
    let mut may_adopt = None;
    let mut ours = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match claim(owner.metadata(), candidate.metadata(), selected(&candidate)) {
            Claim::Keep => ours.push(candidate),
            Claim::Leave => {}
            Claim::Release => release(client, owner, candidate.as_ref()).await?,
            Claim::Adopt => {
                if may_adopt.is_none() {
                    may_adopt = Some(is_still_there(client, owner).await?);
                }
                if may_adopt == Some(true)
                    && let Some(adopted) = adopt(client, owner, candidate.as_ref()).await?
                {
                    ours.push(Arc::new(adopted));
                }
            }
        }
    }
    Ok(ours)
}

/// Whether the owner is the one we know and is not going, as the API says now.
async fn is_still_there<O: Typed + ListableResource>(
    client: &Client,
    owner: &O,
) -> Result<bool, Status> {
    let metadata = owner.metadata();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    match client.get::<O>(namespace, metadata.name.as_deref().unwrap_or_default()).await {
        Ok(now) => {
            let now = now.metadata();
            Ok(now.uid == metadata.uid && now.deletion_timestamp.is_none())
        }
        Err(status) if status.is(Reason::NotFound) => Ok(false),
        Err(status) => Err(status),
    }
}

async fn adopt<O: Typed, K: Typed + ListableResource>(
    client: &Client,
    owner: &O,
    object: &K,
) -> Result<Option<K>, Status> {
    let metadata = object.metadata();
    // The uid makes the patch fail for another object of the same name.
    let patch = json!({"metadata": {
        "uid": metadata.uid, "ownerReferences": [reference_to(owner)]}});
    patch_owner(client, object, &patch).await
}

async fn release<O: Typed, K: Typed + ListableResource>(
    client: &Client,
    owner: &O,
    object: &K,
) -> Result<(), Status> {
    let patch = json!({"metadata": {
        "uid": object.metadata().uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner.metadata().uid}]}});
    patch_owner(client, object, &patch).await.map(drop)
}

/// `None` when the object is gone, or is another by now.
async fn patch_owner<K: Typed + ListableResource>(
    client: &Client,
    object: &K,
    patch: &serde_json::Value,
) -> Result<Option<K>, Status> {
    let metadata = object.metadata();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    match client.patch::<K>(namespace, name, PatchKind::Strategic, patch, None).await {
        Ok(patched) => Ok(Some(patched)),
        Err(status) if status.is(Reason::NotFound) || status.is(Reason::Invalid) => Ok(None),
        Err(status) => Err(status),
    }
}

/// The index by which an informer finds the objects of a controller.
pub const BY_CONTROLLER: &str = "controller";

/// The index by which an informer finds the objects of a namespace that nobody controls.
pub const ORPHANS: &str = "orphans";

/// Lets `informer` be asked for the objects that an owner's uid controls, and for those nobody controls.
pub fn index_by_controller<K: Typed + ListableResource>(informer: &Informer<K>) {
    informer.index(BY_CONTROLLER, |object: &K| {
        controller_of(object.metadata()).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    informer.index(ORPHANS, |object: &K| match controller_of(object.metadata()) {
        None => object.metadata().namespace.clone().into_iter().collect(),
        Some(_) => Vec::new(),
    });
}

/// Everything that `owner` might have a say in: what it controls, and what nobody does.
#[must_use]
pub fn candidates<K: Typed + ListableResource>(
    informer: &Informer<K>,
    owner: &ObjectMeta,
) -> Vec<Arc<K>> {
    let mut found = informer.by_index(BY_CONTROLLER, owner.uid.as_deref().unwrap_or_default());
    found.extend(informer.by_index(ORPHANS, owner.namespace.as_deref().unwrap_or_default()));
    found
}

/// Whom a change of an object concerns: its controller, the one it had before, or for an orphan all that
/// select it.
pub fn enqueue_owner<O, K>(
    delta: &Delta<'_, K>,
    owners: &Informer<O>,
    queue: &Queue<Key>,
    selector: impl Fn(&O) -> LabelSelector,
) where
    O: Typed + ListableResource,
    K: Typed + ListableResource,
{
    let of = |metadata: &ObjectMeta| {
        let owner = controller_of(metadata)
            .filter(|owner| owner.kind == O::KIND && owner.api_version == O::API_VERSION)?;
        Some(Key::new(metadata.namespace.as_deref().unwrap_or_default(), &owner.name))
    };
    if let Delta::Updated { old, new } = delta
        && controller_of(old.metadata()) != controller_of(new.metadata())
        && let Some(before) = of(old.metadata())
    {
        queue.add(before);
    }
    let metadata = delta.object().metadata();
    if let Some(owner) = of(metadata) {
        queue.add(owner);
    } else if controller_of(metadata).is_none() && !matches!(delta, Delta::Deleted(_)) {
        for owner in owners.in_namespace(metadata.namespace.as_deref().unwrap_or_default()) {
            if labels::selects(&selector(&owner), metadata) {
                queue.add(Key::of(owner.metadata()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kontiki_api::object::time::Timestamp;

    use super::*;

    fn owner(uid: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() }
    }

    fn going(mut metadata: ObjectMeta) -> ObjectMeta {
        metadata.deletion_timestamp = Some(Time(Timestamp::default().moment()));
        metadata
    }

    fn controlled(uid: &str) -> ObjectMeta {
        let reference =
            OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() };
        ObjectMeta { owner_references: Some(vec![reference]), ..ObjectMeta::default() }
    }

    #[test]
    fn what_matches_is_adopted_and_what_no_longer_does_is_let_go() {
        let orphan = ObjectMeta::default();
        assert_eq!(claim(&owner("a"), &orphan, true), Claim::Adopt);
        assert_eq!(claim(&owner("a"), &orphan, false), Claim::Leave);
        assert_eq!(claim(&owner("a"), &controlled("a"), true), Claim::Keep);
        assert_eq!(claim(&owner("a"), &controlled("a"), false), Claim::Release);
        assert_eq!(claim(&owner("a"), &controlled("b"), true), Claim::Leave);
    }

    #[test]
    fn an_owner_that_is_going_adopts_nothing_and_what_is_going_is_not_adopted() {
        let orphan = ObjectMeta::default();
        assert_eq!(claim(&going(owner("a")), &orphan, true), Claim::Leave);
        assert_eq!(claim(&owner("a"), &going(orphan), true), Claim::Leave);
        assert_eq!(claim(&going(owner("a")), &controlled("a"), false), Claim::Leave);
    }
}
