//! Claims and volumes: each call on them, what they are bound by, and what keeps them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kontiki_api::client::PatchKind;
use kontiki_api::request::Verb;
use serde_json::{Value, json};

use crate::bed::{NAMESPACE, Tour};

fn volume(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"walk": "yes"}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "by-hand", "persistentVolumeReclaimPolicy": "Retain",
            "csi": {"driver": "none.example", "volumeHandle": name}}})
}

fn claim(name: &str, volume: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": {"walk": "yes"}},
        "spec": {"storageClassName": "by-hand", "accessModes": ["ReadWriteOnce"],
            "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_its_volume_go_through_their_life_call_by_call() {
    let tour = Tour::with_nodes(0).await;
    tour.kubectl.apply(&volume("v")).await;
    tour.kubectl.apply(&claim("c", "v")).await;
    tour.until::<PersistentVolumeClaim>("c", |it| it["status"]["phase"] == "Bound").await;
    let bound = tour.until::<PersistentVolume>("v", |it| it["status"]["phase"] == "Bound").await;
    assert_eq!(bound["spec"]["claimRef"]["name"], "c");
    assert_eq!(tour.list::<PersistentVolumeClaim>("walk=yes").await.len(), 1);
    let everywhere = tour.run("get persistentvolumeclaim -A -l walk=yes -o name").await;
    assert_eq!(everywhere.trim(), "persistentvolumeclaim/c");

    let label = json!({"metadata": {"labels": {"patched": "yes"}}});
    tour.run(&format!("patch persistentvolume v -p {label}")).await;
    tour.run(&format!("patch persistentvolumeclaim c -p {label}")).await;
    let mut read = tour.get::<PersistentVolumeClaim>("c").await.unwrap();
    assert_eq!(read["metadata"]["labels"]["patched"], "yes");
    read["metadata"]["annotations"] = json!({"replaced": "yes"});
    let replaced: PersistentVolumeClaim = serde_json::from_value(read).unwrap();
    let replaced = json!(tour.client.update(&replaced).await.unwrap());
    assert_eq!(replaced["metadata"]["annotations"]["replaced"], "yes");

    // Somebody uses neither, so both go: the claim first, and the volume is kept for a person to look at.
    let mut request =
        tour.client.request::<PersistentVolumeClaim>(Verb::DeleteCollection, NAMESPACE, "");
    request.options.label_selector = Some("walk=yes".into());
    tour.client.call(request).await.unwrap();
    tour.until_gone::<PersistentVolumeClaim>("c").await;
    tour.until::<PersistentVolume>("v", |it| it["status"]["phase"] == "Released").await;
    let mut request = tour.client.request::<PersistentVolume>(Verb::DeleteCollection, "", "");
    request.options.label_selector = Some("walk=yes".into());
    tour.client.call(request).await.unwrap();
    tour.until_gone::<PersistentVolume>("v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_of_claims_and_volumes_are_patched_and_replaced_apart_from_their_specs() {
    let tour = Tour::with_nodes(0).await;
    tour.kubectl.apply(&volume("v")).await;
    tour.kubectl.apply(&claim("c", "v")).await;
    tour.until::<PersistentVolumeClaim>("c", |it| it["status"]["phase"] == "Bound").await;
    tour.until::<PersistentVolume>("v", |it| it["status"]["phase"] == "Bound").await;
    let condition = json!({"type": "StatusPatched", "status": "True", "reason": "Walk",
        "message": "by hand"});
    let patch = json!({"spec": {"volumeName": "other"}, "status": {"conditions": [condition]}});
    let (kind, status) = (PatchKind::Merge, Some("status"));
    let patched = tour.client.patch::<PersistentVolumeClaim>(NAMESPACE, "c", kind, &patch, status);
    let patched = json!(patched.await.unwrap());
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatched");
    assert_eq!(patched["spec"]["volumeName"], "v", "the spec is out of reach");
    let mut read = tour.get::<PersistentVolumeClaim>("c").await.unwrap();
    read["status"]["conditions"][0]["reason"] = "Replaced".into();
    let replaced: PersistentVolumeClaim = serde_json::from_value(read).unwrap();
    let replaced = json!(tour.client.update_status(&replaced).await.unwrap());
    assert_eq!(replaced["status"]["conditions"][0]["reason"], "Replaced");

    let patch = json!({"status": {"message": "patched", "reason": "Walk"}});
    let patched = tour.client.patch::<PersistentVolume>("", "v", kind, &patch, status).await;
    assert_eq!(json!(patched.unwrap())["status"]["message"], "patched");
    let mut read = tour.get::<PersistentVolume>("v").await.unwrap();
    read["status"]["message"] = "replaced".into();
    let replaced: PersistentVolume = serde_json::from_value(read).unwrap();
    let replaced = json!(tour.client.update_status(&replaced).await.unwrap());
    assert_eq!(replaced["status"]["message"], "replaced");
    assert_eq!(replaced["spec"]["claimRef"]["name"], "c");
}
