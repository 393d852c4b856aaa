//! What a Deployment's ReplicaSets should be like next. Pure.
//!
//! One look makes one stage of progress: make the new set, or grow it, or shrink old ones. What the stage
//! did is seen before the next is decided, so that bounds on pods hold at every moment: never more than
//! `replicas` and `maxSurge` together, never fewer available than `replicas` without `maxUnavailable`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kontiki_api::object::time::Timestamp;

use super::status::{self, Condition};
use crate::controllers::amount::{self, Round};
use crate::controllers::ownership::reference_to;
use crate::controllers::template;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its sets do not inherit.
const NOT_INHERITED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MOST,
];
const REVISION_HISTORY_BYTES_MAX: usize = 2000;
const NAME_BYTES_MAX: usize = 253;

/// What is known when a decision is made.
pub struct Seen<'a> {
    pub deployment: &'a Deployment,
    /// The sets that it controls.
    pub sets: &'a [ReplicaSet],
    /// Uids of the sets that have pods which are not finished.
    pub populated: HashSet<String>,
    pub now: Timestamp,
}

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub struct Plan {
    pub update: Vec<Update>,
    pub create: Option<Box<ReplicaSet>>,
    /// The revision that the Deployment is to be marked with.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub delete: Vec<ReplicaSet>,
    /// When to look again though nothing changed.
    pub again_s: Option<i64>,
}

/// A set as it should be, and the size it had.
#[derive(Debug)]
pub struct Update {
    pub set: ReplicaSet,
    pub from: i32,
}

pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Available pods; those that the set is about to lose do not count.
fn available(set: &ReplicaSet) -> i32 {
    let available = set.status.as_ref().and_then(|status| status.available_replicas);
    available.unwrap_or(0).min(size(set))
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn annotate(metadata: &mut ObjectMeta, key: &str, value: String) {
    metadata.annotations.get_or_insert_with(BTreeMap::new).insert(key.into(), value);
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn age(set: &ReplicaSet) -> impl Ord + use<> {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
}

/// The numbers that a Deployment's spec comes to.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub rolling: bool,
}

impl Bounds {
    #[must_use]
    pub fn of(deployment: &Deployment) -> Bounds {
        let replicas = deployment.spec.replicas.unwrap_or(1);
        let strategy = deployment.spec.strategy.as_ref();
        let rolling = strategy.and_then(|it| it.type_.as_deref()) != Some("Recreate");
        if !rolling {
            return Bounds { replicas, max_surge: 0, max_unavailable: 0, rolling };
        }
        let said = strategy.and_then(|it| it.rolling_update.as_ref());
        let surge = said.and_then(|it| it.max_surge.as_ref());
        let unavailable = said.and_then(|it| it.max_unavailable.as_ref());
        let max_surge = amount::of(surge, replicas, Round::Up);
        let mut max_unavailable = amount::of(unavailable, replicas, Round::Down);
        // Two zeros would mean that nothing can ever move.
        if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1;
        }
        Bounds { replicas, max_surge, max_unavailable: max_unavailable.min(replicas), rolling }
    }

    fn most(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

/// The sets while a plan is being made: those that are there, changed as they should be.
struct Draft<'a> {
    seen: &'a Seen<'a>,
    bounds: Bounds,
    sets: Vec<ReplicaSet>,
    /// Which of `sets` has the template that is wanted now.
    new: Option<usize>,
    created: bool,
    revision: Option<String>,
    /// The status to go on from.
    before: DeploymentStatus,
    delete: Vec<ReplicaSet>,
}

#[must_use]
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut draft = Draft::new(seen);
    let spec = &seen.deployment.spec;
    if seen.deployment.metadata.deletion_timestamp.is_some() {
        let status = draft.count();
        return Plan { status, ..Plan::default() };
    }
    let paused = spec.paused.unwrap_or(false);
    status::pause(&mut draft.before, spec, paused, seen.now);
    let rolled = if paused || draft.is_being_scaled() {
        draft.mark_new();
        draft.scale();
        if paused {
            draft.clean_up();
        }
        false
    } else {
        if draft.bounds.rolling {
            draft.roll()
        } else {
            draft.recreate()
        };
        true
    };
    draft.finish(rolled)
}

impl<'a> Draft<'a> {
    fn new(seen: &'a Seen<'a>) -> Draft<'a> {
        let mut sets = seen.sets.to_vec();
        sets.sort_by_key(age);
        let wanted = &seen.deployment.spec.template;
        let is_new = |set: &ReplicaSet| {
            set.spec.template.as_ref().is_some_and(|it| template::is_same(it, wanted))
        };
        Draft {
            bounds: Bounds::of(seen.deployment),
            new: sets.iter().position(is_new),
            sets,
            created: false,
            revision: None,
            before: seen.deployment.status.clone().unwrap_or_default(),
            delete: Vec::new(),
            seen,
        }
    }

    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|index| Some(*index) != self.new).collect()
    }

    fn active(&self, among: &[usize]) -> Vec<usize> {
        among.iter().copied().filter(|index| size(&self.sets[*index]) > 0).collect()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.sets.len()).collect()
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(size).fold(0, i32::saturating_add)
    }

    /// Whether `replicas` changed since the sets were last sized.
    fn is_being_scaled(&self) -> bool {
        self.active(&self.all()).into_iter().any(|index| {
            let desired = annotation(&self.sets[index].metadata, DESIRED);
            let desired = desired.and_then(|text| text.parse::<i32>().ok()).filter(|it| *it >= 0);
            desired.is_some_and(|desired| desired != self.bounds.replicas)
        })
    }

    fn resize(&mut self, index: usize, replicas: i32) -> bool {
        let set = &mut self.sets[index];
        if size(set) == replicas {
            return false;
        }
        set.spec.replicas = Some(replicas);
        self.note_sizes(index);
        true
    }

    /// A set remembers for which size of the whole it was made.
    fn note_sizes(&mut self, index: usize) {
        let metadata = &mut self.sets[index].metadata;
        annotate(metadata, DESIRED, self.bounds.replicas.to_string());
        annotate(metadata, MOST, self.bounds.most().to_string());
    }

    fn next_revision(&self) -> i64 {
        let last = self.old().into_iter().map(|index| revision(&self.sets[index])).max();
        last.unwrap_or(0) + 1
    }

    /// The set with the wanted template bears the newest revision and the Deployment's annotations.
    fn mark_new(&mut self) {
        let Some(index) = self.new else { return };
        let next = self.next_revision();
        let deployment = self.seen.deployment;
        let set = &mut self.sets[index];
        inherit(deployment, set);
        let had = annotation(&set.metadata, REVISION).map(str::to_owned);
        // A revision that is no number is somebody else's idea of one; it is left alone.
        let number = had.as_deref().map_or(Some(0), |text| text.parse::<i64>().ok());
        if number.is_some_and(|number| number < next) {
            if let Some(had) = had {
                remember_revision(&mut set.metadata, &had);
            }
            annotate(&mut set.metadata, REVISION, next.to_string());
        }
        set.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
        self.revision = annotation(&set.metadata, REVISION).map(str::to_owned);
        let name = set.metadata.name.clone().unwrap_or_default();
        status::found(&mut self.before, &deployment.spec, &name, self.seen.now);
    }

    fn ensure_new(&mut self) -> usize {
        if let Some(index) = self.new {
            self.mark_new();
            return index;
        }
        let deployment = self.seen.deployment;
        let mut set = new_set(deployment, self.before.collision_count);
        set.spec.replicas = Some(self.grown(&set));
        inherit(deployment, &mut set);
        let revision = self.next_revision().to_string();
        annotate(&mut set.metadata, REVISION, revision.clone());
        let name = set.metadata.name.clone().unwrap_or_default();
        self.sets.push(set);
        let index = self.sets.len() - 1;
        self.note_sizes(index);
        self.revision = Some(revision);
        (self.new, self.created) = (Some(index), true);
        status::created(&mut self.before, &deployment.spec, &name, self.seen.now);
        index
    }

    /// The size that the new set may have now.
    fn grown(&self, new: &ReplicaSet) -> i32 {
        let Bounds { replicas, rolling, .. } = self.bounds;
        if !rolling {
            return replicas;
        }
        // A set that is not among the others yet has no pods.
        let own = if self.new.is_some() { size(new) } else { 0 };
        let room = self.bounds.most() - self.total();
        own + room.min(replicas - own).max(0)
    }

    fn roll(&mut self) {
        let new = self.ensure_new();
        if self.created {
            return;
        }
        let replicas = self.bounds.replicas;
        let has = size(&self.sets[new]);
        let target = if has > replicas { replicas } else { self.grown(&self.sets[new]) };
        if self.resize(new, target) || self.shrink_old(new) {
            return;
        }
        self.clean_up_when_complete();
    }

    /// Makes old sets smaller as far as enough pods stay available.
    fn shrink_old(&mut self, new: usize) -> bool {
        let old = self.active(&self.old());
        let new_unavailable = size(&self.sets[new]) - available(&self.sets[new]);
        let mut may_go = self.total() - self.bounds.min_available() - new_unavailable;
        if old.is_empty() || may_go <= 0 {
            return false;
        }
        // Pods that serve nobody go first, whatever set they are of.
        let mut shrunk = false;
        for index in old.iter().copied() {
            let unhealthy = size(&self.sets[index]) - available(&self.sets[index]);
            let gone = unhealthy.min(may_go);
            if gone > 0 {
                shrunk |= self.resize(index, size(&self.sets[index]) - gone);
                may_go -= gone;
            }
        }
        let serving: i32 = self.sets.iter().map(available).sum();
        let mut spare = serving - self.bounds.min_available();
        for index in old {
            let gone = size(&self.sets[index]).min(spare);
            if gone > 0 {
                shrunk |= self.resize(index, size(&self.sets[index]) - gone);
                spare -= gone;
            }
        }
        shrunk
    }

    fn recreate(&mut self) {
        self.mark_new();
        let old = self.old();
        let mut shrunk = false;
        for index in self.active(&old) {
            shrunk |= self.resize(index, 0);
        }
        let pods_left = old.iter().any(|index| {
            let set = &self.sets[*index];
            set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || set.metadata.uid.as_ref().is_some_and(|uid| self.seen.populated.contains(uid))
        });
        if shrunk || pods_left {
            return;
        }
        let new = self.ensure_new();
        if !self.created {
            self.resize(new, self.bounds.replicas);
            self.clean_up_when_complete();
        }
    }

    /// Shares out a new size among the sets that have pods.
    fn scale(&mut self) {
        let replicas = self.bounds.replicas;
        if let Some(only) = self.active_or_latest() {
            self.resize(only, replicas);
            return;
        }
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for index in self.active(&self.old()) {
                self.resize(index, 0);
            }
            return;
        }
        if !self.bounds.rolling {
            return;
        }
        let mut active = self.active(&self.all());
        let allowed = if replicas > 0 { self.bounds.most() } else { 0 };
        let total = active.iter().map(|index| size(&self.sets[*index])).sum::<i32>();
        let to_add = allowed - total;
        // The largest comes first; of equals, the newest grows first and the oldest shrinks first.
        active.sort_by_key(|index| age(&self.sets[*index]));
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|index| Reverse(size(&self.sets[*index])));
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for index in &active {
            let share = self.proportion(&self.sets[*index], to_add, added);
            added += share;
            sizes.push(size(&self.sets[*index]) + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (index, replicas) in active.into_iter().zip(sizes) {
            self.sets[index].spec.replicas = Some(replicas);
            self.note_sizes(index);
        }
    }

    /// How many of the pods to add (or, below zero, to take away) fall to a set.
    fn proportion(&self, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
        let left = to_add - added;
        if size(set) == 0 || left == 0 {
            return 0;
        }
        let fraction = if self.bounds.replicas == 0 {
            -size(set)
        } else {
            let noted = annotation(&set.metadata, MOST).and_then(|text| text.parse::<i32>().ok());
            let reported = self.seen.deployment.status.as_ref().and_then(|it| it.replicas);
            let before = noted.filter(|it| *it > 0).or(reported).unwrap_or(0);
            if before == 0 {
                return 0;
            }
            let exact = f64::from(size(set)) * f64::from(self.bounds.most()) / f64::from(before);
            #[expect(clippy::cast_possible_truncation, reason = "a float to an int saturates")]
            let rounded = exact.round() as i32;
            rounded.saturating_sub(size(set))
        };
        if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    /// The one set to scale when there is one: the only active one, else the newest.
    fn active_or_latest(&self) -> Option<usize> {
        let active = self.active(&self.all());
        match active.as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [only] => Some(*only),
            _ => None,
        }
    }

    fn is_saturated(&self, index: usize) -> bool {
        let (set, replicas) = (&self.sets[index], self.bounds.replicas);
        let desired = annotation(&set.metadata, DESIRED).and_then(|text| text.parse().ok());
        size(set) == replicas && desired == Some(replicas) && available(set) == replicas
    }

    /// Takes away the oldest sets beyond the history that is kept, if nothing is left in them.
    fn clean_up(&mut self) {
        let Some(limit) = self.seen.deployment.spec.revision_history_limit else { return };
        if limit == i32::MAX {
            return;
        }
        let mut old: Vec<_> =
            self.old().into_iter().map(|index| self.sets[index].clone()).collect();
        old.retain(|set| set.metadata.deletion_timestamp.is_none());
        old.sort_by_key(|set| (revision(set), age(set)));
        old.truncate(old.len().saturating_sub(usize::try_from(limit).unwrap_or(0)));
        old.retain(|set| {
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation.unwrap_or(0);
            status.replicas == 0 && size(set) == 0 && set.metadata.generation.unwrap_or(0) <= seen
        });
        self.delete = old;
    }

    fn clean_up_when_complete(&mut self) {
        let status = self.seen.deployment.status.clone().unwrap_or_default();
        if status::is_complete(self.seen.deployment, &status) {
            self.clean_up();
        }
    }

    fn count(&self) -> DeploymentStatus {
        let new = self.new.map(|index| &self.sets[index]);
        status::count(self.seen.deployment, &self.before, &self.sets, new, self.seen.now)
    }

    fn finish(mut self, rolled: bool) -> Plan {
        let mut status = self.count();
        let mut again_s = None;
        if rolled {
            let new = self.new.map(|index| &self.sets[index]);
            status::progress(
                self.seen.deployment,
                &self.before,
                &mut status,
                &self.sets,
                new,
                self.seen.now,
            );
            again_s = status::check_progress_in_s(self.seen.deployment, &status, self.seen.now);
        }
        let create = self.created.then(|| self.sets.pop().map(Box::new)).flatten();
        let mut update = Vec::new();
        for set in self.sets {
            let was = self.seen.sets.iter().find(|was| was.metadata.uid == set.metadata.uid);
            if let Some(was) = was.filter(|was| **was != set) {
                update.push(Update { from: size(was), set });
            }
        }
        let marked = annotation(&self.seen.deployment.metadata, REVISION);
        let revision = self.revision.filter(|revision| marked != Some(revision));
        Plan { update, create, revision, status, delete: self.delete, again_s }
    }
}

fn inherit(deployment: &Deployment, set: &mut ReplicaSet) {
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_INHERITED.contains(&key.as_str()) {
            annotate(&mut set.metadata, key, value.clone());
        }
    }
}

/// The revisions that a set stood for before; the oldest are forgotten first.
fn remember_revision(metadata: &mut ObjectMeta, revision: &str) {
    let known = annotation(metadata, REVISION_HISTORY).unwrap_or_default();
    let mut all: Vec<&str> = known.split(',').filter(|it| !it.is_empty()).collect();
    all.push(revision);
    while all.len() > 1
        && all.iter().map(|it| it.len() + 1).sum::<usize>() > REVISION_HISTORY_BYTES_MAX
    {
        all.remove(0);
    }
    let all = all.join(",");
    annotate(metadata, REVISION_HISTORY, all);
}

/// The set for the template that is wanted now, with nobody in it yet.
fn new_set(deployment: &Deployment, collisions: Option<i32>) -> ReplicaSet {
    let spec = &deployment.spec;
    let hash = template::hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(template::HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut wanted = spec.selector.match_labels.clone().unwrap_or_default();
    wanted.insert(template::HASH_LABEL.into(), hash.clone());
    let mut name = deployment.metadata.name.clone().unwrap_or_default();
    name.truncate(NAME_BYTES_MAX - 1 - hash.len());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![reference_to(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector: LabelSelector { match_labels: Some(wanted), ..spec.selector.clone() },
            template: Some(template),
        },
        status: None,
    }
}

/// The status after another set was found to have the name of the new one.
#[must_use]
pub fn collided(deployment: &Deployment) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    status
}

/// The status after the new set could not be made.
#[must_use]
pub fn not_created(deployment: &Deployment, message: &str, now: Timestamp) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    if status::has_deadline(&deployment.spec) {
        let condition =
            Condition::new(status::PROGRESSING, "False", "ReplicaSetCreateError", message);
        condition.set(&mut status, now);
    }
    status
}
