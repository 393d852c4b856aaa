//! Which pods a pod wants beside it, and which it keeps away (`podAffinity`, `podAntiAffinity`).
//!
//! Keeps: anti-affinity holds both ways: a pod that is there keeps others away too.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{NodeInfo, Refusal, Snapshot};
use crate::reconcile::labels;
use crate::scheduler::world::World;

/// A term with all that is needed to match a pod against it.
pub struct Term {
    pub key: String,
    selector: LabelSelector,
    namespaces: Vec<String>,
    /// Namespaces by their labels, besides those that are named.
    by_labels: Option<LabelSelector>,
}

impl Term {
    /// `own` is the pod that says it.
    #[must_use]
    pub fn new(term: &PodAffinityTerm, own: &Pod) -> Term {
        let mut selector = term.label_selector.clone().unwrap_or_default();
        let label = |key: &String| own.metadata.labels.as_ref().and_then(|it| it.get(key)).cloned();
        let mut narrow = |key: &String, operator: &str| {
            if let Some(value) = label(key) {
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.into(),
                    values: Some(vec![value]),
                });
            }
        };
        term.match_label_keys.iter().flatten().for_each(|key| narrow(key, "In"));
        term.mismatch_label_keys.iter().flatten().for_each(|key| narrow(key, "NotIn"));
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(own.metadata.namespace.clone());
        }
        Term {
            key: term.topology_key.clone(),
            // No selector at all selects nothing; `{}` selects everything.
            selector: if term.label_selector.is_some() { selector } else { nothing() },
            namespaces,
            by_labels: term.namespace_selector.clone(),
        }
    }

    #[must_use]
    pub fn matches(&self, pod: &Pod, world: &World) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let there = self.namespaces.iter().any(|name| name == namespace)
            || self.by_labels.as_ref().is_some_and(|selector| {
                world.namespace(namespace).is_some_and(|it| labels::matches(selector, &it.metadata))
            });
        there && labels::matches(&self.selector, &pod.metadata)
    }
}

fn nothing() -> LabelSelector {
    let never = |operator: &str| LabelSelectorRequirement {
        key: "kubernetes.io/none".into(),
        operator: operator.into(),
        values: None,
    };
    let match_expressions = Some(vec![never("Exists"), never("DoesNotExist")]);
    LabelSelector { match_expressions, ..LabelSelector::default() }
}

/// Required terms of a pod's affinity and anti-affinity.
#[must_use]
pub fn required(pod: &Pod) -> (&[PodAffinityTerm], &[PodAffinityTerm]) {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let towards = affinity
        .and_then(|affinity| affinity.pod_affinity.as_ref())
        .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
    let away = affinity
        .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
        .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
    (towards.unwrap_or_default(), away.unwrap_or_default())
}

type Domain = (String, String);

/// Where required company is, and where it must not be.
#[derive(Default)]
pub struct Company {
    towards: Vec<Term>,
    away: Vec<Term>,
    /// How many pods match all of `towards`, by domain of each term.
    wanted: HashMap<Domain, usize>,
    unwanted: HashMap<Domain, usize>,
    /// Domains that pods which are there keep this one out of.
    closed: HashMap<Domain, usize>,
    /// The pod matches its own terms: it may be the first of its kind.
    matches_itself: bool,
}

impl Company {
    pub fn new(pod: &Pod, snapshot: &Snapshot, world: &World) -> Company {
        let (towards, away) = required(pod);
        let terms = |terms: &[PodAffinityTerm]| -> Vec<_> {
            terms.iter().map(|term| Term::new(term, pod)).collect()
        };
        let mut company =
            Company { towards: terms(towards), away: terms(away), ..Company::default() };
        company.matches_itself = company.towards.iter().all(|term| term.matches(pod, world));
        let asks = !company.towards.is_empty() || !company.away.is_empty();
        if asks {
            snapshot.iter().for_each(|info| company.look_at(info, pod, world));
        } else {
            let those = snapshot.with_required_anti_affinity();
            those.for_each(|info| company.look_at(info, pod, world));
        }
        company
    }

    fn look_at(&mut self, info: &NodeInfo, pod: &Pod, world: &World) {
        let domain = |term: &Term| Some((term.key.clone(), info.label(&term.key)?.to_owned()));
        for (_, other) in info.pods() {
            if !self.towards.is_empty() && self.towards.iter().all(|it| it.matches(other, world)) {
                for at in self.towards.iter().filter_map(domain) {
                    *self.wanted.entry(at).or_insert(0) += 1;
                }
            }
            for at in self.away.iter().filter(|it| it.matches(other, world)).filter_map(domain) {
                *self.unwanted.entry(at).or_insert(0) += 1;
            }
            for term in required(other).1 {
                let term = Term::new(term, other);
                if term.matches(pod, world)
                    && let Some(at) = domain(&term)
                {
                    *self.closed.entry(at).or_insert(0) += 1;
                }
            }
        }
    }

    pub fn check(&self, info: &NodeInfo) -> Result<(), Refusal> {
        let has = |map: &HashMap<Domain, usize>, term: &Term| {
            info.label(&term.key)
                .is_some_and(|value| map.contains_key(&(term.key.clone(), value.to_owned())))
        };
        if !self.towards.is_empty() && !self.towards.iter().all(|term| has(&self.wanted, term)) {
            // The first of a kind that wants its own kind beside it has to begin somewhere.
            let labelled = self.towards.iter().all(|term| info.label(&term.key).is_some());
            if !(self.wanted.is_empty() && self.matches_itself && labelled) {
                return Err(Refusal::for_good("node(s) didn't match pod affinity rules"));
            }
        }
        if self.away.iter().any(|term| has(&self.unwanted, term)) {
            return Err(Refusal::of("node(s) didn't match pod anti-affinity rules"));
        }
        let shut = |(key, value): &Domain| info.label(key) == Some(value);
        if self.closed.keys().any(shut) {
            return Err(Refusal::of("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }
}
