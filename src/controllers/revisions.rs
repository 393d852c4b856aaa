//! The history of a DaemonSet's or StatefulSet's template, kept as ControllerRevisions.
//!
//! Keeps: of two revisions the one with the larger number is the later; going back to an old template gives
//! the revision that has it the newest number. What `kubectl rollout undo` patches back in is a revision's
//! data.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions};
use kontiki_api::error::Reason;
use serde_json::{Value, json};

use super::template;

/// On pods: which revision they are of.
pub const POD_LABEL: &str = "controller-revision-hash";

/// Whose history it is.
pub struct Owner<'a> {
    pub metadata: &'a ObjectMeta,
    pub reference: OwnerReference,
    pub template: &'a PodTemplateSpec,
    pub collisions: Option<i32>,
    /// The label of a revision that bears its hash.
    pub hash_label: &'static str,
}

/// What has to be done for the history to be right.
#[derive(Debug)]
pub enum Step {
    Nothing(Arc<ControllerRevision>),
    Renumber(Box<ControllerRevision>),
    Create(Box<ControllerRevision>),
}

/// The patch that brings the template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = template::canonical(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// Finds the revision of the template as it is now, or says what is to be made. Pure.
#[must_use]
pub fn decide(owner: &Owner<'_>, known: &[Arc<ControllerRevision>]) -> Step {
    let data = data(owner.template);
    let (same, others): (Vec<_>, Vec<_>) = known.iter().partition(|it| is_same(it, &data));
    let next = others.iter().map(|it| number(it)).max().unwrap_or(0) + 1;
    match same.into_iter().max_by_key(|it| number(it)) {
        Some(found) if number(found) >= next => Step::Nothing(found.clone()),
        Some(found) => {
            let renumbered = ControllerRevision { revision: Some(next), ..found.as_ref().clone() };
            Step::Renumber(Box::new(renumbered))
        }
        None => Step::Create(Box::new(new(owner, data, next))),
    }
}

fn is_same(revision: &ControllerRevision, data: &Value) -> bool {
    revision.data.0 == *data || template::canonical(&revision.data.0) == *data
}

fn new(owner: &Owner<'_>, data: Value, revision: i64) -> ControllerRevision {
    let hash = template::hash(owner.template, owner.collisions);
    let mut name = owner.metadata.name.clone().unwrap_or_default();
    // A pod's label has to hold the name of a StatefulSet's revision.
    name.truncate(63 - 1 - hash.len());
    let labels = owner.template.metadata.as_ref().and_then(|it| it.labels.clone());
    let mut labels: BTreeMap<_, _> = labels.unwrap_or_default();
    labels.insert(owner.hash_label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: owner.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: owner.metadata.annotations.clone(),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(revision),
    }
}

/// The revision of the template as it is now, made or renumbered if need be. `None` says that another
/// object has its name: the owner's collision count has to grow.
pub async fn current(
    client: &Client,
    owner: &Owner<'_>,
    known: &[Arc<ControllerRevision>],
) -> Result<Option<Arc<ControllerRevision>>, Status> {
    match decide(owner, known) {
        Step::Nothing(found) => Ok(Some(found)),
        Step::Renumber(revision) => Ok(Some(Arc::new(client.update(revision.as_ref()).await?))),
        Step::Create(revision) => match client.create(revision.as_ref()).await {
            Ok(made) => Ok(Some(Arc::new(made))),
            Err(status) if status.is(Reason::AlreadyExists) => {
                let namespace = owner.metadata.namespace.as_deref().unwrap_or_default();
                let there: ControllerRevision = client.get(namespace, name(&revision)).await?;
                Ok(is_same(&there, &revision.data.0).then(|| Arc::new(there)))
            }
            Err(status) => Err(status),
        },
    }
}

/// The revisions that are forgotten: the oldest beyond `limit`, of those that nothing is made from. Pure.
#[must_use]
pub fn forgotten(
    known: &[Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let mut dead: Vec<_> = known.iter().filter(|it| !live.contains(name(it))).cloned().collect();
    dead.sort_by_key(|it| number(it));
    dead.truncate(dead.len().saturating_sub(limit));
    dead
}

pub async fn forget(
    client: &Client,
    forgotten: Vec<Arc<ControllerRevision>>,
) -> Result<(), Status> {
    for revision in forgotten {
        let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
        let options = DeleteOptions::default();
        match client.delete::<ControllerRevision>(namespace, name(&revision), &options).await {
            Err(status) if !status.is(Reason::NotFound) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// What the template was at a revision.
#[must_use]
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn step(image: &str, known: &[Arc<ControllerRevision>]) -> Step {
        let metadata = ObjectMeta { name: Some("db".into()), ..ObjectMeta::default() };
        let owner = Owner {
            metadata: &metadata,
            reference: OwnerReference::default(),
            template: &template(image),
            collisions: None,
            hash_label: POD_LABEL,
        };
        decide(&owner, known)
    }

    fn made(image: &str, known: &[Arc<ControllerRevision>]) -> Arc<ControllerRevision> {
        match step(image, known) {
            Step::Create(revision) => Arc::new(*revision),
            other => panic!("expected a new revision, not {other:?}"),
        }
    }

    #[test]
    fn each_template_has_one_revision_and_going_back_makes_it_the_newest() {
        let one = made("v1", &[]);
        assert_eq!(number(&one), 1);
        assert!(matches!(step("v1", std::slice::from_ref(&one)), Step::Nothing(_)));
        let two = made("v2", std::slice::from_ref(&one));
        assert_eq!(number(&two), 2);
        assert_ne!(name(&one), name(&two));
        match step("v1", &[one.clone(), two]) {
            Step::Renumber(again) => {
                assert_eq!((number(&again), name(&again)), (3, name(&one)));
            }
            other => panic!("expected the old revision, not {other:?}"),
        }
        assert_eq!(template_of(&one), Some(template("v1")));
    }

    #[test]
    fn the_oldest_revisions_that_nothing_is_made_from_are_forgotten() {
        let one = made("v1", &[]);
        let two = made("v2", std::slice::from_ref(&one));
        let three = made("v3", &[one.clone(), two.clone()]);
        let known = [one.clone(), two.clone(), three.clone()];
        let live = HashSet::from([name(&three).to_owned()]);
        let gone = forgotten(&known, &live, Some(1));
        assert_eq!(gone.iter().map(|it| name(it)).collect::<Vec<_>>(), [name(&one)]);
        let live = HashSet::from([name(&three).to_owned(), name(&one).to_owned()]);
        assert!(forgotten(&known, &live, Some(1)).is_empty());
    }
}
