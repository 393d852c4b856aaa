//! Brings claims and volumes together, and makes volumes of the class that comes with Kontiki: a directory on
//! the node that the pod was put on.
//!
//! Keeps: first the volume names its claim, then the claim its volume; whatever happens between, the next
//! look goes on from there, and no volume is given to two claims.
//! Never: touches data. A directory stays on its node when its volume is gone.

mod matching;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kontiki_api::Status;
use kontiki_api::client::{Client, DeleteOptions, Preconditions};
use kontiki_api::error::Reason;
use serde_json::json;

use self::matching::{
    PROVISIONED_BY, bound, choose, claim_of, class_of_claim, is_bound, is_for, status, suits, taken,
};
use super::{Context, Loop};
use crate::reconcile::{Informer, Key, Next, Reconcile, Recorder};

const NAME: &str = "persistentvolume-binder-controller";
const PROVISIONER: &str = "kontiki.io/local-path";
const LOCAL_PATH: &str = "local-path";
/// Where directories are made, unless the class says `path`.
const DIRECTORY: &str = "/var/lib/kontiki/storage";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const EXTERNAL: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

#[derive(Clone)]
struct Shared {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

struct Claims(Shared);
struct Volumes(Shared);

pub fn start(context: &Context) -> Vec<Loop> {
    let of_claims = context.queue(NAME);
    let of_volumes = context.queue("persistentvolume-binder-controller-volumes");
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    claims.on({
        let (of_claims, of_volumes) = (of_claims.clone(), of_volumes.clone());
        move |delta| {
            let claim = delta.object();
            of_claims.add(Key::of(&claim.metadata));
            if let Some(name) = volume_name(claim) {
                of_volumes.add(Key::new("", name));
            }
        }
    });
    volumes.on({
        let (of_claims, of_volumes, claims) =
            (of_claims.clone(), of_volumes.clone(), claims.clone());
        move |delta| {
            let volume = delta.object();
            of_volumes.add(Key::of(&volume.metadata));
            if let Some(claim) = claim_of(volume) {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                of_claims.add(Key::new(&text(&claim.namespace), &text(&claim.name)));
                return;
            }
            // It may be what somebody waits for.
            for claim in claims.list().iter().filter(|it| !is_bound(it) && suits(volume, it)) {
                of_claims.add(Key::of(&claim.metadata));
            }
        }
    });
    let shared = Shared {
        client: context.client(NAME),
        recorder: context.recorder.of(NAME),
        claims,
        volumes,
        classes: context.informers.of::<StorageClass>(),
    };
    // One worker: two claims that look at one free volume would only get in each other's way.
    vec![
        Loop::task({
            let client = shared.client.clone();
            move |_| async move { offer_class(&client).await }
        }),
        Loop::new(Claims(shared.clone()), of_claims, 1),
        Loop::new(Volumes(shared), of_volumes, 1),
    ]
}

/// Makes the class that comes with Kontiki, if it is not there.
async fn offer_class(client: &Client) {
    let class = json!({
        "metadata": {"name": LOCAL_PATH,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer"});
    let class: StorageClass = serde_json::from_value(class).expect("it is written above");
    match client.create(&class).await {
        Err(status) if !status.is(Reason::AlreadyExists) => {
            tracing::warn!(%status, "the storage class {LOCAL_PATH} was not made");
        }
        _ => {}
    }
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

impl Reconcile for Claims {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(claim) = self.0.claims.get(key) else { return Ok(Next::WhenChanged) };
        if claim.metadata.deletion_timestamp.is_some() && !is_bound(&claim) {
            return Ok(Next::WhenChanged);
        }
        let result = match volume_name(&claim) {
            Some(name) => self.0.complete(&claim, name).await,
            None => Box::pin(self.0.find(&claim)).await,
        };
        match result {
            Err(status) if status.is(Reason::NotFound) => Ok(Next::WhenChanged),
            Err(status) => Err(status),
            Ok(()) => Ok(Next::WhenChanged),
        }
    }
}

impl Shared {
    /// A claim without a volume: gives it one, has one made, or says why it waits.
    async fn find(&self, claim: &PersistentVolumeClaim) -> Result<(), Status> {
        let name = class_of_claim(claim);
        let class = self.classes.get(&Key::new("", name));
        let annotations = claim.metadata.annotations.as_ref();
        let node = annotations.and_then(|all| all.get(SELECTED_NODE));
        let mode = class.as_ref().and_then(|class| class.volume_binding_mode.as_deref());
        let waits = mode == Some("WaitForFirstConsumer") && node.is_none();
        if let Some(volume) = choose(&self.volumes.list(), claim, waits) {
            return self.bind(claim, &volume).await;
        }
        self.write_status(claim, "Pending", None).await?;
        match class.filter(|class| class.provisioner != "kubernetes.io/no-provisioner") {
            _ if waits => {
                let message = "waiting for first consumer to be created before binding";
                self.recorder.normal(claim, "WaitForFirstConsumer", message);
                Ok(())
            }
            None => {
                let message = if name.is_empty() {
                    "no persistent volumes available for this claim and no storage class is set"
                        .to_owned()
                } else {
                    format!("no persistent volume suits, and class {name:?} makes none")
                };
                self.recorder.normal(claim, "FailedBinding", message);
                Ok(())
            }
            Some(class) if class.provisioner == PROVISIONER => {
                let Some(node) = node else {
                    let message = format!(
                        "class {name:?} needs volumeBindingMode WaitForFirstConsumer: its \
                         volumes live on the node of their pod"
                    );
                    self.recorder.warning(claim, "ProvisioningFailed", message);
                    return Ok(());
                };
                Box::pin(self.provision(claim, &class, node)).await
            }
            Some(class) => self.leave_to(claim, &class.provisioner).await,
        }
    }

    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Status> {
        let named = claim_of(volume).is_some_and(|it| it.uid == claim.metadata.uid);
        let volume =
            if named { volume.clone() } else { self.client.update(&taken(volume, claim)).await? };
        let claim = if is_bound(claim) && volume_name(claim) == volume.metadata.name.as_deref() {
            claim.clone()
        } else {
            self.client.update(&bound(claim, &volume)).await?
        };
        self.write_phase(&volume, "Bound").await?;
        self.write_status(&claim, "Bound", Some(&volume)).await
    }

    /// A claim that names its volume.
    async fn complete(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<(), Status> {
        let Some(volume) = self.volumes.get(&Key::new("", name)) else {
            if is_bound(claim) {
                let message =
                    "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                self.recorder.warning(claim, "ClaimLost", message);
                return self.write_status(claim, "Lost", None).await;
            }
            return self.write_status(claim, "Pending", None).await;
        };
        match claim_of(&volume) {
            Some(other) if !is_for(other, claim) => {
                if is_bound(claim) {
                    let message =
                        "Two claims are bound to the same volume, this one is bound incorrectly";
                    self.recorder.warning(claim, "ClaimMisbound", message);
                    return self.write_status(claim, "Lost", None).await;
                }
                self.write_status(claim, "Pending", None).await
            }
            None if !is_bound(claim) && !suits(&volume, claim) => {
                let message = format!("volume {name:?} does not offer what the claim asks for");
                self.recorder.warning(claim, "VolumeMismatch", message);
                self.write_status(claim, "Pending", None).await
            }
            _ => self.bind(claim, &volume).await,
        }
    }

    /// Another process makes the volume.
    async fn leave_to(
        &self,
        claim: &PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<(), Status> {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner \
             '{provisioner}' or manually by the system administrator. If volume creation is \
             delayed, please verify that the provisioner is running and correctly registered."
        );
        self.recorder.normal(claim, "ExternalProvisioning", message);
        let mut told = claim.clone();
        let annotations = told.metadata.annotations.get_or_insert_default();
        for key in EXTERNAL {
            annotations.insert(key.into(), provisioner.into());
        }
        if told != *claim {
            self.client.update(&told).await?;
        }
        Ok(())
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        node: &str,
    ) -> Result<(), Status> {
        let volume = local(claim, class, node);
        match self.client.create(&volume).await {
            Ok(made) => {
                let name = made.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Successfully provisioned volume {name}");
                self.recorder.normal(claim, "ProvisioningSucceeded", message);
                self.bind(claim, &made).await
            }
            // Made before, and shown soon.
            Err(status) if status.is(Reason::AlreadyExists) => Ok(()),
            Err(status) => {
                self.recorder.warning(claim, "ProvisioningFailed", status.message());
                Err(status)
            }
        }
    }

    async fn write_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Status> {
        let status = status(claim, phase, volume);
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let told = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        self.client.update_status(&told).await.map(drop)
    }

    async fn write_phase(&self, volume: &PersistentVolume, phase: &str) -> Result<(), Status> {
        let mut told = volume.clone();
        let status = told.status.get_or_insert_default();
        if status.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        status.phase = Some(phase.into());
        self.client.update_status(&told).await.map(drop)
    }
}

/// A directory on a node, as a volume that only this claim may have.
fn local(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str) -> PersistentVolume {
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let parameters = class.parameters.as_ref();
    let parent = parameters.and_then(|all| all.get("path")).map_or(DIRECTORY, String::as_str);
    let spec = claim.spec.as_ref();
    let requests =
        spec.and_then(|spec| spec.resources.as_ref()).and_then(|it| it.requests.as_ref());
    let volume = json!({
    "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER}},
    "spec": {
        "capacity": {"storage": requests.and_then(|all| all.get("storage"))},
        "accessModes": spec.and_then(|spec| spec.access_modes.as_ref()),
        "volumeMode": spec.and_then(|spec| spec.volume_mode.as_ref()),
        "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
        "storageClassName": class.metadata.name,
        "hostPath": {"path": format!("{parent}/{name}"), "type": "DirectoryOrCreate"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}},
    }});
    let volume: PersistentVolume = serde_json::from_value(volume).expect("it is written above");
    taken(&volume, claim)
}

impl Reconcile for Volumes {
    type Key = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Status> {
        let Some(volume) = self.0.volumes.get(key) else { return Ok(Next::WhenChanged) };
        match self.0.settle(&volume).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Next::WhenChanged),
        }
    }
}

impl Shared {
    async fn settle(&self, volume: &Arc<PersistentVolume>) -> Result<(), Status> {
        let bound = claim_of(volume).filter(|it| it.uid.as_ref().is_some_and(|it| !it.is_empty()));
        let Some(reference) = bound else { return self.write_phase(volume, "Available").await };
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == reference.uid;
        let known = self.claims.get(&Key::new(namespace, name));
        let there = match known.filter(|claim| is_it(claim)) {
            Some(_) => true,
            // Nothing is released on the word of a cache.
            None => match self.client.get::<PersistentVolumeClaim>(namespace, name).await {
                Ok(claim) => is_it(&claim),
                Err(status) if status.is(Reason::NotFound) => false,
                Err(status) => return Err(status),
            },
        };
        // While it is there, the claim's own look does the rest.
        if there {
            return Ok(());
        }
        self.write_phase(volume, "Released").await?;
        let policy =
            volume.spec.as_ref().and_then(|it| it.persistent_volume_reclaim_policy.as_deref());
        let annotations = volume.metadata.annotations.as_ref();
        let ours =
            annotations.and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|it| it == PROVISIONER);
        if policy != Some("Delete") || !ours || volume.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let preconditions =
            Some(Preconditions { uid: volume.metadata.uid.clone(), resource_version: None });
        let options = DeleteOptions { preconditions, ..DeleteOptions::default() };
        self.client.delete::<PersistentVolume>("", name, &options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_volume_is_on_the_node_and_for_its_claim_alone() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "data", "namespace": "n", "uid": "u"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap();
        let class: StorageClass =
            serde_json::from_value(json!({"metadata": {"name": "local-path"},
            "provisioner": PROVISIONER, "parameters": {"path": "/data"}}))
            .unwrap();
        let made = local(&claim, &class, "n1");
        assert!(is_for(claim_of(&made).unwrap(), &claim) && suits(&made, &claim));
        let spec = made.spec.unwrap();
        assert_eq!(spec.host_path.unwrap().path, "/data/pvc-u");
        let terms = spec.node_affinity.unwrap().required.unwrap().node_selector_terms;
        let rule = &terms[0].match_expressions.as_ref().unwrap()[0];
        assert_eq!(rule.values.as_deref(), Some(&["n1".to_owned()][..]));
    }
}
