//! ServiceAccount: every pod runs as an account that is there, with its token and pull secrets.
//!
//! Keeps: the token volume's name is random, so that it never meets a volume of the pod's own; one that is
//! there already (a pod that is copied) is used again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;
use serde_json::{Value, json};

use super::{Attempt, Operation, Plugin};
use crate::auth::tokens::EXPIRATION_OF_PODS;
use crate::error::Status;
use crate::kinds::kind::Stored;
use crate::live::pod::{self, items};
use crate::live::{self, Live};
use crate::object::GroupResource;
use crate::objects::{Object, Objects};

const DEFAULT: &str = "default";
/// How often the default account of a namespace is looked for, and how long between.
const DEFAULT_LOOKS: usize = 20;
const DEFAULT_WAIT: Duration = Duration::from_millis(50);
const VOLUME: &str = "kube-api-access-";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ENFORCE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) struct ServiceAccount {
    live: Arc<Live>,
    objects: Objects,
    accounts: Stored,
}

impl ServiceAccount {
    pub(super) fn new(live: Arc<Live>, objects: Objects) -> ServiceAccount {
        let accounts = live::stored("", "serviceaccounts", "v1", "ServiceAccount");
        ServiceAccount { live, objects, accounts }
    }

    async fn account(&self, attempt: &Attempt<'_>, name: &str) -> Result<Object, Status> {
        let namespace = attempt.namespace;
        // The account that every namespace has is made soon after the namespace: who comes first waits for it.
        let looks = if name == DEFAULT { DEFAULT_LOOKS } else { 1 };
        let mut found = self.live.service_accounts.get(namespace, name);
        for look in 0..looks {
            if found.is_some() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(DEFAULT_WAIT).await;
            }
            found = live::find(&self.objects, &self.accounts, namespace, name).await?;
        }
        found.ok_or_else(|| {
            let missing = Status::not_found(&GroupResource::new("", "serviceaccount"), name);
            attempt.forbidden(&format!(
                "error looking up service account {namespace}/{name}: {}",
                missing.message()
            ))
        })
    }

    async fn fill_in(&self, attempt: &mut Attempt<'_>) -> Result<(), Status> {
        let Some(pod) = attempt.object.as_mut() else { return Ok(()) };
        if pod::is_mirror(pod) {
            return Ok(());
        }
        if text(&pod["spec"]["serviceAccountName"]).is_empty() {
            pod["spec"]["serviceAccountName"] = DEFAULT.into();
        }
        let name = text(&pod["spec"]["serviceAccountName"]).to_owned();
        let account = self.account(attempt, &name).await?;
        let account = account.value()?;
        if let Some(pod) = attempt.object.as_mut() {
            // The older name of the field is kept alike.
            pod["spec"]["serviceAccount"] = name.into();
            if automounts(account, pod) {
                mount_token(pod, || format!("{VOLUME}{}", suffix()));
            }
            let no_pull_secrets = items(&pod["spec"]["imagePullSecrets"]).next().is_none();
            let pull_secrets = &account["imagePullSecrets"];
            if no_pull_secrets && items(pull_secrets).next().is_some() {
                let name = |it: &Value| json!({ "name": it["name"] });
                pod["spec"]["imagePullSecrets"] = items(pull_secrets).map(name).collect();
            }
        }
        Ok(())
    }

    async fn check(&self, attempt: &Attempt<'_>) -> Result<(), Status> {
        let Some(object) = &attempt.object else { return Ok(()) };
        let of_create = attempt.is_create() && attempt.subresource.is_empty();
        if of_create && pod::is_mirror(object) {
            return check_mirror(object).map_err(|why| attempt.forbidden(why));
        }
        let name = text(&object["spec"]["serviceAccountName"]);
        if name.is_empty() {
            let pod = text(&object["metadata"]["name"]);
            let why = format!("no service account specified for pod {}/{pod}", attempt.namespace);
            return Err(attempt.forbidden(&why));
        }
        let account = self.account(attempt, name).await?;
        let account = account.value()?;
        let annotation = text(&account["metadata"]["annotations"][ENFORCE_SECRETS]);
        if !matches!(annotation, "1" | "t" | "T" | "true" | "TRUE" | "True") {
            return Ok(());
        }
        let lists: &[(&str, &str)] = if of_create {
            &[("initContainers", "init container"), ("containers", "container")]
        } else {
            &[("ephemeralContainers", "ephemeral container")]
        };
        check_secrets(account, object, lists, of_create).map_err(|why| attempt.forbidden(&why))
    }
}

fn concerns(attempt: &Attempt<'_>) -> bool {
    let of_pods = attempt.is_below("", "pods");
    match attempt.operation {
        Operation::Create => of_pods && attempt.subresource.is_empty(),
        Operation::Update => of_pods && attempt.subresource == "ephemeralcontainers",
        _ => false,
    }
}

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn mutate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if concerns(attempt) && attempt.is_create() {
                self.fill_in(attempt).await?;
            }
            Ok(())
        })
    }

    fn validate<'a>(&'a self, attempt: &'a mut Attempt<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if concerns(attempt) {
                self.check(attempt).await?;
            }
            Ok(())
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let letter = |_| char::from(LETTERS[random.next_u32() as usize % LETTERS.len()]);
    (0..5).map(letter).collect()
}

fn automounts(account: &Value, pod: &Value) -> bool {
    let own = pod["spec"]["automountServiceAccountToken"].as_bool();
    own.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

/// Mounts the token into each container that mounts nothing there itself.
fn mount_token(pod: &mut Value, fresh_name: impl FnOnce() -> String) {
    let spec = &mut pod["spec"];
    let there = items(&spec["volumes"]).map(|volume| text(&volume["name"]));
    let there = there.filter(|name| name.starts_with(VOLUME)).map(str::to_owned).next();
    let is_there = there.is_some();
    let name = there.unwrap_or_else(fresh_name);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if items(&container["volumeMounts"]).any(|mount| mount["mountPath"] == MOUNT) {
                continue;
            }
            push(
                container,
                "volumeMounts",
                json!({"name": name, "readOnly": true, "mountPath": MOUNT}),
            );
            needed = true;
        }
    }
    if needed && !is_there {
        push(spec, "volumes", token_volume(&name));
    }
}

/// At the end of a list, which is made if it is not there.
fn push(object: &mut Value, list: &str, item: Value) {
    match object[list].as_array_mut() {
        Some(items) => items.push(item),
        None => object[list] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    let namespace = json!({"path": "namespace",
        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let authority = json!({"key": "ca.crt", "path": "ca.crt"});
    let token = json!({"expirationSeconds": EXPIRATION_OF_PODS, "path": "token"});
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": token},
                {"configMap": {"name": "kube-root-ca.crt", "items": [authority]}},
                {"downwardAPI": {"items": [namespace]}},
            ],
        },
    })
}

/// What a node may not claim of a pod that it made itself.
fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    if !text(&pod["spec"]["serviceAccountName"]).is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if !pod::secret_names(pod).is_empty() {
        return Err("a mirror pod may not reference secrets");
    }
    let projected = items(&pod["spec"]["volumes"]).map(|volume| &volume["projected"]["sources"]);
    if projected.flat_map(items).any(|source| source["serviceAccountToken"].is_object()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// An account can be told to let its pods use the secrets alone that it lists.
fn check_secrets(
    account: &Value,
    pod: &Value,
    lists: &[(&str, &str)],
    whole_pod: bool,
) -> Result<(), String> {
    let account_name = text(&account["metadata"]["name"]);
    let listed = |list: &str, name: &str| items(&account[list]).any(|it| it["name"] == name);
    let refuse = |what: String, secret: &str| {
        Err(format!(
            "{what} referencing secret.secretName=\"{secret}\" is not allowed because service \
             account {account_name} does not reference that secret"
        ))
    };
    let spec = &pod["spec"];
    for volume in items(&spec["volumes"]).filter(|_| whole_pod) {
        let secret = text(&volume["secret"]["secretName"]);
        if volume["secret"].is_object() && !listed("secrets", secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account \
                 {account_name} does not reference that secret"
            ));
        }
    }
    for (list, kind) in lists {
        for container in items(&spec[*list]) {
            let name = text(&container["name"]);
            for env in items(&container["env"]) {
                let reference = &env["valueFrom"]["secretKeyRef"];
                let secret = text(&reference["name"]);
                if reference.is_object() && !listed("secrets", secret) {
                    let env = text(&env["name"]);
                    return refuse(format!("{kind} {name} with envVar {env}"), secret);
                }
            }
            for from in items(&container["envFrom"]) {
                let secret = text(&from["secretRef"]["name"]);
                if from["secretRef"].is_object() && !listed("secrets", secret) {
                    return refuse(format!("{kind} {name} with envFrom"), secret);
                }
            }
        }
    }
    for (at, secret) in items(&spec["imagePullSecrets"]).enumerate().filter(|_| whole_pod) {
        let name = text(&secret["name"]);
        if !listed("imagePullSecrets", name) {
            return Err(format!(
                "imagePullSecrets[{at}].name=\"{name}\" is not allowed because service account \
                 {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [
                {"name": "a"},
                {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]},
            ],
        }});
        mount_token(&mut pod, || "kube-api-access-abcde".into());
        let mount = json!({"name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT});
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let sources = &pod["spec"]["volumes"][0]["projected"]["sources"];
        assert_eq!(sources[0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(sources.as_array().unwrap().len(), 3);
        let once = pod.clone();
        mount_token(&mut pod, || unreachable!("the volume is there"));
        assert_eq!(pod, once, "again it changes nothing");
    }

    #[test]
    fn a_pod_without_init_containers_gets_none() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        mount_token(&mut pod, || "kube-api-access-abcde".into());
        assert_eq!(pod["spec"].get("initContainers"), None);
    }

    #[test]
    fn the_pod_decides_before_the_account_whether_to_mount() {
        let no = json!({"automountServiceAccountToken": false});
        assert!(!automounts(&no, &json!({})));
        assert!(automounts(&no, &json!({"spec": {"automountServiceAccountToken": true}})));
        assert!(automounts(&json!({}), &json!({})));
    }

    #[test]
    fn an_account_can_bind_its_pods_to_its_secrets() {
        let account = json!({"metadata": {"name": "bot"}, "secrets": [{"name": "good"}]});
        let check = |spec: Value| {
            let lists = [("containers", "container")];
            check_secrets(&account, &json!({ "spec": spec }), &lists, true)
        };
        assert_eq!(check(json!({"volumes": [{"secret": {"secretName": "good"}}]})), Ok(()));
        assert_eq!(
            check(json!({"containers": [{"name": "c", "env": [
                {"name": "E", "valueFrom": {"secretKeyRef": {"name": "bad"}}},
            ]}]})),
            Err("container c with envVar E referencing secret.secretName=\"bad\" is not allowed \
                 because service account bot does not reference that secret"
                .to_owned())
        );
    }

    #[test]
    fn a_mirror_pod_names_no_secrets() {
        assert_eq!(check_mirror(&json!({"spec": {"containers": []}})), Ok(()));
        let pulls = json!({"spec": {"imagePullSecrets": [{"name": "s"}]}});
        assert_eq!(check_mirror(&pulls), Err("a mirror pod may not reference secrets"));
    }
}
