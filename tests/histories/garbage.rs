//! The garbage collector against a model of what is left after each delete.
//!
//! Keeps: what has an owner that lives stays, what has owners and none that lives goes, what never had one
//! stays; orphans lose the name of the owner that left them. Rings of owners hold nobody up.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_api::client::{DeleteOptions, PatchKind};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::bed::{Bed, NAMESPACE, seeds};

const OBJECTS: usize = 14;
const DELETES: usize = 5;
/// An owner that never was.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Each object that is there, with the names of its owners.
type Model = BTreeMap<String, BTreeSet<String>>;

fn delete(model: &mut Model, name: &str, policy: &str) {
    model.remove(name);
    if policy == "Orphan" {
        model.values_mut().for_each(|owners| {
            owners.remove(name);
        });
    }
    loop {
        let alive: BTreeSet<String> = model.keys().cloned().collect();
        let lost = |owners: &BTreeSet<String>| {
            !owners.is_empty() && owners.iter().all(|owner| !alive.contains(owner))
        };
        model.retain(|_, owners| !lost(owners));
        if model.len() == alive.len() {
            break;
        }
    }
    let alive: BTreeSet<String> = model.keys().cloned().collect();
    model.values_mut().for_each(|owners| owners.retain(|owner| alive.contains(owner)));
}

/// What is there, as the model sees it. What is going is not there any more, nor is its name.
async fn found(bed: &Bed) -> Model {
    let all = bed.list::<ConfigMap>().await;
    let ours = all.into_iter().filter(|it| {
        it.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("history"))
    });
    ours.map(|it| {
        let going = it.metadata.deletion_timestamp.is_some();
        let owners = it.metadata.owner_references.into_iter().flatten().map(|owner| owner.name);
        let name = it.metadata.name.unwrap();
        (if going { format!("{name} (going)") } else { name }, owners.collect())
    })
    .collect()
}

async fn history(bed: &mut Bed, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut model = Model::new();
    let mut uids: Vec<(String, String)> = Vec::new();
    for number in 0..OBJECTS {
        let name = format!("o{seed}-{number}");
        let mut owners = BTreeSet::new();
        while !uids.is_empty() && dice.random_ratio(3, 5) && owners.len() < 3 {
            owners.insert(dice.random_range(0..uids.len()));
        }
        let reference = |(owner, uid): &(String, String), blocks: bool| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid,
                "blockOwnerDeletion": blocks})
        };
        let mut references: Vec<Value> =
            owners.iter().map(|at| reference(&uids[*at], dice.random())).collect();
        // One that never was beside one that is: it is forgotten.
        if !references.is_empty() && dice.random_ratio(1, 5) {
            references.push(reference(&("nobody".into(), NOBODY.into()), dice.random()));
        }
        let object: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name,
            "namespace": NAMESPACE, "labels": {"history": "yes"}, "ownerReferences": references}}))
        .unwrap();
        let made = bed.client.create(&object).await.unwrap();
        let names = owners.iter().map(|at| uids[*at].0.clone()).collect();
        model.insert(name.clone(), names);
        uids.push((name, made.metadata.uid.unwrap()));
    }
    // A ring: the first comes to be owned by one of those that it owns, if it owns any.
    let (first, first_uid) = uids[0].clone();
    let child = model.iter().find(|(_, owners)| owners.contains(&first)).map(|(name, _)| name);
    if let Some(child) = child.cloned().filter(|_| dice.random()) {
        let (_, uid) = uids.iter().find(|(name, _)| *name == child).unwrap();
        let patch = json!({"metadata": {"uid": first_uid, "ownerReferences": [{"apiVersion": "v1",
            "kind": "ConfigMap", "name": child, "uid": uid, "blockOwnerDeletion": true}]}});
        let kind = PatchKind::Merge;
        bed.client.patch::<ConfigMap>(NAMESPACE, &first, kind, &patch, None).await.unwrap();
        model.get_mut(&first).unwrap().insert(child);
    }
    for _ in 0..DELETES {
        let names: Vec<&String> = model.keys().collect();
        if names.is_empty() {
            break;
        }
        let name = names[dice.random_range(0..names.len())].clone();
        let policy = ["Background", "Foreground", "Orphan"][dice.random_range(0..3)];
        let before = model.clone();
        delete(&mut model, &name, policy);
        let options =
            DeleteOptions { propagation_policy: Some(policy), ..DeleteOptions::default() };
        bed.client.delete::<ConfigMap>(NAMESPACE, &name, &options).await.unwrap();
        if dice.random_ratio(1, 3) {
            bed.lead_anew().await;
        }
        let what = format!("seed {seed}: what is left of {before:?} after {policy} of {name}");
        bed.until(&what, async || {
            let found = found(bed).await;
            if found == model { Ok(()) } else { Err(format!("{found:?}, expected {model:?}")) }
        })
        .await;
    }
    for name in model.keys() {
        let options = DeleteOptions::default();
        // It may have gone with its owner.
        let _ = bed.client.delete::<ConfigMap>(NAMESPACE, name, &options).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_after_deletes_is_what_owners_say() {
    let mut bed = Bed::start(0).await;
    for seed in seeds(12) {
        history(&mut bed, seed).await;
    }
    bed.stop().await;
}

#[test]
fn the_model_knows_rings_orphans_and_two_owners() {
    let model = |all: &[(&str, &[&str])]| -> Model {
        all.iter()
            .map(|(name, owners)| {
                ((*name).into(), owners.iter().map(|owner| (*owner).into()).collect())
            })
            .collect()
    };
    let mut ring = model(&[("a", &["b"]), ("b", &["a"]), ("c", &["b", "d"]), ("d", &[])]);
    delete(&mut ring, "a", "Foreground");
    assert_eq!(ring, model(&[("c", &["d"]), ("d", &[])]));
    let mut orphans = model(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    delete(&mut orphans, "a", "Orphan");
    assert_eq!(orphans, model(&[("b", &[]), ("c", &["b"])]));
}
