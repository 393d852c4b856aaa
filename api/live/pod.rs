//! What a pod names: containers, secrets, config maps, claims. Pure walks over the object.

use serde_json::Value;

/// The three lists of containers, in the order in which rules look at them.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The node told the API of this pod; it was not created through it.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// All containers of a pod spec: init, regular, ephemeral.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.into_iter().flat_map(move |list| items(&spec[list]))
}

/// The elements of a list; none if it is not one.
pub fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][MIRROR].is_string()
}

/// Secrets that the pod names, pull secrets first.
#[must_use]
pub fn secret_names(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut names = Names::default();
    items(&spec["imagePullSecrets"]).for_each(|it| names.add(&it["name"]));
    for container in containers(spec) {
        items(&container["envFrom"]).for_each(|it| names.add(&it["secretRef"]["name"]));
        items(&container["env"]).for_each(|it| names.add(&it["valueFrom"]["secretKeyRef"]["name"]));
    }
    for volume in items(&spec["volumes"]) {
        names.add(&volume["azureFile"]["secretName"]);
        names.add(&volume["secret"]["secretName"]);
        names.add(&volume["csi"]["nodePublishSecretRef"]["name"]);
        for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            names.add(&volume[source]["secretRef"]["name"]);
        }
        items(&volume["projected"]["sources"]).for_each(|it| names.add(&it["secret"]["name"]));
    }
    names.0
}

#[must_use]
pub fn config_map_names(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut names = Names::default();
    for container in containers(spec) {
        items(&container["envFrom"]).for_each(|it| names.add(&it["configMapRef"]["name"]));
        items(&container["env"])
            .for_each(|it| names.add(&it["valueFrom"]["configMapKeyRef"]["name"]));
    }
    for volume in items(&spec["volumes"]) {
        names.add(&volume["configMap"]["name"]);
        items(&volume["projected"]["sources"]).for_each(|it| names.add(&it["configMap"]["name"]));
    }
    names.0
}

/// Claims of the pod's volumes; one that is made for the pod alone is named after both.
#[must_use]
pub fn claim_names(pod: &Value) -> Vec<String> {
    let mut names = Names::default();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    for volume in items(&pod["spec"]["volumes"]) {
        names.add(&volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            let volume = volume["name"].as_str().unwrap_or_default();
            names.0.push(format!("{pod_name}-{volume}"));
        }
    }
    names.0
}

/// Resource claims that the pod names, or that were made for it as its status tells.
#[must_use]
pub fn resource_claim_names(pod: &Value) -> Vec<String> {
    let mut names = Names::default();
    let made = &pod["status"]["resourceClaimStatuses"];
    for claim in items(&pod["spec"]["resourceClaims"]) {
        names.add(&claim["resourceClaimName"]);
        if claim["resourceClaimTemplateName"].is_string() {
            items(made)
                .filter(|it| it["name"] == claim["name"])
                .for_each(|it| names.add(&it["resourceClaimName"]));
        }
    }
    names.add(&pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    names.0
}

#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn add(&mut self, name: &Value) {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            self.0.push(name.to_owned());
        }
    }
}
